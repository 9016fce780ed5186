//! The watch on the records, which ends while a server writes alone.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::client4::{Client4, take};
use crate::etcd::{Etcd, LEASES};
use crate::kea::{Family, Kea, Wanted};
use crate::metrics::metric_of;
use crate::mirrored::assert_mirrored;
use crate::tcp_link::{Mode, TcpLink};

/// Those of a server at rest: on its records and, as long as the connection stands, on its presence key.
const AT_REST: i64 = 2;

/// How many watches etcd has.
fn watches(etcd: &Etcd) -> i64 {
    metric_of(etcd, "etcd_debugging_mvcc_watcher_total")
}

#[test]
fn what_others_change_while_a_server_writes_alone_is_noticed() {
    let etcd = Etcd::start();
    let mut kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()));
    kea.wait_log("ETCD_RESYNC", 1);
    let addresses = take(&kea, 0..2);
    assert_mirrored(&kea, &etcd);
    etcd.wait("a watch on the records", |etcd| watches(etcd) == AT_REST);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = Client4::new(&kea, 1, 0);
            for number in 2..50_000 {
                client.become_client(number);
                client.take();
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        for address in addresses {
            etcd.wait("no watch on the records", |etcd| watches(etcd) < AT_REST);
            let key = format!("{LEASES}{address}");
            etcd.ctl(&["del", &key]);
            etcd.wait("the record again", |etcd| etcd.ctl(&["get", "--keys-only", &key]).contains(&key));
        }
        is_over.store(true, Ordering::Relaxed);
    });
    etcd.wait("a watch on the records again", |etcd| watches(etcd) == AT_REST);
    let records = assert_mirrored(&kea, &etcd);
    let (address, _) = records.first_key_value().unwrap();
    etcd.ctl(&["del", &format!("{LEASES}{address}")]);
    assert_mirrored(&kea, &etcd);
    assert_eq!(kea.statistic("etcd-resyncs"), 1, "the watch saw it, no comparison was needed");
}

#[test]
fn a_removal_up_to_which_etcd_was_compacted_meanwhile_is_noticed() {
    let etcd = Etcd::start();
    let link = TcpLink::to(etcd.port());
    let mut kea = Kea::start_connected(&Wanted::new(Family::V4, &link.url()));
    kea.wait_log("ETCD_RESYNC", 1);
    let addresses = take(&kea, 0..2);
    assert_mirrored(&kea, &etcd);
    etcd.wait("a watch on the records", |etcd| watches(etcd) == AT_REST);
    link.set(Mode::Cut);
    etcd.ctl(&["del", &format!("{LEASES}{}", addresses[0])]);
    // Some versions of etcd forget the removal then, and tell of nothing to whoever watches from there.
    etcd.compact();
    link.set(Mode::Whole);
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 2);
}
