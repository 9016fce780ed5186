//! The life of DHCPv6 addresses and delegated prefixes.

use dhcproto::v6::MessageType;
use serde_json::json;

use crate::client6::{Client6, LINK, addresses, ia_na, ia_pd};
use crate::etcd::Etcd;
use crate::kea::{Family, Kea, Wanted};
use crate::life4::How;
use crate::mirrored::{assert_mirrored, assert_told};

pub fn life(how: How) {
    let etcd = Etcd::start();
    let kea = Kea::start(&how(Wanted::new(Family::V6, &etcd.url())));
    let mut client = Client6::new(&kea, 1);
    let wanted = [ia_na(1), ia_na(2), ia_pd(3)];

    client.solicit(&wanted);
    assert!(assert_mirrored(&kea, &etcd).is_empty(), "a SOLICIT leaves no record");

    let leases = client.take(&wanted);
    let assigned = addresses(&leases);
    assert_eq!(assigned.len(), 3);
    let records = assert_mirrored(&kea, &etcd);
    assert_eq!(records.len(), 3);
    for record in records.values() {
        assert_eq!(record["operation"], "offer");
        assert_eq!(record["relay_ip"], LINK.to_string());
        assert_eq!(record["duid"], "00:03:00:01:02:00:00:00:00:01");
    }
    let types: Vec<_> = records.values().map(|record| (record["type"].clone(), record["prefix_len"].clone())).collect();
    assert_eq!(types.iter().filter(|kind| **kind == (json!("IA_NA"), json!(128))).count(), 2);
    assert_eq!(types.iter().filter(|kind| **kind == (json!("IA_PD"), json!(56))).count(), 1);

    for (message, operation) in [(MessageType::Renew, "renew"), (MessageType::Rebind, "rebind")] {
        client.exchange(message, &leases);
        // In the same second nothing else about the leases changes.
        etcd.wait(operation, |etcd| etcd.records().values().all(|record| record["operation"] == operation));
        assert_eq!(assert_mirrored(&kea, &etcd).len(), 3);
    }

    client.exchange(MessageType::Release, &leases[..1]);
    let left = assert_mirrored(&kea, &etcd);
    assert_eq!(left.len(), 2);
    client.exchange(MessageType::Release, &leases[1..]);
    assert!(assert_mirrored(&kea, &etcd).is_empty());
}

#[test]
fn addresses_and_a_prefix_are_taken_renewed_rebound_and_released() {
    life(&|wanted| wanted);
}

#[test]
fn addresses_and_a_prefix_are_taken_renewed_rebound_and_released_with_packet_threads() {
    life(&|wanted| wanted.threads(true));
}

pub fn decline(how: How) {
    let etcd = Etcd::start();
    let more = json!({
        "decline-probation-period": 2,
        "expired-leases-processing": { "reclaim-timer-wait-time": 1 },
    });
    let kea = Kea::start(&how(Wanted::new(Family::V6, &etcd.url()).more(more)));
    let mut client = Client6::new(&kea, 1);
    let leases = client.take(&[ia_na(1)]);
    client.exchange(MessageType::Decline, &leases);
    let records = assert_mirrored(&kea, &etcd);
    let record = &records[&addresses(&leases)[0].to_string()];
    assert_eq!((&record["state"], &record["operation"]), (&json!(1), &json!("decline")));
    kea.wait_leases(<[_]>::is_empty);
    assert!(assert_mirrored(&kea, &etcd).is_empty());
}

#[test]
fn a_declined_address_is_held_until_its_probation_ends() {
    decline(&|wanted| wanted);
}

pub fn expiry(how: How) {
    let etcd = Etcd::start();
    let more = json!({
        "valid-lifetime": 2, "preferred-lifetime": 1,
        "expired-leases-processing": { "reclaim-timer-wait-time": 1 },
    });
    let kea = Kea::start(&how(Wanted::new(Family::V6, &etcd.url()).more(more)));
    let mut client = Client6::new(&kea, 0);
    for number in 0..20 {
        client.become_client(number);
        client.take(&[ia_na(1), ia_pd(1)]);
    }
    kea.wait_leases(<[_]>::is_empty);
    assert!(assert_mirrored(&kea, &etcd).is_empty());
}

/// See the same of DHCPv4.
pub fn taken_over(how: How) {
    let etcd = Etcd::start();
    let more = json!({
        "valid-lifetime": 2, "preferred-lifetime": 1, "expired-leases-processing": { "reclaim-timer-wait-time": 0 },
        "subnet6": [{
            "id": 9, "subnet": "2001:db8::/32", "pools": [{ "pool": "2001:db8:0:1::1 - 2001:db8:0:1::1" }],
        }],
    });
    let kea = Kea::start(&how(Wanted::new(Family::V6, &etcd.url()).more(more)));
    let mut client = Client6::new(&kea, 1);
    for number in [1, 1, 2] {
        client.become_client(number);
        let address = addresses(&client.take(&[ia_na(1)]))[0].to_string();
        assert_told(&kea, &etcd, &address, "offer", &LINK.to_string());
    }
}

#[test]
fn a_lease_that_ended_is_taken_over_before_it_is_reclaimed() {
    taken_over(&|wanted| wanted);
}

#[test]
fn a_lease_that_ended_is_taken_over_before_it_is_reclaimed_with_packet_threads() {
    taken_over(&|wanted| wanted.threads(true));
}

#[test]
fn expired_leases_go_with_keas_own_reclamation() {
    expiry(&|wanted| wanted);
}

#[test]
fn expired_leases_go_with_keas_own_reclamation_and_packet_threads() {
    expiry(&|wanted| wanted.threads(true));
}

pub fn commands(how: How) {
    let etcd = Etcd::start();
    let kea = Kea::start(&how(Wanted::new(Family::V6, &etcd.url())));
    let address = json!({ "ip-address": "2001:db8:0:1::5", "duid": "01:02:03", "iaid": 4, "subnet-id": 9 });
    let prefix = json!({
        "ip-address": "2001:db8:8000:5600::", "type": "IA_PD", "prefix-len": 56, "duid": "01:02:03", "iaid": 4,
        "subnet-id": 9,
    });
    kea.ask("lease6-add", &address);
    kea.ask("lease6-add", &prefix);
    let records = assert_mirrored(&kea, &etcd);
    assert!(records.len() == 2 && records.values().all(|record| record["operation"] == "add"), "{records:#?}");
    // A temporary address comes about by command only: Kea answers no IA_TA.
    let temporary = json!({
        "ip-address": "2001:db8:0:1::7", "type": "IA_TA", "duid": "01:02:03", "iaid": 4, "subnet-id": 9,
    });
    let other = json!({ "ip-address": "2001:db8:0:1::6", "duid": "01:02:04", "iaid": 4, "subnet-id": 9 });
    kea.ask("lease6-bulk-apply", &json!({ "deleted-leases": [prefix], "leases": [address, other, temporary] }));
    assert_eq!(
        assert_mirrored(&kea, &etcd).keys().collect::<Vec<_>>(),
        ["2001:db8:0:1::5", "2001:db8:0:1::6", "2001:db8:0:1::7"]
    );
    kea.ask("lease6-del", &json!({ "ip-address": "2001:db8:0:1::5" }));
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 2);
}

#[test]
fn lease_commands_change_records() {
    commands(&|wanted| wanted);
}
