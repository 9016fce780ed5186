//! The panels of the dashboard, `docs/grafana-dashboard.json`, drawn from what a Prometheus has of a server under load
//! while etcd hangs for a time: `docs/dashboard.svg`.

use std::error::Error;
use std::thread::{scope, sleep};
use std::time::Duration;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::prelude::*;
use serde_json::Value;

use crate::Part;
use crate::bed::{Bed, Way};
use crate::figures::Figure;
use crate::kea::Family;
use crate::perfdhcp::{self, Rates};
use crate::prometheus::{self, Panel, Prometheus};

/// Where the server tells its metrics.
const ADDRESS: &str = "127.0.0.1:9547";

/// Seconds of that load, and between which of them etcd hangs.
const LOAD: u32 = 90;
const HANGS: (u32, u32) = (40, 52);
/// Seconds before the load that are shown too.
const BEFORE: u32 = 5;

const PANEL: (u32, u32) = (480, 230);
const HEAD: u32 = 36;
const FONT: (&str, u32) = ("sans-serif", 12);

type Drawn = Result<(), Box<dyn Error>>;

/// See the module.
pub struct Dashboard;

impl Part for Dashboard {
    fn rounds(&self, wanted: usize) -> usize {
        wanted.min(1)
    }

    fn measure(&mut self, _: usize) {
        let bed = Bed::by(Family::V4, true, Way::Scraped(ADDRESS));
        let prometheus = Prometheus::start(&bed.hosts.server, ADDRESS);
        sleep(Duration::from_secs(BEFORE.into()));
        let begin = dhcp_etcd::lease::now();
        scope(|scope| {
            scope.spawn(|| perfdhcp::begin(&bed, rates(), LOAD).wait());
            sleep(Duration::from_secs(HANGS.0.into()));
            bed.etcd.hang();
            sleep(Duration::from_secs((HANGS.1 - HANGS.0).into()));
            bed.etcd.resume();
        });
        draw(&prometheus, begin).unwrap();
        println!("  docs/dashboard.svg is drawn");
    }

    fn figures(&self) -> Vec<&Figure> {
        Vec::new()
    }
}

/// What clients begin in a second.
fn rates() -> Rates {
    Rates { renewals: 300, releases: 150, delays: false, ..Rates::new(500) }
}

/// A curve with its name.
type Curve = (String, Vec<(f64, f64)>);

/// Every panel that is a plot, two in a row.
fn draw(prometheus: &Prometheus, begin: i64) -> Drawn {
    let plots: Vec<Panel> =
        prometheus::dashboard("3s").into_iter().filter(|panel| panel.kind == "timeseries").collect();
    let rows = u32::try_from(plots.len().div_ceil(2))?;
    let area = SVGBackend::new("docs/dashboard.svg", (2 * PANEL.0, HEAD + rows * PANEL.1)).into_drawing_area();
    area.fill(&WHITE)?;
    let (head, below) = area.split_vertically(HEAD);
    let Rates { exchanges, renewals, releases, .. } = rates();
    let what = format!(
        "kea-dhcp4, per second {exchanges} new leases, {renewals} renewals, {releases} releases; etcd hangs in the shaded time"
    );
    head.draw(&Text::new(what, (16, 14), ("sans-serif", 15)))?;
    for (panel, area) in plots.iter().zip(below.split_evenly((rows as usize, 2))) {
        let mut curves = Vec::new();
        for (query, legend) in &panel.queries {
            for series in prometheus.query_range(query, (begin - i64::from(BEFORE), begin + i64::from(LOAD))) {
                #[expect(clippy::cast_precision_loss, reason = "seconds since the epoch")]
                let points = series.samples.iter().map(|(at, value)| (at - begin as f64, *value)).collect();
                curves.push((named(legend, &series.labels), points));
            }
        }
        assert!(!curves.is_empty(), "{} shows nothing", panel.title);
        draw_panel(&area, panel, curves)?;
    }
    area.present()?;
    Ok(())
}

/// A legend with its labels; that of the server is left out, there is but one.
fn named(legend: &str, labels: &Value) -> String {
    let mut name = legend.replace("{{instance}}", "");
    for (label, value) in labels.as_object().into_iter().flatten() {
        name = name.replace(&format!("{{{{{label}}}}}"), value.as_str().unwrap_or_default());
    }
    name.trim().to_owned()
}

fn draw_panel(area: &DrawingArea<SVGBackend, Shift>, panel: &Panel, curves: Vec<Curve>) -> Drawn {
    let values = || curves.iter().flat_map(|(_, points)| points).map(|(_, value)| *value);
    let top = values().fold(0.0, f64::max);
    let mut builder = ChartBuilder::on(area);
    builder
        .caption(&panel.title, ("sans-serif", 14))
        .margin(8)
        .margin_right(20)
        .x_label_area_size(24)
        .y_label_area_size(56);
    let seconds = -f64::from(BEFORE)..f64::from(LOAD);
    // As the dashboard has it: from a millisecond to minutes.
    if panel.title == "Lag" {
        let least = values().filter(|value| *value > 0.0).fold(top, f64::min);
        let range = (least / 2.0..top * 2.0).log_scale();
        draw_curves(builder.build_cartesian_2d(seconds, range)?, (least / 2.0, top * 2.0), panel, curves)
    } else {
        // Room for the legend.
        let top = if top == 0.0 { 1.0 } else { top * 1.4 };
        draw_curves(builder.build_cartesian_2d(seconds, 0.0..top)?, (0.0, top), panel, curves)
    }
}

fn draw_curves<'a, Y>(
    mut chart: ChartContext<'a, SVGBackend<'a>, Cartesian2d<plotters::coord::types::RangedCoordf64, Y>>,
    (bottom, top): (f64, f64),
    panel: &Panel,
    curves: Vec<Curve>,
) -> Drawn
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let unit = panel.unit.clone().unwrap_or_default();
    chart
        .configure_mesh()
        .max_light_lines(0)
        .y_labels(5)
        .x_label_formatter(&|second| format!("{second:.0} s"))
        .y_label_formatter(&|value| shown(*value, &unit))
        .label_style(FONT)
        .draw()?;
    let hangs = [(f64::from(HANGS.0), bottom), (f64::from(HANGS.1), top)];
    chart.draw_series([Rectangle::new(hangs, BLACK.mix(0.1).filled())])?;
    let named = curves.iter().any(|(name, _)| !name.is_empty());
    for (n, (name, points)) in curves.into_iter().enumerate() {
        let color = Palette99::pick(n).to_rgba();
        let drawn = chart.draw_series(LineSeries::new(points, color.stroke_width(2)))?;
        drawn.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], color.stroke_width(2)));
    }
    if named {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .label_font(FONT)
            .legend_area_size(18)
            .draw()?;
    }
    Ok(())
}

/// A value as Grafana shows it in the unit.
fn shown(value: f64, unit: &str) -> String {
    match unit {
        "s" if value == 0.0 => "0".into(),
        "s" if value < 0.001 => format!("{:.2} ms", value * 1000.0),
        "s" if value < 1.0 => format!("{:.0} ms", value * 1000.0),
        "s" => format!("{value:.0} s"),
        "ops" if value.fract() == 0.0 => format!("{value:.0}/s"),
        "ops" => format!("{value:.1}/s"),
        _ if value.fract() == 0.0 || value >= 10.0 => format!("{value:.0}"),
        _ => format!("{value:.1}"),
    }
}
