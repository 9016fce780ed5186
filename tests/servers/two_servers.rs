//! Two servers on one prefix, each at times cut off: newer news stays, and nobody removes what another keeps.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::comparison::{assert_verified, resync};
use crate::etcd::Etcd;
use crate::kea::{Family, Kea, Wanted};
use crate::tcp_link::{Mode, TcpLink};

/// Two kea-dhcp4 that hold leases of the same addresses, as an HA pair does; the second one's link can be cut.
fn pair(etcd: &Etcd) -> (Kea, Kea, TcpLink) {
    let link = TcpLink::to(etcd.port());
    let start = |name: &str, url: String| {
        let wanted = Wanted::new(Family::V4, &url).parameter("server-name", json!(name));
        Kea::start_connected(&wanted.parameter("request-timeout", json!(500)))
    };
    (start("a", etcd.url()), start("b", link.url()), link)
}

fn lease(client: u8, cltt: u64) -> Value {
    // lease4-add tells the end; cltt is that minus the lifetime.
    json!({
        "ip-address": "10.0.1.5", "hw-address": format!("0a:00:00:00:00:{client:02x}"), "subnet-id": 7,
        "valid-lft": 3600, "expire": cltt + 3600,
    })
}

fn now() -> u64 {
    u64::try_from(crate::journal::now()).unwrap()
}

fn wait_record(etcd: &Etcd, wanted: impl Fn(Option<&Value>) -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let records = etcd.records();
        if wanted(records.get("10.0.1.5")) {
            return;
        }
        assert!(Instant::now() < until, "{records:#?}");
        sleep(Duration::from_millis(20));
    }
}

fn of(record: Option<&Value>, server: &str, client: u8) -> bool {
    record
        .is_some_and(|record| record["server"] == server && record["hwaddr"] == format!("0a:00:00:00:00:{client:02x}"))
}

#[test]
fn old_news_that_was_held_up_does_not_replace_newer() {
    let etcd = Etcd::start();
    let (a, b, link) = pair(&etcd);
    link.set(Mode::Cut);
    let time = now();
    b.ask("lease4-add", &lease(2, time - 100));
    a.ask("lease4-add", &lease(1, time - 50));
    wait_record(&etcd, |record| of(record, "a", 1));
    link.set(Mode::Whole);
    let until = Instant::now() + Duration::from_secs(30);
    while b.ask("etcd-status", &Value::Null)["unwritten"] != 0 || b.statistic("etcd-writes") != 0 {
        assert!(Instant::now() < until);
        sleep(Duration::from_millis(50));
    }
    b.ask("etcd-resync", &Value::Null);
    assert_verified(&b);
    wait_record(&etcd, |record| of(record, "a", 1));
    // And the newer one does replace.
    b.ask("lease4-update", &lease(2, time));
    wait_record(&etcd, |record| of(record, "b", 2));
    assert_verified(&a);
}

#[test]
fn a_removal_that_was_held_up_removes_only_the_lease_that_it_is_about() {
    let etcd = Etcd::start();
    let (a, b, link) = pair(&etcd);
    let time = now();
    b.ask("lease4-add", &lease(1, time - 100));
    wait_record(&etcd, |record| of(record, "b", 1));
    link.set(Mode::Cut);
    b.ask("lease4-del", &json!({ "ip-address": "10.0.1.5" }));
    a.ask("lease4-add", &lease(2, time - 50));
    wait_record(&etcd, |record| of(record, "a", 2));
    link.set(Mode::Whole);
    // What is written after it was written before: b does one thing after the other.
    b.ask("lease4-add", &json!({ "ip-address": "10.0.1.6", "hw-address": "0a:00:00:00:00:09", "subnet-id": 7 }));
    let until = Instant::now() + Duration::from_secs(30);
    while !etcd.records().contains_key("10.0.1.6") {
        assert!(Instant::now() < until);
        sleep(Duration::from_millis(20));
    }
    assert_verified(&b);
    wait_record(&etcd, |record| of(record, "a", 2));
}

