//! What a Prometheus server is told, in its text format 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>). No I/O.
//!
//! Nothing is counted for it alone but the lag: everything else is read where Kea's statistics and `etcd-status` have it.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, Histogram, HistogramOpts, IntCounter, Opts, Result, TextEncoder};

use crate::config::Config;
use crate::control::{Control, Purpose};
use crate::counters::Counters;
use crate::lease::Family;
use crate::presence::State;

/// Upper bounds of the lag's buckets, seconds: from what an idle etcd takes to an outage of hours.
const LAGS: [f64; 18] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0];

/// How long changes waited until etcd had them.
#[derive(Debug)]
pub struct Lag(Histogram);

impl Default for Lag {
    fn default() -> Self {
        let help = "Seconds from when Kea had committed a change of a lease until etcd had acknowledged it. Changes of one \
                    address that waited together count once, from the first.";
        let options = HistogramOpts::new("dhcp_etcd_lag_seconds", help).buckets(LAGS.to_vec());
        Self(Histogram::with_opts(options).expect("a name and bounds that Prometheus takes"))
    }
}

impl Lag {
    /// A change waited so long.
    pub fn observe(&self, time: Duration) {
        self.0.observe(time.as_secs_f64());
    }
}

/// What is told of.
#[derive(Debug)]
pub struct Told<'a> {
    /// The parameters.
    pub config: &'a Config,
    /// Which server this is.
    pub family: Family,
    /// Its version.
    pub kea_version: &'a str,
    /// When the library was loaded, seconds since the epoch.
    pub started_at: i64,
    /// What is counted.
    pub counters: &'a Counters,
    /// How the worker is.
    pub control: &'a Control,
    /// Addresses that wait to be written.
    pub waiting: usize,
    /// How long changes waited.
    pub lag: &'a Lag,
}

/// The whole text.
///
/// # Errors
/// None that is known; the names are Prometheus's.
pub fn text(told: &Told) -> Result<String> {
    let mut text = Text::default();
    told.server(&mut text)?;
    told.counted(&mut text)?;
    told.state(&mut text)?;
    told.comparison(&mut text)?;
    TextEncoder::new().encode_to_string(&text.0)
}

