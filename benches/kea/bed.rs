//! What is measured: a server with and without the library, with its etcd, on one host; the clients are on another.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::etcd::{Etcd, Flags, LEASES};
use crate::hosts::{Hosts, run};
use crate::kea::{Family, Kea, Wanted};

/// The relay's address that most DHCPv4 clients are behind, and that of the few whose records are watched.
pub const RELAYS: [&str; 2] = ["192.0.2.2", "192.0.2.3"];

/// Bytes that etcd's database may have.
const QUOTA: usize = 4 << 30;

/// How long a comparison may take; that of a million leases on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// A server of its own for each measurement; everything is gone at the end.
pub struct Bed {
    // In the order in which they end.
    kea: Kea,
    pub etcd: Etcd,
    pub hosts: Hosts,
    pub family: Family,
}

impl Bed {
    /// A server without leases whose library, if it is loaded, has nothing more to do.
    pub fn new(family: Family, threads: bool, with_library: bool) -> Self {
        let mut bed = Self::start(family, threads, with_library, None, json!({}));
        if with_library {
            bed.wait_compared(1);
        }
        bed
    }

    /// The same with a library that passes everything on to ours.
    pub fn through(other: &Path, family: Family, threads: bool) -> Self {
        let mut bed = Self::start(family, threads, true, Some(other), json!({}));
        bed.wait_compared(1);
        bed
    }

    /// A server with the leases of a file, as soon as it serves.
    pub fn with_leases(family: Family, threads: bool, with_library: bool, leases: &Path) -> Self {
        let database = json!({ "type": "memfile", "persist": true, "name": leases, "lfc-interval": 0 });
        Self::start(family, threads, with_library, None, json!({ "lease-database": database }))
    }

    fn start(family: Family, threads: bool, with_library: bool, through: Option<&Path>, mut more: Value) -> Self {
        let hosts = Hosts::new("bench");
        for relay in RELAYS {
            run(&format!("ip -n {} addr add {relay}/24 dev cli", hosts.client));
        }
        let etcd = Etcd::start_with(&hosts.server, Flags { quota: QUOTA, ..Flags::default() });
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
        if let Some(through) = through {
            wanted.more["hooks-libraries"] = json!([{ "library": through, "parameters": wanted.parameters }]);
        }
        let kea = Kea::start_in(&hosts.server, &wanted, with_library);
        Self { kea, etcd, hosts, family }
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
fn cpu_in(directory: &str) -> f64 {
    let stat = fs::read_to_string(format!("{directory}/stat")).unwrap();
    // The name is in parentheses; utime and stime are the fields 14 and 15 (proc(5)), in hundredths on Linux.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
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