#[test]
fn partners_that_hold_the_same_lease_do_not_write_over_each_other_for_ever() {
    let etcd = Etcd::start();
    let (a, b, _link) = pair(&etcd);
    let time = now();
    a.ask("lease4-add", &lease(1, time));
    b.ask("lease4-add", &lease(1, time));
    wait_record(&etcd, |record| record.is_some());
    sleep(Duration::from_millis(2500));
    let written = a.statistic("etcd-writes") + b.statistic("etcd-writes");
    for kea in [&a, &b] {
        assert_verified(kea);
        resync(kea);
    }
    sleep(Duration::from_millis(2500));
    let later = a.statistic("etcd-writes") + b.statistic("etcd-writes");
    assert_eq!(written, later, "nothing changed, so nothing is written");
    // The lease ends through one, then through the other, as partners tell each other.
    b.ask("lease4-del", &json!({ "ip-address": "10.0.1.5" }));
    a.ask("lease4-del", &json!({ "ip-address": "10.0.1.5" }));
    wait_record(&etcd, |record| record.is_none());
    sleep(Duration::from_millis(1500));
    wait_record(&etcd, |record| record.is_none());
}

#[test]
fn a_name_that_two_servers_share_is_told_and_does_not_flood() {
    let etcd = Etcd::start();
    let start = || {
        let mut kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()));
        kea.ask("lease4-add", &lease(1, now()));
        kea.wait_log("ETCD_RESYNC", 1);
        kea
    };
    let (mut first, second) = (start(), start());
    let until = Instant::now() + Duration::from_secs(30);
    let told = |kea: &Kea| kea.log().contains("ETCD_NAME_TAKEN");
    while !told(&first) && !told(&second) {
        assert!(Instant::now() < until, "{}", first.log());
        first.ask("lease4-update", &lease(1, now()));
        second.ask("lease4-update", &lease(1, now()));
        sleep(Duration::from_millis(50));
    }
    sleep(Duration::from_secs(2));
    for kea in [&first, &second] {
        assert!(kea.log().matches("ETCD_NAME_TAKEN").count() <= 1, "{}", kea.log());
        // Each takes the session back a few times in these seconds, not hundreds of times.
        assert!(kea.log().matches("ETCD_CONNECTED").count() < 40, "{}", kea.log());
    }
    first.assert_alive();
}

#[test]
fn one_conflict_does_not_make_a_batch_slow() {
    let etcd = Etcd::start();
    let (a, _b, _link) = pair(&etcd);
    etcd.hang();
    for n in 0..250 {
        let lease = json!({ "ip-address": format!("10.0.1.{n}"), "hw-address": "0a:00:00:00:00:01", "subnet-id": 7 });
        a.ask("lease4-add", &lease);
    }
    etcd.resume();
    let until = Instant::now() + Duration::from_secs(30);
    while etcd.records().len() < 250 {
        assert!(Instant::now() < until, "{}", a.log());
        sleep(Duration::from_millis(20));
    }
    // What a is to change next is changed by somebody else meanwhile.
    etcd.hang();
    for n in 0..250 {
        let lease = json!({ "ip-address": format!("10.0.1.{n}"), "hw-address": "0a:00:00:00:00:02", "subnet-id": 7 });
        a.ask("lease4-update", &lease);
    }
    etcd.resume();
    etcd.ctl(&["put", "/nnoe/dhcp/leases/10.0.1.7", "somebody else's"]);
    let until = Instant::now() + Duration::from_secs(30);
    while !etcd.records().values().all(|record| record["hwaddr"] == "0a:00:00:00:00:02") {
        assert!(Instant::now() < until, "{}", a.log());
        sleep(Duration::from_millis(20));
    }
    // One more round for its batch, not one for each of its operations.
    assert!(a.statistic("etcd-conflicts") <= 2, "{}", a.statistic("etcd-conflicts"));
}
