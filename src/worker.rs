//! The one thread that talks to etcd: takes changes, sends them in transactions, and keeps trying.
//!
//! With a member that answers it opens a session: an etcd lease of 15 seconds with the presence key on it. Every
//! transaction requires that session, and after a request whose outcome is unknown a new one begins, so that what was
//! given up changes nothing when it lands late. Up to four transactions are under way at a time; while they are, changes
//! gather and the next ones are larger. When no member answers, one request at a time is tried, with growing pauses, and
//! everything waits newest per address.
//!
//! Besides it watches the records for changes by others, and runs comparisons. What these find goes back to Kea's main
//! thread as addresses to be read again, and comes from there like any other change.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{debug, error, info, warn};

use crate::comparison::Comparison;
use crate::config::Config;
use crate::control::{Control, Done, Purpose, Status};
use crate::counters::{self, Counters};
use crate::etcd::{self, Answer, Failure, Member, Opened, Request, Watched};
use crate::guard::Found;
use crate::handover::{Changes, Handover};
use crate::history::History;
use crate::index::Index;
use crate::lease::{Family, now};
use crate::lifetime::Lifetime;
use crate::link::Link;
use crate::messages;
use crate::pending::{Batch, MAX_OPERATIONS, Pending};
use crate::presence::{self, Presence, State};
use crate::readings::{PAGE, Readings};
use crate::record::LeaseKeys;
use crate::resync::{self, Need, Resync};
use crate::writer::{Action, Writer};

/// Transactions under way at a time; measured with 128 operations each, more bring nothing (one member, two cores).
const WINDOW: usize = 4;
/// How often Kea's main thread is told that there are news for its statistics, and everything that needs no haste is done.
const TICK: Duration = Duration::from_secs(1);
/// How often the session's etcd lease is renewed: a third of its time.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long the end of a session may take when the library is unloaded.
const CLOSING: Duration = Duration::from_millis(500);
/// After a failed or finished comparison, the next one waits at least as long.
const BETWEEN_RESYNCS: Duration = Duration::from_secs(1);

/// How long a server whose session was taken over waits before it takes it back.
const NAME_PAUSE: Duration = Duration::from_secs(5);
/// The lower half of a session's id counts a worker's sessions.
const SESSION_MASK: i64 = 0xffff_ffff;

/// The thread did not end in time.
#[derive(Debug)]
pub struct Stuck;

/// What a worker shares with Kea's threads.
#[derive(Debug)]
pub struct Shared {
    /// The parameters.
    pub config: Config,
    /// Which server this is.
    pub family: Family,
    /// Its version.
    pub kea_version: String,
    /// When the library was loaded, seconds since the epoch.
    pub started_at: i64,
    /// The changes.
    pub handover: Handover,
    /// What the lease database is to be asked for.
    pub readings: Readings,
    /// Wishes for comparisons, and how the worker is.
    pub control: Control,
    /// What is counted.
    pub counters: Counters,
}

/// A running worker. Dropping it leaves the thread behind; [`stop`](Self::stop) ends it.
#[derive(Debug)]
pub struct Worker {
    stop: oneshot::Sender<Instant>,
    left: std_mpsc::Receiver<Changes>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts the thread. It inherits the caller's signal mask, so the caller blocks every signal around this call.
    /// `wake` is called on it to have Kea's main thread read what is wanted and publish what was counted; it must return
    /// at once.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(shared: Arc<Shared>, wake: impl Fn() + Send + 'static) -> io::Result<Self> {
        let (stop, mut stopping) = oneshot::channel();
        let (give, left) = std_mpsc::channel();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("dhcp-etcd".into()).spawn(move || {
            loop {
                let mirroring = Mirroring::new(&shared, &wake);
                match catch_unwind(AssertUnwindSafe(|| runtime.block_on(mirroring.run(&mut stopping)))) {
                    Ok(unwritten) => {
                        let _ = give.send(unwritten);
                        break;
                    }
                    Err(_) if stopping.is_terminated() => {
                        error!(target: messages::BUG, "the worker panicked while it ended; what it held is lost");
                        break;
                    }
                    Err(_) => {
                        error!(target: messages::BUG, "the worker panicked and starts anew with a comparison");
                        shared.control.restarted();
                        // What panics each time must not do so in a hurry.
                        std::thread::sleep(TICK);
                    }
                }
            }
            // A name that never resolves keeps a thread of the runtime busy; it is not waited for.
            runtime.shutdown_background();
        })?;
        Ok(Self { stop, left, thread })
    }

    /// Lets the thread write what is left, for at most `flush`, and ends it. Returns what is unwritten.
    ///
    /// # Errors
    /// [`Stuck`] when the thread does not answer half a second after that; it is left behind.
    pub fn stop(self, flush: Duration) -> Result<Changes, Stuck> {
        let _ = self.stop.send(Instant::now() + flush);
        let patience = flush.max(CLOSING) + Duration::from_millis(500);
        let unwritten = self.left.recv_timeout(patience).map_err(|_| Stuck)?;
        self.thread.join().map_err(|_| Stuck)?;
        Ok(unwritten)
    }
}

