//! Somebody with rights below the prefix writes what no server writes. DHCP goes on, and in the end etcd holds what Kea
//! holds beside it.

use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use etcd_client::Client;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::client4::Client4;
use crate::comparison::{assert_verified, resync, verify};
use crate::etcd::{Etcd, Flags, LEASES};
use crate::kea::{Family, Kea, Wanted};
use crate::mirrored::difference;

/// Bytes: a little below what etcd takes by default (1.5 MiB).
const LARGEST: usize = 1_500_000;

const FORGER: &str = "de:ad:00:00:00:01";

struct Attacker {
    runtime: Runtime,
    etcd: Client,
}

impl Attacker {
    fn of(etcd: &Etcd) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(Client::connect([etcd.url()], None)).unwrap();
        Self { runtime, etcd: client }
    }

    fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.runtime.block_on(self.etcd.put(key, value, None)).unwrap();
    }

    fn remove(&mut self, key: impl Into<Vec<u8>>) {
        self.runtime.block_on(self.etcd.delete(key, None)).unwrap();
    }
}

/// A record with these times, as text, so that numbers may be such as no type holds.
fn forged(address: &str, server: &str, cltt: &str, timestamp: &str) -> String {
    format!(
        r#"{{"ip":"{address}","operation":"offer","state":0,"hwaddr":"{FORGER}","fqdn_fwd":false,"fqdn_rev":false,"subnet_id":7,"cltt":{cltt},"valid_lft":3600,"expires_at":{cltt},"timestamp":{timestamp},"server":"{server}"}}"#
    )
}

