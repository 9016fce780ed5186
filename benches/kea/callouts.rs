//! How long the library keeps a packet thread: `stopwatch.c` stands between the server and the library. Without it, it is
//! `reader.cc` that is measured, which does nothing but read the lease that was committed, while another program writes.

use tempfile::TempDir;

use crate::Part;
use crate::bed::{Bed, MODES, Way, mode};
use crate::compiled;
use crate::figures::{Budget, Figure};
use crate::kea::{Family, library};
use crate::with::With;

/// Exchanges a second.
const RATE: u32 = 4000;

/// What one family and threading mode takes.
struct Mode {
    family: Family,
    threads: bool,
    cpu: Figure,
    wall: Figure,
}

/// See the module.
pub struct Callouts([Mode; 4]);

impl Callouts {
    pub fn new() -> Self {
        Self(MODES.map(|(family, threads)| {
            let of = |what: &str, budget| {
                let what = format!(
                    "{}: {what} of callouts for each new lease (without: only reading it)",
                    mode(family, threads)
                );
                Figure::new(what, "µs", budget)
            };
            // Others run meanwhile on a machine that has no more cores than threads that are busy.
            let (cpu, wall) = (of("CPU", Budget::AtMost(3.0)), of("time, also of what preempts them,", Budget::Told));
            Mode { family, threads, cpu, wall }
        }))
    }
}

impl Part for Callouts {
    fn measure(&mut self, round: usize) {
        for Mode { family, threads, cpu, wall } in &mut self.0 {
            for with_library in crate::turns(round) {
                let [on_wall, of_cpu] = per_lease(*family, *threads, with_library);
                let which = if with_library { "the library's callouts" } else { "only reading the lease" };
                println!("  {}: {which}: {of_cpu:.2} µs of CPU, {on_wall:.2} µs of time", mode(*family, *threads));
                cpu.add(with_library, of_cpu);
                wall.add(with_library, on_wall);
            }
        }
    }

    fn figures(&self) -> Vec<&Figure> {
        self.0.iter().flat_map(|mode| [&mode.cpu, &mode.wall]).collect()
    }
}

/// Microseconds on the wall, and of CPU, in all callouts of an exchange, those before the lease is written too, for each
/// that committed one.
fn per_lease(family: Family, threads: bool, with_library: bool) -> [f64; 2] {
    let dir = TempDir::new().unwrap();
    let [stopwatch, reader, report] = ["libstopwatch.so", "libreader.so", "report"].map(|name| dir.path().join(name));
    let (measured, way) = if with_library {
        (library(), Way::Through(&stopwatch))
    } else {
        compiled::reader(&reader, true);
        (reader, Way::Instead(&stopwatch))
    };
    compiled::stopwatch(&stopwatch, &measured, &report);
    let bed = Bed::by(family, threads, way);
    let with = if with_library { With::Library } else { With::Least };
    with.load(&bed, RATE, 6);
    bed.stop();
    let report = std::fs::read_to_string(&report).unwrap();
    let lines: Vec<(&str, [f64; 3])> = report.lines().map(line).collect();
    let [clock_calls, clocks @ ..] = lines[0].1;
    let (mut leases, mut nanoseconds) = (0.0, [0.0; 2]);
    for (name, [calls, times @ ..]) in &lines[1..] {
        for ((sum, time), clock) in nanoseconds.iter_mut().zip(times).zip(clocks) {
            *sum += time - calls * clock / clock_calls;
        }
        if name.ends_with("_committed") {
            leases += calls;
        }
    }
    assert!(leases > 0.0, "{report}");
    nanoseconds.map(|sum| sum / leases / 1000.0)
}

/// A callout's calls, and nanoseconds on the wall and of CPU.
fn line(text: &str) -> (&str, [f64; 3]) {
    let [name, numbers @ ..] = &text.split(' ').collect::<Vec<_>>()[..] else { panic!("{text}") };
    let numbers: Vec<f64> = numbers.iter().map(|number| number.parse().unwrap()).collect();
    (name, numbers.try_into().unwrap())
}
