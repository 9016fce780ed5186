//! Clients keep one or two servers busy while etcd, the link to it, Kea and other users of etcd fail at random; then
//! everything heals, and etcd holds what Kea holds.
//!
//! `CHAOS_SEED` repeats a run's choices, `CHAOS_SECONDS` makes it longer than its few rounds (`make chaos`).

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::etcd::{Etcd, LEASES};
use crate::journal::{Journal, keep_busy, now};
use crate::kea::{Family, Kea, Wanted};
use crate::mirrored::difference;
use crate::tcp_link::{Mode, TcpLink};

/// Rounds of the short form.
const ROUNDS: u32 = 2;
/// How long, when everything is healed and no queue overflows, etcd may hold something else of an address than Kea.
const PROMISE: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Hang,
    Kill,
    LoseData,
    Restore,
    Compact,
    Fill,
    Link(Mode),
    KillKea,
    StopKea,
    Reload,
    RemoveRecords,
    RemoveEverything,
    Spoil,
    Forge,
    Flood,
    HugeValue,
    Revoke,
    HangLeader,
    MoveLeader,
}

const SINGLE: [Fault; 19] = [
    Fault::Hang,
    Fault::Kill,
    Fault::LoseData,
    Fault::Restore,
    Fault::Compact,
    Fault::Fill,
    Fault::Link(Mode::BlackHole),
    Fault::Link(Mode::Cut),
    Fault::Link(Mode::Slow),
    Fault::KillKea,
    Fault::StopKea,
    Fault::Reload,
    Fault::RemoveRecords,
    Fault::RemoveEverything,
    Fault::Spoil,
    Fault::Forge,
    Fault::Flood,
    Fault::HugeValue,
    Fault::Revoke,
];

const CLUSTER: [Fault; 12] = [
    Fault::Hang,
    Fault::Kill,
    Fault::HangLeader,
    Fault::MoveLeader,
    Fault::Compact,
    Fault::Link(Mode::BlackHole),
    Fault::Link(Mode::Cut),
    Fault::Link(Mode::Slow),
    Fault::KillKea,
    Fault::Reload,
    Fault::RemoveRecords,
    Fault::Revoke,
];

struct Place {
    members: Vec<Etcd>,
    links: Vec<TcpLink>,
    servers: Vec<Kea>,
    snapshot: Option<PathBuf>,
    /// While a server was not there: a message of that time may have no answer.
    absences: Vec<(Instant, Instant)>,
}

impl Place {
    fn new(random: &mut fastrand::Rng) -> Self {
        let cluster = random.u8(..3) == 0;
        let members = if cluster { Etcd::start_cluster(3) } else { vec![Etcd::start()] };
        let links: Vec<TcpLink> = members.iter().map(|member| TcpLink::to(member.port())).collect();
        let endpoints: Vec<String> = links.iter().map(TcpLink::url).collect();
        let servers = (0..random.u8(1..=2)).map(|number| {
            let valid_lifetime = if random.bool() { 3600 } else { random.u32(4..20) };
            let subnet = json!([{
                "id": 7, "subnet": "10.0.0.0/16",
                "pools": [{ "pool": format!("10.0.{}.0 - 10.0.{}.255", 1 + 20 * number, 16 + 20 * number) }],
                "relay": { "ip-addresses": (1..=100).map(|n| format!("127.0.1.{n}")).collect::<Vec<_>>() },
            }]);
            let more = json!({
                "subnet4": subnet, "valid-lifetime": valid_lifetime, "decline-probation-period": 5,
                "expired-leases-processing": { "reclaim-timer-wait-time": 1, "flush-reclaimed-timer-wait-time": 2,
                    "hold-reclaimed-time": 3, "max-reclaim-leases": 0, "max-reclaim-time": 0 },
            });
            let index = if random.bool() { json!(["hw-address", "hostname"]) } else { json!([]) };
            let queue_size = if random.u8(..4) == 0 { random.u32(50..500) } else { 65_536 };
            Wanted::new(Family::V4, "")
                .threads(random.bool())
                .more(more)
                .parameter("endpoints", json!(endpoints))
                .parameter("server-name", json!(format!("server-{number}")))
                .parameter("request-timeout", json!(2000))
                .parameter("queue-size", json!(queue_size))
                .parameter("index", index)
        });
        let servers = servers.map(|wanted| Kea::start_connected(&wanted)).collect();
        Self { members, links, servers, snapshot: None, absences: Vec::new() }
    }

