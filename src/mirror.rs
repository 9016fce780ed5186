//! What each hook point means for the mirror.
//!
//! A callout's payload is not what gets mirrored: some leases are reported and not written, some written and reported as
//! removed, and callouts of two clients can run in the opposite order of their writes. So a callout after the write only
//! says *which* address changed: the lease database is read again, and what it holds is put into the queue, whose order is
//! the order of the reads ([`crate::handover`]). The last write of an address is followed by its callout, whose read sees
//! that write: the last entry is the final state, whatever the order of the callouts.
//!
//! A lease database in Kea's memory is read at the next turn of Kea's main loop ([`crate::committed`]), so that the client
//! waits for no reading. An SQL database is read in the callout: a turn would keep Kea from taking packets for as long as
//! the queries take, which packet threads make side by side.
//!
//! Callouts before the write only tell the record's `operation`, where it is not a new lease. Reclamation has no callout
//! after the write; it runs on Kea's main thread, so its addresses are marked and read at the next turn of the main loop.
//!
//! From Kea 2.4 on, a lease database in memory tells every write itself, also those that no callout tells: offers, High
//! Availability's synchronisation, answers that were dropped. That happens under the database's own lock, where it cannot
//! be read, and so early that nobody knows the operation yet. So it marks the address, too; what the callout that follows
//! tells takes the mark away before it is read. What is still marked at the worker's tick was told by no callout: a removal
//! is read then, and a lease is suspected like one that a comparison found, since a partner has most likely written its
//! record already.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tracing::{error, info};

use crate::commands;
use crate::committed::{self, Commit, Committed, Shown};
use crate::config::Config;
use crate::control::{Control, Purpose};
use crate::counters::{self, Counters};
use crate::handover::{ByAddress, Changes, Handover, Refused};
use crate::hints;
use crate::lease::{Change, Family, Lease, LeaseType, Operation, Owner, Row, now};
use crate::lease_commands::{Commanded, commanded, named_addresses};
use crate::marks::{Mark, Marks};
use crate::messages;
use crate::metrics::Lag;
use crate::readings::{PAGE, Readings, TURN};
use crate::spent::Spent;
use crate::worker::{Shared, Worker};

/// What the mirror needs of Kea.
pub trait Kea: Send + Sync + 'static {
    /// What the lease database holds of an address; a DHCPv6 lease is looked for as `lease_type` first.
    ///
    /// # Errors
    /// Kea's own text when the database cannot be read.
    fn read_lease(&self, address: IpAddr, lease_type: LeaseType) -> Result<Option<Lease>, String>;
    /// A page of the lease database: at most `limit` rows after an address, in the order of the addresses. On the main
    /// thread only.
    ///
    /// # Errors
    /// Kea's own text when the database cannot be read.
    fn read_page(&self, after: IpAddr, limit: usize) -> Result<Vec<Lease>, String>;
    /// Kea's version.
    fn version(&self) -> String;
    /// Whether this is Kea's main thread.
    fn on_main_thread(&self) -> bool;
    /// Whether there is a lease database at the moment; there is none while Kea starts or ends.
    fn lease_database_open(&self) -> bool;
    /// Whether reading a lease is no more than looking into Kea's own memory, from any thread that Kea lets do so.
    fn lease_database_in_memory(&self) -> bool;
    /// Has [`Mirror::written`] called with every lease that a database in memory writes from now on; whether it can.
    fn track_lease_database(&self) -> bool;
    /// Makes Kea's main thread call [`Mirror::turn`] soon. From any thread.
    fn wake_main_loop(&self);
    /// Makes the calling thread, and those that it starts later, give way to the threads that answer clients where there are too
    /// few cores for all: by [`GIVES_WAY`].
    fn give_way(&self);
    /// Sets one of Kea's statistics. On the main thread only.
    fn set_statistic(&self, name: &str, value: i64);
    /// Starts a thread that takes no signals: they are Kea's.
    fn without_signals(&self, start: &mut dyn FnMut());
}

/// How much nicer than Kea the worker's thread is. Beside a busy thread it still gets a quarter of the core (sched(7): the weight
/// of a thread is 1.25 times that of the next nicer one), at 8 µs for a lease 30,000 of them a second. With 10, a tenth, records
/// came up to 30 ms later where two cores were full, and clients were answered no sooner (docs/performance.md). Packet threads
/// hardly ever wait for it: a lock that both take is held for a map operation.
pub const GIVES_WAY: i32 = 5;

