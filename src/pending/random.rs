//! Two servers, a few addresses and clients, one etcd: random walks through everything that can go wrong between them,
//! where [`model`](super::model) tries every order of a little. Then all heals, and etcd holds the newest leases.
//!
//! The servers share a lease database, or have their own, of which the other's copy comes late or never. Records have
//! index keys, or none, and hang on etcd leases. Requests are lost, before or after etcd applied them, or land late; watches end,
//! lag and lose what is compacted; sessions end, servers are killed or load the library again; somebody else writes and
//! removes records and index keys, and revokes etcd leases.
//!
//! No comparison is made that the library does not ask for, but of single addresses in the cases of
//! [`World::is_excused`]. Left out is what nobody promises: records in the name of a server that does not exist, or in a partner's
//! name over ours, which look like a partner's; records that are to the letter what a server is about to write, which look like
//! a write of its own without an answer; and two changes within a second, of which nobody can tell the newer one.
//!
//! `WALK_SEED` repeats a walk; `WALKS` is how many are made, from there on. What happened on a walk that fails is told.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::iter::repeat_n;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::model::check;
use super::store::{Entry, Store};
use super::*;
use crate::handover::Handover;
use crate::index::{Index, Kind};
use crate::lease::{INFINITE_LIFETIME, Identifier, Lease, Operation as By, Owner};
use crate::lifetime::Lifetime;
use crate::record::{self, Content, Identifiers, Summary, v4};

const SERVERS: [&str; 2] = ["a", "b"];
const ADDRESSES: u32 = 2;
const CLIENTS: u8 = 3;
/// The only one whose index keys somebody else touches, since that takes a comparison.
const INDEX_TOUCHED: IpAddr = IpAddr::V4(std::net::Ipv4Addr::from_bits(ADDRESSES));

/// A request under way: a batch, or the keys of suspects are read.
struct Flight {
    server: usize,
    session: i64,
    ask: Result<Batch, Vec<IpAddr>>,
    answer: Option<Answer>,
    /// Nobody waits for the answer any more.
    given_up: bool,
}

enum Answer {
    Landed(i64),
    /// What the keys hold, and the session of the presence key.
    Seen(Vec<Found>, i64),
}

/// One load of the library: what the worker and the main thread keep besides `Pending`.
struct Server {
    pending: Pending,
    handover: Handover,
    session: Option<i64>,
    /// The revision from which on the watch has yet to tell.
    watch: Option<i64>,
    watched_to: i64,
    own: BTreeSet<i64>,
    suspects: BTreeSet<IpAddr>,
    to_read: Vec<IpAddr>,
    wants_comparison: bool,
    comparison: Option<Comparison>,
}

/// A comparison that runs.
struct Comparison {
    /// The revision at which etcd was read, once it was, and the server of each record.
    revision: i64,
    records: BTreeMap<IpAddr, String>,
    /// Whether the server was told.
    has_come: bool,
    /// Addresses that are not judged, and those of them that are suspected at the end.
    touched: HashSet<IpAddr>,
    unjudged: Vec<IpAddr>,
    /// Addresses whose leases are still to be read.
    to_read: Vec<IpAddr>,
    /// What was read and has not come yet.
    page: Option<(IpAddr, Option<Lease>)>,
    /// What is to settle before it is done, once that is known.
    settling: Option<HashSet<IpAddr>>,
}

impl Comparison {
    fn touch(&mut self, address: IpAddr) {
        self.touched.insert(address);
        if !self.has_come {
            self.unjudged.push(address);
        }
    }
}

impl Server {
    fn new(name: &str, index: Index) -> Self {
        let mut writer = Writer { index, ..Writer::plain(name) };
        writer.lifetime = Some(Lifetime::new("/p", name, "dhcp4", writer.grace));
        Self {
            pending: Pending::new(writer),
            handover: Handover::new(100),
            session: None,
            watch: None,
            watched_to: 0,
            own: BTreeSet::new(),
            suspects: BTreeSet::new(),
            to_read: Vec::new(),
            wants_comparison: true,
            comparison: None,
        }
    }

