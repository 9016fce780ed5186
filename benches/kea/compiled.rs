//! Hook libraries of the benchmark, compiled where they are needed.

use std::path::Path;
use std::process::Command;

/// Makes a stopwatch for a library that leaves its report in a file.
pub fn stopwatch(stopwatch: &Path, library: &Path, report: &Path) {
    let text = |name: &str, path: &Path| format!("-D{name}=\"{}\"", path.display());
    let mut cc = Command::new("cc");
    cc.args([text("LIBRARY", library), text("REPORT", report)]);
    compile(cc, "stopwatch.c", stopwatch);
}

/// Makes the library that only reads, or one of the same callouts that do nothing, against Kea's headers where Debian has them.
pub fn reader(reader: &Path, reads: bool) {
    let mut cxx = Command::new("c++");
    // The second has what the headers of Kea 2.2 include and do not come with.
    cxx.args(["-isystem", "/usr/include/kea", "-idirafter"]);
    cxx.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("cpp-shim/kea-2.2.0"));
    cxx.arg(format!("-DREADS={}", u8::from(reads)));
    compile(cxx, "reader.cc", reader);
}

fn compile(mut compiler: Command, source: &str, to: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/kea").join(source);
    compiler.args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(to).arg(source);
    assert!(compiler.status().expect("a C and a C++ compiler").success());
}
