//! Dozens of clients after one to three addresses, on four packet threads: release by one client and assignment to
//! another race, and their callouts can run in the opposite order of their writes. Declines, expiry and reuse come in
//! between, and in the end the records are what Kea holds.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::client4::Client4;
use crate::etcd::Etcd;
use crate::kea::{Family, Kea, Wanted};
use crate::mirrored::assert_mirrored;

fn pass_around(addresses: u8) {
    let etcd = Etcd::start();
    let subnet = json!([{
        "id": 7, "subnet": "10.0.0.0/16", "pools": [{ "pool": format!("10.0.1.1 - 10.0.1.{addresses}") }],
        "relay": { "ip-addresses": (1..=100).map(|n| format!("127.0.1.{n}")).collect::<Vec<_>>() },
    }]);
    let more = json!({
        "subnet4": subnet, "valid-lifetime": 2, "decline-probation-period": 1,
        "expired-leases-processing": { "reclaim-timer-wait-time": 1, "flush-reclaimed-timer-wait-time": 1, "hold-reclaimed-time": 1 },
    });
    let kea = Kea::start(&Wanted::new(Family::V4, &etcd.url()).threads(true).more(more));
    let changes = AtomicU32::new(0);
    // Thousands of changes take some ten seconds; a machine that is too busy for that many makes fewer.
    let until = Instant::now() + Duration::from_secs(40);
    std::thread::scope(|scope| {
        for number in 1..=36 {
            let client = Client4::new(&kea, number, u32::from(number));
            let changes = &changes;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(u64::from(number));
                while changes.load(Ordering::Relaxed) < 2500 && Instant::now() < until {
                    // No offer and a NAK are right answers while others hold all of them.
                    let Some(offer) = client.try_discover(Duration::from_millis(50)) else { continue };
                    let Some(address) = client.try_request_within(&offer, Duration::from_secs(2)) else { continue };
                    changes.fetch_add(1, Ordering::Relaxed);
                    match random.u8(..100) {
                        // Left to expire, and to be used again.
                        0..2 => continue,
                        2 => client.decline(address),
                        3..30 => {
                            client.try_renew(address, Duration::from_secs(2));
                            client.release(address);
                            changes.fetch_add(2, Ordering::Relaxed);
                        }
                        _ => client.release(address),
                    }
                    changes.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    println!("{} changes of {addresses} addresses", changes.load(Ordering::Relaxed));
    assert!(changes.load(Ordering::Relaxed) > 100);
    assert_mirrored(&kea, &etcd);
    assert_eq!(kea.statistic("etcd-queue-overflows"), 0);
}

#[test]
fn one_address_passed_around_by_36_clients_ends_right() {
    pass_around(1);
}

#[test]
fn two_addresses_passed_around_by_36_clients_end_right() {
    pass_around(2);
}

#[test]
fn three_addresses_passed_around_by_36_clients_end_right() {
    pass_around(3);
}
