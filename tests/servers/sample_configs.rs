//! Every file of `kea-config/` is loaded, as it is but for interface, paths and the etcd of the test, and serves.

use std::fs;
use std::path::Path;

use dhcproto::v4::{Architecture, DhcpOption, OptionCode};
use serde_json::{Value, json};

use crate::client4::{Client4, option_text};
use crate::client6::{Client6, ia_na, ia_pd};
use crate::etcd::Etcd;
use crate::kea::{Family, Kea, Wanted};
use crate::mirrored::assert_mirrored;

/// A sample as JSON: Kea's comments are those of C and take whole lines here.
pub fn sample(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kea-config").join(name);
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    serde_json::from_str(&lines.join("\n")).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The sample's server, with its parameters for the library but the test's etcd, behind the test's relays.
fn start(family: Family, sample: &Value, etcd: &Etcd) -> Kea {
    let (server, subnets, relays) = match family {
        Family::V4 => ("Dhcp4", "subnet4", (1..=9).map(|n| format!("127.0.1.{n}")).collect::<Vec<_>>()),
        Family::V6 => ("Dhcp6", "subnet6", vec!["2001:db8::1".into()]),
    };
    let mut more = sample[server].clone();
    let libraries = more["hooks-libraries"].as_array().unwrap();
    let ours = libraries.iter().find(|one| one["library"].as_str().unwrap().ends_with("/libdhcp_etcd.so")).unwrap();
    let mut wanted = Wanted::new(family, &etcd.url());
    wanted.parameters = ours["parameters"].clone();
    wanted.parameters["endpoints"] = json!([etcd.url()]);
    wanted.parameters["server-name"] = json!("test");
    for name in ["interfaces-config", "lease-database", "control-socket", "hooks-libraries", "loggers"] {
        more.as_object_mut().unwrap().remove(name);
    }
    let subnet = &mut more[subnets][0];
    subnet.as_object_mut().unwrap().remove("interface");
    subnet["relay"] = json!({ "ip-addresses": relays });
    Kea::start(&wanted.more(more))
}

/// Kea itself reads the file as it is, comments and all. The libraries lie elsewhere here, so only that is replaced.
fn assert_kea_accepts(binary: &str, name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kea-config").join(name);
    let dir = crate::kea::directory();
    let text = fs::read_to_string(path).unwrap();
    let text = text.replace("/usr/lib/x86_64-linux-gnu/kea/hooks", dir.path().to_str().unwrap());
    // No test changes the host's interfaces; the loopback interface is there everywhere.
    let text = text.replace("\"eth0\"", "\"lo\"");
    let file = dir.path().join("sample.conf");
    fs::write(&file, text).unwrap();
    let output = std::process::Command::new(binary)
        .args(["-t", file.to_str().unwrap()])
        .env("KEA_LOCKFILE_DIR", "none")
        .env("KEA_HOOKS_PATH", dir.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{name}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn kea_accepts_the_samples_of_pairs() {
    for mode in ["hot-standby", "load-balancing", "passive-backup"] {
        assert_kea_accepts("kea-dhcp4", &format!("ha/{mode}.conf"));
    }
}

#[test]
fn the_v4_sample_serves() {
    assert_kea_accepts("kea-dhcp4", "kea-dhcp4.conf");
    let etcd = Etcd::start();
    let kea = start(Family::V4, &sample("kea-dhcp4.conf"), &etcd);
    Client4::new(&kea, 1, 1).take();
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 1);
}

#[test]
fn the_v6_sample_serves() {
    assert_kea_accepts("kea-dhcp6", "kea-dhcp6.conf");
    let etcd = Etcd::start();
    let kea = start(Family::V6, &sample("kea-dhcp6.conf"), &etcd);
    Client6::new(&kea, 1).take(&[ia_na(1), ia_pd(1)]);
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 2);
}

#[test]
fn the_pxe_sample_gives_each_architecture_its_boot_file() {
    assert_kea_accepts("kea-dhcp4", "kea-dhcp4-pxe.conf");
    let etcd = Etcd::start();
    let kea = start(Family::V4, &sample("kea-dhcp4-pxe.conf"), &etcd);
    let mut client = Client4::new(&kea, 1, 0);
    let both = DhcpOption::ParameterRequestList(vec![OptionCode::TFTPServerName, OptionCode::BootfileName]);
    for (number, architecture, file) in [
        (1, Some(0), "pxelinux.0"),
        (2, Some(7), "grubx64.efi"),
        (3, Some(9), "grubx64.efi"),
        (4, Some(11), "grubaa64.efi"),
        (5, None, "pxelinux.0"),
        (0x42, Some(7), "rescue.efi"),
    ] {
        client.become_client(number);
        client.options = vec![both.clone()];
        client
            .options
            .extend(architecture.map(|code: u16| DhcpOption::ClientSystemArchitecture(Architecture::from(code))));
        let offer = client.discover();
        assert_eq!(offer.siaddr().to_string(), "192.0.2.2", "next-server of {number}");
        let header = String::from_utf8_lossy(offer.fname().unwrap_or_default()).trim_end_matches('\0').to_owned();
        assert_eq!(header, file, "the header's file of {number}");
        assert_eq!(
            option_text(&offer, OptionCode::TFTPServerName).as_deref(),
            Some("192.0.2.2"),
            "option 66 of {number}"
        );
        assert_eq!(option_text(&offer, OptionCode::BootfileName).as_deref(), Some(file), "option 67 of {number}");
        client.request(&offer);
    }
    let records = assert_mirrored(&kea, &etcd);
    assert_eq!(records["192.0.2.42"]["hwaddr"], "02:00:00:00:00:42");
    assert_eq!(records["192.0.2.42"]["hostname"], "rescue");
}
