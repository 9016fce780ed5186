//! What stands in etcd, whoever wrote it: keys and values of any bytes, below the prefix or not.
//!
//! An input is eight bytes of circumstances, then keys and values in turn, with a byte 0xff after each. A key that does
//! not begin with a slash stands below `leases/`.

use std::net::IpAddr;

use arbitrary::Unstructured;
use dhcp_etcd::etcd::found_key;
use dhcp_etcd::guard::{Found, FoundKey, Verdict, decide};
use dhcp_etcd::lease::{Change, Family, Identifier, Lease, LeaseType, Operation, Protocol, Row};
use dhcp_etcd::record::{Content, Identifiers, Summary, age, to_json};
use dhcp_etcd::writer::{Known, Plan};
use serde_json::Value;

use super::store::{Store, check, finding, kinds, writer};
use super::{GRACE, NOW, SERVER};

/// What is not in the keys and values.
struct Circumstances {
    /// One bit each.
    switches: u16,
    /// Seconds by which our leases are newer than the records that they are made of.
    newer: i8,
    /// The etcd lease of the keys that do not hang on the right one.
    etcd_lease: u8,
    /// What is remembered of a key.
    known: u32,
}

/// See the module.
pub fn try_input(input: &[u8]) {
    let mut bytes = Unstructured::new(input);
    let circumstances = Circumstances {
        switches: bytes.arbitrary().unwrap_or_default(),
        newer: bytes.arbitrary().unwrap_or_default(),
        etcd_lease: bytes.arbitrary().unwrap_or_default(),
        known: bytes.arbitrary().unwrap_or_default(),
    };
    let switch = |bit: u8| circumstances.switches >> bit & 1 == 1;
    let family = if switch(0) { Family::V6 } else { Family::V4 };
    let [_, bits] = circumstances.switches.to_le_bytes();
    let mut store = Store::new(writer(family, &kinds(bits), switch(1)), family);
    let mut parts = bytes.take_rest().split(|byte| *byte == 0xff);
    while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
        let differs = switch(5).then_some((circumstances.newer.into(), switch(6)));
        put(&mut store, key, value, switch(2).then_some(circumstances.etcd_lease), differs);
    }
    let leases: Vec<Lease> = store.leases.values().cloned().collect();
    if switch(3) {
        // Every other lease is gone.
        for lease in leases.iter().step_by(2) {
            store.leases.remove(&lease.address);
        }
    }
    for lease in &leases {
        changes(&store, lease, &leases, &circumstances);
    }
    store.compare(leases.first().map(|lease| lease.address));
    store.converge(switch(4));
    agrees(&store);
}

/// Puts a key. When it is a record that says what a lease of ours might be, that lease is in our database too, or one that
/// `differs`: newer by so many seconds, and perhaps otherwise.
fn put(store: &mut Store, key: &[u8], value: &[u8], etcd_lease: Option<u8>, differs: Option<(i64, bool)>) {
    let key = if key.starts_with(b"/") { key.to_vec() } else { [store.writer.keys.base().as_bytes(), key].concat() };
    let lease = lease_of(value);
    let fitting = || {
        let (lifetime, lease) = (store.writer.lifetime.as_ref()?, lease.as_ref()?);
        Some(lifetime.window(lease.expires_at(), NOW)?.id)
    };
    let hangs_on = etcd_lease.map_or_else(|| fitting().unwrap_or(0), i64::from);
    store.put(&key, value, hangs_on);
    if let Some(address) = store.writer.keys.address(&key) {
        assert_eq!(store.writer.keys.of(address).as_bytes(), key, "not canonical");
        if let Some(lease) = lease.filter(|lease| lease.is_held() && store.family.has(address)) {
            let (newer, otherwise) = differs.unwrap_or_default();
            let (cltt, fqdn_fwd) = ((lease.cltt + newer).clamp(0, u32::MAX.into()), lease.fqdn_fwd ^ otherwise);
            store.leases.insert(address, Lease { address, cltt, fqdn_fwd, ..lease });
        }
    }
    if store.writer.index.address(&key).is_some() {
        assert!(key.starts_with(store.writer.index.base().as_bytes()));
    }
    read_back(value);
}

/// A record in our own form says what the lease says that it describes, and no other value does.
fn read_back(value: &[u8]) {
    let summary = Summary::parse(value);
    let in_form = summary.as_ref().and_then(|summary| summary.content);
    if in_form.is_some() {
        assert!(value.starts_with(b"{\"ip\":\"") && !value.contains(&b'\n'));
    }
    let Some(lease) = lease_of(value) else { return };
    let Ok(json) = serde_json::from_slice::<Value>(value) else { return };
    let told = |operation: &Operation| json["operation"] == operation.name();
    let Some(operation) = OPERATIONS.into_iter().find(told) else { return };
    let (relay, server) = (json["relay_ip"].as_str().and_then(|text| text.parse().ok()), json["server"].as_str());
    let (Some(timestamp), Some(server)) = (json["timestamp"].as_i64(), server) else { return };
    if to_json(&lease, operation, relay, timestamp, server) == value {
        assert_eq!(in_form, Some(Content::of(&lease)), "{json}");
        assert_eq!(summary.map(|summary| summary.identifiers), Some(Identifiers::of(&lease)), "{json}");
    }
}

