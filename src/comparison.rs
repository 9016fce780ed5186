//! The comparison of the whole lease database with etcd. No I/O: pages of both sides go in, suspects come out.
//!
//! First every record is taken in, read at one revision, as a few numbers each; then every index key; then the lease
//! database page by page. A lease without a record is written as it was read, if there is still no record by then: the key
//! was observed first and the lease read after that, as [`pending`](crate::pending) wants it. Where the record is different,
//! or has no lease, the address is a suspect: its key is observed once more, with all that it holds, and its lease read
//! after that. A change that arrives meanwhile wins; its address is not judged at all.
//!
//! A million records take some 72 MB while it runs, all of which is given back, little by little
//! ([`address_table`](crate::address_table)).

use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::IpAddr;

use crate::address_table::AddressTable;
use crate::etcd::{Page, found_key};
use crate::lease::{Family, Lease};
use crate::record::{Content, age};
use crate::writer::Writer;

/// How many addresses of each kind are told.
const EXAMPLES: usize = 20;

/// Addresses of one kind of difference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub count: usize,
    /// The first twenty of them.
    pub addresses: Vec<IpAddr>,
}

impl Tally {
    fn add(&mut self, address: IpAddr) {
        self.count += 1;
        if self.addresses.len() < EXAMPLES {
            self.addresses.push(address);
        }
    }
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Leases that somebody holds, and declined ones.
    pub leases: usize,
    /// Records of this family.
    pub records: usize,
    /// Leases without a record.
    pub missing: Tally,
    /// Leases whose record says something else, hangs on a wrong etcd lease or lacks index keys.
    pub different: Tally,
    /// Records without a lease that this server is to remove, and index keys without a record.
    pub extra: Tally,
    /// Live records of other servers that this one has no lease for, or an older one.
    pub others: usize,
    /// Keys that are no records, at addresses without a lease. They stay.
    pub foreign: usize,
}

/// A record as it is kept for the comparison.
struct Seen {
    content: Option<Content>,
    /// `cltt` and `timestamp`, seconds since the epoch.
    times: (u32, u32),
    /// The index keys that it may have, as numbers to compare; 0 for none.
    slots: [u32; 3],
    flags: u16,
}

const RECORD: u16 = 1;
const OURS: u16 = 2;
/// Hangs on the right etcd lease.
const HANGS_RIGHT: u16 = 4;
/// May be removed by this server when there is no lease.
const REMOVABLE: u16 = 8;
/// From here on, one bit a slot: this server writes the index key.
const WANTED: u16 = 16;
/// From here on, one bit a slot: the index key is there.
const PRESENT: u16 = WANTED << 3;
/// A lease was held against it.
const JUDGED: u16 = PRESENT << 3;

/// What a lease's record is found to be.
enum Judgement {
    /// As it should be, or not to be judged.
    Right,
    Missing,
    Different,
}

impl Seen {
    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    fn index_is_complete(&self) -> bool {
        (0..3).all(|slot| !self.has(WANTED << slot) || self.has(PRESENT << slot))
    }
}

/// See the module.
pub struct Comparison {
    writer: Writer,
    family: Family,
    /// Seconds since the epoch when it began.
    now: i64,
    seen: AddressTable<Seen>,
    touched: HashSet<IpAddr>,
    orphans: Vec<(Vec<u8>, i64)>,
    findings: Findings,
}

impl Comparison {
    /// A comparison that begins `now`, seconds since the epoch.
    pub fn new(writer: Writer, family: Family, now: i64) -> Self {
        Self {
            writer,
            family,
            now,
            seen: AddressTable::default(),
            touched: HashSet::new(),
            orphans: Vec::new(),
            findings: Findings::default(),
        }
    }

    /// The address changes while the comparison runs.
    pub fn touch(&mut self, address: IpAddr) {
        self.touched.insert(address);
    }

    /// Begins anew, when the revision that was read at is no longer to be had.
    pub fn restart(&mut self) {
        self.seen = AddressTable::default();
        self.orphans.clear();
        self.findings = Findings::default();
    }

