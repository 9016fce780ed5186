//! The bounded hand-over from Kea's packet threads to the worker: the newest change of each address.
//!
//! A change is what was read of a lease, and the order of changes is the order of the reads: what was read is put in only if
//! nothing was put in for its address since the read began ([`Ticket`]). No lock is held while the lease database is
//! read, which may be an SQL server far away.
//!
//! The lock is held for one map operation, never while anything allocates a change, waits or talks to Kea. Waking a
//! sleeping thread costs the waker some five microseconds, so it is done only when the worker has said that it goes to
//! sleep, and from when on it wants to be woken ([`Handover::arm_from`]), and once for all that a turn of Kea's main loop puts
//! in, not for each lease.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::lease::{Change, Lease, Row};

/// What is kept by address, where packets or leases in great number go through it: the hash is seeded, and takes a fraction
/// of what the standard library's does.
pub type ByAddress<T> = HashMap<IpAddr, T, foldhash::fast::RandomState>;

/// Changes by address.
pub type Changes = ByAddress<Box<Change>>;

/// Addresses are spread over so many counters of what was put in. More than there are packet threads, so that they rarely
/// meet.
const STRIPES: usize = 64;

/// Nobody is to be woken.
const NEVER: u64 = u64::MAX;

/// See the module.
#[derive(Debug)]
pub struct Handover {
    changes: Mutex<Changes>,
    /// When this was made.
    begun: Instant,
    /// From when on the worker, which sleeps, is woken by what is put in: nanoseconds since `begun`, or [`NEVER`].
    armed: AtomicU64,
    /// What was put in, counted; written under the lock.
    puts: [AtomicU64; STRIPES],
    wake: Notify,
    /// Addresses that the worker has taken and not yet settled.
    taken: AtomicUsize,
    limit: usize,
}

/// A lease is about to be read: how much was put in before, for its address and those that share its counter.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    stripe: usize,
    puts: u64,
}

/// Why a change was not put in.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// Something else was put in since the ticket was taken: the lease is to be read again.
    Overtaken,
    /// The queue is full: the change was dropped, only a comparison can repair that.
    Overflow,
}

impl Handover {
    /// Addresses that an empty map has room for. Few, so that the map stays in the processor's caches: the worker takes it
    /// every few milliseconds. One that grows keeps a packet thread for some microseconds.
    pub const ROOM: usize = 400;

    /// A hand-over for at most `limit` addresses that wait to be written.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            changes: Mutex::new(Self::room()),
            begun: Instant::now(),
            armed: AtomicU64::new(NEVER),
            puts: [const { AtomicU64::new(0) }; STRIPES],
            wake: Notify::new(),
            taken: AtomicUsize::new(0),
            limit,
        }
    }

    /// An empty map of the size that is put into.
    #[must_use]
    pub fn room() -> Changes {
        Changes::with_capacity_and_hasher(Self::ROOM, foldhash::fast::RandomState::default())
    }

    /// To be taken before the lease of an address is read.
    #[must_use]
    pub fn ticket(&self, address: IpAddr) -> Ticket {
        let stripe = stripe(address);
        // Whoever sees a put here reads the lease after that put's own reading.
        Ticket { stripe, puts: self.puts[stripe].load(Ordering::Acquire) }
    }

    /// Puts in what was read under a ticket; it replaces a change that waits for the same address. The worker is to be
    /// [woken](Self::wake) after the last one.
    ///
    /// # Errors
    /// When something else came before, or as many addresses wait as may.
    pub fn put(&self, address: IpAddr, mut change: Box<Change>, ticket: Ticket) -> Result<(), Refused> {
        let mut changes = self.lock();
        let puts = &self.puts[ticket.stripe];
        if puts.load(Ordering::Relaxed) != ticket.puts {
            return Err(Refused::Overtaken);
        }
        puts.store(ticket.puts + 1, Ordering::Release);
        // What the worker took is bounded by itself (`Pending::absorb`), which knows the addresses.
        let full = changes.len() >= self.limit;
        let replaced = match changes.entry(address) {
            Entry::Vacant(_) if full => return Err(Refused::Overflow),
            Entry::Vacant(vacant) => {
                vacant.insert(change);
                None
            }
            Entry::Occupied(older) if !change.replaces(older.get()) => Some(change),
            Entry::Occupied(mut older) => {
                change.inherit(older.get());
                Some(older.insert(change))
            }
        };
        drop(changes);
        drop(replaced);
        Ok(())
    }

    /// Whether what waits for the address of a lease is that very lease, and was told.
    #[must_use]
    pub fn is_told(&self, lease: &Lease) -> bool {
        let changes = self.lock();
        let told = changes.get(&lease.address).filter(|change| !change.is_finding());
        told.is_some_and(|change| matches!(&change.row, Row::Held { lease: told, .. } if told == lease))
    }

    /// Wakes the worker, if it sleeps until something is put in.
    pub fn wake(&self) {
        if self.is_armed(Instant::now()) && self.armed.swap(NEVER, Ordering::Relaxed) != NEVER {
            self.wake.notify_one();
        }
    }

    /// Whether the worker sleeps until something is put in at this time. It looks for what is yet to be read
    /// ([`crate::committed`]) after it is [armed](Self::arm), and whoever leaves something there asks here after that: by the order
    /// of that lock one of them sees the other.
    #[must_use]
    pub fn is_armed(&self, at: Instant) -> bool {
        let armed = self.armed.load(Ordering::Relaxed);
        armed != NEVER && armed <= self.since_begun(at)
    }

    /// Swaps what waits against `empty`.
    pub fn take(&self, empty: Changes) -> Changes {
        self.armed.store(NEVER, Ordering::Relaxed);
        std::mem::replace(&mut *self.lock(), empty)
    }

    /// The worker is about to sleep: the next [`wake`](Self::wake) will end [`wait`](Self::wait). False when something
    /// waits already.
    pub fn arm(&self) -> bool {
        let changes = self.lock();
        let is_empty = changes.is_empty();
        self.armed.store(if is_empty { 0 } else { NEVER }, Ordering::Relaxed);
        is_empty
    }

    /// The same for what is put in from a time on. What waits already, and what comes before it, wakes nobody: the worker is to
    /// look for that itself, some time later.
    pub fn arm_from(&self, at: Instant) {
        self.armed.store(self.since_begun(at), Ordering::Relaxed);
    }

    fn since_begun(&self, at: Instant) -> u64 {
        // Enough for 584 years.
        u64::try_from(at.saturating_duration_since(self.begun).as_nanos()).unwrap_or(NEVER - 1)
    }

    /// Returns when the worker was woken after [`arm`](Self::arm).
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
        self.lock().len()
    }

    /// How many addresses wait to be written, here and at the worker.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lock().len() + self.taken.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Changes> {
        // A map operation that panicked leaves the map whole.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which counter an address has. All of its bytes count: pools differ in whatever they like.