    fn faults(&self) -> &'static [Fault] {
        if self.members.len() > 1 { &CLUSTER } else { &SINGLE }
    }

    /// Makes something fail, and heals it after a while.
    fn fail(&mut self, fault: Fault, random: &mut fastrand::Rng) {
        let while_it_lasts = Duration::from_millis(random.u64(100..3000));
        let place = random.usize(..self.members.len());
        let began = Instant::now();
        match fault {
            Fault::Hang => {
                self.members[place].hang();
                sleep(while_it_lasts);
                self.members[place].resume();
            }
            Fault::Kill => {
                self.members[place].kill();
                sleep(while_it_lasts);
                self.members[place].restart();
            }
            Fault::LoseData => {
                self.members[0].kill();
                self.members[0].lose_data();
                self.snapshot = None;
                sleep(while_it_lasts);
                self.members[0].restart();
            }
            Fault::Restore => match self.snapshot.take() {
                None => self.snapshot = Some(self.members[0].snapshot()),
                Some(snapshot) => {
                    self.members[0].kill();
                    self.members[0].restore(&snapshot);
                    self.members[0].restart();
                }
            },
            Fault::Compact => self.members[place].compact(),
            Fault::Fill => {
                self.members[0].fill();
                sleep(while_it_lasts);
                self.members[0].make_room();
            }
            Fault::Link(mode) => {
                self.links[place].set(mode);
                sleep(while_it_lasts);
                self.links[place].set(Mode::Whole);
            }
            Fault::KillKea | Fault::StopKea => {
                let server = random.usize(..self.servers.len());
                let kea = &mut self.servers[server];
                kea.signal(if fault == Fault::KillKea { "KILL" } else { "TERM" });
                kea.wait_end();
                kea.restart();
                self.absences.push((began, Instant::now()));
            }
            Fault::Reload => {
                for kea in &self.servers {
                    kea.ask("config-reload", &Value::Null);
                }
                self.absences.push((began, Instant::now()));
            }
            Fault::RemoveRecords | Fault::Spoil | Fault::Forge => self.change_records(fault, random),
            Fault::RemoveEverything => {
                self.members[0].ctl(&["del", "--prefix", "/nnoe/"]);
            }
            Fault::Flood => self.members[0].flood(&format!("{LEASES}foreign-{}-", random.u16(..)), 2000),
            Fault::HugeValue => {
                let key = format!("{LEASES}10.0.{}.{}", random.u8(1..3), random.u8(..));
                self.members[0].put_from_stdin(&key, &"x".repeat(1_000_000));
            }
            Fault::Revoke => {
                let leases = self.members[place].ctl(&["lease", "list"]);
                let leases: Vec<&str> = leases.lines().filter(|line| line.len() == 16).collect();
                if let Some(lease) = random.choice(leases) {
                    self.members[place].try_ctl(&["lease", "revoke", lease]);
                }
            }
            Fault::HangLeader => {
                let leader = self.leader();
                self.members[leader].hang();
                sleep(while_it_lasts);
                self.members[leader].resume();
            }
            Fault::MoveLeader => {
                let leader = self.leader();
                let to = self.members[(leader + 1) % self.members.len()].id();
                self.members[leader].try_ctl(&["move-leader", &to]);
            }
        }
    }

    fn leader(&self) -> usize {
        self.members.iter().position(Etcd::is_leader).unwrap_or(0)
    }

    /// Somebody removes, spoils or forges some of the records.
    fn change_records(&self, fault: Fault, random: &mut fastrand::Rng) {
        let values: Vec<(String, String)> = self.members[0].values().into_iter().collect();
        for _ in 0..5 {
            let Some((address, text)) = random.choice(&values) else { return };
            let key = format!("{LEASES}{address}");
            match fault {
                Fault::RemoveRecords => self.members[0].ctl(&["del", &key]),
                Fault::Spoil => self.members[0].ctl(&["put", &key, "--", &text[..text.len().min(40)]]),
                _ => {
                    let forged = text.replace(r#""state":0"#, r#""state":1"#).replace("02:00", "de:ad");
                    let elsewhere = format!("{LEASES}10.0.250.{}", random.u8(..));
                    self.members[0].ctl(&["put", if random.bool() { &key } else { &elsewhere }, "--", &forged])
                }
            };
        }
    }

    /// The records of these servers: what others put there stays, and is no record of a lease.
    fn records(&self) -> BTreeMap<String, Value> {
        let names: Vec<Value> = self.servers.iter().map(Kea::name).collect();
        let mut records = self.members[0].records();
        records.retain(|_, record| names.contains(&record["server"]));
        records
    }

    /// What keeps the invariant from holding, a line each.
    fn faults_found(&self) -> Vec<String> {
        if let Some(difference) = difference(&self.servers.iter().collect::<Vec<_>>(), &self.records()) {
            return difference.lines().map(str::to_owned).collect();
        }
        let verified = self.servers.iter().filter_map(|kea| {
            let answer = kea.command(&json!({ "command": "etcd-verify" }));
            let found = ["missing", "different", "extra"].map(|kind| &answer["arguments"][kind]);
            let clean = answer["result"] == 0 && found.iter().all(|count| **count == 0);
            (!clean).then(|| format!("etcd-verify of {}: {found:?}, {}", kea.name(), answer["text"]))
        });
        verified.collect()
    }

    /// Everything is healed: how long it takes until the invariant holds. Leases go on ending meanwhile, some between two
    /// readings, so each difference has a time of its own: from when it is seen until it is gone, or another one. What a
    /// full queue dropped waits for a comparison after that, so it begins anew then.
    fn converge(&self) -> Duration {
        let healed = Instant::now();
        let strict = std::env::var_os("CHAOS_SECONDS").is_some();
        let patience = if strict { PROMISE } else { PROMISE * 4 };
        let overflows = || self.servers.iter().map(|kea| kea.statistic("etcd-queue-overflows")).sum::<i64>();
        let (mut standing, mut dropped) = (HashMap::<String, Instant>::new(), overflows());
        loop {
            // Before anything is read: what is seen now stood then.
            let now = Instant::now();
            let faults = self.faults_found();
            let Some(fault) = faults.first() else { return healed.elapsed() };
            let dropped_before = std::mem::replace(&mut dropped, overflows());
            if dropped > dropped_before {
                standing.clear();
            }
            assert!(healed.elapsed() < PROMISE * 8, "there is no end: {fault}");
            standing = faults.into_iter().map(|fault| (fault.clone(), *standing.get(&fault).unwrap_or(&now))).collect();
            for (fault, since) in &standing {
                assert!(since.elapsed() < patience, "for {patience:?}: {fault}");
            }
            sleep(Duration::from_millis(100));
        }
    }

    /// Every address that a client holds by what it saw has its record.
    fn check(&self, kea: &Kea, journal: &Journal) {
        let records = self.records();
        let leases = kea.leases();
        for (address, seen) in journal.addresses().into_iter().filter(|(_, seen)| seen.holds) {
            let lease = leases.iter().find(|lease| lease["ip-address"] == address.to_string());
            let lifetime = lease.and_then(|lease| lease["valid-lft"].as_i64()).unwrap_or(0);
            if lease.is_none() && seen.asked_at + 20 < now() || seen.asked_at + lifetime < now() + 2 {
                continue;
            }
            let record = records.get(&address.to_string());
            // Kea's time(2) may be a tick behind the clock that we read.
            let recent = |record: &Value| record["cltt"].as_i64().is_some_and(|cltt| cltt + 1 >= seen.asked_at);
            let kept = record.is_some_and(|record| record["hwaddr"] == seen.hwaddr && recent(record));
            assert!(kept, "{address} was acknowledged to {seen:?}, etcd holds {record:?}, Kea {lease:?}");
        }
        for sent in journal.take_unanswered() {
            let excused = self
                .absences
                .iter()
                .any(|(from, to)| sent + Duration::from_secs(4) > *from && sent < *to + Duration::from_secs(1));
            assert!(excused, "a message had no answer, though Kea was there all the time");
        }
    }
}

