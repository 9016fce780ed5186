//! How long the library keeps a packet thread: `stopwatch.c` stands between the server and the library.

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

/// See the module.
pub struct Callouts([(Family, bool, Figure); 4]);

impl Callouts {
    pub fn new() -> Self {
        let modes = [(Family::V4, true), (Family::V4, false), (Family::V6, true), (Family::V6, false)];
        Self(modes.map(|(family, threads)| {
            let what = format!("{}: in callouts, for each lease that is committed", mode(family, threads));
            (family, threads, Figure::new(what, "µs", Budget::AtMost(3.0)))
        }))
    }
}

impl Part for Callouts {
    fn measure(&mut self, _: usize) {
        for (family, threads, figure) in &mut self.0 {
            let microseconds = per_lease(*family, *threads);
            println!("  {}: {microseconds:.2} µs in callouts", mode(*family, *threads));
            figure.add(true, microseconds);
        }
    }

    fn figures(&self) -> Vec<&Figure> {
        self.0.iter().map(|(_, _, figure)| figure).collect()
    }
}

/// Microseconds in all callouts of an exchange, those before the lease is written too, for each that committed one.
fn per_lease(family: Family, threads: bool) -> f64 {
    let dir = TempDir::new().unwrap();
    let (stopwatch, report) = (dir.path().join("libstopwatch.so"), dir.path().join("report"));
    compile(&stopwatch, &report);
    let bed = Bed::by(family, threads, Way::Through(&stopwatch));
    perfdhcp::load(&bed, RATE, 6);
    bed.stop();
    let report = std::fs::read_to_string(&report).unwrap();
    let (mut leases, mut nanoseconds) = (0.0, 0.0);
    for line in report.lines() {
        let [name, calls, time] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        nanoseconds += time.parse::<f64>().unwrap();
        if name.ends_with("_committed") {
            leases += calls.parse::<f64>().unwrap();
        }
    }
    assert!(leases > 0.0, "{report}");
    nanoseconds / leases / 1000.0
}

/// Makes a stopwatch for our library that leaves its report in a file.
fn compile(stopwatch: &Path, report: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/kea/stopwatch.c");
    let text = |name: &str, path: &Path| format!("-D{name}=\"{}\"", path.display());
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror"]);
    cc.args([text("LIBRARY", &library()), text("REPORT", report), "-o".into()]).arg(stopwatch).arg(source);
    assert!(cc.status().expect("a C compiler").success());
}
