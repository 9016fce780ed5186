//! The secondary keys, to find a lease by who holds it: always with the record, never without.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client4::Client4;
use crate::client6::{Client6, addresses, ia_na, ia_pd};
use crate::comparison::{resync, verify};
use crate::etcd::{Etcd, LEASES};
use crate::kea::{Family, Kea, Wanted};
use crate::mirrored::assert_mirrored;

const ROOT: &str = "/nnoe/dhcp/";
const INDEX: &str = "/nnoe/dhcp/index/";

/// The kinds, and the fields of the record that hold their values.
const KINDS: [(&str, &str); 4] =
    [("hw-address", "hwaddr"), ("client-id", "client_id"), ("duid", "duid"), ("hostname", "hostname")];

fn all_kinds() -> Value {
    json!(KINDS.map(|(kind, _)| kind))
}

/// The index keys that are there and those that the records should have, read at one revision; each with the etcd lease
/// that it hangs on. Only for values that need no encoding.
fn compared(etcd: &Etcd) -> [BTreeMap<String, i64>; 2] {
    let (mut there, mut wanted) = (BTreeMap::new(), BTreeMap::new());
    for (key, (value, etcd_lease)) in etcd.hanging(ROOT) {
        if let Some(address) = key.strip_prefix(LEASES) {
            let record: Value = serde_json::from_str(&value).unwrap();
            for (kind, field) in KINDS {
                if let Some(value) = record[field].as_str() {
                    wanted.insert(format!("{INDEX}{kind}/{value}/{address}"), etcd_lease);
                }
            }
        } else if key.starts_with(INDEX) {
            assert_eq!(value, "", "{key}");
            there.insert(key, etcd_lease);
        }
    }
    [there, wanted]
}

/// Every record has its index keys, of every kind, on the etcd lease that it hangs on itself; and there are no others.
fn assert_indexed(etcd: &Etcd) {
    let [there, wanted] = compared(etcd);
    assert_eq!(there, wanted);
}

/// The index keys, without what all have in common.
fn index(etcd: &Etcd) -> Vec<String> {
    etcd.range(INDEX).into_keys().map(|key| key.strip_prefix(INDEX).unwrap().into()).collect()
}

fn start(family: Family, etcd: &Etcd) -> Kea {
    Kea::start_connected(&Wanted::new(family, &etcd.url()).parameter("index", all_kinds()))
}

#[test]
fn dhcpv4_index_keys_come_and_go_with_the_record() {
    let etcd = Etcd::start();
    let kea = start(Family::V4, &etcd);
    let mut client = Client4::new(&kea, 1, 1);
    client.client_id = Some(vec![1, 2, 0, 0, 0, 0, 1]);
    client.hostname = Some("printer".into());
    let address = client.take();
    assert_mirrored(&kea, &etcd);
    let keys = [
        format!("client-id/01:02:00:00:00:00:01/{address}"),
        format!("hostname/printer/{address}"),
        format!("hw-address/02:00:00:00:00:01/{address}"),
    ];
    assert_eq!(index(&etcd), keys);
    assert_indexed(&etcd);
    sleep(Duration::from_millis(1100));
    client.renew(address);
    assert_mirrored(&kea, &etcd);
    assert_eq!(index(&etcd), keys);
    assert_indexed(&etcd);
    client.release(address);
    kea.wait_leases(<[_]>::is_empty);
    assert!(assert_mirrored(&kea, &etcd).is_empty());
    assert!(index(&etcd).is_empty());
}

#[test]
fn dhcpv6_index_keys_come_and_go_with_the_record() {
    let etcd = Etcd::start();
    let kea = start(Family::V6, &etcd);
    let mut client = Client6::new(&kea, 1);
    let leases = client.take(&[ia_na(1), ia_pd(2)]);
    assert_mirrored(&kea, &etcd);
    for address in addresses(&leases) {
        let key = format!("duid/00:03:00:01:02:00:00:00:00:01/{address}");
        assert!(index(&etcd).contains(&key), "{key} is not among {:?}", index(&etcd));
    }
    let lease = json!({
        "ip-address": "2001:db8:0:1::5", "duid": "01:02:03", "iaid": 4, "subnet-id": 9,
        "hw-address": "0a:00:00:00:00:05", "hostname": "printer.example",
    });
    kea.ask("lease6-add", &lease);
    assert_mirrored(&kea, &etcd);
    assert_indexed(&etcd);
    for key in ["duid/01:02:03", "hostname/printer.example", "hw-address/0a:00:00:00:00:05"] {
        let key = format!("{key}/2001:db8:0:1::5");
        assert!(index(&etcd).contains(&key), "{key} is not among {:?}", index(&etcd));
    }
    kea.ask("lease6-wipe", &json!({ "subnet-id": 9 }));
    assert!(assert_mirrored(&kea, &etcd).is_empty());
    assert!(index(&etcd).is_empty());
}

