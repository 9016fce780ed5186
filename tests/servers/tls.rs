//! TLS towards etcd: who is trusted, what is refused, and files that change while Kea runs.

use serde_json::{Value, json};

use crate::authentication::permit;
use crate::bad_parameters::refused;
use crate::certificates::{Authority, Files, Signed, THIS_HOST};
use crate::client4::Client4;
use crate::etcd::Etcd;
use crate::kea::{Family, Kea, Wanted};
use crate::mirrored::assert_mirrored;

/// A Kea that trusts an authority.
fn trusting(url: &str, files: &Files, authority: &Authority) -> Wanted {
    Wanted::new(Family::V4, url).parameter("trust-anchor", json!(files.put("ca.pem", &authority.certificate())))
}

/// The same, with a certificate of its own.
fn showing(wanted: Wanted, files: &Files, client: &Signed) -> Wanted {
    let (certificate, key) = files.put_signed("client", client);
    wanted.parameter("cert-file", json!(certificate)).parameter("key-file", json!(key))
}

/// Waits until TLS fails for this reason and takes a lease meanwhile.
fn fails(kea: &mut Kea, reason: &str) {
    kea.wait_log("ETCD_TLS_FAILED", 1);
    let log = kea.log();
    assert!(log.contains(reason), "the log lacks {reason}:\n{log}");
    Client4::new(kea, 1, 1).take();
    kea.wait_status("no TLS");
}

#[test]
fn leases_are_mirrored_over_tls_by_address_and_by_name() {
    let (authority, files) = (Authority::new(), Files::new());
    let etcd = Etcd::start_with("", files.etcd(&authority.server(THIS_HOST)));
    for (number, host) in (1..).zip(["127.0.0.1", "localhost", "[::1]"]) {
        let kea = Kea::start(&trusting(&etcd.url_of(host), &files, &authority));
        Client4::new(&kea, 1, number).take();
        assert_mirrored(&kea, &etcd);
        let status = kea.wait_status("up");
        assert_eq!((&status["tls"], &status["user"]), (&json!(true), &json!(null)), "{status}");
    }
}

#[test]
fn a_wrong_authority_is_named_and_the_right_one_is_taken_up_without_a_restart() {
    let (authority, other, files) = (Authority::new(), Authority::new(), Files::new());
    let etcd = Etcd::start_with("", files.etcd(&authority.server(THIS_HOST)));
    let mut kea = Kea::start(&trusting(&etcd.url(), &files, &other));
    fails(&mut kea, &format!("{}: invalid peer certificate: UnknownIssuer (trust-anchor ", etcd.url()));
    files.put("ca.pem", &(other.certificate() + &authority.certificate()));
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 1);
    assert_eq!(kea.log().matches("ETCD_TLS_FAILED").count(), 1);
}

#[test]
fn a_certificate_for_another_host_is_refused() {
    let (authority, files) = (Authority::new(), Files::new());
    let etcd = Etcd::start_with("", files.etcd(&authority.server(&["etcd.example", "192.0.2.1"])));
    let mut kea = Kea::start(&trusting(&etcd.url(), &files, &authority));
    fails(&mut kea, "certificate not valid for name \"127.0.0.1\"");
    files.put_signed("etcd", &authority.server(THIS_HOST));
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 1);
}

#[test]
fn an_expired_certificate_of_etcd_is_refused() {
    let (authority, files) = (Authority::new(), Files::new());
    let etcd = Etcd::start_with("", files.etcd(&authority.expired_server(THIS_HOST)));
    let mut kea = Kea::start(&trusting(&etcd.url(), &files, &authority));
    fails(&mut kea, "certificate expired");
    files.put_signed("etcd", &authority.server(THIS_HOST));
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 1);
}

#[test]
fn an_etcd_without_tls_is_told() {
    let (authority, files, etcd) = (Authority::new(), Files::new(), Etcd::start());
    let url = etcd.url().replace("http:", "https:");
    let mut kea = Kea::start(&trusting(&url, &files, &authority));
    fails(&mut kea, "it closed the connection instead of a TLS handshake");
}

#[test]
fn etcd_may_want_a_certificate_of_its_clients() {
    let (authority, other, files) = (Authority::new(), Authority::new(), Files::new());
    let etcd = Etcd::start_with("", files.etcd_for_clients(&authority.server(THIS_HOST), &authority));
    let without = trusting(&etcd.url(), &files, &authority);
    fails(&mut Kea::start(&without), "it closed the connection after the TLS handshake, as for a client certificate");
    let with = showing(trusting(&etcd.url(), &files, &authority), &files, &other.client("dhcp"));
    let mut kea = Kea::start(&with);
    fails(&mut kea, "it closed the connection after the TLS handshake, as for a client certificate");
    files.put_signed("client", &authority.client("dhcp"));
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 1);
}

