//! What new leases cost a server: CPU of an exchange, and the delay of its answers.

use crate::Part;
use crate::bed::{MODES, mode};
use crate::figures::{Budget, Figure};
use crate::kea::Family;
use crate::perfdhcp::Load;
use crate::with::{Against, With};

/// Exchanges a second at which delays and CPU are measured.
const RATE: u32 = 4000;

/// What is measured with something, and without anything.
struct Figures {
    cpu: Figure,
    all: Figure,
    mean: Figure,
    high: Figure,
}

impl Figures {
    fn new(mode: &str, with: With) -> Self {
        let of = |what, unit, budget| with.figure(mode, &format!("{what} at 4,000/s"), unit, budget);
        Self {
            cpu: of("the server's CPU of an exchange", "µs", Budget::AtMost(1.10)),
            all: of("CPU of everything on the machine for an exchange", "µs", Budget::Told),
            mean: of("mean ACK delay", "ms", Budget::AtMost(1.15)),
            high: of("99th percentile of the ACK delay", "ms", Budget::AtMost(1.25)),
        }
    }

    fn add(&mut self, with: bool, [cpu, all]: [f64; 2], load: &Load) {
        self.cpu.add(with, cpu);
        self.all.add(with, all);
        self.mean.add(with, load.mean());
        self.high.add(with, load.quantile(0.99));
    }
}

/// The figures of one family and threading mode.
struct Mode {
    family: Family,
    threads: bool,
    figures: Against<Figures>,
}

impl Mode {
    fn new((family, threads): (Family, bool)) -> Self {
        let mode = mode(family, threads);
        Self { family, threads, figures: Against::new(|with| Figures::new(&mode, with)) }
    }

    fn measure(&mut self, with: With) {
        let bed = with.bed(self.family, self.threads);
        with.load(&bed, RATE, 1);
        let before = [bed.cpu(), busy()];
        let (at_rate, writing) = with.load(&bed, RATE, 6);
        // A mirror writes in the server.
        let after = [bed.cpu() + writing, busy()];
        let [cpu, all] = [0, 1].map(|n| (after[n] - before[n]) / at_rate.completed * 1e6);
        println!(
            "  {}, {with}: {cpu:.0} µs of {all:.0}, mean {:.3} ms, p99 {:.3} ms, {:.2} % dropped at {RATE}/s",
            mode(self.family, self.threads),
            at_rate.mean(),
            at_rate.quantile(0.99),
            at_rate.dropped() * 100.0
        );
        self.figures.add(with, |figures, is_with| figures.add(is_with, [cpu, all], &at_rate));
    }
}

/// Every family and threading mode.
pub struct Cost([Mode; 4]);

impl Cost {
    pub fn new() -> Self {
        Self(MODES.map(Mode::new))
    }
}

impl Part for Cost {
    fn measure(&mut self, round: usize) {
        for mode in &mut self.0 {
            for with in With::turns(round) {
                mode.measure(with);
            }
        }
    }

    fn figures(&self) -> Vec<&Figure> {
        let kinds: [fn(&Figures) -> &Figure; 4] = [|of| &of.cpu, |of| &of.all, |of| &of.mean, |of| &of.high];
        self.0.iter().flat_map(|mode| kinds.into_iter().flat_map(|kind| mode.figures.iter().map(kind))).collect()
    }
}

/// Seconds of CPU that were used on the machine since it was started: by the server, etcd, the clients, and the kernel for them.
fn busy() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    // user, nice, system, idle, iowait, irq and softirq of all cores, in hundredths (proc(5)).
    let times: Vec<f64> =
        stat.lines().next().unwrap().split_whitespace().skip(1).map(|time| time.parse().unwrap()).collect();
    [0, 1, 2, 5, 6].map(|n| times[n] / 100.0).iter().sum()
}
