//! The highest rate of what users have today to bring leases elsewhere, beside that of the library and of no hook at all.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Part;
use crate::bed::{Bed, Way};
use crate::figures::{Budget, Figure};
use crate::kea::Family;
use crate::perfdhcp::{self, Load};

/// Each way, by its name, and from where its highest rate is looked for.
const PEERS: [(Way, &str, u32); 4] = [
    (Way::Library, "the library", 7000),
    (Way::RunScript, "run_script and etcdctl", 110),
    (Way::PostgreSql, "leases in PostgreSQL", 1600),
    (Way::None, "no hook", 7500),
];

/// Processes of scripts that may run at a time. A load that starts more is ended: it is past the highest rate.
const PROCESSES: usize = 400;

/// How long scripts have to end, and leases to come into etcd.
const PATIENCE: Duration = Duration::from_secs(30);

/// See the module.
pub struct Peers {
    run_script: Figure,
    postgresql: Figure,
    no_hook: Figure,
    in_etcd: Figure,
}

impl Peers {
    pub fn new() -> Self {
        let of = |what: &str, budget| {
            let what = format!("DHCPv4, two packet threads: highest rate under 1 % drops; without: {what}");
            Figure::ratio(what, "1/s", budget)
        };
        Self {
            run_script: of("run_script and etcdctl", Budget::AtLeast(50.0)),
            postgresql: of("leases in PostgreSQL", Budget::AtLeast(4.0)),
            no_hook: of("no hook", Budget::Told),
            in_etcd: Figure::new(
                "leases that are in etcd after that, a rate too high included; without: run_script and etcdctl",
                "%",
                Budget::Told,
            ),
        }
    }
}

impl Part for Peers {
    /// Each is first in a round of its own.
    fn measure(&mut self, round: usize) {
        for turn in 0..PEERS.len() {
            let (way, name, guess) = PEERS[(round + turn) % PEERS.len()];
            let bed = Bed::by(Family::V4, true, way);
            let top = perfdhcp::highest(f64::from(guess), |rate, seconds| load(&bed, way, rate, seconds));
            print!("  {name}: top {top:.0}/s");
            if matches!(way, Way::Library | Way::RunScript) {
                let part = in_etcd(&bed);
                print!(", {part:.1} % of the leases are in etcd");
                self.in_etcd.add(way == Way::Library, part);
            }
            println!();
            match way {
                Way::RunScript => self.run_script.add(false, top),
                Way::PostgreSql => self.postgresql.add(false, top),
                Way::None => self.no_hook.add(false, top),
                _ => {
                    for figure in [&mut self.run_script, &mut self.postgresql, &mut self.no_hook] {
                        figure.add(true, top);
                    }
                }
            }
        }
    }

    fn figures(&self) -> Vec<&Figure> {
        vec![&self.run_script, &self.postgresql, &self.no_hook, &self.in_etcd]
    }
}

/// A load; `None` of one that had to be ended. Nothing of it runs any more afterwards.
fn load(bed: &Bed, way: Way, rate: u32, seconds: u32) -> Option<Load> {
    let load = perfdhcp::begin(bed, perfdhcp::Rates::new(rate), seconds);
    if way != Way::RunScript {
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
