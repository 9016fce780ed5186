//! Where Kea's threads ask the worker for comparisons, and where it tells how it is. Nobody waits here for etcd but a
//! command that says so, and that no longer than a second.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::comparison::Findings;
use crate::presence;

/// Why a comparison is made that a command asked for.
pub const COMMAND: &str = "command";

/// What a comparison is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// What differs is written.
    Resync,
    /// Nothing is written.
    Verify,
}

/// A comparison that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// When it ended, seconds since the epoch.
    pub at: i64,
    /// How long it took.
    pub took: Duration,
    /// Why it was made.
    pub reason: &'static str,
    /// What it found.
    pub findings: Findings,
}

/// How the worker is, for `etcd-status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// `connecting`, `up`, or what is wrong.
    pub connection: &'static str,
    /// The member in use, or tried.
    pub endpoint: String,
    /// Whether the endpoints are spoken to over TLS.
    pub tls: bool,
    /// The parameter `user`.
    pub user: Option<String>,
    /// The last failure's text and when it was, seconds since the epoch.
    pub last_error: Option<(String, i64)>,
    /// Addresses that wait for the worker to take them.
    pub queued: usize,
    /// All that wait to be written, those under way included.
    pub unwritten: usize,
    /// Seconds that the one waits that is due first; 0 when none does.
    pub lag: u64,
    /// The comparison that runs: what for, why, and since when.
    pub running: Option<(Purpose, &'static str, i64)>,
    /// Leases that somebody holds, as of the last comparison and since.
    pub leases: usize,
    /// How far the mirror is.
    pub state: presence::State,
}

/// One kind of comparison: who asked, and what came of it.
#[derive(Debug, Default)]
struct Line {
    /// Why one is wanted.
    wanted: Option<&'static str>,
    /// How many were begun for a wish.
    begun: u64,
    /// The last one that is done: the number that it was begun under.
    done: Option<(u64, Done)>,
    /// The number of the one that a command waits for, or has waited for in vain.
    awaited: Option<u64>,
}

#[derive(Debug, Default)]
struct State {
    resync: Line,
    verify: Line,
    status: Status,
}

impl State {
    fn line(&mut self, purpose: Purpose) -> &mut Line {
        match purpose {
            Purpose::Resync => &mut self.resync,
            Purpose::Verify => &mut self.verify,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Control {
    state: Mutex<State>,
    done: Condvar,
    asked: Notify,
}

impl Control {
    /// Wants a comparison, soon. One that runs already does not count: it may have passed what changed.
    pub fn want(&self, purpose: Purpose, reason: &'static str) {
        let mut state = self.lock();
        let wanted = &mut state.line(purpose).wanted;
        // A command does not wait.
        if wanted.is_none() || reason == COMMAND {
            *wanted = Some(reason);
        }
        drop(state);
        self.asked.notify_one();
    }

    /// Returns when something was wanted.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// The next comparison to make, with its reason; where it is too `early` for another one, only what a command wants.
    pub fn next(&self, early: bool) -> Option<(Purpose, &'static str)> {
        let mut state = self.lock();
        for purpose in [Purpose::Verify, Purpose::Resync] {
            let line = state.line(purpose);
            if let Some(reason) = line.wanted.take_if(|reason| !early || *reason == COMMAND) {
                line.begun += 1;
                return Some((purpose, reason));
            }
        }
        None
    }

    /// The comparison that was begun last could not be ended; it is wanted again.
    pub fn interrupted(&self, purpose: Purpose, reason: &'static str) {
        let mut state = self.lock();
        let line = state.line(purpose);
        // When the next one is wanted already, that one is for both.
        if line.wanted.is_none() {
            line.wanted = Some(reason);
            line.begun -= 1;
        }
    }

    /// The worker begins anew: what was running will not end.
    pub fn restarted(&self) {
        let mut state = self.lock();
        for purpose in [Purpose::Verify, Purpose::Resync] {
            let line = state.line(purpose);
            if let Some(number) = line.awaited.filter(|number| line.done.as_ref().is_none_or(|(done, _)| done < number))
            {
                line.begun = number - 1;
                line.wanted = Some(COMMAND);
            }
        }
    }

    /// The comparison that was begun last is done.
    pub fn finished(&self, purpose: Purpose, done: Done) {
        let mut state = self.lock();
        let line = state.line(purpose);
        line.done = Some((line.begun, done));
        drop(state);
        self.done.notify_all();
    }

    /// The last comparison that is done.
    #[must_use]
    pub fn last(&self, purpose: Purpose) -> Option<Done> {
        self.lock().line(purpose).done.as_ref().map(|(_, done)| done.clone())
    }

    /// Waits for a comparison that begins after this call, at most until `deadline`, and calls `meanwhile` every
    /// millisecond. The call after one that waited in vain waits for the same comparison, if that is not older than a
    /// minute.
    pub fn wait(&self, purpose: Purpose, now: i64, deadline: Instant, mut meanwhile: impl FnMut()) -> Option<Done> {
        let mut state = self.lock();
        let line = state.line(purpose);
        let is_stale = |number: u64| line.done.as_ref().is_some_and(|(done, of)| *done >= number && of.at < now - 60);
        let number = line.awaited.filter(|number| !is_stale(*number)).unwrap_or_else(|| {
            line.wanted = Some(COMMAND);
            self.asked.notify_one();
            line.begun + 1
        });
        line.awaited = Some(number);
        loop {
            let line = state.line(purpose);
            if let Some((_, done)) = line.done.clone().filter(|(done, _)| *done >= number) {
                line.awaited = None;
                return Some(done);
            }
            if Instant::now() >= deadline {
                return None;
            }
            drop(state);
            meanwhile();
            let waited = self.done.wait_timeout(self.lock(), Duration::from_millis(1));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The worker tells how it is.
    pub fn tell(&self, status: Status) {
        self.lock().status = status;
    }

    /// How the worker is.
    #[must_use]
    pub fn status(&self) -> Status {
        self.lock().status.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
