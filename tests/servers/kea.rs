//! A kea-dhcp4 or kea-dhcp6 of the test's own, on loopback.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::ports;
use crate::program::{self, command};
use crate::records;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn number(self) -> u8 {
        if self == Self::V4 { 4 } else { 6 }
    }
}

/// What a test wants of its server.
pub struct Wanted {
    pub family: Family,
    pub threads: bool,
    /// `parameters` of the library.
    pub parameters: Value,
    /// Merged into `Dhcp4` or `Dhcp6`.
    pub more: Value,
    /// A program that runs the server, with its arguments.
    pub under: Vec<String>,
    /// Kea's own libraries between that of the lease commands and ours, with their parameters.
    libraries: Vec<(&'static str, Value)>,
}

impl Wanted {
    pub fn new(family: Family, etcd: &str) -> Self {
        let parameters = json!({ "endpoints": [etcd], "server-name": "test" });
        Self { family, threads: false, parameters, more: json!({}), under: Vec::new(), libraries: Vec::new() }
    }

    pub fn threads(mut self, threads: bool) -> Self {
        self.threads = threads;
        self
    }

    pub fn more(mut self, more: Value) -> Self {
        self.more = more;
        self
    }

    /// Loads one of Kea's own libraries before ours.
    pub fn library(mut self, name: &'static str, parameters: Value) -> Self {
        self.libraries.push((name, parameters));
        self
    }

    /// The same where Kea has a library for what was built in before.
    pub fn library_where_needed(self, name: &'static str) -> Self {
        if kea_hooks().join(name).is_file() { self.library(name, json!({})) } else { self }
    }

    pub fn under(mut self, program: &[&str]) -> Self {
        self.under = program.iter().map(ToString::to_string).collect();
        self
    }

    pub fn parameter(mut self, name: &str, value: Value) -> Self {
        self.parameters[name] = value;
        self
    }
}

pub struct Kea {
    pub family: Family,
    child: Child,
    dir: TempDir,
    ports: Ports,
    /// Where the server listens.
    pub port: u16,
    /// Where it sends answers to.
    pub client_port: u16,
    config: Value,
}

/// Ports other than those of the protocol.
#[derive(Clone, Copy, Default)]
pub struct Ports {
    /// Where the server listens.
    pub server: Option<u16>,
    /// Where it sends answers to.
    pub client: Option<u16>,
}

/// Kea's library of the commands `lease4-add` and the like.
const LEASE_COMMANDS: &str = "libdhcp_lease_cmds.so";

/// Kea's library of High Availability.
pub const HIGH_AVAILABILITY: &str = "libdhcp_ha.so";

/// The library that cargo built beside this test.
pub fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let library = test.parent().unwrap().join("libdhcp_etcd.so");
    assert!(library.is_file(), "{} is missing", library.display());
    library
}

/// Kea's own hook libraries (Debian's multiarch directory).
fn kea_hooks() -> PathBuf {
    let found = fs::read_dir("/usr/lib").unwrap().flatten().map(|entry| entry.path().join("kea/hooks"));
    found.into_iter().find(|dir| dir.is_dir()).expect("Kea's hook libraries (Debian: kea-common)")
}

/// A directory for one server's files. Kea 2.6.3 and later want all hook libraries in one directory, and want no others
/// to see the control socket (Kea `util/filesystem.cc`).
pub fn directory() -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o750)).unwrap();
    let keas = fs::read_dir(kea_hooks()).unwrap().flatten().map(|entry| entry.path());
    for library in keas.filter(|path| !path.ends_with("libdhcp_etcd.so")).chain([library()]) {
        symlink(&library, dir.path().join(library.file_name().unwrap())).unwrap();
    }
    dir
}

fn service(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::V4 => ("kea-dhcp4", "Dhcp4"),
        Family::V6 => ("kea-dhcp6", "Dhcp6"),
    }
}

