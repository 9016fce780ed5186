//! The bounded hand-over from Kea's packet threads to the worker: the newest change of each address.
//!
//! The lock is held for one map operation, never while anything allocates a change, waits or talks to Kea. Waking a
//! sleeping thread costs the waker some five microseconds, so a packet thread does it only when the worker has said that
//! it goes to sleep (`armed`), not for each lease.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::lease::Change;

/// Changes by address.
pub type Changes = HashMap<IpAddr, Box<Change>>;

/// See the module.
#[derive(Debug)]
pub struct Handover {
    shared: Mutex<Shared>,
    wake: Notify,
    /// Addresses that the worker has taken and not yet settled.
    taken: AtomicUsize,
    limit: usize,
}

#[derive(Debug)]
struct Shared {
    changes: Changes,
    armed: bool,
}

/// The queue is full: the change was dropped, only a comparison can repair that.
#[derive(Debug, PartialEq, Eq)]
pub struct Overflow;

impl Handover {
    /// A hand-over for at most `limit` addresses that wait to be written.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            shared: Mutex::new(Shared { changes: Self::room(limit), armed: false }),
            wake: Notify::new(),
            taken: AtomicUsize::new(0),
            limit,
        }
    }

    /// An empty map of the size that never grows while a packet thread waits for it.
    #[must_use]
    pub fn room(limit: usize) -> Changes {
        Changes::with_capacity(limit.min(65_536))
    }

    /// Puts in a change; it replaces one that waits for the same address.
    ///
    /// # Errors
    /// [`Overflow`] when as many addresses wait as may.
    pub fn put(&self, address: IpAddr, mut change: Box<Change>) -> Result<(), Overflow> {
        let mut shared = self.lock();
        // What the worker took is bounded by itself (`Pending::absorb`), which knows the addresses.
        let full = shared.changes.len() >= self.limit;
        if full && !shared.changes.contains_key(&address) {
            return Err(Overflow);
        }
        let older = shared.changes.get(&address);
        let stays = older.is_some_and(|older| !change.replaces(older));
        let replaced = if stays {
            Some(change)
        } else {
            if let Some(older) = older {
                change.inherit(older);
            }
            shared.changes.insert(address, change)
        };
        let wake = std::mem::take(&mut shared.armed);
        drop(shared);
        drop(replaced);
        if wake {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Swaps what waits against `empty`.
    pub fn take(&self, empty: Changes) -> Changes {
        std::mem::replace(&mut self.lock().changes, empty)
    }

    /// The worker is about to sleep: the next [`put`](Self::put) will end [`wait`](Self::wait). False when something
    /// waits already.
    pub fn arm(&self) -> bool {
        let mut shared = self.lock();
        shared.armed = shared.changes.is_empty();
        shared.armed
    }

    /// Returns when something was put in after [`arm`](Self::arm).
    pub async fn wait(&self) {
        self.wake.notified().await;
    }

    /// Tells how many addresses the worker has taken and not settled.
    pub fn set_taken(&self, addresses: usize) {
        self.taken.store(addresses, Ordering::Relaxed);
    }

    /// How many addresses wait here.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.lock().changes.len()
    }

    /// How many addresses wait to be written, here and at the worker.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lock().changes.len() + self.taken.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // A map operation that panicked leaves the map whole.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{Operation, Row};
    use crate::record::v4;

    fn change(timestamp: i64) -> Box<Change> {
        Box::new(Change { queued: None, timestamp, operation: Operation::Update, row: Row::Gone { owner: None } })
    }

    #[test]
    fn the_newest_change_of_an_address_is_handed_over() {
        let handover = Handover::new(2);
        handover.put(v4(1), change(1)).unwrap();
        handover.put(v4(1), change(2)).unwrap();
        let taken = handover.take(Handover::room(2));
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[&v4(1)].timestamp, 2);
    }

    #[test]
    fn a_full_queue_drops_new_addresses_but_not_news_of_waiting_ones() {
        let handover = Handover::new(2);
        handover.put(v4(1), change(1)).unwrap();
        handover.put(v4(2), change(1)).unwrap();
        assert_eq!(handover.put(v4(3), change(1)), Err(Overflow));
        handover.put(v4(1), change(2)).unwrap();
        assert_eq!(handover.waiting(), 2);
    }

    #[tokio::test]
    async fn a_sleeping_worker_is_woken_once() {
        let handover = Handover::new(10);
        assert!(handover.arm());
        handover.put(v4(1), change(1)).unwrap();
        handover.put(v4(2), change(1)).unwrap();
        assert!(!handover.arm(), "something waits");
        handover.wait().await;
        assert_eq!(handover.take(Handover::room(10)).len(), 2);
        let again = tokio::time::timeout(std::time::Duration::from_millis(20), handover.wait()).await;
        assert!(again.is_err(), "only the first put woke");
    }
}
