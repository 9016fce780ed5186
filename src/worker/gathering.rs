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

/// For each change that was sent, the next transaction is sent so much later.
const PER_CHANGE: Duration = Duration::from_micros(500);
/// So many changes are enough: a transaction takes 127, and may be made later than planned.
const ENOUGH: u32 = 100;
/// At most as far after the end of the gathering before as `ENOUGH` changes take at the rate of late, and that within these
/// bounds. So what lies between, a turn of Kea's main loop that reads what gathered ([`crate::committed`]), and this thread's
/// wait for a core, comes out of it and makes no transaction later.
const PERIOD: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_millis(25);
/// But so much is left where these take longer than that.
const LEAST: Duration = Duration::from_millis(5);
/// Of fewer changes nothing is to be gained.
const FEW: usize = 3;
/// When nothing is committed for so long once it is over, this thread looks itself.
const QUIET: Duration = Duration::from_millis(1);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    until: Option<Instant>,
    /// When the last one was to end.
    ended: Option<Instant>,
    /// When nothing else waited last.
    begun: Option<Instant>,
    /// How many changes were sent since then.
    sent: usize,
}

impl Gathering {
    /// So many changes are being sent.
    pub(super) fn sent(&mut self, changes: usize) {
        self.sent += changes;
    }

    /// Nothing else waits to be written.
    pub(super) fn begin(&mut self, now: Instant) {
        let changes = std::mem::take(&mut self.sent);
        let since = self.begun.replace(now).map_or(Duration::ZERO, |begun| now - begun);
        if changes < FEW {
            return;
        }
        let changes = u32::try_from(changes).unwrap_or(u32::MAX);
        let period = (since.saturating_mul(ENOUGH) / changes).clamp(*PERIOD.start(), *PERIOD.end());
        let latest = self.ended.map_or(now, |ended| ended + period).max(now + LEAST);
        let until = (now + PER_CHANGE.saturating_mul(changes)).min(latest);
        (self.until, self.ended) = (Some(until), Some(until));
    }

    /// Ends it when it is time.
    pub(super) fn end_in_time(&mut self) {
        self.until = self.until.filter(|until| Instant::now() < *until);
    }

    /// Ends it at once: what was sent was not applied.
    pub(super) fn end(&mut self, now: Instant) {
        if self.until.take().is_some() {
            self.ended = Some(now);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Changes of a transaction in the end, at so many a second, and how long after the one before it is sent. From the end of a
    /// gathering, or from an answer where there is none, it takes `between` until the next transaction is made.
    fn in_the_end(rate: f64, between: Duration) -> (f64, Duration) {
        let mut gathering = Gathering::default();
        let (mut now, mut since) = (Instant::now(), between);
        for _ in 0..200 {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few hundred at most")]
            gathering.sent((rate * since.as_secs_f64()) as usize);
            gathering.begin(now);
            let next = gathering.until.take().unwrap_or(now) + between;
            since = next - now;
            now = next;
        }
        (rate * since.as_secs_f64(), since)
    }

    #[test]
    fn a_transaction_grows_with_the_rate_up_to_what_is_enough() {
        let soon = Duration::from_millis(1);
        assert!(in_the_end(1000.0, soon).0 < 3.0, "sent at once");
        for (rate, changes) in [(4000.0, 100.0), (5000.0, 100.0), (6000.0, 100.0), (8000.0, 100.0), (12000.0, 120.0)] {
            let (found, _) = in_the_end(rate, soon);
            assert!((found - changes).abs() < 2.0, "{found} at {rate}/s");
        }
    }

    #[test]
    fn on_full_cores_a_transaction_is_no_later() {
        for milliseconds in [1, 5, 10] {
            let (changes, since) = in_the_end(6000.0, Duration::from_millis(milliseconds));
            assert!((changes - 100.0).abs() < 2.0, "{changes} with {milliseconds} ms");
            assert!(since < Duration::from_millis(18), "{since:?} with {milliseconds} ms");
        }
        let (_, since) = in_the_end(6000.0, Duration::from_millis(20));
        assert_eq!(since, Duration::from_millis(20) + LEAST);
    }

    #[test]
    fn after_one_that_was_ended_the_next_one_is_as_long() {
        let (mut gathering, start) = (Gathering::default(), Instant::now());
        gathering.sent(100);
        gathering.begin(start);
        let ended = start + LEAST / 2;
        assert!(gathering.until.unwrap() > ended);
        gathering.end(ended);
        gathering.sent(100);
        gathering.begin(ended);
        assert_eq!(gathering.until, Some(ended + *PERIOD.start()));
    }

    #[test]
    fn nobody_waits_longer_than_that() {
        let pause = |changes| {
            let (mut gathering, now) = (Gathering::default(), Instant::now());
            gathering.ended = Some(now);
            gathering.begun = Some(now.checked_sub(Duration::from_secs(1)).unwrap());
            gathering.sent(changes);
            gathering.begin(now);
            gathering.until.map(|until| until - now)
        };
        assert_eq!(pause(usize::MAX), Some(Duration::from_millis(10)));
        assert_eq!(pause(127), Some(Duration::from_millis(25)));
        assert_eq!(pause(4), Some(Duration::from_millis(2)));
        assert_eq!(pause(2), None);
    }
}
