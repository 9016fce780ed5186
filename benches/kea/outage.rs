//! How soon etcd is complete when it comes back, after more leases changed meanwhile than the library keeps.

use std::net::Ipv6Addr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Part;
use crate::bed::{Bed, hwaddr};
use crate::bulk;
use crate::figures::{Budget, Figure};
use crate::kea::Family;
use crate::metrics::Metrics;

/// Leases that change while etcd is away; three times the library's queue.
const LEASES: u32 = 200_000;

/// The first of their addresses.
const FIRST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);

/// Leases in one command.
const BULK: u32 = 1000;

/// How often etcd is asked how many keys it has. That is a number which it keeps; to count records it looks at each of them,
/// 70 ms of its CPU each time, which would be measured with the rest.
const INTERVAL: Duration = Duration::from_millis(250);

/// See the module.
pub struct Outage {
    complete: Figure,
}

impl Outage {
    pub fn new() -> Self {
        let what = "from etcd's return until it is complete, 200,000 leases changed meanwhile (without: another program \
                    writes as many records)";
        Self { complete: Figure::new(what, "s", Budget::AtMost(5.0)) }
    }
}

impl Part for Outage {
    fn measure(&mut self, round: usize) {
        for with_library in crate::turns(round) {
            if with_library {
                self.with_library();
            } else {
                let took = bulk::write(&Bed::new(Family::V6, true, false), LEASES);
                println!("  as many records of another program: {took:.2} s");
                self.complete.add(false, took);
            }
        }
    }

    fn figures(&self) -> Vec<&Figure> {
        vec![&self.complete]
    }
}

impl Outage {
    /// From when `etcdctl` gets an answer of etcd, until it has all records.
    fn with_library(&mut self) {
        let mut bed = Bed::new(Family::V6, true, true);
        bed.etcd.kill();
        for first in (0..LEASES).step_by(BULK as usize) {
            let leases: Vec<_> = (first..first + BULK).map(lease).collect();
            bed.ask("lease6-bulk-apply", &json!({ "leases": leases }));
        }
        // So long that the library pauses between its attempts as in an outage of hours.
        sleep(Duration::from_secs(5));
        bed.etcd.restart();
        let begin = Instant::now();
        // One of its keys is the presence key.
        while Metrics::of(&bed).get("etcd_debugging_mvcc_keys_total") <= f64::from(LEASES) {
            assert!(begin.elapsed() < Duration::from_secs(600), "etcd has {} records", bed.records());
            sleep(INTERVAL);
        }
        let took = begin.elapsed().as_secs_f64();
        assert_eq!(bed.records(), u64::from(LEASES));
        println!("  complete {took:.2} s after the outage");
        self.complete.add(true, took);
    }
}

fn lease(number: u32) -> Value {
    json!({
        "ip-address": Ipv6Addr::from(u128::from(FIRST) + u128::from(number)), "duid": format!("00:03:00:01:{}", hwaddr(number)),
        "iaid": 1, "subnet-id": 1,
    })
}
