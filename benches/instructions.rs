//! Instructions for each lease, counted by valgrind and held against those that are kept in `instructions.json`, so that a
//! change shows that no clock would tell: they do not depend on what else the machine does. They do depend on the
//! compiler.
//!
//! Each path is run so often and twice as often; the difference is what is counted, without the program's begin. `KEEP=1`
//! keeps what was counted. The program fails when a path takes 20 % more than what the same compiler made of it.

#[path = "sample/mod.rs"]
mod sample;

use std::fs;
use std::hint::black_box;
use std::net::IpAddr;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use dhcp_etcd::config::Config;
use dhcp_etcd::etcd::Request;
use dhcp_etcd::handover::Changes;
use dhcp_etcd::lease::{Change, Family, LeaseType, Operation, Row};
use dhcp_etcd::mirror::{Kea, Mirror};
use dhcp_etcd::pending::{MAX_OPERATIONS, Pending};
use dhcp_etcd::record::{Content, Summary, v4};
use sample::{Leases, NOW, lease, record, shown, writer};
use serde_json::{Map, Value, json};

/// Where the counts are kept.
const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.json");

/// Leases of the shorter run; the longer one fits into the library's queue, which does not grow then.
#[expect(clippy::cast_possible_truncation)]
const LEASES: u32 = 16 * MAX_OPERATIONS as u32;

/// A path that takes so many percent more or less than what is kept has changed.
const CHANGED: f64 = 3.0;

/// A path that takes so many percent more is an error.
const TOO_MUCH: f64 = 20.0;

/// Takes so many leases along it.
type Path = fn(u32);

/// The lease database is in Kea's memory.
const IN_MEMORY: Leases = Leases { in_memory: true, tells_writes: false };
/// It tells its writes, too.
const TOLD: Leases = Leases { in_memory: true, tells_writes: true };
/// It is an SQL database.
const SQL: Leases = Leases { in_memory: false, tells_writes: false };

/// Each so many leases have a turn of the main loop that reads them.
const TURN: u32 = 80;

/// What is counted, by its name. All but the last five are what Kea's threads do for a lease, without C++: what a packet
/// thread does in the callout, or that and what the turn does that reads the lease.
const PATHS: [(&str, Path); 12] = [
    ("DHCPv4, new lease: callout", |leases| {
        exchanges(Family::V4, IN_MEMORY, Operation::Offer, 0..leases, u32::MAX);
    }),
    ("DHCPv4, new lease: callout and turn", |leases| {
        exchanges(Family::V4, IN_MEMORY, Operation::Offer, 0..leases, TURN);
    }),
    ("DHCPv4, renewal of an address that waits: callout and turn", |leases| {
        exchanges(Family::V4, IN_MEMORY, Operation::Renew, (0..leases).map(|n| n % 100), TURN);
    }),
    ("DHCPv4, new lease, the database tells its writes: callout and turn", |leases| {
        exchanges(Family::V4, TOLD, Operation::Offer, 0..leases, TURN);
    }),
    ("DHCPv6, new lease: callout and turn", |leases| {
        exchanges(Family::V6, IN_MEMORY, Operation::Offer, 0..leases, TURN);
    }),
    ("DHCPv6, new lease, the database tells its writes: callout and turn", |leases| {
        exchanges(Family::V6, TOLD, Operation::Offer, 0..leases, TURN);
    }),
    ("DHCPv4, new lease in an SQL database: callout", |leases| {
        exchanges(Family::V4, SQL, Operation::Offer, 0..leases, u32::MAX);
    }),
    ("of that: reading a DHCPv4 lease of the benchmark", |leases| {
        let kea = Leases::default();
        (0..leases).for_each(|n| drop(black_box(kea.read_lease(address(Family::V4, n), LeaseType::Na))));
    }),
    ("worker: record of a lease, the lease included", |leases| {
        (0..leases).for_each(|n| drop(black_box(record(n))));
    }),
    ("worker: change to its part of a transaction, the change included", transactions),
    ("worker: what a comparison keeps of a record, the record included", |leases| {
        (0..leases).for_each(|n| drop(black_box(Summary::parse(&record(n)))));
    }),
    ("worker: lease against that, lease and record included", |leases| {
        for n in 0..leases {
            black_box(Summary::parse(&record(n)).unwrap().content == Some(Content::of(&lease(n))));
        }
    }),
];

/// The address of a lease.
fn address(family: Family, number: u32) -> IpAddr {
    match family {
        Family::V4 => v4(0x0a00_0000 + number),
        Family::V6 => std::net::Ipv6Addr::from((0x2001_0db8_u128 << 96) + u128::from(number)).into(),
    }
}

