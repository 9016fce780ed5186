//! The highest rate of what users have today to bring leases elsewhere, beside that of the library, of no hook at all, and of
//! what shows how much of it etcd on the same two cores leaves to anybody ([`With`]).

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Part;
use crate::bed::{Bed, Way};
use crate::figures::{Budget, Figure};
use crate::kea::Family;
use crate::perfdhcp::{self, Load};
use crate::with::With;

/// What has a highest rate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    /// The library, nothing, or what shows how much of a rate etcd on the same cores leaves.
    With(With),
    /// Kea's library that runs a script at each hook point; the script puts a record into etcd by `etcdctl`.
    RunScript,
    /// Leases in PostgreSQL.
    PostgreSql,
}

/// What is told as a multiple of both others.
const AGAINST: [With; 5] = [With::Library, With::Nothing, With::Beside, With::Least, With::Called];

/// Each, and from where its highest rate is looked for.
const PEERS: [(Peer, u32); 7] = [
    (Peer::With(With::Library), 7000),
    (Peer::RunScript, 110),
    (Peer::With(With::Beside), 7000),
    (Peer::PostgreSql, 1600),
    (Peer::With(With::Nothing), 7500),
    (Peer::With(With::Least), 7000),
    (Peer::With(With::Called), 7000),
];

/// Processes of scripts that may run at a time. A load that starts more is ended: it is past the highest rate.
const PROCESSES: usize = 400;

/// How long scripts have to end, and leases to come into etcd.
const PATIENCE: Duration = Duration::from_secs(30);

/// See the module.
pub struct Peers {
    /// By [`AGAINST`].
    run_script: [Figure; AGAINST.len()],
    postgresql: [Figure; AGAINST.len()],
    in_etcd: Figure,
}

impl Peers {
    pub fn new() -> Self {
        let of = |peer: &str, budget| {
            let what = format!("highest rate under 1 % drops; without: {peer}");
            AGAINST.map(|with| with.figure("DHCPv4, two packet threads", &what, "1/s", budget))
        };
        Self {
            run_script: of("run_script and etcdctl", Budget::AtLeast(50.0)),
            postgresql: of("leases in PostgreSQL", Budget::AtLeast(4.0)),
            in_etcd: Figure::new(
                "leases that are in etcd after that, a rate too high included; without: run_script and etcdctl",
                "%",
                Budget::Told,
            ),
        }
    }

    fn add(&mut self, peer: Peer, top: f64) {
        match peer {
            Peer::RunScript => self.run_script.iter_mut().for_each(|figure| figure.add(false, top)),
            Peer::PostgreSql => self.postgresql.iter_mut().for_each(|figure| figure.add(false, top)),
            Peer::With(with) => {
                let number = AGAINST.iter().position(|of| *of == with).expect("one of them");
                for figures in [&mut self.run_script, &mut self.postgresql] {
                    figures[number].add(true, top);
                }
            }
        }
    }
}

impl Part for Peers {
    /// Each is first in a round of its own.
    fn measure(&mut self, round: usize) {
        for turn in 0..PEERS.len() {
            let (peer, guess) = PEERS[(round + turn) % PEERS.len()];
            let bed = bed(peer);
            let top = perfdhcp::highest(f64::from(guess), |rate, seconds| load(&bed, peer, rate, seconds));
            match peer {
                Peer::With(with) => print!("  {with}: top {top:.0}/s"),
                Peer::RunScript => print!("  run_script and etcdctl: top {top:.0}/s"),
                Peer::PostgreSql => print!("  leases in PostgreSQL: top {top:.0}/s"),
            }
            let is_library = peer == Peer::With(With::Library);
            if is_library || peer == Peer::RunScript {
                let part = in_etcd(&bed);
                print!(", {part:.1} % of the leases are in etcd");
                self.in_etcd.add(is_library, part);
            }
            println!();
            self.add(peer, top);
        }
    }

    fn figures(&self) -> Vec<&Figure> {
        self.run_script.iter().chain(&self.postgresql).chain([&self.in_etcd]).collect()
    }
}

fn bed(peer: Peer) -> Bed {
    let by = |way| Bed::by(Family::V4, true, way);
    match peer {
        Peer::With(with) => with.bed(Family::V4, true),
        Peer::RunScript => by(Way::RunScript),
        Peer::PostgreSql => by(Way::PostgreSql),
    }
}

/// A load; `None` of one that had to be ended. Nothing of it runs any more afterwards.
fn load(bed: &Bed, peer: Peer, rate: u32, seconds: u32) -> Option<Load> {
    if let Peer::With(with) = peer {
        return Some(with.load(bed, rate, seconds).0);
    }
    let load = perfdhcp::begin(bed, perfdhcp::Rates::new(rate), seconds);
    if peer == Peer::PostgreSql {
        return Some(load.wait());
    }
    let until = Instant::now() + Duration::from_secs(seconds.into());
    let mut is_too_much = false;
    while Instant::now() < until && !is_too_much {
        sleep(Duration::from_millis(100));
        is_too_much = bed.children() > PROCESSES;
    }
    let load = if is_too_much { load.stop() } else { load.wait() };
    let until = Instant::now() + PATIENCE;
    while bed.children() > 0 {
        assert!(Instant::now() < until, "{} processes of scripts do not end", bed.children());
        sleep(Duration::from_millis(100));
    }
    (!is_too_much).then_some(load)
}

/// The part of the leases that are in etcd as soon as no more come, in percent.
fn in_etcd(bed: &Bed) -> f64 {
    let (leases, until) = (bed.leases(), Instant::now() + PATIENCE);
    assert!(leases > 0, "perfdhcp takes leases");
    let mut records = 0;
    loop {
        let before = std::mem::replace(&mut records, bed.records());
        #[expect(clippy::cast_precision_loss)]
        let part = records as f64 / leases as f64 * 100.0;
        if part >= 100.0 || (records == before && records > 0) || Instant::now() > until {
            return part;
        }
        sleep(Duration::from_secs(1));
    }
}
