//! What a server costs whose clients renew and release leases too, beside taking new ones.
//!
//! perfdhcp picks the leases to renew and to release at random among those that it took. DHCPv4 does so behind its relay
//! address as well: renewals carry the address that they are for, and releases have no answer.

use crate::Part;
use crate::bed::{Bed, mode};
use crate::figures::{Budget, Figure};
use crate::kea::Family;
use crate::perfdhcp::{self, Rates};

/// Two new leases to one renewal and one release; 6,000 messages of clients a second.
const MIX: Rates = Rates { exchanges: 2000, renewals: 1000, releases: 1000, clients: perfdhcp::CLIENTS, delays: false };

/// CPU of the server for one thing that a client does, by family.
pub struct Mix([(Family, Figure); 2]);

impl Mix {
    pub fn new() -> Self {
        Self([Family::V4, Family::V6].map(|family| {
            let what = format!(
                "{}: CPU of an exchange, a renewal or a release at 2,000/s, 1,000/s and 1,000/s",
                mode(family, true)
            );
            (family, Figure::ratio(what, "µs", Budget::AtMost(1.10)))
        }))
    }
}

impl Part for Mix {
    fn measure(&mut self, round: usize) {
        for (family, figure) in &mut self.0 {
            for with_library in crate::turns(round) {
                let bed = Bed::new(*family, true, with_library);
                perfdhcp::load(&bed, MIX.exchanges, 1);
                let before = bed.cpu();
                let load = perfdhcp::begin(&bed, MIX, 6).wait();
                let done = load.completed + load.renewed + load.released;
                let cpu = (bed.cpu() - before) / done * 1e6;
                println!(
                    "  DHCPv{} mix {}: {cpu:.0} µs; {} new, {} renewed, {} released",
                    family.number(),
                    if with_library { "with" } else { "without" },
                    load.completed,
                    load.renewed,
                    load.released
                );
                assert!(load.renewed > 0.0 && load.released > 0.0, "perfdhcp renews and releases");
                figure.add(with_library, cpu);
            }
        }
    }

    fn figures(&self) -> Vec<&Figure> {
        self.0.iter().map(|(_, figure)| figure).collect()
    }
}
