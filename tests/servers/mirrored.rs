//! The invariant: etcd holds exactly Kea's lease database, field by field.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::etcd::Etcd;
use crate::kea::Kea;
use crate::records::{self, assert_form, expected};

/// Waits until etcd holds exactly Kea's leases; the records then, by address.
pub fn assert_mirrored(kea: &Kea, etcd: &Etcd) -> BTreeMap<String, Value> {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let records = etcd.records();
        match difference(&[kea], &records) {
            None => {
                for (address, text) in etcd.values() {
                    assert_form(&address, &text);
                }
                return records;
            }
            Some(difference) => assert!(Instant::now() < until, "{difference}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until etcd holds Kea's leases and the one of `address` has ended, which Kea is not to reclaim; how it came and through
/// which relay its record says then as ever.
pub fn assert_told(kea: &Kea, etcd: &Etcd, address: &str, operation: &str, relay: &str) {
    assert_mirrored(kea, etcd);
    // What comes late would say something else of the same lease.
    std::thread::sleep(Duration::from_millis(3100));
    let record = &assert_mirrored(kea, etcd)[address];
    assert_eq!((&record["operation"], &record["relay_ip"]), (&operation.into(), &relay.into()), "{record}");
}

/// How records differ from what servers hold, if they do.
pub fn difference(servers: &[&Kea], records: &BTreeMap<String, Value>) -> Option<String> {
    let leases = servers.iter().flat_map(|kea| {
        let server = kea.name();
        kea.leases().into_iter().map(move |lease| expected(&server, &lease))
    });
    records::difference(&leases.collect(), records)
}
