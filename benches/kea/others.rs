//! What servers on one prefix cost each other: each is told of every record that any of them writes.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dhcp_etcd::mirror::GIVES_WAY;
use etcd_client::{Client, Compare, CompareOp, KvClient, PutOptions, Txn, TxnOp, WatchOptions};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::Part;
use crate::bed::{Bed, Way, cpu_in, hwaddr};
use crate::beside::{Beside, spawn_by};
use crate::etcd::LEASES;
use crate::figures::{Budget, Figure};
use crate::kea::Family;
use crate::metrics::Metrics;

/// Records a second that others write.
const RATE: u32 = 500;

/// Records of a transaction: as at a low rate, and as of a server that has much to write.
const BATCHES: [u32; 2] = [1, 100];

/// Seconds of a load.
const SECONDS: u32 = 8;

/// Servers that watch.
const WATCHES: [u32; 2] = [10, 100];

/// What etcd takes to tell so many watches of records that come in transactions of so many.
struct Told {
    batch: u32,
    watches: u32,
    cpu: Figure,
    sent: Figure,
}

impl Told {
    fn new(batch: u32, watches: u32) -> Self {
        let of = |what: &str, unit| {
            let what = format!("{what} to tell one of {watches} watches of a record, transactions of {batch}");
            Figure::new(what, unit, Budget::Told)
        };
        Self { batch, watches, cpu: of("CPU of etcd", "µs"), sent: of("bytes that etcd sends", "bytes") }
    }
}

/// See the module.
pub struct OnOnePrefix {
    told: Vec<Told>,
    written: Vec<Figure>,
    looked_at: Figure,
    worker: Figure,
    server: Figure,
}

impl OnOnePrefix {
    pub fn new() -> Self {
        let of = |what: &str, unit| Figure::new(what, unit, Budget::Told);
        let written = |batch| of(&format!("CPU of etcd to write a record at {RATE}/s, transactions of {batch}"), "µs");
        Self {
            told: BATCHES.iter().flat_map(|batch| WATCHES.map(|watches| Told::new(*batch, watches))).collect(),
            written: BATCHES.map(written).into(),
            looked_at: of("CPU of etcd for a record of another server that a server is told and looks at", "µs"),
            worker: of("CPU of the worker for a record of another server", "µs"),
            server: of("CPU of the whole server for the same", "µs"),
        }
    }

    /// What etcd takes for the records that are written, and told to so many others. Returns that of the writing alone, for
    /// each kind of transaction, in microseconds of CPU.
    fn measure_etcd(&mut self) -> Vec<f64> {
        let measure = |batch: u32, watches: u32| {
            let bed = Bed::new(Family::V4, true, false);
            let before = Metrics::of(&bed);
            let writing = Writing { rate: RATE, seconds: SECONDS, batch, watches, exact: false };
            let told = write(&bed, writing).written().told;
            let after = Metrics::of(&bed);
            assert_eq!(told, u64::from(watches * RATE * SECONDS), "every watch is told everything");
            let grown = |name: &str| (after.get(name) - before.get(name)) / f64::from(RATE * SECONDS);
            let [cpu, sent] =
                [grown("process_cpu_seconds_total") * 1e6, grown("etcd_network_client_grpc_sent_bytes_total")];
            println!(
                "  transactions of {batch}, {watches} watches: {cpu:.1} µs of etcd's CPU and {sent:.0} bytes a record"
            );
            [cpu, sent]
        };
        let alone: Vec<[f64; 2]> = BATCHES.iter().map(|batch| measure(*batch, 0)).collect();
        for (figure, [cpu, _]) in self.written.iter_mut().zip(&alone) {
            figure.add(true, *cpu);
        }
        for told in &mut self.told {
            let [cpu, sent] = measure(told.batch, told.watches);
            let without = alone[usize::from(told.batch != BATCHES[0])];
            told.cpu.add(true, (cpu - without[0]) / f64::from(told.watches));
            told.sent.add(true, (sent - without[1]) / f64::from(told.watches));
        }
        alone.into_iter().map(|[cpu, _]| cpu).collect()
    }