impl Told<'_> {
    fn server(&self, text: &mut Text) -> Result<()> {
        let (service, server) = (self.family.name(), self.config.server_name.as_str());
        let versions = [
            ("service", service),
            ("server", server),
            ("version", env!("CARGO_PKG_VERSION")),
            ("kea_version", self.kea_version),
        ];
        text.gauge(
            "dhcp_etcd_build_info",
            "Always 1: which server, its server-name, and the versions.",
            1.0,
            &versions,
        )?;
        let help = "When the library was loaded, seconds since the epoch.";
        text.gauge("dhcp_etcd_start_time_seconds", help, number(self.started_at), &[])
    }

    fn counted(&self, text: &mut Text) -> Result<()> {
        let counters = self.counters;
        for (name, help, counter) in [
            ("dhcp_etcd_events_total", "Changes put into the queue.", &counters.events),
            ("dhcp_etcd_writes_total", "Records written.", &counters.writes),
            ("dhcp_etcd_deletes_total", "Records removed.", &counters.deletes),
            (
                "dhcp_etcd_conflicts_total",
                "Conditions that failed because somebody else had written or removed the key.",
                &counters.conflicts,
            ),
            ("dhcp_etcd_errors_total", "Requests that failed and records that were refused.", &counters.errors),
            ("dhcp_etcd_resyncs_total", "Comparisons done; those of etcd-verify do not count.", &counters.resyncs),
            (
                "dhcp_etcd_resync_failures_total",
                "Comparisons that did not come to their end: the lease database could not be read, or etcd went away.",
                &counters.resync_failures,
            ),
            (
                "dhcp_etcd_queue_overflows_total",
                "Changes dropped because the queue was full; a comparison finds them.",
                &counters.queue_overflows,
            ),
            ("nnoe_dhcp_leases_total", "Leases that clients were newly assigned.", &counters.assigned),
        ] {
            let total = IntCounter::new(name, help)?;
            total.inc_by(u64::try_from(counter.get()).unwrap_or(0));
            text.0.extend(total.collect());
        }
        text.0.extend(self.lag.0.collect());
        Ok(())
    }

    fn state(&self, text: &mut Text) -> Result<()> {
        let status = self.control.status();
        let is_up = status.connection == "up";
        let help = "Whether a member of etcd answers and takes writes: 1 or 0.";
        text.gauge("dhcp_etcd_connected", help, flag(is_up), &[])?;
        let in_use: Vec<_> =
            self.config.endpoints.iter().map(|endpoint| (endpoint, status.endpoint == *endpoint)).collect();
        let help = "Which member of etcd is written to: 1 for that one, 0 for the others, which are not looked at.";
        text.gauges(
            "dhcp_etcd_endpoint_in_use",
            help,
            &["endpoint"],
            in_use.iter().map(|(endpoint, used)| ([endpoint.as_str()], flag(is_up && *used))),
        )?;
        let help = "Addresses whose change waits to be written.";
        text.gauge("dhcp_etcd_pending", help, count(self.waiting), &[])?;
        let help = "Addresses that may wait, the parameter queue-size.";
        text.gauge("dhcp_etcd_queue_size", help, count(self.config.queue_size), &[])?;
        #[expect(clippy::cast_precision_loss, reason = "not after 285 million years")]
        let lag = status.lag as f64;
        let help = "Seconds that the change waits that is due first; 0 when none does.";
        text.gauge("dhcp_etcd_oldest_pending_seconds", help, lag, &[])?;
        let help = "Whether what the last comparison found is written and none runs: 1 or 0.";
        text.gauge("dhcp_etcd_synced", help, flag(status.state == State::Synced), &[])?;
        // Before that nobody knows.
        if self.control.last(Purpose::Resync).is_some() {
            let help = "Leases that somebody holds, and declined addresses; as of the last comparison and since. Absent before \
                        the first.";
            text.gauge("nnoe_dhcp_leases_active", help, count(status.leases), &[])?;
        }
        Ok(())
    }

    /// Of the last comparison; nothing before the first.
    fn comparison(&self, text: &mut Text) -> Result<()> {
        let Some(last) = self.control.last(Purpose::Resync) else { return Ok(()) };
        let help = "When the last comparison was done, seconds since the epoch.";
        text.gauge("dhcp_etcd_last_resync_timestamp_seconds", help, number(last.at), &[])?;
        let help = "How long it took.";
        text.gauge("dhcp_etcd_last_resync_duration_seconds", help, last.took.as_secs_f64(), &[])?;
        let findings = &last.findings;
        let help =
            "What it found, by kind (missing, different, extra) and by the reason why it was made; written by then.";
        text.gauges(
            "dhcp_etcd_last_resync_differences",
            help,
            &["kind", "reason"],
            [("missing", &findings.missing), ("different", &findings.different), ("extra", &findings.extra)]
                .into_iter()
                .map(|(kind, tally)| ([kind, last.reason], count(tally.count))),
        )
    }
}

/// Metrics in the order in which they are told.
#[derive(Default)]
struct Text(Vec<MetricFamily>);

impl Text {
    fn gauge(&mut self, name: &str, help: &str, value: f64, labels: &[(&str, &str)]) -> Result<()> {
        let (names, values): (Vec<_>, Vec<_>) = labels.iter().copied().unzip();
        let gauge = GaugeVec::new(Opts::new(name, help), &names)?;
        gauge.get_metric_with_label_values(&values)?.set(value);
        self.0.extend(gauge.collect());
        Ok(())
    }

    fn gauges<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str; N],
        values: impl IntoIterator<Item = ([&'a str; N], f64)>,
    ) -> Result<()> {
        let gauges = GaugeVec::new(Opts::new(name, help), labels)?;
        for (labels, value) in values {
            gauges.get_metric_with_label_values(&labels)?.set(value);
        }
        self.0.extend(gauges.collect());
        Ok(())
    }
}

