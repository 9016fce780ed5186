//! The images of `docker/` as operators run them: real clients, real servers as the unprivileged user of their package, etcd
//! as a cluster of three, and the Kea of three Debian releases.

mod compose;
#[path = "../servers/left_out.rs"]
mod left_out;
mod package;
#[path = "../servers/records.rs"]
mod records;

use std::sync::{Mutex, MutexGuard, PoisonError};

use compose::{Compose, docker_is_here};
use serde_json::Value;

/// One at a time runs: each has seven containers and more. Images of other releases are built meanwhile.
static RUNNING: Mutex<()> = Mutex::new(());
/// What images of several releases begin with is made once.
static BASES: Mutex<()> = Mutex::new(());

fn turn(of: &'static Mutex<()>) -> MutexGuard<'static, ()> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Clients take leases, come back, and give them back.
fn main_job(compose: &Compose) {
    for server in ["kea-dhcp4", "kea-dhcp6"] {
        compose.wait_healthy(server);
    }
    compose.clients(3);
    for client in 1..=3 {
        compose.take(client);
    }
    let records = compose.assert_mirrored("etcd1");
    // Of each client an IPv4 address, an IPv6 address and a prefix.
    assert_eq!(records.len(), 9, "{records:#?}");
    assert_eq!(records.values().filter(|record| record["type"] == "IA_PD").count(), 3);
    compose.restart_client(1);
    let renewed = |record: &Value| record["operation"] == "renew" && record.get("duid").is_none();
    assert!(compose.assert_mirrored("etcd2").values().any(renewed));
    compose.release(2);
    let records = compose.assert_mirrored("etcd3");
    assert_eq!(records.len(), 6, "{records:#?}");
}

/// What no hook tells: the partner of a pair sends a lease while nothing else happens.
fn untold(compose: &Compose) {
    std::thread::sleep(std::time::Duration::from_secs(3));
    compose.partner_sends("192.168.242.250");
    assert_eq!(compose.assert_mirrored("etcd1")["192.168.242.250"]["operation"], "sync");
    compose.partner_takes_back("192.168.242.250");
    assert!(!compose.assert_mirrored("etcd1").contains_key("192.168.242.250"));
}

fn generation(debian: &'static str, version: &str, more: impl FnOnce(&Compose)) {
    if !docker_is_here() {
        return;
    }
    let compose = Compose::new(debian);
    let bases = turn(&BASES);
    compose.make_bases();
    drop(bases);
    compose.build();
    let _turn = turn(&RUNNING);
    // Named anew, so that it has ended when the next one's turn comes.
    let compose = compose.start();
    main_job(&compose);
    let found = compose.kea_version();
    assert!(found.starts_with(version), "{debian} has Kea {found}");
    if version != "2.2." {
        untold(&compose);
    }
    more(&compose);
}

#[test]
#[ignore = "make containers runs it; Kea 2.2 is also what the package is tried with, and the servers outside of containers"]
fn kea_2_2_does_the_main_job() {
    generation("bookworm", "2.2.", |_| ());
}

#[test]
fn kea_3_0_does_the_main_job() {
    generation("testing", "3.0.", |_| ());
}

#[test]
fn kea_2_6_whatever_happens_to_the_containers() {
    generation("trixie", "2.6.", |compose| {
        // A member is stopped, then one is cut off: a majority is left each time.
        compose.compose(&["kill", "etcd1"]);
        compose.take(2);
        assert_eq!(compose.assert_mirrored("etcd2").len(), 9);
        compose.compose(&["start", "etcd1"]);
        compose.cut_off("etcd2");
        compose.release(2);
        assert_eq!(compose.assert_mirrored("etcd3").len(), 6);
        compose.reconnect("etcd2");
        // A rolling restart, with a change after each step.
        for (member, other) in [("etcd1", "etcd2"), ("etcd2", "etcd3"), ("etcd3", "etcd1")] {
            compose.compose(&["restart", "-t", "1", member]);
            compose.take(2);
            assert_eq!(compose.assert_mirrored(other).len(), 9);
            compose.release(2);
            assert_eq!(compose.assert_mirrored(other).len(), 6);
        }
        // A server is killed and started again, and then another container takes its place with the same lease database.
        compose.compose(&["kill", "kea-dhcp4"]);
        compose.compose(&["start", "kea-dhcp4"]);
        compose.wait_healthy("kea-dhcp4");
        compose.assert_mirrored("etcd1");
        compose.compose(&["kill", "kea-dhcp4"]);
        compose.compose(&["up", "-d", "--force-recreate", "--no-deps", "kea-dhcp4"]);
        compose.wait_healthy("kea-dhcp4");
        compose.take(2);
        assert_eq!(compose.assert_mirrored("etcd1").len(), 9);
        // A client is gone without a word: its leases end by themselves, and so do their records.
        compose.lose(3);
        let until = std::time::Instant::now() + std::time::Duration::from_secs(150);
        while compose.assert_mirrored("etcd1").len() > 6 {
            assert!(std::time::Instant::now() < until, "the leases of a lost client are still there");
            std::thread::sleep(std::time::Duration::from_secs(2));
        }
    });
}
