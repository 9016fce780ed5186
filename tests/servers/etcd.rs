//! An etcd of the test's own, asked with plain `etcdctl`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::Value;
use tempfile::TempDir;

use crate::ports;
use crate::program::{self, command};

/// Bytes that the database may have: small enough to be filled in a test.
const QUOTA: usize = 64 * 1024 * 1024;

pub const LEASES: &str = "/nnoe/dhcp/leases/";

pub struct Etcd {
    /// The network namespace that it runs in; empty for the test's own.
    host: String,
    child: Child,
    dir: TempDir,
    port: u16,
    peer_port: u16,
    name: String,
    /// `--initial-cluster`.
    cluster: String,
    flags: Flags,
}

/// What sets one etcd apart from another.
#[derive(Clone)]
pub struct Flags {
    pub quota: usize,
    /// Whether clients speak TLS to it. Its own client does not look at its certificate.
    pub tls: bool,
    /// More flags of the server.
    pub server: Vec<String>,
    /// More flags of its own client.
    pub client: Vec<String>,
}

impl Default for Flags {
    fn default() -> Self {
        Self { quota: QUOTA, tls: false, server: Vec::new(), client: Vec::new() }
    }
}

impl Etcd {
    pub fn start() -> Self {
        Self::start_in("")
    }

    /// Starts in a network namespace.
    pub fn start_in(host: &str) -> Self {
        Self::start_with(host, Flags::default())
    }

    /// The same with flags of the test's own.
    pub fn start_with(host: &str, flags: Flags) -> Self {
        let dir = TempDir::new().unwrap();
        let (port, peer_port) = (ports::free(), ports::free());
        let cluster = format!("default=http://127.0.0.1:{peer_port}");
        let child = Self::spawn(host, &dir, port, peer_port, "default", &cluster, &flags);
        let etcd = Self { host: host.into(), child, dir, port, peer_port, name: "default".into(), cluster, flags };
        etcd.wait_healthy();
        etcd
    }

    /// Starts the members of a cluster.
    pub fn start_cluster(members: usize) -> Vec<Self> {
        let peer_ports: Vec<u16> = (0..members).map(|_| ports::free()).collect();
        let member = |(n, port): (usize, &u16)| format!("m{n}=http://127.0.0.1:{port}");
        let cluster = peer_ports.iter().enumerate().map(member).collect::<Vec<_>>().join(",");
        let members: Vec<Self> = peer_ports
            .into_iter()
            .enumerate()
            .map(|(n, peer_port)| {
                let (dir, port, name) = (TempDir::new().unwrap(), ports::free(), format!("m{n}"));
                let (cluster, flags) = (cluster.clone(), Flags::default());
                let child = Self::spawn("", &dir, port, peer_port, &name, &cluster, &flags);
                Self { host: String::new(), child, dir, port, peer_port, name, cluster, flags }
            })
            .collect();
        members.iter().for_each(Self::wait_healthy);
        members
    }

    fn spawn(host: &str, dir: &TempDir, port: u16, peer_port: u16, name: &str, cluster: &str, flags: &Flags) -> Child {
        let peer = format!("http://127.0.0.1:{peer_port}");
        let client = if flags.tls {
            format!("https://127.0.0.1:{port},https://[::1]:{port}")
        } else {
            format!("http://127.0.0.1:{port}")
        };
        let mut etcd = command("etcd", host);
        etcd.args(["--name", name, "--data-dir", dir.path().join("data").to_str().unwrap()])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", cluster])
            .args(["--quota-backend-bytes", &flags.quota.to_string()])
            .args(&flags.server);
        program::start(&mut etcd, &dir.path().join("log"))
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        self.url_of("127.0.0.1")
    }

    /// The same by another name of this host.
    pub fn url_of(&self, host: &str) -> String {
        format!("{}://{host}:{}", if self.flags.tls { "https" } else { "http" }, self.port)
    }

    /// From now on its own client is this user.
    pub fn log_in(&mut self, user: &str, password: &str) {
        self.flags.client.push(format!("--user={user}:{password}"));
    }

    fn etcdctl(&self, seconds: u32) -> Command {
        let mut etcdctl = command("etcdctl", &self.host);
        etcdctl.env("ETCDCTL_API", "3").args(["--endpoints", &self.url(), &format!("--command-timeout={seconds}s")]);
        // A client with a password authenticates within this, which is seconds on a busy machine.
        etcdctl.arg(format!("--dial-timeout={seconds}s"));
        if self.flags.tls {
            etcdctl.args(["--insecure-transport=false", "--insecure-skip-tls-verify"]);
        }
        etcdctl.args(&self.flags.client);
        etcdctl
    }

    fn ask(&self, seconds: u32, arguments: &[&str]) -> Output {
        self.etcdctl(seconds).args(arguments).output().expect("etcdctl runs (Debian: etcd-client)")
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
        self.hanging(base).into_iter().map(|(key, (value, _))| (key, value)).collect()
    }

