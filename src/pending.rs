//! What the worker has taken and etcd has not acknowledged: which addresses wait, which are in a transaction under way,
//! and what is known of each key. No I/O.
//!
//! An address is in one transaction at a time; a change that comes meanwhile waits and replaces what would be tried
//! again. So whatever etcd applies, it applies in the order of the changes. What to do with a change is decided when its
//! transaction is made, on the newest change and the newest that was found.
//!
//! What nobody told of goes another way, since what the lease database says and what etcd says may change between the
//! two readings: first the key is observed, then the lease is read, and it is written only on what was observed. Where
//! that fails the address is suspected again, and both are read anew.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;

use crate::guard::Found;
use crate::handover::Changes;
use crate::lease::{Change, Row};
use crate::record::Summary;
use crate::writer::{Action, Known, Plan, Write, Writer};

/// Operations of a transaction: etcd's default `--max-txn-ops` of 128, which counts the largest of compares, operations
/// on success and operations on failure. One compare and one read are the session's.
pub const MAX_OPERATIONS: usize = 127;

/// Bytes of records in one transaction, well below etcd's default `--max-request-bytes` of 1.5 MiB.
pub const MAX_BYTES: usize = 1024 * 1024;

/// Keys of which is remembered what they hold, some 20 MB of memory at most. A key that is not remembered costs one more
/// round.
const MAX_KNOWN: usize = 262_144;

/// One operation of a batch.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The address whose record is written or removed.
    pub address: IpAddr,
    /// The change.
    pub change: Box<Change>,
    /// What becomes of it; `None` when its key is only to be read.
    pub write: Option<Write>,
}

/// What one request is about: between one and [`MAX_OPERATIONS`] addresses, each once, all to be written or all to be
/// read.
#[derive(Clone, Debug)]
pub struct Batch {
    operations: Vec<Operation>,
}

impl Batch {
    /// The operations.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Their addresses, in order.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.operations.iter().map(|operation| operation.address)
    }

    /// Whether the keys are only to be read.
    #[must_use]
    pub fn only_looks(&self) -> bool {
        self.operations.iter().all(|operation| operation.write.is_none())
    }
}

/// What is known of a record of ours that somebody else changed.
#[derive(Clone, Copy, Debug)]
struct Spoilt {
    /// The revision at which that was first seen.
    as_of: i64,
    /// Which index keys it had ([`Writer::indexed`]); `None` when it was changed again after it had others.
    indexed: Option<u64>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Pending {
    writer: Writer,
    waiting: HashMap<IpAddr, Box<Change>>,
    /// Addresses of `waiting` that are in no transaction, in the order in which they are due.
    due: VecDeque<IpAddr>,
    /// Those of them whose key must be read before anything is written.
    unseen: VecDeque<IpAddr>,
    in_flight: HashSet<IpAddr>,
    /// Parts of a refused batch, to find the operation that etcd does not take.
    halves: VecDeque<Vec<Operation>>,
    known: HashMap<IpAddr, Known>,
    /// What the keys of pending and suspected addresses were found to hold.
    found: HashMap<IpAddr, Found>,
    /// Addresses that are to be suspected again.
    again: Vec<IpAddr>,
    /// Addresses whose record somebody else took away, spoilt or forged: only the record told which index keys there are.
    spoilt: HashMap<IpAddr, Spoilt>,
    /// Whether index keys may be left of records that are gone.
    orphans: bool,
    looked: bool,
}

impl Pending {
    /// Nothing yet, to be written by `writer`.
    #[must_use]
    pub fn new(writer: Writer) -> Self {
        Self {
            writer,
            waiting: HashMap::new(),
            due: VecDeque::new(),
            unseen: VecDeque::new(),
            in_flight: HashSet::new(),
            halves: VecDeque::new(),
            known: HashMap::new(),
            found: HashMap::new(),
            again: Vec::new(),
            spoilt: HashMap::new(),
            orphans: false,
            looked: false,
        }
    }

    /// How this server writes.
    #[must_use]
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Takes over changes from the packet threads; each replaces an older one of its address. An address beyond `limit`
    /// is dropped, never news of one that is pending already. Returns how many were dropped.
    pub fn absorb(&mut self, changes: &mut Changes, limit: usize) -> usize {
        let mut dropped = 0;
        for (address, change) in changes.drain() {
            if self.is_pending(address) || self.len() < limit {
                self.put(address, change);
            } else {
                dropped += 1;
            }
        }
        dropped
    }

