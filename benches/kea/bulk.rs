//! Another program that writes as many records as it can to etcd, or reads all of them, as simply as can be. Like any exact mirror
//! it writes a record only where there is none, and is told what is written; and it parses what it reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use dhcp_etcd::mirror::GIVES_WAY;
use dhcp_etcd::resync::KEYS;
use etcd_client::{Client, GetOptions};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::bed::{Bed, cpu_in};
use crate::beside::{Beside, spawn, spawn_by};
use crate::etcd::LEASES;
use crate::others;

/// Records of a transaction: etcd takes 128 operations.
const BATCH: u32 = 127;

/// The first key after the records: `0` comes after `/`.
const AFTER: &str = "/nnoe/dhcp/leases0";

/// Transactions under way at a time; more bring nothing here.
const WINDOW: usize = 4;

/// Has another program write records; how many seconds that takes.
pub fn write(bed: &Bed, records: u32) -> f64 {
    let output = spawn(&bed.hosts.server, &["bulk", &bed.etcd.url(), &records.to_string()]).wait();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(bed.records(), u64::from(records));
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

/// In the server's namespace: the above.
pub fn run(url: &str, records: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let took = runtime.block_on(async {
        let begin = Instant::now();
        let mut etcd = Client::connect([url], None).await.unwrap();
        others::listen(etcd.clone(), Arc::default()).await;
        let lease = etcd.lease_grant(3600, None).await.unwrap().id();
        let next = Arc::new(AtomicU32::new(0));
        let mut writers = JoinSet::new();
        for _ in 0..WINDOW {
            let (mut etcd, next) = (etcd.kv_client(), Arc::clone(&next));
            writers.spawn(async move {
                loop {
                    let first = next.fetch_add(BATCH, Ordering::Relaxed);
                    if first >= records {
                        break;
                    }
                    others::put(&mut etcd, first..records.min(first + BATCH), lease, true).await;
                }
            });
        }
        // One that panicked ends this one, too.
        writers.join_all().await;
        begin.elapsed().as_secs_f64()
    });
    println!("{took}");
}

/// Has another program read all records once, page by page, as a comparison does; it gives way to the server as the library's
/// worker does.
pub fn read(bed: &Bed) -> Beside {
    let nice = GIVES_WAY.to_string();
    spawn_by(&bed.hosts.server, &["nice", "-n", &nice], &["bulk", &bed.etcd.url()])
}

/// How many that program has read when it has ended, in how many seconds of CPU.
pub fn was_read(reader: Beside) -> (u32, f64) {
    let output = reader.wait();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let (records, cpu) = text.trim().split_once(' ').unwrap();
    (records.parse().unwrap(), cpu.parse().unwrap())
}

/// In the server's namespace: the above.
pub fn run_reader(url: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let records: u32 = runtime.block_on(async {
        let mut etcd = Client::connect([url], None).await.unwrap();
        let (mut from, mut revision, mut records) = (LEASES.as_bytes().to_vec(), 0, 0);
        loop {
            let page = GetOptions::new().with_range(AFTER).with_limit(KEYS).with_revision(revision).with_serializable();
            let page = etcd.get(from, Some(page)).await.unwrap();
            revision = page.header().unwrap().revision();
            for pair in page.kvs() {
                let record: Value = serde_json::from_slice(pair.value()).unwrap();
                assert!(record["ip"].is_string());
                records += 1;
            }
            if !page.more() {
                return records;
            }
            from = page.kvs().last().unwrap().key().to_vec();
            from.push(0);
        }
    });
    println!("{records} {}", cpu_in("/proc/self"));
}
