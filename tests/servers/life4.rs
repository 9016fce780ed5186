//! The life of DHCPv4 leases.

use std::time::Duration;

use serde_json::json;

use crate::client4::Client4;
use crate::etcd::Etcd;
use crate::kea::{Family, Kea, Wanted};
use crate::mirrored::{assert_mirrored, assert_told};

/// How the server is to be, besides what the test needs.
pub type How<'a> = &'a dyn Fn(Wanted) -> Wanted;

pub fn life(how: How) {
    let etcd = Etcd::start();
    let kea = Kea::start(&how(Wanted::new(Family::V4, &etcd.url())));
    let mut client = Client4::new(&kea, 1, 1);
    client.client_id = Some(vec![1, 2, 0, 0, 0, 0, 1]);
    client.hostname = Some("printer".into());

    let offer = client.discover();
    assert!(assert_mirrored(&kea, &etcd).is_empty(), "a DISCOVER leaves no record");

    let address = client.request(&offer).to_string();
    let records = assert_mirrored(&kea, &etcd);
    let record = &records[&address];
    assert_eq!(record["operation"], "offer");
    assert_eq!(record["hwaddr"], "02:00:00:00:00:01");
    assert_eq!(record["client_id"], "01:02:00:00:00:00:01");
    assert_eq!(record["hostname"], "printer");
    assert_eq!(record["subnet_id"], 7);
    assert_eq!(record["relay_ip"], client.relay().to_string());
    assert_eq!(record["expires_at"], record["cltt"].as_i64().unwrap() + 3600);

    client.discover();
    assert_eq!(assert_mirrored(&kea, &etcd), records, "a DISCOVER changes no record either");

    std::thread::sleep(Duration::from_millis(1100));
    client.renew(address.parse().unwrap());
    let renewed = assert_mirrored(&kea, &etcd);
    assert_eq!(renewed[&address]["operation"], "renew");
    assert!(renewed[&address]["cltt"].as_i64() > record["cltt"].as_i64());

    client.release(address.parse().unwrap());
    // A release has no answer: wait until Kea has it.
    kea.wait_leases(<[_]>::is_empty);
    assert!(assert_mirrored(&kea, &etcd).is_empty());
}

#[test]
fn what_is_told_of_one_packet_is_not_taken_for_the_next() {
    let etcd = Etcd::start();
    let kea = Kea::start(&Wanted::new(Family::V4, &etcd.url()));
    let client = Client4::new(&kea, 1, 1);
    let address = client.take().to_string();
    // Kea says of this one that the lease is about to be renewed, and does not write it.
    let offer = client.discover();
    kea.ask("lease4-del", &json!({ "ip-address": address }));
    assert!(assert_mirrored(&kea, &etcd).is_empty());
    assert_eq!(client.request(&offer).to_string(), address);
    assert_eq!(assert_mirrored(&kea, &etcd)[&address]["operation"], "offer");
}

#[test]
fn an_identifier_that_is_longer_than_most_is_told_whole() {
    let etcd = Etcd::start();
    let kea = Kea::start(&Wanted::new(Family::V4, &etcd.url()));
    let mut client = Client4::new(&kea, 1, 1);
    // RFC 4361: 255, the IAID, and a DUID-UUID.
    let client_id: Vec<u8> = [255, 0, 0, 0, 1, 0, 4].into_iter().chain(1..=16).collect();
    client.client_id = Some(client_id);
    let address = client.take().to_string();
    let wanted = "ff:00:00:00:01:00:04:01:02:03:04:05:06:07:08:09:0a:0b:0c:0d:0e:0f:10";
    assert_eq!(assert_mirrored(&kea, &etcd)[&address]["client_id"], wanted);
    client.release(address.parse().unwrap());
    kea.wait_leases(<[_]>::is_empty);
    assert!(assert_mirrored(&kea, &etcd).is_empty());
}

#[test]
fn a_lease_is_taken_renewed_and_released() {
    life(&|wanted| wanted);
}

#[test]
fn a_lease_is_taken_renewed_and_released_with_packet_threads() {
    life(&|wanted| wanted.threads(true));
}

pub fn decline(how: How) {
    let etcd = Etcd::start();
    let more = json!({
        "decline-probation-period": 2,
        "expired-leases-processing": { "reclaim-timer-wait-time": 1 },
    });
    let kea = Kea::start(&how(Wanted::new(Family::V4, &etcd.url()).more(more)));
    let client = Client4::new(&kea, 1, 1);
    let offer = client.discover();
    let address = client.request(&offer);
    client.decline(address);
    kea.wait_leases(|leases| leases.iter().all(|lease| lease["state"] == 1));
    let records = assert_mirrored(&kea, &etcd);
    let record = &records[&address.to_string()];
    assert_eq!((&record["state"], &record["operation"]), (&json!(1), &json!("decline")));
    assert!(record.get("hwaddr").is_none() && record.get("client_id").is_none(), "nobody's: {record}");
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
        "valid-lifetime": 2,
        "expired-leases-processing": {
            "reclaim-timer-wait-time": 1, "flush-reclaimed-timer-wait-time": 2, "hold-reclaimed-time": 5,
        },
    });
    let kea = Kea::start(&how(Wanted::new(Family::V4, &etcd.url()).more(more)));
    let mut client = Client4::new(&kea, 1, 0);
    for number in 0..20 {
        client.become_client(number);
        client.take();
    }
    kea.wait_leases(<[_]>::is_empty);
    assert!(
        assert_mirrored(&kea, &etcd).is_empty(),
        "reclaimed leases have no record, though Kea holds rows for a while"
    );
    client.take();
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 1, "a reclaimed address is used again");
}

