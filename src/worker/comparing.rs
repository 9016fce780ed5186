//! Comparisons, and suspects: addresses whose key is observed and whose lease is read after that.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info};

use super::mirroring::{Ending, Flight, Mirroring};
use crate::control::{Done, Purpose};
use crate::etcd::Request;
use crate::lease::{Lease, now};
use crate::messages;
use crate::pending::MAX_OPERATIONS;
use crate::readings::PAGE;
use crate::resync::{Need, PACE, Resync};
use crate::suspects::Suspects;

/// After a failed or finished comparison, the next one waits at least as long.
pub(super) const BETWEEN_RESYNCS: Duration = Duration::from_secs(1);

/// A comparison reads on while no more of what it found waits than this, enough for many transactions. What was told does not
/// count, so that what is missing follows it without a pause.
const BACKLOG: usize = 16 * MAX_OPERATIONS;

impl Mirroring<'_> {
    /// Does what a comparison under way needs next, or begins one. Returns when it wants to go on.
    pub(super) fn compare(&mut self) -> Option<Instant> {
        self.observe_suspects();
        if self.ending != Ending::No || self.session.is_none() {
            return None;
        }
        if self.resync.is_none() {
            let early = Instant::now() < self.resync_not_before;
            let Some(wanted) = self.shared.control.next(early) else { return early.then_some(self.resync_not_before) };
            // What waits is not judged, so it must be known.
            self.take_over();
            // The number of the next request was never given to a comparison before.
            let (number, limit, family) = (self.next_number, self.page_limit, self.shared.family);
            self.resync = Some(Resync::new(number, wanted, &self.pending, family, limit));
            self.settling = None;
            self.tell();
            self.present();
        }
        if let Some(page) =
            self.resync.as_ref().and_then(Resync::page).and_then(|ticket| self.shared.readings.take_page(ticket))
        {
            // What was committed before the page was read, and is known better, is here by now.
            self.take_over();
            self.page_read(page);
        }
        // What was found is written before more is looked for, so that it fills neither the queue nor memory.
        let busy = self.free() == 0 || self.pending.found() > BACKLOG.min(self.config().queue_size / 2);
        if self.flights.values().any(|flight| matches!(flight, Flight::Tidy)) {
            // One page's index keys at a time.
            return None;
        }
        let resync = self.resync.as_mut()?;
        match resync.next(busy) {
            Need::Keys(request) => {
                let number = resync.number;
                self.fly(request, Flight::Keys(number));
            }
            Need::Leases(ticket) => {
                self.shared.readings.want_page(ticket);
                (self.wake)();
            }
            Need::Pause(until) => return until,
            Need::Nothing => {
                let is_empty = self.pending.is_empty();
                let settled = self.settling.as_ref().is_some_and(|settling| is_empty || settling.is_empty());
                if settled || resync.purpose == Purpose::Verify {
                    self.compared();
                } else if self.settling.is_none() && self.has_room() && !self.is_reading_suspects() {
                    // The next turn of the loop takes what was read last, and then it is known what is to settle.
                    return Some(Instant::now());
                }
            }
        }
        None
    }

    fn page_read(&mut self, page: Result<Vec<Lease>, String>) {
        let free = self.free();
        let Some(resync) = &mut self.resync else { return };
        match page {
            Ok(leases) => {
                let missing = resync.leases(leases, &self.pending);
                if missing.len() > free {
                    resync.suspects.extend(missing.iter().map(|lease| lease.address));
                    return;
                }
                for lease in missing {
                    self.pending.found_missing(lease, resync.revision);
                }
                self.shared.handover.set_taken(self.pending.len());
            }
            Err(reason) => {
                error!(target: messages::RESYNC_FAILED, "the lease database cannot be read: {reason}");
                let purpose = resync.purpose;
                self.shared.counters.resync_failures.add(1);
                self.take_resync();
                self.resync_not_before = Instant::now() + 5 * BETWEEN_RESYNCS;
                // Not a command any more, which would not wait.
                self.shared.control.interrupted(purpose, "the lease database could not be read");
            }
        }
    }

    /// When Kea's main loop is to turn once more, for what the turn before left to be read.
    pub(super) fn turn_again(&mut self) -> Option<Instant> {
        if self.shared.readings.take_unfinished() {
            self.turn_at = Some(Instant::now() + PACE);
        }
        if self.turn_at.is_some_and(|at| Instant::now() >= at) {
            self.turn_at = None;
            (self.wake)();
        }
        self.turn_at
    }

    /// Ends a comparison, done or not. Some of its suspects may have been noticed by the watch; if they are many, the next
    /// comparison is to find them.
    pub(super) fn take_resync(&mut self) -> Option<Resync> {
        let mut resync = self.resync.take()?;
        self.suspects.extend(resync.suspects.take(self.config().queue_size / 2));
        Some(resync)
    }

    /// A comparison is done.
    fn compared(&mut self) {
        let Some(resync) = self.take_resync() else { return };
        let (took, findings) = (resync.started.elapsed(), resync.findings);
        self.resync_not_before = Instant::now() + took.max(BETWEEN_RESYNCS);
        if resync.purpose == Purpose::Resync {
            self.shared.counters.resyncs.add(1);
            self.pending.compared(resync.revision);
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
        if resync.purpose == Purpose::Resync {
            self.suspect(resync.unjudged, "many changes that waited");
        }
        self.present();
        // Before the command that waits for it is answered: whoever asks for the status then is to be told of this one.
        self.tell();
        self.shared.control.finished(resync.purpose, Done { at: now(), took, reason: resync.reason, findings });
    }

    pub(super) fn tidy(&mut self, orphans: &[(Vec<u8>, i64)]) {
        let Some(session) = self.session else { return };
        // Few enough that even long keys fit into a transaction.
        for some in orphans.chunks(MAX_OPERATIONS / 2) {
            self.fly(Request::tidy(some, &self.presence_key, session), Flight::Tidy);
        }
    }

    /// Has the keys of suspects read, and then their leases: as many as a transaction and a turn of the main loop take,
    /// and the queue has room for.
    fn observe_suspects(&mut self) {
        let written = self.shared.readings.take_suspects();
        self.suspect(written, "many changes that no hook told");
        if self.session.is_none() || self.is_reading_suspects() {
            return;
        }
        let room = self.config().queue_size.saturating_sub(self.waiting()).min(PAGE).min(self.look_limit);
        // Half and half, or as there are, so that neither waits for the other to come to an end.
        let mut none = Suspects::default();
        let compared = self.resync.as_mut().map_or(&mut none, |resync| &mut resync.suspects);
        let mut addresses = compared.take(room.div_ceil(2));
        addresses.extend(self.suspects.take(room - addresses.len()));
        addresses.extend(compared.take(room - addresses.len()));
        if !addresses.is_empty() {
            self.pending.ask(&addresses);
            let request = Request::look(addresses.iter().copied(), self.pending.writer(), &self.presence_key);
            self.fly(request, Flight::Observe(addresses));
        }
    }

    /// Addresses are suspected without a comparison; of too many a comparison is to see to them, for this reason.
    pub(super) fn suspect(&mut self, addresses: Vec<IpAddr>, too_many: &'static str) {
        if self.suspects.len() < self.config().queue_size {
            self.suspects.extend(addresses);
        } else if !addresses.is_empty() {
            self.shared.control.want(Purpose::Resync, too_many);
        }
    }

    /// Suspects could not be looked at: they are, a little later.
    pub(super) fn suspect_again(&mut self, addresses: Vec<IpAddr>) {
        match &mut self.resync {
            // Perhaps they are its own.
            Some(resync) if resync.purpose == Purpose::Resync => resync.suspects.extend(addresses),
            _ => self.suspects.extend(addresses),
        }
    }

    pub(super) fn is_reading_suspects(&self) -> bool {
        self.shared.readings.waiting() > 0 || self.flights.values().any(|flight| matches!(flight, Flight::Observe(_)))
    }
}
