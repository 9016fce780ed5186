//! How long changes gather before the next transaction. No I/O.
//!
//! A transaction costs etcd and this thread far more than a change in it does, and waking this thread costs the packet
//! thread that does it. So at a high rate changes gather for some milliseconds, in which nobody wakes this thread; at a low
//! rate each is sent at once.

use std::time::Duration;

use tokio::time::Instant;

/// For each change of a transaction, the next one is sent so much later.
const PER_CHANGE: Duration = Duration::from_micros(500);
/// But so much later at most. What gathered is read after that, at a turn of Kea's main loop ([`crate::committed`]).
const LONGEST: Duration = Duration::from_millis(15);
/// Of fewer changes nothing is to be gained.
const FEW: usize = 3;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    until: Option<Instant>,
}

impl Gathering {
    /// A transaction with so many changes is being sent, and nothing else waits.
    pub(super) fn begin(&mut self, changes: usize) {
        let pause = PER_CHANGE.saturating_mul(u32::try_from(changes).unwrap_or(u32::MAX)).min(LONGEST);
        self.until = (changes >= FEW).then(|| Instant::now() + pause);
    }

    /// Ends it when it is time.
    pub(super) fn end_in_time(&mut self) {
        self.until = self.until.filter(|until| Instant::now() < *until);
    }

    /// Ends it at once: what was sent was not applied.
    pub(super) fn end(&mut self) {
        self.until = None;
    }

    /// Until when changes are to gather, if they are.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }
}
