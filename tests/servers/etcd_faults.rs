//! etcd hangs, dies, comes late: DHCP does not notice, and what changed meanwhile is written afterwards.

use std::time::Duration;

use serde_json::json;

use crate::client4::Client4;
use crate::etcd::{Etcd, LEASES};
use crate::kea::{Family, Kea, Wanted};
use crate::mirrored::assert_mirrored;
use crate::ports;

/// The slowest of `exchanges` four-way exchanges one after another, and each a client of its own.
fn slowest(client: &mut Client4, first: u32, exchanges: u32) -> Duration {
    (first..first + exchanges)
        .map(|number| {
            client.become_client(number);
            client.take_timed()
        })
        .max()
        .unwrap()
}

fn hung(threads: bool) {
    let etcd = Etcd::start();
    let kea = Kea::start(&Wanted::new(Family::V4, &etcd.url()).threads(threads));
    let mut client = Client4::new(&kea, 1, 0);
    let before = slowest(&mut client, 0, 50);
    assert_mirrored(&kea, &etcd);
    etcd.hang();
    let during = slowest(&mut client, 1000, 300);
    println!("threads {threads}: slowest answer of 50 before {before:?}, of 300 while etcd hangs {during:?}");
    // The promise is 100 ms; what makes a test machine slow is not ours, a wait for etcd would be seconds.
    assert!(during < Duration::from_secs(1), "{during:?}");
    etcd.resume();
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 350);
}

#[test]
fn three_hundred_exchanges_while_etcd_hangs() {
    hung(false);
}

#[test]
fn three_hundred_exchanges_while_etcd_hangs_with_packet_threads() {
    hung(true);
}

#[test]
fn etcd_is_killed_and_comes_back() {
    let mut etcd = Etcd::start();
    let mut kea = Kea::start(&Wanted::new(Family::V4, &etcd.url()));
    let mut client = Client4::new(&kea, 1, 0);
    slowest(&mut client, 0, 50);
    assert_mirrored(&kea, &etcd);
    etcd.kill();
    let during = slowest(&mut client, 1000, 200);
    println!("slowest answer of 200 while etcd is dead {during:?}");
    assert!(during < Duration::from_secs(1), "{during:?}");
    kea.wait_log("ETCD_UNREACHABLE", 1);
    etcd.restart();
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 250);
    kea.wait_log("ETCD_CONNECTED", 2);
    assert_eq!(kea.log().matches("ETCD_UNREACHABLE").count(), 1, "one line, not one an attempt");
}

#[test]
fn without_etcd_kea_starts_serves_reloads_and_stops() {
    let url = format!("http://127.0.0.1:{}", ports::free());
    let mut kea = Kea::start(&Wanted::new(Family::V4, &url));
    let mut client = Client4::new(&kea, 1, 0);
    slowest(&mut client, 0, 20);
    kea.ask("config-reload", &json!(null));
    slowest(&mut client, 100, 20);
    let (status, took) = kea.stop();
    assert!(status.success(), "{status}");
    println!("stopped without etcd in {took:?}");
    assert!(took < Duration::from_secs(3 + 1), "flush-timeout and a second: {took:?}");
}

#[test]
fn with_a_hung_etcd_kea_stops_within_flush_timeout_and_a_second() {
    let etcd = Etcd::start();
    let mut kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()).parameter("flush-timeout", json!(1500)));
    etcd.hang();
    slowest(&mut Client4::new(&kea, 1, 0), 0, 20);
    let (status, took) = kea.stop();
    etcd.resume();
    assert!(status.success(), "{status}");
    println!("stopped with a hung etcd in {took:?}");
    assert!(took < Duration::from_millis(1500 + 1000), "{took:?}");
}

#[test]
fn a_hanging_member_is_left_for_another() {
    let (hanging, healthy) = (Etcd::start(), Etcd::start());
    // Two single servers stand in for two members: only which one is written to matters here.
    let wanted = Wanted::new(Family::V4, "")
        .parameter("endpoints", json!([hanging.url(), healthy.url()]))
        .parameter("request-timeout", json!(500));
    let mut kea = Kea::start(&wanted);
    let client = Client4::new(&kea, 1, 1);
    client.take();
    assert_mirrored(&kea, &hanging);
    hanging.hang();
    client.renew(client.take());
    assert_mirrored(&kea, &healthy);
    kea.wait_log("ETCD_MEMBER_FAILED", 1);
    hanging.resume();
}

#[test]
fn somebody_elses_writes_do_not_keep_ours_out() {
    let etcd = Etcd::start();
    let kea = Kea::start(&Wanted::new(Family::V4, &etcd.url()));
    let mut client = Client4::new(&kea, 1, 1);
    let address = client.take();
    assert_mirrored(&kea, &etcd);
    let key = format!("{LEASES}{address}");
    for junk in ["no json", "{}", "[1,2]", ""] {
        etcd.ctl(&["put", &key, "--", junk]);
        client.renew(address);
        assert_mirrored(&kea, &etcd);
    }
    etcd.ctl(&["del", &key]);
    client.renew(address);
    assert_mirrored(&kea, &etcd);
    // And not the other 127 operations of a batch.
    etcd.hang();
    for number in 100..160 {
        client.become_client(number);
        client.take();
    }
    etcd.resume();
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 61);
}

#[test]
fn a_full_queue_is_counted_and_told_once() {
    let etcd = Etcd::start();
    let mut kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()).parameter("queue-size", json!(10)));
    etcd.hang();
    let mut client = Client4::new(&kea, 1, 0);
    let during = slowest(&mut client, 0, 60);
    println!("slowest answer with a full queue {during:?}");
    kea.wait_log("ETCD_QUEUE_OVERFLOW", 1);
    etcd.resume();
    kea.wait_log("everything is compared", 1);
    // Ten wait to be read, ten are read, and at most ten are with the worker; what a comparison finds may find no room as well.
    let dropped = kea.statistic("etcd-queue-overflows");
    assert!(dropped >= 30, "{dropped}");
    // What was dropped is found.
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 60);
    kea.assert_alive();
}