    fn put(&self, address: IpAddr, change: Box<Change>) {
        self.handover.put(address, change, self.handover.ticket(address)).expect("room");
    }

    fn take_over(&mut self) {
        let mut taken = self.handover.take(Changes::default());
        if let Some(comparison) = &mut self.comparison {
            for address in taken.keys() {
                comparison.touch(*address);
            }
        }
        self.pending.absorb(&mut taken, usize::MAX);
    }

    fn disconnected(&mut self) {
        (self.session, self.watch) = (None, None);
        self.pending.drop_findings();
        self.wants_comparison |= self.comparison.take().is_some();
    }

    fn is_quiet(&self, last_event: i64) -> bool {
        let compares = self.wants_comparison || self.comparison.is_some();
        let waits = self.handover.queued() + self.pending.len() + self.suspects.len() + self.to_read.len();
        self.session.is_some() && self.watch > Some(last_event) && !compares && waits == 0
    }
}

struct World {
    random: fastrand::Rng,
    /// What happened, to be told.
    story: Vec<String>,
    /// Nothing fails any more.
    calm: bool,
    now: i64,
    etcd: Store,
    index: Index,
    servers: [Server; 2],
    flights: Vec<Flight>,
    /// One lease database, or one for each server.
    databases: Vec<BTreeMap<IpAddr, Lease>>,
    /// When which address changed hands, through which server.
    hands: Vec<(i64, IpAddr, usize)>,
    /// When each server was restarted last.
    restarted: [i64; 2],
    /// Whether somebody else touched index keys.
    is_touched: bool,
}

