//! How soon etcd is complete when it comes back, after more leases changed meanwhile than the library keeps.

use std::net::Ipv6Addr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Part;
use crate::bed::{Bed, hwaddr};
use crate::figures::{Budget, Figure};
use crate::kea::Family;

/// Leases that change while etcd is away; three times the library's queue.
const LEASES: u32 = 200_000;

/// The first of their addresses.
const FIRST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);

/// Leases in one command.
const BULK: u32 = 1000;

/// How often etcd is asked how many records it has: it looks at each of them to tell.
const INTERVAL: Duration = Duration::from_millis(250);

/// See the module.
pub struct Outage {
    complete: Figure,
}

impl Outage {
    pub fn new() -> Self {
        let what = "from etcd's return until it is complete, 200,000 leases changed meanwhile";
        Self { complete: Figure::new(what, "s", Budget::AtMost(5.0)) }
    }
}

impl Part for Outage {
    /// From when `etcdctl` gets an answer of etcd, until it counts all records.
    fn measure(&mut self, _: usize) {
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
        while bed.records() < u64::from(LEASES) {
            assert!(begin.elapsed() < Duration::from_secs(600), "etcd has {} records", bed.records());
            sleep(INTERVAL);
        }
        let took = begin.elapsed().as_secs_f64();
        println!("  complete {took:.2} s after the outage");
        self.complete.add(true, took);
    }

    fn figures(&self) -> Vec<&Figure> {
        vec![&self.complete]
    }
}

fn lease(number: u32) -> Value {
    json!({
        "ip-address": Ipv6Addr::from(u128::from(FIRST) + u128::from(number)), "duid": format!("00:03:00:01:{}", hwaddr(number)),
        "iaid": 1, "subnet-id": 1,
    })
}
