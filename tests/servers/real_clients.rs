//! A client as people run it: `dhclient` for both protocols, in network namespaces of the test's own.

use std::process::Command;

use serde_json::json;

use crate::etcd::Etcd;
use crate::kea::{Family, Kea, Wanted};
use crate::mirrored::assert_mirrored;

/// Two hosts with a cable between them; gone at the end.
struct Hosts {
    server: String,
    client: String,
}

fn run(command: &str) {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Hosts {
    fn new(name: &str) -> Self {
        let id = std::process::id();
        let hosts = Self { server: format!("de-s{name}-{id}"), client: format!("de-c{name}-{id}") };
        let (server, client) = (&hosts.server, &hosts.client);
        for command in [
            format!("ip netns add {server}"),
            format!("ip netns add {client}"),
            format!("ip link add srv netns {server} type veth peer name cli netns {client}"),
            // Addresses are usable at once: nobody else is on the cable.
            format!("ip netns exec {server} sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.srv.accept_dad=0"),
            format!("ip netns exec {client} sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.cli.accept_dad=0"),
            format!("ip -n {server} link set lo up"),
            format!("ip -n {server} addr add 192.0.2.1/24 dev srv"),
            format!("ip -n {server} addr add 2001:db8:5::1/64 dev srv"),
            format!("ip -n {server} link set srv up"),
            format!("ip -n {client} link set cli up"),
        ] {
            run(&command);
        }
        for (host, interface) in [(server, "srv"), (client, "cli")] {
            run(&format!(
                "timeout 10 sh -c 'until ip -n {host} -6 addr show dev {interface} scope link | grep -q fe80; do sleep 0.1; done'"
            ));
        }
        hosts
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in [&self.server, &self.client] {
            let _ = Command::new("ip").args(["netns", "del", host]).status();
        }
    }
}

/// Runs dhclient until it has bound, then lets it release; the mirror is checked after both.
fn dhclient(family: Family, name: &str, more: serde_json::Value, count: usize, options: &str) {
    let hosts = Hosts::new(name);
    let etcd = Etcd::start_in(&hosts.server);
    let kea = Kea::start_in(&hosts.server, &Wanted::new(family, &etcd.url()).more(more));
    let dir = tempfile::TempDir::new().unwrap();
    let dir = dir.path().display();
    // dhclient's own script would write the host's /etc/resolv.conf; a release over IPv4 needs the address, no more.
    let script = r#"#!/bin/sh
case $reason in BOUND) ip addr add "$new_ip_address/24" dev "$interface" ;; esac
exit 0
"#;
    run(&format!("cat > {dir}/script <<'END'\n{script}END\nchmod +x {dir}/script; touch {dir}/leases"));
    let client = format!(
        "ip netns exec {} timeout 60 dhclient {options} -sf {dir}/script -lf {dir}/leases -pf {dir}/pid",
        hosts.client
    );
    run(&format!("{client} -1 -v cli"));
    let records = assert_mirrored(&kea, &etcd);
    assert_eq!(records.len(), count, "{records:#?}");
    assert!(records.values().all(|record| record["operation"] == "offer" && record.get("relay_ip").is_none()));
    run(&format!("{client} -r cli"));
    kea.wait_leases(<[_]>::is_empty);
    assert!(assert_mirrored(&kea, &etcd).is_empty());
}

#[test]
fn dhclient_takes_and_releases_an_ipv4_address() {
    let more = json!({
        "interfaces-config": { "interfaces": ["srv"] },
        "subnet4": [{ "id": 1, "subnet": "192.0.2.0/24", "pools": [{ "pool": "192.0.2.100 - 192.0.2.199" }] }],
    });
    dhclient(Family::V4, "4", more, 1, "-4");
}

#[test]
fn dhclient_takes_and_releases_an_ipv6_address_and_a_prefix() {
    let more = json!({
        "interfaces-config": { "interfaces": ["srv"] },
        "subnet6": [{
            "id": 1, "subnet": "2001:db8:5::/48", "interface": "srv", "pools": [{ "pool": "2001:db8:5::/80" }],
            "pd-pools": [{ "prefix": "2001:db8:5:8000::", "prefix-len": 52, "delegated-len": 60 }],
        }],
    });
    dhclient(Family::V6, "6", more, 2, "-6 -N -P");
}