/// How long an address rests that could not be read.
const REST: Duration = Duration::from_secs(1);

/// One load of the library.
pub struct Mirror<K> {
    kea: Arc<K>,
    shared: Arc<Shared>,
    marks: Marks,
    /// Addresses that could not be read, and since when they rest.
    failed: (Marks, Mutex<Instant>),
    /// Whether the lease database tells every write itself.
    tracked: AtomicBool,
    /// Whether what was committed is read at a turn of the main loop.
    in_turns: AtomicBool,
    worker: Mutex<Option<Worker>>,
    /// Whether there is a worker, to be asked without its lock.
    working: AtomicBool,
    published: Mutex<[i64; counters::NUMBER]>,
}

impl<K: Kea> Mirror<K> {
    /// A mirror that queues changes; it sends nothing before the first [`turn`](Self::turn), which only a live server
    /// makes. `unwritten` is what an earlier load in this process could not write.
    pub fn new(kea: K, family: Family, config: Config, unwritten: Changes) -> Self {
        let handover = Handover::new(config.queue_size);
        let counters = Counters::default();
        for (address, change) in unwritten {
            if handover.put(address, change, handover.ticket(address)).is_err() {
                counters.queue_overflows.add(1);
            }
        }
        let shared = Shared {
            config,
            family,
            kea_version: kea.version(),
            started_at: now(),
            committed: Committed::default(),
            handover,
            spent: Spent::default(),
            readings: Readings::default(),
            control: Control::default(),
            ticked: AtomicBool::new(false),
            counters,
            lag: Lag::default(),
        };
        Self {
            kea: Arc::new(kea),
            shared: Arc::new(shared),
            marks: Marks::default(),
            failed: (Marks::default(), Mutex::new(Instant::now())),
            tracked: AtomicBool::new(false),
            in_turns: AtomicBool::new(false),
            worker: Mutex::default(),
            working: AtomicBool::new(false),
            published: Mutex::new([-1; counters::NUMBER]),
        }
    }

    /// The parameters of this load.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// The server is configured, and about to serve (or, with `-T`, to end).
    pub fn configured(&self) {
        let is_in_memory = self.kea.lease_database_in_memory();
        self.in_turns.store(is_in_memory, Ordering::Relaxed);
        self.tracked.store(is_in_memory && self.kea.track_lease_database(), Ordering::Relaxed);
        info!(
            target: messages::CONFIGURED,
            "leases are mirrored to {}/leases/ as server {}", self.config().prefix, self.config().server_name
        );
    }

    /// Forgets what callouts before the write told on this thread: it is about another packet.
    pub fn forget_hints(&self) {
        hints::forget();
    }

    /// A callout before the write: the lease of an address is about to be changed by `operation`, in the exchange that this
    /// thread is handling.
    pub fn about_to(&self, operation: Operation, address: IpAddr) {
        hints::tell(address, operation);
    }

    /// Reclamation is about to remove, or recover, a lease. From the main thread, or from a packet thread that takes over
    /// an expired lease: then a callout of its own tells of the new one.
    pub fn reclaiming(&self, lease: &Lease, lease_type: LeaseType, operation: Operation) {
        self.mark(lease.address, Mark { lease_type, operation, owner: Some(lease.owner()), told: true });
    }

    /// The lease database has written what it holds of an address; `gone` is the lease that went, if one did. Called while
    /// the database is locked, by whatever thread writes.
    pub fn written(&self, address: IpAddr, lease_type: LeaseType, gone: Option<Owner>) {
        self.mark(address, Mark { lease_type, operation: Operation::Update, owner: gone, told: false });
    }

    /// Marks an address, to be seen to at a turn of the main loop.
    fn mark(&self, address: IpAddr, mark: Mark) {
        // What nobody told can wait for the worker's tick, at most a second: most often a callout follows.
        let soon = mark.told;
        self.keep(&self.marks, address, mark);
        if soon && self.marks.want_turn() {
            self.kea.wake_main_loop();
        }
    }

    fn keep(&self, marks: &Marks, address: IpAddr, mark: Mark) {
        if !marks.put(address, mark, self.config().queue_size) {
            self.shared.counters.queue_overflows.add(1);
        }
    }