    fn put(&mut self, address: IpAddr, mut change: Box<Change>) {
        if change.is_finding() {
            if let Some(told) = self.waiting.get_mut(&address).filter(|waiting| !waiting.is_finding()) {
                // Read later, so newer; but what made the change is known from the older one.
                let mut newer = change;
                newer.inherit(told);
                told.row = newer.row;
                return;
            }
            if self.in_flight.contains(&address) || !self.found.contains_key(&address) {
                self.again.push(address);
                return;
            }
        } else if !self.in_flight.contains(&address)
            && self.waiting.get(&address).is_none_or(|older| older.is_finding())
        {
            // Observed for a finding.
            self.found.remove(&address);
        }
        if let Some(older) = self.waiting.get(&address) {
            change.inherit(older);
        }
        if self.waiting.insert(address, change).is_none() && !self.in_flight.contains(&address) {
            self.due.push_back(address);
        }
    }

    /// Whether something of this address is unsettled.
    #[must_use]
    pub fn is_pending(&self, address: IpAddr) -> bool {
        self.waiting.contains_key(&address) || self.in_flight.contains(&address)
    }

    /// The addresses of which something is unsettled.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.due.iter().chain(&self.unseen).chain(&self.in_flight).copied()
    }

    /// How many addresses are not settled.
    #[must_use]
    pub fn len(&self) -> usize {
        self.due.len() + self.unseen.len() + self.in_flight.len()
    }

    /// When the change was made that is due first, seconds since the epoch.
    #[must_use]
    pub fn oldest(&self) -> Option<i64> {
        let first = self.due.iter().find_map(|address| self.waiting.get(address))?;
        (!first.is_finding()).then_some(first.timestamp)
    }

    /// Whether everything is settled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets what is known of every key: etcd may not hold what it held. What waits as a finding is suspected again.
    pub fn forget(&mut self) {
        self.known = HashMap::new();
        self.found = HashMap::new();
        let again = &mut self.again;
        self.waiting.retain(|address, change| {
            if change.is_finding() {
                again.push(*address);
            }
            !change.is_finding()
        });
    }

    /// The next request's operations; `None` when nothing is due. `now` is in seconds since the epoch. The batch must
    /// come back through [`landed`](Self::landed), [`seen`](Self::seen), [`failed`](Self::failed) or
    /// [`refused`](Self::refused).
    pub fn next_batch(&mut self, now: i64) -> Option<Batch> {
        if let Some(operations) = self.halves.pop_front() {
            return Some(Batch { operations });
        }
        // In turns, so that neither waits for the other to be done.
        self.looked = !self.looked;
        let first = if self.looked { self.next_looks() } else { None };
        first.or_else(|| self.next_writes(now)).or_else(|| self.next_looks())
    }

    fn next_writes(&mut self, now: i64) -> Option<Batch> {
        let mut operations = Vec::new();
        let (mut weight, mut bytes) = (0, 0);
        while let Some(&address) = self.due.front() {
            // Something of it is under way: then it is due again when that is done.
            let free = !self.in_flight.contains(&address);
            let Some(change) = self.waiting.get(&address).filter(|_| free) else {
                self.due.pop_front();
                continue;
            };
            let (known, found) = (self.known.get(&address).copied(), self.found.get(&address));
            let write = match self.writer.plan(address, change, known, found, now) {
                Plan::Write(write) => write,
                Plan::Look => {
                    self.due.pop_front();
                    self.unseen.push_back(address);
                    continue;
                }
                Plan::Settled(known) => {
                    self.due.pop_front();
                    // Nothing is written: the index keys are those of what stands there.
                    let record = found.and_then(|found| found.key.as_ref()).and_then(|key| key.record.as_ref());
                    let indexed = record.map_or(0, |record| self.writer.indexed_by(&record.identifiers, address));
                    self.waiting.remove(&address);
                    self.found.remove(&address);
                    self.remember(address, known);
                    self.orphans |= self.spoilt.remove(&address).is_some_and(|spoilt| spoilt.indexed != Some(indexed));
                    continue;
                }
            };
            weight += write.operations();
            bytes += change.estimated_bytes();
            if !operations.is_empty() && (weight > MAX_OPERATIONS || bytes > MAX_BYTES) {
                break;
            }
            self.due.pop_front();
            operations.extend(self.take_off(address, Some(write)));
        }
        (!operations.is_empty()).then_some(Batch { operations })
    }

    fn next_looks(&mut self) -> Option<Batch> {
        let mut operations = Vec::new();
        while operations.len() < MAX_OPERATIONS {
            let Some(address) = self.unseen.pop_front() else { break };
            operations.extend(self.take_off(address, None));
        }
        (!operations.is_empty()).then_some(Batch { operations })
    }

