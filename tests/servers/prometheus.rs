//! A Prometheus of the test's own, asked with its `promtool`.

use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::ports;
use crate::program::{self, command};

/// How often it scrapes and evaluates the alerts.
pub const INTERVAL: Duration = Duration::from_millis(500);

pub struct Prometheus {
    /// The network namespace that it runs in; empty for the test's own.
    host: String,
    child: Child,
    dir: TempDir,
    url: String,
}

/// One series of an answer, with its samples: seconds since the epoch and value.
pub struct Series {
    pub labels: Value,
    pub samples: Vec<(f64, f64)>,
}

/// A file of `docs`.
pub fn docs(name: &str) -> String {
    format!("{}/docs/{name}", env!("CARGO_MANIFEST_DIR"))
}

impl Prometheus {
    /// Scrapes one server's `metrics-address` as the job that the alerts expect.
    pub fn start(host: &str, target: &str) -> Self {
        let (dir, port) = (TempDir::new().unwrap(), ports::free());
        let config = serde_json::json!({
            "global": { "scrape_interval": format!("{}ms", INTERVAL.as_millis()), "evaluation_interval": "1s" },
            "rule_files": [docs("alerts.yml")],
            "scrape_configs": [{ "job_name": "dhcp-etcd", "static_configs": [{ "targets": [target] }] }],
        });
        // JSON is YAML.
        let file = dir.path().join("prometheus.yml");
        std::fs::write(&file, config.to_string()).unwrap();
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let mut prometheus = command("prometheus", host);
        prometheus
            .arg(format!("--config.file={}", path(&file)))
            .arg(format!("--storage.tsdb.path={}", path(&dir.path().join("data"))))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let child = program::start(&mut prometheus, &dir.path().join("log"));
        let prometheus = Self { host: host.into(), child, dir, url: format!("http://127.0.0.1:{port}") };
        prometheus.wait("scrapes", "up == 1");
        prometheus
    }

    /// What a query gives now, if it gives something: series that have a value which is a number.
    pub fn query(&self, query: &str) -> Vec<Series> {
        self.ask(&["query", "instant"], &[], query).unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// The same over a time, seconds since the epoch, in steps of a second.
    pub fn query_range(&self, query: &str, (from, to): (i64, i64)) -> Vec<Series> {
        let options = [format!("--start={from}"), format!("--end={to}"), "--step=1s".into()];
        self.ask(&["query", "range"], &options, query).unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    fn ask(&self, what: &[&str], options: &[String], query: &str) -> Result<Vec<Series>, String> {
        let mut promtool = command("promtool", &self.host);
        promtool.args(what).args(options).args(["-o", "json", &self.url, query]);
        let output = promtool.output().expect("promtool (Debian: prometheus)");
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        let sample = |pair: &Value| {
            let value: f64 = pair[1].as_str()?.parse().ok()?;
            value.is_finite().then_some((pair[0].as_f64()?, value))
        };
        let series = answer.as_array().unwrap().iter().map(|series| {
            let samples = match &series["values"] {
                Value::Array(values) => values.iter().filter_map(sample).collect(),
                _ => sample(&series["value"]).into_iter().collect::<Vec<_>>(),
            };
            Series { labels: series["metric"].clone(), samples }
        });
        Ok(series.filter(|series| !series.samples.is_empty()).collect())
    }

    /// Waits until a query gives something; what.
    pub fn wait(&self, what: &str, query: &str) -> Vec<Series> {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            match self.ask(&["query", "instant"], &[], query) {
                Ok(found) if !found.is_empty() => return found,
                answer => {
                    let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap();
                    let error = answer.err().unwrap_or_default();
                    assert!(Instant::now() < until, "{what}: {query} gives nothing {error}\n{log}");
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `promtool check` or `promtool test` on a file; it must find nothing to complain of.
pub fn promtool(arguments: &[&str]) {
    let output =
        std::process::Command::new("promtool").args(arguments).output().expect("promtool (Debian: prometheus)");
    let told = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "promtool {arguments:?}:\n{told}");
}

/// A panel of the dashboard.
pub struct Panel {
    pub title: String,
    /// Grafana's name for the kind of panel.
    pub kind: String,
    /// Grafana's name for the unit, if it has one.
    pub unit: Option<String>,
    /// Its queries with their legends.
    pub queries: Vec<(String, String)>,
}

/// The panels of the dashboard, with what Grafana would put into their queries: a time for rates, and every server.
pub fn dashboard(rate_interval: &str) -> Vec<Panel> {
    let dashboard: Value = serde_json::from_slice(&std::fs::read(docs("grafana-dashboard.json")).unwrap()).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let panel = |panel: &Value| {
        let targets = panel["targets"].as_array().unwrap().iter().map(|target| {
            let query = text(&target["expr"]).replace("$__rate_interval", rate_interval).replace("$instance", ".*");
            assert!(!query.contains('$'), "a variable that is not filled in: {query}");
            (query, text(&target["legendFormat"]))
        });
        Panel {
            title: text(&panel["title"]),
            kind: text(&panel["type"]),
            unit: panel["fieldConfig"]["defaults"]["unit"].as_str().map(str::to_owned),
            queries: targets.collect(),
        }
    };
    dashboard["panels"].as_array().unwrap().iter().map(panel).collect()
}
