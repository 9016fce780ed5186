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
//!
//! Where two servers share a lease database, what one writes may be old news by then: the lease ended through the other,
//! whose removal found nothing yet. The watch tells that one of the late record; it finds no lease, and knows from
//! [`ended`](crate::ended) that the record is about the one that ended.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;

use crate::ended::Ended;
use crate::guard::Found;
use crate::handover::{ByAddress, Changes};
use crate::lease::{self, Change, Lease, Row};
use crate::leftovers::{Before, Leftovers};
use crate::spent::Settled;
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

    /// Whether the key of some address has another revision afterwards.
    #[must_use]
    pub fn changes_keys(&self) -> bool {
        self.operations.iter().filter_map(|operation| operation.write.as_ref()).any(Write::changes_key)
    }

    /// Whether the keys are only to be read.
    #[must_use]
    pub fn only_looks(&self) -> bool {
        self.operations.iter().all(|operation| operation.write.is_none())
    }
}

/// What a key was last found to hold.
#[derive(Clone, Debug)]
struct Seen {
    found: Found,
    /// Whether only the watch told. It may lag behind our own writes: good enough to write on, which etcd checks, but
    /// nothing is settled by it without a look.
    heard: bool,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Pending {
    writer: Writer,
    waiting: Changes,
    /// Addresses of `waiting` that are in no transaction, in the order in which they are due.
    due: VecDeque<IpAddr>,
    /// Those of them whose key must be read before anything is written.
    unseen: VecDeque<IpAddr>,
    /// With the number of leftovers that the transaction removes the index keys of.
    in_flight: ByAddress<usize>,
    /// The revisions that writes expected which were not applied, until their keys are read: that tells which of them somebody
    /// changed.
    expected: ByAddress<i64>,
    /// Parts of a refused batch, to find the operation that etcd does not take.
    halves: VecDeque<Vec<Operation>>,
    known: ByAddress<Known>,
    /// What the keys of pending and suspected addresses were found to hold.
    found: ByAddress<Seen>,
    /// Addresses that are being observed, and of which nothing was under way then or was sent since.
    asked: HashSet<IpAddr>,
    /// Addresses that were observed, and whose reading has perhaps not come yet.
    observed: Vec<IpAddr>,
    /// Addresses that are to be suspected again.
    again: Vec<IpAddr>,
    /// Changes that were told and that nobody needs any more.
    settled: Settled,
    ended: Ended,
    leftovers: Leftovers,
    looked: bool,
}

impl Pending {
    /// Nothing yet, to be written by `writer`.
    #[must_use]
    pub fn new(writer: Writer) -> Self {
        Self {
            writer,
            waiting: Changes::default(),
            due: VecDeque::new(),
            unseen: VecDeque::new(),
            in_flight: ByAddress::default(),
            expected: ByAddress::default(),
            halves: VecDeque::new(),
            known: ByAddress::default(),
            found: ByAddress::default(),
            asked: HashSet::new(),
            observed: Vec::new(),
            again: Vec::new(),
            settled: Settled::new(),
            ended: Ended::default(),
            leftovers: Leftovers::default(),
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
                if !change.replaces(told) {
                    // It is as it was told, and that knows the relay as well.
                    return;
                }
                // Read later, so newer; but what made the change is known from the older one.
                let mut newer = change;
                newer.inherit(told);
                if told.takes_back() && matches!(newer.row, Row::Held { .. }) {
                    // That lease went; nobody told how this one came.
                    told.operation = lease::Operation::Update;
                }
                told.row = newer.row;
                return;
            }
            if self.in_flight.contains_key(&address) || !self.found.contains_key(&address) {
                self.again.push(address);
                return;
            }
            if let Row::Gone { owner: owner @ None } = &mut change.row {
                *owner = self.ended.owner(address);
            }
        } else if !self.in_flight.contains_key(&address)
            && self.waiting.get(&address).is_none_or(|older| older.is_finding())
        {
            // Observed for a finding.
            self.found.remove(&address);
        }
        if let Some(older) = self.waiting.get(&address) {
            change.inherit(older);
        }
        match self.waiting.insert(address, change) {
            Some(older) => self.spend(older),
            None if self.in_flight.contains_key(&address) => {}
            None => self.due.push_back(address),
        }
    }

