//! etcd with authentication: tokens that end, users and roles that change, and a password that nobody gets to see.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bad_parameters::refused;
use crate::certificates::{Authority, Files, THIS_HOST};
use crate::client4::{Client4, take};
use crate::etcd::{Etcd, Flags, LEASES};
use crate::kea::{Family, Kea, Wanted};
use crate::metrics::metric_of;
use crate::mirrored::assert_mirrored;

const PASSWORD: &str = "pass-phrase-7";

/// Adds `root`, and a user with a role of that name that may write below the prefix.
pub fn permit(etcd: &Etcd, user: &str) {
    etcd.ctl(&["user", "add", &format!("root:{PASSWORD}")]);
    etcd.ctl(&["user", "grant-role", "root", "root"]);
    etcd.ctl(&["user", "add", &format!("{user}:{PASSWORD}")]);
    etcd.ctl(&["role", "add", user]);
    etcd.ctl(&["user", "grant-role", user, user]);
    grant(etcd, user);
}

fn grant(etcd: &Etcd, role: &str) {
    etcd.ctl(&["role", "grant-permission", role, "readwrite", "--prefix", "/nnoe/dhcp/"]);
}

fn enable(etcd: &mut Etcd) {
    etcd.ctl(&["auth", "enable"]);
    etcd.log_in("root", PASSWORD);
}

/// An etcd with authentication and the user `dhcp`.
fn authenticating(flags: &[&str]) -> Etcd {
    let server = flags.iter().map(ToString::to_string).collect();
    let mut etcd = Etcd::start_with("", Flags { server, ..Flags::default() });
    permit(&etcd, "dhcp");
    enable(&mut etcd);
    etcd
}

/// The same with tokens that end with every change of users and roles, and the file of the key that signs them.
fn with_signed_tokens() -> (Files, Etcd) {
    let files = Files::new();
    let key = files.put("jwt.key", "a key of etcd for its tokens, long enough");
    let etcd = authenticating(&[&format!("--auth-token=jwt,sign-method=HS256,priv-key={key},ttl=1h")]);
    (files, etcd)
}

fn user(etcd: &Etcd) -> Wanted {
    Wanted::new(Family::V4, &etcd.url()).parameter("user", json!("dhcp")).parameter("password", json!(PASSWORD))
}

#[test]
fn tokens_of_five_seconds_are_renewed_and_nobody_notices() {
    let etcd = authenticating(&["--auth-token-ttl=5"]);
    let mut kea = Kea::start_connected(&user(&etcd));
    let mut client = Client4::new(&kea, 1, 0);
    for number in 1..=2 {
        // Longer than a token lives that is not used.
        sleep(Duration::from_secs(8));
        client.become_client(number);
        client.take();
        assert_eq!(assert_mirrored(&kea, &etcd).len(), usize::try_from(number).unwrap());
    }
    let status = kea.wait_status("up");
    assert_eq!((&status["user"], &status["tls"]), (&json!("dhcp"), &json!(false)), "{status}");
    assert_eq!(kea.log().matches("ETCD_CONNECTED").count(), 1);
    kea.assert_alive();
}

#[test]
fn signed_tokens_end_with_every_change_of_users_and_roles() {
    let (_key, etcd) = with_signed_tokens();
    let mut kea = Kea::start_connected(&user(&etcd));
    let mut client = Client4::new(&kea, 1, 0);
    for number in 1..=3 {
        etcd.ctl(&["user", "add", &format!("somebody{number}:x")]);
        client.become_client(number);
        client.take();
        assert_eq!(assert_mirrored(&kea, &etcd).len(), usize::try_from(number).unwrap());
        kea.wait_log("ETCD_CONNECTED", 1 + usize::try_from(number).unwrap());
    }
    assert!(!kea.log().contains("ETCD_UNREACHABLE") && !kea.log().contains("ETCD_NOT_AUTHENTICATED"), "{}", kea.log());
}