    /// Somebody tells what was written: the mark is taken away, before the read that the telling causes.
    fn told(&self, address: IpAddr) -> Option<Mark> {
        self.tracked.load(Ordering::Relaxed).then(|| self.marks.remove(address)).flatten()
    }

    /// An exchange with a client assigned or extended a lease, or declined it; as it was shown.
    pub fn assigned(&self, address: IpAddr, lease_type: LeaseType, relay: Option<IpAddr>, shown: Shown) {
        let operation = hints::told(address).unwrap_or(Operation::Offer);
        if operation == Operation::Offer {
            self.shared.counters.assigned.add(1);
        }
        self.read_in_turn(Commit { relay, shown: Some(shown), ..Commit::of(address, lease_type, operation) });
    }

    /// The server found an address in use that it had offered, and has declined it.
    pub fn declined(&self, address: IpAddr) {
        self.read_at_once(Commit::of(address, LeaseType::Na, Operation::Decline));
    }

    /// An exchange with a client removed a lease, or so the callout says.
    pub fn removed(&self, lease: &Lease, lease_type: LeaseType) {
        let owner = Some(Box::new(lease.owner()));
        self.read_in_turn(Commit { owner, ..Commit::of(lease.address, lease_type, Operation::Update) });
    }

    /// Has a change read at the next turn of the main loop, or at once where too many wait for that.
    fn read_in_turn(&self, commit: Commit) {
        let Shared { committed, handover, config, .. } = &*self.shared;
        if !self.in_turns.load(Ordering::Relaxed) {
            return self.read_at_once(commit);
        }
        let at = commit.at;
        match committed.put(commit, config.queue_size) {
            Ok(waiting) => {
                let are_many = waiting >= committed::BATCH.min(config.queue_size);
                // After the put (see `Handover::is_armed`). Where there is no worker yet, the turn starts one.
                let is_due = handover.is_armed(at) || are_many || !self.working.load(Ordering::Relaxed);
                if is_due && committed.want_turn() {
                    self.kea.wake_main_loop();
                }
            }
            Err(commit) => self.read_at_once(commit),
        }
    }

    fn read_at_once(&self, commit: Commit) {
        self.read_again(commit);
        self.shared.handover.wake();
        if !self.working.load(Ordering::Relaxed) {
            // Nobody would take it: the turn starts a worker, or tries to again.
            self.kea.wake_main_loop();
        }
    }

    /// Kea has carried out a command.
    pub fn command(&self, name: &str, arguments: &str) {
        let arguments = serde_json::from_str::<Value>(arguments).unwrap_or_default();
        let tracked = self.tracked.load(Ordering::Relaxed);
        // The partner of a High Availability pair says what it has done (Kea 2.6 and later say so); its record most likely
        // stands already, and what is marked is looked at.
        let is_partners = arguments.get("origin").is_some_and(|origin| origin == "ha-partner");
        let (operation, addresses) = match commanded(name) {
            Commanded::Nothing => return,
            Commanded::Named(_) if tracked && is_partners && !name.ends_with("-del") => return,
            Commanded::Reclaimed | Commanded::Unnamed(_) if tracked => return,
            // On the main thread the marks of its callouts are read after it; elsewhere they may be read before its writes.
            Commanded::Reclaimed if self.kea.on_main_thread() => return,
            Commanded::Reclaimed => return self.shared.control.want(Purpose::Resync, "leases-reclaim"),
            Commanded::Unnamed(reason) => return self.shared.control.want(Purpose::Resync, reason),
            Commanded::Named(operation) => (operation, named_addresses(&arguments)),
        };
        if addresses.is_empty() && !tracked {
            self.shared.control.want(Purpose::Resync, "command that names no address");
        }
        for (address, lease_type) in addresses {
            // Either server takes the other's commands too, and holds none of its leases.
            if self.shared.family.has(address) {
                self.read_at_once(Commit::of(address, lease_type, operation));
            }
        }
    }

    /// A turn did not come to its end: what it had taken may be lost.
    pub fn turn_failed(&self) {
        self.shared.control.want(Purpose::Resync, "an error in the library");
    }