    /// What a server takes for the records of others, and etcd for it beside the writing `alone`.
    fn measure_server(&mut self, alone: f64) {
        let bed = Bed::by(Family::V4, true, Way::Library);
        let cpu = |bed: &Bed| [bed.cpu_of_worker(), bed.cpu(), Metrics::of(bed).get("process_cpu_seconds_total")];
        let before = cpu(&bed);
        write(&bed, Writing { rate: RATE, seconds: SECONDS, batch: BATCHES[0], watches: 0, exact: false }).written();
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

impl Part for OnOnePrefix {
    fn rounds(&self, wanted: usize) -> usize {
        wanted.min(3)
    }

    fn measure(&mut self, _: usize) {
        let alone = self.measure_etcd();
        self.measure_server(alone[0]);
    }

    fn figures(&self) -> Vec<&Figure> {
        let told = self.told.iter().flat_map(|told| [&told.cpu, &told.sent]);
        self.written.iter().chain(told).chain([&self.looked_at, &self.worker, &self.server]).collect()
    }
}

/// What a program beside the server writes.
#[derive(Clone, Copy)]
pub struct Writing {
    /// Records a second.
    pub rate: u32,
    pub seconds: u32,
    /// Records of a transaction.
    pub batch: u32,
    /// How many watch what is written, each over a connection of its own.
    pub watches: u32,
    /// Whether it does what every exact mirror does: a record is written only if its key is as expected, and what others write is
    /// heard, over the same connection. It gives way to the server then, as the library's worker does.
    pub exact: bool,
}

impl Writing {
    /// What an exact mirror writes.
    pub fn exact(rate: u32, seconds: u32, batch: u32) -> Self {
        Self { rate, seconds, batch, watches: 0, exact: true }
    }
}

/// A program that writes records.
pub struct Others(Beside);

/// Has another program write records.
pub fn write(bed: &Bed, writing: Writing) -> Others {
    // To count what was written before would be work for etcd, at the beginning of what is measured. The first are left to
    // whoever has as many written as can be.
    static FIRST: AtomicU32 = AtomicU32::new(2_000_000);
    let Writing { rate, seconds, batch, watches, exact } = writing;
    let first = FIRST.fetch_add(rate * seconds + batch, Ordering::Relaxed);
    let numbers = [first, rate, seconds, batch, watches, u32::from(exact)].map(|number| number.to_string());
    let arguments: Vec<&str> = numbers.iter().map(String::as_str).collect();
    let nice = GIVES_WAY.to_string();
    let by: &[&str] = if exact { &["nice", "-n", &nice] } else { &[] };
    Others(spawn_by(&bed.hosts.server, by, &[&["others", &bed.etcd.url()], &arguments[..]].concat()))
}

/// What such a program tells at its end.
pub struct Written {
    /// How often a watch was told of a record.
    pub told: u64,
    /// Seconds of CPU that it took.
    pub cpu: f64,
    /// By how many seconds its last record was late.
    pub late: f64,
    /// Milliseconds from when a record was there until etcd had answered, were the records of a transaction to gather before it as
    /// a server's leases do.
    pub lags: Vec<f64>,
}

impl Others {
    /// Waits for its end.
    pub fn written(self) -> Written {
        let output = self.0.wait();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let numbers: Vec<&str> = text.split_whitespace().collect();
        let [told, cpu, late, ref lags @ ..] = numbers[..] else { panic!("{text}") };
        let number = |text: &str| text.parse().unwrap();
        let lags = lags.iter().map(|lag| number(lag)).collect();
        Written { told: told.parse().unwrap(), cpu: number(cpu), late: number(late), lags }
    }
}

/// In the server's namespace: the above, from the record of a number on. Each transaction is sent when it is due, however many are
/// under way, so nobody is sooner.
pub fn run(url: &str, start: u32, Writing { rate, seconds, batch, watches, exact }: Writing) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let told = Arc::new(AtomicU64::new(0));
    let (late, lags) = runtime.block_on(async {
        for _ in 0..watches {
            // A connection for each, as servers have.
            listen(Client::connect([url], None).await.unwrap(), Arc::clone(&told)).await;
        }
        let mut etcd = Client::connect([url], None).await.unwrap();
        if exact {
            listen(etcd.clone(), Arc::clone(&told)).await;
        }
        let lease = etcd.lease_grant(3600, None).await.unwrap().id();
        let begin = Instant::now();
        let mut transactions = JoinSet::new();
        for first in (0..rate * seconds).step_by(batch as usize) {
            let due = begin + Duration::from_secs(1) * first / rate;
            sleep_until(due).await;
            let mut etcd = etcd.kv_client();
            transactions.spawn(async move {
                put(&mut etcd, start + first..start + first + batch, lease, exact).await;
                due.elapsed().as_secs_f64()
            });
        }
        let gathered = |took: f64| (0..batch).map(move |record| (took + f64::from(record) / f64::from(rate)) * 1000.0);
        let lags: Vec<f64> = transactions.join_all().await.into_iter().flat_map(gathered).collect();
        let late = begin.elapsed().as_secs_f64() - f64::from(seconds);
        // What is under way.
        sleep_until(Instant::now() + Duration::from_secs(1)).await;
        (late, lags)
    });
    println!("{} {} {late}", told.load(Ordering::Relaxed), cpu_in("/proc/self"));
    for lag in lags {
        println!("{lag:.3}");
    }
}

/// Has every change of a record counted for as long as the connection stands.
pub async fn listen(mut etcd: Client, told: Arc<AtomicU64>) {
    let mut stream = etcd.watch(LEASES, Some(WatchOptions::new().with_prefix())).await.unwrap();
    tokio::spawn(async move {
        // Its end is that of the stream.
        let _etcd = etcd;
        while let Some(news) = stream.message().await.unwrap() {
            told.fetch_add(news.events().len() as u64, Ordering::Relaxed);
        }
    });
}

/// Writes the records of these numbers in a transaction; `where_absent` is whether only if there are none of them yet.
pub async fn put(etcd: &mut KvClient, numbers: Range<u32>, lease: i64, where_absent: bool) {
    let (mut conditions, mut puts) = (Vec::new(), Vec::new());
    for (key, record) in numbers.map(record) {
        if where_absent {
            conditions.push(Compare::mod_revision(key.as_str(), CompareOp::Equal, 0));
        }
        puts.push(TxnOp::put(key, record, Some(PutOptions::new().with_lease(lease))));
    }
    let answer = etcd.txn(Txn::new().when(conditions).and_then(puts)).await.unwrap();
    assert!(answer.succeeded(), "nobody else writes");
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