#[test]
fn only_the_wanted_kinds_are_written() {
    let etcd = Etcd::start();
    let kea = Kea::start(&Wanted::new(Family::V4, &etcd.url()).parameter("index", json!(["hostname"])));
    let mut client = Client4::new(&kea, 1, 1);
    client.client_id = Some(vec![1, 2, 3]);
    client.take();
    client.become_client(2);
    client.client_id = Some(vec![1, 2, 4]);
    client.hostname = Some("printer".into());
    let address = client.take();
    assert_mirrored(&kea, &etcd);
    assert_eq!(index(&etcd), [format!("hostname/printer/{address}")]);
}

#[test]
fn a_new_host_name_replaces_the_old_one() {
    let etcd = Etcd::start();
    let kea = start(Family::V4, &etcd);
    let mut client = Client4::new(&kea, 1, 1);
    client.hostname = Some("old".into());
    let address = client.take();
    assert_mirrored(&kea, &etcd);
    for name in ["new", "newer"] {
        client.hostname = Some(name.into());
        client.renew(address);
        assert_eq!(assert_mirrored(&kea, &etcd)[&address.to_string()]["hostname"], name);
        assert_eq!(
            index(&etcd),
            [format!("hostname/{name}/{address}"), format!("hw-address/02:00:00:00:00:01/{address}")]
        );
    }
}

/// One address in the pool: what one client gives back the next one gets.
#[test]
fn index_keys_are_those_of_the_record_whoever_holds_the_address() {
    let etcd = Etcd::start();
    let subnet = json!([{
        "id": 7, "subnet": "10.0.0.0/16", "pools": [{ "pool": "10.0.1.0 - 10.0.1.0" }],
        "relay": { "ip-addresses": ["127.0.1.1"] },
    }]);
    let wanted = Wanted::new(Family::V4, &etcd.url()).parameter("index", all_kinds());
    // What is released is free at once; newer versions of Kea would keep it for its holder.
    let more = json!({ "subnet4": subnet, "expired-leases-processing": { "hold-reclaimed-time": 0 } });
    let kea = Kea::start_connected(&wanted.more(more));
    let mut client = Client4::new(&kea, 1, 0);
    let address = Ipv4Addr::new(10, 0, 1, 0);
    for number in [1_u8, 2] {
        client.become_client(number.into());
        client.client_id = Some(vec![9, number]);
        client.hostname = Some(format!("host-{number}"));
        assert_eq!(client.take(), address);
        assert_mirrored(&kea, &etcd);
        let keys = [
            format!("client-id/09:0{number}/{address}"),
            format!("hostname/host-{number}/{address}"),
            format!("hw-address/02:00:00:00:00:0{number}/{address}"),
        ];
        assert_eq!(index(&etcd), keys);
        client.release(address);
        kea.wait_leases(<[_]>::is_empty);
    }
    // As fast as Kea does it: whenever one looks, the index is that of the record.
    std::thread::scope(|scope| {
        let clients = scope.spawn(move || {
            for number in 10..200_u8 {
                client.become_client(number.into());
                client.client_id = Some(vec![9, number]);
                client.hostname = Some(format!("host-{}", number % 7));
                client.take();
                if number % 3 == 0 {
                    client.renew(address);
                }
                client.release(address);
            }
        });
        while !clients.is_finished() {
            assert_indexed(&etcd);
        }
    });
    kea.wait_leases(<[_]>::is_empty);
    assert!(assert_mirrored(&kea, &etcd).is_empty());
    assert!(index(&etcd).is_empty());
}

