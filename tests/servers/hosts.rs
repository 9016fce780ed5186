//! Two hosts with a cable between them: network namespaces of the test's own.

use std::process::Command;

/// Two hosts with a cable between them; gone at the end.
pub struct Hosts {
    pub server: String,
    pub client: String,
}

pub fn run(command: &str) {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Hosts {
    pub fn new(name: &str) -> Self {
        let id = std::process::id();
        let hosts = Self { server: format!("de-s{name}-{id}"), client: format!("de-c{name}-{id}") };
        let (server, client) = (&hosts.server, &hosts.client);
        for command in [
            format!("ip netns add {server}"),
            format!("ip netns add {client}"),
            format!("ip link add srv netns {server} type veth peer name cli netns {client}"),
            // Addresses are usable at once: nobody else is on the cable.
            format!("ip netns exec {server} sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.srv.accept_dad=0"),
            format!("ip netns exec {client} sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.cli.accept_dad=0"),
            format!("ip -n {server} link set lo up"),
            format!("ip -n {server} addr add 192.0.2.1/24 dev srv"),
            format!("ip -n {server} addr add 2001:db8:5::1/64 dev srv"),
            format!("ip -n {server} link set srv up"),
            format!("ip -n {client} link set cli up"),
        ] {
            run(&command);
        }
        for (host, interface) in [(server, "srv"), (client, "cli")] {
            run(&format!(
                "timeout 10 sh -c 'until ip -n {host} -6 addr show dev {interface} scope link | grep -q fe80; do sleep 0.1; done'"
            ));
        }
        hosts
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in [&self.server, &self.client] {
            let _ = Command::new("ip").args(["netns", "del", host]).status();
        }
    }
}
