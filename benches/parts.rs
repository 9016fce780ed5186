//! What the library's own parts cost, with their allocations: time, and how often and how much memory is taken.
//!
//! The lease is one of a home network: hardware address, client identifier, host name.

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use dhcp_etcd::comparison::Comparison;
use dhcp_etcd::config::Config;
use dhcp_etcd::etcd::Request;
use dhcp_etcd::handover::Changes;
use dhcp_etcd::index::Index;
use dhcp_etcd::lease::{Change, Family, Lease, LeaseType, Operation, Protocol, Row};
use dhcp_etcd::lifetime::Lifetime;
use dhcp_etcd::mirror::{Kea, Mirror};
use dhcp_etcd::pending::{MAX_OPERATIONS, Pending};
use dhcp_etcd::record::{Content, LeaseKeys, Summary, to_json, v4};
use dhcp_etcd::writer::Writer;
use divan::{AllocProfiler, Bencher};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

const NOW: i64 = 1_700_000_000;

fn main() {
    divan::main();
}

fn lease(number: u32) -> Lease {
    let [_, a, b, c] = number.to_be_bytes();
    Lease {
        address: v4(0x0a00_0000 + number),
        state: 0,
        hwaddr: [2, 0, 0, a, b, c].into(),
        protocol: Protocol::V4 { client_id: [1, 2, 0, 0, a, b, c].into() },
        hostname: b"printer.example.org".as_slice().into(),
        fqdn_fwd: false,
        fqdn_rev: false,
        subnet_id: 1,
        pool_id: 0,
        cltt: NOW,
        valid_lft: 3600,
        user_context: "".into(),
    }
}

fn changes(number: usize) -> Changes {
    let change = |n: usize| {
        let lease = lease(u32::try_from(n).unwrap());
        let row = Row::Held { lease, relay: None };
        Change { timestamp: NOW, operation: Operation::Offer, row }
    };
    (0..number).map(|n| (v4(0x0a00_0000 + u32::try_from(n).unwrap()), Box::new(change(n)))).collect()
}

fn writer() -> Writer {
    Writer {
        server: "host".into(),
        keys: LeaseKeys::new("/nnoe/dhcp"),
        index: Index::new("/nnoe/dhcp", &[]),
        lifetime: Some(Lifetime::new("/nnoe/dhcp", "host", "dhcp4", 120)),
        grace: 120,
    }
}

fn record(number: u32) -> Vec<u8> {
    to_json(&lease(number), Operation::Offer, None, NOW, "host")
}

/// A server that has every lease.
struct Leases;

impl Kea for Leases {
    fn read_lease(&self, address: IpAddr, _: LeaseType) -> Result<Option<Lease>, String> {
        let IpAddr::V4(address) = address else { return Ok(None) };
        Ok(Some(lease(address.to_bits() & 0x00ff_ffff)))
    }

    fn read_page(&self, _: IpAddr, _: usize) -> Result<Vec<Lease>, String> {
        Ok(Vec::new())
    }

    fn version(&self) -> String {
        String::new()
    }

    fn on_main_thread(&self) -> bool {
        false
    }

    fn lease_database_open(&self) -> bool {
        true
    }

    fn track_lease_database(&self) -> bool {
        false
    }

    fn wake_main_loop(&self) {}

    fn set_statistic(&self, _: &str, _: i64) {}

    fn without_signals(&self, _: &mut dyn FnMut()) {}
}

/// The packet threads' part of a lease, without C++: the operation is told, the lease read, the change queued. On two
/// threads as well, where they meet at the queue's lock.
#[divan::bench(threads = [1, 2])]
fn callout_to_queue(bencher: Bencher) {
    let mirror = Mirror::new(Leases, Family::V4, Config::parse("{}").unwrap(), Changes::new());
    let next = AtomicU32::new(0);
    bencher.bench(|| {
        let address = v4(0x0a00_0000 + next.fetch_add(1, Ordering::Relaxed) % 1000);
        mirror.about_to(Operation::Offer, address);
        mirror.assigned(address, LeaseType::Na, None);
    });
}

#[divan::bench]
fn lease_to_record(bencher: Bencher) {
    let lease = lease(1);
    bencher.bench(|| to_json(black_box(&lease), Operation::Offer, None, NOW, "host"));
}

/// As many changes as a transaction takes, from where they wait to the request.
#[divan::bench]
fn full_batch_to_transaction(bencher: Bencher) {
    let waiting = || {
        let mut pending = Pending::new(writer());
        pending.absorb(&mut changes(MAX_OPERATIONS), MAX_OPERATIONS);
        pending
    };
    bencher.with_inputs(waiting).bench_local_values(|mut pending| {
        let batch = pending.next_batch(NOW).unwrap();
        let request = Request::write(&batch, pending.writer(), "/nnoe/dhcp/servers/host/dhcp4", 1, |_| true, NOW);
        (pending, batch, request)
    });
}

/// A comparison reads a record.
#[divan::bench]
fn record_to_summary(bencher: Bencher) {
    let record = record(1);
    bencher.bench(|| Summary::parse(black_box(&record)).unwrap());
}

/// A comparison holds a lease against what it kept of the record.
#[divan::bench]
fn lease_against_record(bencher: Bencher) {
    let (lease, kept) = (lease(1), Summary::parse(&record(1)).unwrap().content.unwrap());
    bencher.bench(|| Content::of(black_box(&lease)) == kept);
}

/// A page of the lease database of which no lease has a record.
#[divan::bench]
fn page_of_missing_leases(bencher: Bencher) {
    let page: Vec<Lease> = (0..200).map(lease).collect();
    let comparison = || Comparison::new(writer(), Family::V4, NOW, std::iter::empty());
    let inputs = || (comparison(), page.clone());
    bencher.with_inputs(inputs).bench_local_values(|(mut comparison, page)| (comparison.leases(page), comparison));
}