#[test]
fn values_are_percent_encoded() {
    let etcd = Etcd::start();
    let kea = start(Family::V4, &etcd);
    for (number, (name, value)) in
        [("a/b%c", "a%2Fb%25c"), ("b\u{fc}ro", "b%C3%BCro"), ("tab\tx y", "tab%09x y")].into_iter().enumerate()
    {
        let address = format!("10.0.1.{number}");
        let lease =
            json!({ "ip-address": address, "hw-address": "0a:00:00:00:00:01", "subnet-id": 7, "hostname": name });
        kea.ask("lease4-add", &lease);
        assert_eq!(assert_mirrored(&kea, &etcd)[&address]["hostname"], name);
        assert!(index(&etcd).contains(&format!("hostname/{value}/{address}")), "{:?}", index(&etcd));
    }
    kea.ask("lease4-wipe", &json!({ "subnet-id": 7 }));
    assert!(assert_mirrored(&kea, &etcd).is_empty());
    assert!(index(&etcd).is_empty());
}

#[test]
fn switching_the_parameter_writes_and_removes_every_index_key() {
    let etcd = Etcd::start();
    let kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()));
    let mut client = Client4::new(&kea, 1, 0);
    for number in 0..200 {
        client.become_client(number);
        client.hostname = Some(format!("host-{number}"));
        client.take();
    }
    let records = assert_mirrored(&kea, &etcd);
    assert!(index(&etcd).is_empty());
    for (kinds, keys) in [(all_kinds(), 400), (json!(["hostname"]), 200), (json!([]), 0), (all_kinds(), 400)] {
        let mut config = kea.config();
        config["Dhcp4"]["hooks-libraries"][1]["parameters"]["index"] = kinds.clone();
        kea.ask("config-set", &config);
        etcd.wait(&format!("an index of {kinds}"), |etcd| index(etcd).len() == keys);
        assert_eq!(assert_mirrored(&kea, &etcd), records, "their text stays as it is");
    }
    assert_indexed(&etcd);
}

#[test]
fn index_keys_move_with_their_record() {
    let etcd = Etcd::start();
    let kea = start(Family::V4, &etcd);
    let mut client = Client4::new(&kea, 1, 0);
    for number in 0..50 {
        client.become_client(number);
        client.take();
    }
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 50);
    for on in [false, true] {
        let mut config = kea.config();
        config["Dhcp4"]["hooks-libraries"][1]["parameters"]["expire-keys"] = json!(on);
        kea.ask("config-set", &config);
        etcd.wait("every record moved", |etcd| {
            assert_indexed(etcd);
            etcd.hanging(LEASES).into_values().all(|(_, etcd_lease)| (etcd_lease != 0) == on)
        });
        assert_eq!(index(&etcd).len(), 50);
    }
}

/// How many differences of each kind were found.
fn counts(found: &Value) -> [u64; 3] {
    ["missing", "different", "extra"].map(|kind| found[kind].as_u64().unwrap())
}

#[test]
fn a_comparison_puts_the_index_right() {
    let etcd = Etcd::start();
    let kea = start(Family::V4, &etcd);
    let mut client = Client4::new(&kea, 1, 0);
    let taken: Vec<Ipv4Addr> = (0..5)
        .map(|number| {
            client.become_client(number);
            client.hostname = Some(format!("host-{number}"));
            client.take()
        })
        .collect();
    assert_mirrored(&kea, &etcd);
    kea.wait_statistic("etcd-resyncs", 1);
    let right = index(&etcd);
    assert_eq!(counts(&verify(&kea)), [0, 0, 0]);

    // Of an address without a lease, and of a name that another address has.
    for orphan in ["hostname/nobody/10.0.99.9".into(), format!("hostname/host-0/{}", taken[1])] {
        etcd.ctl(&["put", &format!("{INDEX}{orphan}"), ""]);
    }
    etcd.ctl(&["del", &format!("{INDEX}hostname/host-2/{}", taken[2])]);
    // These are not this server's: a DHCPv6 lease's, and what is no index key.
    let others = ["hostname/host-0/2001:db8::1", "colour/red/10.0.99.9"].map(|key| format!("{INDEX}{key}"));
    for other in &others {
        etcd.ctl(&["put", other, ""]);
    }
    let found = verify(&kea);
    assert_eq!(counts(&found), [0, 1, 2], "{found}");
    assert_eq!(found["different-addresses"], json!([taken[2].to_string()]));
    assert_eq!(index(&etcd).len(), right.len() + 3, "a verification changes nothing");

    resync(&kea);
    etcd.wait("what was missing, and no orphans", |etcd| index(etcd).len() == right.len() + others.len());
    for other in &others {
        assert_eq!(etcd.ctl(&["del", other]).trim(), "1", "{other} stays");
    }
    assert_eq!(index(&etcd), right);
    assert_indexed(&etcd);
    assert_eq!(counts(&verify(&kea)), [0, 0, 0]);
    assert_mirrored(&kea, &etcd);

    etcd.ctl(&["del", "--prefix", INDEX]);
    kea.ask("etcd-resync", &json!({}));
    etcd.wait("the index of the records", |etcd| index(etcd) == right);
    assert_indexed(&etcd);
}