#[test]
fn what_cannot_be_used_is_refused_at_load() {
    let (authority, files) = (Authority::new(), Files::new());
    let ca = files.put("ca.pem", &authority.certificate());
    let (certificate, _) = files.put_signed("client", &authority.client("dhcp"));
    let (_, key) = files.put_signed("other", &authority.client("dhcp"));
    let missing = files.path("missing");
    let with = |trust_anchor: &str, more: Value| {
        let mut parameters = json!({ "endpoints": ["https://127.0.0.1:1"], "trust-anchor": trust_anchor });
        parameters.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        parameters
    };
    for (parameters, line) in [
        (
            with(missing.to_str().unwrap(), json!({})),
            format!("parameter 'trust-anchor': found {} (No such file", missing.display()),
        ),
        (with(&key, json!({})), format!("parameter 'trust-anchor': found {key} (no PEM section of a certificate)")),
        (
            with(&ca, json!({ "cert-file": certificate, "key-file": key })),
            format!(
                "parameter 'key-file': found {key} (a key that does not belong to the certificate in {certificate})"
            ),
        ),
        (
            with(&ca, json!({ "user": "dhcp", "password-file": missing })),
            format!("parameter 'password-file': found {} (No such file", missing.display()),
        ),
    ] {
        refused(Family::V4, parameters, &line);
    }
}

/// etcd takes the name in a client's certificate for its user, so it shows which one is in use.
#[test]
fn replaced_certificates_are_used_without_a_restart() {
    let (authority, next, files) = (Authority::new(), Authority::new(), Files::new());
    let flags = files.etcd_for_clients(&authority.server(THIS_HOST), &authority);
    files.put("trusted.pem", &(authority.certificate() + &next.certificate()));
    let etcd = Etcd::start_with("", flags);
    permit(&etcd, "dhcp");
    etcd.ctl(&["user", "add", "nobody", "--no-password"]);
    etcd.ctl(&["auth", "enable"]);
    let wanted = showing(trusting(&etcd.url(), &files, &authority), &files, &authority.client("dhcp"));
    let mut kea = Kea::start_connected(&wanted);
    let mut client = Client4::new(&kea, 1, 1);
    client.take();
    assert_mirrored(&kea, &etcd);

    // A certificate of another name, which may not write, is noticed though nothing failed.
    files.put_signed("client", &authority.client("nobody"));
    kea.wait_log("ETCD_DENIED", 1);
    client.become_client(2);
    client.take();

    // Another authority, for both sides.
    files.put("ca.pem", &next.certificate());
    files.put_signed("client", &next.client("dhcp"));
    files.put_signed("etcd", &next.server(THIS_HOST));
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 2);
    let log = kea.log();
    assert!(log.contains("ETCD_FILES_CHANGED"), "{log}");
}

#[test]
fn files_that_go_bad_are_told_once_and_the_connection_stands() {
    let (authority, files) = (Authority::new(), Files::new());
    let etcd = Etcd::start_with("", files.etcd_for_clients(&authority.server(THIS_HOST), &authority));
    let good = authority.client("dhcp");
    let mut kea = Kea::start_connected(&showing(trusting(&etcd.url(), &files, &authority), &files, &good));
    let mut client = Client4::new(&kea, 1, 0);
    let expired = authority.expired_client("dhcp");
    for (number, change, reason) in [
        (1, &good.certificate[..40], "client.pem (a broken PEM section)"),
        (2, &*authority.client("dhcp").certificate, "client.key (a key that does not belong to the certificate in "),
        (3, &*expired.certificate, "client.pem (certificate expired"),
    ] {
        files.put("client.key", if number == 3 { &expired.key } else { &good.key });
        files.put("client.pem", change);
        kea.wait_log(reason, 1);
        client.become_client(number);
        client.take();
        assert_eq!(assert_mirrored(&kea, &etcd).len(), usize::try_from(number).unwrap());
    }
    assert_eq!(kea.log().matches("ETCD_BAD_FILE").count(), 3);
    assert_eq!(kea.log().matches("ETCD_CONNECTED").count(), 1);
    files.put_signed("client", &authority.client("dhcp"));
    kea.wait_log("ETCD_FILES_CHANGED", 1);
    kea.wait_log("ETCD_CONNECTED", 2);
}

#[test]
fn kea_starts_with_a_certificate_that_expired_and_takes_up_the_next_one() {
    let (authority, files) = (Authority::new(), Files::new());
    let etcd = Etcd::start_with("", files.etcd_for_clients(&authority.server(THIS_HOST), &authority));
    let expired = authority.expired_client("dhcp");
    let mut kea = Kea::start(&showing(trusting(&etcd.url(), &files, &authority), &files, &expired));
    kea.wait_log("client.pem (certificate expired", 1);
    Client4::new(&kea, 1, 1).take();
    let status = kea.wait_status("bad file");
    assert!(status["last-error"]["text"].as_str().unwrap().contains("'cert-file'"), "{status}");
    assert_eq!(kea.log().matches("ETCD_BAD_FILE").count(), 1);
    files.put_signed("client", &authority.client("dhcp"));
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 1);
}
