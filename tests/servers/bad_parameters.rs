//! Kea does not start on bad parameters, and its log says which, what it found and what it takes.

use serde_json::{Value, json};

use crate::etcd::Etcd;
use crate::kea::{Family, Kea, Wanted};

pub fn refused(family: Family, parameters: Value, line: &str) {
    let mut wanted = Wanted::new(family, "");
    wanted.parameters = parameters;
    let mut kea = Kea::spawn(&wanted);
    let status = kea.wait_end();
    assert!(!status.success(), "Kea started on {}", wanted.parameters);
    let log = kea.log();
    assert!(log.contains("ETCD_BAD_PARAMETER") && log.contains(line), "the log lacks {line}:\n{log}");
}

#[test]
fn kea_does_not_start_and_says_why() {
    for (parameters, line) in [
        (
            json!({ "endpoint": ["http://127.0.0.1:1"] }),
            "parameter 'endpoint': found an unknown name, accepted is one of",
        ),
        (json!({ "endpoints": [] }), "parameter 'endpoints': found [], accepted is a list of at least one URL"),
        (json!({ "endpoints": ["127.0.0.1:2379"] }), "parameter 'endpoints': found \"127.0.0.1:2379\""),
        (
            json!({ "endpoints": ["https://127.0.0.1:1"] }),
            "parameter 'trust-anchor': found nothing, and https endpoints",
        ),
        (json!({ "prefix": "nnoe" }), "parameter 'prefix': found \"nnoe\", accepted is"),
        (json!({ "server-name": "" }), "parameter 'server-name': found \"\", accepted is"),
        (
            json!({ "connect-timeout": 0 }),
            "parameter 'connect-timeout': found 0, accepted is a whole number of milliseconds",
        ),
        (json!({ "request-timeout": "1s" }), "parameter 'request-timeout': found \"1s\", accepted is"),
        (json!({ "queue-size": -5 }), "parameter 'queue-size': found -5, accepted is a whole number of addresses"),
        (json!({ "flush-timeout": true }), "parameter 'flush-timeout': found true, accepted is"),
        (json!({ "expire-keys": 1 }), "parameter 'expire-keys': found 1, accepted is true or false"),
        (json!({ "expire-grace": -1 }), "parameter 'expire-grace': found -1, accepted is a whole number of seconds"),
        (json!({ "resync-interval": "1h" }), "parameter 'resync-interval': found \"1h\", accepted is"),
        (json!({ "index": ["mac"] }), "parameter 'index': found \"mac\", accepted is a list of hw-address, client-id"),
        (
            json!({ "metrics-address": "::1" }),
            "parameter 'metrics-address': found \"::1\", accepted is an IP address and a port",
        ),
    ] {
        refused(Family::V4, parameters, line);
    }
    refused(Family::V6, json!({ "queue-size": 1.5 }), "parameter 'queue-size': found 1.5");
}

/// A bad parameter in a new configuration leaves Kea without the libraries, as with any library that does not load; the
/// good configuration brings them back.
#[test]
fn a_bad_reload_is_told_and_a_good_one_mends_it() {
    let etcd = Etcd::start();
    let mut kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()));
    let good = kea.config();
    let mut bad = good.clone();
    bad["Dhcp4"]["hooks-libraries"][1]["parameters"]["queue-size"] = json!("many");
    let answer = kea.command(&json!({ "command": "config-set", "arguments": bad }));
    // 1, or 5 (fatal) from Kea 3.0.4 on.
    assert_ne!(answer["result"], 0, "{answer}");
    kea.wait_log("parameter 'queue-size': found \"many\"", 1);
    kea.ask("config-set", &good);
    kea.wait_log("ETCD_CONNECTED", 2);
}
