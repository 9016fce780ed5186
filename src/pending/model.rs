//! Two servers, one address, one etcd: every order of what can happen in short scripts of changes, not a sample of it.
//!
//! The lease database is shared: a change through either server is the truth for both, but only the server that made it
//! is told. Either every change has a second of its own and is read at once, or all happen within one, and each is read at
//! any time after it. A request is applied and then answered, or its answer is lost after that or before, or it is given up
//! and lands at any later time. The watch tells each server of every write, at any time after it. Records have no index
//! keys and no etcd lease here, and no lease ends.
//!
//! Never may older news replace another server's newer record, and never may a removal take another server's record of
//! another lease. In the end etcd must hold the truth: for a single server at once, and for two as well where two changes
//! and a fault meet, or two changes of one second; where the lease changes hands more often meanwhile, after each has
//! compared.

use std::collections::{HashSet, VecDeque};

use super::*;
use crate::guard::FoundKey;
use crate::lease::{Identifier, Lease, Operation as By, Owner};
use crate::record::{Content, Identifiers, Summary, v4};
use crate::writer::Action;

const SERVERS: [&str; 2] = ["a", "b"];

/// A change of the lease database through a server: somebody holds the address from now on, or nobody.
type Step = (usize, Option<u8>);

/// A write as etcd has to judge it.
#[derive(Clone, Debug)]
struct Sent {
    server: usize,
    session: u32,
    batch: Batch,
    /// What etcd will answer, once it has judged.
    outcome: Option<Outcome>,
}

#[derive(Clone, Debug)]
struct Outcome {
    applied: bool,
    found: Found,
    session: u32,
}

#[derive(Clone, Debug)]
struct Server {
    pending: Pending,
    /// The session that it believes in; none after an unknown outcome.
    session: Option<u32>,
    in_flight: Option<Sent>,
    /// How many events of the watch it has seen.
    watched: usize,
    own: Vec<i64>,
    /// Whose leases went, in changes of which it has yet to be told.
    telling: VecDeque<Option<Owner>>,
    /// The address is suspected; or it was observed and its lease is to be read.
    suspected: bool,
    observed: bool,
}

/// Everything that matters for what can still happen.
#[derive(Clone, Debug)]
struct World {
    revision: i64,
    key: Option<FoundKey>,
    sessions: [u32; 2],
    events: Vec<Found>,
    truth: Option<Lease>,
    servers: [Server; 2],
    late: Vec<Sent>,
    /// Changes that were made.
    script: Vec<Step>,
    /// Faults that may still happen.
    faults: usize,
}

/// What happens in a world.
#[derive(Clone, Copy, Debug)]
struct Plot {
    /// How many changes there are.
    changes: usize,
    /// Servers that have a part in it: the first ones.
    servers: usize,
    /// What each change may be.
    kinds: &'static [Step],
    faults: usize,
    /// Seconds from one change to the next.
    pace: i64,
    /// Whether each server compares before etcd has to hold the truth.
    compare: bool,
}

#[derive(Clone, Copy, Debug)]
enum Move {
    Change(Step),
    Tell(usize),
    Send(usize),
    Apply(usize),
    Answer(usize),
    LoseBefore(usize),
    LoseAfter(usize),
    GiveUp(usize),
    LandLate(usize),
    Watch(usize),
    Observe(usize),
    Read(usize),
}

fn lease(client: u8, cltt: i64) -> Lease {
    Lease { hwaddr: Identifier::from_slice(&[client]), cltt, valid_lft: 1_000_000, ..Lease::plain_v4(1) }
}

impl World {
    fn new(faults: usize) -> Self {
        let server = |name| Server {
            pending: Pending::new(Writer::plain(name)),
            session: None,
            in_flight: None,
            watched: 0,
            own: Vec::new(),
            telling: VecDeque::new(),
            suspected: false,
            observed: false,
        };
        let servers = SERVERS.map(server);
        Self {
            revision: 1,
            key: None,
            sessions: [0; 2],
            events: Vec::new(),
            truth: None,
            servers,
            late: Vec::new(),
            script: Vec::new(),
            faults,
        }
    }