fn config(wanted: &Wanted, dir: &Path) -> Value {
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let mut libraries = vec![json!({ "library": path(LEASE_COMMANDS) })];
    for (name, parameters) in &wanted.libraries {
        libraries.push(json!({ "library": path(name), "parameters": parameters }));
    }
    libraries.push(json!({ "library": path("libdhcp_etcd.so"), "parameters": wanted.parameters }));
    let mut server = json!({
        "lease-database": { "type": "memfile", "persist": true, "name": path("leases.csv"), "lfc-interval": 0 },
        "control-socket": { "socket-type": "unix", "socket-name": path("ctl") },
        "hooks-libraries": libraries,
        "multi-threading": { "enable-multi-threading": wanted.threads, "thread-pool-size": 4, "packet-queue-size": 64 },
        "loggers": [{ "name": service(wanted.family).0, "severity": "INFO", "output_options": [{ "output": "stdout" }] }],
        "valid-lifetime": 3600,
        // Kea 3.0 would write no renewal in the first quarter of a lease.
        "cache-max-age": 0,
    });
    let own = match wanted.family {
        Family::V4 => json!({
            "interfaces-config": { "interfaces": ["lo/127.0.0.1"], "dhcp-socket-type": "udp" },
            "subnet4": [{
                "id": 7, "subnet": "10.0.0.0/16", "pools": [{ "pool": "10.0.1.0 - 10.0.250.255" }],
                "relay": { "ip-addresses": (1..=100).map(|n| format!("127.0.1.{n}")).collect::<Vec<_>>() },
            }],
        }),
        Family::V6 => json!({
            "interfaces-config": { "interfaces": ["lo/::1"] },
            "data-directory": dir,
            "preferred-lifetime": 1800,
            "subnet6": [{
                "id": 9, "subnet": "2001:db8::/32", "pools": [{ "pool": "2001:db8:0:1::/64" }],
                "pd-pools": [{ "prefix": "2001:db8:8000::", "prefix-len": 40, "delegated-len": 56 }],
                "relay": { "ip-addresses": ["2001:db8::1"] },
            }],
        }),
    };
    for part in [&own, &wanted.more] {
        for (name, value) in part.as_object().unwrap() {
            server[name] = value.clone();
        }
    }
    json!({ service(wanted.family).1: server })
}

/// Takes the library out of a configuration.
fn without_library(family: Family) -> impl Fn(&mut Value) {
    move |config| drop(config[service(family).1]["hooks-libraries"].as_array_mut().unwrap().pop())
}

impl Kea {
    pub fn start(wanted: &Wanted) -> Self {
        Self::started(Self::spawn(wanted), wanted)
    }

    /// Starts a server and waits until its worker is connected too: one that is replaced, or whose etcd stops, sooner may
    /// never be.
    pub fn start_connected(wanted: &Wanted) -> Self {
        let mut kea = Self::start(wanted);
        kea.wait_log("ETCD_CONNECTED", 1);
        kea
    }

    /// Starts a server that does not load the library.
    pub fn start_without_library(wanted: &Wanted) -> Self {
        Self::started(Self::spawn_configured(wanted, without_library(wanted.family)), wanted)
    }

    /// Loads the library into a server that was started without.
    pub fn add_library(&mut self) {
        let config = self.config();
        self.ask("config-set", &config);
    }

    /// Starts in a network namespace, on the ports that clients expect.
    pub fn start_in(host: &str, wanted: &Wanted, with_library: bool) -> Self {
        let change = |config: &mut Value| {
            if !with_library {
                without_library(wanted.family)(config);
            }
        };
        Self::started(Self::spawn_in(host, wanted, Ports::default(), change), wanted)
    }

    fn started(mut kea: Self, wanted: &Wanted) -> Self {
        kea.wait_log(&format!("DHCP{}_STARTED", wanted.family.number()), 1);
        kea
    }

