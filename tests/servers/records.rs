//! What the record of a lease should be, by what Kea's own commands tell of the lease.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Whether a lease of `lease4-get-all` or `lease6-get-all` is held: assigned, declined or registered.
pub fn is_held(lease: &Value) -> bool {
    // 2 is expired-reclaimed, 3 released (Kea 3.0); a lifetime of 0 means released in Kea 2.6.
    !matches!(lease["state"].as_u64(), Some(2 | 3)) && lease["valid-lft"] != 0
}

/// How records differ from those that the leases should have, if they do; both by address.
pub fn difference(leases: &BTreeMap<String, Value>, records: &BTreeMap<String, Value>) -> Option<String> {
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
pub fn assert_form(address: &str, text: &str) {
    assert!(text.starts_with(&format!(r#"{{"ip":"{address}","operation":""#)), "{text}");
    let compact: Value = serde_json::from_str(text).unwrap();
    assert_eq!(compact.to_string(), text, "compact, in the documented order");
}

/// A record without what Kea's lease database does not tell.
fn comparable(record: &Value) -> Value {
    let mut record = record.clone();
    // Somebody else's value is nothing that a lease could equal.
    let Some(fields) = record.as_object_mut() else { return record };
    let Some(operation) = fields.remove("operation") else { return record };
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
pub fn expected(server: &Value, lease: &Value) -> (String, Value) {
    let mut record = json!({
        "server": server,
        "ip": lease["ip-address"], "state": lease["state"], "subnet_id": lease["subnet-id"], "cltt": lease["cltt"],
        "valid_lft": lease["valid-lft"], "fqdn_fwd": lease["fqdn-fwd"], "fqdn_rev": lease["fqdn-rev"],
    });
    for (field, key) in [("client_id", "client-id"), ("hwaddr", "hw-address"), ("user_context", "user-context")] {
        if lease.get(key).is_some_and(|value| *value != "") {
            record[field] = lease[key].clone();
        }
    }
    if lease["pool-id"].as_u64().is_some_and(|pool| pool != 0) {
        record["pool_id"] = lease["pool-id"].clone();
    }
    if lease["hostname"] != "" {
        record["hostname"] = json!(hostname(lease["hostname"].as_str().unwrap()));
    }
    if lease["valid-lft"] != u32::MAX {
        record["expires_at"] = json!(lease["cltt"].as_i64().unwrap() + lease["valid-lft"].as_i64().unwrap());
    }
    if lease.get("duid").is_some() {
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
