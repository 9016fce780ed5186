//! The thread's state and its loop: what is taken, and what is sent.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::answers::Finished;
use super::files::Files;
use super::gathering::Gathering;
use super::session::{KEEP_ALIVE, SESSION_MASK};
use super::watching::{Watch, next_news};
use super::{CLOSING, Shared, TICK};
use crate::config::Config;
use crate::control::Purpose;
use crate::etcd::Request;
use crate::handover::{Changes, Handover};
use crate::history::History;
use crate::index::Index;
use crate::lease::now;
use crate::lifetime::{Lifetime, Window};
use crate::link::Link;
use crate::pending::{Batch, MAX_OPERATIONS, Pending};
use crate::presence::{self, Presence};
use crate::record::LeaseKeys;
use crate::resync::{self, Resync};
use crate::revisions::Revisions;
use crate::suspects::Suspects;
use crate::writer::Writer;

/// Full transactions under way at a time. Where etcd and the worker share two cores, a million records are written a tenth to a
/// quarter faster than with eight; 24 and 32 bring little more, if anything, and keep other clients of etcd waiting longer.
pub(super) const WINDOW: usize = 16;

/// More changes than these are taken over with each tick also while nothing can be sent: a packet thread waits for a map that
/// grows.
const MANY: usize = 4 * Handover::ROOM;

/// A request under way.
#[derive(Debug)]
pub(super) enum Flight {
    /// The session begins, under this choice of a member, with this presence.
    Open(u64, Presence),
    /// The session's etcd lease is renewed.
    KeepAlive,
    /// The presence key is written anew.
    Present(Presence),
    /// The session ends.
    Close,
    /// A batch is written or read; with the etcd leases that were granted for it.
    Batch(Batch, Vec<i64>),
    /// The keys of suspects are read, before their leases are.
    Observe(Vec<IpAddr>),
    /// A page of keys is read for the comparison of this number.
    Keys(u64),
    /// Index keys that belong to no record are removed.
    Tidy,
    /// Whether we may still read.
    Probe,
}

impl Flight {
    /// Whether it changed something in etcd, once all of it was applied. Without a change the revision of the answer may be that of
    /// somebody else's.
    pub(super) fn changes(&self) -> bool {
        match self {
            Self::Batch(batch, _) => batch.changes_keys(),
            _ => self.writes(),
        }
    }

    /// Whether it may change something in etcd.
    pub(super) fn writes(&self) -> bool {
        match self {
            Self::Open(..) | Self::Present(_) | Self::Close | Self::Tidy => true,
            Self::Batch(batch, _) => !batch.only_looks(),
            Self::KeepAlive | Self::Observe(_) | Self::Keys(_) | Self::Probe => false,
        }
    }
}

/// How far the end is, once the library is unloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It was not ordered.
    No,
    /// What is left is written.
    Flushing,
    /// Everything is written, the session is being ended.
    Closing,
    /// No member took a write after the order: there is no use in trying until the deadline.
    GivenUp,
}

/// The thread's state.
pub(super) struct Mirroring<'a> {
    pub(super) shared: &'a Shared,
    pub(super) wake: &'a dyn Fn(),
    pub(super) pending: Pending,
    pub(super) spare: Changes,
    pub(super) link: Link<'a>,
    requests: JoinSet<Finished>,
    pub(super) flights: HashMap<u64, Flight>,
    pub(super) next_number: u64,

    pub(super) presence_key: String,
    pub(super) presence: Presence,
    /// What the presence key holds.
    pub(super) presented: Option<Presence>,
    /// Begins the ids of this worker's sessions, and how many there were.
    pub(super) instance: i64,
    pub(super) sessions: i64,
    /// Whether another server has the same name.
    pub(super) name_taken: bool,
    /// The session's etcd lease.
    pub(super) session: Option<i64>,
    /// Ends with the session's connection, which the client makes anew unasked, perhaps to another history: a stream that is open as
    /// long. Only while one is open is the connection tested, too.
    pub(super) line: JoinSet<String>,
    pub(super) keep_alive_at: Instant,
    pub(super) history: History,
    /// Etcd leases of windows that are known to exist.
    pub(super) granted: HashSet<i64>,

    pub(super) watch: Option<Watch>,
    pub(super) watch_not_before: Instant,
    pub(super) revisions: Revisions,
    /// When a transaction of ours changed something last.
    pub(super) landed_at: Instant,
    /// Addresses whose record somebody else changed, or that are to be suspected again, since the last tick.
    pub(super) noticed: HashSet<IpAddr>,
    /// What is suspected without a comparison.
    pub(super) suspects: Suspects,
    /// How many keys of suspects are read at once, at most.
    pub(super) look_limit: usize,
    /// How many keys a comparison reads at once, at first.
    pub(super) page_limit: i64,

    /// When the next transaction may be sent.
    pub(super) gathering: Gathering,

    /// When Kea's main loop is to be woken for what it has left to be read.
    pub(super) turn_at: Option<Instant>,

    pub(super) resync: Option<Resync>,
    /// Addresses that were unsettled when everything that the comparison found was queued; those that still are.
    pub(super) settling: Option<HashSet<IpAddr>>,
    pub(super) resync_not_before: Instant,
    /// When the next comparison is due without a cause.
    pub(super) resync_at: Option<Instant>,

    pub(super) files: Files,

    pub(super) last_error: Option<(String, i64)>,
    /// When nothing waited last.
    pub(super) caught_up: Instant,
    /// Dropped changes up to the last overflow whose end was told.
    pub(super) overflows_told: i64,
    pub(super) overflowing: bool,
    pub(super) ending: Ending,
}