    /// Starts the server without waiting for it to serve.
    pub fn spawn(wanted: &Wanted) -> Self {
        Self::spawn_configured(wanted, |_| {})
    }

    fn spawn_configured(wanted: &Wanted, change: impl Fn(&mut Value)) -> Self {
        let ports = Ports { server: Some(ports::free()), client: Some(ports::free()) };
        Self::spawn_in("", wanted, ports, change)
    }

    /// Starts with a configuration file that differs from what [`config`](Self::config) tells by `change`.
    fn spawn_in(host: &str, wanted: &Wanted, ports: Ports, change: impl Fn(&mut Value)) -> Self {
        let dir = directory();
        let config = config(wanted, dir.path());
        let mut file = config.clone();
        change(&mut file);
        fs::write(dir.path().join("kea.conf"), serde_json::to_string_pretty(&file).unwrap()).unwrap();
        let child = Self::run(host, wanted.family, &wanted.under, dir.path(), ports);
        let (port, client_port) = (ports.server.unwrap_or(0), ports.client.unwrap_or(0));
        Self { family: wanted.family, child, dir, ports, port, client_port, config }
    }

    fn run(host: &str, family: Family, under: &[String], dir: &Path, ports: Ports) -> Child {
        let mut program = under.to_vec();
        program.push(service(family).0.into());
        let mut kea = command(&program[0], host);
        kea.args(&program[1..])
            .args(["-c", dir.join("kea.conf").to_str().unwrap()])
            .args(ports.server.iter().flat_map(|port| ["-p".into(), port.to_string()]))
            .args(ports.client.iter().flat_map(|port| ["-P".into(), port.to_string()]))
            .env("KEA_PIDFILE_DIR", dir)
            .env("KEA_HOOKS_PATH", dir)
            .env("KEA_CONTROL_SOCKET_DIR", dir)
            .env("KEA_DHCP_DATA_DIR", dir)
            .env("KEA_LOCKFILE_DIR", "none");
        program::start(&mut kea, &dir.join("log"))
    }

