//! A program that runs beside the measurement and never outlives it.

use std::process::{Child, ChildStdout, Command, Output, Stdio};

use crate::program;

/// See the module. There is always a child, until [`wait`](Self::wait) takes it.
pub struct Beside(pub Option<Child>);

impl Beside {
    /// What it prints, if that is piped, once.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.0.as_mut().and_then(|child| child.stdout.take())
    }

    /// Sends a signal by its name without SIG.
    pub fn signal(&self, name: &str) {
        if let Some(child) = &self.0 {
            program::signal(child, name);
        }
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Output {
        self.0.take().expect("a child").wait_with_output().unwrap()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs this program in a namespace, as one of those that `main` knows.
pub fn spawn(host: &str, arguments: &[&str]) -> Beside {
    spawn_by(host, &[], arguments)
}

/// The same by another program, which comes with arguments of its own.
pub fn spawn_by(host: &str, by: &[&str], arguments: &[&str]) -> Beside {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new("ip");
    command.args(["netns", "exec", host]).args(by).arg(program).args(arguments).stdout(Stdio::piped());
    Beside(Some(command.spawn().unwrap()))
}