/// A request under way.
#[derive(Debug)]
enum Flight {
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
}

/// A finished request.
struct Finished {
    number: u64,
    /// The session that it was sent in.
    session: Option<i64>,
    /// Which choice of a member it was sent under.
    choice: u64,
    result: Result<(Member, Answer), Failure>,
}

/// How far the end is, once the library is unloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// It was not ordered.
    No,
    /// What is left is written.
    Flushing,
    /// Everything is written, the session is being ended.
    Closing,
    /// No member took a write after the order: there is no use in trying until the deadline.
    GivenUp,
}

/// A watch under way; it ends when this is dropped.
struct Watch {
    news: mpsc::Receiver<Watched>,
    task: AbortHandle,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The thread's state.
struct Mirroring<'a> {
    shared: &'a Shared,
    wake: &'a dyn Fn(),
    pending: Pending,
    spare: Changes,
    link: Link<'a>,
    requests: JoinSet<Finished>,
    flights: HashMap<u64, Flight>,
    next_number: u64,

    presence_key: String,
    presence: Presence,
    /// What the presence key holds.
    presented: Option<Presence>,
    /// Begins the ids of this worker's sessions, and how many there were.
    instance: i64,
    sessions: i64,
    /// Whether another server has the same name.
    name_taken: bool,
    /// The session's etcd lease.
    session: Option<i64>,
    keep_alive_at: Instant,
    history: History,
    /// Etcd leases of windows that are known to exist.
    granted: HashSet<i64>,

    watch: Option<Watch>,
    /// Changes by others are known up to this revision.
    watched_to: i64,
    /// Revisions of our own transactions that the watch has yet to tell.
    own: BTreeSet<i64>,
    /// Addresses whose record somebody else changed, or that are to be suspected again, since the last tick.
    noticed: HashSet<IpAddr>,
    /// Addresses whose record and lease are to be read again, first the one and then the other.
    suspects: BTreeSet<IpAddr>,
    /// How many keys of suspects are read at once, at most.
    look_limit: usize,
    /// How many keys a comparison reads at once, at first.
    page_limit: i64,

    resync: Option<Resync>,
    /// Addresses that were unsettled when everything that the comparison found was queued; those that still are.
    settling: Option<HashSet<IpAddr>>,
    resync_not_before: Instant,
    /// When the next comparison is due without a cause.
    resync_at: Option<Instant>,

    last_error: Option<(String, i64)>,
    /// When nothing waited last.
    caught_up: Instant,
    /// Dropped changes up to the last overflow whose end was told.
    overflows_told: i64,
    overflowing: bool,
    ending: Ending,
    /// What Kea's main thread was last woken for.
    counted: [i64; counters::NUMBER],
}