    fn take_off(&mut self, address: IpAddr, write: Option<Write>) -> Option<Operation> {
        if self.in_flight.contains(&address) {
            return None;
        }
        let change = self.waiting.remove(&address)?;
        self.found.remove(&address);
        self.in_flight.insert(address);
        Some(Operation { address, change, write })
    }

    /// The transaction was applied at `revision`. Returns the addresses that somebody else has changed since.
    pub fn landed(&mut self, batch: Batch, revision: i64) -> Vec<IpAddr> {
        let mut overtaken = Vec::new();
        for Operation { address, change, write } in batch.operations {
            let held = matches!(change.row, Row::Held { .. });
            let indexed = self.writer.indexed(address, &change);
            // At this very revision it was our own event, which only a write of the record has. Index keys that are written
            // anew, or that a removal knows, are not left behind.
            let keeps = write.as_ref().is_some_and(|write| write.action == Action::Keep);
            let is_older = |spoilt: &Spoilt| spoilt.as_of < revision || (keeps && spoilt.as_of == revision);
            let spoilt = self.spoilt.get(&address);
            self.orphans |= spoilt.is_some_and(|spoilt| is_older(spoilt) && spoilt.indexed != Some(indexed));
            let kept = write.filter(|write| write.action == Action::Keep).map(|write| write.revision);
            self.remember(address, held.then_some(Known { revision: kept.unwrap_or(revision), indexed }));
            match self.found.get(&address) {
                Some(found) if found.as_of > revision && !self.waiting.contains_key(&address) => {
                    overtaken.push(address);
                }
                // What a change that waits is to be decided on.
                Some(found) if found.as_of > revision => self.remember(address, None),
                _ => {
                    self.found.remove(&address);
                    self.spoilt.remove(&address);
                }
            }
            self.settle(address);
        }
        overtaken
    }

    /// The keys were read, since that was asked or because some key had another revision, so that nothing was applied.
    /// `found` is what each key of the batch holds, in order. Returns how many had been changed by somebody else.
    pub fn seen(&mut self, batch: Batch, found: Vec<Found>) -> usize {
        let mut conflicts = 0;
        for (Operation { address, change, write }, found) in batch.operations.into_iter().zip(found) {
            if write.is_some_and(|write| write.revision != found.revision()) {
                let record = found.key.as_ref().and_then(|key| key.record.as_ref());
                conflicts += usize::from(record.is_none_or(|record| record.server != self.writer.server));
            }
            self.note_spoilt(address, &found, None);
            if change.is_finding() {
                self.suspect_again(address);
            } else {
                self.find(address, found);
                self.put_back(address, change);
            }
        }
        conflicts
    }

    /// The key of a suspect was observed. Whether its lease is to be read now: not when something of it is pending, which
    /// may have been read before what made it a suspect; then it is suspected again.
    pub fn observe(&mut self, address: IpAddr, found: Found) -> bool {
        if self.is_pending(address) {
            self.again.push(address);
            return false;
        }
        self.found.insert(address, found);
        true
    }

    /// The addresses that are to be suspected again, since something changed between two readings.
    pub fn take_again(&mut self) -> Vec<IpAddr> {
        std::mem::take(&mut self.again)
    }

    /// Whether index keys may be left of records that are gone, which only a comparison finds; once.
    pub fn take_orphans(&mut self) -> bool {
        std::mem::take(&mut self.orphans)
    }

    /// Somebody else changed the key of an address. Whether that is settled with the change that is pending; when not,
    /// the address is a suspect, and what was found of it before counts no more.
    /// `before` is the record that was there, where the watch tells.
    pub fn noticed(&mut self, address: IpAddr, found: Found, before: Option<&Summary>) -> bool {
        self.note_spoilt(address, &found, before);
        let told_waits = self.waiting.get(&address).is_some_and(|change| !change.is_finding());
        // Perhaps it is our own write, whose answer is on its way: that tells.
        if told_waits || self.in_flight.contains(&address) {
            self.find(address, found);
            return true;
        }
        self.found.remove(&address);
        self.waiting.remove(&address);
        self.remember(address, None);
        false
    }