#[test]
fn a_watch_that_begins_with_a_token_that_has_ended_is_begun_again() {
    let (_key, etcd) = with_signed_tokens();
    let mut kea = Kea::start_connected(&user(&etcd));
    kea.wait_log("ETCD_RESYNC", 1);
    let addresses = take(&kea, 0..80);
    assert_mirrored(&kea, &etcd);
    let presence = |etcd: &Etcd| etcd.range("/nnoe/dhcp/servers/").into_values().next().unwrap_or_default();
    etcd.wait("the number of leases at the presence key", |etcd| presence(etcd).contains("\"leases\":80"));
    // While a server writes alone it has no watch, but on a machine that is too busy for so many writes.
    let (mut client, until) = (Client4::new(&kea, 1, 0), Instant::now() + Duration::from_secs(20));
    for (number, address) in (0..).zip(addresses.iter().cycle()) {
        client.become_client(number % 80);
        client.renew(address.parse().unwrap());
        if metric_of(&etcd, "etcd_debugging_mvcc_watcher_total") < 2 || Instant::now() > until {
            break;
        }
    }
    // When the last one is written it stands still until its token has ended. Then it begins a watch, and need write nothing.
    sleep(Duration::from_millis(40));
    kea.signal("STOP");
    etcd.ctl(&["user", "add", "somebody:x"]);
    kea.signal("CONT");
    let records = assert_mirrored(&kea, &etcd);
    let (address, _) = records.first_key_value().unwrap();
    etcd.ctl(&["del", &format!("{LEASES}{address}")]);
    assert_mirrored(&kea, &etcd);
}

#[test]
fn authentication_may_be_switched_on_while_kea_runs() {
    let mut etcd = Etcd::start();
    permit(&etcd, "dhcp");
    let (with, mut without) = (Kea::start_connected(&user(&etcd)), Wanted::new(Family::V6, &etcd.url()));
    without.parameters["server-name"] = json!("another");
    let mut without = Kea::start_connected(&without);
    let mut client = Client4::new(&with, 1, 1);
    client.take();
    assert_mirrored(&with, &etcd);
    enable(&mut etcd);
    client.become_client(2);
    client.take();
    assert_eq!(assert_mirrored(&with, &etcd).len(), 2);
    assert!(!with.log().contains("ETCD_NOT_AUTHENTICATED"));
    // Nothing is asked for while nothing changes.
    without.ask("etcd-resync", &Value::Null);
    without.wait_log("etcdserver: user name is empty (there is no parameter 'user')", 1);
    assert_eq!(without.wait_status("not authenticated")["user"], Value::Null);
    etcd.ctl(&["auth", "disable"]);
    without.wait_log("ETCD_CONNECTED", 2);
    assert_eq!(without.log().matches("ETCD_NOT_AUTHENTICATED").count(), 1);
}

#[test]
fn a_password_that_changes_is_taken_from_its_file() {
    let (etcd, files) = (authenticating(&[]), Files::new());
    let file = files.put("password", &format!("{PASSWORD}\n"));
    let wanted =
        Wanted::new(Family::V4, &etcd.url()).parameter("user", json!("dhcp")).parameter("password-file", json!(file));
    let mut kea = Kea::start_connected(&wanted);
    let mut client = Client4::new(&kea, 1, 1);
    client.take();
    assert_mirrored(&kea, &etcd);
    // The file first: the token holds until etcd has the password too.
    files.put("password", "another-1\n");
    sleep(Duration::from_secs(3));
    change_password(&etcd, "another-1");
    client.become_client(2);
    client.take();
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 2);
    assert!(!kea.log().contains("ETCD_NOT_AUTHENTICATED"), "{}", kea.log());
    // etcd first.
    change_password(&etcd, "another-2");
    client.become_client(3);
    client.take();
    kea.wait_log("authentication failed, invalid user ID or password (user dhcp)", 1);
    kea.wait_status("not authenticated");
    files.put("password", "another-2\n");
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 3);
    assert_eq!(kea.log().matches("ETCD_NOT_AUTHENTICATED").count(), 1);
    assert!(!kea.log().contains("another-"));
}

fn change_password(etcd: &Etcd, password: &str) {
    assert!(etcd.ctl_from_stdin(&["user", "passwd", "--interactive=false", "dhcp"], password));
}

