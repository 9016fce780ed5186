//! Under valgrind: load, traffic, commands, a reload, an etcd that hangs, unload. Nothing that this library does may be
//! an error, and nothing that it allocated may be lost.

use std::fs;

use serde_json::json;

use crate::client4::Client4;
use crate::client6::{Client6, ia_na, ia_pd};
use crate::comparison::verify;
use crate::etcd::Etcd;
use crate::kea::{Family, Kea, Wanted};
use crate::mirrored::assert_mirrored;

fn life(wanted: Wanted, etcd: &Etcd, traffic: impl Fn(&Kea)) {
    // What is only "possibly lost" is the standard library's handle of Kea's main thread, which points into its middle.
    let report = tempfile::NamedTempFile::new().unwrap();
    let log = format!("--log-file={}", report.path().display());
    let valgrind = ["valgrind", "--leak-check=full", "--show-leak-kinds=definite", "--num-callers=40", &log];
    let wanted = wanted.under(&valgrind).parameter("index", json!(["hw-address", "hostname"]));
    let mut kea = Kea::start_connected(&wanted);
    traffic(&kea);
    assert_mirrored(&kea, etcd);
    assert_eq!(verify(&kea)["missing"], 0);
    kea.ask("config-reload", &json!(null));
    etcd.hang();
    traffic(&kea);
    etcd.resume();
    kea.ask("etcd-resync", &json!({}));
    assert_mirrored(&kea, etcd);
    let (status, _) = kea.stop();
    assert!(status.success(), "{status}");

    let report = fs::read_to_string(report.path()).unwrap();
    assert!(report.contains("ERROR SUMMARY"), "valgrind did not end:\n{report}");
    // Paragraphs, without the "==pid== " that begins each line.
    let text: Vec<&str> = report.lines().map(|line| line.split_once("== ").map_or("", |(_, text)| text)).collect();
    let text = text.join("\n");
    let ours: Vec<&str> = text.split("\n\n").filter(|paragraph| paragraph.contains("libdhcp_etcd")).collect();
    assert!(ours.is_empty(), "{}", ours.join("\n\n"));
    println!("{}", report.lines().rev().take(2).collect::<Vec<_>>().join("\n"));
}

#[test]
fn kea_dhcp4_is_left_whole() {
    let etcd = Etcd::start();
    life(Wanted::new(Family::V4, &etcd.url()).threads(true), &etcd, |kea| {
        let mut client = Client4::new(kea, 1, 0);
        client.hostname = Some("a.example".into());
        for number in 0..20 {
            client.become_client(number);
            let address = client.take();
            client.renew(address);
            if number % 3 == 0 {
                client.release(address);
            }
        }
    });
}

#[test]
fn kea_dhcp6_is_left_whole() {
    let etcd = Etcd::start();
    life(Wanted::new(Family::V6, &etcd.url()), &etcd, |kea| {
        let mut client = Client6::new(kea, 0);
        for number in 0..10 {
            client.become_client(number);
            client.take(&[ia_na(1), ia_pd(2)]);
        }
    });
}