const OPERATIONS: [Operation; 8] = [
    Operation::Offer,
    Operation::Renew,
    Operation::Rebind,
    Operation::Decline,
    Operation::Recover,
    Operation::Add,
    Operation::Update,
    Operation::Sync,
];

/// Changes of the lease's address, decided on what every key holds.
fn changes(store: &Store, lease: &Lease, all: &[Lease], circumstances: &Circumstances) {
    let newer = Lease { cltt: lease.cltt.saturating_add(circumstances.newer.into()), ..lease.clone() };
    let (owner, timestamp) = (newer.owner(), newer.cltt);
    let changes = [
        finding(Some(&newer)),
        finding(None),
        Change { timestamp, queued: None, operation: Operation::Renew, row: Row::Held { lease: newer, relay: None } },
        Change { timestamp: NOW, queued: None, operation: Operation::Update, row: Row::Gone { owner: Some(owner) } },
    ];
    let others: Vec<Identifiers> = all.iter().take(16).map(Identifiers::of).collect();
    let left: Vec<&Identifiers> = others.iter().collect();
    let known = Known { revision: circumstances.known.into(), indexed: 0 };
    let at = |other: &Lease| store.found(other.address);
    let found = all.iter().take(16).map(at).chain([Found { as_of: 1, key: None }]);
    for (change, found) in changes.iter().flat_map(|change| found.clone().map(move |found| (change, found))) {
        decided(change, &found);
        for (known, found) in [(None, Some(&found)), (Some(known), None), (None, None)] {
            if let Plan::Write(write) = store.writer.plan(lease.address, change, known, found, &left, NOW) {
                check(&store.writer, lease.address, &write);
            }
        }
    }
}

/// Nobody else's record is removed unless the change is about that lease or the record is past its end, and none is
/// replaced by an older one.
fn decided(change: &Change, found: &Found) {
    let verdict = decide(change, SERVER, GRACE, found);
    let Some(FoundKey { record: Some(record), .. }) = &found.key else { return };
    match &change.row {
        _ if record.server == SERVER => assert_ne!(verdict, Verdict::Contest),
        Row::Gone { owner } if verdict == Verdict::Write => {
            let is_it = owner.as_ref().is_some_and(|owner| record.is_about(owner));
            assert!(is_it || record.expires_at.is_some_and(|end| end < change.timestamp));
        }
        Row::Held { lease, .. } if matches!(verdict, Verdict::Write | Verdict::Contest) => {
            assert!(age(record.cltt) <= age(lease.cltt));
        }
        Row::Gone { .. } | Row::Held { .. } => {}
    }
}

/// After a comparison every lease has our record of it or another server's that is no older.
fn agrees(store: &Store) {
    for lease in store.leases.values().filter(|lease| !store.writer.may_have_vanished(lease.expires_at(), NOW)) {
        let key = store.get(store.writer.keys.of(lease.address).as_bytes()).map(found_key);
        let record = key.and_then(|key| key.record).expect("a lease has a record");
        let same = record.content == Some(Content::of(lease));
        assert!(same || (record.server != SERVER && age(record.cltt) >= age(lease.cltt)), "{lease:?}");
    }
}

/// The lease that a value might be the record of.
fn lease_of(value: &[u8]) -> Option<Lease> {
    let json: Value = serde_json::from_slice(value).ok()?;
    let number = |name: &str| json[name].as_u64().and_then(|number| u32::try_from(number).ok());
    let identifier = |name: &str| json[name].as_str().map_or(Some(Identifier::new()), bytes);
    let address: IpAddr = json["ip"].as_str()?.parse().ok()?;
    let protocol = match address {
        IpAddr::V4(_) => Protocol::V4 { client_id: identifier("client_id")? },
        IpAddr::V6(_) => Protocol::V6 {
            lease_type: LeaseType::from_name(json["type"].as_str()?)?,
            prefix_len: u8::try_from(number("prefix_len")?).ok()?,
            duid: identifier("duid")?,
            iaid: number("iaid")?,
            preferred_lft: number("preferred_lft")?,
        },
    };
    Some(Lease {
        address,
        state: number("state")?,
        hwaddr: identifier("hwaddr")?,
        protocol,
        hostname: json["hostname"].as_str().unwrap_or_default().as_bytes().into(),
        fqdn_fwd: json["fqdn_fwd"].as_bool()?,
        fqdn_rev: json["fqdn_rev"].as_bool()?,
        subnet_id: number("subnet_id")?,
        pool_id: number("pool_id").unwrap_or(0),
        // Kea takes none from before 1970. A comparison tells no times after 2106 apart.
        cltt: number("cltt")?.into(),
        valid_lft: number("valid_lft")?,
        user_context: json.get("user_context").map(Value::to_string).unwrap_or_default().into(),
    })
}

fn bytes(hex: &str) -> Option<Identifier> {
    hex.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect()
}