impl<'a> Mirroring<'a> {
    pub(super) fn new(shared: &'a Shared, wake: &'a dyn Fn()) -> Self {
        let config = &shared.config;
        let (prefix, server, family) = (&config.prefix, &config.server_name, shared.family.name());
        let writer = Writer {
            server: server.clone(),
            keys: LeaseKeys::new(prefix),
            index: Index::new(prefix, &config.index),
            lifetime: config.expire_keys.then(|| Lifetime::new(prefix, server, family, config.expire_grace)),
            grace: config.expire_grace,
        };
        shared.control.want(Purpose::Resync, "start");
        Self {
            shared,
            wake,
            pending: Pending::new(writer),
            spare: Handover::room(),
            link: Link::new(&config.endpoints, config.credentials.user.is_some()),
            requests: JoinSet::new(),
            flights: HashMap::new(),
            next_number: 0,
            presence_key: presence::key(prefix, server, family),
            presence: Presence::new(shared.kea_version.clone(), shared.started_at),
            presented: None,
            // The upper half of a positive number, at random.
            instance: i64::try_from(RandomState::new().build_hasher().finish() >> 1).unwrap_or(0) & !SESSION_MASK,
            sessions: 0,
            name_taken: false,
            session: None,
            line: JoinSet::new(),
            keep_alive_at: Instant::now(),
            history: History::default(),
            granted: HashSet::new(),
            watch: None,
            watch_not_before: Instant::now(),
            revisions: Revisions::default(),
            landed_at: Instant::now(),
            noticed: HashSet::new(),
            suspects: Suspects::default(),
            look_limit: MAX_OPERATIONS,
            page_limit: resync::KEYS,
            gathering: Gathering::default(),
            turn_at: None,
            resync: None,
            settling: None,
            resync_not_before: Instant::now(),
            resync_at: config.resync_interval.map(|interval| Instant::now() + interval),
            files: Files::new(&config.credentials),
            last_error: None,
            caught_up: Instant::now(),
            overflows_told: shared.counters.queue_overflows.get(),
            overflowing: false,
            ending: Ending::No,
        }
    }

