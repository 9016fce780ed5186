//! How long after its ACK a lease is visible in etcd: a few clients whose records are watched, beside the load.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use etcd_client::{Client, WatchOptions};

use crate::bed::{Bed, RELAYS};
use crate::beside::spawn;
use crate::client4::{Answer, Client4};
use crate::figures::{Budget, Figure, quantile, sorted};
use crate::kea::Family;
use crate::others::{self, Writing};
use crate::perfdhcp;
use crate::with::{BATCH, With};
use crate::{Part, turns};

/// Watched exchanges a second.
const SAMPLES: u32 = 50;

/// Seconds of a load.
const SECONDS: u32 = 8;

/// How long a watched client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// The records of the watched clients.
const WATCHED: &str = "/nnoe/dhcp/leases/10.200.";

/// One watched lease.
pub struct Lag {
    /// When its ACK came, in seconds since the load began.
    pub at: f64,
    /// Milliseconds from then until its record was told; infinite when it never was.
    pub lag: f64,
}

fn nanoseconds() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()
}

/// Seconds between two times, 0 when the second is the earlier one.
fn seconds(from: u128, to: u128) -> f64 {
    Duration::from_nanos(u64::try_from(to.saturating_sub(from)).unwrap()).as_secs_f64()
}

/// The watched leases that are taken beside a `load` of the same time.
pub fn lags(bed: &Bed, seconds_of_load: u32, load: impl FnOnce()) -> Vec<Lag> {
    let mut watch = spawn(&bed.hosts.server, &["watch", &bed.etcd.url()]);
    let mut events = BufReader::new(watch.stdout().unwrap()).lines().map_while(Result::ok);
    // The first line tells that it watches.
    events.next().expect("the watch begins");
    let begin = nanoseconds();
    let clients = spawn(&bed.hosts.client, &["clients", &seconds_of_load.to_string()]);
    load();
    let acks = clients.wait();
    assert!(acks.status.success(), "{acks:?}");
    // What is under way.
    sleep(Duration::from_secs(1));
    drop(watch);
    let parse = |line: &str| {
        let (address, time) = line.split_once(' ').unwrap();
        (address.to_owned(), time.parse::<u128>().unwrap())
    };
    let seen: HashMap<String, u128> = events.map(|line| parse(&line)).collect();
    let acks = String::from_utf8(acks.stdout).unwrap();
    let lag = |(address, acknowledged): (String, u128)| Lag {
        at: seconds(begin, acknowledged),
        // The event may be there before the client's process runs again.
        lag: seen.get(&address).map_or(f64::INFINITY, |seen| seconds(acknowledged, *seen) * 1000.0),
    };
    acks.lines().map(parse).map(lag).collect()
}

/// In the clients' namespace: takes leases, and prints each address with the time of its ACK.
pub fn clients(seconds: u32) {
    let mut client =
        Client4::behind((RELAYS[1].parse().unwrap(), 67), (Ipv4Addr::new(192, 0, 2, 1), 67), std::process::id() << 16);
    let begin = Instant::now();
    for n in 0..SAMPLES * seconds {
        sleep((begin + n * Duration::from_secs(1) / SAMPLES).saturating_duration_since(Instant::now()));
        client.become_client((std::process::id() << 16) + n);
        // A message may be lost beside a load.
        let answer = client.try_discover(PATIENCE).and_then(|offer| client.answer_to_request(&offer, PATIENCE));
        if let Some(Answer::Ack(address)) = answer {
            println!("{address} {}", nanoseconds());
        }
    }
}

/// In the server's namespace: prints each address with the time at which its record was told.
pub fn watch(url: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut etcd = Client::connect([url], None).await.unwrap();
        let mut stream = etcd.watch(WATCHED, Some(WatchOptions::new().with_prefix())).await.unwrap();
        println!("watching 0");
        while let Some(news) = stream.message().await.unwrap() {
            for pair in news.events().iter().filter_map(|event| event.kv()) {
                let address = pair.key_str().unwrap().rsplit('/').next().unwrap();
                println!("{address} {}", nanoseconds());
            }
        }
    });
}

