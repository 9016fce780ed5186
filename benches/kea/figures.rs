//! Figures of several rounds, as a table and as JSON.

use serde_json::{Value, json};

/// The value that a part of them, up to 1, has at most; they are in order of size.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let last = values.len().saturating_sub(1);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let place = (last as f64 * part).round() as usize;
    values.get(place).copied().unwrap_or(f64::NAN)
}

/// What a figure must keep to.
#[derive(Clone, Copy)]
pub enum Budget {
    /// At least so much, or at least this ratio to no hook.
    AtLeast(f64),
    /// At most.
    AtMost(f64),
}

/// One figure: a value a round, with the library, and without where that is the measure.
pub struct Figure {
    pub what: String,
    pub unit: &'static str,
    pub budget: Budget,
    pub with: Vec<f64>,
    pub without: Vec<f64>,
}

impl Figure {
    pub fn new(what: impl Into<String>, unit: &'static str, budget: Budget) -> Self {
        Self { what: what.into(), unit, budget, with: Vec::new(), without: Vec::new() }
    }

    /// What is held against the budget: the median, or the ratio of the medians.
    fn measured(&self) -> f64 {
        let with = median(&self.with);
        if self.without.is_empty() { with } else { with / median(&self.without) }
    }

    fn is_met(&self) -> bool {
        match self.budget {
            Budget::AtLeast(budget) => self.measured() >= budget,
            Budget::AtMost(budget) => self.measured() <= budget,
        }
    }

    fn row(&self) -> String {
        let budget = match self.budget {
            Budget::AtLeast(budget) => format!("≥ {budget}"),
            Budget::AtMost(budget) => format!("≤ {budget}"),
        };
        let without = if self.without.is_empty() { String::new() } else { spread(&self.without) };
        format!(
            "| {} | {} | {} | {} | {:.2} | {budget} | {} |",
            self.what,
            self.unit,
            without,
            spread(&self.with),
            self.measured(),
            if self.is_met() { "met" } else { "**missed**" }
        )
    }

    fn json(&self) -> Value {
        let (kind, budget) = match self.budget {
            Budget::AtLeast(budget) => ("at-least", budget),
            Budget::AtMost(budget) => ("at-most", budget),
        };
        json!({
            "what": self.what, "unit": self.unit, "with": self.with, "without": self.without,
            "measured": self.measured(), kind: budget, "met": self.is_met(),
        })
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

fn median(values: &[f64]) -> f64 {
    quantile(&sorted(values), 0.5)
}

/// The median, and between what the rounds lay.
fn spread(values: &[f64]) -> String {
    let sorted = sorted(values);
    let text = |value: f64| if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.3}") };
    format!("{} ({} to {})", text(median(values)), text(sorted[0]), text(sorted[sorted.len() - 1]))
}

/// The table, in Markdown.
pub fn table(figures: &[Figure]) -> String {
    let mut table = String::from(
        "| what | unit | no hook: median (spread) | with the library | measured | budget | |\n| --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for figure in figures {
        table.push_str(&figure.row());
        table.push('\n');
    }
    table
}

/// The same for programs.
pub fn json(figures: &[Figure]) -> Value {
    figures.iter().map(Figure::json).collect()
}
