//! Figures of several rounds, as a table and as JSON.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

/// Where the figures are kept.
const KEPT: &str = "docs/bench.json";

/// The value that a part of them, up to 1, has at most; they are in order of size.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let last = values.len().saturating_sub(1);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let place = (last as f64 * part).round() as usize;
    values.get(place).copied().unwrap_or(f64::NAN)
}

/// The value in the middle, or the mean of the two that are.
pub fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    let (lower, upper) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
    sorted.get(lower).zip(sorted.get(upper)).map_or(f64::NAN, |(lower, upper)| f64::midpoint(*lower, *upper))
}

/// What a figure must keep to.
#[derive(Clone, Copy)]
pub enum Budget {
    /// At least so much.
    AtLeast(f64),
    /// At most.
    AtMost(f64),
    /// Nothing: it is told because it explains another one.
    Told,
}

/// One figure: a value a round, and beside it the same without the library, or without what is measured.
pub struct Figure {
    what: String,
    unit: &'static str,
    budget: Budget,
    /// Whether the budget is about the ratio to what is without.
    is_ratio: bool,
    with: Vec<f64>,
    without: Vec<f64>,
}

impl Figure {
    /// The value itself has a budget.
    pub fn new(what: impl Into<String>, unit: &'static str, budget: Budget) -> Self {
        Self { what: what.into(), unit, budget, is_ratio: false, with: Vec::new(), without: Vec::new() }
    }

    /// Its ratio to the same without the library has a budget.
    pub fn ratio(what: impl Into<String>, unit: &'static str, budget: Budget) -> Self {
        Self { is_ratio: true, ..Self::new(what, unit, budget) }
    }

    /// What a round measured, with or without.
    pub fn add(&mut self, with: bool, value: f64) {
        (if with { &mut self.with } else { &mut self.without }).push(value);
    }

    /// What is held against the budget: the median, or that of the ratios of the rounds. With and without are measured one
    /// after the other in a round, so what changes slowly on the machine is in both.
    fn measured(&self) -> f64 {
        if !self.is_ratio {
            return median(&self.with);
        }
        let ratios: Vec<f64> = self.with.iter().zip(&self.without).map(|(with, without)| with / without).collect();
        median(&ratios)
    }

    fn is_met(&self) -> Option<bool> {
        match self.budget {
            Budget::AtLeast(budget) => Some(self.measured() >= budget),
            Budget::AtMost(budget) => Some(self.measured() <= budget),
            Budget::Told => None,
        }
    }

    fn row(&self) -> String {
        let budget = match self.budget {
            Budget::AtLeast(budget) => format!("≥ {budget}"),
            Budget::AtMost(budget) => format!("≤ {budget}"),
            Budget::Told => String::new(),
        };
        let met = match self.is_met() {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "",
        };
        let ratio = if self.is_ratio { format!("{:.2}", self.measured()) } else { String::new() };
        format!(
            "| {} | {} | {} | {} | {ratio} | {budget} | {met} |",
            self.what,
            self.unit,
            spread(&self.without),
            spread(&self.with),
        )
    }

    fn json(&self) -> Value {
        let mut json = json!({
            "what": self.what, "unit": self.unit, "with": self.with, "without": self.without,
            "measured": self.measured(), "ratio": self.is_ratio, "met": self.is_met(),
        });
        match self.budget {
            Budget::AtLeast(budget) => json["at-least"] = json!(budget),
            Budget::AtMost(budget) => json["at-most"] = json!(budget),
            Budget::Told => {}
        }
        json
    }
}

pub fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

/// The median, and between what the rounds lay; nothing of nothing.
fn spread(values: &[f64]) -> String {
    let sorted = sorted(values);
    let (Some(least), Some(most)) = (sorted.first(), sorted.last()) else { return String::new() };
    let text = |value: f64| if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.3}") };
    format!("{} ({} to {})", text(median(values)), text(*least), text(*most))
}

/// The table, in Markdown.
pub fn table(figures: &[&Figure]) -> String {
    let mut table = String::from(
        "| what | unit | without: median (spread) | with | ratio | budget | |\n| --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for figure in figures {
        table.push_str(&figure.row());
        table.push('\n');
    }
    table
}

/// Keeps the figures of a part for programs, instead of those that were kept of it, so that the parts can be measured one by
/// one; beside them when that was, and of what. Figures of parts that there are no more go.
pub fn keep(part: &str, figures: &[&Figure], parts: &[&str]) {
    let kept = fs::read_to_string(KEPT).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let kept = kept.unwrap_or_default();
    let mut all = kept["figures"].as_array().cloned().unwrap_or_default();
    all.retain(|kept| kept["part"] != part && parts.iter().any(|part| kept["part"] == *part));
    for figure in figures {
        let mut json = figure.json();
        json["part"] = json!(part);
        all.push(json);
    }
    // In the order of the table; a stable sort keeps that within a part.
    all.sort_by_key(|figure| parts.iter().position(|part| figure["part"] == *part));
    let mut measured = kept["measured"].as_object().cloned().unwrap_or_default();
    measured.retain(|part, _| parts.contains(&part.as_str()));
    measured.insert(part.to_owned(), measured_now());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let result = json!({ "cores": cores, "measured": measured, "figures": all });
    fs::create_dir_all("docs").unwrap();
    fs::write(KEPT, serde_json::to_string_pretty(&result).unwrap() + "\n").unwrap();
}

/// When and of what: the time, the commit of the source, and the versions of the servers.
fn measured_now() -> Value {
    const SOURCE: [&str; 6] = ["--", "Cargo.lock", "build.rs", "cpp-shim", "include", "src"];
    let says = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned()
    };
    let source = says("git", &[&["log", "-1", "--format=%h"], &SOURCE[..]].concat());
    let is_changed = !says("git", &[&["status", "--porcelain"], &SOURCE[..]].concat()).is_empty();
    json!({
        "time": says("date", &["--utc", "+%FT%RZ"]),
        "source": source + if is_changed { ", changed" } else { "" },
        "kea": says("kea-dhcp4", &["-v"]),
        "etcd": says("etcd", &["--version"]),
    })
}
