//! The one thread that talks to etcd: takes changes, sends them in transactions, and keeps trying.
//!
//! Up to four transactions are under way at a time; while they are, changes gather and the next ones are larger. When no
//! member answers, one request at a time is tried, with growing pauses, and everything waits newest per address.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use etcd_client::KvClient;
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{debug, error, info, warn};

use crate::config::Config;
use crate::counters::{self, Counters};
use crate::etcd::{Answer, Failure, Request};
use crate::handover::{Changes, Handover};
use crate::lease::Row;
use crate::messages;
use crate::pending::{Batch, Pending};
use crate::record::LeaseKeys;

/// Transactions under way at a time; measured with 128 operations each, more bring nothing (one member, two cores).
const WINDOW: usize = 4;
/// The shortest and the longest pause between attempts when no member answers.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How often Kea's main thread is told that there are news for its statistics.
const TICK: Duration = Duration::from_secs(1);

/// The thread did not end in time.
#[derive(Debug)]
pub struct Stuck;

/// A running worker. Dropping it leaves the thread behind; [`stop`](Self::stop) ends it.
#[derive(Debug)]
pub struct Worker {
    stop: oneshot::Sender<Instant>,
    left: mpsc::Receiver<Changes>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts the thread. It inherits the caller's signal mask, so the caller blocks every signal around this call.
    /// `on_tick` is called on it at most once a second, when a counter has changed, and must return at once.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        config: Arc<Config>,
        handover: Arc<Handover>,
        counters: Arc<Counters>,
        on_tick: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, mut stopping) = oneshot::channel();
        let (give, left) = mpsc::channel();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("dhcp-etcd".into()).spawn(move || {
            loop {
                let mirroring = Mirroring::new(&config, &handover, &counters);
                match catch_unwind(AssertUnwindSafe(|| runtime.block_on(mirroring.run(&mut stopping, &on_tick)))) {
                    Ok(unwritten) => {
                        let _ = give.send(unwritten);
                        break;
                    }
                    Err(_) if stopping.is_terminated() => {
                        error!(target: messages::BUG, "the worker panicked while it ended; what it held is lost");
                        break;
                    }
                    Err(_) => {
                        error!(target: messages::BUG, "the worker panicked and starts anew; what it held is lost");
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
        let unwritten = self.left.recv_timeout(flush + Duration::from_millis(500)).map_err(|_| Stuck)?;
        self.thread.join().map_err(|_| Stuck)?;
        Ok(unwritten)
    }
}

/// Whether etcd takes our writes. A line is logged when this changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// No answer yet, or the member in use failed and another is being tried.
    Trying,
    /// The member answers.
    Up,
    /// No member answers, or none takes our writes.
    Down(&'static str),
}

/// A finished request.
struct Finished {
    flight: u64,
    /// Which choice of a member it was sent under.
    choice: u64,
    result: Result<(KvClient, Answer), Failure>,
}

/// The thread's state.
struct Mirroring<'a> {
    config: &'a Config,
    handover: &'a Handover,
    counters: &'a Counters,
    keys: LeaseKeys,
    pending: Pending,
    spare: Changes,
    flights: JoinSet<Finished>,
    /// The batches under way by flight; a probe has none.
    batches: HashMap<u64, Batch>,
    next_flight: u64,
    /// The member in use: its place in `endpoints` is `choice` modulo their number.
    choice: u64,
    client: Option<KvClient>,
    link: Link,
    failed_members: usize,
    pauses: ExponentialBackoff,
    retry_at: Option<Instant>,
    /// Dropped changes up to the last overflow whose end was told.
    overflows_told: i64,
    overflowing: bool,
    stopping: bool,
    /// Set when no member took a write after the order to stop: there is no use in trying until the deadline.
    given_up: bool,
    /// What Kea's main thread was last woken for.
    counted: [i64; counters::NUMBER],
}

impl<'a> Mirroring<'a> {
    fn new(config: &'a Config, handover: &'a Handover, counters: &'a Counters) -> Self {
        Self {
            config,
            handover,
            counters,
            keys: LeaseKeys::new(&config.prefix),
            pending: Pending::default(),
            spare: Handover::room(config.queue_size),
            flights: JoinSet::new(),
            batches: HashMap::new(),
            next_flight: 0,
            choice: 0,
            client: None,
            link: Link::Trying,
            failed_members: 0,
            pauses: pauses(),
            retry_at: None,
            overflows_told: counters.queue_overflows.get(),
            overflowing: false,
            stopping: false,
            given_up: false,
            counted: [0; counters::NUMBER],
        }
    }

    async fn run(mut self, stopping: &mut oneshot::Receiver<Instant>, on_tick: &impl Fn()) -> Changes {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut deadline = None;
        loop {
            self.receive();
            self.send();
            if let Some(deadline) = deadline {
                let all_written = self.pending.is_empty() && self.handover.waiting() == 0;
                if all_written || self.given_up || Instant::now() >= deadline {
                    break;
                }
            }
            tokio::select! {
                Some(finished) = self.flights.join_next() => match finished {
                    Ok(finished) => self.finish(finished),
                    // Only a panic in the request ends here; the thread starts anew.
                    Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
                },
                () = self.handover.wait() => {}
                () = sleep_until(self.retry_at.unwrap_or_else(Instant::now)), if self.retry_at.is_some() => {
                    self.retry_at = None;
                }
                order = &mut *stopping, if deadline.is_none() => {
                    // A dropped sender is an order to stop at once.
                    deadline = Some(order.unwrap_or_else(|_| Instant::now()));
                    self.stopping = true;
                    self.retry_at = None;
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {}
                _ = tick.tick() => {
                    self.tell_overflows();
                    self.counters.pending.set(self.handover.waiting());
                    let counted = self.counters.all().map(|(_, count)| count);
                    if std::mem::replace(&mut self.counted, counted) != counted {
                        on_tick();
                    }
                }
            }
        }
        self.flights.abort_all();
        let under_way = std::mem::take(&mut self.batches).into_values();
        let mut unwritten = self.pending.into_changes(under_way);
        // Newer than what was taken before.
        unwritten.extend(self.handover.take(Changes::new()));
        unwritten
    }

    /// Requests that may be under way now.
    fn window(&self) -> usize {
        match self.link {
            _ if self.retry_at.is_some() => 0,
            Link::Up => WINDOW,
            Link::Trying | Link::Down(_) => 1,
        }
    }

    /// Takes what the packet threads put in, unless nothing could be sent anyway: then it gathers where it is, and no
    /// packet thread has to wake this one.
    fn receive(&mut self) {
        if self.flights.len() < self.window() {
            let mut taken = self.handover.take(std::mem::take(&mut self.spare));
            let dropped = self.pending.absorb(&mut taken, self.config.queue_size);
            self.counters.queue_overflows.add(dropped);
            self.spare = taken;
        }
        self.handover.set_taken(self.pending.len());
    }

    fn send(&mut self) {
        let window = self.window();
        while self.flights.len() < window {
            let request = if let Some(batch) = self.pending.next_batch() {
                let request = Request::write(&batch, &self.keys, &self.config.server_name);
                self.batches.insert(self.next_flight, batch);
                request
            } else if self.link == Link::Up {
                return;
            } else {
                Request::Probe(self.keys.base().to_owned())
            };
            let (flight, choice, client) = (self.next_flight, self.choice, self.client.clone());
            let endpoint = self.endpoint().to_owned();
            let (connect_timeout, request_timeout) = (self.config.connect_timeout, self.config.request_timeout);
            self.next_flight += 1;
            self.flights.spawn(async move {
                let result = request.send(client, &endpoint, connect_timeout, request_timeout).await;
                Finished { flight, choice, result }
            });
        }
    }

    fn endpoint(&self) -> &str {
        let members = self.config.endpoints.len();
        &self.config.endpoints[usize::try_from(self.choice).unwrap_or(0) % members]
    }

    fn finish(&mut self, finished: Finished) {
        let batch = self.batches.remove(&finished.flight);
        match finished.result {
            Ok((client, answer)) => {
                if finished.choice == self.choice {
                    self.client = Some(client);
                    self.came_up();
                }
                if let Some(batch) = batch {
                    self.answered(batch, answer);
                }
            }
            Err(failure) => {
                self.counters.errors.add(1);
                self.failed(batch, failure, finished.choice);
            }
        }
    }

    fn answered(&mut self, batch: Batch, answer: Answer) {
        match answer {
            Answer::Landed { revision } => {
                for operation in batch.operations() {
                    let (counter, done) = match operation.change.row {
                        Row::Held { .. } => (&self.counters.writes, "written"),
                        Row::Gone { .. } => (&self.counters.deletes, "removed"),
                    };
                    counter.add(1);
                    debug!(target: messages::LEASE, "{} {done} at revision {revision}", operation.address);
                }
                self.pending.landed(batch, revision);
            }
            Answer::Conflict(found) => {
                let conflicts = self.pending.conflicted(batch, &found, &self.config.server_name);
                self.counters.conflicts.add(conflicts.retried + conflicts.yielded);
                debug!(
                    target: messages::CONFLICT,
                    "{} operations are tried again, {} gave way", conflicts.retried, conflicts.yielded
                );
            }
            Answer::Alive => self.pending.failed(batch),
        }
    }

    fn came_up(&mut self) {
        if self.link != Link::Up {
            info!(target: messages::CONNECTED, "etcd member {} answers, {} addresses wait", self.endpoint(), self.pending.len());
            self.link = Link::Up;
        }
        self.failed_members = 0;
        self.pauses = pauses();
    }

    fn failed(&mut self, batch: Option<Batch>, failure: Failure, choice: u64) {
        match (failure, batch) {
            (Failure::Refused(reason), Some(batch)) => {
                if let Some(operation) = self.pending.refused(batch) {
                    error!(target: messages::RECORD_REFUSED, "the record of {} is left out: {reason}", operation.address);
                }
            }
            // No etcd refuses a probe for good; whatever stands in its place is left.
            (Failure::NoAnswer(reason) | Failure::Refused(reason), batch) => {
                if let Some(batch) = batch {
                    self.pending.failed(batch);
                }
                // Others of the same choice fail with it; the first one moved on already.
                if choice == self.choice {
                    self.leave_member(&reason);
                }
            }
            (Failure::NoSpace(reason), batch) => self.hold(batch, messages::NO_SPACE, &reason),
            (Failure::Denied(reason), batch) => self.hold(batch, messages::DENIED, &reason),
        }
    }

    /// The member did not answer: another one is next, after a pause when every one failed.
    fn leave_member(&mut self, reason: &str) {
        let endpoint = self.endpoint().to_owned();
        self.choice += 1;
        self.client = None;
        self.failed_members += 1;
        if self.failed_members < self.config.endpoints.len() {
            if self.link == Link::Up {
                warn!(target: messages::MEMBER_FAILED, "etcd member {endpoint} failed ({reason}), the next is tried");
                self.link = Link::Trying;
            }
            return;
        }
        self.failed_members = 0;
        if self.link != Link::Down(messages::UNREACHABLE) {
            warn!(target: messages::UNREACHABLE, "no etcd member answers (last was {endpoint}: {reason}); changes are kept and tried again");
        }
        self.pause(messages::UNREACHABLE);
    }

    /// etcd answers but takes no writes: everything waits for an operator.
    fn hold(&mut self, batch: Option<Batch>, message: &'static str, reason: &str) {
        if let Some(batch) = batch {
            self.pending.failed(batch);
        }
        if self.link != Link::Down(message) {
            if message == messages::NO_SPACE {
                error!(target: messages::NO_SPACE, "etcd takes no writes: {reason}");
            } else {
                error!(target: messages::DENIED, "etcd denies access to {}: {reason}", self.keys.base());
            }
        }
        self.pause(message);
    }

    fn pause(&mut self, message: &'static str) {
        self.link = Link::Down(message);
        self.given_up = self.stopping;
        self.retry_at = Some(Instant::now() + self.pauses.next().unwrap_or(PAUSE.1));
    }

    /// One line when the queue overflows, one with the number when it is empty again.
    fn tell_overflows(&mut self) {
        let overflows = self.counters.queue_overflows.get();
        if overflows > self.overflows_told && !self.overflowing {
            warn!(target: messages::QUEUE_OVERFLOW, "more than {} addresses wait; changes of others are dropped", self.config.queue_size);
            self.overflowing = true;
        }
        if self.overflowing && self.handover.waiting() == 0 {
            let lost = overflows - self.overflows_told;
            warn!(target: messages::QUEUE_OVERFLOW, "the queue is empty again; {lost} changes were dropped");
            self.overflowing = false;
            self.overflows_told = overflows;
        }
    }
}

/// Pauses between attempts: each about twice the one before, with jitter, up to the longest.
fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(PAUSE.0)
        .with_max_delay(PAUSE.1)
        .with_jitter()
        .without_max_times()
        .build()
}
