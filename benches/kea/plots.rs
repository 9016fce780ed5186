//! Two plots in `docs`: what the library costs at each rate, and how far etcd is behind through an outage.

use std::error::Error;
use std::fs;
use std::thread::{scope, sleep};
use std::time::Duration;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::Part;
use crate::bed::Bed;
use crate::figures::{Figure, median};
use crate::kea::Family;
use crate::lag::{Lag, lags};
use crate::perfdhcp;

/// Exchanges a second at which drops and delay are measured.
const RATES: [u32; 9] = [1000, 2000, 4000, 6000, 7000, 8000, 9000, 10_000, 11_000];

/// Exchanges a second through an outage.
const RATE: u32 = 1000;
/// Seconds of that load, and between which of them etcd hangs.
const LOAD: u32 = 20;
const HANGS: (u32, u32) = (7, 12);

const SIZE: (u32, u32) = (900, 400);
const FONT: (&str, u32) = ("sans-serif", 14);
const WITHOUT: RGBColor = RGBColor(120, 120, 120);
const WITH: RGBColor = RGBColor(200, 40, 40);

type Drawn = Result<(), Box<dyn Error>>;

/// What was measured at one rate, with and without the library: drops in percent and mean delays in milliseconds.
#[derive(Default)]
struct AtRate {
    drops: [Vec<f64>; 2],
    delays: [Vec<f64>; 2],
}

/// See the module.
#[derive(Default)]
pub struct Plots {
    rates: [AtRate; RATES.len()],
}

impl Part for Plots {
    fn rounds(&self, wanted: usize) -> usize {
        wanted.min(3)
    }

    fn measure(&mut self, round: usize) {
        for with_library in crate::turns(round) {
            let bed = Bed::new(Family::V4, true, with_library);
            for (rate, measured) in RATES.iter().zip(&mut self.rates) {
                let load = perfdhcp::load(&bed, *rate, 3);
                measured.drops[usize::from(with_library)].push(load.dropped() * 100.0);
                measured.delays[usize::from(with_library)].push(load.mean());
            }
        }
        fs::create_dir_all("docs").unwrap();
        self.draw_rates().unwrap();
        if round == 0 {
            draw_outage(&measure_outage()).unwrap();
        }
        println!("  docs/rates.svg and docs/outage.svg are drawn");
    }

    fn figures(&self) -> Vec<&Figure> {
        Vec::new()
    }
}

impl Plots {
    /// Medians of the rounds, of exchanges that were dropped above, and of the delay below.
    fn draw_rates(&self) -> Drawn {
        let area = SVGBackend::new("docs/rates.svg", (SIZE.0, 2 * SIZE.1)).into_drawing_area();
        area.fill(&WHITE)?;
        let (above, below) = area.split_vertically(SIZE.1);
        let curve = |values: fn(&AtRate) -> &[Vec<f64>; 2], with_library: usize| -> Vec<(f64, f64)> {
            let medians = self.rates.iter().map(|measured| median(&values(measured)[with_library]));
            RATES.iter().map(|rate| f64::from(*rate)).zip(medians).collect()
        };
        let drops = [0, 1].map(|with_library| curve(|measured| &measured.drops, with_library));
        let delays = [0, 1].map(|with_library| curve(|measured| &measured.delays, with_library));
        draw_curves(&above, "DHCPv4, two packet threads: exchanges dropped", "%", drops)?;
        draw_curves(&below, "mean ACK delay", "ms", delays)?;
        area.present()?;
        Ok(())
    }
}

/// Two curves over the rate: without the library, and with it.
fn draw_curves(
    area: &DrawingArea<SVGBackend, Shift>,
    caption: &str,
    unit: &str,
    curves: [Vec<(f64, f64)>; 2],
) -> Drawn {
    let top = curves.iter().flatten().map(|(_, value)| *value).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..f64::from(RATES[RATES.len() - 1]), 0.0..top * 1.05)?;
    chart
        .configure_mesh()
        .max_light_lines(0)
        .x_label_formatter(&|rate| format!("{rate:.0}"))
        .x_desc("exchanges begun in a second")
        .y_desc(unit)
        .label_style(FONT)
        .draw()?;
    for (curve, (name, color)) in curves.into_iter().zip([("no hook", WITHOUT), ("with the library", WITH)]) {
        let line = LineSeries::new(curve, color.stroke_width(2)).point_size(3);
        chart.draw_series(line)?.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .label_font(FONT)
        .draw()?;
    Ok(())
}

/// The lag of watched leases while etcd stops answering for some seconds.
fn measure_outage() -> Vec<Lag> {
    let bed = Bed::new(Family::V4, true, true);
    lags(&bed, LOAD, || {
        scope(|scope| {
            scope.spawn(|| perfdhcp::load(&bed, RATE, LOAD));
            sleep(Duration::from_secs(HANGS.0.into()));
            bed.etcd.hang();
            sleep(Duration::from_secs((HANGS.1 - HANGS.0).into()));
            bed.etcd.resume();
        });
    })
}

/// A point for each lease, over the time of its ACK.
fn draw_outage(lags: &[Lag]) -> Drawn {
    // A logarithm knows no zero.
    const LEAST: f64 = 0.1;
    const MOST: f64 = 20_000.0;
    let area = SVGBackend::new("docs/outage.svg", SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(format!("from ACK to etcd at {RATE}/s; etcd hangs in the shaded time"), ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..f64::from(LOAD), (LEAST..MOST).log_scale())?;
    chart
        .configure_mesh()
        .max_light_lines(0)
        .x_label_formatter(&|second| format!("{second:.0}"))
        .x_desc("ACK, seconds since the load began")
        .y_desc("ms")
        .label_style(FONT)
        .draw()?;
    let hangs = [(f64::from(HANGS.0), LEAST), (f64::from(HANGS.1), MOST)];
    chart.draw_series([Rectangle::new(hangs, BLACK.mix(0.1).filled())])?;
    let told = lags.iter().filter(|lag| lag.lag.is_finite());
    chart.draw_series(told.map(|lag| Circle::new((lag.at, lag.lag.max(LEAST)), 2, WITH.filled())))?;
    area.present()?;
    Ok(())
}
