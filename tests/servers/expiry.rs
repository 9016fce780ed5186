//! Records vanish by themselves when no server is left to remove them: they hang on etcd leases, many on each.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use dhcproto::v4::DhcpOption;
use serde_json::{Value, json};

use crate::client4::{Client4, take};
use crate::client6::{Client6, ia_na, ia_pd};
use crate::etcd::{Etcd, LEASES};
use crate::kea::{Family, Kea, Wanted};
use crate::mirrored::assert_mirrored;
use crate::tcp_link::{Mode, TcpLink};

/// Thirty days: a window is 36 hours then, so whatever a test writes falls into one, or into two at its edge.
const LONG: u32 = 30 * 86_400;

/// The etcd lease of each record (0 for none), by address.
fn etcd_leases(etcd: &Etcd) -> BTreeMap<String, i64> {
    let records = etcd.hanging(LEASES).into_iter();
    records.map(|(key, (_, etcd_lease))| (key.strip_prefix(LEASES).unwrap().into(), etcd_lease)).collect()
}

/// The etcd leases that exist, without those of servers' presence.
fn for_records(etcd: &Etcd) -> BTreeSet<i64> {
    let sessions: BTreeSet<i64> = etcd.hanging("/nnoe/dhcp/servers/").into_values().map(|(_, lease)| lease).collect();
    etcd.etcd_leases().difference(&sessions).copied().collect()
}

/// When an etcd lease ends, seconds since the epoch: what the low bits of its id tell.
fn end(etcd_lease: i64) -> i64 {
    etcd_lease & ((1 << 38) - 1)
}

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

/// Sets a parameter of the library in a running server.
fn set(kea: &Kea, name: &str, value: Value) {
    let mut config = kea.config();
    config["Dhcp4"]["hooks-libraries"][1]["parameters"][name] = value;
    kea.ask("config-set", &config);
}

#[test]
fn records_share_etcd_leases_that_end_after_them() {
    for family in [Family::V4, Family::V6] {
        let etcd = Etcd::start();
        let kea = Kea::start(&Wanted::new(family, &etcd.url()).more(json!({ "valid-lifetime": LONG })));
        if family == Family::V4 {
            take(&kea, 0..30);
        } else {
            let mut client = Client6::new(&kea, 0);
            for number in 0..15 {
                client.become_client(number);
                client.take(&[ia_na(1), ia_pd(2)]);
            }
        }
        let records = assert_mirrored(&kea, &etcd);
        assert_eq!(records.len(), 30);
        let hang_on = etcd_leases(&etcd);
        for (address, record) in &records {
            let later = end(hang_on[address]) - (record["expires_at"].as_i64().unwrap() + 120);
            assert!((0..=i64::from(LONG) / 16 + 32).contains(&later), "{address} goes {later} s after its time");
        }
        let used: BTreeSet<i64> = hang_on.into_values().collect();
        assert!(used.len() <= 2, "{used:?}");
        assert_eq!(for_records(&etcd), used);
    }
}

#[test]
fn the_record_of_a_lease_without_an_end_stays() {
    let etcd = Etcd::start();
    let kea = Kea::start(&Wanted::new(Family::V4, &etcd.url()).more(json!({ "valid-lifetime": u32::MAX })));
    take(&kea, 0..2);
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 2);
    assert!(etcd_leases(&etcd).into_values().all(|etcd_lease| etcd_lease == 0));
    assert!(for_records(&etcd).is_empty());
}

#[test]
fn no_record_vanishes_when_that_is_not_wanted() {
    let etcd = Etcd::start();
    let kea = Kea::start(&Wanted::new(Family::V4, &etcd.url()).parameter("expire-keys", json!(false)));
    take(&kea, 0..5);
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 5);
    assert!(etcd_leases(&etcd).into_values().all(|etcd_lease| etcd_lease == 0));
    assert!(for_records(&etcd).is_empty());
}

