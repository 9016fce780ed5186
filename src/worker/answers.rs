//! What becomes of the answers, and of requests that fail.

use tokio::time::Instant;
use tracing::{Level, debug, error};

use super::mirroring::{Flight, Mirroring};
use crate::connection::Member;
use crate::control::Purpose;
use crate::etcd::Answer;
use crate::failure::Failure;
use crate::lease::now;
use crate::messages;
use crate::pending::{Batch, MAX_OPERATIONS};
use crate::resync::Resync;
use crate::writer::Action;

/// A finished request.
pub(super) struct Finished {
    pub(super) number: u64,
    /// The session that it was sent in.
    pub(super) session: Option<i64>,
    /// Which choice of a member it was sent under.
    pub(super) choice: u64,
    pub(super) result: Result<(Member, Answer), Failure>,
}

impl Mirroring<'_> {
    pub(super) fn finish(&mut self, finished: Finished) {
        let Some(flight) = self.flights.remove(&finished.number) else { return };
        match finished.result {
            Ok((member, answer)) => {
                self.link.answered(finished.choice, member);
                let same_session = finished.session == self.session;
                if !same_session && matches!(flight, Flight::KeepAlive | Flight::Present(_)) {
                    // News of a session that is over.
                    return;
                }
                self.answered(flight, answer, finished.choice, same_session);
            }
            Err(failure) => {
                self.shared.counters.errors.add(1);
                self.failed(flight, failure, finished.choice);
            }
        }
    }

    fn answered(&mut self, flight: Flight, answer: Answer, choice: u64, same_session: bool) {
        let landed = if let Answer::Landed { revision } = answer { Some(revision) } else { None };
        // While its line stands the connection did not change since the session began. An answer of a session that is over may be of
        // a history that is.
        if let Some(revision) = landed.filter(|_| same_session && flight.changes()) {
            self.wrote(revision);
        }
        match (flight, answer) {
            (Flight::Open(_, presence), Answer::Opened(opened)) => {
                if choice == self.link.choice() {
                    self.opened(&opened, presence);
                }
            }
            (Flight::KeepAlive, Answer::KeptAlive(true)) => self.link.worked(),
            (Flight::Close | Flight::Probe, _) => {}
            (Flight::Present(presence), Answer::Landed { revision }) => {
                self.presented = Some(presence);
                self.history.presented(&self.presence_key, revision);
            }
            (Flight::Batch(batch, granted), Answer::Landed { revision }) => {
                self.granted.extend(granted);
                self.link.worked();
                self.landed(batch, revision);
            }
            (Flight::Batch(batch, granted), Answer::Seen { found, session }) => {
                self.granted.extend(granted);
                self.gathering.end(Instant::now());
                let conflicts = self.pending.seen(batch, found);
                self.shared.counters.conflicts.add(conflicts);
                if conflicts > 0 {
                    debug!(target: messages::CONFLICT, "{conflicts} keys had been changed by somebody else");
                }
                if same_session && self.session.is_some_and(|ours| ours != session) {
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
                if same_session && self.revisions.from().is_none() {
                    self.revisions.begin_after(page.revision);
                }
                let Some(resync) = self.resync.as_mut().filter(|resync| resync.number == number) else { return };
                let orphans = resync.keys(&page, &self.pending);
                self.page_limit = resync.limit;
                if resync.purpose == Purpose::Resync {
                    self.tidy(&orphans);
                }
            }
            (Flight::Tidy, Answer::Landed { revision }) => self.history.removed(revision),
            // One of them was written anew meanwhile.
            (Flight::Tidy, _) => self.shared.control.want(Purpose::Resync, "index keys changed meanwhile"),
            (Flight::KeepAlive | Flight::Present(_), _) => self.session_lost(),
            (flight, answer) => error!(target: messages::BUG, "{flight:?} was answered with {answer:?}"),
        }
        if landed.is_some() && !same_session {
            self.history.doubt();
        }
    }

    fn landed(&mut self, batch: Batch, revision: i64) {
        let counters = &self.shared.counters;
        let (mut written, mut is_empty) = (None, true);
        // Kea's logger is asked once, not for each lease.
        let is_told = tracing::enabled!(target: messages::LEASE, Level::DEBUG);
        for operation in batch.operations() {
            // Of some only the absence was required.
            let Some(write) = operation.write.as_ref().filter(|write| write.operations() > 0) else { continue };
            is_empty = false;
            if let Some(queued) = operation.change.queued {
                self.shared.lag.observe(queued.elapsed());
            }
            let done = match write.action {
                Action::Put(_) | Action::Move(_) => {
                    counters.writes.add(1);
                    written = Some(operation.address);
                    self.presence.leases += usize::from(write.revision == 0);
                    "written"
                }
                Action::Remove => {
                    counters.deletes.add(1);
                    self.presence.leases = self.presence.leases.saturating_sub(1);
                    "removed"
                }
                Action::Keep | Action::Tidy => continue,
            };
            if is_told {
                debug!(target: messages::LEASE, "{} {done} at revision {revision}", operation.address);
            }
        }
        match written {
            Some(address) => self.history.wrote(self.pending.writer().keys.of(address), revision),
            None if is_empty => {}
            None => self.history.removed(revision),
        }
        if let Some(settling) = self.settling.as_mut().filter(|_| batch.changes_keys()) {
            for address in batch.addresses() {
                settling.remove(&address);
            }
        }
        let overtaken = self.pending.landed(batch, revision);
        self.noticed.extend(overtaken);
    }

    fn failed(&mut self, flight: Flight, failure: Failure, choice: u64) {
        let (Failure::NoAnswer(reason)
        | Failure::Tls(reason)
        | Failure::File(reason)
        | Failure::TokenEnded(reason)
        | Failure::NotAuthenticated(reason)
        | Failure::NoSpace(reason)
        | Failure::Denied(reason)
        | Failure::Refused(reason)
        | Failure::LeaseGone(reason)
        | Failure::Compacted(reason)
        | Failure::Behind(reason)) = &failure;
        let reason = reason.clone();
        if matches!(flight, Flight::Observe(_)) {
            self.pending.unanswered();
        }
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
                    self.suspect_again(addresses);
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
            (Failure::Behind(_), Flight::Keys(_)) => {
                if let Some(resync) = &mut self.resync {
                    resync.behind();
                }
            }
            (Failure::LeaseGone(_), Flight::KeepAlive | Flight::Present(_)) => self.session_lost(),
            // Index keys that etcd does not take back in one transaction: the next comparison tries again.
            (Failure::LeaseGone(_), Flight::Close) | (Failure::Refused(_), Flight::Tidy) => {}
            (Failure::NoSpace(_), flight) => self.hold(flight, messages::NO_SPACE, &reason),
            (Failure::Denied(_), flight) => self.hold(flight, messages::DENIED, &reason),
            (Failure::File(_), flight) => self.refused(flight, choice, messages::BAD_FILE, &reason),
            (Failure::NotAuthenticated(_), flight) => {
                self.refused(flight, choice, messages::NOT_AUTHENTICATED, &reason);
            }
            (Failure::TokenEnded(_), flight) => {
                self.give_back(flight);
                if choice == self.link.choice() {
                    self.link.renew();
                    self.link.pause();
                    self.disconnected();
                }
            }
            (failure, flight) => {
                if matches!((&failure, &flight), (Failure::NoAnswer(_), Flight::Keys(_))) {
                    // Perhaps it was more than could be sent in time.
                    self.page_limit = (self.page_limit / 8).max(1);
                }
                self.give_back(flight);
                // Others of the same choice fail with it; the first one moved on already.
                if choice == self.link.choice() {
                    let is_tls = matches!(failure, Failure::Tls(_));
                    self.link.leave(if is_tls { messages::TLS_FAILED } else { messages::UNREACHABLE }, &reason);
                    self.disconnected();
                }
            }
        }
    }

    /// No connection as we are, or with the files as they are.
    fn refused(&mut self, flight: Flight, choice: u64, message: &'static str, reason: &str) {
        self.give_back(flight);
        if choice == self.link.choice() {
            self.link.refuse(message, reason);
            self.disconnected();
        }
    }

    /// What a request was about is to be tried again.
    fn give_back(&mut self, flight: Flight) {
        match flight {
            Flight::Batch(batch, _) => self.pending.failed(batch),
            Flight::Observe(addresses) => self.suspect_again(addresses),
            Flight::Tidy => self.shared.control.want(Purpose::Resync, "index keys that may be left"),
            _ => {}
        }
    }

    /// etcd answers but takes no writes: everything waits for an operator.
    fn hold(&mut self, flight: Flight, message: &'static str, reason: &str) {
        self.give_back(flight);
        self.link.hold(message, &self.config().prefix, reason);
        self.disconnected();
    }
}
