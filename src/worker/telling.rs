//! What the thread tells: its status for those who ask, and overflows for the log.

use tracing::warn;

use super::mirroring::Mirroring;
use crate::control::{Purpose, Status};
use crate::lease::now;
use crate::messages;

impl Mirroring<'_> {
    /// Seconds that the change waits that is due first.
    fn lag(&self) -> u64 {
        if self.waiting() == 0 {
            return 0;
        }
        // While nothing can be sent they gather, most of them where they cannot be looked at.
        let oldest = if self.link.is_up() { self.pending.oldest() } else { None };
        oldest.map_or(self.caught_up.elapsed().as_secs(), |oldest| u64::try_from(now() - oldest).unwrap_or(0))
    }

    /// Tells those who ask how things are.
    pub(super) fn tell(&self) {
        let credentials = &self.config().credentials;
        self.shared.control.tell(Status {
            connection: self.link.describe(),
            endpoint: self.link.endpoint().to_owned(),
            tls: credentials.tls.is_some(),
            user: credentials.user.as_ref().map(|user| user.name.clone()),
            last_error: self.last_error.clone(),
            queued: self.shared.committed.len() + self.shared.handover.queued(),
            unwritten: self.waiting(),
            lag: self.lag(),
            running: self.resync.as_ref().map(|resync| (resync.purpose, resync.reason, resync.since)),
            leases: self.presence.leases,
            state: self.state(),
        });
    }

    /// One line when the queue overflows; with the tick, as it may do so again and again.
    pub(super) fn tell_overflow(&mut self) {
        if self.shared.counters.queue_overflows.get() > self.overflows_told && !self.overflowing {
            let queue_size = self.config().queue_size;
            warn!(target: messages::QUEUE_OVERFLOW, "more than {queue_size} addresses wait; changes of others are found by a comparison");
            self.overflowing = true;
        }
    }

    /// One line with the number of changes that were dropped, when there is room again. A comparison finds them, and need not
    /// wait for the rest: it reads what etcd holds while that is written, and what it finds waits until there is
    /// [room](Self::free) for that as well.
    pub(super) fn end_overflow(&mut self) {
        let queue_size = self.config().queue_size;
        if self.overflowing && self.link.is_up() && self.waiting() < queue_size - queue_size / 8 {
            let overflows = self.shared.counters.queue_overflows.get();
            let lost = overflows - self.overflows_told;
            warn!(target: messages::QUEUE_OVERFLOW, "{lost} changes were dropped; everything is compared");
            self.overflowing = false;
            self.overflows_told = overflows;
            self.shared.control.want(Purpose::Resync, "queue overflow");
        }
    }
}
