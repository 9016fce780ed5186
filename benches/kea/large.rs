//! A server with a million leases: the first synchronisation, a comparison that finds nothing, and the memory of both.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::Ipv4Addr;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Part;
use crate::bed::{Bed, hwaddr};
use crate::bulk;
use crate::figures::{Budget, Figure};
use crate::kea::Family;
use crate::others::Writing;
use crate::perfdhcp::{self, COLD, Rates};
use crate::with::{BATCH, With};

const LEASES: u32 = 1_000_000;

/// The first of their addresses, far behind those that Kea gives to new clients.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);

/// New leases a second while delays are measured.
const RATE: u32 = 1000;

/// Seconds for which delays are measured without a library; a comparison takes about as long.
const SECONDS: u32 = 17;

/// How long memory has to be given back, and etcd to write down what it was told.
const REST: Duration = Duration::from_secs(3);

/// See the module.
pub struct Large {
    first: Figure,
    worker: Figure,
    wall: Figure,
    largest: Figure,
    high: Figure,
    without: Figure,
    read: Figure,
    reader: Figure,
    idle: Figure,
    at_rest: Figure,
    directory: TempDir,
}

impl Large {
    pub fn new() -> Self {
        let of = |what: &str, unit, budget| Figure::new(what, unit, budget);
        Self {
            first: of(
                "first synchronisation of 1,000,000 leases (without: another program writes as many records)",
                "records/s",
                Budget::AtLeast(60_000.0),
            ),
            worker: of("CPU of the worker to compare 1,000,000 leases, nothing differs", "s", Budget::AtMost(8.0)),
            wall: of("time that this takes", "s", Budget::Told),
            largest: of(
                "largest ACK delay at 1,000/s while 1,000,000 leases are compared, and without that",
                "ms",
                Budget::AtMost(2.0),
            ),
            high: of("99.9th percentile of the same", "ms", Budget::Told),
            without: of(
                "largest ACK delay at 1,000/s with no library, while another program writes as many records, and without that",
                "ms",
                Budget::Told,
            ),
            read: of(
                "largest ACK delay at 1,000/s with no library, while another program writes as many records and yet another reads 1,000,000 of them, and without that one",
                "ms",
                Budget::Told,
            ),
            reader: of("CPU of that program to read and parse 1,000,000 records", "s", Budget::Told),
            idle: of("memory of the library without leases", "MB", Budget::AtMost(8.0)),
            at_rest: of("memory of the library for each of 1,000,000 leases", "bytes", Budget::AtMost(64.0)),
            directory: TempDir::new().unwrap(),
        }
    }

    /// A server with all leases.
    fn full(&self, with_library: bool) -> Bed {
        let file = self.directory.path().join("leases.csv");
        write_leases(&file);
        Bed::with_leases(Family::V4, true, with_library, &file)
    }

    /// From when the server serves, before which nothing is sent, until the library says that everything is written, and
    /// etcd says so too. That includes the connection, and reading all leases in between packets.
    fn synchronise(&mut self, bed: &mut Bed) {
        let begin = Instant::now();
        bed.wait_compared(1);
        let took = begin.elapsed().as_secs_f64();
        assert_eq!(bed.records(), u64::from(LEASES));
        println!("  first synchronisation: {took:.1} s");
        self.first.add(true, f64::from(LEASES) / took);
        sleep(REST);
    }

    /// Nobody else wants anything of the server. Returns how long it took.
    fn compare(&mut self, bed: &mut Bed) -> Duration {
        let (begin, before) = (Instant::now(), bed.cpu_of_worker());
        compare(bed);
        let (took, worker) = (begin.elapsed(), bed.cpu_of_worker() - before);
        let found = &bed.ask("etcd-status", &Value::Null)["last-resync"];
        for kind in ["missing", "different", "extra"] {
            assert_eq!(found[kind], 0, "{found}");
        }
        println!("  comparison: {:.1} s, worker {worker:.1} s", took.as_secs_f64());
        self.worker.add(true, worker);
        self.wall.add(true, took.as_secs_f64());
        took
    }