    fn note_spoilt(&mut self, address: IpAddr, found: &Found, before: Option<&Summary>) {
        let record = found.key.as_ref().and_then(|key| key.record.as_ref());
        // A partner's record tells them as well as ours did: it took the key over from one that it had seen.
        if self.writer.index.is_off() || record.is_some_and(|record| record.server != self.writer.server) {
            return;
        }
        let known = self.known.get(&address);
        if known.is_some_and(|known| known.revision == found.revision()) {
            return;
        }
        // The watch knows it also of a write that is not answered yet, and of one before this server began.
        let before = before.filter(|record| record.server == self.writer.server);
        let indexed = before.map(|record| self.writer.indexed_by(&record.identifiers, address));
        let Some(indexed) = indexed.or(known.map(|known| known.indexed)) else { return };
        // The first time counts: our own event after it must not hide it.
        let earlier = self.spoilt.get(&address);
        let differs = earlier.is_some_and(|earlier| earlier.indexed != Some(indexed));
        let as_of = earlier.map_or(found.as_of, |earlier| earlier.as_of.min(found.as_of));
        self.spoilt.insert(address, Spoilt { as_of, indexed: (!differs).then_some(indexed) });
    }

    fn find(&mut self, address: IpAddr, found: Found) {
        let newer = self.found.get(&address).is_none_or(|known| known.as_of <= found.as_of);
        if newer {
            self.found.insert(address, found);
        }
    }

    /// The request was not applied, or nobody knows: everything is tried again, or what is newer.
    pub fn failed(&mut self, batch: Batch) {
        for Operation { address, change, .. } in batch.operations {
            if change.is_finding() {
                self.suspect_again(address);
            } else {
                self.put_back(address, change);
            }
        }
    }

    fn suspect_again(&mut self, address: IpAddr) {
        self.again.push(address);
        self.settle(address);
    }

    /// etcd refuses the request for good. It is halved to find the operation that it does not take; that one is given
    /// back and is no longer pending.
    pub fn refused(&mut self, batch: Batch) -> Option<Operation> {
        let mut operations = batch.operations;
        if operations.len() == 1 {
            let operation = operations.pop()?;
            if self.found.contains_key(&operation.address) {
                self.again.push(operation.address);
            }
            self.settle(operation.address);
            return Some(operation);
        }
        let second = operations.split_off(operations.len() / 2);
        self.halves.push_back(operations);
        self.halves.push_back(second);
        None
    }

    /// Everything that is not settled, also what a transaction under way holds, newest per address.
    pub fn into_changes(mut self, under_way: impl IntoIterator<Item = Batch>) -> Changes {
        for batch in under_way {
            self.failed(batch);
        }
        while let Some(operations) = self.halves.pop_front() {
            self.failed(Batch { operations });
        }
        self.waiting
    }

    /// What is known of a key from now on; `None` when it does not exist, or when nobody knows.
    fn remember(&mut self, address: IpAddr, known: Option<Known>) {
        let Some(known) = known else {
            self.known.remove(&address);
            return;
        };
        if self.known.len() >= MAX_KNOWN && !self.known.contains_key(&address) {
            self.known.clear();
        }
        self.known.insert(address, known);
    }

    fn put_back(&mut self, address: IpAddr, change: Box<Change>) {
        // What came meanwhile is newer.
        self.waiting.entry(address).or_insert(change);
        self.settle(address);
    }