type Step = (&'static str, fn(&mut World, usize));

const STEPS: [Step; 11] = [
    ("change", World::change),
    ("copy", World::copy),
    ("take", World::take),
    ("send", World::send),
    ("fly", World::fly),
    ("fly", World::fly),
    ("hear", World::hear),
    ("observe", World::observe),
    ("read", World::read),
    ("open", World::open),
    ("compare", World::compare),
];

/// What is rare, or left out of most walks; of the last ones more, since comparisons come of them, which mend everything.
const FAULTS: [(usize, Step); 6] = [
    (5, ("vandal", World::vandalise)),
    (5, ("time passes", World::pass_time)),
    (5, ("disconnect", |world, n| world.servers[n].disconnected())),
    (5, ("session ends", |world, n| world.etcd.sessions[n] = 0)),
    (1, ("compaction", |world, _| world.etcd.compacted = world.etcd.revision)),
    (1, ("restart", World::restart)),
];

fn addresses() -> impl Iterator<Item = IpAddr> {
    (1..=ADDRESSES).map(v4)
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let kinds = [Kind::HwAddress, Kind::Hostname];
        let index = Index::new("/p", &kinds[..random.usize(..=2)]);
        Self {
            story: Vec::new(),
            calm: true,
            now: 1_000_000,
            etcd: Store { revision: 1, ..Store::default() },
            servers: SERVERS.map(|name| Server::new(name, index.clone())),
            index,
            flights: Vec::new(),
            databases: vec![BTreeMap::new(); random.usize(1..=2)],
            hands: Vec::new(),
            restarted: [0; 2],
            is_touched: false,
            random,
        }
    }

    fn one_in(&mut self, many: u32) -> bool {
        !self.calm && self.random.u32(..many) == 0
    }

    fn is_shared(&self) -> bool {
        self.databases.len() == 1
    }

    fn database(&mut self, n: usize) -> &mut BTreeMap<IpAddr, Lease> {
        let last = self.databases.len() - 1;
        &mut self.databases[n.min(last)]
    }

    fn writer(&self, n: usize) -> &Writer {
        self.servers[n].pending.writer()
    }

    fn key(&self, address: IpAddr) -> String {
        self.writer(0).keys.of(address)
    }

    fn record(&self, address: IpAddr) -> Option<Summary> {
        self.etcd.record(&self.key(address))
    }

    /// The index keys that belong to the record of an address.
    fn index_keys(&self, address: IpAddr) -> BTreeSet<String> {
        let keys = |record: Summary| self.index.keys(&record.identifiers, address);
        self.record(address).map(keys).into_iter().flatten().collect()
    }

    /// The index keys that there are of an address.
    fn index_keys_there(&self, address: IpAddr) -> BTreeSet<String> {
        self.etcd.entries.keys().filter(|key| self.index.address(key.as_bytes()) == Some(address)).cloned().collect()
    }

    fn any_lease(&mut self) -> Lease {
        let (address, client) = (self.random.u32(1..=ADDRESSES), self.random.u8(1..=CLIENTS));
        let name = [self.random.choice(*b"xy").unwrap_or_default()];
        let valid_lft = self.random.choice([60, 600, 6000, INFINITE_LIFETIME]).unwrap_or_default();
        Lease {
            hwaddr: Identifier::from_slice(&[client]),
            hostname: name.into(),
            cltt: self.now,
            valid_lft,
            ..Lease::plain_v4(address)
        }
    }

    fn has_ended(&self, lease: &Lease) -> bool {
        lease.expires_at().is_some_and(|end| end < self.now)
    }

    /// A client, a command or the end of its time changes a lease through a server, which is told.
    fn change(&mut self, n: usize) {
        self.now += 1;
        let lease = self.any_lease();
        let before = self.database(n).get(&lease.address).cloned();
        let ends = before.is_some_and(|before| self.has_ended(&before) || self.random.bool());
        // A command that names no client does not end a lease of a shared database everywhere, see README.md.
        let is_known = self.is_shared() || !self.one_in(4);
        self.set(n, lease.address, (!ends).then_some(lease), is_known);
    }

    /// A server takes over what its partner's lease database has newer, or has no more, and is told, or only suspects it.
    fn copy(&mut self, n: usize) {
        self.now += 1;
        let address = self.any_lease().address;
        let (ours, theirs) = (self.database(n).get(&address).cloned(), self.database(1 - n).get(&address).cloned());
        let cltt = |lease: &Option<Lease>| lease.as_ref().map_or(0, |lease| lease.cltt);
        let is_newer = cltt(&theirs) > cltt(&ours);
        match theirs {
            Some(lease) if is_newer && self.random.bool() => {
                self.database(n).insert(address, lease);
                self.servers[n].suspects.insert(address);
            }
            theirs if is_newer || (theirs.is_none() && ours.is_some()) => self.set(n, address, theirs, false),
            _ => {}
        }
    }

    fn set(&mut self, n: usize, address: IpAddr, lease: Option<Lease>, is_known: bool) {
        self.story.push(format!("  {} {address} {lease:?}", SERVERS[n]));
        let holder = lease.as_ref().map(|lease| lease.hwaddr.clone());
        let before = match lease {
            Some(lease) => self.database(n).insert(address, lease),
            None => self.database(n).remove(&address),
        };
        if before.as_ref().map(|before| &before.hwaddr) != holder.as_ref() {
            self.hands.push((self.now, address, n));
        }
        // Of the end of a lease an offer says that it is not written, which need not be true.
        let operation = self.random.choice([By::Offer, By::Update]).unwrap_or(By::Update);
        self.read_again(n, address, operation, before.filter(|_| is_known).map(|before| before.owner()));
    }

    /// What a callout, or the main thread for the worker, puts into the queue.
    fn read_again(&mut self, n: usize, address: IpAddr, operation: By, owner: Option<Owner>) {
        let (now, is_told) = (self.now, operation != By::Sync);
        let (timestamp, row) = match self.database(n).get(&address).cloned() {
            Some(lease) => (if is_told { now } else { lease.cltt }, Row::Held { lease, relay: None }),
            None => (now, Row::Gone { owner }),
        };
        self.servers[n].put(address, Box::new(Change { queued: None, timestamp, operation, row }));
    }

    fn is_reading_suspects(&self, n: usize) -> bool {
        let observes = |flight: &Flight| flight.server == n && !flight.given_up && flight.ask.is_err();
        !self.servers[n].to_read.is_empty() || self.flights.iter().any(observes)
    }

    /// The worker takes what is in the queue.
    fn take(&mut self, n: usize) {
        let is_reading = self.is_reading_suspects(n);
        let server = &mut self.servers[n];
        if server.session.is_some() {
            server.take_over();
            if !is_reading {
                server.pending.all_read();
            }
        }
    }

    fn send(&mut self, n: usize) {
        let Some(session) = self.servers[n].session else { return };
        let Some(batch) = self.servers[n].pending.next_batch(self.now) else { return };
        self.flights.push(Flight { server: n, session, ask: Ok(batch), answer: None, given_up: false });
    }

    /// Keys of suspects are read.
    fn observe(&mut self, n: usize) {
        let Some(session) = self.servers[n].session.filter(|_| !self.is_reading_suspects(n)) else { return };
        let many = self.random.usize(1..=2);
        let suspects = &mut self.servers[n].suspects;
        let some: Vec<IpAddr> = (0..many).filter_map(|_| suspects.pop_first()).collect();
        if !some.is_empty() {
            self.servers[n].pending.ask(&some);
            self.flights.push(Flight { server: n, session, ask: Err(some), answer: None, given_up: false });
        }
    }

    /// The main thread reads a suspect's lease.
    fn read(&mut self, n: usize) {
        if let Some(address) = self.servers[n].to_read.pop() {
            self.read_again(n, address, By::Sync, None);
        }
    }

    /// A request reaches etcd, or its answer the server, or neither.
    fn fly(&mut self, _: usize) {
        if self.flights.is_empty() {
            return;
        }
        let mut flight = self.flights.swap_remove(self.random.usize(..self.flights.len()));
        if flight.given_up {
            if !self.one_in(2) {
                self.arrive(&flight);
            }
        } else if self.one_in(8) {
            self.lose(flight);
        } else if let Some(answer) = flight.answer.take() {
            self.answered(flight, answer);
        } else {
            flight.answer = Some(self.arrive(&flight));
            self.flights.push(flight);
        }
    }

    /// What etcd does with a request.
    fn arrive(&mut self, flight: &Flight) -> Answer {
        let (writer, session) = (self.writer(flight.server).clone(), self.etcd.sessions[flight.server]);
        let addresses = match &flight.ask {
            Ok(batch) if session == flight.session && self.etcd.meets(batch, &writer) => {
                self.story.push(format!("  {} writes {batch:?}", writer.server));
                for Operation { address, change, write } in batch.operations() {
                    if write.as_ref().is_some_and(Write::changes_key) {
                        check(&writer.server, change, self.record(*address).as_ref());
                    }
                }
                self.etcd.apply(batch, &writer, self.now);
                return Answer::Landed(self.etcd.revision);
            }
            Ok(batch) if batch.only_looks() => batch.addresses().collect(),
            Ok(_) => Vec::new(),
            Err(addresses) => addresses.clone(),
        };
        Answer::Seen(addresses.into_iter().map(|address| self.etcd.found(&writer.keys.of(address))).collect(), session)
    }

    fn answered(&mut self, flight: Flight, answer: Answer) {
        let server = &mut self.servers[flight.server];
        match (flight.ask, answer) {
            (Ok(batch), Answer::Landed(revision)) => {
                let changes_key = |operation: &Operation| operation.write.as_ref().is_some_and(Write::changes_key);
                if server.watch.is_some() && batch.operations().iter().any(changes_key) {
                    server.own.insert(revision);
                }
                server.suspects.extend(server.pending.landed(batch, revision));
            }
            (Ok(batch), Answer::Seen(found, session)) => {
                server.pending.seen(batch, found);
                if server.session.is_some_and(|ours| ours != session) {
                    server.disconnected();
                }
            }
            (Err(addresses), Answer::Seen(found, _)) => {
                for (address, found) in addresses.into_iter().zip(found) {
                    if server.pending.observe(address, found) {
                        server.to_read.push(address);
                    }
                }
            }
            (Err(_), Answer::Landed(_)) => unreachable!("it was only asked"),
        }
    }

    fn lose(&mut self, flight: Flight) {
        let server = &mut self.servers[flight.server];
        if server.session == Some(flight.session) {
            server.disconnected();
        }
        match flight.ask.clone() {
            Ok(batch) => server.pending.failed(batch),
            Err(addresses) => server.suspects.extend(addresses),
        }
        if flight.answer.is_none() {
            self.flights.push(Flight { given_up: true, ..flight });
        }
    }

    /// A session begins, if there is none.
    fn open(&mut self, n: usize) {
        let (loses_answer, doubts_history) = (self.one_in(8), self.one_in(100));
        let server = &mut self.servers[n];
        if server.session.is_some_and(|session| session != self.etcd.sessions[n]) {
            server.disconnected();
        }
        if server.session.is_some() {
            return;
        }
        self.etcd.revision += 1;
        self.etcd.sessions[n] = self.etcd.revision;
        if loses_answer {
            return;
        }
        server.session = Some(self.etcd.revision);
        if doubts_history {
            server.pending.forget();
            server.own.clear();
            server.wants_comparison = true;
        }
        if doubts_history || server.watched_to == 0 {
            server.watched_to = self.etcd.revision;
        }
    }

    fn hear(&mut self, n: usize) {
        (0..self.random.usize(1..=4)).for_each(|_| self.hear_next(n));
    }

    /// The watch begins, tells what happened at the next revision, or that this was lost.
    fn hear_next(&mut self, n: usize) {
        let (is_lost, writer) = (self.random.bool(), self.writer(n).clone());
        let server = &mut self.servers[n];
        if server.session.is_none() || server.watched_to == 0 {
            return;
        }
        let from = *server.watch.get_or_insert(server.watched_to);
        let news = self.etcd.events.iter().filter(|event| event.revision >= from);
        let Some(revision) = news.clone().next().map(|event| event.revision) else { return };
        if from < self.etcd.compacted && is_lost {
            (server.watch, server.watched_to) = (None, 0);
            server.wants_comparison = true;
            return;
        }
        for event in news.take_while(|event| event.revision == revision && !server.own.contains(&revision)) {
            let Some(address) = writer.keys.address(event.key.as_bytes()) else { continue };
            let before = match &event.before {
                _ if writer.index.is_off() => Before::Nothing,
                Some(_) if revision <= self.etcd.compacted => Before::Lost,
                before => before.as_ref().and_then(Entry::record).map_or(Before::Nothing, Before::Record),
            };
            let found = Found { as_of: revision, key: event.after.as_ref().map(Entry::found) };
            if let Some(comparison) = &mut server.comparison {
                comparison.touch(address);
            }
            if !server.pending.noticed(address, &found, before) {
                server.suspects.insert(address);
            }
        }
        (server.watch, server.watched_to) = (Some(revision + 1), revision);
        server.own = server.own.split_off(&revision);
    }

    /// A comparison that was asked for begins, goes on or ends.
    fn compare(&mut self, n: usize) {
        let is_reading = self.is_reading_suspects(n);
        let server = &mut self.servers[n];
        match &mut server.comparison {
            _ if server.session.is_none() => {}
            None if server.wants_comparison => {
                server.wants_comparison = false;
                self.begin_comparison(n);
            }
            Some(comparison) if comparison.revision == 0 => self.read_etcd(n),
            Some(comparison) if !comparison.has_come => self.etcd_was_read(n),
            Some(comparison) if comparison.page.is_some() || !comparison.to_read.is_empty() => self.compare_next(n),
            Some(Comparison { settling: settling @ None, .. })
                if !is_reading && server.suspects.is_empty() && server.handover.queued() == 0 =>
            {
                *settling = Some(server.pending.addresses().collect());
            }
            None | Some(Comparison { settling: None, .. }) => {}
            Some(Comparison { settling: Some(settling), revision, unjudged, .. }) => {
                settling.retain(|address| server.pending.is_pending(*address));
                if settling.is_empty() {
                    server.pending.compared(*revision);
                    server.suspects.extend(unjudged.drain(..));
                    server.comparison = None;
                }
            }
        }
    }

    fn begin_comparison(&mut self, n: usize) {
        let server = &mut self.servers[n];
        server.take_over();
        let mut comparison = Comparison {
            revision: 0,
            records: BTreeMap::new(),
            has_come: false,
            touched: HashSet::new(),
            unjudged: Vec::new(),
            to_read: addresses().collect(),
            page: None,
            settling: None,
        };
        server.pending.addresses().for_each(|address| comparison.touch(address));
        server.comparison = Some(comparison);
    }

    /// etcd is read at one revision, and index keys without a record are removed.
    fn read_etcd(&mut self, n: usize) {
        for address in addresses() {
            let extra = &self.index_keys_there(address) - &self.index_keys(address);
            self.etcd.write(extra.into_iter().map(|key| (key, None)).collect());
        }
        let server_of = |address| Some((address, self.record(address)?.server));
        let records = addresses().filter_map(server_of).collect();
        if let Some(comparison) = &mut self.servers[n].comparison {
            (comparison.revision, comparison.records) = (self.etcd.revision, records);
        }
    }

    /// The answer comes.
    fn etcd_was_read(&mut self, n: usize) {
        let server = &mut self.servers[n];
        let Some(comparison) = &mut server.comparison else { return };
        if server.watched_to == 0 {
            server.watched_to = comparison.revision;
        }
        server.pending.addresses().for_each(|address| comparison.touch(address));
        comparison.has_come = true;
    }

    /// A lease is read, or one that was read is held against its record.
    fn compare_next(&mut self, n: usize) {
        let Some(comparison) = &mut self.servers[n].comparison else { return };
        let Some((address, lease)) = comparison.page.take() else {
            let next = comparison.to_read.pop();
            let page = next.map(|address| (address, self.database(n).get(&address).cloned()));
            if let Some(comparison) = &mut self.servers[n].comparison {
                comparison.page = page;
            }
            return;
        };
        if comparison.touched.contains(&address) {
            return;
        }
        let (revision, record) = (comparison.revision, comparison.records.get(&address));
        let is_ours = record.is_some_and(|server| server == SERVERS[n]);
        let may_be_late = record.is_some() && self.servers[n].pending.has_ended(address);
        let no_record = record.is_none();
        let server = &mut self.servers[n];
        match lease {
            Some(lease) if no_record => {
                // What the comparison would not write either, as it may have vanished by itself.
                if !server.pending.writer().may_have_vanished(lease.expires_at(), self.now) {
                    server.pending.found_missing(lease, revision);
                }
            }
            None if !is_ours && !may_be_late => {}
            _ => drop(server.suspects.insert(address)),
        }
    }

    /// A comparison of one address that the library did not ask for.
    fn compare_address(&mut self, n: usize, address: IpAddr) {
        let extra = &self.index_keys_there(address) - &self.index_keys(address);
        self.etcd.write(extra.into_iter().map(|key| (key, None)).collect());
        let is_ours = self.record(address).is_some_and(|record| record.server == SERVERS[n]);
        if is_ours || self.database(n).contains_key(&address) {
            self.servers[n].suspects.insert(address);
        }
    }

    fn pass_time(&mut self, _: usize) {
        self.now += self.random.i64(1..300);
        let ended = self.etcd.leases.iter().filter(|(_, end)| **end <= self.now).map(|(id, _)| *id);
        ended.collect::<Vec<_>>().into_iter().for_each(|id| self.etcd.revoke(id));
    }

    /// Somebody else changes etcd.
    fn vandalise(&mut self, _: usize) {
        let lease = self.any_lease();
        let lease = Lease { cltt: lease.cltt - self.random.i64(0..200), ..lease };
        let (key, record) = (self.key(lease.address), self.record(lease.address));
        let anybody = SERVERS[self.random.usize(..2)];
        let forged = || {
            let server = record.map_or(anybody.into(), |record| record.server);
            // At a second at which nothing was told of this lease.
            record::to_json(&lease, By::Update, None, lease.cltt - 1, &server)
        };
        match self.random.u8(..5) {
            0 => self.etcd.write(vec![(key, None)]),
            1 => self.etcd.write(vec![(key, Some((b"junk".into(), 0)))]),
            2 if self.random.bool() => {
                let value = self.etcd.entries.get(&key).map(|entry| (entry.value.clone(), 0));
                self.etcd.write(vec![(key, value)]);
            }
            2 => self.etcd.write(vec![(key, Some((forged(), 0)))]),
            3 => {
                let leases: Vec<i64> = self.etcd.leases.keys().copied().collect();
                self.random.choice(leases).into_iter().for_each(|id| self.etcd.revoke(id));
            }
            _ => {
                let keys = self.index.keys(&Identifiers::of(&lease), INDEX_TOUCHED);
                let value = self.random.bool().then(|| (Vec::new(), 0));
                self.etcd.write(keys.into_iter().map(|key| (key, value.clone())).collect());
                self.is_touched = true;
            }
        }
    }

    /// A server is killed, or loads the library again, which keeps what is unwritten.
    fn restart(&mut self, n: usize) {
        let mut old = std::mem::replace(&mut self.servers[n], Server::new(SERVERS[n], self.index.clone()));
        self.restarted[n] = self.now;
        let mut batches = Vec::new();
        for flight in self.flights.iter_mut().filter(|flight| flight.server == n && !flight.given_up) {
            flight.given_up = true;
            batches.extend(flight.ask.as_ref().ok().cloned());
        }
        self.flights.retain(|flight| !flight.given_up || flight.answer.is_none());
        if self.random.bool() {
            old.take_over();
            for (address, change) in old.pending.into_changes(batches) {
                self.servers[n].put(address, change);
            }
        }
    }

    /// What the worker's tick sees to.
    fn tick(&mut self) {
        for server in &mut self.servers {
            server.suspects.extend(server.pending.take_again());
            server.wants_comparison |= server.pending.take_index_in_doubt();
        }
    }

    /// All that was under way comes to its end.
    fn settle(&mut self) {
        for _ in 0..500 {
            for n in 0..2 {
                for step in [Self::open, Self::take, Self::send, Self::hear, Self::observe, Self::read, Self::compare] {
                    step(self, n);
                    self.tick();
                }
                while !self.flights.is_empty() {
                    self.fly(n);
                    self.tick();
                }
            }
            let last = self.etcd.events.last().map_or(0, |event| event.revision);
            if self.servers.iter().all(|server| server.is_quiet(last)) {
                return;
            }
        }
        panic!("it never settles");
    }

    /// Everything heals, what has ended is reclaimed, and only comparisons are made that the library asked for.
    fn heal(&mut self) {
        self.calm = true;
        self.now += 1;
        for n in 0..2 {
            for address in addresses() {
                if self.database(n).get(&address).cloned().is_some_and(|lease| self.has_ended(&lease)) {
                    self.set(n, address, None, true);
                }
            }
        }
        self.settle();
        for address in addresses().filter(|address| self.is_excused(*address)).collect::<Vec<_>>() {
            (0..2).for_each(|n| self.compare_address(n, address));
        }
        self.settle();
        addresses().for_each(|address| self.assert_right(address));
    }

    /// Whether only a comparison helps an address. Index keys are not watched. And the end of a lease of a shared database
    /// is told to one server alone, which takes the other one's record along, also a late one; but not when the address
    /// changed hands more than once since that lease, or when the first one was restarted since.
    fn is_excused(&self, address: IpAddr) -> bool {
        if self.has_right_record(address) {
            return self.is_touched && address == INDEX_TOUCHED;
        }
        let Some(record) = self.record(address).filter(|_| self.is_shared()) else { return false };
        let since: Vec<_> = self.hands.iter().filter(|(at, of, _)| *of == address && *at > record.cltt).collect();
        let Some((at, _, through)) = since.last().filter(|_| self.newest(address).is_none()) else { return false };
        let is_behind = since.len() > 1 || self.restarted[*through] >= *at;
        record.server != SERVERS[*through] && is_behind
    }

    fn newest(&self, address: IpAddr) -> Option<&Lease> {
        self.databases.iter().filter_map(|leases| leases.get(&address)).max_by_key(|lease| lease.cltt)
    }

    fn has_right_record(&self, address: IpAddr) -> bool {
        let content = self.record(address).map(|record| record.content);
        content == self.newest(address).map(|lease| Some(Content::of(lease)))
    }

    fn assert_right(&self, address: IpAddr) {
        let (record, lease) = (self.record(address), self.newest(address));
        assert!(self.has_right_record(address), "{address} has the record {record:?}, and the lease is {lease:?}");
        assert_eq!(self.index_keys_there(address), self.index_keys(address), "index keys of {address}");
        let Some(entry) = self.etcd.entries.get(&self.key(address)) else { return };
        let hangs_right = match lease.and_then(Lease::expires_at) {
            Some(end) => self.etcd.leases.get(&entry.etcd_lease).is_some_and(|etcd_end| *etcd_end > end),
            None => entry.etcd_lease == 0,
        };
        assert!(hangs_right, "{address} hangs on a wrong etcd lease: {entry:?}");
    }
}

