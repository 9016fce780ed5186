//! An etcd of the test's own, asked with plain `etcdctl`.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::ports;

pub const LEASES: &str = "/nnoe/dhcp/leases/";

pub struct Etcd {
    /// The network namespace that it runs in; empty for the test's own.
    host: String,
    child: Child,
    dir: TempDir,
    port: u16,
    peer_port: u16,
}

/// A program to be run in a network namespace, or in the test's own when `host` is empty.
pub fn command(program: &str, host: &str) -> Command {
    if host.is_empty() {
        return Command::new(program);
    }
    let mut command = Command::new("ip");
    command.args(["netns", "exec", host, program]);
    command
}

impl Etcd {
    pub fn start() -> Self {
        Self::start_in("")
    }

    /// Starts in a network namespace.
    pub fn start_in(host: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let (port, peer_port) = (ports::free(), ports::free());
        let child = Self::spawn(host, &dir, port, peer_port);
        let etcd = Self { host: host.into(), child, dir, port, peer_port };
        etcd.wait_healthy();
        etcd
    }

    fn spawn(host: &str, dir: &TempDir, port: u16, peer_port: u16) -> Child {
        let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        command("etcd", host)
            .args(["--data-dir", dir.path().join("data").to_str().unwrap()])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("etcd runs (Debian: etcd-server)")
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn ctl(&self, arguments: &[&str]) -> String {
        let output = command("etcdctl", &self.host)
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.url(), "--command-timeout=10s"])
            .args(arguments)
            .output()
            .expect("etcdctl runs (Debian: etcd-client)");
        assert!(output.status.success(), "etcdctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn wait_healthy(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let health = command("etcdctl", &self.host)
                .env("ETCDCTL_API", "3")
                .args(["--endpoints", &self.url(), "--command-timeout=1s", "get", "x"])
                .output()
                .unwrap();
            if health.status.success() {
                return;
            }
            assert!(Instant::now() < until, "etcd did not come up: {}", String::from_utf8_lossy(&health.stderr));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The records by address, each as text.
    pub fn values(&self) -> BTreeMap<String, String> {
        let text = self.ctl(&["get", "--prefix", LEASES]);
        let mut lines = text.lines();
        let mut values = BTreeMap::new();
        while let (Some(key), Some(value)) = (lines.next(), lines.next()) {
            values.insert(key.strip_prefix(LEASES).unwrap().to_owned(), value.to_owned());
        }
        values
    }

    /// The records by address.
    pub fn records(&self) -> BTreeMap<String, Value> {
        let parse = |text: &str| serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        self.values().iter().map(|(address, text)| (address.clone(), parse(text))).collect()
    }

    /// Stops answering, keeps its connections and its port.
    pub fn hang(&self) {
        self.signal("STOP");
    }

    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        assert!(
            Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap().success()
        );
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts again what was killed, with its data.
    pub fn restart(&mut self) {
        self.child = Self::spawn(&self.host, &self.dir, self.port, self.peer_port);
        self.wait_healthy();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
