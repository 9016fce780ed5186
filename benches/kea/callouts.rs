//! How long the library keeps a packet thread: `stopwatch.c` stands between the server and the library. Without it, it is
//! `reader.cc` that is measured, which does nothing but read the lease that was committed: what no mirror can do without.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::Part;
use crate::bed::{Bed, Way, mode};
use crate::figures::{Budget, Figure};
use crate::kea::{Family, library};
use crate::perfdhcp;

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
        let modes = [(Family::V4, true), (Family::V4, false), (Family::V6, true), (Family::V6, false)];
        Self(modes.map(|(family, threads)| {
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
    if !with_library {
        compile_reader(&reader);
    }
    compile_stopwatch(&stopwatch, &if with_library { library() } else { reader }, &report);
    let way = if with_library { Way::Through(&stopwatch) } else { Way::Instead(&stopwatch) };
    let bed = Bed::by(family, threads, way);
    perfdhcp::load(&bed, RATE, 6);
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

/// Makes a stopwatch for a library that leaves its report in a file.
fn compile_stopwatch(stopwatch: &Path, library: &Path, report: &Path) {
    let text = |name: &str, path: &Path| format!("-D{name}=\"{}\"", path.display());
    let mut cc = Command::new("cc");
    cc.args([text("LIBRARY", library), text("REPORT", report)]);
    compile(cc, "stopwatch.c", stopwatch);
}

/// Makes the library that only reads, against Kea's headers where Debian has them.
fn compile_reader(reader: &Path) {
    let mut cxx = Command::new("c++");
    // The second has what the headers of Kea 2.2 include and do not come with.
    cxx.args(["-isystem", "/usr/include/kea", "-idirafter"]);
    cxx.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("cpp-shim/kea-2.2.0"));
    compile(cxx, "reader.cc", reader);
}

fn compile(mut compiler: Command, source: &str, to: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/kea").join(source);
    compiler.args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(to).arg(source);
    assert!(compiler.status().expect("a C and a C++ compiler").success());
}
