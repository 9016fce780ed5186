//! Reloads of every kind while clients come: no crash, no thread left, no change lost.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use crate::client4::Client4;
use crate::client6::{Client6, ia_na, ia_pd};
use crate::etcd::Etcd;
use crate::kea::{Family, Kea, Wanted};
use crate::mirrored::assert_mirrored;

fn under_load(threads: bool) {
    let etcd = Etcd::start();
    let mut kea = Kea::start(&Wanted::new(Family::V4, &etcd.url()).threads(threads));
    let (stop, taken) = (AtomicBool::new(false), AtomicU32::new(0));
    let reloads = std::thread::scope(|scope| {
        for relay in 1..=4 {
            let mut client = Client4::new(&kea, relay, 0);
            let (stop, taken) = (&stop, &taken);
            scope.spawn(move || {
                let mut number = u32::from(relay) * 100_000;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    client.become_client(number);
                    // A packet that comes while Kea closes its sockets is lost: clients send again.
                    let Some(offer) = client.try_discover(Duration::from_millis(500)) else { continue };
                    if client.try_request_within(&offer, Duration::from_millis(500)).is_some() {
                        taken.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let config = kea.config();
        let mut reloads = 1;
        for _ in 0..4 {
            kea.ask("config-reload", &json!(null));
            sleep(Duration::from_millis(100));
            kea.ask("config-set", &config);
            sleep(Duration::from_millis(100));
            kea.reload_libraries();
            sleep(Duration::from_millis(100));
            kea.signal("HUP");
            sleep(Duration::from_millis(300));
            reloads += 4;
        }
        stop.store(true, Ordering::Relaxed);
        reloads
    });
    kea.assert_alive();
    println!("threads {threads}: {} leases through {reloads} loads", taken.load(Ordering::Relaxed));
    assert!(taken.load(Ordering::Relaxed) > 50);
    kea.wait_log("ETCD_LOADED", reloads);
    kea.wait_log("ETCD_UNLOADED", reloads - 1);
    assert_mirrored(&kea, &etcd);
    let threads = kea.threads();
    let (workers, keas): (Vec<_>, Vec<_>) = threads.iter().partition(|(name, _)| name == "dhcp-etcd");
    let [(_, worker)] = workers[..] else { panic!("one worker: {threads:?}") };
    // 19 is the nicest that there is.
    assert!(keas.iter().all(|(_, nice)| (nice + 5).min(19) == *worker), "it gives way to Kea's threads: {threads:?}");
    assert!(!kea.log().contains("ETCD_BUG"));
    let (status, _) = kea.stop();
    assert!(status.success(), "{status}");
}

#[test]
fn reloads_under_load() {
    under_load(false);
}

#[test]
fn reloads_under_load_with_packet_threads() {
    under_load(true);
}

#[test]
fn changes_that_no_reload_could_write_are_written_when_etcd_is_back() {
    let mut etcd = Etcd::start();
    let kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()).parameter("flush-timeout", json!(200)));
    etcd.kill();
    let mut client = Client4::new(&kea, 1, 0);
    for number in 1..=3 {
        client.become_client(number);
        client.take();
        if number == 2 {
            kea.reload_libraries();
        } else {
            kea.ask("config-reload", &json!(null));
        }
    }
    etcd.restart();
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 3);
}

#[test]
fn everything_is_written_before_kea_ends() {
    let etcd = Etcd::start();
    let mut kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()));
    etcd.hang();
    let mut client = Client4::new(&kea, 1, 0);
    for number in 0..200 {
        client.become_client(number);
        client.take();
    }
    ends_with(&mut kea, &etcd, 200);
}

/// What was committed last is not read any more when Kea ends: no turn of its main loop comes between.
#[test]
fn everything_is_written_before_kea6_ends() {
    let etcd = Etcd::start();
    let mut kea = Kea::start_connected(&Wanted::new(Family::V6, &etcd.url()).threads(true));
    etcd.hang();
    let mut client = Client6::new(&kea, 0);
    for number in 0..50 {
        client.become_client(number);
        client.take(&[ia_na(1), ia_pd(2)]);
    }
    ends_with(&mut kea, &etcd, 100);
}

/// Ends the server, whose etcd hangs, and expects that no record is missing then, and that each is right.
fn ends_with(kea: &mut Kea, etcd: &Etcd, records: usize) {
    kea.signal("TERM");
    sleep(Duration::from_millis(500));
    etcd.resume();
    kea.wait_end();
    assert_eq!(etcd.records().len(), records);
    kea.restart();
    assert_mirrored(kea, etcd);
    kea.wait_statistic("etcd-resyncs", 1);
    let found = &kea.ask("etcd-status", &json!(null))["last-resync"];
    assert_eq!((&found["missing"], &found["different"], &found["extra"]), (&json!(0), &json!(0), &json!(0)), "{found}");
}