    /// Whether something of this address is unsettled.
    #[must_use]
    pub fn is_pending(&self, address: IpAddr) -> bool {
        self.waiting.contains_key(&address) || self.in_flight.contains_key(&address)
    }

    /// The addresses of which something is unsettled or being observed, some of them more than once. A comparison that begins
    /// judges none of them: what was observed may be older than what it reads, and where the watch lost what lies between nobody
    /// else would notice.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let observed = self.asked.iter().chain(&self.observed);
        self.due.iter().chain(&self.unseen).chain(self.in_flight.keys()).chain(observed).copied()
    }

    /// How many addresses are not settled.
    #[must_use]
    pub fn len(&self) -> usize {
        self.due.len() + self.unseen.len() + self.in_flight.len()
    }

    /// How many addresses are due to be written or looked at, those under way not among them.
    #[must_use]
    pub fn due(&self) -> usize {
        self.due.len() + self.unseen.len() + self.halves.iter().map(Vec::len).sum::<usize>()
    }

    /// Whether something is due to be written that needs no look before, as far as is known.
    #[must_use]
    pub fn is_write_due(&self) -> bool {
        !self.due.is_empty() || !self.halves.is_empty()
    }

    /// Of how many addresses it is known what their keys hold: those of which a finding waits, but for the few that are observed
    /// and those that somebody else changed.
    #[must_use]
    pub fn found(&self) -> usize {
        self.found.len()
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
        self.known = ByAddress::default();
        self.found = ByAddress::default();
        self.expected = ByAddress::default();
        self.leftovers = Leftovers::default();
        self.in_flight.values_mut().for_each(|leftovers| *leftovers = 0);
        self.drop_findings();
    }

    /// Nothing that was found is written on: after an outage it is old, and what happened since was not heard. It is
    /// suspected again.
    pub fn drop_findings(&mut self) {
        let (again, found) = (&mut self.again, &mut self.found);
        self.waiting.retain(|address, change| {
            if change.is_finding() {
                again.push(*address);
                found.remove(address);
            }
            !change.is_finding()
        });
        self.due.retain(|address| self.waiting.contains_key(address));
        self.unseen.retain(|address| self.waiting.contains_key(address));
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
            let free = !self.in_flight.contains_key(&address);
            let Some(change) = self.waiting.get(&address).filter(|_| free) else {
                self.due.pop_front();
                continue;
            };
            let (known, seen) = (self.known.get(&address).copied(), self.found.get(&address));
            let left = self.leftovers.of(address);
            let leftovers = left.len();
            let heard = seen.is_some_and(|seen| seen.heard);
            let write = match self.writer.plan(address, change, known, seen.map(|seen| &seen.found), &left, now) {
                Plan::Write(write) => write,
                Plan::Settled(known) if !heard => {
                    self.due.pop_front();
                    self.found.remove(&address);
                    if let Some(mut change) = self.waiting.remove(&address) {
                        self.ended.note(address, &mut change, false);
                        self.spend(change);
                    }
                    self.leftovers.settle(address, leftovers, None);
                    self.remember(address, known);
                    continue;
                }
                Plan::Look | Plan::Settled(_) => {
                    self.due.pop_front();
                    self.unseen.push_back(address);
                    continue;
                }
            };
            // etcd bounds conditions as well, and each has one, also where nothing is written.
            weight += write.operations().max(1);
            bytes += change.estimated_bytes();
            if !operations.is_empty() && (weight > MAX_OPERATIONS || bytes > MAX_BYTES) {
                break;
            }
            self.due.pop_front();
            operations.extend(self.take_off(address, Some(write), leftovers));
        }
        (!operations.is_empty()).then_some(Batch { operations })
    }

    fn next_looks(&mut self) -> Option<Batch> {
        let mut operations = Vec::new();
        while operations.len() < MAX_OPERATIONS {
            let Some(address) = self.unseen.pop_front() else { break };
            operations.extend(self.take_off(address, None, 0));
        }
        (!operations.is_empty()).then_some(Batch { operations })
    }

    fn take_off(&mut self, address: IpAddr, write: Option<Write>, leftovers: usize) -> Option<Operation> {
        if self.in_flight.contains_key(&address) {
            return None;
        }
        let change = self.waiting.remove(&address)?;
        self.found.remove(&address);
        self.asked.remove(&address);
        self.in_flight.insert(address, leftovers);
        Some(Operation { address, change, write })
    }

    /// The transaction was applied at `revision`. Returns the addresses that are to be suspected: somebody else has changed
    /// them since, has left something behind, or told something else of the same second.
    pub fn landed(&mut self, batch: Batch, revision: i64) -> Vec<IpAddr> {
        let mut suspects = Vec::new();
        for Operation { address, mut change, write } in batch.operations {
            let contested = write.as_ref().is_some_and(|write| write.contests);
            let own = write.as_ref().filter(|write| write.changes_key()).map(|_| revision);
            let on_absence = write.as_ref().is_some_and(|write| write.revision == 0);
            let kept = write.filter(|write| write.action == Action::Keep).map(|write| write.revision);
            let overtaken = self.found.get(&address).is_some_and(|seen| seen.found.as_of > revision);
            // Absence has no revision: somebody may have written the key and removed it before ours landed.
            let crossed =
                on_absence && self.found.get(&address).is_some_and(|seen| seen.heard && seen.found.as_of < revision);
            if !overtaken {
                // Else it is what a change that waits is to be decided on.
                self.found.remove(&address);
            }
            let ours = own.or(kept).filter(|_| matches!(change.row, Row::Held { .. }) && !overtaken);
            let indexed = self.writer.indexed(address, &change);
            self.remember(address, ours.map(|revision| Known { revision, indexed }));
            let leftovers = self.in_flight.get(&address).copied().unwrap_or(0);
            let left = self.leftovers.settle(address, leftovers, own);
            self.ended.note(address, &mut change, own.is_some());
            self.spend(change);
            if crossed || contested || !self.waiting.contains_key(&address) && (overtaken || left) {
                suspects.push(address);
            }
            self.settle(address);
        }
        suspects
    }

    /// The keys were read, and `found` is what each holds; or nothing was applied, since some key has another revision than
    /// expected, or the session is over: then all are read before they are written again, and what was a finding is observed anew.
    /// Returns how many keys that were read because of that turned out to be changed by somebody else.
    pub fn seen(&mut self, batch: Batch, found: Vec<Found>) -> usize {
        let (mut conflicts, mut found) = (0, found.into_iter());
        for Operation { address, change, write } in batch.operations {
            let found = if write.is_none() { found.next() } else { None };
            if change.is_finding() {
                self.suspect_again(address);
                continue;
            }
            if let Some(write) = write {
                self.expected.insert(address, write.revision);
                self.wait_again(address, change);
                self.in_flight.remove(&address);
                self.unseen.push_back(address);
                continue;
            }
            if let Some(found) = found {
                if self.expected.remove(&address).is_some_and(|expected| expected != found.revision()) {
                    let record = found.key.as_ref().and_then(|key| key.record.as_ref());
                    conflicts += usize::from(record.is_none_or(|record| record.server != self.writer.server));
                }
                self.find(address, Seen { found, heard: false });
            }
            self.put_back(address, change);
        }
        conflicts
    }

    /// The keys of suspects are about to be observed, and nothing else is being observed.
    pub fn ask(&mut self, suspects: &[IpAddr]) {
        let is_under_way = |address: &IpAddr| self.in_flight.contains_key(address);
        self.asked = suspects.iter().copied().filter(|address| !is_under_way(address)).collect();
    }

    /// The keys that were asked for are not told.
    pub fn unanswered(&mut self) {
        self.asked.clear();
    }

    /// The key of a suspect was observed. Whether its lease is to be read now: not when something of it is pending, which
    /// may have been read before what made it a suspect, or was under way at any time since the key was asked for, which the
    /// answer may not show; nor when the key is known to have changed since. Then it is suspected again.
    pub fn observe(&mut self, address: IpAddr, found: Found) -> bool {
        if !self.asked.remove(&address) || !self.is_news(address, &found) {
            self.again.push(address);
            return false;
        }
        self.found.insert(address, Seen { found, heard: false });
        self.observed.push(address);
        true
    }

    /// A comparison read that the address had no record at `revision`, and this lease after that. It is written if there
    /// still is none; when more is known of the address, it is suspected instead.
    pub fn found_missing(&mut self, lease: Lease, revision: i64) {
        let (address, found) = (lease.address, Found { as_of: revision, key: None });
        if !self.is_news(address, &found) {
            self.again.push(address);
            return;
        }
        self.found.insert(address, Seen { found, heard: false });
        let change = Change {
            queued: None,
            timestamp: lease.cltt,
            operation: lease::Operation::Sync,
            row: Row::Held { lease, relay: None },
        };
        self.put(address, Box::new(change));
    }

    /// Whether nothing newer than what was found of a key is known, or under way.
    fn is_news(&self, address: IpAddr, found: &Found) -> bool {
        let known = self.known.get(&address).map_or(0, |known| known.revision);
        !self.is_pending(address) && known.max(self.leftovers.as_of(address)) <= found.as_of
    }

    /// Whether the last lease of an address ended here, and that is remembered: a record that another server has for it may
    /// be a late one.
    #[must_use]
    pub fn has_ended(&self, address: IpAddr) -> bool {
        self.ended.owner(address).is_some()
    }

    /// The changes that were settled since the last time, whose memory is Kea's (see [`crate::spent`]).
    pub fn settled(&mut self) -> &mut Settled {
        &mut self.settled
    }

    /// Nobody needs it any more. What Kea told of is in memory of its threads.
    fn spend(&mut self, change: Box<Change>) {
        if !change.is_finding() {
            self.settled.push(change);
        }
    }

    /// The addresses that are to be suspected again, since something changed between two readings.
    pub fn take_again(&mut self) -> Vec<IpAddr> {
        std::mem::take(&mut self.again)
    }

    /// Whether index keys may be left of which nobody knows, so that only a comparison finds them; once.
    pub fn take_index_in_doubt(&mut self) -> bool {
        self.leftovers.take_in_doubt()
    }

    /// Somebody else changed the key of an address. Whether that is settled with the change that is pending; when not,
    /// the address is a suspect. What was found of it before counts no more. `before` is what was there.
    pub fn noticed(&mut self, address: IpAddr, found: &Found, before: Before) -> bool {
        self.leftovers.note(address, found, before, &self.writer.server);
        let told_waits = self.waiting.get(&address).is_some_and(|change| !change.is_finding());
        // Perhaps it is our own write, whose answer is on its way: that tells.
        let under_way = self.in_flight.contains_key(&address);
        if under_way || told_waits {
            let is_older = self.known.get(&address).is_some_and(|known| known.revision > found.as_of);
            if is_older {
                // What we wrote since may have been on absence, with this key written and removed before. Nobody knows then whether
                // our lease was read before that, too.
                self.again.push(address);
            }
            // Else no news.
            if under_way || !is_older {
                self.find(address, Seen { found: found.clone(), heard: true });
            }
            return true;
        }
        self.found.remove(&address);
        self.waiting.remove(&address);
        self.remember(address, None);
        false
    }

    /// What is newer counts.
    fn find(&mut self, address: IpAddr, seen: Seen) {
        if self.found.get(&address).is_none_or(|older| older.found.as_of <= seen.found.as_of) {
            self.found.insert(address, seen);
        }
    }

    /// Whether something was observed whose reading has not been taken in.
    #[must_use]
    pub fn has_observed(&self) -> bool {
        !self.observed.is_empty()
    }

    /// What was observed has been read, and what was read has come: of an address of which nothing waits, there was
    /// nothing to be told.
    pub fn all_read(&mut self) {
        for address in std::mem::take(&mut self.observed) {
            if !self.is_pending(address) {
                self.found.remove(&address);
            }
        }
    }

    /// Everything was compared with what etcd held at `revision`, and index keys without a record were removed.
    pub fn compared(&mut self, revision: i64) {
        self.leftovers.compared(revision, |address| self.in_flight.contains_key(&address));
    }

    /// The request was not applied, or nobody knows: everything is tried again, or what is newer.
    pub fn failed(&mut self, batch: Batch) {
        for Operation { address, change, write } in batch.operations {
            if change.is_finding() {
                self.suspect_again(address);
            } else {
                if write.is_some_and(|write| write.contests) {
                    // Perhaps it was applied: then nothing tells that it took another's place.
                    self.again.push(address);
                }
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
        self.wait_again(address, change);
        self.settle(address);
    }

    fn wait_again(&mut self, address: IpAddr, change: Box<Change>) {
        // What came meanwhile is newer, but etcd has been behind since this one.
        if let Some(newer) = self.waiting.get_mut(&address) {
            newer.queued = change.queued.or(newer.queued);
            self.spend(change);
        } else {
            self.waiting.insert(address, change);
        }
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
mod random;

#[cfg(test)]
mod store;

#[cfg(test)]
mod tests;