    /// A control agent for this server on a port, as the sample makes it.
    pub fn start_agent(&self, sample: &Value, port: u16) -> Child {
        let dir = self.dir.path();
        let mut config = sample.clone();
        let agent = &mut config["Control-agent"];
        agent["http-host"] = json!("127.0.0.1");
        agent["http-port"] = json!(port);
        agent["control-sockets"]["dhcp4"]["socket-name"] = json!(dir.join("ctl"));
        fs::write(dir.join("agent.conf"), config.to_string()).unwrap();
        let mut command = Command::new("kea-ctrl-agent");
        command.arg("-c").arg(dir.join("agent.conf")).env("KEA_PIDFILE_DIR", dir).env("KEA_LOCKFILE_DIR", "none");
        program::start(command.env("KEA_CONTROL_SOCKET_DIR", dir), &dir.join("agent.log"))
    }

    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `server-name` of the library in it.
    pub fn name(&self) -> Value {
        self.config[service(self.family).1]["hooks-libraries"].as_array().unwrap().last().unwrap()["parameters"]["server-name"].clone()
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.path().join("log")).unwrap()).into_owned()
    }

    /// Waits until the log has `text` `times` times.
    pub fn wait_log(&mut self, text: &str, times: usize) {
        let until = Instant::now() + Duration::from_secs(60);
        while self.log().matches(text).count() < times {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("Kea ended ({status}) without {text}:\n{}", self.log());
            }
            assert!(Instant::now() < until, "the log lacks {times} times {text}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a command over the control channel; the whole answer.
    pub fn command(&self, command: &Value) -> Value {
        let mut socket = UnixStream::connect(self.dir.path().join("ctl")).unwrap();
        socket.write_all(command.to_string().as_bytes()).unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).unwrap();
        serde_json::from_slice(&answer).unwrap()
    }

    /// Sends a command that must succeed (or find nothing); its arguments.
    pub fn ask(&self, command: &str, arguments: &Value) -> Value {
        let mut request = json!({ "command": command });
        if !arguments.is_null() {
            request["arguments"] = arguments.clone();
        }
        let answer = self.command(&request);
        assert!(matches!(answer["result"].as_i64(), Some(0 | 3)), "{request}: {answer}");
        answer["arguments"].clone()
    }

    /// Kea's version, `2.2.0`.
    pub fn version(&self) -> String {
        let answer = self.command(&json!({ "command": "version-get" }));
        answer["text"].as_str().unwrap().to_owned()
    }

    /// Reloads hook libraries alone where Kea can (up to 2.5), else everything.
    pub fn reload_libraries(&self) {
        let known = self.ask("list-commands", &Value::Null);
        let alone = known.as_array().unwrap().contains(&json!("libreload"));
        self.ask(if alone { "libreload" } else { "config-reload" }, &Value::Null);
    }

    /// The held leases as Kea tells them: assigned and declined ones.
    pub fn leases(&self) -> Vec<Value> {
        let all = self.ask(&format!("lease{}-get-all", self.family.number()), &Value::Null);
        let leases = all["leases"].as_array().cloned().unwrap_or_default();
        leases.into_iter().filter(records::is_held).collect()
    }

    /// Waits until Kea's held leases are as `wanted` says; messages without an answer take effect at some time.
    pub fn wait_leases(&self, wanted: impl Fn(&[Value]) -> bool) {
        let until = Instant::now() + Duration::from_secs(60);
        while !wanted(&self.leases()) {
            assert!(Instant::now() < until, "Kea still holds {:#?}\n{}", self.leases(), self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn statistic(&self, name: &str) -> i64 {
        let answer = self.ask("statistic-get", &json!({ "name": name }));
        answer[name][0][0].as_i64().unwrap_or(0)
    }

    /// Waits until `etcd-status`, which is brought up to date once a second, tells this of the connection; the answer.
    pub fn wait_status(&self, connection: &str) -> Value {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let status = self.ask("etcd-status", &Value::Null);
            if status["connection"] == connection {
                return status;
            }
            assert!(Instant::now() < until, "{status}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a statistic, which is brought up to date once a second, has the value.
    pub fn wait_statistic(&self, name: &str, wanted: i64) {
        let until = Instant::now() + Duration::from_secs(60);
        while self.statistic(name) != wanted {
            assert!(Instant::now() < until, "{name} is {}, not {wanted}\n{}", self.statistic(name), self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The configuration file's content, to be sent changed with config-set.
    pub fn config(&self) -> Value {
        self.config.clone()
    }

    /// Threads of the process: the name of each and how nice it is.
    pub fn threads(&self) -> Vec<(String, i32)> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap().flatten();
        let stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
        let thread = |stat: &str| {
            // The name is in parentheses; the nice value is the 17th field after it (proc(5)).
            let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
            Some((name.to_owned(), rest.split(' ').nth(16)?.parse().ok()?))
        };
        stats.map(|stat| thread(&stat).expect("a stat file of proc(5)")).collect()
    }

    pub fn signal(&self, name: &str) {
        program::signal(&self.child, name);
    }

    /// Ends the server as an operator does and tells how long that took.
    pub fn stop(&mut self) -> (ExitStatus, Duration) {
        let started = Instant::now();
        self.signal("TERM");
        (self.wait_end(), started.elapsed())
    }

    pub fn wait_end(&mut self) -> ExitStatus {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "Kea does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts again what was ended, on the same lease file.
    pub fn restart(&mut self) {
        let starts = self.log().matches("_STARTED ").count();
        self.child = Self::run("", self.family, &[], self.dir.path(), self.ports);
        self.wait_log("_STARTED ", starts + 1);
    }

    pub fn assert_alive(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("Kea ended ({status}):\n{}", self.log());
        }
    }
}

impl Drop for Kea {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- Kea's log\n{}", self.log());
        }
    }
}