    fn moves(&self, plot: &Plot) -> Vec<Move> {
        let mut moves = Vec::new();
        if self.script.len() < plot.changes {
            moves.extend(plot.kinds.iter().map(|step| Move::Change(*step)));
        }
        for (n, server) in self.servers[..plot.servers].iter().enumerate() {
            if let Some(sent) = &server.in_flight {
                match sent.outcome {
                    Some(_) => moves.push(Move::Answer(n)),
                    None => moves.push(Move::Apply(n)),
                }
                match sent.outcome {
                    _ if self.faults == 0 => {}
                    Some(_) => moves.push(Move::LoseAfter(n)),
                    None => moves.extend([Move::LoseBefore(n), Move::GiveUp(n)]),
                }
            } else if !server.pending.is_empty() {
                moves.push(Move::Send(n));
            }
            if !server.telling.is_empty() {
                moves.push(Move::Tell(n));
            }
            if server.suspected && !server.observed {
                moves.push(Move::Observe(n));
            }
            if server.observed {
                moves.push(Move::Read(n));
            }
            if server.watched < self.events.len() {
                moves.push(Move::Watch(n));
            }
        }
        moves.extend((0..self.late.len()).map(Move::LandLate));
        moves
    }

    fn make(&mut self, next: Move, plot: &Plot) {
        match next {
            Move::Change(step @ (server, client)) => {
                self.script.push(step);
                let owner = self.truth.as_ref().map(Lease::owner);
                self.truth = client.map(|client| lease(client, self.now(plot)));
                self.servers[server].telling.push_back(owner);
                if plot.pace > 0 {
                    self.make(Move::Tell(server), plot);
                }
            }
            Move::Tell(n) => {
                let owner = self.servers[n].telling.pop_front().unwrap();
                // The address was free.
                let operation = if owner.is_none() { By::Offer } else { By::Renew };
                self.read_again(n, operation, owner, plot);
            }
            Move::Send(n) => self.send(n),
            Move::Apply(n) => {
                let sent = self.servers[n].in_flight.clone().unwrap();
                let applied = self.apply(&sent);
                let outcome = Outcome { applied, found: self.found(), session: self.sessions[n] };
                self.servers[n].in_flight = Some(Sent { outcome: Some(outcome), ..sent });
            }
            Move::Answer(n) => {
                let sent = self.servers[n].in_flight.take().unwrap();
                let Outcome { applied, found, session } = sent.outcome.unwrap();
                let server = &mut self.servers[n];
                if applied {
                    server.own.push(found.as_of);
                    let overtaken = server.pending.landed(sent.batch, found.as_of);
                    server.suspected |= !overtaken.is_empty();
                } else {
                    server.pending.seen(sent.batch, vec![found]);
                    if session != sent.session {
                        server.session = None;
                    }
                }
            }
            Move::LoseBefore(n) | Move::LoseAfter(n) | Move::GiveUp(n) => {
                self.faults -= 1;
                let sent = self.servers[n].in_flight.take().unwrap();
                if matches!(next, Move::GiveUp(_)) {
                    self.late.push(sent.clone());
                }
                self.servers[n].session = None;
                self.servers[n].pending.failed(sent.batch);
            }
            Move::LandLate(place) => {
                let sent = self.late.remove(place);
                self.apply(&sent);
            }
            Move::Watch(n) => {
                let server = &mut self.servers[n];
                let found = self.events[server.watched].clone();
                server.watched += 1;
                server.suspected |= !server.pending.noticed(v4(1), &found, Before::Nothing);
            }
            Move::Observe(n) => {
                let found = self.found();
                let server = &mut self.servers[n];
                server.suspected = false;
                server.pending.ask(&[v4(1)]);
                server.observed = server.pending.observe(v4(1), found);
            }
            Move::Read(n) => {
                self.servers[n].observed = false;
                self.read_again(n, By::Sync, None, plot);
                self.servers[n].pending.all_read();
            }
        }
        for server in &mut self.servers {
            server.suspected |= !server.pending.take_again().is_empty();
            // Its own write, which it knows: hearing of it changes nothing, so it does not matter when.
            while self.events.get(server.watched).is_some_and(|event| server.own.contains(&event.as_of)) {
                server.watched += 1;
            }
        }
    }

