//! Pairs of kea-dhcp4 as the samples in `kea-config/ha/` make them, both with our library and on one prefix: whoever serves, each lease has
//! one record, the newest, and in the end both databases and etcd agree.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client4::Client4;
use crate::etcd::Etcd;
use crate::kea::{Family, HIGH_AVAILABILITY, Kea, Wanted};
use crate::left_out;
use crate::ports;
use crate::records;
use crate::sample_configs::sample;
use crate::tcp_link::{Mode, TcpLink};

const NAMES: [&str; 2] = ["host-1", "host-2"];

/// The links of one server: to its partner and to etcd.
struct Links {
    partner: TcpLink,
    etcd: TcpLink,
}

/// The control agent of one server; ended with it.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Pair {
    etcd: Etcd,
    servers: [Kea; 2],
    links: [Links; 2],
    _agents: Vec<Agent>,
}

/// What the sample of a mode says of High Availability, but for the times, which are a person's there.
fn relationship(sample: &Value) -> Value {
    let libraries = sample["Dhcp4"]["hooks-libraries"].as_array().unwrap();
    let place = |name: &str| libraries.iter().position(|one| one["library"].as_str().unwrap().ends_with(name)).unwrap();
    assert!(place(HIGH_AVAILABILITY) < place("libdhcp_etcd.so"));
    let mut relationship = libraries[place(HIGH_AVAILABILITY)]["parameters"]["high-availability"][0].clone();
    for (time, milliseconds) in [("heartbeat-delay", 300), ("max-response-delay", 1000), ("max-ack-delay", 500)] {
        if relationship.get(time).is_some() {
            relationship[time] = json!(milliseconds);
            relationship["max-unacked-clients"] = json!(0);
        }
    }
    relationship
}

impl Pair {
    /// The two servers of a sample in `kea-config/ha/`, once each says that it is in its state.
    fn start(mode: &str, states: [&str; 2]) -> Self {
        let pairs = sample(&format!("ha/{mode}.conf"));
        let mut relationship = relationship(&pairs);
        let mut by_agent = relationship["multi-threading"]["enable-multi-threading"] == false;
        if by_agent && !Path::new("/usr/sbin/kea-ctrl-agent").exists() {
            left_out::tell("kea-ctrl-agent, which Debian has not for Kea 3.0: the servers talk straight to each other");
            by_agent = false;
            relationship["multi-threading"] = json!({
                "enable-multi-threading": true, "http-dedicated-listener": true,
                "http-listener-threads": 2, "http-client-threads": 2,
            });
        }
        let mut subnet = pairs["Dhcp4"]["subnet4"].clone();
        subnet[0]["relay"] = json!({ "ip-addresses": ["127.0.1.1", "127.0.1.2"] });
        let etcd = Etcd::start();
        let listens = [ports::free(), ports::free()];
        let links = [1, 0]
            .map(|partner: usize| Links { partner: TcpLink::to(listens[partner]), etcd: TcpLink::to(etcd.port()) });
        let servers = [0, 1].map(|own: usize| {
            let mut relationship = relationship.clone();
            relationship["this-server-name"] = json!(NAMES[own]);
            for peer in 0..2 {
                let port = if peer == own { listens[own] } else { links[own].partner.port() };
                relationship["peers"][peer]["url"] = json!(format!("http://127.0.0.1:{port}/"));
            }
            let wanted = Wanted::new(Family::V4, &links[own].etcd.url())
                .parameter("server-name", json!(NAMES[own]))
                .parameter("request-timeout", json!(500))
                .library(HIGH_AVAILABILITY, json!({ "high-availability": [relationship] }))
                .more(json!({ "subnet4": subnet }));
            Kea::start_connected(&wanted.threads(!by_agent))
        });
        let mut agents = Vec::new();
        if by_agent {
            for (server, port) in servers.iter().zip(listens) {
                agents.push(Agent(server.start_agent(&sample("ha/kea-ctrl-agent.conf"), port)));
            }
        }
        let pair = Self { etcd, servers, links, _agents: agents };
        for (server, state) in states.into_iter().enumerate() {
            pair.wait_state(server, state);
        }
        pair
    }

    fn state(&self, server: usize) -> String {
        let status = self.servers[server].ask("status-get", &Value::Null);
        status["high-availability"][0]["ha-servers"]["local"]["state"].as_str().unwrap_or("").to_owned()
    }

    fn wait_state(&self, server: usize, wanted: &str) {
        let until = Instant::now() + Duration::from_secs(90);
        while self.state(server) != wanted {
            assert!(Instant::now() < until, "{} is {}, not {wanted}", NAMES[server], self.state(server));
            sleep(Duration::from_millis(100));
        }
    }

    /// A client that talks to one of the servers.
    fn client(&self, server: usize, relay: u8) -> Client4 {
        Client4::new(&self.servers[server], relay, 0)
    }

    /// Clients `numbers` take leases; each asks until the server answers.
    fn take(&self, server: usize, numbers: std::ops::Range<u32>) {
        let mut client = self.client(server, 1);
        for number in numbers {
            client.become_client(number);
            take(&client);
        }
    }

    /// Leases of a server by address, as the records that they should have but for the server's name.
    fn leases(&self, server: usize) -> BTreeMap<String, Value> {
        self.servers[server].leases().iter().map(|lease| records::expected(&json!("either"), lease)).collect()
    }

