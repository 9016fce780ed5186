//! What servers on one prefix cost each other: each is told of every record that any of them writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use etcd_client::{Client, PutOptions, Txn, TxnOp, WatchOptions};
use tokio::time::{Instant, sleep_until};

use crate::Part;
use crate::bed::{Bed, Way, hwaddr};
use crate::etcd::LEASES;
use crate::figures::{Budget, Figure};
use crate::kea::Family;
use crate::lag::spawn;
use crate::metrics::Metrics;

/// Records a second that others write, in transactions of so many.
const RATE: u32 = 1000;
const BATCH: u32 = 100;

/// Seconds of a load.
const SECONDS: u32 = 8;

/// Servers that watch.
const WATCHES: [u32; 4] = [0, 1, 10, 100];

/// See the module.
pub struct Others {
    etcd: Vec<(u32, Figure)>,
    sent: Figure,
    looked_at: Figure,
    worker: Figure,
    server: Figure,
}

impl Others {
    pub fn new() -> Self {
        let told = |what: String, unit| Figure::new(what, unit, Budget::Told);
        let etcd = |watches: u32| {
            let what =
                format!("CPU of etcd for each record that {watches} watches are told at {RATE}/s, and that none is");
            (watches, told(what, "µs"))
        };
        Self {
            etcd: WATCHES[1..].iter().copied().map(etcd).collect(),
            sent: told("bytes that etcd sends for each record to each watch".into(), "bytes"),
            looked_at: told(
                "CPU of etcd for each record of another server that a server is told and looks at".into(),
                "µs",
            ),
            worker: told(format!("CPU of the worker for each record of another server, at {RATE}/s"), "µs"),
            server: told(format!("CPU of the whole server for the same, at {RATE}/s"), "µs"),
        }
    }

    /// What etcd takes for the records that are written, and told to so many others; that of the writing alone, in
    /// microseconds of CPU for each.
    fn measure_etcd(&mut self) -> f64 {
        let mut alone = 0.0;
        for watches in WATCHES {
            let bed = Bed::new(Family::V4, true, false);
            let before = Metrics::of(&bed);
            let told = others(&bed, watches);
            let after = Metrics::of(&bed);
            let grown = |name: &str| after.get(name) - before.get(name);
            let cpu = grown("process_cpu_seconds_total") / f64::from(RATE * SECONDS) * 1e6;
            println!("  {watches} watches: {cpu:.1} µs of etcd's CPU for each record");
            if watches == 0 {
                alone = cpu;
                continue;
            }
            assert_eq!(told, u64::from(watches * RATE * SECONDS), "every watch is told everything");
            for (_, figure) in self.etcd.iter_mut().filter(|(of, _)| *of == watches) {
                figure.add(true, cpu);
                figure.add(false, alone);
            }
            if watches == WATCHES[WATCHES.len() - 1] {
                let sent = grown("etcd_network_client_grpc_sent_bytes_total");
                self.sent.add(true, sent / f64::from(watches * RATE * SECONDS));
            }
        }
        alone
    }

    /// What a server takes for the records of others, and etcd for it beside the writing `alone`.
    fn measure_server(&mut self, alone: f64) {
        let bed = Bed::by(Family::V4, true, Way::Library);
        let cpu = |bed: &Bed| [bed.cpu_of_worker(), bed.cpu(), Metrics::of(bed).get("process_cpu_seconds_total")];
        let before = cpu(&bed);
        others(&bed, 0);
        std::thread::sleep(Duration::from_secs(2));
        let after = cpu(&bed);
        let [worker, server, etcd] = [0, 1, 2].map(|n| (after[n] - before[n]) / f64::from(RATE * SECONDS) * 1e6);
        println!(
            "  a server takes {server:.1} µs for each record of another one, its worker {worker:.1} µs of them, etcd {:.1} µs more",
            etcd - alone
        );
        self.looked_at.add(true, etcd - alone);
        self.worker.add(true, worker);
        self.server.add(true, server);
    }
}

impl Part for Others {
    fn rounds(&self, wanted: usize) -> usize {
        wanted.min(3)
    }

    fn measure(&mut self, _: usize) {
        let alone = self.measure_etcd();
        self.measure_server(alone);
    }

    fn figures(&self) -> Vec<&Figure> {
        let etcd = self.etcd.iter().map(|(_, figure)| figure);
        etcd.chain([&self.sent, &self.looked_at, &self.worker, &self.server]).collect()
    }
}

/// Has others write records, and so many watch; how often one was told of one.
fn others(bed: &Bed, watches: u32) -> u64 {
    let output = spawn(&bed.hosts.server, &["others", &bed.etcd.url(), &watches.to_string()]).wait();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

/// In the server's namespace: the above.
pub fn run(url: &str, watches: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let told = Arc::new(AtomicU64::new(0));
    runtime.block_on(async {
        for _ in 0..watches {
            // A connection for each, as servers have.
            let mut etcd = Client::connect([url], None).await.unwrap();
            let mut stream = etcd.watch(LEASES, Some(WatchOptions::new().with_prefix())).await.unwrap();
            let told = Arc::clone(&told);
            tokio::spawn(async move {
                // Its end is that of the stream.
                let _etcd = etcd;
                while let Some(news) = stream.message().await.unwrap() {
                    told.fetch_add(news.events().len() as u64, Ordering::Relaxed);
                }
            });
        }
        let mut etcd = Client::connect([url], None).await.unwrap();
        let lease = etcd.lease_grant(3600, None).await.unwrap().id();
        let begin = Instant::now();
        for first in (0..RATE * SECONDS).step_by(BATCH as usize) {
            sleep_until(begin + Duration::from_secs(1) * first / RATE).await;
            let put = |n: u32| {
                let (key, record) = record(n);
                TxnOp::put(key, record, Some(PutOptions::new().with_lease(lease)))
            };
            etcd.txn(Txn::new().and_then((first..first + BATCH).map(put).collect::<Vec<_>>())).await.unwrap();
        }
        // What is under way.
        sleep_until(Instant::now() + Duration::from_secs(1)).await;
    });
    println!("{}", told.load(Ordering::Relaxed));
}

/// A record of another server, with its key; each address is another one.
fn record(number: u32) -> (String, String) {
    let (address, hwaddr) = (std::net::Ipv4Addr::from(0x0a40_0000 + number), hwaddr(number));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let record = format!(
        r#"{{"ip":"{address}","operation":"offer","state":0,"hwaddr":"{hwaddr}","client_id":"01:{hwaddr}","hostname":"host-{number}.example.","fqdn_fwd":false,"fqdn_rev":false,"subnet_id":1,"cltt":{now},"valid_lft":3600,"expires_at":{},"timestamp":{now},"server":"other"}}"#,
        now + 3600
    );
    (format!("{LEASES}{address}"), record)
}
