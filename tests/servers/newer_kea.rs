//! Leases that only newer versions of Kea write, or write in another way: at offer time, kept after a release, registered.

use std::time::Duration;

use dhcproto::v6::{DhcpOption, DhcpOptions, IAAddr};
use serde_json::{Value, json};

use crate::client4::Client4;
use crate::client6::{Client6, LINK};
use crate::etcd::Etcd;
use crate::kea::{Family, Kea, Wanted};
use crate::left_out;
use crate::mirrored::assert_mirrored;

/// Whether the Kea of this machine is at least this one; says so when it is not.
fn since(kea: &Kea, wanted: (u32, u32), what: &str) -> bool {
    let version = kea.version();
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap());
    let is_new = (numbers.next().unwrap(), numbers.next().unwrap()) >= wanted;
    if !is_new {
        left_out::tell(&format!("Kea {version} knows no {what}"));
    }
    is_new
}

/// From Kea 2.4 on, the row stays for a while after a release, for the one who held it.
#[test]
fn a_released_lease_has_no_record_though_kea_may_keep_it_for_its_holder() {
    for threads in [false, true] {
        let etcd = Etcd::start();
        let kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()).threads(threads));
        let client = Client4::new(&kea, 1, 1);
        let address = client.take();
        assert_eq!(assert_mirrored(&kea, &etcd).len(), 1);
        client.release(address);
        kea.wait_leases(<[_]>::is_empty);
        assert!(assert_mirrored(&kea, &etcd).is_empty());
        // A lease is past its end in the second after it.
        std::thread::sleep(Duration::from_millis(1100));
        client.take();
        assert_eq!(assert_mirrored(&kea, &etcd).len(), 1);
    }
}

#[test]
fn a_lease_that_is_written_when_it_is_offered_has_a_record_at_once() {
    let etcd = Etcd::start();
    let mut wanted = Wanted::new(Family::V4, &etcd.url());
    if since(&Kea::start(&wanted), (2, 6), "offer-lifetime") {
        wanted = wanted.more(json!({ "offer-lifetime": 60 }));
        let kea = Kea::start_connected(&wanted);
        let client = Client4::new(&kea, 1, 1);
        let offer = client.discover();
        let records = assert_mirrored(&kea, &etcd);
        let offered = records.values().next().expect("a record of the offer");
        assert_eq!((&offered["operation"], &offered["valid_lft"]), (&json!("offer"), &json!(60)));
        assert_eq!(offered["relay_ip"], "127.0.1.1");
        let address = client.request(&offer).to_string();
        assert_eq!(assert_mirrored(&kea, &etcd)[&address]["valid_lft"], 3600);
    }
}

#[test]
fn a_renewal_that_kea_does_not_write_leaves_the_record_as_it_is() {
    let etcd = Etcd::start();
    let more = json!({ "cache-threshold": 0.5, "cache-max-age": 600 });
    let kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()).more(more));
    let client = Client4::new(&kea, 1, 1);
    let address = client.take();
    let record = &assert_mirrored(&kea, &etcd)[&address.to_string()];
    std::thread::sleep(Duration::from_millis(1100));
    client.renew(address);
    assert_eq!(&assert_mirrored(&kea, &etcd)[&address.to_string()], record);
}

#[test]
fn pools_are_told_by_their_number() {
    let etcd = Etcd::start();
    let wanted = Wanted::new(Family::V4, &etcd.url());
    if since(&Kea::start(&wanted), (2, 4), "pool ids") {
        let subnet = json!([{
            "id": 7, "subnet": "10.0.0.0/16", "pools": [{ "pool": "10.0.1.0 - 10.0.1.9", "pool-id": 5 }],
            "relay": { "ip-addresses": ["127.0.1.1"] },
        }]);
        let kea = Kea::start_connected(&wanted.more(json!({ "subnet4": subnet })));
        let address = Client4::new(&kea, 1, 1).take().to_string();
        assert_eq!(assert_mirrored(&kea, &etcd)[&address]["pool_id"], 5);
    }
}

/// Kea 2.6 tells who sends a command; its lease database tells what the command wrote.
#[test]
fn what_the_partner_of_a_pair_sends_is_mirrored_though_nothing_tells_of_it() {
    let etcd = Etcd::start();
    let kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()));
    if since(&kea, (2, 6), "origin of a command") {
        let lease = json!({
            "ip-address": "10.0.1.5", "hw-address": "0a:00:00:00:00:01", "subnet-id": 7, "force-create": true,
            "origin": "ha-partner",
        });
        // Nothing else goes on that would turn the main loop.
        std::thread::sleep(Duration::from_secs(3));
        kea.ask("lease4-update", &lease);
        assert_eq!(assert_mirrored(&kea, &etcd)["10.0.1.5"]["operation"], "sync");
        kea.ask("lease4-del", &json!({ "ip-address": "10.0.1.5", "origin": "ha-partner" }));
        assert!(assert_mirrored(&kea, &etcd).is_empty());
    }
}

/// RFC 9686: the client made the address up itself. Behind a relay Kea takes the link's address for the client's.
#[test]
fn a_registered_address_has_a_record_with_its_state() {
    let etcd = Etcd::start();
    let kea = Kea::start_connected(&Wanted::new(Family::V6, &etcd.url()));
    if since(&kea, (3, 0), "address registration") {
        let client = Client6::new(&kea, 1);
        let address = IAAddr { addr: LINK, preferred_life: 600, valid_life: 900, opts: DhcpOptions::new() };
        for operation in ["offer", "renew"] {
            client.register(&DhcpOption::IAAddr(address.clone()));
            let records = assert_mirrored(&kea, &etcd);
            let record = &records[&LINK.to_string()];
            assert_eq!((&record["state"], &record["operation"]), (&json!(4), &json!(operation)), "{record}");
            assert_eq!(record["valid_lft"], 900);
            std::thread::sleep(Duration::from_millis(1100));
        }
        assert_eq!(kea.ask("lease6-wipe", &json!({ "subnet-id": 9 })), Value::Null);
        assert!(assert_mirrored(&kea, &etcd).is_empty());
    }
}

/// Every address of 127.0.0.0/8 answers on this host.
#[test]
fn an_address_that_answers_a_ping_before_it_is_offered_is_held_as_declined() {
    let etcd = Etcd::start();
    let wanted = Wanted::new(Family::V4, &etcd.url());
    if since(&Kea::start(&wanted), (3, 0), "ping check") {
        let subnet = json!([{
            "id": 7, "subnet": "127.0.0.0/8", "pools": [{ "pool": "127.0.2.1 - 127.0.2.2" }],
            "relay": { "ip-addresses": ["127.0.1.1"] },
        }]);
        let check = json!({ "enable-ping-check": true, "min-ping-requests": 1, "reply-timeout": 1000 });
        let wanted = wanted.more(json!({ "subnet4": subnet })).library("libdhcp_ping_check.so", check);
        let kea = Kea::start_connected(&wanted);
        assert!(Client4::new(&kea, 1, 1).try_discover(Duration::from_secs(3)).is_none());
        kea.wait_leases(|leases| !leases.is_empty());
        for record in assert_mirrored(&kea, &etcd).values() {
            assert_eq!((&record["state"], &record["operation"]), (&json!(1), &json!("decline")), "{record}");
        }
    }
}