#[expect(clippy::cast_possible_truncation, reason = "halves of an address, and fewer bits than a usize has")]
fn stripe(address: IpAddr) -> usize {
    let bits = match address {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => ((address.to_bits() >> 64) as u64).rotate_left(32) ^ address.to_bits() as u64,
    };
    // Fibonacci hashing: the highest bits of the product depend on all of those below.
    (bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - STRIPES.ilog2())) as usize
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::lease::Operation;
    use crate::record::v4;

    fn change(timestamp: i64) -> Box<Change> {
        Box::new(Change { queued: None, timestamp, operation: Operation::Update, row: Row::Gone { owner: None } })
    }

    fn put(handover: &Handover, address: u32, timestamp: i64) -> Result<(), Refused> {
        handover.put(v4(address), change(timestamp), handover.ticket(v4(address)))
    }

    #[test]
    fn what_was_read_before_another_read_is_not_put_in_after_it() {
        let handover = Handover::new(2);
        let ticket = handover.ticket(v4(1));
        put(&handover, 1, 2).unwrap();
        assert_eq!(handover.put(v4(1), change(1), ticket), Err(Refused::Overtaken));
        assert_eq!(handover.take(Handover::room())[&v4(1)].timestamp, 2);
        assert_eq!(handover.put(v4(1), change(1), ticket), Err(Refused::Overtaken), "also when it was taken");
    }

    #[test]
    fn pools_are_spread_over_the_counters() {
        let pool = |first: &str, step: u128| {
            let first: IpAddr = first.parse().unwrap();
            let nth = |n: u128| match first {
                IpAddr::V4(first) => v4(first.to_bits() + u32::try_from(n * step).unwrap()),
                IpAddr::V6(first) => std::net::Ipv6Addr::from_bits(first.to_bits() + n * step).into(),
            };
            let mut counts = [0; STRIPES];
            (0..6400).for_each(|n| counts[stripe(nth(n))] += 1);
            *counts.iter().max().unwrap()
        };
        for (first, step) in [("10.0.0.0", 1), ("10.0.0.0", 256), ("2001:db8::", 1), ("2001:db8::", 1 << 72)] {
            let most = pool(first, step);
            assert!(most < 200, "{first}, {step}: {most} of 6400");
        }
    }

    #[test]
    fn the_newest_change_of_an_address_is_handed_over() {
        let handover = Handover::new(2);
        put(&handover, 1, 1).unwrap();
        put(&handover, 1, 2).unwrap();
        let taken = handover.take(Handover::room());
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[&v4(1)].timestamp, 2);
    }

    #[test]
    fn a_full_queue_drops_new_addresses_but_not_news_of_waiting_ones() {
        let handover = Handover::new(2);
        put(&handover, 1, 1).unwrap();
        put(&handover, 2, 1).unwrap();
        assert_eq!(put(&handover, 3, 1), Err(Refused::Overflow));
        put(&handover, 1, 2).unwrap();
        assert_eq!(handover.waiting(), 2);
    }

    #[tokio::test]
    async fn a_sleeping_worker_is_woken_once() {
        let handover = Handover::new(10);
        assert!(handover.arm());
        put(&handover, 1, 1).unwrap();
        put(&handover, 2, 1).unwrap();
        assert!(handover.is_armed(Instant::now()));
        handover.wake();
        handover.wake();
        assert!(!handover.arm(), "something waits");
        handover.wait().await;
        assert_eq!(handover.take(Handover::room()).len(), 2);
        let again = tokio::time::timeout(Duration::from_millis(20), handover.wait()).await;
        assert!(again.is_err(), "only the first woke");
    }

    #[tokio::test]
    async fn a_worker_that_lets_changes_gather_is_woken_when_that_is_over() {
        let handover = Handover::new(10);
        let over = Instant::now() + Duration::from_secs(3600);
        put(&handover, 1, 1).unwrap();
        handover.arm_from(over);
        assert!(!handover.is_armed(Instant::now()), "it is not over yet");
        assert!(handover.is_armed(over));
        handover.wake();
        let before = tokio::time::timeout(Duration::from_millis(20), handover.wait()).await;
        assert!(before.is_err(), "nor is it when something is put in");
        handover.arm_from(Instant::now());
        handover.wake();
        handover.wait().await;
        assert!(!handover.is_armed(over), "once");
    }
}