#[test]
fn expired_leases_go_with_keas_own_reclamation() {
    expiry(&|wanted| wanted);
}

#[test]
fn expired_leases_go_with_keas_own_reclamation_and_packet_threads() {
    expiry(&|wanted| wanted.threads(true));
}

/// A lease ends, and before Kea reclaims it its holder comes back, and then another client gets the address: Kea tells of the end
/// and of the new lease.
pub fn taken_over(how: How) {
    let etcd = Etcd::start();
    let more = json!({
        "valid-lifetime": 2, "expired-leases-processing": { "reclaim-timer-wait-time": 0 },
        "subnet4": [{
            "id": 7, "subnet": "10.0.0.0/16", "pools": [{ "pool": "10.0.1.1 - 10.0.1.1" }],
            "relay": { "ip-addresses": ["127.0.1.1"] },
        }],
    });
    let kea = Kea::start(&how(Wanted::new(Family::V4, &etcd.url()).more(more)));
    let mut client = Client4::new(&kea, 1, 1);
    for (number, operation) in [(1, "offer"), (1, "renew"), (2, "offer")] {
        client.become_client(number);
        assert_told(&kea, &etcd, &client.take().to_string(), operation, "127.0.1.1");
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

pub fn fifty(how: How) {
    let etcd = Etcd::start();
    let kea = Kea::start(&how(Wanted::new(Family::V4, &etcd.url())));
    // Kea's tables in PostgreSQL count the leases of a subnet, and cannot begin to for two at once.
    let first = Client4::new(&kea, 99, 99);
    first.release(first.take());
    std::thread::scope(|scope| {
        for number in 1..=50 {
            let client = Client4::new(&kea, number, u32::from(number));
            scope.spawn(move || {
                for _ in 0..3 {
                    let offer = client.discover();
                    let address = client.request(&offer);
                    client.renew(address);
                    if number % 5 == 0 {
                        client.release(address);
                    }
                }
            });
        }
    });
    // The last releases have no answer that could be waited for.
    kea.wait_leases(|leases| leases.len() == 40);
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 40);
    assert_eq!(kea.statistic("etcd-queue-overflows"), 0);
}

#[test]
fn fifty_clients_at_once() {
    fifty(&|wanted| wanted);
}

#[test]
fn fifty_clients_at_once_with_packet_threads() {
    fifty(&|wanted| wanted.threads(true));
}

#[test]
fn lease_commands_change_records() {
    let etcd = Etcd::start();
    let kea = Kea::start(&Wanted::new(Family::V4, &etcd.url()));
    let lease = json!({ "ip-address": "10.0.1.5", "hw-address": "0a:00:00:00:00:01", "subnet-id": 7 });
    kea.ask("lease4-add", &lease);
    assert_eq!(assert_mirrored(&kea, &etcd)["10.0.1.5"]["operation"], "add");
    let mut changed = lease.clone();
    changed["hostname"] = json!("changed.example");
    kea.ask("lease4-update", &changed);
    let records = assert_mirrored(&kea, &etcd);
    assert_eq!(records["10.0.1.5"]["operation"], "update");
    assert_eq!(records["10.0.1.5"]["hostname"], "changed.example");
    kea.ask("lease4-del", &json!({ "ip-address": "10.0.1.5" }));
    assert!(assert_mirrored(&kea, &etcd).is_empty());
    kea.ask("lease4-add", &lease);
    assert_mirrored(&kea, &etcd);
    // A kea-dhcp6 on the same host, prefix and name, that is sent a command meant for the other server.
    let other = Kea::start(&Wanted::new(Family::V6, &etcd.url()));
    other.command(&json!({ "command": "lease4-del", "arguments": { "ip-address": "10.0.1.5" } }));
    let v6 = json!({ "ip-address": "2001:db8:0:1::5", "duid": "01:02:03", "iaid": 4, "subnet-id": 9 });
    other.ask("lease6-add", &v6);
    while etcd.records().len() == 1 {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(etcd.records().contains_key("10.0.1.5"), "its own record is untouched");
    other.ask("lease6-wipe", &json!({}));
    while etcd.records().len() == 2 {
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(other);
    kea.ask("lease4-wipe", &json!({ "subnet-id": 7 }));
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 0);
}
