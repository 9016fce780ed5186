//! `docker/docker-compose.yml` with an etcd of three members: started, asked, and taken apart.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::left_out;
use crate::records;

const MEMBERS: [&str; 3] = ["etcd1", "etcd2", "etcd3"];
const SERVERS: [(&str, &str, &str); 2] = [
    ("kea-dhcp4", "/run/kea/kea4-ctrl-socket", "lease4-get-all"),
    ("kea-dhcp6", "/run/kea/kea6-ctrl-socket", "lease6-get-all"),
];

/// That the library runs in each release is seen without the optimiser too, which takes longer than all else here. Images made so
/// have names of their own, so that nobody takes them for those that users build, which `make containers` has.
const NOT_OPTIMISED: [(&str, &str); 2] =
    [("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"), ("CARGO_PROFILE_RELEASE_LTO", "off")];

/// Whether a program with these arguments succeeds.
fn works(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

/// Whether containers can be run here; where `CI` is set they must.
pub fn docker_is_here() -> bool {
    let compose = works("docker-compose", &["version"]) || works("docker", &["compose", "version"]);
    let here = compose && works("docker", &["info"]);
    assert!(here || std::env::var_os("CI").is_none(), "CI is set, and there is no Docker with Compose");
    if !here {
        left_out::tell("there is no Docker with Compose, so no container is tried");
    }
    here
}

/// The containers of one Debian release; gone at the end.
pub struct Compose {
    debian: &'static str,
    project: String,
    dir: TempDir,
}

pub fn docker_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docker")
}

pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    output
}

impl Compose {
    /// The files of a test that has the Kea of this release.
    pub fn new(debian: &'static str) -> Self {
        let dir = TempDir::new().unwrap();
        let endpoints = MEMBERS.map(|member| format!("\"http://{member}:2379\"")).join(", ");
        for (server, ..) in SERVERS {
            let name = format!("{server}.conf");
            let config = fs::read_to_string(docker_dir().join(&name)).unwrap();
            let config = config.replace("\"http://etcd:2379\"", &endpoints);
            // Short, so that the test sees a lease end; and Kea 3.0 would write no renewal in the first quarter of a lease.
            let short = "\"valid-lifetime\": 60, \"cache-max-age\": 0";
            let config = config.replace("\"valid-lifetime\": 3600", short);
            let config = config.replace("\"preferred-lifetime\": 1800", "\"preferred-lifetime\": 40");
            fs::write(dir.path().join(name), config).unwrap();
        }
        let compose = Self { debian, project: format!("dhcpetcd{debian}{}", std::process::id()), dir };
        fs::write(compose.dir.path().join("cluster.json"), compose.cluster().to_string()).unwrap();
        compose
    }

    /// Makes the base images, and the client's, which is the same for every release.
    pub fn make_bases(&self) {
        run(Command::new(docker_dir().join("base-image.sh")).args([self.debian, "trixie"]));
        self.compose(&["build", "-q", "client"]);
    }

    /// Builds the images of the servers and of etcd.
    pub fn build(&self) {
        self.compose(&["build", "-q", "etcd", "kea-dhcp4", "kea-dhcp6"]);
    }

    /// Starts everything but clients.
    pub fn start(self) -> Self {
        self.compose(&[&["up", "-d"][..], &MEMBERS, &["kea-dhcp4", "kea-dhcp6"]].concat());
        self
    }

    /// What differs from the file that users have.
    fn cluster(&self) -> Value {
        let cluster = MEMBERS.map(|member| format!("{member}=http://{member}:2380")).join(",");
        let mut services = json!({ "client": { "entrypoint": ["sleep", "infinity"] } });
        for member in MEMBERS {
            let flags = [
                format!("--name={member}"),
                "--data-dir=/var/lib/etcd".into(),
                "--listen-client-urls=http://0.0.0.0:2379".into(),
                format!("--advertise-client-urls=http://{member}:2379"),
                "--listen-peer-urls=http://0.0.0.0:2380".into(),
                format!("--initial-advertise-peer-urls=http://{member}:2380"),
                format!("--initial-cluster={cluster}"),
            ];
            services[member] = json!({
                "image": format!("dhcp-etcd/etcd:{}", self.debian), "command": flags,
                "environment": { "ETCDCTL_API": "3" }, "networks": ["dhcp"],
            });
        }
        for (server, ..) in SERVERS {
            let config = self.dir.path().join(format!("{server}.conf"));
            services[server] = json!({ "volumes": [format!("{}:/etc/kea/{server}.conf:ro", config.display())] });
            if std::env::var_os("OPTIMISED").is_none() {
                services[server]["image"] = format!("dhcp-etcd/{server}:{}-not-optimised", self.debian).into();
                services[server]["build"] =
                    json!({ "args": NOT_OPTIMISED.map(|(name, value)| format!("{name}={value}")) });
            }
        }
        json!({ "version": "2.4", "services": services })
    }