/// What Kea tells of exchanges, as in `src/bridge.rs`, with a turn of its main loop after so many.
fn exchanges(family: Family, kea: Leases, operation: Operation, numbers: impl Iterator<Item = u32>, turn: u32) {
    let tells_writes = kea.tells_writes;
    let mirror = Mirror::new(kea, family, Config::parse("{}").unwrap(), Changes::default());
    mirror.configured();
    let never = Instant::now() + Duration::from_secs(3600);
    for (done, number) in (1..).zip(numbers) {
        let address = address(family, number);
        if operation != Operation::Offer {
            mirror.forget_hints();
            mirror.about_to(operation, address);
        }
        if tells_writes {
            mirror.written(address, LeaseType::Na, None);
        }
        mirror.assigned(address, LeaseType::Na, None, shown());
        if done % turn == 0 {
            // It reads them all, however slow valgrind is: a clock would be counted, too.
            mirror.turn_until(never);
        }
    }
}

/// Changes become full transactions.
fn transactions(leases: u32) {
    let mut pending = Pending::new(writer());
    let numbers: Vec<u32> = (0..leases).collect();
    for batch in numbers.chunks(MAX_OPERATIONS) {
        let change = |n: u32| Change {
            timestamp: NOW,
            queued: None,
            operation: Operation::Offer,
            row: Row::Held { lease: lease(n), relay: None },
        };
        let mut changes: Changes = batch.iter().map(|n| (address(Family::V4, *n), Box::new(change(*n)))).collect();
        pending.absorb(&mut changes, MAX_OPERATIONS);
        let batch = pending.next_batch(NOW).expect("changes wait");
        let presence = "/nnoe/dhcp/servers/host/dhcp4";
        black_box(Request::write(&batch, pending.writer(), presence, 1, |_| true, NOW));
        pending = Pending::new(writer());
    }
}

/// Instructions of a whole run of this program that does nothing but a path.
fn run(path: usize, leases: u32) -> u64 {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(std::env::current_exe().unwrap());
    let output = valgrind.args(["count", &path.to_string(), &leases.to_string()]).output();
    let output = output.expect("valgrind (`tests/packages.sh tests` installs it)");
    let report = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{report}");
    let collected = report.lines().find_map(|line| line.split_once("Collected : ")).expect("callgrind's count").1;
    collected.trim().parse().unwrap()
}

/// The compiler and the kind of processor.
fn compiler() -> String {
    let version = Command::new("rustc").arg("--version").output().expect("rustc").stdout;
    format!("{}, {}", String::from_utf8_lossy(&version).trim(), std::env::consts::ARCH)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let ["count", path, leases] = arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        PATHS[path.parse::<usize>().unwrap()].1(leases.parse().unwrap());
        return ExitCode::SUCCESS;
    }
    let kept: Value = fs::read_to_string(KEPT).map_or(Value::Null, |text| serde_json::from_str(&text).expect(KEPT));
    let compiler = compiler();
    let is_same = kept["compiler"] == compiler.as_str();
    let (mut counted, mut is_too_much) = (Map::new(), false);
    println!("| instructions for each lease | kept | now | |\n| --- | --- | --- | --- |");
    for (path, (name, _)) in PATHS.iter().enumerate() {
        let now = json!((run(path, 2 * LEASES) - run(path, LEASES)) / u64::from(LEASES));
        let before = &kept["instructions"][name];
        let growth = now.as_f64().zip(before.as_f64()).map(|(now, before)| (now / before - 1.0) * 100.0);
        let verdict = match growth {
            None => "new".to_owned(),
            Some(growth) if growth > TOO_MUCH && is_same => format!("{growth:+.1} %: **too much**"),
            Some(growth) if growth.abs() > CHANGED => format!("{growth:+.1} %"),
            Some(_) => String::new(),
        };
        is_too_much |= is_same && growth.is_some_and(|growth| growth > TOO_MUCH);
        println!("| {name} | {before} | {now} | {verdict} |");
        counted.insert((*name).to_owned(), now);
    }
    if !is_same {
        println!("kept is what {} made, now it is {compiler}: only told", kept["compiler"]);
    }
    if std::env::var("KEEP").is_ok_and(|keep| keep == "1") {
        let kept = json!({ "compiler": compiler, "instructions": counted });
        fs::write(KEPT, serde_json::to_string_pretty(&kept).unwrap() + "\n").unwrap();
        return ExitCode::SUCCESS;
    }
    if is_too_much {
        println!("what is wanted is kept by `KEEP=1 make instructions`");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
