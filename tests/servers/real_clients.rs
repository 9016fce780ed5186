//! A client as people run it: `dhclient` for both protocols, in network namespaces of the test's own.

use serde_json::json;

use crate::etcd::Etcd;
use crate::hosts::{Hosts, run};
use crate::kea::{Family, Kea, Wanted};
use crate::mirrored::assert_mirrored;

/// Runs dhclient until it has bound, then lets it release; the mirror is checked after both.
fn dhclient(family: Family, name: &str, more: serde_json::Value, count: usize, options: &str) {
    let hosts = Hosts::new(name);
    let etcd = Etcd::start_in(&hosts.server);
    let kea = Kea::start_in(&hosts.server, &Wanted::new(family, &etcd.url()).more(more), true);
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
