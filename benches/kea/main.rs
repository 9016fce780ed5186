//! What the library costs a server: the same load with it and without it, in turns, on this machine, with etcd and the
//! clients beside it; some of it also beside another program that writes ([`with`]). Prints a table, keeps the figures in
//! `docs/bench.json` and draws plots beside them.
//!
//! `BENCH_ROUNDS` is how many rounds are made (5; of some that are only told, fewer). Arguments are the parts that
//! are measured, without any all but those of [`APART`]: `cargo bench --bench kea -- large outage`.

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
#[path = "../../tests/servers/prometheus.rs"]
mod prometheus;
#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../../tests/servers/records.rs"]
mod records;
#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../../tests/servers/sql.rs"]
mod sql;

mod bed;
mod beside;
mod bulk;
mod callouts;
mod compiled;
mod cost;
mod dashboard;
mod figures;
mod highest;
mod history;
mod lag;
mod large;
mod leftovers;
mod metrics;
mod mix;
mod others;
mod outage;
mod peers;
mod perfdhcp;
mod plots;
mod with;

use figures::Figure;
use others::Writing;

/// Parts that are measured only when they are named.
const APART: [&str; 3] = ["peers", "history", "others"];

/// A part of the benchmark, which can be measured alone.
trait Part {
    /// How many rounds it makes of those that are wanted.
    fn rounds(&self, wanted: usize) -> usize {
        wanted
    }

    /// Measures everything once.
    fn measure(&mut self, round: usize);

    /// What it has measured so far.
    fn figures(&self) -> Vec<&Figure>;
}

/// Whether the library is loaded, in the order of this round: each is first in every other one.
fn turns(round: usize) -> [bool; 2] {
    [round % 2 == 0, round % 2 != 0]
}

/// Every part by its name, in the order of the table.
fn parts() -> Vec<(&'static str, Box<dyn Part>)> {
    vec![
        ("highest", Box::new(highest::Highest::new())),
        ("cost", Box::new(cost::Cost::new())),
        ("callouts", Box::new(callouts::Callouts::new())),
        ("mix", Box::new(mix::Mix::new())),
        ("lag", Box::new(lag::Visible::new())),
        ("large", Box::new(large::Large::new())),
        ("outage", Box::new(outage::Outage::new())),
        ("plots", Box::new(plots::Plots::default())),
        ("dashboard", Box::new(dashboard::Dashboard)),
        ("peers", Box::new(peers::Peers::new())),
        ("history", Box::new(history::History::new())),
        ("others", Box::new(others::OnOnePrefix::new())),
    ]
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["clients", seconds] => return lag::clients(seconds.parse().unwrap()),
        ["watch", url] => return lag::watch(url),
        ["metrics", port] => return metrics::print(port.parse().unwrap()),
        ["bulk", url] => return bulk::run_reader(url),
        ["bulk", url, records] => return bulk::run(url, records.parse().unwrap()),
        ["others", url, ref writing @ ..] => {
            let [first, rate, seconds, batch, watches, exact] =
                writing.iter().map(|number| number.parse::<u32>().unwrap()).collect::<Vec<_>>()[..]
            else {
                panic!("{writing:?}")
            };
            return others::run(url, first, Writing { rate, seconds, batch, watches, exact: exact != 0 });
        }
        _ => {}
    }
    leftovers::end();
    let rounds = std::env::var("BENCH_ROUNDS").map_or(5, |rounds| rounds.parse().expect("BENCH_ROUNDS is a number"));
    let mut parts = parts();
    let names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
    // cargo itself says `--bench`.
    let wanted: Vec<&str> = arguments.iter().map(String::as_str).filter(|argument| *argument != "--bench").collect();
    assert!(wanted.iter().all(|name| names.contains(name)), "the parts are {names:?}");
    parts.retain(|(name, _)| if wanted.is_empty() { !APART.contains(name) } else { wanted.contains(name) });
    for round in 0..rounds {
        println!("round {} of {rounds}; load of the machine before: {}", round + 1, load());
        for (name, part) in &mut parts {
            if round < part.rounds(rounds) {
                part.measure(round);
                // Also for a run that does not come to its end.
                figures::keep(name, &part.figures(), &names);
            }
        }
    }
    let figures: Vec<&Figure> = parts.iter().flat_map(|(_, part)| part.figures()).collect();
    if !figures.is_empty() {
        println!("\n{}", figures::table(&figures));
    }
}

/// What else runs on the machine: the load averages of one, five and fifteen minutes.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
