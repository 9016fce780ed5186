//! How long changes gather before the next transaction. No I/O.
//!
//! A transaction costs etcd and this thread far more than a change in it does, and waking this thread costs the packet
//! thread that does it. So at a high rate changes gather for some milliseconds, in which nobody wakes this thread; at a low
//! rate each is sent at once.
//!
//! It is Kea that ends it: the first lease that is committed after that time has all read that gathered, and then this thread is
//! woken. Were it to wake first and ask for that, on full cores it would wait for one twice.

use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::time::Instant;

/// For each change of a transaction, the next one is sent so much later.
const PER_CHANGE: Duration = Duration::from_micros(500);
/// So many changes are enough: a transaction takes 127, and what comes until it is made is to fit in, too.
const ENOUGH: u32 = 100;
/// At most as much later as `ENOUGH` changes take at the rate of late, and that within these bounds. What gathered is read after
/// that, at a turn of Kea's main loop ([`crate::committed`]).
const LONGEST: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_millis(25);
/// Of fewer changes nothing is to be gained.
const FEW: u32 = 3;
/// When nothing is committed for so long once it is over, this thread looks itself.
const QUIET: Duration = Duration::from_millis(1);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    until: Option<Instant>,
    /// When the last transaction was sent that this was told of.
    begun: Option<Instant>,
}

impl Gathering {
    /// A transaction with so many changes is being sent, and nothing else waits to be written.
    pub(super) fn begin(&mut self, changes: usize) {
        let now = Instant::now();
        let since = self.begun.replace(now).map_or(Duration::ZERO, |begun| now - begun);
        self.until = pause(u32::try_from(changes).unwrap_or(u32::MAX), since).map(|pause| now + pause);
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

    /// When this thread is to look for what gathered, if nobody has woken it by then.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.until.map(|until| until + QUIET)
    }
}

/// How long changes are to gather after so many that came since the transaction before, if they are.
fn pause(changes: u32, since: Duration) -> Option<Duration> {
    let enough = since.saturating_mul(ENOUGH) / changes.max(1);
    let longest = enough.clamp(*LONGEST.start(), *LONGEST.end());
    (changes >= FEW).then(|| PER_CHANGE.saturating_mul(changes).min(longest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many changes a transaction has in the end, at so many a second.
    fn changes_at(rate: f64) -> f64 {
        let mut since = Duration::from_millis(1);
        (0..100).fold(0.0, |_, _| {
            let changes = rate * since.as_secs_f64();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few hundred at most")]
            let pause = pause(changes as u32, since);
            // What is not gathered for takes a millisecond until it is answered.
            since = pause.unwrap_or_default().max(Duration::from_millis(1));
            changes
        })
    }

    #[test]
    fn a_transaction_grows_with_the_rate_up_to_what_is_enough() {
        assert!(changes_at(1000.0) < 3.0, "sent at once");
        for (rate, changes) in [(4000.0, 100.0), (5000.0, 100.0), (6000.0, 100.0), (8000.0, 100.0), (12000.0, 120.0)] {
            let found = changes_at(rate);
            assert!((found - changes).abs() < 2.0, "{found} at {rate}/s");
        }
    }

    #[test]
    fn nobody_waits_longer_than_that() {
        assert_eq!(pause(u32::MAX, Duration::from_secs(1)), Some(Duration::from_millis(10)));
        assert_eq!(pause(127, Duration::from_secs(1)), Some(Duration::from_millis(25)));
        assert_eq!(pause(4, Duration::from_secs(1)), Some(Duration::from_millis(2)));
        assert_eq!(pause(2, Duration::from_secs(1)), None);
    }
}
