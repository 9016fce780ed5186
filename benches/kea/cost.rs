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
    mean: Figure,
    high: Figure,
    dropped: Figure,
}

impl Figures {
    fn new(mode: &str, with: With) -> Self {
        let of = |what, unit, budget| with.figure(mode, &format!("{what} at 4,000/s"), unit, budget);
        let dropped = with.name(mode, "exchanges that were not completed, of 4,000 begun a second");
        Self {
            cpu: of("the server's CPU of an exchange", "µs", Budget::AtMost(1.10)),
            mean: of("mean ACK delay", "ms", Budget::AtMost(1.15)),
            high: of("99th percentile of the ACK delay", "ms", Budget::AtMost(1.25)),
            dropped: Figure::new(dropped, "%", Budget::Told),
        }
    }

    fn add(&mut self, with: bool, cpu: f64, load: &Load) {
        self.cpu.add(with, cpu);
        self.mean.add(with, load.mean());
        self.high.add(with, load.quantile(0.99));
        self.dropped.add(with, load.dropped() * 100.0);
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
        let before = bed.cpu();
        let (at_rate, writing) = with.load(&bed, RATE, 6);
        // A mirror writes in the server.
        let cpu = (bed.cpu() + writing - before) / at_rate.completed * 1e6;
        println!(
            "  {}, {with}: {cpu:.0} µs, mean {:.3} ms, p99 {:.3} ms, {:.2} % dropped at {RATE}/s",
            mode(self.family, self.threads),
            at_rate.mean(),
            at_rate.quantile(0.99),
            at_rate.dropped() * 100.0
        );
        self.figures.add(with, |figures, is_with| figures.add(is_with, cpu, &at_rate));
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
        let kinds: [fn(&Figures) -> &Figure; 4] = [|of| &of.cpu, |of| &of.mean, |of| &of.high, |of| &of.dropped];
        self.0.iter().flat_map(|mode| kinds.into_iter().flat_map(|kind| mode.figures.iter().map(kind))).collect()
    }
}
