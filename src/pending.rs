//! What the worker has taken and etcd has not acknowledged: which addresses wait, which are in a transaction under way,
//! and which revision each key had when it was last seen. No I/O.
//!
//! An address is in one transaction at a time; a change that comes meanwhile waits and replaces what would be tried
//! again. So whatever etcd applies, it applies in the order of the changes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;

use crate::guard::{self, Found, Verdict};
use crate::handover::Changes;
use crate::lease::{Change, Row};

/// Operations a transaction may hold: etcd's default `--max-txn-ops`, which counts the largest of compares, operations on
/// success and operations on failure.
pub const MAX_OPERATIONS: usize = 128;

/// Bytes of records in one transaction, well below etcd's default `--max-request-bytes` of 1.5 MiB.
pub const MAX_BYTES: usize = 1024 * 1024;

/// One operation of a batch.
#[derive(Debug)]
pub struct Operation {
    /// The address whose record is written or removed.
    pub address: IpAddr,
    /// The change.
    pub change: Box<Change>,
    /// The revision that the key must still have; 0 for a key that must not exist.
    pub revision: i64,
}

/// The operations of one transaction: between one and [`MAX_OPERATIONS`], each for another address.
#[derive(Debug)]
pub struct Batch {
    operations: Vec<Operation>,
}

impl Batch {
    /// The operations.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }
}

/// What became of a batch that the condition of some key kept from being written.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Conflicts {
    /// Operations that will be tried again on the revision now known.
    pub retried: usize,
    /// Operations that gave way to what etcd holds.
    pub yielded: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Pending {
    waiting: HashMap<IpAddr, Box<Change>>,
    /// Addresses of `waiting` that are in no transaction, in the order in which they are due.
    due: VecDeque<IpAddr>,
    in_flight: HashSet<IpAddr>,
    /// Parts of a refused batch, to find the operation that etcd does not take.
    halves: VecDeque<Vec<Operation>>,
    /// The revision of each key that is known to exist.
    known: HashMap<IpAddr, i64>,
}

impl Pending {
    /// Takes over changes from the packet threads; each replaces an older one of its address. An address beyond `limit`
    /// is dropped, never news of one that is pending already. Returns how many were dropped.
    pub fn absorb(&mut self, changes: &mut Changes, limit: usize) -> usize {
        let mut dropped = 0;
        for (address, change) in changes.drain() {
            let known = self.waiting.contains_key(&address) || self.in_flight.contains(&address);
            if known || self.len() < limit {
                self.put(address, change);
            } else {
                dropped += 1;
            }
        }
        dropped
    }

    fn put(&mut self, address: IpAddr, change: Box<Change>) {
        if self.waiting.insert(address, change).is_none() && !self.in_flight.contains(&address) {
            self.due.push_back(address);
        }
    }

    /// How many addresses are not settled.
    #[must_use]
    pub fn len(&self) -> usize {
        self.due.len() + self.in_flight.len()
    }

    /// Whether everything is settled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next transaction's operations; `None` when nothing is due. The batch must come back through
    /// [`landed`](Self::landed), [`conflicted`](Self::conflicted), [`failed`](Self::failed) or
    /// [`refused`](Self::refused).
    pub fn next_batch(&mut self) -> Option<Batch> {
        if let Some(operations) = self.halves.pop_front() {
            return Some(Batch { operations });
        }
        let mut operations = Vec::new();
        let mut bytes = 0;
        while operations.len() < MAX_OPERATIONS {
            let Some(&address) = self.due.front() else { break };
            let Some(change) = self.waiting.get(&address) else {
                self.due.pop_front();
                continue;
            };
            bytes += change.estimated_bytes();
            if bytes > MAX_BYTES && !operations.is_empty() {
                break;
            }
            self.due.pop_front();
            if let Some(change) = self.waiting.remove(&address) {
                self.in_flight.insert(address);
                let revision = self.known.get(&address).copied().unwrap_or(0);
                operations.push(Operation { address, change, revision });
            }
        }
        (!operations.is_empty()).then_some(Batch { operations })
    }

    /// The transaction was applied at `revision`.
    pub fn landed(&mut self, batch: Batch, revision: i64) {
        for Operation { address, change, .. } in batch.operations {
            self.see(address, if matches!(change.row, Row::Held { .. }) { revision } else { 0 });
            self.settle(address);
        }
    }

    /// Some key had another revision, so nothing was applied; `found` is what each key of the batch holds, in order.
    pub fn conflicted(&mut self, batch: Batch, found: &[Option<Found>], server: &str) -> Conflicts {
        let mut conflicts = Conflicts::default();
        for (Operation { address, change, revision }, found) in batch.operations.into_iter().zip(found) {
            let now = found.as_ref().map_or(0, |found| found.revision);
            let verdict = if now == revision {
                Verdict::Write { revision }
            } else {
                guard::decide(&change, server, found.as_ref())
            };
            match verdict {
                Verdict::Write { revision } => {
                    self.see(address, revision);
                    conflicts.retried += 1;
                    self.put_back(address, change);
                }
                Verdict::Yield => {
                    // Unknown on purpose: the next change of this address is to be compared as well.
                    self.see(address, 0);
                    conflicts.yielded += 1;
                    self.settle(address);
                }
            }
        }
        conflicts
    }

