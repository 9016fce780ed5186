//! A comparison under way: what it has read and what it needs next. No I/O.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use etcd_client::KeyValue;
use tokio::time::Instant;

use crate::comparison::{Comparison, Findings};
use crate::control::Purpose;
use crate::etcd::{Page, Request};
use crate::lease::{Family, Lease, now};
use crate::pending::Pending;
use crate::readings::{PAGE, Ticket};
use crate::suspects::Suspects;
use crate::walk::Walk;

/// Keys of a page read from etcd, at most.
pub const KEYS: i64 = 1024;

/// How long Kea's main loop is left alone after a turn that read a page, or that left something to be read: it reads no
/// packet in them.
pub const PACE: Duration = Duration::from_millis(1);

/// How far a comparison is.
#[derive(Debug)]
enum Stage {
    /// Records are read.
    Records(Walk),
    /// Index keys are read.
    Index(Walk),
    /// The lease database is read, after this address.
    Leases(IpAddr),
    /// Everything is judged.
    Judged,
}

/// See the module.
pub struct Resync {
    /// Tells it from others.
    pub number: u64,
    /// What it is for.
    pub purpose: Purpose,
    /// Why it is made.
    pub reason: &'static str,
    /// When it began, seconds since the epoch.
    pub since: i64,
    /// When it began.
    pub started: Instant,
    /// What it found; whole when everything is judged.
    pub findings: Findings,
    /// Addresses that it suspects, and that are to be read again.
    pub suspects: Suspects,
    /// Addresses of which a change waited, or that were observed, before the first page came; some more than once. They are not
    /// judged, what was read or observed may be older than another change that nobody told, and where the watch lost some it
    /// goes on only from that page: they are suspects when the comparison is done.
    pub unjudged: Vec<IpAddr>,
    comparison: Option<Comparison>,
    family: Family,
    /// Over all records, and over all index keys.
    walks: (Walk, Walk),
    stage: Stage,
    /// The revision that etcd is read at; 0 before the first page.
    pub revision: i64,
    /// Keys that are asked for at once.
    pub limit: i64,
    /// Whether pages after the first are read as the member alone has them.
    member_alone: bool,
    /// Whether a page of either side is being read.
    reading: bool,
    not_before: Instant,
}

/// What a comparison needs next.
pub enum Need {
    /// A page from etcd.
    Keys(Request),
    /// A page of the lease database.
    Leases(Ticket),
    /// What it waits for is under way, or the pace wants a pause until then.
    Pause(Option<Instant>),
    /// Nothing: everything is judged.
    Nothing,
}

