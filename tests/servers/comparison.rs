//! What no hook tells is found by comparing: leases from before, lost changes, commands that name no address, etcd's own
//! losses, and what others do to the records.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client4::{Client4, take};
use crate::etcd::{Etcd, LEASES};
use crate::kea::{Family, Kea, Wanted};
use crate::metrics::metric_of;
use crate::mirrored::assert_mirrored;

/// Adds leases by command, as fast as Kea takes them.
fn add(kea: &Kea, count: u32) {
    for number in 0..count {
        let [_, _, a, b] = (256 + number).to_be_bytes();
        let hwaddr = format!("0a:00:00:00:{a:02x}:{b:02x}");
        kea.ask("lease4-add", &json!({ "ip-address": format!("10.0.{a}.{b}"), "hw-address": hwaddr, "subnet-id": 7 }));
    }
}

/// Asks for a verification until it ends; what it found.
pub fn verify(kea: &Kea) -> Value {
    ask_until_done(kea, &json!({ "command": "etcd-verify" }))
}

/// Asks for a comparison until it ends; what it found.
pub fn resync(kea: &Kea) -> Value {
    ask_until_done(kea, &json!({ "command": "etcd-resync", "arguments": { "wait": true } }))
}

/// A comparison that takes longer than a command waits is told to the same command, given again.
fn ask_until_done(kea: &Kea, command: &Value) -> Value {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = kea.command(command);
        if answer["result"] == 0 {
            return answer["arguments"].clone();
        }
        assert!(Instant::now() < until, "{answer}\n{}", kea.log());
    }
}

/// Nothing is missing, different or extra.
pub fn assert_verified(kea: &Kea) {
    let found = verify(kea);
    for kind in ["missing", "different", "extra"] {
        assert_eq!(found[kind], 0, "{found}");
    }
}

#[test]
fn leases_from_before_the_library_was_loaded_are_found() {
    for family in [Family::V4, Family::V6] {
        let etcd = Etcd::start();
        let wanted = Wanted::new(family, &etcd.url());
        let mut kea = Kea::start_without_library(&wanted);
        match family {
            Family::V4 => add(&kea, 500),
            Family::V6 => {
                for n in 1..=500 {
                    let lease = json!({ "ip-address": format!("2001:db8:0:1::{n:x}"), "duid": "01:02:03", "iaid": n, "subnet-id": 9 });
                    kea.ask("lease6-add", &lease);
                }
                let prefix = json!({
                    "ip-address": "2001:db8:8000::", "prefix-len": 56, "type": "IA_PD", "duid": "01:02:03", "iaid": 1, "subnet-id": 9,
                });
                kea.ask("lease6-add", &prefix);
            }
        }
        kea.add_library();
        let records = assert_mirrored(&kea, &etcd);
        assert!(records.len() >= 500);
        assert!(records.values().all(|record| record["operation"] == "sync"));
        assert_verified(&kea);
    }
}

#[test]
fn what_was_unwritten_when_kea_was_killed_is_found() {
    let etcd = Etcd::start();
    let mut kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()));
    take(&kea, 0..20);
    assert_mirrored(&kea, &etcd);
    etcd.hang();
    let client = Client4::new(&kea, 1, 5);
    client.release(client.take());
    drop(client);
    take(&kea, 100..150);
    kea.signal("KILL");
    kea.wait_end();
    etcd.resume();
    kea.restart();
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 69);
    assert_verified(&kea);
}

#[test]
fn what_a_full_queue_dropped_is_found_when_etcd_is_back() {
    let etcd = Etcd::start();
    let mut kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()).parameter("queue-size", json!(10)));
    kea.wait_log("ETCD_RESYNC", 1);
    etcd.hang();
    take(&kea, 0..300);
    kea.wait_log("ETCD_QUEUE_OVERFLOW", 1);
    etcd.resume();
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 300);
    assert!(kea.statistic("etcd-queue-overflows") >= 270, "{}", kea.statistic("etcd-queue-overflows"));
    assert!(kea.log().matches("ETCD_QUEUE_OVERFLOW").count() >= 2, "its begin and its end are told");
}

#[test]
fn commands_that_name_no_address_are_followed() {
    let etcd = Etcd::start();
    let kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()));
    add(&kea, 60);
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 60);
    let first = json!({ "identifier-type": "hw-address", "identifier": "0a:00:00:00:01:00", "subnet-id": 7 });
    kea.ask("lease4-del", &first);
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 59);
    kea.ask("lease4-wipe", &json!({ "subnet-id": 7 }));
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 0);
}