/// A server whose clients get the lifetime that they ask for.
fn of_any_lifetime(etcd: &Etcd) -> Kea {
    let more = json!({ "min-valid-lifetime": 60, "max-valid-lifetime": LONG });
    Kea::start(&Wanted::new(Family::V4, &etcd.url()).more(more))
}

fn ask_for(client: &mut Client4, lifetime: u32) {
    client.options = vec![DhcpOption::AddressLeaseTime(lifetime)];
}

#[test]
fn a_renewed_record_moves_to_a_later_etcd_lease() {
    let etcd = Etcd::start();
    let kea = of_any_lifetime(&etcd);
    let mut client = Client4::new(&kea, 1, 1);
    ask_for(&mut client, 600);
    let address = client.take();
    assert_mirrored(&kea, &etcd);
    let mut before = etcd_leases(&etcd)[&address.to_string()];
    for lifetime in [7200, 86_400] {
        ask_for(&mut client, lifetime);
        client.renew(address);
        let record = &assert_mirrored(&kea, &etcd)[&address.to_string()];
        assert_eq!(record["valid_lft"], lifetime);
        let after = etcd_leases(&etcd)[&address.to_string()];
        assert!(end(after) > end(before), "{} after {}", end(after), end(before));
        assert!(end(after) >= record["expires_at"].as_i64().unwrap() + 120);
        before = after;
    }
}

#[test]
fn records_of_a_server_that_never_comes_back_vanish() {
    let etcd = Etcd::start();
    // Kea itself reclaims nothing, and the time is enough on a slow machine: the records are there when it is killed.
    let more = json!({ "valid-lifetime": 8, "expired-leases-processing": { "reclaim-timer-wait-time": 0 } });
    let wanted = Wanted::new(Family::V4, &etcd.url()).more(more);
    let wanted = wanted.parameter("expire-grace", json!(1)).parameter("index", json!(["hw-address"]));
    let mut kea = Kea::start_connected(&wanted);
    let endless =
        json!({ "ip-address": "10.0.0.9", "hw-address": "0a:00:00:00:00:09", "subnet-id": 7, "valid-lft": u32::MAX });
    kea.ask("lease4-add", &endless);
    take(&kea, 0..5);
    let mut records = assert_mirrored(&kea, &etcd);
    kea.signal("KILL");
    kea.wait_end();
    records.remove("10.0.0.9");
    assert_eq!(records.len(), 5);
    let ends = |record: &Value| record["expires_at"].as_i64().unwrap() + 1;
    for (address, etcd_lease) in etcd_leases(&etcd) {
        let Some(record) = records.get(&address) else { continue };
        let later = end(etcd_lease) - ends(record);
        assert!((0..=32).contains(&later), "{address} is to go {later} s after its time");
    }
    let last = records.values().map(ends).max().unwrap();
    etcd.wait("only the record without an end", |etcd| {
        let left = etcd.values();
        for (address, record) in &records {
            assert!(left.contains_key(address) || now() >= ends(record), "{address} is gone too early");
        }
        left.len() == 1
    });
    println!("gone {} s after the last one's time", now() - last);
    assert!(etcd.values().contains_key("10.0.0.9"));
    let index: Vec<String> = etcd.range("/nnoe/dhcp/index/").into_keys().collect();
    assert_eq!(index, ["/nnoe/dhcp/index/hw-address/0a:00:00:00:00:09/10.0.0.9"]);
}

#[test]
fn records_whose_etcd_lease_is_revoked_come_back_while_kea_holds_the_leases() {
    let etcd = Etcd::start();
    let kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()));
    take(&kea, 0..300);
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 300);
    kea.wait_statistic("etcd-resyncs", 1);
    for _ in 0..2 {
        for etcd_lease in for_records(&etcd) {
            etcd.ctl(&["lease", "revoke", &format!("{etcd_lease:x}")]);
        }
        assert_eq!(assert_mirrored(&kea, &etcd).len(), 300);
        assert!(etcd_leases(&etcd).into_values().all(|etcd_lease| etcd_lease != 0));
    }
    assert_eq!(kea.statistic("etcd-resyncs"), 1, "the watch saw it, no comparison was needed");
    // The next change finds that its etcd lease is gone before anything else does.
    for etcd_lease in for_records(&etcd) {
        etcd.ctl(&["lease", "revoke", &format!("{etcd_lease:x}")]);
    }
    take(&kea, 1000..1010);
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 310);
}

