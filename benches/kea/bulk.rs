//! How fast etcd takes records in on this machine: another program that writes as many as it can, as simply as can be. Like
//! any exact mirror it writes a record only where there is none, and is told what is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use etcd_client::Client;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::bed::Bed;
use crate::lag::spawn;
use crate::others;

/// Records of a transaction: etcd takes 128 operations.
const BATCH: u32 = 127;

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