    /// Waits until the records are exactly the leases of these servers, which agree; the records.
    fn assert_agree(&self, servers: &[usize]) -> BTreeMap<String, Value> {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let found = self.etcd.records();
            let mut records = found.clone();
            for record in records.values_mut() {
                assert!(NAMES.iter().any(|name| record["server"] == *name), "{record}");
                record["server"] = json!("either");
            }
            let differences = servers.iter().filter_map(|&server| {
                records::difference(&self.leases(server), &records).map(|lines| format!("{}: {lines}", NAMES[server]))
            });
            let differences: Vec<String> = differences.collect();
            if differences.is_empty() {
                return found;
            }
            assert!(Instant::now() < until, "{}", differences.join("\n"));
            sleep(Duration::from_millis(50));
        }
    }

    fn cut_partners(&self, mode: Mode) {
        for links in &self.links {
            links.partner.set(mode);
        }
    }
}

/// The four-way exchange, repeated as clients do until it succeeds: a server that takes over needs a moment.
fn take(client: &Client4) {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let short = Duration::from_millis(500);
        let offer = client.try_discover(short);
        if offer.is_some_and(|offer| client.try_request_within(&offer, Duration::from_secs(3)).is_some()) {
            return;
        }
        assert!(Instant::now() < until, "no lease within a minute");
    }
}

#[test]
fn hot_standby_through_failures_of_servers_and_links() {
    let states = ["hot-standby", "hot-standby"];
    let mut pair = Pair::start("hot-standby", states);
    // What the active server writes, and what its partner is told.
    pair.take(0, 1..21);
    assert_eq!(pair.assert_agree(&[0, 1]).len(), 20);
    let client = pair.client(0, 2);
    take(&client);
    let records = pair.assert_agree(&[0, 1]);
    assert_eq!(records.len(), 21);
    let own = records.values().find(|record| record["hwaddr"] == "02:00:00:00:00:00").unwrap();
    client.release(own["ip"].as_str().unwrap().parse().unwrap());
    for server in &pair.servers {
        server.wait_leases(|leases| leases.len() == 20);
    }
    assert_eq!(pair.assert_agree(&[0, 1]).len(), 20);

    // The active server is killed; its partner takes over, extends leases and gives new ones.
    pair.servers[0].signal("KILL");
    pair.servers[0].wait_end();
    pair.take(1, 11..31);
    pair.wait_state(1, "partner-down");
    pair.assert_agree(&[1]);
    // The dead one comes back with its old database, and learns what happened.
    pair.servers[0].restart();
    for server in [0, 1] {
        pair.wait_state(server, "hot-standby");
    }
    pair.assert_agree(&[0, 1]);

    // The partner cannot reach etcd: the active one writes, and later nothing older takes its place.
    pair.links[1].etcd.set(Mode::BlackHole);
    pair.take(0, 21..41);
    pair.assert_agree(&[0, 1]);
    pair.links[1].etcd.set(Mode::Whole);
    pair.take(0, 1..3);
    pair.assert_agree(&[0, 1]);
    // The active one cannot: its partner tells what it was told, also when nothing else happens.
    pair.links[0].etcd.set(Mode::BlackHole);
    for number in 41..44 {
        sleep(Duration::from_secs(3));
        pair.take(0, number..number + 1);
    }
    pair.assert_agree(&[0, 1]);
    pair.links[0].etcd.set(Mode::Whole);

    // They cannot reach each other, so both serve, each its own clients; the newest news of an address stands, and when
    // they have talked again both agree.
    pair.cut_partners(Mode::Cut);
    for server in [0, 1] {
        pair.wait_state(server, "partner-down");
    }
    // Not in the same second: Kea itself could not tell then which of two leases of an address is newer.
    pair.take(0, 50..53);
    sleep(Duration::from_millis(1100));
    pair.take(1, 53..57);
    sleep(Duration::from_millis(1100));
    pair.take(0, 1..6);
    pair.cut_partners(Mode::Whole);
    for server in [0, 1] {
        pair.wait_state(server, "hot-standby");
    }
    pair.take(0, 60..65);
    pair.assert_agree(&[0, 1]);
}

#[test]
fn load_balancing_splits_the_clients_and_not_the_mirror() {
    let states = ["load-balancing", "load-balancing"];
    let mut pair = Pair::start("load-balancing", states);
    let (mut first, mut second) = (pair.client(0, 1), pair.client(1, 1));
    let mut served = [0, 0];
    for number in 1..31 {
        first.become_client(number);
        second.become_client(number);
        // Only the server whose client it is answers.
        let is_first = first.try_discover(Duration::from_millis(300)).is_some();
        take(if is_first { &first } else { &second });
        served[usize::from(!is_first)] += 1;
    }
    assert!(served[0] > 0 && served[1] > 0, "{served:?}");
    assert_eq!(pair.assert_agree(&[0, 1]).len(), 30);
    pair.servers[1].signal("KILL");
    pair.servers[1].wait_end();
    for number in 25..41 {
        first.become_client(number);
        take(&first);
    }
    assert_eq!(pair.assert_agree(&[0]).len(), 40);
    pair.servers[1].restart();
    for server in [0, 1] {
        pair.wait_state(server, "load-balancing");
    }
    assert_eq!(pair.assert_agree(&[0, 1]).len(), 40);
}

#[test]
fn passive_backup_has_one_record_of_each_lease() {
    let pair = Pair::start("passive-backup", ["passive-backup", "backup"]);
    pair.take(0, 1..21);
    assert_eq!(pair.assert_agree(&[0, 1]).len(), 20);
    pair.links[0].etcd.set(Mode::BlackHole);
    pair.take(0, 15..31);
    pair.assert_agree(&[0, 1]);
    pair.links[0].etcd.set(Mode::Whole);
    assert_eq!(pair.assert_agree(&[0, 1]).len(), 30);
}