    /// Everything below a key at one revision: each value as text, and the etcd lease that it hangs on (0 for none).
    pub fn hanging(&self, base: &str) -> BTreeMap<String, (String, i64)> {
        let answer: Value = serde_json::from_str(&self.ctl(&["get", "--prefix", base, "-w", "json"])).unwrap();
        let text = |base64: &Value| {
            let bytes = BASE64_STANDARD.decode(base64.as_str().unwrap_or_default()).unwrap();
            // Somebody may have put what is no text.
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let pairs = answer["kvs"].as_array().into_iter().flatten();
        pairs.map(|pair| (text(&pair["key"]), (text(&pair["value"]), pair["lease"].as_i64().unwrap_or(0)))).collect()
    }

    /// The etcd leases that exist.
    pub fn etcd_leases(&self) -> BTreeSet<i64> {
        let answer: Value = serde_json::from_str(&self.ctl(&["lease", "list", "-w", "json"])).unwrap();
        answer["leases"].as_array().into_iter().flatten().map(|lease| lease["id"].as_i64().unwrap()).collect()
    }

    /// Waits until it holds what is `wanted`.
    pub fn wait(&self, what: &str, wanted: impl Fn(&Self) -> bool) {
        let until = Instant::now() + Duration::from_secs(90);
        while !wanted(self) {
            assert!(Instant::now() < until, "etcd never had {what}, but {:#?}", self.hanging(""));
            std::thread::sleep(Duration::from_millis(50));
        }
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

    /// Waits until a client has sent it a record that it has not read; it hangs.
    pub fn wait_unread(&self) {
        let ours = format!(":{:04X}", self.port);
        let is_unread = |line: &str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // The local address; bytes to be sent and, after a colon, to be read. A keep-alive has fewer.
            let unread = fields[4].split_once(':').and_then(|(_, bytes)| u32::from_str_radix(bytes, 16).ok());
            fields[1].ends_with(&ours) && fields[3] == "01" && unread.is_some_and(|bytes| bytes > 256)
        };
        let until = Instant::now() + Duration::from_secs(30);
        while !fs::read_to_string("/proc/net/tcp").unwrap().lines().skip(1).any(is_unread) {
            assert!(Instant::now() < until, "nobody sent a record");
            std::thread::sleep(Duration::from_millis(5));
        }
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

    /// Fills the database until etcd raises its alarm NOSPACE.
    pub fn fill(&self) {
        let megabyte = "x".repeat(1024 * 1024);
        for n in 0..2 * QUOTA / megabyte.len() {
            if !self.put_from_stdin(&format!("/filler/{n}"), &megabyte) {
                return;
            }
        }
        panic!("etcd took twice its quota");
    }

    /// Makes room again, as an operator does.
    pub fn make_room(&self) {
        self.ctl(&["del", "--prefix", "/filler/"]);
        self.compact();
        self.ctl(&["defrag"]);
        self.ctl(&["alarm", "disarm"]);
    }

    /// Compacts everything up to now.
    pub fn compact(&self) {
        let now: Value = serde_json::from_str(&self.ctl(&["get", "x", "-w", "json"])).unwrap();
        // Refused when nothing was written since the last time.
        // Physical: what is to be defragmented must be gone.
        self.try_ctl(&["compact", "--physical", &now["header"]["revision"].to_string()]);
    }

    /// Puts a value that is too large for a command line.
    pub fn put_from_stdin(&self, key: &str, value: &str) -> bool {
        self.ctl_from_stdin(&["put", key], value)
    }

    /// Whether `etcdctl` succeeds that reads from its standard input.
    pub fn ctl_from_stdin(&self, arguments: &[&str], text: &str) -> bool {
        let mut etcdctl = self.etcdctl(10);
        let mut child =
            etcdctl.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        child.wait().unwrap().success()
    }

    /// Puts many small keys that begin so.
    pub fn flood(&self, base: &str, keys: usize) {
        let all: Vec<String> = (0..keys).map(|n| format!("put {base}{n} x\n")).collect();
        for some in all.chunks(100) {
            let mut child = self.etcdctl(10).arg("txn").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
            // No conditions, the operations, none on failure; a blank line ends each.
            let text = format!("\n{}\n\n", some.concat());
            child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            assert!(child.wait().unwrap().success());
        }
    }

    fn status(&self) -> Value {
        serde_json::from_str::<Value>(&self.ctl(&["endpoint", "status", "-w", "json"])).unwrap()[0]["Status"].clone()
    }

    /// The member's id, as etcdctl spells it.
    pub fn id(&self) -> String {
        format!("{:x}", self.status()["header"]["member_id"].as_u64().unwrap())
    }

    pub fn is_leader(&self) -> bool {
        let status = self.status();
        status["leader"] == status["header"]["member_id"]
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
        self.ctl(&[
            "snapshot",
            "restore",
            snapshot,
            "--data-dir",
            data,
            "--initial-cluster",
            &self.cluster,
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
        self.child =
            Self::spawn(&self.host, &self.dir, self.port, self.peer_port, &self.name, &self.cluster, &self.flags);
        self.wait_healthy();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