    pub fn compose(&self, arguments: &[&str]) -> String {
        String::from_utf8(run(self.command().args(arguments)).stdout).unwrap()
    }

    /// Compose of either generation, with the files of this test.
    fn command(&self) -> Command {
        let mut command = if works("docker-compose", &["version"]) {
            Command::new("docker-compose")
        } else {
            let mut command = Command::new("docker");
            command.arg("compose");
            command
        };
        command.env("COMPOSE_PROJECT_NAME", &self.project).env("DEBIAN", self.debian);
        command.arg("-f").arg(docker_dir().join("docker-compose.yml"));
        command.arg("-f").arg(self.dir.path().join("cluster.json"));
        command
    }

    /// The container of a service, which may have several.
    fn container(&self, service: &str, number: usize) -> String {
        let label = |name: &str, value: &str| format!("label=com.docker.compose.{name}={value}");
        let mut command = Command::new("docker");
        command.args(["ps", "-aq", "--filter", &label("project", &self.project)]);
        command.args(["--filter", &label("service", service)]);
        command.args(["--filter", &label("container-number", &number.to_string())]);
        String::from_utf8(run(&mut command).stdout).unwrap().trim().to_owned()
    }

    fn exec(&self, service: &str, number: usize, script: &str) -> String {
        self.try_exec(service, number, script).unwrap_or_else(|error| panic!("{service} {number}: {script}: {error}"))
    }

