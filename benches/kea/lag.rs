//! How long after its ACK a lease is visible in etcd: a few clients whose records are watched, beside the load.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use etcd_client::{Client, WatchOptions};

use crate::bed::{Bed, RELAYS};
use crate::client4::{Answer, Client4};

/// Watched exchanges a second.
const SAMPLES: u32 = 50;

/// How long a watched client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// The records of the watched clients.
const WATCHED: &str = "/nnoe/dhcp/leases/10.200.";

fn nanoseconds() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()
}

/// Runs this program in a namespace as one of the two below; what it prints: an address and a time a line.
fn spawn(host: &str, arguments: &[&str]) -> std::process::Child {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new("ip");
    command.args(["netns", "exec", host]).arg(program).args(arguments).stdout(Stdio::piped());
    command.spawn().unwrap()
}

/// Beside a `load` of the same time: milliseconds from ACK to event, in order of size.
pub fn lags(bed: &Bed, seconds: u32, load: impl FnOnce()) -> Vec<f64> {
    let mut watch = spawn(&bed.hosts.server, &["watch", &bed.etcd.url()]);
    let mut events = BufReader::new(watch.stdout.take().unwrap()).lines().map_while(Result::ok);
    // The first line tells that it watches.
    events.next().expect("the watch begins");
    let clients = spawn(&bed.hosts.client, &["clients", &seconds.to_string()]);
    load();
    let acks = clients.wait_with_output().unwrap();
    assert!(acks.status.success(), "{acks:?}");
    // What is under way.
    sleep(Duration::from_secs(1));
    watch.kill().unwrap();
    watch.wait().unwrap();
    let parse = |line: &str| {
        let (address, time) = line.split_once(' ').unwrap();
        (address.to_owned(), time.parse::<u128>().unwrap())
    };
    let seen: HashMap<String, u128> = events.map(|line| parse(&line)).collect();
    let acks = String::from_utf8(acks.stdout).unwrap();
    let mut lags: Vec<f64> = acks
        .lines()
        .map(parse)
        .map(|(address, acknowledged)| match seen.get(&address) {
            // The event may be there before the client's process runs again.
            Some(seen) => {
                Duration::from_nanos(u64::try_from(seen.saturating_sub(acknowledged)).unwrap()).as_secs_f64() * 1000.0
            }
            None => f64::INFINITY,
        })
        .collect();
    lags.sort_by(f64::total_cmp);
    lags
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
