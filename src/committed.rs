//! What Kea has committed and the next turn of its main loop is to read, where the lease database is in Kea's memory.
//!
//! A callout after the write only leaves a line here, on the packet thread, before the client gets its answer. The turn
//! reads the leases one after another, which takes a third of what reading each in its own callout takes, most likely as what
//! is needed for it is in the processor's caches from the second on. Packet threads do not wait for each other at the database's lock to
//! read.
//!
//! The turn comes when the worker is ready for more, and at the latest with its tick, or when [`BATCH`] lines wait.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::lease::{Lease, LeaseType, Operation, Owner};

/// So many lines ask for a turn, whatever the worker does: that keeps Kea's main loop for a third of a millisecond.
pub const BATCH: usize = 256;

/// A change that was told.
#[derive(Debug)]
pub struct Commit {
    /// The address, or the base address of a delegated prefix.
    pub address: IpAddr,
    /// The type that a DHCPv6 lease is looked for as first.
    pub lease_type: LeaseType,
    /// What made it.
    pub operation: Operation,
    /// The first relay's address, when the client's message was relayed.
    pub relay: Option<IpAddr>,
    /// Which lease went, where one did.
    pub owner: Option<Box<Owner>>,
    /// When it was told.
    pub at: Instant,
    /// The lease that the callout showed, if it showed one.
    pub shown: Option<Shown>,
}

impl Commit {
    /// A change of which no more is known.
    #[must_use]
    pub fn of(address: IpAddr, lease_type: LeaseType, operation: Operation) -> Self {
        Self { address, lease_type, operation, relay: None, owner: None, at: Instant::now(), shown: None }
    }
}

/// A lease as a callout showed it. Not what is mirrored: that is what the lease database holds. But when Kea ends (and from
/// 3.0.4 on also when it is configured anew) it closes the database before it unloads the library, and what was not read by
/// then is taken as it was shown. Nobody looks at it before, so it does not matter who else may still write to it.
pub struct Shown(Box<dyn FnOnce() -> Option<Lease> + Send>);

impl Shown {
    /// A lease that is looked at when it is needed, as it rarely is.
    pub fn new(lease: impl FnOnce() -> Option<Lease> + Send + 'static) -> Self {
        Self(Box::new(lease))
    }

    /// The lease.
    #[must_use]
    pub fn lease(self) -> Option<Lease> {
        (self.0)()
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Shown")
    }
}

#[derive(Debug)]
struct State {
    commits: Vec<Commit>,
    turn_wanted: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Committed {
    state: Mutex<State>,
}

impl Default for Committed {
    fn default() -> Self {
        Self { state: Mutex::new(State { commits: Vec::with_capacity(BATCH), turn_wanted: false }) }
    }
}

impl Committed {
    /// Leaves a change to the next turn; how many wait then.
    ///
    /// # Errors
    /// The change, when `limit` others wait.
    pub fn put(&self, commit: Commit, limit: usize) -> Result<usize, Commit> {
        let commits = &mut self.lock().commits;
        if commits.len() >= limit {
            return Err(commit);
        }
        commits.push(commit);
        Ok(commits.len())
    }

    /// Whether something waits and nobody has asked for a turn yet; the caller does.
    pub fn want_turn(&self) -> bool {
        let mut state = self.lock();
        !state.commits.is_empty() && !std::mem::replace(&mut state.turn_wanted, true)
    }

    /// Takes everything, in the order in which it was told.
    pub fn take(&self) -> Vec<Commit> {
        let mut state = self.lock();
        state.turn_wanted = false;
        if state.commits.is_empty() {
            return Vec::new();
        }
        // So much that it need not grow on a packet thread.
        std::mem::replace(&mut state.commits, Vec::with_capacity(BATCH))
    }

    /// Puts back what was taken and not read. It stays before what was told meanwhile.
    pub fn give_back(&self, rest: impl Iterator<Item = Commit>) {
        let mut all: Vec<Commit> = rest.collect();
        let mut state = self.lock();
        all.append(&mut state.commits);
        state.commits = all;
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().commits.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each step leaves the vector whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::v4;

    fn commit(address: u32) -> Commit {
        Commit::of(v4(address), LeaseType::Na, Operation::Offer)
    }

    fn addresses(commits: &[Commit]) -> Vec<IpAddr> {
        commits.iter().map(|commit| commit.address).collect()
    }

    #[test]
    fn changes_are_taken_in_the_order_in_which_they_were_told() {
        let committed = Committed::default();
        for address in [2, 1, 2] {
            committed.put(commit(address), 10).unwrap();
        }
        let mut taken = committed.take().into_iter();
        assert_eq!(taken.next().unwrap().address, v4(2));
        committed.put(commit(3), 10).unwrap();
        committed.give_back(taken);
        assert_eq!(addresses(&committed.take()), [1, 2, 3].map(v4));
        assert!(committed.is_empty());
    }

    #[test]
    fn a_turn_is_asked_for_once() {
        let committed = Committed::default();
        assert!(!committed.want_turn(), "nothing waits");
        committed.put(commit(1), 10).unwrap();
        assert!(committed.want_turn());
        assert!(!committed.want_turn());
        committed.take();
        committed.put(commit(1), 10).unwrap();
        assert!(committed.want_turn());
    }

    #[test]
    fn their_number_is_bounded() {
        let committed = Committed::default();
        assert_eq!(committed.put(commit(1), 1).ok(), Some(1));
        assert_eq!(committed.put(commit(2), 1).map_err(|refused| refused.address), Err(v4(2)));
    }
}