    /// The same load for as long as a comparison takes, and beside one.
    fn delay(&mut self, round: usize, bed: &mut Bed, took: Duration) {
        for with_comparison in crate::turns(round) {
            // Ended when the comparison is.
            let load = perfdhcp::begin(bed, Rates::new(RATE), 3600);
            sleep(COLD);
            if with_comparison {
                compare(bed);
            } else {
                sleep(took);
            }
            let load = load.stop();
            let (largest, high) = (load.quantile(1.0), load.quantile(0.999));
            println!(
                "  ACK delays {} comparison: largest {largest:.2} ms, p99.9 {high:.2} ms of {}",
                if with_comparison { "with" } else { "without" },
                load.delays.len()
            );
            self.largest.add(with_comparison, largest);
            self.high.add(with_comparison, high);
        }
    }

    /// The same load, where no library is and another program has written as many records as there are leases.
    fn delay_without(&mut self, round: usize, bed: &Bed) {
        for turn in 0..3 {
            let (is_written, is_read) = [(false, false), (true, false), (true, true)][(round + turn) % 3];
            let with = if is_written { With::Beside } else { With::Nothing };
            let mut reader = None;
            let load = || {
                let load = perfdhcp::begin(bed, Rates::new(RATE), SECONDS);
                sleep(COLD);
                reader = is_read.then(|| bulk::read(bed));
                load.wait()
            };
            let largest = with.beside(bed, Writing::exact(RATE, SECONDS, BATCH), load).0.quantile(1.0);
            print!("  ACK delays {with}: largest {largest:.2} ms");
            if let Some(reader) = reader {
                let (records, cpu) = bulk::was_read(reader);
                assert!(records >= LEASES, "{records}");
                print!(", while yet another reads with {cpu:.1} s of CPU");
                self.reader.add(true, cpu);
            } else {
                self.without.add(is_written, largest);
            }
            println!();
            if is_written {
                self.read.add(is_read, largest);
            }
        }
    }
}

impl Part for Large {
    fn measure(&mut self, round: usize) {
        let [mut empty, mut full] = [[0.0; 2]; 2];
        for with_library in crate::turns(round) {
            let bed = Bed::new(Family::V4, true, with_library);
            sleep(REST);
            empty[usize::from(with_library)] = bed.memory();
            drop(bed);
            let mut bed = self.full(with_library);
            let took = if with_library {
                self.synchronise(&mut bed);
                Some(self.compare(&mut bed))
            } else {
                let took = bulk::write(&bed, LEASES);
                println!("  as many records of another program: {took:.1} s");
                self.first.add(false, f64::from(LEASES) / took);
                None
            };
            sleep(REST);
            full[usize::from(with_library)] = bed.memory();
            match took {
                Some(took) => self.delay(round, &mut bed, took),
                None => self.delay_without(round, &bed),
            }
        }
        let (idle, at_rest) = ((empty[1] - empty[0]) / 1e6, (full[1] - full[0]) / f64::from(LEASES));
        println!("  memory: {idle:.1} MB, {at_rest:.0} bytes a lease");
        self.idle.add(true, idle);
        self.at_rest.add(true, at_rest);
    }

    fn figures(&self) -> Vec<&Figure> {
        vec![
            &self.first,
            &self.worker,
            &self.wall,
            &self.largest,
            &self.high,
            &self.without,
            &self.read,
            &self.reader,
            &self.idle,
            &self.at_rest,
        ]
    }
}

/// Has everything compared, and waits for the end.
fn compare(bed: &mut Bed) {
    let before = bed.compared();
    bed.ask("etcd-resync", &json!({}));
    bed.wait_compared(before + 1);
}

/// Writes the leases as Kea 2.2 keeps them (Kea `dhcpsrv/csv_lease_file4.cc`; later versions take them too), with
/// between two and four hours to live.
fn write_leases(file: &Path) {
    const LIFETIME: u32 = 4 * 3600;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut file = BufWriter::new(File::create(file).unwrap());
    writeln!(
        file,
        "address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname,state,user_context"
    )
    .unwrap();
    for n in 0..LEASES {
        let address = Ipv4Addr::from(u32::from(FIRST) + n);
        let hwaddr = hwaddr(n);
        let expire = now + u64::from(LIFETIME / 2 + n % (LIFETIME / 2));
        writeln!(file, "{address},{hwaddr},01:{hwaddr},{LIFETIME},{expire},1,0,0,host-{n}.example.,0,").unwrap();
    }
    file.flush().unwrap();
}