fn round(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut place = Place::new(&mut random);
    let stop = AtomicBool::new(false);
    let journals: Vec<Journal> = place.servers.iter().map(|_| Journal::default()).collect();
    let seconds: Vec<u64> = (0..8).map(|_| random.u64(..)).collect();
    let clients: Vec<_> = place.servers.iter().map(Kea::ports).collect();
    let mut faults = Vec::new();
    std::thread::scope(|scope| {
        for (server, ports) in clients.iter().enumerate() {
            for relay in 0..4 {
                let (journal, stop, seed) = (&journals[server], &stop, seconds[server * 4 + relay]);
                let relay = u8::try_from(1 + server * 4 + relay).unwrap();
                scope.spawn(move || keep_busy(*ports, relay, seed, journal, stop));
            }
        }
        let done = catch_unwind(AssertUnwindSafe(|| {
            sleep(Duration::from_millis(random.u64(..1000)));
            for _ in 0..random.u8(2..7) {
                let fault = *random.choice(place.faults()).unwrap();
                faults.push(fault);
                place.fail(fault, &mut random);
                sleep(Duration::from_millis(random.u64(..1000)));
            }
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = done {
            resume_unwind(panic);
        }
    });
    println!("  {} members, {} servers: {faults:?}", place.members.len(), place.servers.len());
    let took = place.converge();
    for (kea, journal) in place.servers.iter_mut().zip(&journals) {
        kea.assert_alive();
        assert!(!kea.log().contains("ETCD_BUG"), "{}", kea.log());
        println!("  {} ACKs seen", journal.acknowledged());
    }
    for (kea, journal) in place.servers.iter().zip(&journals) {
        place.check(kea, journal);
    }
    println!("  whole again after {took:?}");
}

#[test]
fn whatever_fails_etcd_holds_what_kea_holds_afterwards() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let seed = number("CHAOS_SEED");
    let until = number("CHAOS_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    for round_number in 0.. {
        let more = match (until, seed) {
            (Some(until), _) => Instant::now() < until,
            (None, Some(_)) => round_number < 1,
            (None, None) => round_number < ROUNDS,
        };
        if !more {
            break;
        }
        // A seed that was given is that of the first round.
        let seed = match seed {
            Some(seed) => seed + u64::from(round_number),
            None => fastrand::u64(..1_000_000_000),
        };
        println!("round {round_number}: CHAOS_SEED={seed}");
        if let Err(panic) = catch_unwind(|| round(seed)) {
            eprintln!("repeat it with CHAOS_SEED={seed}");
            resume_unwind(panic);
        }
    }
}
