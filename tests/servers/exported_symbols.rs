//! What the library shows to the process that loads it.

use std::process::Command;

use crate::kea::library;

#[test]
fn the_library_exports_what_kea_looks_up_and_cxx_needs_and_nothing_else() {
    let output = Command::new("nm").args(["-D", "--defined-only"]).arg(library()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut names: Vec<&str> = text.lines().filter_map(|line| line.split(' ').nth(2)).collect();
    names.retain(|name| !name.contains("cxxbridge1$"));
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "addr6_register",
            "command_processed",
            "dhcp4_srv_configured",
            "dhcp6_srv_configured",
            "lease4_decline",
            "lease4_expire",
            "lease4_offer",
            "lease4_recover",
            "lease4_renew",
            "lease4_server_decline",
            "lease6_decline",
            "lease6_expire",
            "lease6_rebind",
            "lease6_recover",
            "lease6_renew",
            "leases4_committed",
            "leases6_committed",
            "load",
            "multi_threading_compatible",
            "unload",
            "version",
        ]
    );
}

#[test]
fn the_library_stays_mapped_when_kea_closes_it() {
    let output = Command::new("readelf").arg("-d").arg(library()).output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("NODELETE"));
}
