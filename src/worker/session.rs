//! The session: its etcd lease, the presence key on it, its begin and its end.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::comparing::BETWEEN_RESYNCS;
use super::mirroring::{Ending, Flight, Mirroring};
use crate::control::Purpose;
use crate::etcd::{self, Opened, Request};
use crate::messages;
use crate::presence::{Presence, State};
use crate::revisions::Revisions;

/// How often the session's etcd lease is renewed: a third of its time.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long a server whose session was taken over waits before it takes it back.
const NAME_PAUSE: Duration = Duration::from_secs(5);
/// The lower half of a session's id counts a worker's sessions.
pub(super) const SESSION_MASK: i64 = 0xffff_ffff;

impl Mirroring<'_> {
    /// An id for a session's etcd lease, that tells it from those of others.
    pub(super) fn new_lease(&mut self) -> i64 {
        self.sessions += 1;
        self.instance | self.sessions
    }

    pub(super) fn opened(&mut self, opened: &Opened, presence: Presence) {
        // After a start it is the one that we were before.
        let is_ours = opened.before & !SESSION_MASK == self.instance;
        let taken = self.presented.is_some() && opened.before != 0 && !is_ours;
        if taken && !self.name_taken {
            warn!(target: messages::NAME_TAKEN, "another server writes {}: give each its own server-name", self.presence_key);
        }
        self.name_taken = taken;
        // What the watch told may be gone though what we wrote before it stands.
        let went_back = self.revisions.from().is_some_and(|from| opened.revision < from);
        if went_back {
            self.history.doubt();
        }
        let goes_on = self.history.goes_on(opened, &self.presence_key);
        self.link.came_up(self.waiting());
        self.session = Some(opened.lease);
        self.keep_alive_at = Instant::now() + KEEP_ALIVE;
        self.presented = Some(presence);
        if let Some(known) = goes_on {
            if !self.revisions.go_back(known, opened.revision) {
                self.shared.control.want(Purpose::Resync, "many changes by others");
            }
        } else {
            info!(target: messages::HISTORY, "etcd may not hold everything that was written to it; everything is compared");
            self.pending.forget();
            self.granted.clear();
            self.revisions = Revisions::default();
            self.shared.control.want(Purpose::Resync, "etcd's history");
        }
        if self.revisions.from().is_some() {
            self.revisions.wrote(opened.revision);
        } else {
            self.revisions.begin_after(opened.revision);
        }
        self.line = JoinSet::new();
        if let Some(member) = self.link.member() {
            self.line.spawn(etcd::hold(member, self.presence_key.clone()));
        }
    }

    /// Begins the end of the session; false when there is none.
    pub(super) fn close(&mut self) -> bool {
        let Some(session) = self.session.take().filter(|_| self.link.is_up()) else { return false };
        self.ending = Ending::Closing;
        self.fly(Request::Close(session), Flight::Close);
        true
    }

    /// The connection is another one, or gone.
    pub(super) fn line_ended(&mut self, reason: &str) {
        debug!(target: messages::NOTICED, "the connection ended: {reason}");
        // What was answered before tells more of the session, and of the history.
        self.finish_answered();
        if self.session.is_some() {
            self.session_lost();
        }
    }

    /// The session is gone though the member answers: it ended while nothing was heard, or etcd lost it.
    pub(super) fn session_lost(&mut self) {
        self.link.session_lost();
        if self.name_taken && self.ending == Ending::No {
            self.link.pause_for(NAME_PAUSE);
        } else {
            // What ends each session at once must not be begun in a hurry for ever.
            self.link.pause();
        }
        self.disconnected();
    }

    pub(super) fn disconnected(&mut self) {
        self.session = None;
        self.line = JoinSet::new();
        self.watch = None;
        self.pending.drop_findings();
        if self.ending == Ending::Flushing && self.link.is_down() {
            self.ending = Ending::GivenUp;
        }
        if let Some(resync) = self.take_resync() {
            self.shared.counters.resync_failures.add(1);
            self.shared.control.interrupted(resync.purpose, resync.reason);
            self.resync_not_before = Instant::now() + BETWEEN_RESYNCS;
        }
    }

    pub(super) fn state(&self) -> State {
        match &self.resync {
            Some(resync) if resync.purpose == Purpose::Resync => State::Syncing,
            _ if self.presence.synced_at.is_some() => State::Synced,
            _ => State::Starting,
        }
    }

    /// Writes the presence key when it holds something else than it should.
    pub(super) fn present(&mut self) {
        self.presence.state = self.state();
        let under_way = self.flights.values().any(|flight| matches!(flight, Flight::Present(_)));
        if let (Some(session), false) = (self.session, under_way || self.presented.as_ref() == Some(&self.presence)) {
            let (presence, value) = (self.presence_key.clone(), self.presence.json());
            self.fly(Request::Present { presence, value, session }, Flight::Present(self.presence.clone()));
        }
    }
}
