//! Index keys that records of this server may have left behind: somebody else removed, spoilt or forged the record, which
//! alone told which index keys there are. The watch tells what it said. No I/O.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::guard::Found;
use crate::record::{Identifiers, Summary};

/// Addresses of which something is remembered, and records of one address; beyond that only a comparison helps.
const MAX_ADDRESSES: usize = 65_536;
const MAX_RECORDS: usize = 16;

/// What a key held before a change, as the watch tells it.
#[derive(Clone, Debug)]
pub enum Before {
    /// A record.
    Record(Summary),
    /// Nothing, or no record; or nobody asked for it.
    Nothing,
    /// Something that etcd has compacted meanwhile.
    Lost,
}

/// A record that was there.
#[derive(Clone, Debug)]
struct Leftover {
    /// The revision at which it was there no more.
    as_of: i64,
    identifiers: Identifiers,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Leftovers {
    by_address: HashMap<IpAddr, Vec<Leftover>>,
    in_doubt: bool,
}

impl Leftovers {
    /// Somebody else, or an own write that is not answered yet, changed the key of an address.
    pub fn note(&mut self, address: IpAddr, found: &Found, before: Before, server: &str) {
        let record = found.key.as_ref().and_then(|key| key.record.as_ref());
        if record.is_some_and(|record| record.server != server) {
            // A partner took the key over from a record that it had seen, index keys and all.
            return;
        }
        let identifiers = match before {
            Before::Record(record) if record.server == server => record.identifiers,
            Before::Record(_) | Before::Nothing => return,
            Before::Lost => return self.in_doubt = true,
        };
        let is_full = self.by_address.len() >= MAX_ADDRESSES && !self.by_address.contains_key(&address);
        let records = if is_full { None } else { Some(self.by_address.entry(address).or_default()) };
        match records.filter(|records| records.len() < MAX_RECORDS) {
            Some(records) => records.push(Leftover { as_of: found.as_of, identifiers }),
            None => self.in_doubt = true,
        }
    }

    /// What the records said whose index keys may be left, the oldest first.
    pub fn of(&self, address: IpAddr) -> Vec<&Identifiers> {
        let records = self.by_address.get(&address).map_or(&[][..], Vec::as_slice);
        records.iter().map(|leftover| &leftover.identifiers).collect()
    }

    /// The revision of the newest of them; 0 for none.
    pub fn as_of(&self, address: IpAddr) -> i64 {
        self.by_address.get(&address).and_then(|records| records.last()).map_or(0, |leftover| leftover.as_of)
    }

    /// The index keys of the `many` oldest records are gone, and so is what was noted of our own write at the revision
    /// `own`. Whether something is left.
    pub fn settle(&mut self, address: IpAddr, many: usize, own: Option<i64>) -> bool {
        let Some(records) = self.by_address.get_mut(&address) else { return false };
        records.drain(..many.min(records.len()));
        records.retain(|leftover| Some(leftover.as_of) != own);
        let some = !records.is_empty();
        if !some {
            self.by_address.remove(&address);
        }
        some
    }

    /// Index keys without a record as of `revision` are gone. What is `under_way` knows how much of it is its own.
    pub fn compared(&mut self, revision: i64, under_way: impl Fn(IpAddr) -> bool) {
        self.by_address.retain(|address, records| {
            if !under_way(*address) {
                records.retain(|leftover| leftover.as_of > revision);
            }
            !records.is_empty()
        });
    }

    /// Whether index keys may be left of which nobody knows, so that only a comparison finds them; once.
    pub fn take_in_doubt(&mut self) -> bool {
        std::mem::take(&mut self.in_doubt)
    }
}
