//! The Debian package: built as `make deb` does, and on a Debian without anything of ours, in Debian's own configuration and
//! as Debian's unit runs the server.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::compose::{docker_dir, docker_is_here, run};
use crate::{BASES, RUNNING, turn};

/// A network of the test's own; Debian's configuration has this subnet.
const SUBNET: &str = "192.0.2.0/24";
const IMAGE: &str = "debian:bookworm-slim";
const UNIT: &str = "/lib/systemd/system/kea-dhcp4-server.service";
const CONFIG: &str = "/etc/kea/kea-dhcp4.conf";

/// The package; made once.
fn package() -> PathBuf {
    static PACKAGE: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let root = docker_dir().parent().unwrap().to_owned();
        run(Command::new("make").arg("deb").current_dir(&root));
        let made = std::fs::read_dir(root.join("target/debian")).unwrap().map(|entry| entry.unwrap().path());
        let mut made: Vec<PathBuf> = made.filter(|path| path.extension().is_some_and(|end| end == "deb")).collect();
        assert_eq!(made.len(), 1, "{made:?}");
        made.remove(0)
    };
    PACKAGE.get_or_init(make).clone()
}

fn text(command: &mut Command) -> String {
    String::from_utf8(run(command).stdout).unwrap()
}

fn field(name: &str) -> String {
    text(Command::new("dpkg-deb").arg("-f").arg(package()).arg(name)).trim().to_owned()
}

#[test]
fn the_package_is_as_debian_wants_it() {
    let lintian = ["--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0"];
    run(Command::new("lintian").args(lintian).arg(package()));
    let kea = text(Command::new("dpkg-query").args(["-W", "-f", "${source:Upstream-Version}", "kea-dev"]));
    assert_eq!(field("Version"), format!("{}+kea{kea}", env!("CARGO_PKG_VERSION")), "debian/changelog, Cargo.toml");
    let depends = field("Depends");
    // Of 2.2.0 no other than 2.2.0: Kea compares the number in its header.
    let (rest, patch) = kea.rsplit_once('.').unwrap();
    let next = format!("{rest}.{}", patch.parse::<u32>().unwrap() + 1);
    for wanted in [
        format!("kea-common (>= {kea})"),
        format!("kea-common (<< {next}~)"),
        format!("kea-dhcp4-server (>= {kea}) | kea-dhcp6-server (>= {kea})"),
    ] {
        assert!(depends.split(", ").any(|found| found == wanted), "{wanted}: {depends}");
    }
    let contents = text(Command::new("dpkg-deb").arg("-c").arg(package()));
    let doc = "./usr/share/doc/kea-hook-etcd";
    for file in [
        "README.md.gz",
        "security.md.gz",
        "examples/apparmor/kea-hook-etcd",
        "copyright",
        "crates.txt.gz",
        "examples/kea-dhcp6.conf",
        "examples/ha/hot-standby.conf",
    ] {
        assert!(contents.lines().any(|line| line.ends_with(&format!("{doc}/{file}"))), "{file}:\n{contents}");
    }
}

/// A container that does nothing by itself; gone at the end.
struct Host {
    name: String,
}

impl Host {
    /// Starts a clean Debian that can reach a mirror, and installs packages there.
    fn start(name: String, more: &[&str]) -> Self {
        let host = Self { name };
        let mut docker = Command::new("docker");
        run(docker.args(["run", "-d", "--name", &host.name]).args(more).args([IMAGE, "sleep", "infinity"]));
        host
    }

    fn sh(&self, script: &str) -> String {
        text(Command::new("docker").args(["exec", &self.name, "sh", "-ec", script]))
    }

    fn install(&self, packages: &str) {
        let apt = "apt-get install -y -qq --no-install-recommends";
        self.sh(&format!("export DEBIAN_FRONTEND=noninteractive; apt-get update -qq && {apt} {packages} 2>&1"));
    }

    /// Moves to a network where nothing else is; the name of the interface there.
    fn move_to(&self, network: &Network) -> String {
        run(Command::new("docker").args(["network", "disconnect", "bridge", &self.name]));
        run(Command::new("docker").args(["network", "connect", &network.name, &self.name]));
        self.sh("ls /sys/class/net | grep eth").trim().to_owned()
    }

    fn copy(&self, file: &std::path::Path, to: &str) {
        run(Command::new("docker").arg("cp").arg(file).arg(format!("{}:{to}", self.name)));
    }

    fn start_in_background(&self, script: &str) {
        run(Command::new("docker").args(["exec", "-d", &self.name, "sh", "-ec", script]));
    }

    fn wait(&self, what: &str, script: &str) {
        let until = Instant::now() + Duration::from_secs(60);
        while !Command::new("docker").args(["exec", &self.name, "sh", "-ec", script]).output().unwrap().status.success()
        {
            let logs = self.sh("tail -n 50 /tmp/*.log");
            assert!(Instant::now() < until, "not within a minute: {what}\n{logs}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Changes Debian's configuration; the text must be there.
    fn configure(&self, from: &str, to: &str) {
        self.sh(&format!("grep -qF '{from}' {CONFIG} && sed -i 's@{}@{to}@' {CONFIG}", from.replace('[', "\\[")));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "-f", &self.name]).output();
    }
}

struct Network {
    name: String,
}

impl Network {
    fn create() -> Self {
        let network = Self { name: format!("dhcpetcdpackage{}", std::process::id()) };
        run(Command::new("docker").args(["network", "create", "--subnet", SUBNET, &network.name]));
        network
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["network", "rm", &self.name]).output();
    }
}