/// Values that are not what they should be: no UTF-8, too deep, too large, or with numbers beyond everything.
fn values(address: &str) -> Vec<Vec<u8>> {
    let deep = "[".repeat(200_000);
    let record = forged(address, "other", "1", "1");
    let mut values = vec![
        vec![0xff, 0xfe, 0],
        deep.clone().into(),
        format!(r#"{},"user_context":{deep}"#, record.trim_end_matches('}')).into(),
        format!(r#"{},"x":"{}"}}"#, record.trim_end_matches('}'), "y".repeat(LARGEST)).into(),
        vec![b'x'; LARGEST],
    ];
    for number in ["-1", "9223372036854775807", "-9223372036854775808", "18446744073709551615", "1e999", "1.5", "null"]
    {
        for server in ["other", "test"] {
            values.push(forged(address, server, number, number).into());
            values.push(forged(address, server, "1", number).into());
        }
    }
    values
}

/// Waits until etcd's records of this server are Kea's leases, and the library says so too.
fn assert_right(kea: &mut Kea, etcd: &Etcd) {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let mut records = etcd.records();
        records.retain(|_, record| record["server"] == "test" && record["hwaddr"] != FORGER);
        let Some(difference) = difference(&[kea], &records) else { break };
        assert!(Instant::now() < until, "{difference}");
        sleep(Duration::from_millis(50));
    }
    kea.assert_alive();
    assert!(!kea.log().contains("ETCD_BUG"), "{}", kea.log());
}

#[test]
fn hostile_records_and_keys_change_nothing_for_clients_and_are_put_right() {
    let etcd = Etcd::start_with("", Flags { quota: 512 * 1024 * 1024, ..Flags::default() });
    let wanted = Wanted::new(Family::V4, &etcd.url()).parameter("index", json!(["hw-address", "hostname"]));
    let mut kea = Kea::start_connected(&wanted);
    let mut attacker = Attacker::of(&etcd);
    let mut client = Client4::new(&kea, 1, 1);
    let held: Vec<Ipv4Addr> = (1..=3)
        .map(|number| {
            client.become_client(number);
            client.take()
        })
        .collect();
    assert_right(&mut kea, &etcd);
    let nobodys = "10.0.200.200";
    let mut number = 100;
    for value in values(&held[0].to_string()) {
        attacker.put(format!("{LEASES}{}", held[0]), value.clone());
        attacker.put(format!("{LEASES}{nobodys}"), value);
        // Who comes meanwhile is served, and so is who holds the address.
        number += 1;
        client.become_client(number);
        client.take();
        client.become_client(1);
        client.renew(held[0]);
        attacker.remove(format!("{LEASES}{nobodys}"));
        assert_right(&mut kea, &etcd);
    }
    // Without a change of the lease too.
    for value in values(&held[1].to_string()) {
        attacker.put(format!("{LEASES}{}", held[1]), value);
        assert_right(&mut kea, &etcd);
    }
}

#[test]
fn hostile_keys_in_great_number_change_nothing_for_clients() {
    let etcd = Etcd::start_with("", Flags { quota: 512 * 1024 * 1024, ..Flags::default() });
    let mut kea = Kea::start_connected(
        &Wanted::new(Family::V4, &etcd.url()).parameter("index", json!(["hw-address", "hostname"])),
    );
    let mut attacker = Attacker::of(&etcd);
    let mut client = Client4::new(&kea, 1, 1);
    let address = client.take();
    assert_right(&mut kea, &etcd);
    // No text, no address, an address in another spelling, a very long one.
    let mut keys: Vec<Vec<u8>> =
        vec![b"\xff\xfe/\x00\n".to_vec(), b"".to_vec(), b"\xff".repeat(3), vec![b'9'; 100_000]];
    keys.extend(
        ["10.0.1.001", "::ffff:10.0.1.1", "10.0.1.1/32", "../leases/10.0.1.1"].map(|key| key.as_bytes().to_vec()),
    );
    for base in [LEASES, "/nnoe/dhcp/index/", "/nnoe/dhcp/index/hw-address/"] {
        for key in &keys {
            attacker.put([base.as_bytes(), key].concat(), "x");
        }
        etcd.flood(&format!("{base}flood-"), 3000);
    }
    // More in a page than the client takes at once.
    for host in 0..20 {
        attacker.put(format!("{LEASES}10.0.240.{host}"), vec![b'x'; LARGEST]);
    }
    for number in 2..20 {
        client.become_client(number);
        client.take();
    }
    // An IPv6 address is for kea-dhcp6 to judge. What the watch has looked at is not counted at once.
    let wanted = 3000 + keys.len() - 1 + 20;
    let until = Instant::now() + Duration::from_secs(60);
    while verify(&kea)["foreign"] != wanted {
        assert!(Instant::now() < until, "{} instead of {wanted}", verify(&kea));
    }
    client.become_client(1);
    client.renew(address);
    // The tests read everything again and again.
    for host in 0..20 {
        attacker.remove(format!("{LEASES}10.0.240.{host}"));
    }
    assert_right(&mut kea, &etcd);
    // An index key that belongs to no record is removed by a comparison.
    assert_eq!(resync(&kea)["extra"], 1);
    let forged = "/nnoe/dhcp/index/hw-address/../leases/10.0.1.1";
    etcd.wait("the end of a forged index key", |etcd| etcd.range(forged).is_empty());
    assert_verified(&kea);
}

#[test]
fn forged_presence_keys_change_nothing_for_clients_and_are_put_right() {
    let etcd = Etcd::start();
    let mut kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()));
    let mut attacker = Attacker::of(&etcd);
    let mut client = Client4::new(&kea, 1, 1);
    let ours = "/nnoe/dhcp/servers/test/dhcp4";
    for (number, value) in [(1, "x"), (2, "{}"), (3, ""), (4, r#"{"state":"synced","leases":-1}"#)] {
        attacker.put(ours, value);
        attacker.put(format!("{ours}/more"), value);
        attacker.put("/nnoe/dhcp/servers/", value);
        client.become_client(number);
        client.renew(client.take());
        assert_right(&mut kea, &etcd);
    }
    attacker.remove(ours);
    client.become_client(5);
    client.take();
    assert_right(&mut kea, &etcd);
    etcd.wait("our presence", |etcd| etcd.range(ours).get(ours).is_some_and(|json| json.contains(r#""kea_version""#)));
}
