//! What is measured: a server with and without the library, with its etcd, on one host; the clients are on another.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::etcd::{Etcd, Flags, LEASES};
use crate::hosts::{Hosts, run};
use crate::kea::{Family, Kea, Wanted};
use crate::sql::{Kind, SqlServer};

/// The relay's address that most DHCPv4 clients are behind, and that of the few whose records are watched.
pub const RELAYS: [&str; 2] = ["192.0.2.2", "192.0.2.3"];

/// The server's families, each with packet threads and single-threaded.
pub const MODES: [(Family, bool); 4] =
    [(Family::V4, true), (Family::V4, false), (Family::V6, true), (Family::V6, false)];

/// Bytes that etcd's database may have.
const QUOTA: usize = 4 << 30;

/// How long a comparison may take; that of a million leases on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// What brings a server's leases elsewhere than into its own file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way<'a> {
    /// Nothing.
    None,
    /// Our library.
    Library,
    /// Our library, which tells Prometheus its metrics at an address.
    Scraped(&'a str),
    /// Another library that passes everything on to ours.
    Through(&'a Path),
    /// Another library instead of ours.
    Instead(&'a Path),
    /// Kea's library that runs a script at each hook point; the script puts a record into etcd.
    RunScript,
    /// They are in PostgreSQL instead.
    PostgreSql,
}

impl Way<'_> {
    /// Whether our library is loaded.
    fn has_library(self) -> bool {
        matches!(self, Self::Library | Self::Scraped(_) | Self::Through(_))
    }
}

/// A server of its own for each measurement; everything is gone at the end.
pub struct Bed {
    // In the order in which they end.
    kea: Kea,
    pub etcd: Etcd,
    /// The lease database, where it is not Kea's own.
    _sql: Option<SqlServer>,
    pub hosts: Hosts,
    pub family: Family,
    _files: TempDir,
}

impl Bed {
    /// A server without leases whose library, if it is loaded, has nothing more to do.
    pub fn new(family: Family, threads: bool, with_library: bool) -> Self {
        Self::by(family, threads, if with_library { Way::Library } else { Way::None })
    }

    /// The same by one of the ways.
    pub fn by(family: Family, threads: bool, way: Way) -> Self {
        Self::with(family, threads, way, json!({}), Vec::new())
    }

    /// The same with further settings of the server, and options of etcd.
    pub fn with(family: Family, threads: bool, way: Way, more: Value, options: Vec<String>) -> Self {
        let mut bed = Self::start(family, threads, way, more, options);
        if way.has_library() {
            bed.wait_compared(1);
        }
        bed
    }

    /// A server with the leases of a file, as soon as it serves.
    pub fn with_leases(family: Family, threads: bool, with_library: bool, leases: &Path) -> Self {
        let database = json!({ "type": "memfile", "persist": true, "name": leases, "lfc-interval": 0 });
        let way = if with_library { Way::Library } else { Way::None };
        Self::start(family, threads, way, json!({ "lease-database": database }), Vec::new())
    }

    fn start(family: Family, threads: bool, way: Way, mut more: Value, options: Vec<String>) -> Self {
        let (hosts, files) = (Hosts::new("bench"), TempDir::new().unwrap());
        for relay in RELAYS {
            run(&format!("ip -n {} addr add {relay}/24 dev cli", hosts.client));
        }
        let etcd = Etcd::start_with(&hosts.server, Flags { quota: QUOTA, server: options, ..Flags::default() });
        match family {
            Family::V4 => {
                more["interfaces-config"] = json!({ "interfaces": ["srv"], "dhcp-socket-type": "udp" });
                more["subnet4"] = json!([
                    { "id": 1, "subnet": "10.0.0.0/9", "relay": { "ip-addresses": [RELAYS[0]] }, "pools": [{ "pool": "10.0.0.1 - 10.127.0.0" }] },
                    { "id": 2, "subnet": "10.200.0.0/16", "relay": { "ip-addresses": [RELAYS[1]] }, "pools": [{ "pool": "10.200.0.1 - 10.200.250.0" }] },
                ]);
            }
            Family::V6 => {
                more["interfaces-config"] = json!({ "interfaces": ["srv"] });
                more["subnet6"] = json!([
                    { "id": 1, "subnet": "2001:db8::/32", "interface": "srv", "pools": [{ "pool": "2001:db8:1::/64" }] },
                ]);
            }
        }
        more["multi-threading"] =
            json!({ "enable-multi-threading": threads, "thread-pool-size": 2, "packet-queue-size": 64 });
        // A line for each lease would be measured with it.
        let logger = |name: &str, severity: &str| json!({ "name": name, "severity": severity, "output_options": [{ "output": "stdout" }] });
        let root = if family == Family::V4 { "kea-dhcp4" } else { "kea-dhcp6" };
        let main = format!("{root}.dhcp{}", family.number());
        more["loggers"] =
            json!([logger(root, "WARN"), logger(&main, "INFO"), logger(&format!("{root}.etcd-hooks"), "INFO")]);
        let mut wanted = Wanted::new(family, &etcd.url()).more(more);
        let mut sql = None;
        match way {
            Way::None | Way::Library => {}
            Way::Scraped(address) => wanted = wanted.parameter("metrics-address", json!(address)),
            Way::Through(other) | Way::Instead(other) => {
                wanted.more["hooks-libraries"] = json!([{ "library": other, "parameters": wanted.parameters }]);
            }
            Way::RunScript => {
                let script = write_script(files.path(), &etcd.url());
                wanted = wanted.library("libdhcp_run_script.so", json!({ "name": script, "sync": false }));
            }
            Way::PostgreSql => {
                let server = SqlServer::start_in(&hosts.server, Kind::PostgreSql);
                wanted = server.lease_database().of(wanted);
                sql = Some(server);
            }
        }
        let kea = Kea::start_in(&hosts.server, &wanted, way.has_library() || matches!(way, Way::Instead(_)));
        Self { kea, etcd, _sql: sql, hosts, family, _files: files }
    }

    /// Ends the server as an operator does.
    pub fn stop(mut self) {
        self.kea.stop();
    }

    /// Sends a command to the server.
    pub fn ask(&self, command: &str, arguments: &Value) -> Value {
        self.kea.ask(command, arguments)
    }

    /// How many comparisons have ended.
    pub fn compared(&self) -> usize {
        self.kea.log().matches("ETCD_RESYNC compared").count()
    }

    /// Waits until so many have.
    pub fn wait_compared(&mut self, comparisons: usize) {
        let until = Instant::now() + PATIENCE;
        while self.compared() < comparisons {
            self.kea.assert_alive();
            assert!(Instant::now() < until, "no {comparisons} comparisons:\n{}", self.kea.log());
            sleep(Duration::from_millis(20));
        }
    }

    /// How many records etcd has.
    pub fn records(&self) -> u64 {
        // etcdctl 3.4 has no `--count-only`, but tells how many keys there are whatever the limit is.
        let answer = self.etcd.ctl(&["get", "--prefix", LEASES, "--limit", "1", "--keys-only", "-w", "json"]);
        // 0 is left out.
        serde_json::from_str::<Value>(&answer).unwrap()["count"].as_u64().unwrap_or(0)
    }

    /// How many processes the server has started that have not ended.
    pub fn children(&self) -> usize {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        // A process may end meanwhile. Its parent is the second field after the name in parentheses (proc(5)).
        let stats = processes.filter_map(|process| fs::read_to_string(process.path().join("stat")).ok());
        let parent = self.kea.pid().to_string();
        stats
            .filter(|stat| stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)) == Some(&parent))
            .count()
    }

    /// How many leases of the clients of perfdhcp the server holds.
    pub fn leases(&self) -> i64 {
        self.kea.statistic("subnet[1].assigned-addresses")
    }

    /// Seconds of CPU that the server has used, all its threads together.
    pub fn cpu(&self) -> f64 {
        cpu_in(&format!("/proc/{}", self.kea.pid()))
    }

    /// Seconds of CPU that the library's worker has used.
    pub fn cpu_of_worker(&self) -> f64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.kea.pid())).unwrap().flatten();
        let mut directories = tasks.map(|task| task.path().to_str().unwrap().to_owned());
        let worker = directories.find(|task| fs::read_to_string(format!("{task}/comm")).unwrap().trim() == "dhcp-etcd");
        cpu_in(&worker.expect("the library's worker"))
    }

    /// Bytes of memory that the server takes.
    pub fn memory(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.kea.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<f64>().unwrap() * 1024.0
    }
}