    /// What a callout, or the main thread for the worker, puts into the queue.
    fn read_again(&mut self, server: usize, operation: By, owner: Option<Owner>, plot: &Plot) {
        let time = self.now(plot);
        let change = match &self.truth {
            Some(lease) => {
                let timestamp = if operation == By::Sync { lease.cltt } else { time };
                Change { queued: None, timestamp, operation, row: Row::Held { lease: lease.clone(), relay: None } }
            }
            None => Change { queued: None, timestamp: time, operation, row: Row::Gone { owner } },
        };
        self.servers[server].pending.put(v4(1), Box::new(change));
    }

    fn now(&self, plot: &Plot) -> i64 {
        10 + i64::try_from(self.script.len()).unwrap() * plot.pace
    }

    fn send(&mut self, n: usize) {
        let server = &mut self.servers[n];
        let session = *server.session.get_or_insert_with(|| {
            self.sessions[n] += 1;
            self.sessions[n]
        });
        server.in_flight = server.pending.next_batch(0).map(|batch| Sent { server: n, session, batch, outcome: None });
    }

    fn found(&self) -> Found {
        Found { as_of: self.revision, key: self.key.clone() }
    }

    /// What etcd does with a transaction; whether its conditions held.
    fn apply(&mut self, sent: &Sent) -> bool {
        let operation = &sent.batch.operations()[0];
        let Some(write) = &operation.write else { return false };
        if self.sessions[sent.server] != sent.session || self.found().revision() != write.revision {
            return false;
        }
        let record = self.key.as_ref().and_then(|key| key.record.as_ref());
        check(SERVERS[sent.server], &operation.change, record);
        self.revision += 1;
        self.key = match (&operation.change.row, write.action) {
            (Row::Held { lease, .. }, Action::Put(_)) => {
                let record = Summary {
                    server: SERVERS[sent.server].into(),
                    cltt: lease.cltt,
                    timestamp: operation.change.timestamp,
                    expires_at: lease.expires_at(),
                    identifiers: Identifiers::of(lease),
                    content: Some(Content::of(lease)),
                };
                Some(FoundKey { revision: self.revision, etcd_lease: 0, record: Some(record) })
            }
            // Index keys only: the record stays as it is.
            (_, Action::Keep | Action::Tidy) => self.key.take(),
            (_, Action::Move(_)) => self.key.take().map(|key| FoundKey { revision: self.revision, ..key }),
            _ => None,
        };
        self.events.push(self.found());
        true
    }

    /// The same for worlds with the same future, and short: hundreds of thousands are told apart by it.
    fn text(&self) -> String {
        use std::fmt::Write;
        let owner = |owner: &Option<Owner>| owner.as_ref().map(|owner| (owner.cltt, owner.hwaddr.clone()));
        let change = |change: &Change| {
            let row = match &change.row {
                Row::Held { lease, .. } => ("h", Some((lease.cltt, lease.hwaddr.clone()))),
                Row::Gone { owner: gone } => ("g", owner(gone)),
            };
            format!("{}{}{row:?}", change.operation.name(), change.timestamp)
        };
        let found = |found: &Found| {
            let record = found.key.as_ref().and_then(|key| key.record.as_ref());
            let record = record
                .map(|record| (record.server.as_bytes()[0], record.cltt, record.timestamp, record.identifiers.clone()));
            format!("{}.{}.{record:?}", found.as_of, found.revision())
        };
        let sent = |sent: &Sent| {
            let operation = &sent.batch.operations()[0];
            let revision = operation.write.as_ref().map(|write| (write.revision, write.contests));
            let outcome =
                sent.outcome.as_ref().map(|outcome| (outcome.applied, found(&outcome.found), outcome.session));
            format!("{}s{}r{revision:?}{}{outcome:?}", sent.server, sent.session, change(&operation.change))
        };
        let mut text = format!(
            "{}{:?}{:?}{:?}",
            found(&self.found()),
            self.sessions,
            self.truth.as_ref().map(|lease| (lease.cltt, &lease.hwaddr)),
            (self.script.len(), self.faults)
        );
        for server in &self.servers {
            let pending = &server.pending;
            // What it has heard is what it made of it.
            let unheard = self.events[server.watched..].iter();
            let _ = write!(
                text,
                "|{:?}{:?}{:?}{:?}{:?}{:?}{:?}{:?}{:?}",
                pending.waiting.values().map(|waiting| change(waiting)).collect::<Vec<_>>(),
                pending.found.values().map(|seen| found(&seen.found)).collect::<Vec<_>>(),
                pending.known,
                (pending.due.len(), pending.unseen.len(), pending.looked),
                server.session,
                server.in_flight.as_ref().map(sent),
                unheard.map(|event| (found(event), server.own.contains(&event.as_of))).collect::<Vec<_>>(),
                (server.suspected, server.observed, server.telling.iter().map(owner).collect::<Vec<_>>()),
                (&pending.ended, pending.found.values().map(|seen| seen.heard).collect::<Vec<_>>())
            );
        }
        self.late.iter().for_each(|late| text.push_str(&sent(late)));
        text
    }

