//! What a server costs whose clients renew and release leases too, beside taking new ones.
//!
//! perfdhcp picks the leases to renew and to release at random among those that it took. DHCPv4 does so behind its relay
//! address as well: renewals carry the address that they are for, and releases have no answer.

use crate::Part;
use crate::bed::mode;
use crate::figures::{Budget, Figure};
use crate::kea::Family;
use crate::others::Writing;
use crate::perfdhcp::{self, Rates};
use crate::with::{Against, With};

/// Two new leases to one renewal and one release; 6,000 messages of clients a second.
const MIX: Rates = Rates { exchanges: 2000, renewals: 1000, releases: 1000, clients: perfdhcp::CLIENTS, delays: false };

/// Records that the other program writes a second: about as many as the library does, since perfdhcp renews and releases what it has
/// just taken, and about half of the changes are over before they are written (9,700 to 14,300 of 24,000 were written or removed).
const RECORDS: u32 = 1750;

/// Of a transaction: at this rate changes gather for some 25 ms (the library had 250 to 270 transactions in the seconds of a load).
const BATCH: u32 = 44;

/// Seconds of a load.
const SECONDS: u32 = 6;

/// CPU of the server for one thing that a client does.
struct OfFamily {
    family: Family,
    cpu: Against<Figure>,
}

/// See the module.
pub struct Mix([OfFamily; 2]);

impl Mix {
    pub fn new() -> Self {
        const WHAT: &str = "CPU of an exchange, a renewal or a release at 2,000/s, 1,000/s and 1,000/s";
        Self([Family::V4, Family::V6].map(|family| {
            let mode = mode(family, true);
            OfFamily { family, cpu: Against::new(|with| with.figure(&mode, WHAT, "µs", Budget::AtMost(1.10))) }
        }))
    }
}

impl Part for Mix {
    fn measure(&mut self, round: usize) {
        for OfFamily { family, cpu: figures } in &mut self.0 {
            for with in With::turns(round) {
                let bed = with.bed(*family, true);
                perfdhcp::load(&bed, MIX.exchanges, 1);
                let before = bed.cpu();
                let begin = || perfdhcp::begin(&bed, MIX, SECONDS).wait();
                let (load, writing) = with.beside(&bed, Writing::exact(RECORDS, SECONDS, BATCH), begin);
                let done = load.completed + load.renewed + load.released;
                // A mirror writes in the server.
                let cpu = (bed.cpu() + writing - before) / done * 1e6;
                println!(
                    "  DHCPv{} mix, {with}: {cpu:.0} µs; {} new, {} renewed, {} released",
                    family.number(),
                    load.completed,
                    load.renewed,
                    load.released
                );
                assert!(load.renewed > 0.0 && load.released > 0.0, "perfdhcp renews and releases");
                figures.add(with, |figure, is_with| figure.add(is_with, cpu));
            }
        }
    }

    fn figures(&self) -> Vec<&Figure> {
        self.0.iter().flat_map(|of_family| of_family.cpu.iter()).collect()
    }
}
