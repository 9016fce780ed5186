//! What operators ask and look at: the library's commands, the presence key.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client4::Client4;
use crate::comparison::{resync, verify};
use crate::etcd::{Etcd, LEASES};
use crate::kea::{Family, Kea, Wanted};
use crate::mirrored::assert_mirrored;
use crate::ports;

const PRESENCE: &str = "/nnoe/dhcp/servers/test/dhcp4";

fn presence(etcd: &Etcd) -> Option<Value> {
    let text = etcd.ctl(&["get", PRESENCE, "--print-value-only"]);
    (!text.is_empty()).then(|| serde_json::from_str(&text).unwrap())
}

fn wait_presence(etcd: &Etcd, wanted: impl Fn(Option<&Value>) -> bool) -> Option<Value> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let presence = presence(etcd);
        if wanted(presence.as_ref()) {
            return presence;
        }
        assert!(Instant::now() < until, "{presence:?}");
        sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_running_server_is_present_and_one_that_is_gone_is_not() {
    let etcd = Etcd::start();
    let mut kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()));
    let synced = |presence: Option<&Value>| presence.is_some_and(|presence| presence["state"] == "synced");
    let first = wait_presence(&etcd, synced).unwrap();
    assert_eq!(first["kea_version"], kea.version());
    assert!(first["started_at"].as_i64() > Some(1_700_000_000) && first["synced_at"].is_i64(), "{first}");
    let mut client = Client4::new(&kea, 1, 0);
    for number in 0..5 {
        client.become_client(number);
        client.take();
    }
    wait_presence(&etcd, |presence| presence.is_some_and(|presence| presence["leases"] == 5));
    // Put back when somebody removes it, at the latest with the next write.
    etcd.ctl(&["del", PRESENCE]);
    client.become_client(100);
    client.take();
    wait_presence(&etcd, synced);
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 6);
    kea.stop();
    assert_eq!(presence(&etcd), None, "a server that ends says so at once");
    kea.restart();
    wait_presence(&etcd, synced);
    kea.signal("KILL");
    kea.wait_end();
    wait_presence(&etcd, |presence| presence.is_none());
}

#[test]
fn status_resync_and_verify_tell_what_is_found() {
    let etcd = Etcd::start();
    let kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()));
    let client = Client4::new(&kea, 1, 1);
    let address = client.take().to_string();
    assert_mirrored(&kea, &etcd);
    kea.wait_statistic("etcd-resyncs", 1);

    let done = resync(&kea);
    assert_eq!((&done["missing"], &done["leases"]), (&json!(0), &json!(1)), "{done}");
    kea.wait_statistic("etcd-resyncs", 2);

    let status = kea.ask("etcd-status", &Value::Null);
    assert_eq!((&status["connection"], &status["endpoint"]), (&json!("up"), &json!(etcd.url())), "{status}");
    assert_eq!((&status["unwritten"], &status["state"]), (&json!(0), &json!("synced")));
    assert_eq!(status["last-resync"]["reason"], "command");
    assert!(status["counters"]["etcd-writes"].as_i64() >= Some(1));

    // What a verification finds it does not mend: etcd is hung while the records are changed, so nobody else does.
    let found = verify(&kea);
    assert_eq!((&found["extra"], &found["records"]), (&json!(0), &json!(1)), "{found}");
    let bad = kea.command(&json!({ "command": "etcd-verify", "arguments": { "repair": true } }));
    assert_eq!(bad["result"], 1, "{bad}");
    assert!(etcd.records().contains_key(&address));
}

#[test]
fn commands_are_answered_at_once_whatever_etcd_does() {
    let mut etcd = Etcd::start();
    let kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()).parameter("request-timeout", json!(1000)));
    let client = Client4::new(&kea, 1, 1);
    client.take();
    assert_mirrored(&kea, &etcd);
    let timed = |command: Value| {
        let started = Instant::now();
        let answer = kea.command(&command);
        (answer, started.elapsed())
    };
    for state in ["hung", "dead"] {
        if state == "hung" {
            etcd.hang();
        } else {
            etcd.kill();
        }
        let (status, took) = timed(json!({ "command": "etcd-status" }));
        assert_eq!(status["result"], 0);
        println!("etcd {state}: status in {took:?}");
        let (resync, took) = timed(json!({ "command": "etcd-resync" }));
        assert_eq!(resync["result"], 0);
        println!("etcd {state}: resync in {took:?}");
        let (verify, took) = timed(json!({ "command": "etcd-verify" }));
        assert_eq!(verify["result"], 1, "{verify}");
        println!("etcd {state}: verify in {took:?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
        let (resync, took) = timed(json!({ "command": "etcd-resync", "arguments": { "wait": true } }));
        assert_eq!(resync["result"], 1, "{resync}");
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
    let (status, _) = timed(json!({ "command": "etcd-status" }));
    assert_ne!(status["arguments"]["connection"], "up", "{status}");
    assert!(status["arguments"]["last-error"]["text"].is_string(), "{status}");
    etcd.restart();
    assert_eq!(verify(&kea)["missing"], 0);
}

#[test]
fn without_etcd_status_says_what_is_wrong() {
    let url = format!("http://127.0.0.1:{}", ports::free());
    let mut kea = Kea::start(&Wanted::new(Family::V4, &url));
    kea.wait_log("ETCD_UNREACHABLE", 1);
    Client4::new(&kea, 1, 1).take();
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let status = kea.ask("etcd-status", &Value::Null);
        if status["unwritten"] == 1 {
            assert_eq!((&status["connection"], &status["state"]), (&json!("down"), &json!("starting")), "{status}");
            break;
        }
        assert!(Instant::now() < until, "{status}");
        sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_prefix_of_ones_own_holds_everything() {
    let etcd = Etcd::start();
    let kea = Kea::start_connected(&Wanted::new(Family::V4, &etcd.url()).parameter("prefix", json!("/a")));
    Client4::new(&kea, 1, 1).take();
    let until = Instant::now() + Duration::from_secs(30);
    while etcd.ctl(&["get", "--prefix", "/a/leases/", "--keys-only"]).trim().is_empty() {
        assert!(Instant::now() < until);
        sleep(Duration::from_millis(20));
    }
    assert!(etcd.ctl(&["get", "--prefix", "/a/servers/", "--keys-only"]).contains("/a/servers/test/dhcp4"));
    assert!(etcd.ctl(&["get", "--prefix", LEASES]).is_empty());
}