fn flag(set: bool) -> f64 {
    f64::from(u8::from(set))
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus has no other numbers; exact up to 2^53")]
fn number(number: i64) -> f64 {
    number as f64
}

fn count(count: usize) -> f64 {
    number(i64::try_from(count).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparison::{Findings, Tally};
    use crate::control::{Done, Status};

    /// What a server with two endpoints, which compared once, tells.
    fn told(compared: bool) -> String {
        let config =
            Config::parse(r#"{"endpoints":["http://a:1","http://b:1"],"server-name":"s","queue-size":9}"#).unwrap();
        let (counters, control, lag) = (Counters::default(), Control::default(), Lag::default());
        counters.events.add(3);
        lag.observe(Duration::from_millis(2));
        lag.observe(Duration::from_secs(7));
        let endpoint = "http://b:1".into();
        control.tell(Status { connection: "up", endpoint, leases: 5, state: State::Synced, ..Status::default() });
        if compared {
            let findings = Findings { extra: Tally { count: 4, addresses: Vec::new() }, ..Findings::default() };
            let done = Done { at: 17, took: Duration::from_millis(250), reason: "interval", findings };
            control.finished(Purpose::Resync, done);
        }
        text(&Told {
            config: &config,
            family: Family::V6,
            kea_version: "2.2.0",
            started_at: 11,
            counters: &counters,
            control: &control,
            waiting: 2,
            lag: &lag,
        })
        .unwrap()
    }

    #[test]
    fn everything_is_told_in_prometheus_text_format() {
        let (text, version) = (told(true), env!("CARGO_PKG_VERSION"));
        let info =
            format!(r#"dhcp_etcd_build_info{{kea_version="2.2.0",server="s",service="dhcp6",version="{version}"}} 1"#);
        for line in [
            info.as_str(),
            "dhcp_etcd_events_total 3",
            "# TYPE dhcp_etcd_events_total counter",
            "dhcp_etcd_connected 1",
            r#"dhcp_etcd_endpoint_in_use{endpoint="http://a:1"} 0"#,
            r#"dhcp_etcd_endpoint_in_use{endpoint="http://b:1"} 1"#,
            "dhcp_etcd_pending 2",
            "dhcp_etcd_queue_size 9",
            r#"dhcp_etcd_lag_seconds_bucket{le="0.001"} 0"#,
            r#"dhcp_etcd_lag_seconds_bucket{le="0.0025"} 1"#,
            r#"dhcp_etcd_lag_seconds_bucket{le="10"} 2"#,
            r#"dhcp_etcd_lag_seconds_bucket{le="+Inf"} 2"#,
            "dhcp_etcd_lag_seconds_sum 7.002",
            "nnoe_dhcp_leases_active 5",
            "dhcp_etcd_last_resync_timestamp_seconds 17",
            "dhcp_etcd_last_resync_duration_seconds 0.25",
            r#"dhcp_etcd_last_resync_differences{kind="extra",reason="interval"} 4"#,
            r#"dhcp_etcd_last_resync_differences{kind="missing",reason="interval"} 0"#,
        ] {
            assert!(text.lines().any(|told| told == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn what_only_a_comparison_tells_is_absent_before_the_first() {
        let text = told(false);
        assert!(!text.contains("nnoe_dhcp_leases_active") && !text.contains("last_resync"), "{text}");
    }

    #[test]
    fn the_readme_documents_every_metric_and_no_other() {
        let (readme, text) = (include_str!("../README.md"), told(true));
        let mut told = 0;
        for line in text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
            let (name, help) = line.split_once(' ').unwrap();
            let kind = text.lines().find_map(|line| line.strip_prefix(&format!("# TYPE {name} "))).unwrap();
            let row = format!("| `{name}` | {kind} | {help} |");
            assert!(readme.contains(&row), "the README lacks the row\n{row}");
            told += 1;
        }
        let rows = readme.lines().filter(|line| line.starts_with("| `dhcp_etcd_") || line.starts_with("| `nnoe_dhcp_"));
        assert_eq!(rows.count(), told);
    }
}