impl<'a> Mirroring<'a> {
    fn new(shared: &'a Shared, wake: &'a dyn Fn()) -> Self {
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
            spare: Handover::room(config.queue_size),
            link: Link::new(&config.endpoints),
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
            keep_alive_at: Instant::now(),
            history: History::default(),
            granted: HashSet::new(),
            watch: None,
            watched_to: 0,
            own: BTreeSet::new(),
            noticed: HashSet::new(),
            suspects: BTreeSet::new(),
            look_limit: MAX_OPERATIONS,
            page_limit: resync::KEYS,
            resync: None,
            settling: None,
            resync_not_before: Instant::now(),
            resync_at: config.resync_interval.map(|interval| Instant::now() + interval),
            last_error: None,
            caught_up: Instant::now(),
            overflows_told: shared.counters.queue_overflows.get(),
            overflowing: false,
            ending: Ending::No,
            counted: [0; counters::NUMBER],
        }
    }

    async fn run(mut self, stopping: &mut oneshot::Receiver<Instant>) -> Changes {
        let shared = self.shared;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut deadline = None;
        loop {
            self.receive();
            let pause = self.compare();
            self.send();
            if let Some(deadline) = &mut deadline {
                if Instant::now() >= *deadline || self.ending == Ending::GivenUp {
                    break;
                }
                if self.waiting() == 0 {
                    if !self.close() {
                        break;
                    }
                    *deadline = (*deadline).min(Instant::now() + CLOSING);
                }
            }
            // What needed no request made room: there may be more.
            if self.has_room() && !shared.handover.arm() {
                tokio::task::yield_now().await;
                continue;
            }
            let retry = self.link.retry_at();
            tokio::select! {
                Some(finished) = self.requests.join_next() => match finished {
                    Ok(finished) => self.finish(finished),
                    // Only a panic in the request ends here; the thread starts anew.
                    Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
                },
                () = shared.handover.wait() => {}
                () = shared.readings.arrived() => {}
                () = shared.control.asked() => {}
                Some(news) = next_news(&mut self.watch) => self.hear(news),
                () = sleep_until(pause.unwrap_or_else(Instant::now)), if pause.is_some() => {}
                () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => self.link.retry(),
                order = &mut *stopping, if deadline.is_none() => {
                    // A dropped sender is an order to stop at once.
                    deadline = Some(order.unwrap_or_else(|_| Instant::now()));
                    self.ending = Ending::Flushing;
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
        let mut unwritten = self.pending.into_changes(batches.collect::<Vec<_>>());
        // Newer than what was taken before.
        unwritten.extend(shared.handover.take(Changes::new()));
        unwritten
    }

    fn config(&self) -> &'a Config {
        &self.shared.config
    }

    /// How many addresses wait, wherever they are.
    fn waiting(&self) -> usize {
        self.shared.handover.waiting()
    }

    /// Whether another batch may be sent now.
    fn has_room(&self) -> bool {
        let batches = self.flights.values().filter(|flight| matches!(flight, Flight::Batch(..))).count();
        self.session.is_some() && self.link.is_up() && self.link.retry_at().is_none() && batches < WINDOW
    }

    /// Takes what the packet threads put in, unless nothing could be sent anyway: then it gathers where it is, and no
    /// packet thread has to wake this one.
    fn receive(&mut self) {
        let handover = &self.shared.handover;
        // Before anything is taken: what was read is in the hand-over then.
        let all_read = self.suspects.is_empty()
            && self.resync.as_ref().is_some_and(Resync::is_judged)
            && !self.is_reading_suspects();
        if self.has_room() {
            let mut taken = handover.take(std::mem::take(&mut self.spare));
            if let Some(resync) = &mut self.resync {
                for address in taken.keys() {
                    resync.touch(*address);
                }
            }
            let dropped = self.pending.absorb(&mut taken, self.config().queue_size);
            self.shared.counters.queue_overflows.add(dropped);
            self.spare = taken;
            if all_read && self.settling.is_none() {
                self.settling = Some(self.pending.addresses().collect());
            }
        }
        handover.set_taken(self.pending.len());
        if self.waiting() == 0 {
            self.caught_up = Instant::now();
        }
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
                let granted = |window: crate::lifetime::Window| self.granted.contains(&window.id);
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

    fn fly(&mut self, request: Request, flight: Flight) {
        let (number, choice, member) = (self.next_number, self.link.choice(), self.link.member());
        let (endpoint, session) = (self.link.endpoint().to_owned(), self.session);
        let (connect_timeout, request_timeout) = (self.config().connect_timeout, self.config().request_timeout);
        self.next_number += 1;
        self.flights.insert(number, flight);
        self.requests.spawn(async move {
            let result = request.send(member, &endpoint, connect_timeout, request_timeout).await;
            Finished { number, session, choice, result }
        });
    }

    /// Ends the session; false when there is none, or its end is done.
    fn close(&mut self) -> bool {
        if let (Some(session), true) = (self.session.take(), self.link.is_up()) {
            self.ending = Ending::Closing;
            self.fly(Request::Close(session), Flight::Close);
        }
        self.flights.values().any(|flight| matches!(flight, Flight::Close))
    }

    fn finish(&mut self, finished: Finished) {
        let Some(flight) = self.flights.remove(&finished.number) else { return };
        match finished.result {
            Ok((member, answer)) => {
                self.link.answered(finished.choice, member);
                // The watch shows that the connection did not change since the session began.
                let same_history = finished.session == self.session && self.watch.is_some();
                self.answered(flight, answer, finished.choice, same_history);
            }
            Err(failure) => {
                self.shared.counters.errors.add(1);
                self.failed(flight, failure, finished.choice);
            }
        }
    }

    fn answered(&mut self, flight: Flight, answer: Answer, choice: u64, same_history: bool) {
        match (flight, answer) {
            (Flight::Open(_, presence), Answer::Opened(opened)) => {
                if choice == self.link.choice() {
                    self.opened(&opened, presence);
                }
            }
            (Flight::KeepAlive, Answer::KeptAlive(true)) => self.link.worked(),
            (Flight::Close, _) => {}
            (Flight::Present(presence), Answer::Landed { revision }) => {
                self.presented = Some(presence);
                if same_history {
                    self.history.presented(&self.presence_key, revision);
                } else {
                    self.history.doubt();
                }
            }
            (Flight::Batch(batch, granted), Answer::Landed { revision }) => {
                self.granted.extend(granted);
                self.link.worked();
                self.landed(batch, revision, same_history);
            }
            (Flight::Batch(batch, granted), Answer::Seen { found, session }) => {
                self.granted.extend(granted);
                let conflicts = self.pending.seen(batch, found);
                self.shared.counters.conflicts.add(conflicts);
                if conflicts > 0 {
                    debug!(target: messages::CONFLICT, "{conflicts} keys had been changed by somebody else");
                }
                if self.session.is_some_and(|ours| ours != session) {
                    self.session_lost();
                }
            }
            (Flight::Observe(addresses), Answer::Seen { found, .. }) => {
                self.look_limit = (self.look_limit * 2).min(MAX_OPERATIONS);
                let observed = addresses.into_iter().zip(found);
                let to_read =
                    observed.filter_map(|(address, found)| self.pending.observe(address, found).then_some(address));
                self.shared.readings.want_addresses(to_read);
                (self.wake)();
            }
            (Flight::Keys(number), Answer::Page(page)) => {
                if self.watched_to == 0 {
                    self.watched_to = page.revision;
                    self.start_watch();
                }
                let Some(resync) = self.resync.as_mut().filter(|resync| resync.number == number) else { return };
                let orphans = resync.keys(&page);
                self.page_limit = resync.limit;
                if resync.purpose == Purpose::Resync {
                    self.tidy(&orphans);
                }
            }
            (Flight::Tidy, Answer::Landed { revision }) => {
                if same_history {
                    self.history.removed(revision);
                } else {
                    self.history.doubt();
                }
            }
            // One of them was written anew meanwhile.
            (Flight::Tidy, _) => self.shared.control.want(Purpose::Resync, "index keys changed meanwhile"),
            (Flight::KeepAlive | Flight::Present(_), _) => self.session_lost(),
            (flight, answer) => error!(target: messages::BUG, "{flight:?} was answered with {answer:?}"),
        }
    }

    /// An id for a session's etcd lease, that tells it from those of others.
    fn new_lease(&mut self) -> i64 {
        self.sessions += 1;
        self.instance | self.sessions
    }

    fn opened(&mut self, opened: &Opened, presence: Presence) {
        // After a start it is the one that we were before.
        let is_ours = opened.before & !SESSION_MASK == self.instance;
        if self.presented.is_some() && opened.before != 0 && !is_ours {
            if !self.name_taken {
                warn!(target: messages::NAME_TAKEN, "another server writes {}: give each its own server-name", self.presence_key);
            }
            self.name_taken = true;
        }
        let goes_on = self.history.goes_on(opened, &self.presence_key);
        self.link.came_up(self.waiting());
        self.session = Some(opened.lease);
        self.keep_alive_at = Instant::now() + KEEP_ALIVE;
        self.presented = Some(presence);
        if !goes_on {
            info!(target: messages::HISTORY, "etcd may not hold everything that was written to it; everything is compared");
            self.pending.forget();
            self.granted.clear();
            self.own.clear();
            self.shared.control.want(Purpose::Resync, "etcd's history");
        }
        if !goes_on || self.watched_to == 0 {
            self.watched_to = opened.revision;
        }
        self.start_watch();
    }

    fn landed(&mut self, batch: Batch, revision: i64, same_history: bool) {
        let counters = &self.shared.counters;
        let (mut written, mut changed) = (None, false);
        for operation in batch.operations() {
            let Some(write) = &operation.write else { continue };
            changed |= write.action != Action::Keep;
            match write.action {
                Action::Put(_) | Action::Move(_) => {
                    counters.writes.add(1);
                    written = Some(operation.address);
                    self.presence.leases += usize::from(write.revision == 0);
                    debug!(target: messages::LEASE, "{} written at revision {revision}", operation.address);
                }
                Action::Remove => {
                    counters.deletes.add(1);
                    self.presence.leases = self.presence.leases.saturating_sub(1);
                    debug!(target: messages::LEASE, "{} removed at revision {revision}", operation.address);
                }
                Action::Keep => {}
            }
        }
        match written {
            _ if !same_history => self.history.doubt(),
            Some(address) => self.history.wrote(self.pending.writer().keys.of(address), revision),
            None => self.history.removed(revision),
        }
        // Without a change the revision may be that of somebody else's, which is to be noticed.
        if changed {
            if let Some(settling) = &mut self.settling {
                for address in batch.addresses() {
                    settling.remove(&address);
                }
            }
            self.own.insert(revision);
        }
        let overtaken = self.pending.landed(batch, revision);
        self.noticed.extend(overtaken);
    }

    fn failed(&mut self, flight: Flight, failure: Failure, choice: u64) {
        let (Failure::NoAnswer(reason)
        | Failure::NoSpace(reason)
        | Failure::Denied(reason)
        | Failure::Refused(reason)
        | Failure::LeaseGone(reason)
        | Failure::Compacted(reason)) = &failure;
        let reason = reason.clone();
        self.last_error = Some((reason.clone(), now()));
        match (failure, flight) {
            (Failure::Refused(_), Flight::Batch(batch, _)) => {
                if let Some(operation) = self.pending.refused(batch) {
                    error!(target: messages::RECORD_REFUSED, "the record of {} is left out: {reason}", operation.address);
                }
            }
            (Failure::Refused(_), Flight::Observe(addresses)) => {
                // What the keys hold is more than the client takes at once.
                if let [address] = addresses[..] {
                    error!(target: messages::RECORD_REFUSED, "the record of {address} is left as it is: {reason}");
                } else {
                    self.look_limit = (addresses.len() / 8).max(1);
                    self.suspects.extend(addresses);
                }
            }
            (Failure::LeaseGone(_), Flight::Batch(batch, _)) => {
                // Revoked, or etcd lost it: granted again with the next attempt.
                self.granted.clear();
                self.pending.failed(batch);
                self.link.pause();
            }
            // Of a comparison that was given up.
            (_, Flight::Keys(number)) if self.resync.as_ref().is_none_or(|resync| resync.number != number) => {}
            (Failure::Refused(_), Flight::Keys(_)) if self.resync.as_mut().is_some_and(Resync::too_much) => {}
            (Failure::Compacted(_), Flight::Keys(_)) => {
                if let Some(resync) = &mut self.resync {
                    resync.compacted();
                }
            }
            (Failure::LeaseGone(_), Flight::KeepAlive | Flight::Present(_)) => self.session_lost(),
            // Index keys that etcd does not take back in one transaction: the next comparison tries again.
            (Failure::LeaseGone(_), Flight::Close) | (Failure::Refused(_), Flight::Tidy) => {}
            (Failure::NoSpace(_), flight) => self.hold(flight, messages::NO_SPACE, &reason),
            (Failure::Denied(_), flight) => self.hold(flight, messages::DENIED, &reason),
            (failure, flight) => {
                if matches!((&failure, &flight), (Failure::NoAnswer(_), Flight::Keys(_))) {
                    // Perhaps it was more than could be sent in time.
                    self.page_limit = (self.page_limit / 8).max(1);
                }
                self.give_back(flight);
                // Others of the same choice fail with it; the first one moved on already.
                if choice == self.link.choice() {
                    self.link.leave(&reason);
                    self.disconnected();
                }
            }
        }
    }

    /// What a request was about is to be tried again.
    fn give_back(&mut self, flight: Flight) {
        match flight {
            Flight::Batch(batch, _) => self.pending.failed(batch),
            Flight::Observe(addresses) => self.suspects.extend(addresses),
            _ => {}
        }
    }

    /// etcd answers but takes no writes: everything waits for an operator.
    fn hold(&mut self, flight: Flight, message: &'static str, reason: &str) {
        self.give_back(flight);
        self.link.hold(message, &self.config().prefix, reason);
        self.disconnected();
    }

    /// The session is gone though the member answers: it ended while nothing was heard, or etcd lost it.
    fn session_lost(&mut self) {
        self.link.session_lost();
        if self.name_taken {
            self.link.pause_for(NAME_PAUSE);
        }
        self.disconnected();
    }

    fn disconnected(&mut self) {
        self.session = None;
        self.watch = None;
        if self.ending == Ending::Flushing && self.link.is_down() {
            self.ending = Ending::GivenUp;
        }
        if let Some(resync) = self.resync.take() {
            self.shared.control.interrupted(resync.purpose, resync.reason);
            // A page that is still read for it is not for the next one.
            self.resync_not_before = Instant::now() + BETWEEN_RESYNCS;
        }
    }

    fn start_watch(&mut self) {
        let Some(member) = self.link.member() else { return };
        let (tell, news) = mpsc::channel(16);
        let base = self.pending.writer().keys.base().to_owned();
        let task = tokio::spawn(etcd::watch(member, base, self.watched_to, tell)).abort_handle();
        self.watch = Some(Watch { news, task });
    }

    fn hear(&mut self, news: Watched) {
        match news {
            Watched::Changes { revision, keys } => {
                for (key, found) in keys {
                    self.notice(&key, found);
                }
                self.watched_to = self.watched_to.max(revision);
                // The last revision is told again when the watch begins anew.
                self.own = self.own.split_off(&self.watched_to);
            }
            Watched::Lost(reason) => {
                debug!(target: messages::NOTICED, "changes by others were missed: {reason}");
                self.watch = None;
                // The watch goes on where the comparison reads.
                self.watched_to = 0;
                self.shared.control.want(Purpose::Resync, "etcd compacted");
            }
            Watched::Canceled(reason) => {
                // The next tick begins it again.
                debug!(target: messages::NOTICED, "the watch ended: {reason}");
                self.watch = None;
            }
            Watched::Disconnected(reason) => {
                debug!(target: messages::NOTICED, "the watch ended: {reason}");
                self.session_lost();
            }
        }
    }

    /// A key below the records changed.
    fn notice(&mut self, key: &[u8], found: Found) {
        let Some(address) = self.pending.writer().keys.address(key) else { return };
        if !self.shared.family.has(address) || self.own.contains(&found.as_of) {
            return;
        }
        if let Some(resync) = &mut self.resync {
            resync.touch(address);
        }
        if self.pending.noticed(address, found) {
            return;
        }
        if self.noticed.len() < self.config().queue_size {
            self.noticed.insert(address);
        } else {
            self.shared.control.want(Purpose::Resync, "many changes by others");
        }
    }

    /// Does what a comparison under way needs next, or begins one. Returns when it wants to go on.
    fn compare(&mut self) -> Option<Instant> {
        self.observe_suspects();
        if self.ending != Ending::No || self.session.is_none() {
            return None;
        }
        if self.resync.is_none() {
            let early = Instant::now() < self.resync_not_before;
            let Some(wanted) = self.shared.control.next(early) else { return early.then_some(self.resync_not_before) };
            let writer = self.pending.writer().clone();
            let bases = (writer.keys.base().to_owned(), writer.index.base().to_owned());
            let comparison = Comparison::new(writer, self.shared.family, now(), self.pending.addresses());
            let bases = (bases.0.as_str(), bases.1.as_str());
            // The number of the next request was never given to a comparison before.
            let (number, limit) = (self.next_number, self.page_limit);
            self.resync = Some(Resync::new(number, wanted, comparison, self.shared.family, bases, limit, now()));
            self.settling = None;
            self.tell();
            self.present();
        }
        if let Some(page) =
            self.resync.as_ref().and_then(Resync::page).and_then(|after| self.shared.readings.take_page(after))
        {
            self.page_read(page);
        }
        // What was found is written before more is looked for, so that it never fills the queue.
        let busy = !self.suspects.is_empty() || self.waiting() > self.config().queue_size / 2;
        let resync = self.resync.as_mut()?;
        match resync.next(busy) {
            Need::Keys(request) => {
                let number = resync.number;
                self.fly(request, Flight::Keys(number));
            }
            Need::Leases(after) => {
                self.shared.readings.want_page(after);
                (self.wake)();
            }
            Need::Pause(until) => return until,
            Need::Nothing => {
                let is_empty = self.pending.is_empty();
                let settled = self.settling.as_ref().is_some_and(|settling| is_empty || settling.is_empty());
                if settled || resync.purpose == Purpose::Verify {
                    self.compared();
                }
            }
        }
        None
    }

    fn page_read(&mut self, page: Result<Vec<crate::lease::Lease>, String>) {
        let Some(resync) = &mut self.resync else { return };
        match page {
            Ok(leases) => {
                let suspects = resync.leases(&leases);
                if resync.purpose == Purpose::Resync {
                    self.suspects.extend(suspects);
                }
            }
            Err(reason) => {
                error!(target: messages::RESYNC_FAILED, "the lease database cannot be read: {reason}");
                let (purpose, why) = (resync.purpose, resync.reason);
                self.resync = None;
                self.resync_not_before = Instant::now() + 5 * BETWEEN_RESYNCS;
                self.shared.control.interrupted(purpose, why);
            }
        }
    }

    /// A comparison is done.
    fn compared(&mut self) {
        let Some(resync) = self.resync.take() else { return };
        let (took, findings) = (resync.started.elapsed(), resync.findings);
        self.resync_not_before = Instant::now() + took.max(BETWEEN_RESYNCS);
        if resync.purpose == Purpose::Resync {
            self.shared.counters.resyncs.add(1);
            self.presence.leases = findings.leases;
            self.presence.synced_at = Some(now());
            self.resync_at = self.config().resync_interval.map(|interval| Instant::now() + interval);
            info!(
                target: messages::RESYNC,
                "compared {} leases with {} records ({}): {} missing, {} different, {} extra; {} foreign keys; took {} ms",
                findings.leases, findings.records, resync.reason, findings.missing.count, findings.different.count,
                findings.extra.count, findings.foreign, took.as_millis()
            );
        }
        self.shared.control.finished(resync.purpose, Done { at: now(), took, reason: resync.reason, findings });
        self.present();
        self.tell();
    }

    fn tidy(&mut self, orphans: &[(Vec<u8>, i64)]) {
        let Some(session) = self.session else { return };
        // Few enough that even long keys fit into a transaction.
        for some in orphans.chunks(MAX_OPERATIONS / 2) {
            self.fly(Request::tidy(some, &self.presence_key, session), Flight::Tidy);
        }
    }

    /// Has the keys of suspects read, and then their leases: as many as a transaction and a turn of the main loop take,
    /// and the queue has room for.
    fn observe_suspects(&mut self) {
        if self.suspects.is_empty() || self.session.is_none() || self.is_reading_suspects() {
            return;
        }
        let room = self.config().queue_size.saturating_sub(self.waiting());
        let some = self.suspects.len().min(room).min(PAGE).min(self.look_limit);
        if some > 0 {
            let addresses: Vec<IpAddr> = std::iter::from_fn(|| self.suspects.pop_first()).take(some).collect();
            let request = Request::look(addresses.iter().copied(), self.pending.writer(), &self.presence_key);
            self.fly(request, Flight::Observe(addresses));
        }
    }

    fn is_reading_suspects(&self) -> bool {
        self.shared.readings.waiting() > 0 || self.flights.values().any(|flight| matches!(flight, Flight::Observe(_)))
    }

    fn state(&self) -> State {
        match &self.resync {
            Some(resync) if resync.purpose == Purpose::Resync => State::Syncing,
            _ if self.presence.synced_at.is_some() => State::Synced,
            _ => State::Starting,
        }
    }

    /// Writes the presence key when it holds something else than it should.
    fn present(&mut self) {
        self.presence.state = self.state();
        let under_way = self.flights.values().any(|flight| matches!(flight, Flight::Present(_)));
        if let (Some(session), false) = (self.session, under_way || self.presented.as_ref() == Some(&self.presence)) {
            let (presence, value) = (self.presence_key.clone(), self.presence.json());
            self.fly(Request::Present { presence, value, session }, Flight::Present(self.presence.clone()));
        }
    }

    fn tick(&mut self) {
        self.tell_overflows();
        self.noticed.extend(self.pending.take_again());
        if self.suspects.len() < self.config().queue_size {
            self.suspects.extend(self.noticed.drain());
        } else if !self.noticed.is_empty() {
            self.noticed.clear();
            self.shared.control.want(Purpose::Resync, "many changes by others");
        }
        if let Some(settling) = &mut self.settling {
            settling.retain(|address| self.pending.is_pending(*address));
        }
        if self.resync_at.is_some_and(|at| Instant::now() >= at) {
            self.resync_at = None;
            self.shared.control.want(Purpose::Resync, "interval");
        }
        if self.pending.take_orphans() {
            self.shared.control.want(Purpose::Resync, "records that somebody removed");
        }
        if let Some(session) = self.session.filter(|_| self.ending == Ending::No) {
            if Instant::now() >= self.keep_alive_at {
                self.keep_alive_at = Instant::now() + KEEP_ALIVE;
                self.fly(Request::KeepAlive(session), Flight::KeepAlive);
                self.present();
            }
            if self.watch.is_none() && self.watched_to != 0 {
                self.start_watch();
            }
        }
        let now = now();
        self.granted.retain(|id| Lifetime::end(*id) > now);
        self.tell();
        self.shared.counters.pending.set(self.waiting());
        let counted = self.shared.counters.all().map(|(_, count)| count);
        if std::mem::replace(&mut self.counted, counted) != counted || self.shared.readings.waiting() > 0 {
            (self.wake)();
        }
    }

    /// Seconds that the oldest change waits.
    fn lag(&self) -> u64 {
        if self.waiting() == 0 {
            return 0;
        }
        // While nothing is sent the changes gather where they cannot be looked at.
        let oldest = if self.link.is_up() { self.pending.oldest() } else { None };
        oldest.map_or(self.caught_up.elapsed().as_secs(), |oldest| u64::try_from(now() - oldest).unwrap_or(0))
    }

    /// Tells those who ask how things are.
    fn tell(&self) {
        let state = match self.state() {
            State::Starting => "starting",
            State::Syncing => "syncing",
            State::Synced => "synced",
        };
        self.shared.control.tell(Status {
            connection: self.link.describe(),
            endpoint: self.link.endpoint().to_owned(),
            last_error: self.last_error.clone(),
            unwritten: self.waiting(),
            lag: self.lag(),
            running: self.resync.as_ref().map(|resync| (resync.purpose, resync.reason, resync.since)),
            leases: self.presence.leases,
            state,
        });
    }

    /// One line when the queue overflows, one with the number when there is room again. What was dropped is found by a
    /// comparison.
    fn tell_overflows(&mut self) {
        let overflows = self.shared.counters.queue_overflows.get();
        if overflows > self.overflows_told && !self.overflowing {
            let queue_size = self.config().queue_size;
            warn!(target: messages::QUEUE_OVERFLOW, "more than {queue_size} addresses wait; changes of others are found by a comparison");
            self.overflowing = true;
        }
        if self.overflowing && self.link.is_up() && self.waiting() <= self.config().queue_size / 2 {
            let lost = overflows - self.overflows_told;
            warn!(target: messages::QUEUE_OVERFLOW, "{lost} changes were dropped; everything is compared");
            self.overflowing = false;
            self.overflows_told = overflows;
            self.shared.control.want(Purpose::Resync, "queue overflow");
        }
    }
}

async fn next_news(watch: &mut Option<Watch>) -> Option<Watched> {
    watch.as_mut()?.news.recv().await
}
