//! What the library's own parts cost, with their allocations: time, and how often and how much memory is taken.

#[path = "sample/mod.rs"]
mod sample;

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};

use dhcp_etcd::comparison::Comparison;
use dhcp_etcd::config::Config;
use dhcp_etcd::etcd::Request;
use dhcp_etcd::handover::Changes;
use dhcp_etcd::lease::{Change, Family, Lease, LeaseType, Operation, Row};
use dhcp_etcd::mirror::Mirror;
use dhcp_etcd::pending::{MAX_OPERATIONS, Pending};
use dhcp_etcd::record::{Content, Summary, to_json, v4};
use divan::{AllocProfiler, Bencher};
use sample::{Leases, NOW, lease, record, shown, writer};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

fn changes(number: usize) -> Changes {
    let change = |n: usize| {
        let lease = lease(u32::try_from(n).unwrap());
        let row = Row::Held { lease, relay: None };
        Change { timestamp: NOW, queued: None, operation: Operation::Offer, row }
    };
    (0..number).map(|n| (v4(0x0a00_0000 + u32::try_from(n).unwrap()), Box::new(change(n)))).collect()
}

/// The packet threads' part of a new lease, without C++: what was committed is left to a turn of the main loop, which each
/// 80th of them makes here. On two threads as well, where they meet at the locks.
#[divan::bench(threads = [1, 2])]
fn callout_to_queue(bencher: Bencher) {
    let kea = Leases { in_memory: true, ..Leases::default() };
    callouts(bencher, kea, |mirror, number| {
        if number % 80 == 0 {
            mirror.turn();
        }
    });
}

/// The same with an SQL database: the lease is read at once.
#[divan::bench(threads = [1, 2])]
fn sql_callout_to_queue(bencher: Bencher) {
    callouts(bencher, Leases::default(), |_, _| {});
}

fn callouts(bencher: Bencher, kea: Leases, after: impl Fn(&Mirror<Leases>, u32) + Sync) {
    let mirror = Mirror::new(kea, Family::V4, Config::parse("{}").unwrap(), Changes::default());
    mirror.configured();
    let next = AtomicU32::new(0);
    bencher.bench(|| {
        let number = next.fetch_add(1, Ordering::Relaxed) % 1000;
        mirror.assigned(v4(0x0a00_0000 + number), LeaseType::Na, None, shown());
        after(&mirror, number);
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
    let comparison = || Comparison::new(writer(), Family::V4, NOW);
    let inputs = || (comparison(), page.clone());
    bencher.with_inputs(inputs).bench_local_values(|(mut comparison, page)| (comparison.leases(page), comparison));
}