/// Seconds of CPU of a process or a thread, by its directory in `/proc`.
pub fn cpu_in(directory: &str) -> f64 {
    let stat = fs::read_to_string(format!("{directory}/stat")).unwrap();
    // The name is in parentheses; utime and stime are the fields 14 and 15 (proc(5)), in hundredths on Linux.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}

/// A script for Kea's `run_script` as a user would write it, who wants the records that the library makes: at the one hook
/// point that is after the write, a record by `etcdctl`. At the others it is started, too, and ends at once.
fn write_script(directory: &Path, etcd: &str) -> PathBuf {
    const SCRIPT: &str = r#"#!/bin/sh
[ "$1" = leases4_committed ] && [ "${LEASES4_SIZE:-0}" -gt 0 ] || exit 0
record="{\"ip\":\"$LEASES4_AT0_ADDRESS\",\"operation\":\"offer\",\"state\":0,\"hwaddr\":\"$LEASES4_AT0_HWADDR\",\
\"hostname\":\"$LEASES4_AT0_HOSTNAME\",\"subnet_id\":$LEASES4_AT0_SUBNET_ID,\
\"cltt\":$LEASES4_AT0_CLTT,\"valid_lft\":$LEASES4_AT0_VALID_LIFETIME}"
export ETCDCTL_API=3
exec etcdctl --endpoints "ENDPOINT" put "/nnoe/dhcp/leases/$LEASES4_AT0_ADDRESS" "$record" >/dev/null
"#;
    let script = directory.join("to-etcd.sh");
    fs::write(&script, SCRIPT.replace("ENDPOINT", etcd)).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

/// How a server is named in figures: its family and threading mode.
pub fn mode(family: Family, threads: bool) -> String {
    format!("DHCPv{}, {}", family.number(), if threads { "two packet threads" } else { "single-threaded" })
}

/// The hardware address of a client that is only in the lease database.
pub fn hwaddr(number: u32) -> String {
    let [a, b, c, d] = number.to_be_bytes();
    format!("02:01:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}