    /// The address is in no transaction any more.
    fn settle(&mut self, address: IpAddr) {
        self.in_flight.remove(&address);
        if self.waiting.contains_key(&address) {
            self.due.push_back(address);
        } else {
            self.found.remove(&address);
        }
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::FoundKey;
    use crate::lease::{Lease, Operation as By};
    use crate::record::v4;

    fn change(timestamp: i64) -> Box<Change> {
        let lease = Lease { cltt: timestamp, ..Lease::plain_v4(0) };
        Box::new(Change { timestamp, operation: By::Renew, row: Row::Held { lease, relay: None } })
    }

    fn sync(timestamp: i64) -> Box<Change> {
        Box::new(Change { operation: By::Sync, ..*change(timestamp) })
    }

    fn pending(addresses: u32) -> Pending {
        let mut pending = Pending::new(Writer::plain("a"));
        for n in 0..addresses {
            pending.put(v4(n), change(1));
        }
        pending
    }

    #[test]
    fn batches_hold_at_most_127_operations() {
        let mut pending = pending(300);
        let sizes: Vec<usize> =
            std::iter::from_fn(|| pending.next_batch(0)).map(|batch| batch.operations().len()).collect();
        assert_eq!(sizes, [127, 127, 46]);
    }

    #[test]
    fn an_address_is_in_one_transaction_at_a_time() {
        let mut pending = pending(1);
        let first = pending.next_batch(0).unwrap();
        pending.put(v4(0), change(2));
        assert!(pending.next_batch(0).is_none());
        pending.landed(first, 7);
        assert_eq!(pending.next_batch(0).unwrap().operations()[0].change.timestamp, 2);
    }

    #[test]
    fn what_failed_is_tried_again_unless_newer_news_came() {
        let mut pending = pending(2);
        let batch = pending.next_batch(0).unwrap();
        pending.put(v4(1), change(2));
        pending.failed(batch);
        let again = pending.next_batch(0).unwrap();
        let mut times: Vec<i64> = again.operations().iter().map(|operation| operation.change.timestamp).collect();
        times.sort_unstable();
        assert_eq!(times, [1, 2]);
    }

    #[test]
    fn beyond_the_limit_new_addresses_are_dropped_but_not_news_of_pending_ones() {
        let mut pending = pending(2);
        let batch = pending.next_batch(0).unwrap();
        let mut news: Changes = (0..4).map(|n| (v4(n), change(2))).collect();
        assert_eq!(pending.absorb(&mut news, 2), 2);
        pending.failed(batch);
        let again = pending.next_batch(0).unwrap();
        assert_eq!(again.operations().iter().map(|operation| operation.change.timestamp).collect::<Vec<_>>(), [2, 2]);
    }

    #[test]
    fn the_one_operation_that_etcd_refuses_is_found_and_the_others_go_on() {
        let mut pending = pending(100);
        let (mut landed, mut refused) = (0, Vec::new());
        while let Some(batch) = pending.next_batch(0) {
            if batch.operations().iter().any(|operation| operation.address == v4(42)) {
                refused.extend(pending.refused(batch).map(|operation| operation.address));
            } else {
                landed += batch.operations().len();
                pending.landed(batch, 1);
            }
        }
        assert_eq!((landed, refused), (99, vec![v4(42)]));
        assert!(pending.is_empty());
    }

    fn junk(revision: i64) -> Found {
        Found { as_of: revision, key: Some(FoundKey { revision, etcd_lease: 0, record: None }) }
    }

    #[test]
    fn a_conflict_is_tried_again_on_what_was_found_and_keeps_no_other_operation_out() {
        let mut pending = pending(2);
        let batch = pending.next_batch(0).unwrap();
        let found = batch.operations().iter().map(|operation| {
            // The other key is absent, as its condition said.
            if operation.address == v4(0) { junk(9) } else { Found { as_of: 9, key: None } }
        });
        let found = found.collect();
        assert_eq!(pending.seen(batch, found), 1);
        let again = pending.next_batch(0).unwrap();
        let on = |address| {
            let operation = again.operations().iter().find(|operation| operation.address == address).unwrap();
            operation.write.as_ref().unwrap().revision
        };
        assert_eq!((on(v4(0)), on(v4(1))), (9, 0));
    }

    #[test]
    fn a_finding_is_written_only_on_what_was_observed_before() {
        let mut pending = pending(0);
        pending.put(v4(0), sync(2));
        assert_eq!(pending.take_again(), [v4(0)], "nothing was observed");
        assert!(pending.observe(v4(0), junk(7)));
        pending.put(v4(0), sync(2));
        let batch = pending.next_batch(0).unwrap();
        assert_eq!(batch.operations()[0].write.as_ref().unwrap().revision, 7);
        pending.seen(batch, vec![junk(8)]);
        assert_eq!(pending.take_again(), [v4(0)], "something changed meanwhile");
        assert!(pending.is_empty());
    }

    #[test]
    fn a_finding_does_not_hide_what_a_callout_told() {
        let mut pending = pending(1);
        assert!(!pending.observe(v4(0), junk(7)));
        assert_eq!(pending.take_again(), [v4(0)], "what waits may have been read before");
        pending.put(v4(0), sync(2));
        let batch = pending.next_batch(0).unwrap();
        assert_eq!(batch.operations()[0].change.operation, By::Renew);
        pending.put(v4(0), sync(2));
        assert_eq!(pending.take_again(), [v4(0)]);
        pending.failed(batch);
        assert_eq!(pending.next_batch(0).unwrap().operations()[0].change.operation, By::Renew);
    }

    #[test]
    fn what_a_callout_tells_ends_a_finding() {
        let mut pending = pending(0);
        assert!(pending.observe(v4(0), junk(7)));
        pending.put(v4(0), sync(2));
        pending.put(v4(0), change(3));
        let batch = pending.next_batch(0).unwrap();
        assert_eq!(batch.operations()[0].change.operation, By::Renew);
        assert_eq!(batch.operations()[0].write.as_ref().unwrap().revision, 0);
    }

    #[test]
    fn a_record_that_only_loses_index_keys_keeps_its_revision() {
        let lease = Lease { hwaddr: [1].into(), cltt: 2, ..Lease::plain_v4(0) };
        let value = crate::record::to_json(&lease, By::Offer, None, 2, "a");
        let key = FoundKey { revision: 7, etcd_lease: 0, record: crate::record::Summary::parse(&value) };
        let mut pending = pending(0);
        assert!(pending.observe(v4(0), Found { as_of: 8, key: Some(key) }));
        let row = Row::Held { lease, relay: None };
        pending.put(v4(0), Box::new(Change { timestamp: 2, operation: By::Sync, row }));
        let batch = pending.next_batch(0).unwrap();
        assert_eq!(batch.operations()[0].write.as_ref().unwrap().action, Action::Keep);
        pending.landed(batch, 9);
        pending.put(v4(0), change(3));
        let batch = pending.next_batch(0).unwrap();
        assert_eq!(batch.operations()[0].write.as_ref().unwrap().revision, 7);
    }

    #[test]
    fn an_address_whose_finding_was_dropped_is_in_one_transaction_at_a_time_too() {
        let mut pending = pending(0);
        assert!(pending.observe(v4(0), junk(7)));
        pending.put(v4(0), sync(2));
        // Somebody writes the key before the finding is sent; then Kea tells of a change, and of another.
        assert!(!pending.noticed(v4(0), junk(8), None));
        pending.put(v4(0), change(3));
        let first = pending.next_batch(0).unwrap();
        assert_eq!(first.operations().len(), 1);
        pending.put(v4(0), change(4));
        assert!(pending.next_batch(0).is_none());
        pending.landed(first, 9);
        assert_eq!(pending.next_batch(0).unwrap().operations()[0].change.timestamp, 4);
        assert!(pending.next_batch(0).is_none());
    }

    #[test]
    fn somebody_who_writes_after_a_finding_is_noticed_also_before_its_answer() {
        let mut pending = pending(0);
        assert!(pending.observe(v4(0), junk(7)));
        pending.put(v4(0), sync(2));
        let batch = pending.next_batch(0).unwrap();
        assert!(pending.noticed(v4(0), junk(9), None));
        assert_eq!(pending.landed(batch, 8), [v4(0)]);
    }

    #[test]
    fn a_removal_that_does_not_know_whose_lease_went_learns_it_from_what_it_replaces() {
        let mut pending = pending(1);
        let gone = Change { timestamp: 9, operation: By::Update, row: Row::Gone { owner: None } };
        pending.put(v4(0), Box::new(gone));
        let change = pending.waiting.remove(&v4(0)).unwrap();
        assert!(matches!(change.row, Row::Gone { owner: Some(_) }), "{change:?}");
    }

    #[test]
    fn somebody_who_writes_after_us_is_noticed_and_our_own_write_is_not() {
        let mut pending = pending(2);
        let batch = pending.next_batch(0).unwrap();
        // The watch was faster than the answer.
        assert!(pending.noticed(v4(0), junk(5), None));
        assert!(pending.noticed(v4(1), junk(6), None));
        assert_eq!(pending.landed(batch, 5), [v4(1)]);
        assert!(!pending.noticed(v4(0), junk(8), None));
    }

    fn named(hostname: &[u8], timestamp: i64) -> Box<Change> {
        let lease = Lease { hostname: hostname.into(), cltt: timestamp, ..Lease::plain_v4(0) };
        Box::new(Change { timestamp, operation: By::Renew, row: Row::Held { lease, relay: None } })
    }

    /// The end of the lease of a name, told by somebody who knew the lease.
    fn ended(hostname: &[u8], cltt: i64) -> Box<Change> {
        let lease = Lease { hostname: hostname.into(), cltt, ..Lease::plain_v4(0) };
        Box::new(Change { timestamp: 3, operation: By::Update, row: Row::Gone { owner: Some(lease.owner()) } })
    }

    /// What the watch or a look tells of our own record of `change`.
    fn our_record(change: &Change, revision: i64) -> Found {
        let Row::Held { lease, .. } = &change.row else { unreachable!("a lease") };
        let value = crate::record::to_json(lease, change.operation, None, change.timestamp, "a");
        let record = crate::record::Summary::parse(&value);
        Found { as_of: revision, key: Some(FoundKey { revision, etcd_lease: 0, record }) }
    }

    fn pending_with_index() -> Pending {
        let mut writer = Writer::plain("a");
        writer.index = crate::index::Index::new("/p", &[crate::index::Kind::Hostname]);
        Pending::new(writer)
    }

    /// With the record of a lease of the name x, written at revision 5, and its index key.
    fn indexed() -> Pending {
        let mut pending = pending_with_index();
        pending.put(v4(0), named(b"x", 1));
        let batch = pending.next_batch(0).unwrap();
        pending.landed(batch, 5);
        pending
    }

    #[test]
    fn our_own_records_leave_no_index_keys_behind_and_need_no_comparison() {
        let mut pending = indexed();
        // A renewal, whose event overtakes its answer.
        pending.put(v4(0), named(b"x", 2));
        let batch = pending.next_batch(0).unwrap();
        assert!(pending.noticed(v4(0), our_record(&named(b"x", 2), 6), None));
        pending.landed(batch, 6);
        assert!(!pending.take_orphans(), "it was our own event");
        // Another name: the record is looked at before it is written over.
        pending.put(v4(0), named(b"y", 3));
        let look = pending.next_batch(0).unwrap();
        assert!(look.only_looks());
        pending.seen(look, vec![our_record(&named(b"x", 2), 6)]);
        let batch = pending.next_batch(0).unwrap();
        pending.landed(batch, 7);
        assert!(!pending.take_orphans(), "the record was as we had written it");
        // Somebody forges it: which index keys there were is known no more.
        assert!(!pending.noticed(v4(0), our_record(&named(b"forged", 3), 8), None));
        pending.put(v4(0), named(b"z", 4));
        let batch = pending.next_batch(0).unwrap();
        pending.seen(batch, vec![our_record(&named(b"forged", 3), 8)]);
        let batch = pending.next_batch(0).unwrap();
        pending.landed(batch, 9);
        assert!(pending.take_orphans());
    }

    #[test]
    fn a_finding_that_fails_settles_nothing() {
        let mut pending = indexed();
        // Somebody takes the record away, and not its index key; nobody knows whether it was written again.
        let removed = || Found { key: None, as_of: 6 };
        assert!(!pending.noticed(v4(0), removed(), None));
        assert!(pending.observe(v4(0), removed()));
        pending.put(v4(0), Box::new(Change { operation: By::Sync, ..*named(b"x", 1) }));
        let batch = pending.next_batch(0).unwrap();
        pending.failed(batch);
        assert_eq!(pending.take_again(), [v4(0)]);
        // The lease changes hands.
        pending.put(v4(0), named(b"y", 2));
        let batch = pending.next_batch(0).unwrap();
        pending.landed(batch, 7);
        assert!(pending.take_orphans(), "the index key of the name x is left");
    }

    #[test]
    fn what_is_spoilt_before_the_first_write_is_answered_is_told_by_the_watch() {
        let mut pending = pending_with_index();
        pending.put(v4(0), named(b"x", 1));
        let batch = pending.next_batch(0).unwrap();
        // Meanwhile the lease changes hands, and the record is spoilt.
        pending.put(v4(0), named(b"y", 2));
        let ours = our_record(&named(b"x", 1), 5);
        let before = ours.key.as_ref().and_then(|key| key.record.clone());
        assert!(pending.noticed(v4(0), ours, None));
        assert!(pending.noticed(v4(0), junk(6), before.as_ref()));
        pending.landed(batch, 5);
        let batch = pending.next_batch(0).unwrap();
        assert_eq!(batch.operations()[0].write.as_ref().unwrap().revision, 6);
        pending.landed(batch, 7);
        assert!(pending.take_orphans(), "the index key of the name x is left");
    }

    #[test]
    fn what_was_spoilt_before_this_server_wrote_over_it_is_told_by_the_watch() {
        let mut pending = pending_with_index();
        // A record of an earlier life of this server was spoilt; this one wrote over that before it was told.
        let before = our_record(&named(b"x", 1), 5).key.and_then(|key| key.record);
        let unnamed = named(b"", 2);
        pending.put(v4(0), unnamed.clone());
        let batch = pending.next_batch(0).unwrap();
        pending.seen(batch, vec![junk(6)]);
        let batch = pending.next_batch(0).unwrap();
        pending.landed(batch, 7);
        assert!(!pending.noticed(v4(0), junk(6), before.as_ref()));
        assert!(pending.observe(v4(0), our_record(&unnamed, 7)));
        pending.put(v4(0), Box::new(Change { operation: By::Sync, ..*unnamed }));
        assert!(pending.next_batch(0).is_none(), "the record is as it should be");
        assert!(pending.take_orphans(), "the index key of the name x is left");
    }

    #[test]
    fn a_removal_takes_along_the_index_keys_of_the_lease_that_went_and_no_others() {
        for (name, left) in [("x", false), ("", true)] {
            let mut pending = indexed();
            assert!(!pending.noticed(v4(0), junk(6), None));
            // With another name the lease changed hands, and ended before that was written.
            pending.put(v4(0), ended(name.as_bytes(), 2));
            let look = pending.next_batch(0).unwrap();
            pending.seen(look, vec![junk(6)]);
            let batch = pending.next_batch(0).unwrap();
            pending.landed(batch, 7);
            assert_eq!(pending.take_orphans(), left, "{name:?}");
        }
    }

    #[test]
    fn our_own_event_does_not_hide_what_was_spoilt_before() {
        let mut pending = indexed();
        pending.put(v4(0), named(b"y", 2));
        let look = pending.next_batch(0).unwrap();
        assert!(pending.noticed(v4(0), junk(6), None));
        pending.seen(look, vec![junk(6)]);
        let batch = pending.next_batch(0).unwrap();
        // The watch is faster than the answer.
        assert!(pending.noticed(v4(0), our_record(&named(b"y", 2), 7), None));
        pending.landed(batch, 7);
        assert!(pending.take_orphans(), "the index key of the name x is left");
    }

    #[test]
    fn removing_index_keys_that_are_gone_tells_no_revision_of_its_own() {
        let mut pending = indexed();
        let removed = || Found { key: None, as_of: 6 };
        assert!(!pending.noticed(v4(0), removed(), None));
        pending.put(v4(0), ended(b"y", 2));
        let look = pending.next_batch(0).unwrap();
        pending.seen(look, vec![removed()]);
        let batch = pending.next_batch(0).unwrap();
        assert_eq!(batch.operations()[0].write.as_ref().unwrap().action, Action::Keep);
        pending.landed(batch, 6);
        assert!(pending.take_orphans(), "the index key of the name x is left");
    }

    #[test]
    fn a_change_that_yields_takes_no_index_keys_along() {
        let mut pending = indexed();
        assert!(!pending.noticed(v4(0), junk(6), None));
        // A partner gives the address to somebody else, and then the end of our lease is told.
        let Row::Held { lease, .. } = named(b"y", 2).row else { unreachable!("a lease") };
        let value = crate::record::to_json(&lease, By::Offer, None, 2, "b");
        let key = FoundKey { revision: 7, etcd_lease: 0, record: Summary::parse(&value) };
        pending.put(v4(0), ended(b"x", 1));
        let look = pending.next_batch(0).unwrap();
        pending.seen(look, vec![Found { as_of: 7, key: Some(key) }]);
        assert!(pending.next_batch(0).is_none(), "it yields");
        assert!(pending.take_orphans(), "the index key of the name x is left");
    }

    #[test]
    fn a_record_that_is_written_again_as_it_was_leaves_no_index_keys_behind() {
        let mut pending = indexed();
        let removed = || Found { key: None, as_of: 6 };
        assert!(!pending.noticed(v4(0), removed(), None));
        assert!(pending.observe(v4(0), removed()));
        pending.put(v4(0), Box::new(Change { operation: By::Sync, ..*named(b"x", 1) }));
        let batch = pending.next_batch(0).unwrap();
        pending.landed(batch, 7);
        assert!(!pending.take_orphans());
    }

    #[test]
    fn a_transaction_has_room_for_the_index_keys() {
        let mut writer = Writer::plain("a");
        writer.index = crate::index::Index::new("/p", &[crate::index::Kind::HwAddress, crate::index::Kind::Hostname]);
        let mut pending = Pending::new(writer);
        for n in 0..100 {
            let lease = Lease { hwaddr: [1].into(), hostname: (*b"x").into(), ..Lease::plain_v4(n) };
            let row = Row::Held { lease, relay: None };
            pending.put(v4(n), Box::new(Change { timestamp: 1, operation: By::Offer, row }));
        }
        let sizes: Vec<usize> =
            std::iter::from_fn(|| pending.next_batch(0)).map(|batch| batch.operations().len()).collect();
        assert_eq!(sizes, [42, 42, 16], "three operations each");
    }

    #[test]
    fn nothing_unsettled_is_lost_at_the_end() {
        let mut pending = pending(200);
        let batch = pending.next_batch(0).unwrap();
        pending.put(batch.operations()[0].address, change(5));
        let left = pending.into_changes([batch]);
        assert_eq!(left.len(), 200);
        assert_eq!(left.values().filter(|change| change.timestamp == 5).count(), 1);
    }
}