impl Resync {
    /// Begins; nothing that is `pending` is judged.
    pub fn new(
        number: u64,
        (purpose, reason): (Purpose, &'static str),
        pending: &Pending,
        family: Family,
        limit: i64,
    ) -> Self {
        let (writer, since) = (pending.writer().clone(), now());
        let walks = (Walk::new(writer.keys.base()), Walk::new(writer.index.base()));
        let mut resync = Self {
            number,
            purpose,
            reason,
            since,
            started: Instant::now(),
            findings: Findings::default(),
            suspects: Suspects::default(),
            unjudged: Vec::new(),
            comparison: Some(Comparison::new(writer, family, since)),
            family,
            stage: Stage::Records(walks.0.clone()),
            walks,
            revision: 0,
            limit,
            member_alone: true,
            reading: false,
            not_before: Instant::now(),
        };
        resync.touch_all(pending);
        resync
    }

    /// The address changes meanwhile.
    pub fn touch(&mut self, address: IpAddr) {
        if let Some(comparison) = &mut self.comparison {
            comparison.touch(address);
        }
        if self.revision == 0 {
            self.unjudged.push(address);
        }
    }

    fn touch_all(&mut self, pending: &Pending) {
        pending.addresses().for_each(|address| self.touch(address));
    }

    /// What is to be read next. What it tells counts as asked for. While the worker is `busy`, or there are suspects,
    /// nothing more is read of the lease database.
    pub fn next(&mut self, busy: bool) -> Need {
        if self.reading {
            return Need::Pause(None);
        }
        let ((from, to), keys_only) = match &self.stage {
            Stage::Records(walk) => (walk.range(), false),
            Stage::Index(walk) => (walk.range(), true),
            Stage::Leases(_) if busy || !self.suspects.is_empty() => return Need::Pause(None),
            Stage::Leases(_) if Instant::now() < self.not_before => return Need::Pause(Some(self.not_before)),
            Stage::Leases(after) => {
                self.reading = true;
                return Need::Leases(Ticket { number: self.number, after: *after });
            }
            Stage::Judged => return Need::Nothing,
        };
        self.reading = true;
        let serializable = self.revision > 0 && self.member_alone;
        Need::Keys(Request::Range { from, to, revision: self.revision, limit: self.limit, keys_only, serializable })
    }

    /// The page of the lease database that is being read.
    pub fn page(&self) -> Option<Ticket> {
        match self.stage {
            Stage::Leases(after) if self.reading => Some(Ticket { number: self.number, after }),
            _ => None,
        }
    }

    /// Whether everything was compared, and what is suspected for it was read again or is being read.
    pub fn is_judged(&self) -> bool {
        matches!(self.stage, Stage::Judged) && self.suspects.is_empty()
    }

    /// A page of keys came. Returns index keys that belong to no record. Nothing that is `pending` when the first one comes is
    /// judged.
    pub fn keys(&mut self, page: &Page, pending: &Pending) -> Vec<(Vec<u8>, i64)> {
        self.reading = false;
        if self.revision == 0 {
            self.touch_all(pending);
        }
        self.limit = (self.limit * 2).min(KEYS);
        self.revision = page.revision;
        let Some(comparison) = &mut self.comparison else { return Vec::new() };
        let last = page.pairs.last().filter(|_| page.more).map(KeyValue::key);
        match &mut self.stage {
            Stage::Records(walk) => {
                comparison.records(page);
                if !walk.went(page.count, last) {
                    self.stage = Stage::Index(self.walks.1.clone());
                }
                Vec::new()
            }
            Stage::Index(walk) => {
                comparison.index(page);
                if !walk.went(page.count, last) {
                    self.stage = Stage::Leases(match self.family {
                        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
                        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
                    });
                }
                comparison.take_orphans()
            }
            Stage::Leases(_) | Stage::Judged => Vec::new(),
        }
    }

    /// A page was more than can be taken at once: fewer keys are asked for. False when it was one key already.
    pub fn too_much(&mut self) -> bool {
        self.reading = false;
        let fewer = self.limit > 1;
        self.limit = (self.limit / 8).max(1);
        fewer
    }

    /// The member does not have the revision yet, as the page before came from another one, behind an endpoint that spreads
    /// requests: the page is read again when the majority has told the member, and so are all after it.
    pub fn behind(&mut self) {
        self.reading = false;
        if !std::mem::replace(&mut self.member_alone, false) {
            // Then no member has it.
            self.compacted();
        }
    }

    /// The revision was compacted: everything is read again at a newer one.
    pub fn compacted(&mut self) {
        self.reading = false;
        self.revision = 0;
        self.stage = Stage::Records(self.walks.0.clone());
        if let Some(comparison) = &mut self.comparison {
            comparison.restart();
        }
    }

    /// A page of leases came. Returns those that have no record; others are suspected, and at the end addresses that have a
    /// record and no lease.
    pub fn leases(&mut self, page: Vec<Lease>, pending: &Pending) -> Vec<Lease> {
        self.reading = false;
        self.not_before = Instant::now() + PACE;
        let Some(comparison) = &mut self.comparison else { return Vec::new() };
        let next = page.last().filter(|_| page.len() >= PAGE).map(|last| last.address);
        let (missing, mut suspects) = comparison.leases(page);
        if let Some(last) = next {
            self.stage = Stage::Leases(last);
        } else {
            self.stage = Stage::Judged;
            if let Some(comparison) = self.comparison.take() {
                let (findings, without_lease) = comparison.finish(|address| pending.has_ended(address));
                self.findings = findings;
                suspects.extend(without_lease);
            }
        }
        if self.purpose == Purpose::Verify {
            return Vec::new();
        }
        self.suspects.extend(suspects);
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::v4;
    use crate::writer::Writer;

    #[test]
    fn a_page_that_the_member_does_not_have_is_asked_of_the_majority() {
        let pending = Pending::new(Writer::plain("a"));
        let mut resync = Resync::new(1, (Purpose::Resync, "start"), &pending, Family::V4, KEYS);
        let asked = |resync: &mut Resync| match resync.next(false) {
            Need::Keys(Request::Range { revision, serializable, .. }) => (revision, serializable),
            _ => panic!("it needs keys"),
        };
        assert_eq!(asked(&mut resync), (0, false));
        let page = Page { pairs: Vec::new(), more: false, count: 0, revision: 7 };
        resync.keys(&page, &pending);
        assert_eq!(asked(&mut resync), (7, true));
        resync.behind();
        assert_eq!(asked(&mut resync), (7, false));
        resync.behind();
        assert_eq!(asked(&mut resync), (0, false), "no member has it: it is read at another one");
    }

    #[test]
    fn what_changes_before_etcd_was_read_is_suspected_in_the_end() {
        let mut pending = Pending::new(Writer::plain("a"));
        pending.ask(&[v4(1)]);
        let mut resync = Resync::new(1, (Purpose::Resync, "start"), &pending, Family::V4, KEYS);
        resync.touch(v4(2));
        pending.ask(&[v4(3)]);
        let page = Page { pairs: Vec::new(), more: false, count: 0, revision: 7 };
        resync.keys(&page, &pending);
        // The watch tells what happened after that.
        resync.touch(v4(4));
        pending.ask(&[v4(5)]);
        resync.keys(&page, &pending);
        assert_eq!(resync.unjudged, [1, 2, 3].map(v4));
    }
}