/// A walk on which each step is more or less frequent than on others.
fn walk(seed: u64) {
    let mut world = World::new(seed);
    let mut steps: Vec<Step> = STEPS.iter().flat_map(|step| repeat_n(*step, world.random.usize(1..6))).collect();
    for (most, fault) in FAULTS {
        steps.extend(repeat_n(fault, world.random.usize(..=most) * world.random.usize(..2)));
    }
    let walked = catch_unwind(AssertUnwindSafe(|| {
        world.settle();
        world.calm = false;
        for _ in 0..world.random.usize(10..200) {
            let ((name, step), n) = (steps[world.random.usize(..steps.len())], world.random.usize(..2));
            world.story.push(format!("{} revision {}: {name} {}", world.now, world.etcd.revision, SERVERS[n]));
            step(&mut world, n);
            world.tick();
        }
        world.heal();
    }));
    if let Err(panic) = walked {
        eprintln!("{}\nrepeat it with WALK_SEED={seed}", world.story.join("\n"));
        resume_unwind(panic);
    }
}

#[test]
fn whatever_happens_etcd_holds_the_newest_leases_afterwards() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let (seed, walks) = (number("WALK_SEED"), number("WALKS"));
    let first = seed.unwrap_or_else(|| fastrand::u64(..1_000_000_000));
    let walks = walks.unwrap_or(if seed.is_some() { 1 } else { 3000 });
    (first..first + walks).for_each(walk);
    println!("{walks} walks from {first} on");
}