    pub(super) async fn run(mut self, stopping: &mut oneshot::Receiver<Instant>) -> Changes {
        let shared = self.shared;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut deadline = None;
        loop {
            self.gathering.end_in_time();
            self.hear_changes();
            self.receive();
            self.end_overflow();
            let pause = [self.compare(), self.turn_again(), self.keep_watch()].into_iter().flatten().min();
            let was_pending = !self.pending.is_empty();
            self.send();
            let is_settled = was_pending && self.pending.is_empty();
            shared.spent.take_back(self.pending.settled());
            if let Some(deadline) = &mut deadline {
                if self.ending == Ending::Flushing && self.waiting() == 0 && self.close() {
                    *deadline = Instant::now() + CLOSING;
                }
                let is_closed = !self.flights.values().any(|flight| matches!(flight, Flight::Close));
                let is_done = is_closed && self.waiting() == 0;
                if is_done || self.ending == Ending::GivenUp || Instant::now() >= *deadline {
                    break;
                }
            }
            // What needed no request made room: there may be more, or the comparison may be done.
            if is_settled || self.is_free() && !self.arm() {
                tokio::task::yield_now().await;
                continue;
            }
            let (retry, gathered) = (self.link.retry_at(), self.gathering.look_at());
            tokio::select! {
                Some(finished) = self.requests.join_next() => self.finish(or_panic(finished)),
                () = shared.handover.wait() => {}
                () = shared.readings.arrived() => {}
                () = shared.control.asked() => {}
                Some(news) = next_news(&mut self.watch) => self.hear(news),
                Some(reason) = self.line.join_next() => {
                    self.line_ended(&reason.unwrap_or_else(|error| error.to_string()));
                }
                () = sleep_until(pause.unwrap_or_else(Instant::now)), if pause.is_some() => {}
                () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => self.link.retry(),
                () = sleep_until(gathered.unwrap_or_else(Instant::now)), if gathered.is_some() => {}
                order = &mut *stopping, if deadline.is_none() => {
                    // A dropped sender is an order to stop at once.
                    deadline = Some(order.unwrap_or_else(|_| Instant::now()));
                    self.ending = Ending::Flushing;
                    self.gathering.end(Instant::now());
                    self.link.last_try();
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {}
                _ = tick.tick() => self.tick(),
            }
        }
        self.requests.abort_all();
        let batches = std::mem::take(&mut self.flights).into_values().filter_map(|flight| match flight {
            Flight::Batch(batch, _) => Some(batch),
            _ => None,
        });
        self.pending.absorb(&mut shared.handover.take(Changes::default()), usize::MAX);
        self.pending.into_changes(batches.collect::<Vec<_>>())
    }

    /// Finishes what is answered by now.
    pub(super) fn finish_answered(&mut self) {
        while let Some(finished) = self.requests.try_join_next() {
            self.finish(or_panic(finished));
        }
    }

    pub(super) fn config(&self) -> &'a Config {
        &self.shared.config
    }

    /// How many addresses wait, wherever they are.
    pub(super) fn waiting(&self) -> usize {
        self.shared.waiting()
    }

    /// How many more addresses may wait for what a comparison finds: a quarter of the queue is kept for what changes.
    pub(super) fn free(&self) -> usize {
        let queue_size = self.config().queue_size;
        (queue_size - queue_size / 4).saturating_sub(self.waiting())
    }

    /// Whether another batch may be sent now.
    pub(super) fn has_room(&self) -> bool {
        self.gathering.until().is_none() && self.is_free()
    }

    /// The same, were changes not to gather before: while a batch is under way, only a full one is sent.
    fn is_free(&self) -> bool {
        let batches = self.flights.values().filter(|flight| matches!(flight, Flight::Batch(..))).count();
        let window = if self.pending.due() < MAX_OPERATIONS { 1 } else { WINDOW };
        let is_ready = self.session.is_some() && self.link.is_up() && self.link.retry_at().is_none();
        is_ready && batches < window
    }

    /// The thread is about to sleep with room for another transaction: whatever is put in wakes it, once enough time was to
    /// gather. What Kea has committed is read before, at a turn of the main loop. False when something waits already.
    fn arm(&self) -> bool {
        if let Some(until) = self.gathering.until() {
            self.shared.handover.arm_from(until.into_std());
            return true;
        }
        let is_armed = self.shared.handover.arm();
        if is_armed && self.turn_at.is_none() && self.shared.committed.want_turn() {
            (self.wake)();
        }
        is_armed
    }

    /// Takes over what changed, unless nothing could be sent anyway: then it gathers where it is, and no packet thread has to
    /// wake this one. The tick takes over what is much.
    fn receive(&mut self) {
        let handover = &self.shared.handover;
        // Before anything is taken: what was read is in the hand-over then.
        let read = !self.is_reading_suspects();
        let all_read = read && self.resync.as_ref().is_some_and(Resync::is_judged);
        // What was read for suspects is taken in as a whole before the next ones are observed, also beside a batch under way.
        let is_round = read && self.session.is_some() && self.pending.has_observed();
        if self.has_room() || is_round {
            self.take_over();
            if read {
                self.pending.all_read();
            }
            if all_read && self.settling.is_none() {
                self.settling = Some(self.pending.addresses().collect());
            }
        }
        handover.set_taken(self.pending.len());
        if self.waiting() == 0 {
            self.caught_up = Instant::now();
        }
    }

