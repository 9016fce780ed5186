//! What etcd keeps of renewals: its database, its history and its work through ten minutes at a known rate, with automatic
//! compaction, held against the formulas of `docs/scale.md`.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use plotters::coord::Shift;
use plotters::prelude::*;
use serde_json::json;

use crate::Part;
use crate::bed::{Bed, Way};
use crate::etcd::LEASES;
use crate::figures::{Budget, Figure};
use crate::kea::Family;
use crate::metrics::Metrics;
use crate::perfdhcp::{self, Rates};

/// Renewals a second, and how many clients renew in turn.
const RATE: u32 = 500;
const CLIENTS: u32 = 60_000;

/// Each renews at half of this, in seconds.
const LIFETIME: u32 = 2 * CLIENTS / RATE;

/// `--auto-compaction-retention`, in seconds; etcd compacts as often (up to an hour).
const RETENTION: u32 = 120;

/// Seconds of the load. In the first of them, the clients take their leases.
const SECONDS: u32 = 560;

/// From when on nothing grows any more: everybody has a lease, and history was compacted after the longest time.
const STEADY: f64 = 2.2 * RETENTION as f64;

const INTERVAL: Duration = Duration::from_secs(5);

/// What is kept of each time: a name, and etcd's own.
const KEPT: [(&str, &str); 12] = [
    ("database", "etcd_mvcc_db_total_size_in_bytes"),
    ("in-use", "etcd_mvcc_db_total_size_in_use_in_bytes"),
    ("keys", "etcd_debugging_mvcc_keys_total"),
    ("puts", "etcd_mvcc_put_total"),
    ("revision", "etcd_debugging_mvcc_current_revision"),
    ("compacted", "etcd_debugging_mvcc_compact_revision"),
    ("raft", "etcd_server_proposals_committed_total"),
    ("leases-granted", "etcd_debugging_lease_granted_total"),
    ("memory", "process_resident_memory_bytes"),
    ("cpu", "process_cpu_seconds_total"),
    ("received", "etcd_network_client_grpc_received_bytes_total"),
    ("sent", "etcd_network_client_grpc_sent_bytes_total"),
];

const SIZE: (u32, u32) = (900, 300);
const FONT: (&str, u32) = ("sans-serif", 14);
const COLORS: [RGBColor; 3] = [RGBColor(120, 120, 120), RGBColor(200, 40, 40), RGBColor(40, 80, 200)];