    /// The transaction was not applied, or nobody knows: everything is tried again, or what is newer.
    pub fn failed(&mut self, batch: Batch) {
        for Operation { address, change, .. } in batch.operations {
            self.put_back(address, change);
        }
    }

    /// etcd refuses the transaction for good. It is halved to find the operation that it does not take; that one is given
    /// back (with whether a newer change of its address waits) and is no longer pending.
    pub fn refused(&mut self, batch: Batch) -> Option<Operation> {
        let mut operations = batch.operations;
        if operations.len() == 1 {
            let operation = operations.pop()?;
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

    /// The key has this revision; 0 when it does not exist, or when nobody knows.
    fn see(&mut self, address: IpAddr, revision: i64) {
        if revision == 0 {
            self.known.remove(&address);
        } else {
            self.known.insert(address, revision);
        }
    }

    fn put_back(&mut self, address: IpAddr, change: Box<Change>) {
        self.waiting.entry(address).or_insert(change);
        self.settle(address);
    }

    /// The address is in no transaction any more.
    fn settle(&mut self, address: IpAddr) {
        self.in_flight.remove(&address);
        if self.waiting.contains_key(&address) {
            self.due.push_back(address);
        }
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::v4;

    fn gone(timestamp: i64) -> Box<Change> {
        Box::new(Change { timestamp, row: Row::Gone { owner: None } })
    }

    fn pending(addresses: u32) -> Pending {
        let mut pending = Pending::default();
        for n in 0..addresses {
            pending.put(v4(n), gone(1));
        }
        pending
    }

    #[test]
    fn batches_hold_at_most_128_operations() {
        let mut pending = pending(300);
        let sizes: Vec<usize> =
            std::iter::from_fn(|| pending.next_batch()).map(|batch| batch.operations().len()).collect();
        assert_eq!(sizes, [128, 128, 44]);
    }

    #[test]
    fn an_address_is_in_one_transaction_at_a_time() {
        let mut pending = pending(1);
        let first = pending.next_batch().unwrap();
        pending.put(v4(0), gone(2));
        assert!(pending.next_batch().is_none());
        pending.landed(first, 7);
        assert_eq!(pending.next_batch().unwrap().operations()[0].change.timestamp, 2);
    }

    #[test]
    fn what_failed_is_tried_again_unless_newer_news_came() {
        let mut pending = pending(2);
        let batch = pending.next_batch().unwrap();
        pending.put(v4(1), gone(2));
        pending.failed(batch);
        let again = pending.next_batch().unwrap();
        let mut times: Vec<i64> = again.operations().iter().map(|operation| operation.change.timestamp).collect();
        times.sort_unstable();
        assert_eq!(times, [1, 2]);
    }

    #[test]
    fn beyond_the_limit_new_addresses_are_dropped_but_not_news_of_pending_ones() {
        let mut pending = pending(2);
        let batch = pending.next_batch().unwrap();
        let mut news: Changes = (0..4).map(|n| (v4(n), gone(2))).collect();
        assert_eq!(pending.absorb(&mut news, 2), 2);
        pending.failed(batch);
        let again = pending.next_batch().unwrap();
        assert_eq!(again.operations().iter().map(|operation| operation.change.timestamp).collect::<Vec<_>>(), [2, 2]);
    }

    #[test]
    fn the_one_operation_that_etcd_refuses_is_found_and_the_others_go_on() {
        let mut pending = pending(100);
        let (mut landed, mut refused) = (0, Vec::new());
        while let Some(batch) = pending.next_batch() {
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

    #[test]
    fn a_conflict_retries_on_the_revision_found() {
        let mut pending = pending(2);
        let batch = pending.next_batch().unwrap();
        let junk = Found { revision: 9, record: None };
        let found: Vec<Option<Found>> =
            batch.operations().iter().map(|operation| (operation.address == v4(0)).then(|| junk.clone())).collect();
        // The other key is absent, as the condition said: its operation is simply tried again.
        assert_eq!(pending.conflicted(batch, &found, "a"), Conflicts { retried: 2, yielded: 0 });
        let again = pending.next_batch().unwrap();
        let on = |address| again.operations().iter().find(|operation| operation.address == address).unwrap().revision;
        assert_eq!((on(v4(0)), on(v4(1))), (9, 0));
    }

    #[test]
    fn nothing_unsettled_is_lost_at_the_end() {
        let mut pending = pending(200);
        let batch = pending.next_batch().unwrap();
        pending.put(batch.operations()[0].address, gone(5));
        let left = pending.into_changes([batch]);
        assert_eq!(left.len(), 200);
        assert_eq!(left.values().filter(|change| change.timestamp == 5).count(), 1);
    }
}
