//! What an operator writes: the library's parameters, its commands, and the commands of Kea that it listens to. All of it
//! comes as JSON text that Kea made of what it had parsed.

use std::time::Duration;

use dhcp_etcd::commands;
use dhcp_etcd::comparison::Findings;
use dhcp_etcd::config::Config;
use dhcp_etcd::control::{Control, Done, Purpose};
use dhcp_etcd::counters::Counters;
use dhcp_etcd::index::Index;
use dhcp_etcd::lease_commands::named_addresses;
use dhcp_etcd::record::{LeaseKeys, v4};
use serde_json::{Value, json};

use super::NOW;

/// Takes the input for each of the three.
pub fn try_input(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    parameters(&text);
    own_command(&text);
    let Ok(value) = serde_json::from_str::<Value>(&text) else { return };
    for name in commands::NAMES {
        own_command(&json!({ "command": name, "arguments": value }).to_string());
    }
    lease_command(&value);
    keeps_the_password(&value);
}

/// They are taken with everything in its range, or refused with a text that says which one is wrong.
fn parameters(text: &str) {
    match Config::parse(text) {
        Ok(config) => accepted(&config),
        Err(error) => {
            let line = error.to_string();
            assert!(line.starts_with("parameter '"), "{line}");
            assert!(line.contains("': found ") && line.contains(", accepted is "), "{line}");
        }
    }
}

/// Whatever is wrong, what is said of it is the same with another password.
fn keeps_the_password(parameters: &Value) {
    let is_password = |value: &&mut Value| value.as_str().is_some_and(|text| !text.is_empty());
    let mut others = parameters.clone();
    let Some(password) = others.get_mut("password").filter(is_password) else { return };
    *password = "another".into();
    let said = |parameters: &Value| Config::parse(&parameters.to_string()).err().map(|error| error.to_string());
    assert_eq!(said(parameters), said(&others));
}

fn accepted(config: &Config) {
    assert!(!config.endpoints.is_empty());
    let (scheme, _) = config.endpoints[0].split_once("://").expect("a scheme comes first");
    assert!(["http", "https"].contains(&scheme), "{scheme}");
    assert_eq!(config.credentials.tls.is_some(), scheme == "https");
    for endpoint in &config.endpoints {
        let (same, host_and_port) = endpoint.split_once("://").expect("a scheme comes first");
        assert_eq!(same, scheme, "mixed");
        let (host, port) = host_and_port.rsplit_once(':').expect("a port follows the host");
        assert!(!host.is_empty() && !host.contains(['/', '@', '?', '#']), "{endpoint}");
        assert!(port.parse::<u16>().is_ok_and(|port| port != 0), "{endpoint}");
    }
    assert!(config.metrics_address.is_none_or(|address| address.port() != 0));
    let parts = config.prefix.strip_prefix('/').expect("a prefix begins with a slash");
    assert!(parts.split('/').all(|part| !part.is_empty()) && config.prefix.len() <= 1024, "{}", config.prefix);
    for name in [&config.prefix, &config.server_name] {
        assert!(!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()), "{name}");
    }
    assert!(!config.server_name.contains('/') && config.server_name.len() <= 255);
    let of_requests = Duration::from_millis(10)..=Duration::from_secs(600);
    assert!(of_requests.contains(&config.connect_timeout) && of_requests.contains(&config.request_timeout));
    assert!(config.flush_timeout <= Duration::from_secs(600));
    assert!((1..=16_777_216).contains(&config.queue_size));
    assert!((0..=31_536_000).contains(&config.expire_grace));
    let a_year = Duration::from_secs(31_536_000);
    assert!(config.resync_interval.is_none_or(|interval| !interval.is_zero() && interval <= a_year));
    for (at, kind) in config.index.iter().enumerate() {
        assert!(!config.index[..at].contains(kind), "{kind:?} twice");
    }
    let (keys, index) = (LeaseKeys::new(&config.prefix), Index::new(&config.prefix, &config.index));
    assert_eq!(keys.address(keys.of(v4(1)).as_bytes()), Some(v4(1)));
    assert_eq!(index.is_off(), config.index.is_empty());
}

/// It is answered in Kea's form at once; one that cannot be read, is not ours, or has other arguments than documented is
/// refused, and begins nothing.
fn own_command(text: &str) {
    let control = Control::default();
    let mut begun = Vec::new();
    let mut compare = || {
        while let Some((purpose, reason)) = control.next(false) {
            begun.push(purpose);
            let (took, findings) = (Duration::ZERO, Findings::default());
            control.finished(purpose, Done { at: NOW, took, reason, findings });
        }
    };
    let answer = commands::answer(text, NOW, &control, &Counters::default(), &mut compare);
    compare();
    assert!(answer["text"].as_str().is_some_and(|text| !text.is_empty()), "{answer}");
    let expected: &[Purpose] = match documented(text) {
        Some("etcd-status") => &[],
        Some("etcd-verify") => &[Purpose::Verify],
        Some(_) => &[Purpose::Resync],
        None => {
            assert_eq!(answer["result"], 1, "taken: {text}");
            &[]
        }
    };
    assert_eq!(begun, expected, "{text}");
    assert!(expected.is_empty() || answer["result"] == 0, "{answer}");
}

/// The name of a command that is ours and has only arguments that the README knows.
fn documented(text: &str) -> Option<&'static str> {
    let command: Value = serde_json::from_str(text).ok()?;
    let name = commands::NAMES.into_iter().find(|name| command["command"] == *name)?;
    let known = match command.get("arguments") {
        None | Some(Value::Null) => true,
        Some(Value::Object(arguments)) => {
            arguments.iter().all(|(key, value)| name == "etcd-resync" && key == "wait" && value.is_boolean())
        }
        Some(_) => false,
    };
    known.then_some(name)
}

/// Every address that is taken from it stands somewhere in it as an `ip-address`.
fn lease_command(arguments: &Value) {
    let mut there = Vec::new();
    collect(arguments, &mut there);
    for (address, _) in named_addresses(arguments) {
        assert!(there.contains(&Some(address)), "{address} is not in {arguments}");
    }
}

fn collect(value: &Value, addresses: &mut Vec<Option<std::net::IpAddr>>) {
    match value {
        Value::Object(map) => {
            addresses.extend(map.get("ip-address").and_then(Value::as_str).map(|text| text.parse().ok()));
            map.values().for_each(|value| collect(value, addresses));
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, addresses)),
        _ => {}
    }
}
