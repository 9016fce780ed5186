//! What the library costs a server: the same load with it and without it, in turns, on this machine, with etcd and the
//! clients beside it. Prints a table and keeps the figures in `docs/bench.json`.
//!
//! `BENCH_ROUNDS` is how many rounds are made (5).

#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../../tests/servers/client4.rs"]
mod client4;
#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../../tests/servers/etcd.rs"]
mod etcd;
#[path = "../../tests/servers/hosts.rs"]
mod hosts;
#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../../tests/servers/kea.rs"]
mod kea;
#[path = "../../tests/servers/ports.rs"]
mod ports;
#[path = "../../tests/servers/program.rs"]
mod program;
#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../../tests/servers/records.rs"]
mod records;

mod bed;
mod figures;
mod lag;
mod perfdhcp;

use bed::Bed;
use figures::{Budget, Figure, quantile};
use kea::Family;
use serde_json::json;

/// Exchanges a second at which delays and CPU are measured.
const RATE: u32 = 4000;

/// The server's families and threading modes, and from where the highest rate is looked for.
const MODES: [(Family, bool, u32); 4] =
    [(Family::V4, true, 7000), (Family::V4, false, 8000), (Family::V6, true, 7000), (Family::V6, false, 8000)];

/// The figures of one family and threading mode.
struct Mode {
    family: Family,
    threads: bool,
    guess: u32,
    cpu: Figure,
    mean: Figure,
    high: Figure,
    top: Figure,
}

impl Mode {
    fn new((family, threads, guess): (Family, bool, u32)) -> Self {
        let of = |what: &str| {
            format!(
                "DHCPv{}, {}: {what}",
                family.number(),
                if threads { "two packet threads" } else { "single-threaded" }
            )
        };
        Self {
            family,
            threads,
            guess,
            cpu: Figure::new(of("CPU of an exchange at 4,000/s"), "µs", Budget::AtMost(1.10)),
            mean: Figure::new(of("mean ACK delay at 4,000/s"), "ms", Budget::AtMost(1.15)),
            high: Figure::new(of("99th percentile of the ACK delay at 4,000/s"), "ms", Budget::AtMost(1.25)),
            top: Figure::new(of("highest rate under 1 % drops"), "1/s", Budget::AtLeast(0.90)),
        }
    }

    fn measure(&mut self, with_library: bool) {
        let bed = Bed::new(self.family, self.threads, with_library);
        perfdhcp::load(&bed, RATE, 1);
        let before = bed.cpu();
        let load = perfdhcp::load(&bed, RATE, 6);
        let cpu = (bed.cpu() - before) / (load.completed * 6.0) * 1e6;
        let top = perfdhcp::highest(&bed, self.guess);
        println!(
            "  DHCPv{} {} {}: {cpu:.0} µs, mean {:.3} ms, p99 {:.3} ms, {:.2} % dropped at {RATE}/s; top {top:.0}/s",
            self.family.number(),
            if self.threads { "threads" } else { "single" },
            if with_library { "with" } else { "without" },
            load.mean(),
            load.quantile(0.99),
            load.dropped() * 100.0
        );
        for (figure, value) in [
            (&mut self.cpu, cpu),
            (&mut self.mean, load.mean()),
            (&mut self.high, load.quantile(0.99)),
            (&mut self.top, top),
        ] {
            (if with_library { &mut figure.with } else { &mut figure.without }).push(value);
        }
    }
}

/// The lag behind the ACK, at a rate: median and 99th percentile.
struct Lag {
    rate: u32,
    figures: Vec<(f64, Figure)>,
}

impl Lag {
    fn new(rate: u32, budgets: &[(f64, f64)]) -> Self {
        let figure = |(part, budget): &(f64, f64)| {
            let what = format!("from ACK to etcd at {rate}/s, {:.0}th percentile", part * 100.0);
            (*part, Figure::new(what, "ms", Budget::AtMost(*budget)))
        };
        Self { rate, figures: budgets.iter().map(figure).collect() }
    }

    fn measure(&mut self) {
        let bed = Bed::new(Family::V4, true, true);
        let lags = lag::lags(&bed, 8, || drop(perfdhcp::load(&bed, self.rate, 8)));
        for (part, figure) in &mut self.figures {
            figure.with.push(quantile(&lags, *part));
        }
        println!(
            "  lag at {}/s: median {:.2} ms, p99 {:.2} ms",
            self.rate,
            quantile(&lags, 0.5),
            quantile(&lags, 0.99)
        );
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["clients", seconds] => return lag::clients(seconds.parse().unwrap()),
        ["watch", url] => return lag::watch(url),
        _ => {}
    }
    let rounds = std::env::var("BENCH_ROUNDS").map_or(5, |rounds| rounds.parse().expect("BENCH_ROUNDS is a number"));
    let mut modes = MODES.map(Mode::new);
    let mut lags = [Lag::new(1000, &[(0.5, 2.0), (0.99, 10.0)]), Lag::new(6000, &[(0.99, 50.0)])];
    for round in 0..rounds {
        println!("round {} of {rounds}", round + 1);
        for mode in &mut modes {
            // Each is first in every other round.
            for with_library in [round % 2 == 0, round % 2 != 0] {
                mode.measure(with_library);
            }
        }
        lags.iter_mut().for_each(Lag::measure);
    }
    let mut figures: Vec<Figure> =
        modes.into_iter().flat_map(|mode| [mode.top, mode.cpu, mode.mean, mode.high]).collect();
    figures.extend(lags.into_iter().flat_map(|lag| lag.figures).map(|(_, figure)| figure));
    println!("\n{}", figures::table(&figures));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let result = json!({ "rounds": rounds, "cores": cores, "figures": figures::json(&figures) });
    std::fs::create_dir_all("docs").unwrap();
    std::fs::write("docs/bench.json", serde_json::to_string_pretty(&result).unwrap() + "\n").unwrap();
}
