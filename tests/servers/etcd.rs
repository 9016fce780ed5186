//! An etcd of the test's own, asked with plain `etcdctl`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Output};
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine as _};
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

    /// Whether plain `etcdctl` succeeds.
    pub fn try_ctl(&self, arguments: &[&str]) -> bool {
        self.ask(10, arguments).status.success()
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
        self.range(LEASES).into_iter().map(|(key, value)| (key.strip_prefix(LEASES).unwrap().into(), value)).collect()
    }

    /// Everything below a key, as text.
    pub fn range(&self, base: &str) -> BTreeMap<String, String> {
        let answer: Value = serde_json::from_str(&self.ctl(&["get", "--prefix", base, "-w", "json"])).unwrap();
        let text = |base64: &Value| {
            let bytes = BASE64_STANDARD.decode(base64.as_str().unwrap_or_default()).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        let pairs = answer["kvs"].as_array().into_iter().flatten();
        pairs.map(|pair| (text(&pair["key"]), text(&pair["value"]))).collect()
    }

    /// The records by address; what is no JSON as a string.
    pub fn records(&self) -> BTreeMap<String, Value> {
        let parse = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
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

    /// Loses the data of an etcd that was killed.
    pub fn lose_data(&self) {
        fs::remove_dir_all(self.dir.path().join("data")).unwrap();
    }

    /// Saves what etcd holds; the file.
    pub fn snapshot(&self) -> PathBuf {
        let file = self.dir.path().join("snapshot");
        let _ = fs::remove_file(&file);
        self.ctl(&["snapshot", "save", file.to_str().unwrap()]);
        file
    }

    /// Gives an etcd that was killed the data of a snapshot.
    pub fn restore(&self, snapshot: &Path) {
        self.lose_data();
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let data = self.dir.path().join("data");
        let (data, snapshot) = (data.to_str().unwrap(), snapshot.to_str().unwrap());
        let cluster = format!("default={peer}");
        self.ctl(&[
            "snapshot",
            "restore",
            snapshot,
            "--data-dir",
            data,
            "--initial-cluster",
            &cluster,
            "--initial-advertise-peer-urls",
            &peer,
        ]);
    }

    /// Lets an etcd that was killed run on another port for a while.
    pub fn restart_aside(&mut self, meanwhile: impl FnOnce(&Self)) {
        let port = std::mem::replace(&mut self.port, ports::free());
        self.restart();
        meanwhile(self);
        self.kill();
        self.port = port;
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