#[test]
fn dhcpv6_commands_are_followed() {
    let etcd = Etcd::start();
    let kea = Kea::start_connected(&Wanted::new(Family::V6, &etcd.url()));
    let lease = |n: u32| json!({ "ip-address": format!("2001:db8:0:1::{n:x}"), "duid": format!("01:02:{n:02x}"), "iaid": n, "subnet-id": 9 });
    kea.ask("lease6-bulk-apply", &json!({ "leases": [lease(1), lease(2), lease(3)] }));
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 3);
    kea.ask("lease6-bulk-apply", &json!({ "deleted-leases": [lease(1)], "leases": [lease(4)] }));
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 3);
    kea.ask("lease6-del", &json!({ "identifier-type": "duid", "identifier": "01:02:02", "iaid": 2, "subnet-id": 9 }));
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 2);
    kea.ask("lease6-wipe", &json!({ "subnet-id": 9 }));
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 0);
}

#[test]
fn reclaiming_all_expired_leases_by_command_removes_their_records() {
    let etcd = Etcd::start();
    let more = json!({ "valid-lifetime": 1, "expired-leases-processing": { "reclaim-timer-wait-time": 0 } });
    let kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()).more(more));
    take(&kea, 0..300);
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 300);
    sleep(Duration::from_millis(2100));
    kea.ask("leases-reclaim", &json!({ "remove": true }));
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 0);
}

#[test]
fn a_data_directory_that_was_lost_is_filled_again() {
    let mut etcd = Etcd::start();
    let mut kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()));
    take(&kea, 0..50);
    assert_mirrored(&kea, &etcd);
    etcd.kill();
    etcd.lose_data();
    etcd.restart();
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 50);
    kea.wait_log("ETCD_HISTORY", 1);
}

#[test]
fn an_older_snapshot_is_brought_up_to_date_even_after_others_wrote_to_it() {
    let mut etcd = Etcd::start();
    let kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()));
    let addresses = take(&kea, 0..30);
    assert_mirrored(&kea, &etcd);
    let snapshot = etcd.snapshot();
    let mut client = Client4::new(&kea, 1, 3);
    client.release(addresses[3].parse().unwrap());
    client.become_client(4);
    sleep(Duration::from_millis(1100));
    client.renew(addresses[4].parse().unwrap());
    drop(client);
    take(&kea, 100..120);
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 49);
    etcd.kill();
    etcd.restore(&snapshot);
    // On a port that Kea does not know, so that revisions pass those that Kea has seen before it can look.
    etcd.restart_aside(|aside| {
        for n in 0..200 {
            aside.ctl(&["put", &format!("/other/{n}"), "x"]);
        }
    });
    etcd.restart();
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 49);
}

/// Kills etcd, and gives it back the state from before what others wrote and the watch told.
fn lose_what_others_wrote(etcd: &mut Etcd) {
    let snapshot = etcd.snapshot();
    let looked = metric_of(etcd, "etcd_mvcc_range_total");
    for key in ["none", "of them", "is an address", "10.0.9.9"] {
        etcd.ctl(&["put", &format!("{LEASES}{key}"), "somebody's"]);
    }
    etcd.wait("a look at what was told last", |etcd| metric_of(etcd, "etcd_mvcc_range_total") > looked);
    etcd.kill();
    etcd.restore(&snapshot);
}

#[test]
fn an_older_snapshot_that_lacks_only_what_others_wrote_is_told_apart() {
    let mut etcd = Etcd::start();
    let mut kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()));
    take(&kea, 0..10);
    kea.wait_log("ETCD_RESYNC", 1);
    assert_mirrored(&kea, &etcd);
    lose_what_others_wrote(&mut etcd);
    etcd.restart();
    kea.wait_log("ETCD_HISTORY", 1);
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 10);
}

#[test]
fn an_older_snapshot_that_has_all_of_ours_and_was_changed_before_we_look_is_mended() {
    let mut etcd = Etcd::start();
    let mut kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()));
    let addresses = take(&kea, 0..10);
    kea.wait_log("ETCD_RESYNC", 1);
    assert_mirrored(&kea, &etcd);
    lose_what_others_wrote(&mut etcd);
    etcd.restart_aside(|aside| {
        // At a revision at which the watch has told something else.
        aside.ctl(&["del", &format!("{LEASES}{}", addresses[3])]);
        for n in 0..20 {
            aside.ctl(&["put", &format!("/other/{n}"), "x"]);
        }
    });
    etcd.restart();
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 10);
}

#[test]
fn a_short_absence_of_etcd_needs_no_comparison() {
    let mut etcd = Etcd::start();
    let mut kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()));
    take(&kea, 0..50);
    assert_mirrored(&kea, &etcd);
    etcd.kill();
    take(&kea, 100..150);
    etcd.restart();
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 100);
    kea.wait_log("ETCD_CONNECTED", 2);
    assert!(!kea.log().contains("ETCD_HISTORY"), "{}", kea.log());
}