/// A curve by its name.
type Curve = (&'static str, Vec<(f64, f64)>);

/// What etcd told at a time.
struct Sample {
    /// Seconds since the load began.
    at: f64,
    /// By the places in [`KEPT`].
    values: [f64; KEPT.len()],
    /// Processes that run or want to, those of the benchmark too.
    load: f64,
}

impl Sample {
    fn get(&self, name: &str) -> f64 {
        let place = KEPT.iter().position(|(kept, _)| *kept == name);
        place.map_or(f64::NAN, |place| self.values[place])
    }
}

/// See the module.
pub struct History {
    versions: Figure,
    entries: Figure,
    bytes: Figure,
    in_use: Figure,
    database: Figure,
    cpu: Figure,
    memory: Figure,
    load: Figure,
}

impl History {
    pub fn new() -> Self {
        let at = format!("{RATE} renewals a second of {CLIENTS} clients, compaction {RETENTION} s");
        let told = |what: &str, unit| Figure::new(format!("etcd, {at}: {what}"), unit, Budget::Told);
        let held = |what: &str, unit| {
            let what = format!("etcd, {at}: {what}; without: by docs/scale.md");
            Figure::ratio(what, unit, Budget::AtMost(1.2))
        };
        Self {
            versions: told("versions of records written", "1/s"),
            entries: told("raft entries", "1/s"),
            bytes: held("database for each version", "bytes"),
            in_use: held("database in use, at most", "MB"),
            database: held("database file, at most", "MB"),
            cpu: told("CPU of etcd for each version", "µs"),
            memory: told("memory of etcd, at most", "MB"),
            load: told("processes of the machine that run, those of the benchmark too, median", ""),
        }
    }

    /// What the figures are, of what was sampled; `record` is how many bytes a key and its record have.
    fn judge(&mut self, samples: &[Sample], record: f64) {
        let steady: Vec<&Sample> = samples.iter().filter(|sample| sample.at >= STEADY).collect();
        let (first, last) = (steady[0], steady[steady.len() - 1]);
        let grown = |name: &str| last.get(name) - first.get(name);
        let largest = |name: &str| steady.iter().map(|sample| sample.get(name)).fold(0.0, f64::max);
        let puts = grown("puts");
        self.versions.add(true, puts / (last.at - first.at));
        self.entries.add(true, grown("raft") / (last.at - first.at));
        self.cpu.add(true, grown("cpu") / puts * 1e6);
        self.memory.add(true, largest("memory") / 1e6);
        self.load.add(true, crate::figures::median(&steady.iter().map(|sample| sample.load).collect::<Vec<_>>()));
        self.bytes.add(true, bytes_of_version(samples));
        self.bytes.add(false, predicted_bytes(record));
        let [_, most] = predicted(record);
        self.in_use.add(true, largest("in-use") / 1e6);
        self.in_use.add(false, most / 1e6);
        self.database.add(true, largest("database") / 1e6);
        self.database.add(false, most / 1e6);
    }
}

/// Bytes of the database that a version of a record takes: a row in bbolt's page (16 bytes of header, 17 of the revision),
/// etcd's own fields beside key and value, and the part of a page that stays empty.
fn predicted_bytes(record: f64) -> f64 {
    (record + 75.0) / 0.85
}

/// Bytes of the database after a compaction, and before one. etcd notes its revision ten times in each retention, and
/// compacts, once in each, up to the last but ten that it has noted (etcd `v3compactor/periodic.go`).
fn predicted(record: f64) -> [f64; 2] {
    [1.1, 2.1].map(|retentions| {
        let versions = f64::from(CLIENTS) + f64::from(RATE) * retentions * f64::from(RETENTION);
        versions * predicted_bytes(record)
    })
}

/// What the database in use grew by for each version, while nothing was compacted.
fn bytes_of_version(samples: &[Sample]) -> f64 {
    let (mut bytes, mut versions) = (0.0, 0.0);
    for pair in samples.windows(2).filter(|pair| pair[0].get("compacted") < 0.0 && pair[1].get("compacted") < 0.0) {
        bytes += pair[1].get("in-use") - pair[0].get("in-use");
        versions += pair[1].get("puts") - pair[0].get("puts");
    }
    bytes / versions
}

impl Part for History {
    fn rounds(&self, _: usize) -> usize {
        1
    }

    fn measure(&mut self, _: usize) {
        let compaction =
            ["--auto-compaction-mode", "periodic", "--auto-compaction-retention", &format!("{RETENTION}s")];
        let more = json!({ "valid-lifetime": LIFETIME });
        let bed = Bed::with(Family::V4, true, Way::Library, more, compaction.map(str::to_owned).into());
        let rates = Rates { clients: CLIENTS, delays: false, ..Rates::new(RATE) };
        let samples = scope(|scope| {
            let load = scope.spawn(|| perfdhcp::begin(&bed, rates, SECONDS).wait());
            let samples = sample(&bed);
            let load = load.join().unwrap();
            println!("  {} of {} exchanges were completed", load.completed, load.begun);
            samples
        });
        assert_eq!(bed.records(), u64::from(CLIENTS), "each client has one lease");
        let one = bed.etcd.ctl(&["get", "--prefix", LEASES, "--limit", "1"]);
        #[expect(clippy::cast_precision_loss)]
        let record = one.trim_end().replace('\n', "").len() as f64;
        println!("  a key with its record has {record} bytes");
        keep(&samples);
        draw(&samples, predicted(record)).unwrap();
        println!("  docs/history.csv is kept and docs/history.svg drawn");
        self.judge(&samples, record);
    }

    fn figures(&self) -> Vec<&Figure> {
        vec![
            &self.versions,
            &self.entries,
            &self.bytes,
            &self.in_use,
            &self.database,
            &self.cpu,
            &self.memory,
            &self.load,
        ]
    }
}

/// Asks etcd at each interval of the load.
fn sample(bed: &Bed) -> Vec<Sample> {
    let begin = Instant::now();
    let times = (1..).map(|n| INTERVAL * n).take_while(|time| time.as_secs() < SECONDS.into());
    times
        .map(|time| {
            sleep((begin + time).saturating_duration_since(Instant::now()));
            let (at, metrics) = (begin.elapsed().as_secs_f64(), Metrics::of(bed));
            let load = fs::read_to_string("/proc/loadavg").unwrap();
            let load = load.split(' ').next().unwrap().parse().unwrap();
            Sample { at, values: KEPT.map(|(_, name)| metrics.get(name)), load }
        })
        .collect()
}

/// Writes everything that was told, a line for each time.
fn keep(samples: &[Sample]) {
    let mut text = format!("seconds,{},load\n", KEPT.map(|(name, _)| name).join(","));
    for sample in samples {
        let values: Vec<String> = sample.values.iter().map(ToString::to_string).collect();
        writeln!(text, "{:.1},{},{}", sample.at, values.join(","), sample.load).unwrap();
    }
    fs::create_dir_all("docs").unwrap();
    fs::write("docs/history.csv", text).unwrap();
}

/// Draws the database with what the formulas say of it, the rates, and etcd's memory.
fn draw(samples: &[Sample], predicted: [f64; 2]) -> Result<(), Box<dyn Error>> {
    let area = SVGBackend::new("docs/history.svg", (SIZE.0, 3 * SIZE.1)).into_drawing_area();
    area.fill(&WHITE)?;
    let [database, rates, memory] = &area.split_evenly((3, 1))[..] else { unreachable!("three rows") };
    let curve = |name: &str| samples.iter().map(|sample| (sample.at, sample.get(name) / 1e6)).collect();
    let caption = format!(
        "etcd's database, MB: {RATE} renewals a second of {CLIENTS} clients, retention {RETENTION} s (shaded: docs/scale.md)"
    );
    let formulas = predicted.map(|bytes| bytes / 1e6);
    draw_curves(database, &caption, vec![("file", curve("database")), ("in use", curve("in-use"))], Some(formulas))?;
    let rate = |name: &str| {
        let rate = |pair: &[Sample]| (pair[1].at, (pair[1].get(name) - pair[0].get(name)) / (pair[1].at - pair[0].at));
        samples.windows(2).map(rate).collect()
    };
    draw_curves(rates, "in a second", vec![("versions", rate("puts")), ("raft entries", rate("raft"))], None)?;
    draw_curves(memory, "memory of etcd, MB", vec![("resident", curve("memory"))], None)?;
    area.present()?;
    Ok(())
}

/// Curves over the time, above zero; between what two values the formulas say it lies.
fn draw_curves(
    area: &DrawingArea<SVGBackend, Shift>,
    caption: &str,
    curves: Vec<Curve>,
    formulas: Option<[f64; 2]>,
) -> Result<(), Box<dyn Error>> {
    let end = f64::from(SECONDS);
    let values = curves.iter().flat_map(|(_, curve)| curve).map(|(_, value)| *value);
    let top = values.chain(formulas.iter().map(|[_, most]| *most)).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..end, 0.0..top * 1.05)?;
    chart
        .configure_mesh()
        .max_light_lines(0)
        .x_label_formatter(&|second| format!("{second:.0}"))
        .x_desc("seconds")
        .label_style(FONT)
        .draw()?;
    if let Some([start, most]) = formulas {
        chart.draw_series([Rectangle::new([(STEADY, start), (end, most)], BLACK.mix(0.1).filled())])?;
    }
    for ((name, curve), color) in curves.into_iter().zip(COLORS) {
        let line = LineSeries::new(curve, color.stroke_width(2));
        chart.draw_series(line)?.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .label_font(FONT)
        .draw()?;
    Ok(())
}
