//! The invariant: etcd holds exactly Kea's lease database, field by field.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::etcd::Etcd;
use crate::kea::{Family, Kea};

/// Waits until etcd holds exactly Kea's leases; the records then, by address.
pub fn assert_mirrored(kea: &Kea, etcd: &Etcd) -> BTreeMap<String, Value> {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let records = etcd.records();
        match difference(&[kea], &records) {
            None => {
                for (address, text) in etcd.values() {
                    assert_form(&address, &text);
                }
                return records;
            }
            Some(difference) => assert!(Instant::now() < until, "{difference}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How records differ from what servers hold, if they do.
pub fn difference(servers: &[&Kea], records: &BTreeMap<String, Value>) -> Option<String> {
    let leases: BTreeMap<String, Value> =
        servers.iter().flat_map(|kea| kea.leases().into_iter().map(|lease| expected(kea, &lease))).collect();
    let held: BTreeMap<String, Value> =
        records.iter().map(|(address, record)| (address.clone(), comparable(record))).collect();
    let addresses = leases.keys().chain(held.keys().filter(|address| !leases.contains_key(*address)));
    let lines: Vec<String> = addresses
        .map(|address| (address, leases.get(address), held.get(address)))
        .filter(|(_, lease, record)| lease != record)
        .map(|(address, lease, record)| format!("{address}: Kea holds {lease:?}, etcd {record:?}"))
        .collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// What readers with `grep` rely on.
fn assert_form(address: &str, text: &str) {
    assert!(text.starts_with(&format!(r#"{{"ip":"{address}","operation":""#)), "{text}");
    let compact: Value = serde_json::from_str(text).unwrap();
    assert_eq!(compact.to_string(), text, "compact, in the documented order");
}

/// A record without what Kea's lease database does not tell.
fn comparable(record: &Value) -> Value {
    let mut record = record.clone();
    // Somebody else's value is nothing that a lease could equal.
    let Some(fields) = record.as_object_mut() else { return record };
    let operation = fields.remove("operation").unwrap();
    assert!(
        ["offer", "renew", "rebind", "decline", "recover", "add", "update", "sync"]
            .iter()
            .any(|name| operation == *name)
    );
    let timestamp = fields.remove("timestamp").unwrap().as_i64().unwrap();
    assert!(timestamp > 1_700_000_000, "{timestamp}");
    fields.remove("relay_ip");
    // Compared as a set of fields.
    fields.sort_keys();
    record
}

/// The record that a lease of `lease4-get-all` or `lease6-get-all` should have.
fn expected(kea: &Kea, lease: &Value) -> (String, Value) {
    let mut record = json!({
        "server": kea.name(),
        "ip": lease["ip-address"], "state": lease["state"], "subnet_id": lease["subnet-id"], "cltt": lease["cltt"],
        "valid_lft": lease["valid-lft"], "fqdn_fwd": lease["fqdn-fwd"], "fqdn_rev": lease["fqdn-rev"],
    });
    for (field, key) in [("client_id", "client-id"), ("hwaddr", "hw-address"), ("user_context", "user-context")] {
        if lease.get(key).is_some_and(|value| *value != "") {
            record[field] = lease[key].clone();
        }
    }
    if lease["hostname"] != "" {
        record["hostname"] = json!(hostname(lease["hostname"].as_str().unwrap()));
    }
    if lease["valid-lft"] != u32::MAX {
        record["expires_at"] = json!(lease["cltt"].as_i64().unwrap() + lease["valid-lft"].as_i64().unwrap());
    }
    if kea.family == Family::V6 {
        record["type"] = lease["type"].clone();
        record["prefix_len"] = lease.get("prefix-len").cloned().unwrap_or(json!(128));
        for (field, key) in [("duid", "duid"), ("iaid", "iaid"), ("preferred_lft", "preferred-lft")] {
            record[field] = lease[key].clone();
        }
    }
    record.as_object_mut().unwrap().sort_keys();
    (lease["ip-address"].as_str().unwrap().to_owned(), record)
}

/// Kea's JSON has one character for each byte of a host name; records keep UTF-8 where the bytes are that.
fn hostname(kea: &str) -> String {
    let bytes: Vec<u8> = kea.chars().map(|character| u8::try_from(u32::from(character)).unwrap()).collect();
    String::from_utf8(bytes).unwrap_or_else(|_| kea.to_owned())
}
