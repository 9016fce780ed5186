//! An etcd of the test's own, asked with plain `etcdctl`.

use std::collections::BTreeMap;
use std::process::{Child, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::ports;
use crate::program::{self, command};

pub const LEASES: &str = "/nnoe/dhcp/leases/";

pub struct Etcd {
    /// The network namespace that it runs in; empty for the test's own.
    host: String,
    child: Child,
    dir: TempDir,
    port: u16,
    peer_port: u16,
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
        let mut etcd = command("etcd", host);
        etcd.args(["--data-dir", dir.path().join("data").to_str().unwrap()])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")]);
        program::start(&mut etcd, &dir.path().join("log"))
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn ask(&self, seconds: u32, arguments: &[&str]) -> Output {
        command("etcdctl", &self.host)
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.url(), &format!("--command-timeout={seconds}s")])
            .args(arguments)
            .output()
            .expect("etcdctl runs (Debian: etcd-client)")
    }

    /// What plain `etcdctl` answers; it must succeed.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let output = self.ask(10, arguments);
        assert!(output.status.success(), "etcdctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn wait_healthy(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let health = self.ask(1, &["get", "x"]);
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
        program::signal(&self.child, "STOP");
    }

    pub fn resume(&self) {
        program::signal(&self.child, "CONT");
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
