//! What new leases cost a server: CPU of an exchange, delay of its answers, and the highest rate.

use crate::Part;
use crate::bed::{Bed, mode};
use crate::figures::{Budget, Figure};
use crate::kea::Family;
use crate::perfdhcp;

/// Exchanges a second at which delays and CPU are measured.
const RATE: u32 = 4000;

/// The server's families and threading modes, and from where the highest rate is looked for.
const MODES: [(Family, bool, u32); 4] =
    [(Family::V4, true, 7000), (Family::V4, false, 8000), (Family::V6, true, 7000), (Family::V6, false, 8000)];

/// The figures of one family and threading mode.
struct Mode {
    family: Family,
    threads: bool,
    guess: u32,
    top: Figure,
    cpu: Figure,
    mean: Figure,
    high: Figure,
}

impl Mode {
    fn new((family, threads, guess): (Family, bool, u32)) -> Self {
        let of = |what: &str, unit, budget| Figure::ratio(format!("{}: {what}", mode(family, threads)), unit, budget);
        Self {
            family,
            threads,
            guess,
            top: of("highest rate under 1 % drops", "1/s", Budget::AtLeast(0.90)),
            cpu: of("CPU of an exchange at 4,000/s", "µs", Budget::AtMost(1.10)),
            mean: of("mean ACK delay at 4,000/s", "ms", Budget::AtMost(1.15)),
            high: of("99th percentile of the ACK delay at 4,000/s", "ms", Budget::AtMost(1.25)),
        }
    }

    fn measure(&mut self, with_library: bool) {
        let bed = Bed::new(self.family, self.threads, with_library);
        perfdhcp::load(&bed, RATE, 1);
        let before = bed.cpu();
        let load = perfdhcp::load(&bed, RATE, 6);
        let cpu = (bed.cpu() - before) / load.completed * 1e6;
        let top = perfdhcp::highest(self.guess, |rate, seconds| Some(perfdhcp::load(&bed, rate, seconds)));
        println!(
            "  {}, {} the library: {cpu:.0} µs, mean {:.3} ms, p99 {:.3} ms, {:.2} % dropped at {RATE}/s; top {top:.0}/s",
            mode(self.family, self.threads),
            if with_library { "with" } else { "without" },
            load.mean(),
            load.quantile(0.99),
            load.dropped() * 100.0
        );
        self.top.add(with_library, top);
        self.cpu.add(with_library, cpu);
        self.mean.add(with_library, load.mean());
        self.high.add(with_library, load.quantile(0.99));
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
            for with_library in crate::turns(round) {
                mode.measure(with_library);
            }
        }
    }

    fn figures(&self) -> Vec<&Figure> {
        self.0.iter().flat_map(|mode| [&mode.top, &mode.cpu, &mode.mean, &mode.high]).collect()
    }
}
