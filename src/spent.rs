//! Memory of changes, on its way back to Kea's threads.
//!
//! A change is made on a thread of Kea and settled on the worker's. Were it freed there, the worker would take the lock of that
//! thread's heap each time (glibc `malloc/malloc.c`, `_int_free`: beyond the seven of a size that a thread keeps, what is larger
//! than 128 bytes goes back under the lock of the arena that it is from), and whoever allocates there meanwhile sleeps: with a
//! hundred changes at once Kea's main thread made up to 119 futex calls a second at 4,000 leases a second, and slept longer where
//! the worker, which gives way, was not running. So it goes back to Kea's threads and becomes the next change.
//!
//! But for findings, which are few or made by the worker: nothing tells these from those.

use std::sync::{Mutex, PoisonError, TryLockError};

use crate::lease::Change;

/// So many are kept, some 300 KB and the texts that they hold. What is more, after an outage, the worker frees after all.
const MAX: usize = 1024;

/// Changes that nobody needs any more, boxed: it is the boxes that go back.
pub type Settled = Vec<Box<Change>>;

/// See the module.
#[derive(Debug)]
pub struct Spent(Mutex<Settled>);

impl Default for Spent {
    fn default() -> Self {
        Self(Mutex::new(Vec::with_capacity(MAX)))
    }
}

impl Spent {
    /// A change in memory of one that was settled, if there is one. What that held is freed here. Nobody waits for the worker,
    /// which may not be running in the middle of giving some back.
    #[must_use]
    pub fn refill(&self, change: Change) -> Box<Change> {
        let spent = match self.0.try_lock() {
            Ok(mut spent) => spent.pop(),
            // Each step leaves the vector whole.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().pop(),
            Err(TryLockError::WouldBlock) => None,
        };
        match spent {
            Some(mut spent) => {
                *spent = change;
                spent
            }
            None => Box::new(change),
        }
    }

    /// Takes back what was settled.
    pub fn take_back(&self, settled: &mut Settled) {
        if settled.is_empty() {
            return;
        }
        let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // It never grows; and of the end nothing moves.
        let room = settled.len().min(MAX - spent.len());
        spent.extend(settled.drain(settled.len() - room..));
        drop(spent);
        settled.clear();
        settled.shrink_to(MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{Operation, Row};

    fn change(timestamp: i64) -> Change {
        Change { queued: None, timestamp, operation: Operation::Offer, row: Row::Gone { owner: None } }
    }

    #[test]
    fn a_change_takes_the_place_of_one_that_was_settled() {
        let spent = Spent::default();
        let first = spent.refill(change(1));
        let place: *const Change = &raw const *first;
        spent.take_back(&mut vec![first]);
        let second = spent.refill(change(2));
        assert_eq!((second.timestamp, &raw const *second), (2, place));
        assert_eq!(spent.refill(change(3)).timestamp, 3, "there is no other");
    }

    #[test]
    fn their_number_is_bounded() {
        let spent = Spent::default();
        let mut settled: Settled = (0..2000).map(|n| Box::new(change(n))).collect();
        spent.take_back(&mut settled);
        assert!(settled.is_empty());
        let kept = spent.0.lock().unwrap();
        assert_eq!((kept.len(), kept.capacity()), (MAX, MAX));
    }
}
