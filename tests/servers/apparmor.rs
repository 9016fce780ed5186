//! What docs/security.md says of AppArmor. No kernel with it is needed, so no profile is loaded.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::client4::Client4;
use crate::etcd::Etcd;
use crate::kea::{Family, Kea, Wanted};
use crate::mirrored::assert_mirrored;

const PROFILES: [&str; 2] = ["usr.sbin.kea-dhcp4", "usr.sbin.kea-dhcp6"];

/// A copy of Debian's profiles, with the commands of the document done there.
fn profiles() -> TempDir {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let section = document.split("## AppArmor").nth(1).unwrap();
    let commands = section.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("local")).unwrap();
    for profile in PROFILES {
        fs::copy(format!("/etc/apparmor.d/{profile}"), dir.path().join(profile)).unwrap();
    }
    let script = commands
        .replace("/usr/share/doc/kea-hook-etcd/examples/", &format!("{}/kea-config/", root.display()))
        .replace("/etc/apparmor.d", dir.path().to_str().unwrap());
    let output = Command::new("sh").args(["-exc", &script]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    dir
}

fn parse(profiles: &TempDir, profile: &str, options: &[&str]) -> Output {
    let mut parser = Command::new("apparmor_parser");
    // Neither into the kernel nor into the cache; what is not here is Debian's.
    parser.args(options).args(["-Q", "-K", "-I"]).arg(profiles.path()).args(["-I", "/etc/apparmor.d"]);
    parser.arg(profiles.path().join(profile)).output().expect("apparmor_parser runs (Debian: apparmor)")
}

#[test]
fn the_rules_for_apparmor_belong_into_debians_profiles() {
    let profiles = profiles();
    for profile in PROFILES {
        let output = parse(&profiles, profile, &[]);
        assert!(output.status.success(), "{profile}: {}", String::from_utf8_lossy(&output.stderr));
        let whole = parse(&profiles, profile, &["-p"]);
        let whole = String::from_utf8_lossy(&whole.stdout);
        assert!(whole.contains("kea/hooks/libdhcp_etcd.so mr,"), "{profile} lacks our rules");
        // As the document says: so the line that includes ours must be put in.
        let debians = fs::read_to_string(format!("/etc/apparmor.d/{profile}")).unwrap();
        assert!(!debians.contains("local/"), "{profile} includes a file of its own by now");
    }
    let ours = profiles.path().join("local/kea-hook-etcd");
    fs::write(&ours, fs::read_to_string(&ours).unwrap() + "network inet strem,\n").unwrap();
    assert!(!parse(&profiles, PROFILES[0], &[]).status.success(), "the parser takes everything");
}

/// The files that a server opens from its start to its end, while a lease is taken; and what it runs.
fn opened(etcd: &Etcd, with_library: bool) -> BTreeSet<String> {
    let dir = TempDir::new().unwrap();
    let trace = dir.path().join("trace");
    let strace =
        ["strace", "-f", "-qq", "-e", "trace=open,openat,execve,unlink,rename,mkdir", "-o", trace.to_str().unwrap()];
    let wanted = Wanted::new(Family::V4, &etcd.url().replace("127.0.0.1", "localhost")).under(&strace);
    let mut kea = if with_library { Kea::start_connected(&wanted) } else { Kea::start_without_library(&wanted) };
    Client4::new(&kea, 1, 1).take();
    if with_library {
        assert_mirrored(&kea, etcd);
    }
    kea.ask("shutdown", &serde_json::Value::Null);
    kea.wait_end();
    let trace = fs::read_to_string(trace).unwrap();
    let succeeded = trace.lines().filter(|line| !line.contains(" = -1 "));
    succeeded.filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect()
}

#[test]
fn the_library_opens_nothing_that_debians_profiles_do_not_allow() {
    let etcd = Etcd::start();
    let without = opened(&etcd, false);
    // Names of the test's own directory, and of libraries that the base abstraction allows.
    let is_plain = |name: &&String| !name.starts_with("/tmp/") && !name.contains(".so");
    let more: Vec<String> = opened(&etcd, true).difference(&without).filter(is_plain).cloned().collect();
    // The base and the nameservice abstraction have them.
    let allowed = ["/etc/hosts", "/etc/host.conf", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/gai.conf"];
    let surprising: Vec<&String> = more.iter().filter(|name| !allowed.contains(&name.as_str())).collect();
    assert!(surprising.is_empty(), "{surprising:?}");
    // The trace saw what only the library does: it looked the name of etcd's host up.
    assert!(more.iter().any(|name| name == "/etc/hosts"), "{more:?}");
}
