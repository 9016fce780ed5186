//! What is counted, for Kea's statistics. Counting is one atomic addition; publishing happens on Kea's main thread.

use std::sync::atomic::{AtomicI64, Ordering};

/// A number that any thread may change.
#[derive(Debug, Default)]
pub struct Counter(AtomicI64);

impl Counter {
    /// Counts `more`.
    pub fn add(&self, more: usize) {
        self.0.fetch_add(i64::try_from(more).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Replaces the number.
    pub fn set(&self, number: usize) {
        self.0.store(i64::try_from(number).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many of the counters are among Kea's statistics.
pub const NUMBER: usize = 8;

/// The counters since the library was loaded.
#[derive(Debug, Default)]
pub struct Counters {
    /// Changes put into the queue.
    pub events: Counter,
    /// Records written.
    pub writes: Counter,
    /// Records removed.
    pub deletes: Counter,
    /// Operations whose condition failed.
    pub conflicts: Counter,
    /// Requests that failed and records that were refused.
    pub errors: Counter,
    /// Comparisons done, those of `etcd-verify` not counted.
    pub resyncs: Counter,
    /// Changes dropped because the queue was full.
    pub queue_overflows: Counter,
    /// Addresses that wait to be written.
    pub pending: Counter,
    /// Leases that clients were newly assigned; for Prometheus only.
    pub assigned: Counter,
    /// Comparisons that did not come to their end; for Prometheus only.
    pub resync_failures: Counter,
}

impl Counters {
    /// Those counters with their names there.
    #[must_use]
    pub fn all(&self) -> [(&'static str, i64); NUMBER] {
        [
            ("etcd-events", self.events.get()),
            ("etcd-writes", self.writes.get()),
            ("etcd-deletes", self.deletes.get()),
            ("etcd-conflicts", self.conflicts.get()),
            ("etcd-errors", self.errors.get()),
            ("etcd-resyncs", self.resyncs.get()),
            ("etcd-queue-overflows", self.queue_overflows.get()),
            ("etcd-pending", self.pending.get()),
        ]
    }
}
