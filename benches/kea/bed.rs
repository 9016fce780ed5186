//! What is measured: a server with and without the library, with its etcd, on one host; the clients are on another.

use std::fs;

use serde_json::json;

use crate::etcd::Etcd;
use crate::hosts::{Hosts, run};
use crate::kea::{Family, Kea, Wanted};

/// The relay's address that most DHCPv4 clients are behind, and that of the few whose records are watched.
pub const RELAYS: [&str; 2] = ["192.0.2.2", "192.0.2.3"];

/// Bytes that etcd's database may have.
const QUOTA: usize = 2 << 30;

/// A server of its own for each measurement; everything is gone at the end.
pub struct Bed {
    // In the order in which they end.
    kea: Kea,
    pub etcd: Etcd,
    pub hosts: Hosts,
    pub family: Family,
}

impl Bed {
    pub fn new(family: Family, threads: bool, with_library: bool) -> Self {
        let hosts = Hosts::new("bench");
        for relay in RELAYS {
            run(&format!("ip -n {} addr add {relay}/24 dev cli", hosts.client));
        }
        let etcd = Etcd::start_with(&hosts.server, QUOTA);
        let mut more = match family {
            Family::V4 => json!({
                "interfaces-config": { "interfaces": ["srv"], "dhcp-socket-type": "udp" },
                "subnet4": [
                    { "id": 1, "subnet": "10.0.0.0/9", "relay": { "ip-addresses": [RELAYS[0]] }, "pools": [{ "pool": "10.0.0.1 - 10.127.0.0" }] },
                    { "id": 2, "subnet": "10.200.0.0/16", "relay": { "ip-addresses": [RELAYS[1]] }, "pools": [{ "pool": "10.200.0.1 - 10.200.250.0" }] },
                ],
            }),
            Family::V6 => json!({
                "interfaces-config": { "interfaces": ["srv"] },
                "subnet6": [{ "id": 1, "subnet": "2001:db8::/32", "interface": "srv", "pools": [{ "pool": "2001:db8:1::/64" }] }],
            }),
        };
        more["multi-threading"] =
            json!({ "enable-multi-threading": threads, "thread-pool-size": 2, "packet-queue-size": 64 });
        // A line for each lease would be measured with it.
        let logger = |name: &str, severity: &str| json!({ "name": name, "severity": severity, "output_options": [{ "output": "stdout" }] });
        let root = if family == Family::V4 { "kea-dhcp4" } else { "kea-dhcp6" };
        let main = format!("{root}.dhcp{}", family.number());
        more["loggers"] =
            json!([logger(root, "WARN"), logger(&main, "INFO"), logger(&format!("{root}.etcd-hooks"), "INFO")]);
        let wanted = Wanted::new(family, &etcd.url()).more(more);
        let mut kea = Kea::start_in(&hosts.server, &wanted, with_library);
        if with_library {
            kea.wait_log("ETCD_RESYNC compared", 1);
        }
        Self { kea, etcd, hosts, family }
    }

    /// Seconds of CPU that the server has used, all its threads together.
    pub fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.kea.pid())).unwrap();
        // The name is in parentheses; utime and stime are the fields 14 and 15 (proc(5)), in hundredths on Linux.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
    }
}