    /// Carries out one of the library's own commands, given as JSON text; the answer.
    pub fn own_command(&self, command: &str) -> Value {
        let Shared { control, counters, .. } = &*self.shared;
        let on_main_thread = self.kea.on_main_thread();
        commands::answer(command, now(), control, counters, || {
            // The main loop does not turn meanwhile.
            if on_main_thread {
                self.turn();
            }
        })
    }

    /// A turn of Kea's main loop that we asked for: starts the worker in a live server, reads what was committed and what the
    /// worker wants read. With the worker's tick it reads what is marked, too, and publishes the counters. On the main
    /// thread.
    pub fn turn(&self) {
        self.turn_until(Instant::now() + TURN);
    }

    /// The same, which reads no more once it is so late, however long a turn is.
    pub fn turn_until(&self, late: Instant) {
        self.start_worker();
        let is_tick = self.shared.ticked.swap(false, Ordering::Relaxed);
        if is_tick {
            self.marks.want_turn();
        }
        self.read(late);
        if is_tick {
            self.publish();
        }
    }

    fn publish(&self) {
        let counters = self.shared.counters.all();
        let mut published = lock(&self.published);
        for ((name, value), published) in counters.into_iter().zip(published.iter_mut()) {
            if value != *published {
                self.kea.set_statistic(name, value);
                *published = value;
            }
        }
    }

    /// The end: writes what is left within `flush-timeout` and ends the worker. Returns what is unwritten. On the main
    /// thread, when no callout runs any more.
    pub fn stop(&self) -> Changes {
        let committed = self.shared.committed.take().into_iter();
        if self.kea.lease_database_open() {
            committed.for_each(|commit| self.read_again(commit));
            self.try_failed_again();
            for (address, mark) in self.marks.take(usize::MAX).0 {
                self.read_marked(address, mark);
            }
        } else {
            self.take_as_shown(committed);
        }
        self.shared.handover.wake();
        let unwritten = match lock(&self.worker).take() {
            None => self.shared.handover.take(Changes::default()),
            Some(worker) => worker.stop(self.config().flush_timeout).unwrap_or_else(|_| {
                error!(target: messages::WORKER_STUCK, "the worker did not end within flush-timeout and half a second");
                Changes::default()
            }),
        };
        info!(target: messages::UNLOADED, "unloaded, {} addresses are unwritten", unwritten.len());
        unwritten
    }

    fn start_worker(&self) {
        let mut running = lock(&self.worker);
        if running.is_some() {
            return;
        }
        let (begins, wakes) = (Arc::clone(&self.kea), Arc::clone(&self.kea));
        let mut start = Some((move || begins.give_way(), move || wakes.wake_main_loop()));
        self.kea.without_signals(&mut || {
            let Some((begin, wake)) = start.take() else { return };
            match Worker::start(Arc::clone(&self.shared), begin, wake) {
                Ok(worker) => {
                    *running = Some(worker);
                    self.working.store(true, Ordering::Relaxed);
                    // No callout says that the server is configured after a `libreload`.
                    self.in_turns.store(self.kea.lease_database_in_memory(), Ordering::Relaxed);
                }
                Err(error) => {
                    error!(target: messages::BUG, "no thread for the worker: {error}; tried again with the next change");
                }
            }
        });
    }

    /// Reads what was committed, and, when nothing of that is left, what is marked and what the worker wants read, until it is
    /// late: then a page, and an address at least.
    fn read(&self, until: Instant) {
        let Shared { committed, readings, handover, .. } = &*self.shared;
        if !self.kea.lease_database_open() {
            return;
        }
        let is_late = || Instant::now() >= until;
        let mut commits = committed.take().into_iter();
        for commit in commits.by_ref() {
            self.read_again(commit);
            if is_late() {
                break;
            }
        }
        if commits.len() > 0 {
            // What a comparison reads comes after what was committed before.
            committed.give_back(commits);
            readings.turned(None, true);
            return handover.wake();
        }
        let page = readings.next_page().map(|ticket| (ticket, self.kea.read_page(ticket.after, PAGE)));
        if lock(&self.failed.1).elapsed() >= REST {
            self.try_failed_again();
        }
        let (marked, more) = if self.marks.is_turn_wanted() { self.marks.take(PAGE) } else { Default::default() };
        let mut marked = marked.into_iter();
        for (address, mark) in marked.by_ref() {
            self.read_marked(address, mark);
            if is_late() {
                break;
            }
        }
        let left = self.marks.give_back(marked);
        while let Some(address) = readings.next_address() {
            self.read_again(Commit::of(address, LeaseType::Na, Operation::Sync));
            if is_late() {
                break;
            }
        }
        readings.turned(page, more || left);
        handover.wake();
    }