/// One after another, over a link of 40 ms, the etcd leases of one transaction would take longer than a request may.
#[test]
fn many_etcd_leases_are_granted_at_once() {
    let etcd = Etcd::start();
    let link = TcpLink::to(etcd.port());
    let kea = Kea::start_connected(&Wanted::new(Family::V4, &link.url()).parameter("request-timeout", json!(2500)));
    link.set(Mode::Cut);
    let mut lifetime = 60;
    for number in 0..60 {
        let lease = json!({
            "ip-address": format!("10.0.0.{number}"), "hw-address": format!("0a:00:00:00:00:{number:02x}"),
            "subnet-id": 7, "valid-lft": lifetime,
        });
        kea.ask("lease4-add", &lease);
        lifetime += lifetime / 5;
    }
    link.set(Mode::Slow);
    etcd.wait("every record", |etcd| etcd.values().len() == 60);
    link.set(Mode::Whole);
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 60);
    assert!(for_records(&etcd).len() > 40, "{}", for_records(&etcd).len());
}

#[test]
fn records_outlive_a_restart_of_etcd_and_go_on_moving() {
    let mut etcd = Etcd::start();
    let kea = of_any_lifetime(&etcd);
    let mut client = Client4::new(&kea, 1, 1);
    ask_for(&mut client, 7200);
    let address = client.take();
    let records = assert_mirrored(&kea, &etcd);
    let before = etcd_leases(&etcd);
    etcd.kill();
    etcd.restart();
    assert_eq!(assert_mirrored(&kea, &etcd), records);
    assert_eq!(etcd_leases(&etcd), before);
    ask_for(&mut client, 86_400);
    client.renew(address);
    assert_mirrored(&kea, &etcd);
    let (before, after) = (before[&address.to_string()], etcd_leases(&etcd)[&address.to_string()]);
    assert!(end(after) > end(before), "{} after {}", end(after), end(before));
}

#[test]
fn switching_the_parameter_moves_every_record() {
    let etcd = Etcd::start();
    let kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()));
    take(&kea, 0..200);
    let records = assert_mirrored(&kea, &etcd);
    assert_eq!(records.len(), 200);
    for on in [false, true] {
        set(&kea, "expire-keys", json!(on));
        etcd.wait("every record moved", |etcd| {
            etcd_leases(etcd).into_values().all(|etcd_lease| (etcd_lease != 0) == on)
        });
        assert_eq!(assert_mirrored(&kea, &etcd), records, "their text stays as it is");
    }
    set(&kea, "expire-grace", json!(50_000));
    etcd.wait("every record moved", |etcd| {
        let hang_on = etcd_leases(etcd);
        records.iter().all(|(address, record)| end(hang_on[address]) >= record["expires_at"].as_i64().unwrap() + 50_000)
    });
    assert_eq!(assert_mirrored(&kea, &etcd), records);
}

#[test]
fn a_server_that_starts_again_goes_on_with_its_etcd_leases() {
    let etcd = Etcd::start();
    let mut kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()).more(json!({ "valid-lifetime": LONG })));
    take(&kea, 0..20);
    assert_mirrored(&kea, &etcd);
    for restart in 1..=3 {
        let (records, hang_on) = (etcd.records(), etcd_leases(&etcd));
        kea.stop();
        kea.restart();
        kea.wait_log("ETCD_RESYNC", restart + 1);
        assert_eq!(etcd_leases(&etcd), hang_on);
        assert_eq!(etcd.records(), records);
        let number = u32::try_from(restart).unwrap();
        take(&kea, number * 100..number * 100 + 5);
        assert_mirrored(&kea, &etcd);
        assert!(for_records(&etcd).len() <= 2, "{:?}", for_records(&etcd));
    }
}