#[test]
fn an_answer_that_came_before_the_connection_ended_tells_of_the_history() {
    let mut etcd = Etcd::start();
    let mut kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()));
    take(&kea, 0..5);
    assert_mirrored(&kea, &etcd);
    etcd.hang();
    take(&kea, 5..6);
    etcd.wait_unread();
    // The answer and the end of the connection are there at once, when it looks again.
    kea.signal("STOP");
    etcd.resume();
    etcd.wait("the last record", |etcd| etcd.values().len() == 6);
    etcd.kill();
    kea.signal("CONT");
    etcd.restart();
    kea.wait_log("ETCD_CONNECTED", 2);
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 6);
    assert!(!kea.log().contains("ETCD_HISTORY"), "{}", kea.log());
}

#[test]
fn records_that_others_change_or_remove_are_put_right() {
    let etcd = Etcd::start();
    let kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()));
    let addresses = take(&kea, 0..20);
    let records = assert_mirrored(&kea, &etcd);
    kea.wait_statistic("etcd-resyncs", 1);
    let key = |n: usize| format!("{LEASES}{}", addresses[n]);
    etcd.ctl(&["del", &key(0)]);
    etcd.ctl(&["put", &key(1), "no json"]);
    etcd.ctl(&["put", &key(2), "--", ""]);
    let mut forged = records[&addresses[3]].clone();
    forged["hostname"] = json!("forged");
    etcd.ctl(&["put", &key(3), &forged.to_string()]);
    // A record of ours without a lease, and the same text with spaces.
    etcd.ctl(&["put", &format!("{LEASES}10.0.99.99"), &forged.to_string()]);
    etcd.ctl(&["put", &key(4), &serde_json::to_string_pretty(&records[&addresses[4]]).unwrap()]);
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 20);
    assert_eq!(kea.statistic("etcd-resyncs"), 1, "the watch saw them, no comparison was needed");
    assert_verified(&kea);
    etcd.ctl(&["del", "--prefix", LEASES]);
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 20);
}

#[test]
fn keys_that_are_no_records_stay_and_do_no_harm() {
    let etcd = Etcd::start();
    let megabyte = "x".repeat(120_000);
    for n in 0..200 {
        etcd.ctl(&["put", &format!("{LEASES}not-an-address-{n}"), "foreign"]);
    }
    for n in 0..60 {
        etcd.ctl(&["put", &format!("{LEASES}10.9.0.{n}"), &megabyte]);
    }
    let other = r#"{"ip":"10.0.200.1","operation":"offer","state":0,"hwaddr":"02:00:00:00:00:63","fqdn_fwd":false,"fqdn_rev":false,"subnet_id":7,"cltt":4000000000,"valid_lft":3600,"expires_at":4000003600,"timestamp":4000000000,"server":"other"}"#;
    let ended = other.replace("4000", "1000").replace("10.0.200.1", "10.0.200.2");
    etcd.ctl(&["put", &format!("{LEASES}10.0.200.1"), other]);
    etcd.ctl(&["put", &format!("{LEASES}10.0.200.2"), &ended]);
    let mut kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()));
    let addresses = take(&kea, 0..10);
    kea.wait_log("ETCD_RESYNC", 1);
    let found = verify(&kea);
    assert_eq!((&found["missing"], &found["different"], &found["extra"]), (&json!(0), &json!(0), &json!(0)), "{found}");
    assert_eq!((&found["foreign"], &found["others"]), (&json!(260), &json!(1)), "{found}");
    let values = etcd.values();
    assert_eq!(values.len(), 10 + 260 + 1, "another server's live record stays, its long ended one does not");
    assert!(addresses.iter().all(|address| values.contains_key(address)));
}

#[test]
fn values_that_are_more_than_can_be_read_at_once_are_replaced_one_by_one() {
    let etcd = Etcd::start();
    let wanted = Wanted::new(Family::V4, &etcd.url());
    let mut kea = Kea::start_without_library(&wanted);
    add(&kea, 40);
    let megabyte = "x".repeat(1_000_000);
    for n in 0..40 {
        assert!(etcd.put_from_stdin(&format!("{LEASES}10.0.1.{n}"), &megabyte));
    }
    kea.add_library();
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 40);
    assert_verified(&kea);
}

#[test]
fn a_comparison_copes_with_a_revision_that_is_compacted_meanwhile() {
    let etcd = Etcd::start();
    let kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()));
    add(&kea, 3000);
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 3000);
    std::thread::scope(|scope| {
        let compactions = scope.spawn(|| {
            for n in 0..40 {
                etcd.ctl(&["put", "/other", &n.to_string()]);
                etcd.compact();
            }
        });
        while !compactions.is_finished() {
            assert_verified(&kea);
        }
    });
    resync(&kea);
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 3000);
}