    /// Marks what could not be read once more. A turn comes with the worker's tick at the latest.
    fn try_failed_again(&self) {
        let (marks, since) = &self.failed;
        self.marks.give_back(marks.take(usize::MAX).0.into_iter());
        *lock(since) = Instant::now();
    }

    fn read_marked(&self, address: IpAddr, Mark { lease_type, operation, owner, told }: Mark) {
        match owner {
            None if !told => self.shared.readings.suspect(address),
            // Without a word of why it went, a live record of another server stays.
            Some(_) if !told => self.read_again(Commit::of(address, lease_type, operation)),
            owner => {
                let owner = owner.map(Box::new);
                self.read_again(Commit { owner, ..Commit::of(address, lease_type, operation) });
            }
        }
    }

    /// Reads what the lease database holds of an address and queues it, as one step against others for that address.
    fn read_again(&self, commit: Commit) {
        let Commit { address, lease_type, operation, relay, owner, at, .. } = commit;
        let found = operation == Operation::Sync;
        let tells_an_end = owner.is_some();
        let marked = if found { None } else { self.told(address) };
        let owner = owner.map(|owner| *owner).or(marked.and_then(|mark| mark.owner));
        let handover = &self.shared.handover;
        // Each round in vain is one in which another thread got through.
        let queued = loop {
            let ticket = handover.ticket(address);
            // Before it is read: of two servers that share the database, who reads later never tells an earlier time.
            let time = now();
            let (timestamp, row) = match self.kea.read_lease(address, lease_type) {
                // Somebody took the address over before it was reclaimed, or before the end was told, and a callout of its own tells
                // how and through which relay. Or the lease stayed after all.
                Ok(Some(lease)) if lease.is_held() && tells_an_end => {
                    if !handover.is_told(&lease) {
                        self.shared.readings.suspect(address);
                    }
                    return;
                }
                Ok(Some(lease)) if lease.is_held() => {
                    (if found { lease.cltt } else { time }, Row::Held { lease, relay })
                }
                Ok(_) => (time, Row::Gone { owner: owner.clone() }),
                Err(reason) => {
                    self.shared.counters.errors.add(1);
                    self.keep(&self.failed.0, address, Mark { lease_type, operation, owner, told: !found });
                    error!(target: messages::READ_FAILED, "the lease of {address} cannot be read: {reason}");
                    return;
                }
            };
            let change = Change { timestamp, queued: (!found).then_some(at), operation, row };
            let change = if found { Box::new(change) } else { self.shared.spent.refill(change) };
            match handover.put(address, change, ticket) {
                Err(Refused::Overtaken) => {}
                queued => break queued,
            }
        };
        self.count(&queued);
    }

    /// Queues changes as the callouts told them, when they cannot be read any more. The next start compares.
    fn take_as_shown(&self, commits: impl Iterator<Item = Commit>) {
        let mut holders = ByAddress::<Owner>::default();
        for Commit { address, operation, relay, owner, at, shown, .. } in commits {
            let row = match (shown.and_then(Shown::lease), owner) {
                (Some(lease), _) if lease.is_held() => {
                    holders.insert(address, lease.owner());
                    Row::Held { lease, relay }
                }
                (Some(_), _) => Row::Gone { owner: None },
                // Callouts of two clients can run in the opposite order of their writes: nobody releases what another one holds.
                (None, Some(owner)) if holders.get(&address).is_some_and(|holder| !holder.is_holder(&owner)) => {
                    continue;
                }
                (None, Some(owner)) => Row::Gone { owner: Some(*owner) },
                (None, None) => continue,
            };
            let change = Box::new(Change { timestamp: now(), queued: Some(at), operation, row });
            let handover = &self.shared.handover;
            self.count(&handover.put(address, change, handover.ticket(address)));
        }
    }

    fn count(&self, queued: &Result<(), Refused>) {
        match queued {
            Ok(()) => self.shared.counters.events.add(1),
            // The worker logs it; a packet thread has no time for that.
            Err(_) => self.shared.counters.queue_overflows.add(1),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