    /// Everything heals: no more faults, late writes land, each server compares, all is settled.
    fn settle(mut self, plot: &Plot) -> Option<Content> {
        self.faults = 0;
        for round in 0..if plot.compare { 3 } else { 1 } {
            if round > 0 {
                self.servers[round - 1].suspected = true;
            }
            for _ in 0..100 {
                let Some(next) = self.moves(plot).pop() else { break };
                self.make(next, plot);
            }
        }
        assert!(self.moves(plot).is_empty(), "it never settles: {self:?}");
        self.key.and_then(|key| key.record).and_then(|record| record.content)
    }
}

/// What must never happen: `change`, made by a server, takes the place of a `record` that another one keeps.
pub(super) fn check(server: &str, change: &Change, record: Option<&Summary>) {
    let Some(record) = record.filter(|record| record.server != server) else { return };
    match &change.row {
        Row::Held { lease, .. } => assert!(
            (lease.cltt, change.timestamp) >= (record.cltt, record.timestamp),
            "old news replaced newer: {change:?} over {record:?}"
        ),
        Row::Gone { owner } => assert!(
            owner.as_ref().is_some_and(|owner| record.is_about(owner)) || record.is_past_its_end(120, change.timestamp),
            "a removal took another lease: {change:?} took {record:?}"
        ),
    }
}

/// Tries every order of every script; how many states there were.
fn exhaust(plot: &Plot) -> usize {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
    let mut seen = HashSet::new();
    let mut open = vec![World::new(plot.faults)];
    while let Some(world) = open.pop() {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(world.text());
        if !seen.insert(hash) {
            continue;
        }
        let moves = world.moves(plot);
        if moves.is_empty() {
            let truth = world.truth.as_ref().map(Content::of);
            let text = format!("{world:?}");
            assert_eq!(world.settle(plot), truth, "{text}");
            continue;
        }
        for next in moves {
            let mut world = world.clone();
            world.make(next, plot);
            open.push(world);
        }
    }
    seen.len()
}

#[test]
fn a_single_server_ends_with_its_last_change_without_any_comparison() {
    let kinds = &[(0, Some(1)), (0, Some(2)), (0, None)];
    println!("{} states", exhaust(&Plot { changes: 2, servers: 1, kinds, faults: 1, pace: 10, compare: false }));
}

/// What either server may do.
const EITHER: &[Step] = &[(0, Some(1)), (0, None), (1, Some(1)), (1, Some(2)), (1, None)];

#[test]
fn two_servers_end_with_the_truth_after_two_changes_and_a_fault() {
    let plot = Plot { changes: 2, servers: 2, kinds: EITHER, faults: 1, pace: 10, compare: false };
    println!("{} states", exhaust(&plot));
}

#[test]
fn two_servers_end_with_the_truth_after_two_changes_of_one_second() {
    let plot = Plot { changes: 2, servers: 2, kinds: EITHER, faults: 0, pace: 0, compare: false };
    println!("{} states", exhaust(&plot));
}

#[test]
fn two_servers_that_compare_end_with_the_truth_after_three_changes() {
    let plot = Plot { changes: 3, servers: 2, kinds: EITHER, faults: 0, pace: 10, compare: true };
    println!("{} states", exhaust(&plot));
}