#[test]
fn a_role_that_lacks_the_permission_is_told_once_and_nothing_is_lost() {
    let etcd = authenticating(&[]);
    etcd.ctl(&["role", "revoke-permission", "dhcp", "--prefix", "/nnoe/dhcp/"]);
    let mut kea = Kea::start(&user(&etcd));
    kea.wait_log("etcd denies access to /nnoe/dhcp: etcdserver: permission denied (user dhcp)", 1);
    let mut client = Client4::new(&kea, 1, 1);
    client.take();
    grant(&etcd, "dhcp");
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 1);
    // The same while it runs.
    etcd.ctl(&["role", "revoke-permission", "dhcp", "--prefix", "/nnoe/dhcp/"]);
    client.become_client(2);
    client.take();
    kea.wait_log("ETCD_DENIED", 2);
    kea.wait_status("denied");
    grant(&etcd, "dhcp");
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 2);
    assert_eq!(kea.log().matches("ETCD_DENIED").count(), 2);
}

#[test]
fn a_client_certificate_is_enough() {
    let (authority, files) = (Authority::new(), Files::new());
    let etcd = Etcd::start_with("", files.etcd_for_clients(&authority.server(THIS_HOST), &authority));
    permit(&etcd, "dhcp");
    etcd.ctl(&["auth", "enable"]);
    let (certificate, key) = files.put_signed("client", &authority.client("dhcp"));
    let wanted = Wanted::new(Family::V4, &etcd.url())
        .parameter("trust-anchor", json!(files.put("ca.pem", &authority.certificate())))
        .parameter("cert-file", json!(certificate))
        .parameter("key-file", json!(key));
    let kea = Kea::start(&wanted);
    Client4::new(&kea, 1, 1).take();
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 1);
}

#[test]
fn a_password_goes_over_http_only_where_that_is_allowed() {
    let parameters = |more: Value| {
        let mut parameters = json!({ "endpoints": ["http://192.0.2.1:2379"], "user": "dhcp", "password": PASSWORD });
        parameters.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        parameters
    };
    let line = "parameter 'allow-plaintext-password': found false, and a password for http://192.0.2.1:2379";
    refused(Family::V4, parameters(json!({})), line);
    refused(Family::V6, parameters(json!({ "allow-plaintext-password": false })), line);
    let mut wanted = Wanted::new(Family::V4, "");
    wanted.parameters = parameters(json!({ "allow-plaintext-password": true }));
    Kea::start(&wanted);
}

/// With everything logged that Kea can log, in good times and bad ones.
#[test]
fn nothing_that_is_printed_has_the_password() {
    let (mut etcd, files) = (authenticating(&[]), Files::new());
    let logger = json!([{ "name": "kea-dhcp4", "severity": "DEBUG", "debuglevel": 99, "output_options": [{ "output": "stdout" }] }]);
    for in_file in [false, true] {
        let mut wanted = user(&etcd).more(json!({ "loggers": logger }));
        if in_file {
            wanted.parameters.as_object_mut().unwrap().remove("password");
            wanted = wanted.parameter("password-file", json!(files.put("password", PASSWORD)));
        }
        let mut kea = Kea::start_connected(&wanted);
        Client4::new(&kea, 1, 1).take();
        assert_mirrored(&kea, &etcd);
        let mut said = kea.wait_status("up").to_string();
        change_password(&etcd, "another-1");
        kea.ask("etcd-resync", &Value::Null);
        kea.wait_log("ETCD_NOT_AUTHENTICATED", 1);
        said += &kea.wait_status("not authenticated").to_string();
        change_password(&etcd, PASSWORD);
        etcd.kill();
        kea.wait_log("ETCD_UNREACHABLE", 1);
        said += &kea.wait_status("down").to_string();
        etcd.restart();
        kea.wait_log("ETCD_CONNECTED", 2);
        kea.stop();
        said += &kea.log();
        assert!(said.contains("dhcp") && !said.contains(PASSWORD), "{said}");
        // Of a file that others may read there is a warning.
        assert_eq!(said.contains("ETCD_OPEN_SECRET"), in_file, "{said}");
    }
}