    /// Takes what the packet threads put in.
    pub(super) fn take_over(&mut self) {
        let mut taken = self.shared.handover.take(std::mem::take(&mut self.spare));
        let many = taken.len();
        if let Some(resync) = &mut self.resync {
            for address in taken.keys() {
                resync.touch(*address);
            }
        }
        let dropped = self.pending.absorb(&mut taken, self.config().queue_size);
        self.shared.counters.queue_overflows.add(dropped);
        self.shared.handover.set_taken(self.pending.len());
        // Going through a map costs what it has room for; one that stays so full need not grow anew each time.
        taken.shrink_to((2 * many).max(Handover::ROOM));
        self.spare = taken;
    }

    fn send(&mut self) {
        if self.ending == Ending::Closing {
            return;
        }
        if !self.link.is_up() || self.session.is_none() {
            let choice = self.link.choice();
            let opening = self.flights.values().any(|flight| matches!(flight, Flight::Open(of, _) if *of == choice));
            if !opening && self.link.retry_at().is_none() {
                self.presence.state = self.state();
                let request = Request::Open {
                    presence: self.presence_key.clone(),
                    value: self.presence.json(),
                    lease: self.new_lease(),
                    landmarks: self.history.landmarks(),
                };
                self.fly(request, Flight::Open(choice, self.presence.clone()));
            }
            return;
        }
        let Some(session) = self.session else { return };
        while self.has_room() {
            let Some(batch) = self.pending.next_batch(now()) else { break };
            let writer = self.pending.writer();
            if batch.only_looks() {
                let request = Request::look(batch.addresses(), writer, &self.presence_key);
                self.fly(request, Flight::Batch(batch, Vec::new()));
            } else {
                // Also beside keys that are to be read first: a few removals of which no key is known would else have everything
                // sent at once, in small transactions.
                let is_last = !self.pending.is_write_due();
                self.gathering.sent(batch.operations().len());
                if is_last && self.resync.is_none() && self.ending == Ending::No {
                    self.gathering.begin(Instant::now());
                }
                let granted = |window: Window| self.granted.contains(&window.id);
                let request = Request::write(&batch, writer, &self.presence_key, session, granted, now());
                let windows = match &request {
                    Request::Write(_, windows) => windows.iter().map(|(window, _)| window.id).collect(),
                    _ => Vec::new(),
                };
                self.fly(request, Flight::Batch(batch, windows));
            }
        }
        // Some may need no write.
        self.shared.handover.set_taken(self.pending.len());
    }

    pub(super) fn fly(&mut self, request: Request, flight: Flight) {
        let (number, choice, member) = (self.next_number, self.link.choice(), self.link.member());
        let (endpoint, session) = (self.link.endpoint().to_owned(), self.session);
        let (connect_timeout, request_timeout) = (self.config().connect_timeout, self.config().request_timeout);
        let credentials = Arc::clone(&self.config().credentials);
        self.next_number += 1;
        self.flights.insert(number, flight);
        self.requests.spawn(async move {
            let result = request.send(member, &endpoint, &credentials, connect_timeout, request_timeout).await;
            Finished { number, session, choice, result }
        });
    }

    fn tick(&mut self) {
        self.tell_overflow();
        self.look_at_files();
        if self.shared.handover.queued() > MANY {
            self.take_over();
        }
        self.noticed.extend(self.pending.take_again());
        let noticed = self.noticed.drain().collect();
        self.suspect(noticed, "many changes by others");
        if let Some(settling) = &mut self.settling {
            settling.retain(|address| self.pending.is_pending(*address));
        }
        if self.resync_at.is_some_and(|at| Instant::now() >= at) {
            self.resync_at = None;
            self.shared.control.want(Purpose::Resync, "interval");
        }
        if self.pending.take_index_in_doubt() {
            self.shared.control.want(Purpose::Resync, "records that somebody removed");
        }
        if let Some(session) = self.session.filter(|_| self.ending == Ending::No) {
            if Instant::now() >= self.keep_alive_at {
                self.keep_alive_at = Instant::now() + KEEP_ALIVE;
                self.fly(Request::KeepAlive(session), Flight::KeepAlive);
                self.present();
            }
        }
        let now = now();
        self.granted.retain(|id| Lifetime::end(*id) > now);
        self.tell();
        self.shared.counters.pending.set(self.waiting());
        // For the counters, and for what the lease database wrote and nobody told.
        self.shared.ticked.store(true, Ordering::Relaxed);
        (self.wake)();
    }
}

/// Only a panic in a request fails to be joined; the thread starts anew.
fn or_panic(finished: Result<Finished, JoinError>) -> Finished {
    finished.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}
