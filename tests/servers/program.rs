//! Programs that the tests run beside themselves.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A program to be run in a network namespace, or in the test's own when `host` is empty.
pub fn command(program: &str, host: &str) -> Command {
    if host.is_empty() {
        return Command::new(program);
    }
    let mut command = Command::new("ip");
    command.args(["netns", "exec", host, program]);
    command
}

/// Starts a server that asks nothing and appends what it says to a file.
pub fn start(command: &mut Command, log: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log).unwrap();
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error} (`tests/packages.sh tests` installs the servers)"))
}

/// Sends a signal by its name without SIG.
pub fn signal(child: &Child, name: &str) {
    let done = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(done.success(), "kill -{name}: {done}");
}
