//! What a benchmark that was killed left behind, and what would be measured with the next one: its servers and clients go
//! on, in network namespaces that have its process id in their names.

use std::path::Path;
use std::process::Command;

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().expect("ip (Debian: iproute2)");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Ends it.
pub fn end() {
    for line in ip(&["netns", "list"]).lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let Some(of) = ["de-sbench-", "de-cbench-"].iter().find_map(|begin| name.strip_prefix(begin)) else { continue };
        if Path::new("/proc").join(of).exists() {
            continue;
        }
        println!("{name} was left behind, and is ended");
        for process in ip(&["netns", "pids", name]).lines() {
            let _ = Command::new("kill").args(["-KILL", process]).status();
        }
        ip(&["netns", "del", name]);
    }
}