    fn try_exec(&self, service: &str, number: usize, script: &str) -> Result<String, String> {
        let container = self.container(service, number);
        let output = Command::new("docker").args(["exec", &container, "sh", "-c", script]).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stdout) + &text(&output.stderr))
        }
    }

    /// Cuts a member off from the others and from Kea; whoever is in it can still talk to it.
    pub fn cut_off(&self, member: &str) {
        let network = format!("{}_dhcp", self.project);
        run(Command::new("docker").args(["network", "disconnect", &network, &self.container(member, 1)]));
    }

    pub fn reconnect(&self, member: &str) {
        let network = format!("{}_dhcp", self.project);
        run(Command::new("docker").args([
            "network",
            "connect",
            "--alias",
            member,
            &network,
            &self.container(member, 1),
        ]));
    }

    /// Kea's version.
    pub fn kea_version(&self) -> String {
        let answer = self.ask(&SERVERS[0], &json!({ "command": "version-get" })).unwrap();
        answer["text"].as_str().unwrap().to_owned()
    }

    /// Sends kea-dhcp4 a lease as the partner of a pair does.
    pub fn partner_sends(&self, address: &str) {
        let lease = json!({
            "ip-address": address, "hw-address": "0a:00:00:00:00:01", "subnet-id": 1, "force-create": true,
            "origin": "ha-partner",
        });
        let answer = self.ask(&SERVERS[0], &json!({ "command": "lease4-update", "arguments": lease })).unwrap();
        assert_eq!(answer["result"], 0, "{answer}");
    }

    /// Takes it back as the partner does.
    pub fn partner_takes_back(&self, address: &str) {
        let lease = json!({ "ip-address": address, "origin": "ha-partner" });
        let answer = self.ask(&SERVERS[0], &json!({ "command": "lease4-del", "arguments": lease })).unwrap();
        assert_eq!(answer["result"], 0, "{answer}");
    }

    fn ask(&self, (server, socket, _): &(&str, &str, &str), command: &Value) -> Result<Value, String> {
        let answer = self.try_exec(server, 1, &format!("echo '{command}' | nc -NU -w 5 {socket}"))?;
        serde_json::from_str(&answer).map_err(|error| format!("{server} {command}: {error}: {answer}"))
    }

    /// Waits until a server says that it is well.
    pub fn wait_healthy(&self, server: &str) {
        self.wait(&format!("{server} is healthy"), || {
            let id = self.compose(&["ps", "-q", server]);
            let state = run(Command::new("docker").args(["inspect", "-f", "{{.State.Health.Status}}", id.trim()]));
            (state.stdout == b"healthy\n").then_some(()).ok_or(String::from_utf8(state.stdout).unwrap())
        });
    }

    fn wait<T>(&self, what: &str, test: impl Fn() -> Result<T, String>) -> T {
        let until = Instant::now() + Duration::from_secs(120);
        loop {
            match test() {
                Ok(result) => return result,
                Err(last) if Instant::now() > until => {
                    panic!(
                        "{what}: not within two minutes: {last}\n{}",
                        self.compose(&["logs", "--no-color", "--tail=60"])
                    )
                }
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    /// Waits until what `member` holds is exactly what both servers hold; the records by address.
    pub fn assert_mirrored(&self, member: &str) -> BTreeMap<String, Value> {
        self.wait("the mirror is whole", || {
            let mut leases = BTreeMap::new();
            for server in &SERVERS {
                let answer = self.ask(server, &json!({ "command": server.2 }))?;
                let all = answer["arguments"]["leases"].as_array().cloned().unwrap_or_default();
                let held = all.iter().filter(|lease| records::is_held(lease));
                leases.extend(held.map(|lease| records::expected(&json!("kea"), lease)));
            }
            let found = self.records(member)?;
            records::difference(&leases, &found).map_or(Ok(found), Err)
        })
    }

    /// What `etcdctl` in a member tells of the records; it may have no leader at the moment.
    fn records(&self, member: &str) -> Result<BTreeMap<String, Value>, String> {
        let answer = self.try_exec(member, 1, "etcdctl get --prefix /nnoe/dhcp/leases/ -w json")?;
        let answer: Value = serde_json::from_str(&answer).map_err(|error| format!("{error}: {answer}"))?;
        let pairs = answer["kvs"].as_array().cloned().unwrap_or_default();
        let text = |pair: &Value, name: &str| {
            String::from_utf8(BASE64_STANDARD.decode(pair[name].as_str().unwrap()).unwrap()).unwrap()
        };
        let record = |pair: &Value| {
            let (key, value) = (text(pair, "key"), text(pair, "value"));
            let address = key.rsplit('/').next().unwrap().to_owned();
            records::assert_form(&address, &value);
            (address, serde_json::from_str(&value).unwrap())
        };
        Ok(pairs.iter().map(record).collect())
    }

    /// Starts client containers, so that there are `number` of them.
    pub fn clients(&self, number: usize) {
        self.compose(&["up", "-d", "--no-recreate", "--scale", &format!("client={number}"), "client"]);
    }

    /// Runs `dhclient` for one protocol in a client's container.
    fn dhclient(&self, client: usize, family: u8, more: &str) {
        let wanted = if family == 6 { "-6 -N -P" } else { "-4" };
        let files = format!("-pf /run/{family} -lf /run/{family}.leases");
        let script = "-sf /usr/local/sbin/client-script";
        self.exec("client", client, &format!("dhclient {wanted} {more} -v {script} {files} eth0 2>&1"));
    }

    /// A client takes an IPv4 address, an IPv6 address and a prefix, or confirms them when it has them.
    pub fn take(&self, client: usize) {
        // The interface of a new container is not ready at once.
        let ready = "timeout 10 sh -c 'while ip -6 addr show dev eth0 tentative | grep -q fe80; do sleep 0.1; done'";
        self.exec("client", client, ready);
        for family in [4, 6] {
            self.dhclient(client, family, "-1");
        }
    }

    /// The client's machine restarts: it has its leases in a file and asks for them again.
    pub fn restart_client(&self, client: usize) {
        self.exec("client", client, "kill $(cat /run/4) $(cat /run/6); sleep 1");
        self.take(client);
    }

    pub fn release(&self, client: usize) {
        for family in [4, 6] {
            self.dhclient(client, family, "-r");
        }
    }

    /// The client is gone without a word.
    pub fn lose(&self, client: usize) {
        run(Command::new("docker").args(["rm", "-f", &self.container("client", client)]));
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        let _ = self.command().args(["down", "-v", "-t", "1"]).output();
    }
}