/// The lag at a rate: median and 99th percentile, or one of them.
struct AtRate {
    rate: u32,
    /// Records of a transaction of the simplest mirror: each at once, or about as many as the library's have.
    batch: u32,
    figures: Vec<(f64, Figure)>,
    /// What came of the load: else a lag at a rate may be one at another.
    completed: Figure,
    /// What etcd takes for a record where nobody else writes any, beside a server that has no library: median and 99th percentile.
    alone: [(f64, Figure); 2],
}

impl AtRate {
    fn new(rate: u32, batch: u32, budgets: &[(f64, f64)]) -> Self {
        let figure = |(part, budget): &(f64, f64)| {
            let part_of = format!("from ACK to etcd at {rate}/s, {:.0}th percentile", part * 100.0);
            let what = format!(
                "{part_of} (without: a library that only reads, another program writes what an exact mirror does)"
            );
            (*part, Figure::new(what, "ms", Budget::AtMost(*budget)))
        };
        let completed = Figure::new(format!("exchanges completed of {rate} begun a second"), "1/s", Budget::Told);
        let alone = [0.5, 0.99].map(|part| {
            let part_of = format!("{:.0}th percentile", part * 100.0);
            let what = format!(
                "{SAMPLES} records a second to an idle etcd, {rate}/s at a server without a library: {part_of}"
            );
            (part, Figure::new(what, "ms", Budget::Told))
        });
        Self { rate, batch, figures: budgets.iter().map(figure).collect(), completed, alone }
    }

    fn measure(&mut self) {
        let bed = Bed::new(Family::V4, true, true);
        let mut completed = 0.0;
        let lags = lags(&bed, SECONDS, || completed = perfdhcp::load(&bed, self.rate, SECONDS).completed);
        self.add(true, &lags.iter().map(|lag| lag.lag).collect::<Vec<_>>(), completed);
    }

    /// The simplest mirror writes as many records.
    fn measure_mirror(&mut self) {
        let bed = With::Least.bed(Family::V4, true);
        let writer = others::write(&bed, Writing::exact(self.rate, SECONDS, self.batch));
        let completed = perfdhcp::load(&bed, self.rate, SECONDS).completed;
        self.add(false, &writer.written().lags, completed);
    }

    /// A record that comes alone.
    fn measure_alone(&mut self) {
        let bed = With::Beside.bed(Family::V4, true);
        let writer = others::write(&bed, Writing::exact(SAMPLES, SECONDS, 1));
        perfdhcp::load(&bed, self.rate, SECONDS);
        tell(&format!("an idle etcd beside {}/s", self.rate), true, &writer.written().lags, &mut self.alone);
    }

    fn add(&mut self, with: bool, lags: &[f64], completed: f64) {
        let completed = completed / f64::from(SECONDS);
        self.completed.add(with, completed);
        let whose = if with { "" } else { " of the simplest mirror" };
        tell(&format!("lag{whose} at {}/s ({completed:.0} completed)", self.rate), with, lags, &mut self.figures);
    }

    fn all(&self) -> impl Iterator<Item = &Figure> {
        self.figures.iter().chain(&self.alone).map(|(_, figure)| figure).chain([&self.completed])
    }
}

/// Adds a quantile of `lags` to each figure, and prints two of them.
fn tell(what: &str, with: bool, lags: &[f64], figures: &mut [(f64, Figure)]) {
    let lags = sorted(lags);
    for (part, figure) in figures {
        figure.add(with, quantile(&lags, *part));
    }
    println!("  {what}: median {:.2} ms, p99 {:.2} ms", quantile(&lags, 0.5), quantile(&lags, 0.99));
}

/// The lag at two rates, and that of the simplest mirror.
pub struct Visible([AtRate; 2]);

impl Visible {
    pub fn new() -> Self {
        Self([AtRate::new(1000, 1, &[(0.5, 2.0), (0.99, 10.0)]), AtRate::new(6000, BATCH, &[(0.99, 50.0)])])
    }
}

impl Part for Visible {
    fn measure(&mut self, round: usize) {
        for at_rate in &mut self.0 {
            for is_library in turns(round) {
                if is_library { at_rate.measure() } else { at_rate.measure_mirror() }
            }
            at_rate.measure_alone();
        }
    }

    fn figures(&self) -> Vec<&Figure> {
        self.0.iter().flat_map(AtRate::all).collect()
    }
}