    /// Takes in records. Pages come in the order of the keys.
    pub fn records(&mut self, page: &Page) {
        self.seen.reserve(page.count);
        for pair in &page.pairs {
            let Some(address) = self.writer.keys.address(pair.key()) else {
                self.findings.foreign += 1;
                continue;
            };
            if !self.family.has(address) {
                continue;
            }
            let key = found_key(pair);
            let mut seen = Seen { content: None, times: (0, 0), slots: [0; 3], flags: 0 };
            if let Some(record) = &key.record {
                self.findings.records += 1;
                seen.content = record.content;
                seen.times = (age(record.cltt), age(record.timestamp));
                let ours = record.server == self.writer.server;
                let removable = ours || record.is_past_its_end(self.writer.grace, self.now);
                for (flag, set) in
                    [(RECORD, true), (OURS, ours), (HANGS_RIGHT, self.writer.hangs_right(&key)), (REMOVABLE, removable)]
                {
                    seen.flags |= if set { flag } else { 0 };
                }
                for (slot, (key, wanted)) in self.writer.index.slots(&record.identifiers, address).take(3).enumerate() {
                    seen.slots[slot] = number(key.as_bytes());
                    seen.flags |= if wanted && ours { WANTED << slot } else { 0 };
                }
            }
            self.seen.insert(address, seen);
        }
    }

    /// Takes in index keys, after all records. Both are of one revision and always written in one transaction, so this is
    /// judged of addresses that change meanwhile as well.
    pub fn index(&mut self, page: &Page) {
        for pair in &page.pairs {
            let Some(address) = self.writer.index.address(pair.key()) else { continue };
            if !self.family.has(address) {
                continue;
            }
            let number = number(pair.key());
            let belongs = self.seen.get_mut(address).is_some_and(|seen| {
                let Some(slot) = seen.slots.iter().position(|slot| *slot == number) else { return false };
                seen.flags |= PRESENT << slot;
                // What another server writes is its own affair.
                !seen.has(OURS) || seen.has(WANTED << slot)
            });
            if !belongs {
                self.findings.extra.add(address);
                self.orphans.push((pair.key().to_vec(), pair.mod_revision()));
            }
        }
    }

    /// Index keys that belong to no record, with the revision of each.
    pub fn take_orphans(&mut self) -> Vec<(Vec<u8>, i64)> {
        std::mem::take(&mut self.orphans)
    }

    /// Compares a page of the lease database: the leases that have no record, and the suspects.
    pub fn leases(&mut self, page: Vec<Lease>) -> (Vec<Lease>, Vec<IpAddr>) {
        let (mut missing, mut suspects) = (Vec::new(), Vec::new());
        for lease in page.into_iter().filter(Lease::is_held) {
            match self.judge(&lease) {
                Judgement::Right => {}
                Judgement::Missing => missing.push(lease),
                Judgement::Different => suspects.push(lease.address),
            }
        }
        (missing, suspects)
    }

    fn judge(&mut self, lease: &Lease) -> Judgement {
        self.findings.leases += 1;
        let seen = match self.seen.get_mut(lease.address) {
            Some(seen) if !seen.has(JUDGED) => {
                seen.flags |= JUDGED;
                Some(&*seen)
            }
            _ => None,
        };
        if self.touched.contains(&lease.address) {
            return Judgement::Right;
        }
        let Some(seen) = seen else {
            if self.writer.may_have_vanished(lease.expires_at(), self.now) {
                return Judgement::Right;
            }
            self.findings.missing.add(lease.address);
            return Judgement::Missing;
        };
        let same = seen.content.is_some_and(|content| content == Content::of(lease));
        let right = if same {
            !seen.has(OURS) || (seen.has(HANGS_RIGHT) && seen.index_is_complete())
        } else {
            // What another server knows newer, or as new, stays.
            let newer = seen.has(RECORD) && !seen.has(OURS) && { seen.times >= (age(lease.cltt), age(lease.cltt)) };
            self.findings.others += usize::from(newer);
            newer
        };
        if right {
            return Judgement::Right;
        }
        self.findings.different.add(lease.address);
        Judgement::Different
    }

    /// The end of the lease database: records that have no lease are suspects as well, also those of other servers at
    /// addresses where a lease `has_ended` here, which may be late records of it.
    pub fn finish(mut self, has_ended: impl Fn(IpAddr) -> bool) -> (Findings, Vec<IpAddr>) {
        let mut suspects = Vec::new();
        for (address, seen) in self.seen.iter().filter(|(_, seen)| !seen.has(JUDGED)) {
            if self.touched.contains(&address) {
                continue;
            }
            if seen.has(REMOVABLE) {
                self.findings.extra.add(address);
                suspects.push(address);
            } else if seen.has(RECORD) {
                self.findings.others += 1;
                if has_ended(address) {
                    suspects.push(address);
                }
            } else {
                self.findings.foreign += 1;
            }
        }
        (self.findings, suspects)
    }
}

fn number(key: &[u8]) -> u32 {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(key);
    // 0 stands for no key.
    u32::try_from(hash >> 32).unwrap_or(0).max(1)
}