#[test]
fn records_that_others_change_keep_their_index() {
    let etcd = Etcd::start();
    let kea = start(Family::V4, &etcd);
    let mut client = Client4::new(&kea, 1, 1);
    client.hostname = Some("printer".into());
    let address = client.take().to_string();
    let records = assert_mirrored(&kea, &etcd);
    let right = index(&etcd);
    let key = format!("{LEASES}{address}");
    let mut forged = records[&address].clone();
    forged["hostname"] = json!("forged");
    for value in ["no json", &forged.to_string()] {
        etcd.ctl(&["put", &key, value]);
        assert_mirrored(&kea, &etcd);
        assert_eq!(index(&etcd), right);
        assert_indexed(&etcd);
    }
    etcd.ctl(&["del", "--prefix", ROOT]);
    assert_mirrored(&kea, &etcd);
    assert_eq!(index(&etcd), right);
    assert_indexed(&etcd);
}

#[test]
fn what_a_comparison_finds_is_written_once() {
    let etcd = Etcd::start();
    let wanted = Wanted::new(Family::V4, &etcd.url()).parameter("index", json!(["hw-address"]));
    let mut kea = Kea::start_without_library(&wanted);
    for n in 0..200 {
        let lease = json!({ "ip-address": format!("10.0.1.{n}"), "hw-address": "0a:00:00:00:00:01", "subnet-id": 7 });
        kea.ask("lease4-add", &lease);
    }
    kea.add_library();
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 200);
    // The events of our own writes come back over the watch: they are no news.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    assert_eq!(kea.statistic("etcd-writes"), 200);
}

#[test]
fn a_lease_that_ends_without_its_record_takes_its_index_keys_along() {
    let etcd = Etcd::start();
    let wanted =
        Wanted::new(Family::V4, &etcd.url()).parameter("index", json!(["hw-address", "client-id", "hostname"]));
    let kea = Kea::start_connected(&wanted);
    let mut client = Client4::new(&kea, 1, 1);
    client.client_id = Some(vec![1, 2, 3]);
    client.hostname = Some("a.example".into());
    for spoilt in ["removed", "no record", "forged"] {
        let address = client.take();
        let records = assert_mirrored(&kea, &etcd);
        assert_eq!(index(&etcd).len(), 3);
        let key = format!("{LEASES}{address}");
        match spoilt {
            "removed" => etcd.ctl(&["del", &key]),
            "forged" => {
                let mut record = records[&address.to_string()].clone();
                record["hwaddr"] = json!("de:ad:00:00:00:00");
                record["hostname"] = json!("forged.example");
                etcd.ctl(&["put", &key, &record.to_string()])
            }
            _ => etcd.ctl(&["put", &key, spoilt]),
        };
        client.release(address);
        etcd.wait("no index keys", |etcd| index(etcd).is_empty());
        assert!(assert_mirrored(&kea, &etcd).is_empty());
    }
}

#[test]
fn a_record_of_an_earlier_life_takes_its_index_keys_along_when_somebody_spoils_it() {
    let etcd = Etcd::start();
    let mut kea = start(Family::V4, &etcd);
    let lease = |n: u8| json!({ "ip-address": "10.0.1.5", "hw-address": format!("0a:00:00:00:00:{n:02x}"), "subnet-id": 7, "valid-lft": 3600 });
    kea.ask("lease4-add", &lease(1));
    assert_mirrored(&kea, &etcd);
    kea.wait_log("ETCD_RESYNC", 1);
    kea.stop();
    kea.restart();
    kea.wait_log("ETCD_RESYNC", 2);
    // The lease changes hands before anybody has looked at what became of its record.
    etcd.ctl(&["put", &format!("{LEASES}10.0.1.5"), "no record"]);
    kea.ask("lease4-update", &lease(2));
    etcd.wait("one index key", |etcd| index(etcd) == ["hw-address/0a:00:00:00:00:02/10.0.1.5"]);
    assert_mirrored(&kea, &etcd);
}
