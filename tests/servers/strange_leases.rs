//! Leases that one rarely sees: without identifiers, without end, with any bytes.

use dhcproto::v4::{DhcpOption, OptionCode, UnknownOption};
use serde_json::json;

use crate::client4::Client4;
use crate::comparison::verify;
use crate::etcd::Etcd;
use crate::kea::{Family, Kea, Wanted};
use crate::mirrored::assert_mirrored;

#[test]
fn an_infinite_lease_has_no_end() {
    let etcd = Etcd::start();
    let kea = Kea::start(&Wanted::new(Family::V4, &etcd.url()).more(json!({ "valid-lifetime": 4_294_967_295_u32 })));
    let address = Client4::new(&kea, 1, 1).take().to_string();
    let records = assert_mirrored(&kea, &etcd);
    assert_eq!(records[&address]["valid_lft"], u32::MAX);
    assert!(records[&address].get("expires_at").is_none());
}

/// Kea's commands take any number for the end of a lease, milliseconds by mistake for one.
#[test]
fn a_lease_that_ends_in_fifty_thousand_years_keeps_no_other_out() {
    let etcd = Etcd::start();
    let kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()));
    for (number, end) in [(1, 1_760_000_000_000_u64), (2, 1 << 38), (3, 9_000_000_000), (4, i64::MAX as u64)] {
        let lease = json!({
            "ip-address": format!("10.0.1.{number}"), "hw-address": "0a:00:00:00:00:01", "subnet-id": 7, "expire": end,
        });
        kea.command(&json!({ "command": "lease4-add", "arguments": lease }));
    }
    let held = kea.leases().len();
    assert!(held >= 3, "Kea took {held} of them");
    Client4::new(&kea, 1, 1).take();
    assert_eq!(assert_mirrored(&kea, &etcd).len(), held + 1);
    let found = verify(&kea);
    assert_eq!([&found["missing"], &found["different"], &found["extra"]], [0, 0, 0], "{found}");
}

#[test]
fn host_names_of_any_bytes_make_valid_records() {
    let etcd = Etcd::start();
    let kea = Kea::start(&Wanted::new(Family::V4, &etcd.url()).more(json!({ "hostname-char-set": "" })));
    let mut client = Client4::new(&kea, 1, 0);
    let names: [&[u8]; 5] = [b"b\xc3\xbcro", b"a\xff\xfeb", b"quote\"back\\slash", b"tab\there", b"<script>&'"];
    for (number, name) in (1..).zip(names) {
        client.become_client(number);
        client.options = vec![DhcpOption::Unknown(UnknownOption::new(OptionCode::Hostname, name.to_vec()))];
        client.take();
    }
    assert_eq!(assert_mirrored(&kea, &etcd).len(), names.len());
}

#[test]
fn user_contexts_are_embedded() {
    let etcd = Etcd::start();
    let kea = Kea::start(&Wanted::new(Family::V4, &etcd.url()));
    let contexts = [
        json!({ "site": "Zürich", "tags": ["a b", "\"", "\\"], "deep": { "n": 1, "f": 1.5, "t": true, "z": null } }),
        json!({ "x".repeat(200): "y".repeat(20_000) }),
    ];
    for (number, context) in contexts.iter().enumerate() {
        let lease = json!({
            "ip-address": format!("10.0.1.{number}"), "hw-address": "0a:00:00:00:00:01", "subnet-id": 7,
            "client-id": "ff:01", "user-context": context,
        });
        kea.ask("lease4-add", &lease);
    }
    assert_eq!(assert_mirrored(&kea, &etcd).len(), contexts.len());
}

#[test]
fn a_record_that_etcd_does_not_take_is_named_and_keeps_no_other_out() {
    let etcd = Etcd::start();
    let mut kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()));
    etcd.hang();
    let lease = |number: u32| json!({ "ip-address": format!("10.0.1.{number}"), "hw-address": "0a:00:00:00:00:01", "subnet-id": 7 });
    let mut huge = lease(50);
    // More than etcd's default --max-request-bytes.
    huge["user-context"] = json!({ "x": "y".repeat(1_700_000) });
    for number in 0..100 {
        kea.ask("lease4-add", &if number == 50 { huge.clone() } else { lease(number) });
    }
    etcd.resume();
    kea.wait_log("ETCD_RECORD_REFUSED", 1);
    assert!(kea.log().contains("10.0.1.50"));
    kea.ask("lease4-del", &json!({ "ip-address": "10.0.1.50" }));
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 99);
}