/// What systemd does for the unit of kea-dhcp4, as a script: all that stands under `[Service]`, or the test fails.
fn as_the_unit_does(unit: &str) -> String {
    let service = unit.split("[Service]").nth(1).unwrap().split("\n[").next().unwrap();
    let settings: Vec<(&str, &str)> = service.lines().filter_map(|line| line.split_once('=')).collect();
    let of = |wanted: &str| settings.iter().find(|(name, _)| *name == wanted).unwrap().1.trim_matches('"');
    let directory = |mode: &str, path: String| format!("install -d -o {0} -g {0} -m {mode} {path}", of("User"));
    let mut script: Vec<String> =
        of("RuntimeDirectory").split(' ').map(|name| directory("755", format!("/run/{name}"))).collect();
    script.push(directory("755", format!("/var/lib/{}", of("StateDirectory"))));
    script.push(directory(of("LogsDirectoryMode"), format!("/var/log/{}", of("LogsDirectory"))));
    let capabilities = of("AmbientCapabilities").to_lowercase().replace("cap_", "+").replace(' ', ",");
    let user = format!("--reuid {0} --regid {0} --init-groups", of("User"));
    let capabilities = format!("--inh-caps {capabilities} --ambient-caps {capabilities}");
    let (environment, program) = (of("Environment"), of("ExecStart"));
    script.push(format!("exec env {environment} setpriv {user} {capabilities} {program} >/tmp/kea.log 2>&1"));
    for (name, value) in &settings {
        let done = ["User", "AmbientCapabilities", "Environment", "ExecStart"].contains(name)
            || ["RuntimeDirectory", "StateDirectory", "LogsDirectory", "LogsDirectoryMode"].contains(name)
            // The one is there and stays root's, the other tells what happens when the server ends.
            || ["ConfigurationDirectory", "RuntimeDirectoryPreserve"].contains(name);
        assert!(done, "what does {name}={value} do?");
    }
    script.join("\n")
}

#[test]
fn the_package_works_on_a_clean_debian_as_its_unit_runs_kea() {
    if !docker_is_here() {
        return;
    }
    let package = package();
    let bases = turn(&BASES);
    run(Command::new(docker_dir().join("base-image.sh")).arg("bookworm"));
    drop(bases);
    let _turn = turn(&RUNNING);
    let network = Network::create();
    let server = Host::start(format!("{}-server", network.name), &[]);
    let client = Host::start(format!("{}-client", network.name), &["--cap-add", "NET_ADMIN"]);

    // apt finds what the package needs; the servers are not asked for by name.
    server.copy(&package, "/tmp/hook.deb");
    server.install("/tmp/hook.deb etcd-server etcd-client");
    server.sh("dpkg-query -W -f '${Status}' kea-dhcp4-server | grep -q 'ok installed'");
    let hook = server.sh("dpkg -L kea-hook-etcd | grep libdhcp_etcd.so");
    let beside = server.sh("dpkg -L kea-common | grep libdhcp_lease_cmds.so");
    assert_eq!(hook.replace("etcd", "lease_cmds"), beside, "not where Kea's own libraries are");
    client.install("isc-dhcp-client iproute2");
    client.copy(&docker_dir().join("client-script"), "/usr/local/sbin/");
    let (interface, of_client) = (server.move_to(&network), client.move_to(&network));

    let hook = hook.trim();
    server.configure("\"Dhcp4\": {", &format!("\"Dhcp4\": {{ \"hooks-libraries\": [ {{ \"library\": \"{hook}\" }} ],"));
    server.configure("\"interfaces\": [ ]", &format!("\"interfaces\": [ \"{interface}\" ]"));
    server.configure("192.0.2.1 - 192.0.2.200", "192.0.2.100 - 192.0.2.200");
    server.start_in_background("exec etcd --data-dir /var/lib/etcd/test >/tmp/etcd.log 2>&1");
    server.start_in_background(&as_the_unit_does(&server.sh(&format!("cat {UNIT}"))));
    server.wait(
        "the server serves, and etcd is connected",
        "grep -q DHCP4_STARTED /tmp/kea.log && grep -q ETCD_CONNECTED /tmp/kea.log",
    );
    server.sh("test $(stat -c %U /proc/$(cat /run/kea/kea-dhcp4.kea-dhcp4.pid)) = _kea");

    client.sh(&format!("dhclient -4 -1 -v -sf /usr/local/sbin/client-script {of_client} 2>&1"));
    server.wait("a record", "ETCDCTL_API=3 etcdctl get --prefix /nnoe/dhcp/leases/ | grep -q .");
    let answer = server.sh("ETCDCTL_API=3 etcdctl get --prefix --print-value-only /nnoe/dhcp/leases/");
    let records: Vec<Value> = answer.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let hwaddr = client.sh(&format!("cat /sys/class/net/{of_client}/address"));
    let address = client.sh("ip -4 -o addr | grep -o 'inet 192.0.2.[12][0-9][0-9]' | cut -d ' ' -f 2");
    assert_eq!(records.len(), 1, "{answer}");
    assert_eq!(records[0]["hwaddr"], hwaddr.trim());
    assert_eq!(records[0]["ip"], address.trim());
    // Kea's own file has it as well, where the unit has it.
    server.sh(&format!("grep -q {} /var/lib/kea/kea-leases4.csv", address.trim()));
}
