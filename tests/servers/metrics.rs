//! What Prometheus is told: the metrics, the dashboard's queries and the alerts, with a real Prometheus; and what else
//! may happen to a port.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client4::Client4;
use crate::etcd::Etcd;
use crate::kea::{Family, Kea, Wanted};
use crate::mirrored::assert_mirrored;
use crate::ports;
use crate::prometheus::{self, Panel, Prometheus, docs, promtool};

/// A server of an etcd that is to be scraped at an address.
fn wanted(etcd: &Etcd, address: &str) -> Wanted {
    Wanted::new(Family::V4, &etcd.url()).parameter("metrics-address", json!(address))
}

fn free_address() -> String {
    format!("127.0.0.1:{}", ports::free())
}

/// Sends a request; the answer's head and body.
fn ask(address: &str, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {request:?}: {answer:?}"));
    (head.to_owned(), body.to_owned())
}

/// What a server tells.
fn scrape(address: &str) -> String {
    let (head, body) = ask(address, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
    body
}

/// One of etcd's own metrics.
pub fn metric_of(etcd: &Etcd, name: &str) -> i64 {
    let (_, metrics) = ask(&format!("127.0.0.1:{}", etcd.port()), "GET /metrics HTTP/1.0\r\n\r\n");
    told(&metrics, name)
}

/// The number that a server tells of a metric.
fn told(text: &str, name: &str) -> i64 {
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("{name} is not in\n{text}")).parse().unwrap()
}

/// Waits until a server tells this.
fn wait_told(address: &str, name: &str, wanted: impl Fn(i64) -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let text = scrape(address);
        if wanted(told(&text, name)) {
            return;
        }
        assert!(Instant::now() < until, "{name} is not as it should be:\n{text}");
        sleep(Duration::from_millis(50));
    }
}

/// Clients that take, renew and release leases until `meanwhile` returns.
fn under_load<T>(kea: &Kea, meanwhile: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for relay in 1..=2 {
            let (mut client, stop) = (Client4::new(kea, relay, 0), &stop);
            scope.spawn(move || {
                let mut number = u32::from(relay) * 100_000;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    client.become_client(number);
                    let address = client.take();
                    client.renew(address);
                    if number % 2 == 0 {
                        client.release(address);
                    }
                    sleep(Duration::from_millis(5));
                }
            });
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(meanwhile));
        stop.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn every_query_of_the_dashboard_returns_data_under_load_and_the_numbers_are_right() {
    let (etcd, address) = (Etcd::start(), free_address());
    let kea = Kea::start_connected(&wanted(&etcd, &address).threads(true));
    let prometheus = Prometheus::start("", &address);
    under_load(&kea, || {
        // Four scrapes, as Grafana's documentation has it.
        for Panel { title, queries, .. } in prometheus::dashboard("2s") {
            assert!(!queries.is_empty(), "{title} shows nothing");
            for (query, _) in queries {
                prometheus.wait(&title, &query);
            }
        }
        // Not only zeros.
        for query in
            ["rate(dhcp_etcd_writes_total[2s]) > 0", "nnoe_dhcp_leases_active > 0", "dhcp_etcd_lag_seconds_count > 0"]
        {
            prometheus.wait("the load", query);
        }
    });
    let records = assert_mirrored(&kea, &etcd);
    wait_told(&address, "dhcp_etcd_pending", |pending| pending == 0);
    // Kea's statistics follow at the worker's next tick.
    let at_rest = |name: &str| {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let (metric, statistic) =
                (told(&scrape(&address), &format!("dhcp_etcd_{name}_total")), kea.statistic(&format!("etcd-{name}")));
            if metric == statistic {
                return metric;
            }
            assert!(Instant::now() < until, "{name}: {metric} and {statistic}");
            sleep(Duration::from_millis(50));
        }
    };
    let [events, writes, deletes, ..] = ["events", "writes", "deletes", "conflicts", "errors", "resyncs"].map(at_rest);
    assert!(events >= writes + deletes && deletes > 0, "{events} {writes} {deletes}");
    wait_told(&address, "nnoe_dhcp_leases_active", |active| usize::try_from(active) == Ok(records.len()));
    let text = scrape(&address);
    assert!(told(&text, "nnoe_dhcp_leases_total") >= writes - deletes, "{text}");
    // Each change that etcd has acknowledged counts.
    assert!(told(&text, "dhcp_etcd_lag_seconds_count") >= writes, "{text}");
    let version = kea.version();
    assert!(text.contains(&format!(r#"kea_version="{version}",server="test",service="dhcp4""#)), "{text}");
    assert!(text.contains(&format!(r#"dhcp_etcd_endpoint_in_use{{endpoint="{}"}} 1"#, etcd.url())), "{text}");
    // The dashboard's variables.
    assert!(!prometheus.query("dhcp_etcd_build_info{instance!=\"\"}").is_empty());

    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &text).unwrap();
    let linted = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(fs::File::open(file.path()).unwrap())
        .output()
        .expect("promtool (Debian: prometheus)");
    let complaints = [linted.stdout, linted.stderr].concat();
    assert!(linted.status.success() && complaints.is_empty(), "{}", String::from_utf8_lossy(&complaints));
}

#[test]
fn every_alert_fires_when_it_should_and_not_before() {
    promtool(&["check", "rules", &docs("alerts.yml")]);
    let tests = format!("{}/tests/servers/alerts.yml", env!("CARGO_MANIFEST_DIR"));
    promtool(&["test", "rules", &tests]);
    let (tests, alerts) = (fs::read_to_string(tests).unwrap(), fs::read_to_string(docs("alerts.yml")).unwrap());
    let readme = include_str!("../../README.md");
    let names: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() >= 7, "{names:?}");
    for name in names {
        assert!(tests.contains(&format!(r#"alertname="{name}", alertstate="firing""#)), "{name} is not tested");
        assert!(readme.contains(&format!("| `{name}` |")), "the README lacks {name}");
    }
}

#[test]
fn alerts_are_raised_by_what_they_are_for() {
    let (mut etcd, address) = (Etcd::start(), free_address());
    let mut kea = Kea::start_connected(&wanted(&etcd, &address).parameter("queue-size", json!(10)));
    wait_told(&address, "dhcp_etcd_connected", |connected| connected == 1);
    let prometheus = Prometheus::start("", &address);
    // Two scrapes, so that an increase can be told.
    prometheus.wait("scrapes", "changes(dhcp_etcd_start_time_seconds[10s]) == 0 and count_over_time(up[10s]) > 3");
    let raised = |name: &str| prometheus.wait(name, &format!(r#"ALERTS{{alertname="{name}"}}"#));
    assert!(prometheus.query(r#"ALERTS{alertname!="DhcpEtcdNotSynced"}"#).is_empty());
    etcd.kill();
    let mut client = Client4::new(&kea, 1, 0);
    for number in 0..30 {
        client.become_client(number);
        client.take();
    }
    raised("DhcpEtcdUnreachable");
    raised("DhcpEtcdQueueOverflow");
    // The lag that this makes is longer than what the alert takes.
    sleep(Duration::from_secs(2));
    etcd.restart();
    raised("DhcpEtcdLagHigh");
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 30);
    prometheus.wait("the end of the outage", "dhcp_etcd_connected == 1");
    kea.stop();
    raised("DhcpEtcdTargetDown");
}

#[test]
fn lag_lasts_from_the_first_change_that_waits_until_etcd_has_it() {
    let (etcd, address) = (Etcd::start(), free_address());
    let kea = Kea::start_connected(&wanted(&etcd, &address));
    let mut client = Client4::new(&kea, 1, 1);
    client.take();
    assert_mirrored(&kea, &etcd);
    wait_told(&address, "dhcp_etcd_pending", |pending| pending == 0);
    let slow = |text: &str| {
        told(text, "dhcp_etcd_lag_seconds_count") - told(text, r#"dhcp_etcd_lag_seconds_bucket{le="2.5"}"#)
    };
    let before = scrape(&address);
    etcd.hang();
    // Four transactions are under way at most: the others wait.
    let taken: Vec<_> = (2..10)
        .map(|number| {
            client.become_client(number);
            (number, client.take())
        })
        .collect();
    sleep(Duration::from_secs(3));
    // What waited begins no new time.
    for (number, address) in &taken {
        client.become_client(*number);
        client.renew(*address);
    }
    etcd.resume();
    assert_mirrored(&kea, &etcd);
    wait_told(&address, "dhcp_etcd_pending", |pending| pending == 0);
    let after = scrape(&address);
    assert!(slow(&after) - slow(&before) >= 8, "{before}\n{after}");
}

#[test]
fn a_port_that_is_taken_is_told_and_tried_again() {
    let etcd = Etcd::start();
    let taken = TcpListener::bind("[::1]:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut kea = Kea::start_connected(&wanted(&etcd, &address));
    kea.wait_log("ETCD_METRICS_FAILED", 1);
    let log = kea.log();
    let line = log.lines().find(|line| line.contains("ETCD_METRICS_FAILED")).unwrap();
    assert!(line.contains(&address) && line.contains("in use") && line.contains("ERROR"), "{line}");
    Client4::new(&kea, 1, 1).take();
    assert_eq!(assert_mirrored(&kea, &etcd).len(), 1);
    // Longer than a pause: it is told once.
    sleep(Duration::from_secs(3));
    drop(taken);
    kea.wait_log("ETCD_METRICS metrics are served", 1);
    assert!(told(&scrape(&address), "dhcp_etcd_writes_total") >= 1);
    assert_eq!(kea.log().matches("ETCD_METRICS_FAILED").count(), 1, "{}", kea.log());
}

#[test]
fn a_reload_listens_on_the_same_port_at_once_and_unloading_ends_it() {
    let (etcd, address) = (Etcd::start(), free_address());
    let mut kea = Kea::start_connected(&wanted(&etcd, &address));
    kea.wait_log("ETCD_METRICS metrics are served", 1);
    for loads in 2..=4 {
        // Connections of all kinds while it goes: answered, idle, half a request.
        scrape(&address);
        let idle = TcpStream::connect(&address).unwrap();
        let mut half = TcpStream::connect(&address).unwrap();
        half.write_all(b"GET /metrics HT").unwrap();
        if loads == 3 {
            kea.reload_libraries();
        } else {
            kea.ask("config-reload", &Value::Null);
        }
        kea.wait_log("ETCD_METRICS metrics are served", loads);
        scrape(&address);
        drop((idle, half));
    }
    assert!(!kea.log().contains("ETCD_METRICS_FAILED"), "{}", kea.log());
    let mut config = kea.config();
    config["Dhcp4"]["hooks-libraries"].as_array_mut().unwrap().pop();
    kea.ask("config-set", &config);
    assert!(TcpStream::connect(&address).is_err(), "nobody listens any more");
    kea.assert_alive();
}

#[test]
fn only_get_and_head_of_the_metrics_are_answered_and_nobody_is_waited_for() {
    let (etcd, address) = (Etcd::start(), free_address());
    let mut kea = Kea::start(&wanted(&etcd, &address));
    kea.wait_log("ETCD_METRICS metrics are served", 1);
    let long = format!("GET /metrics HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(64 * 1024));
    let many = format!("GET /metrics HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: a\r\n".repeat(1000));
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "404"),
        ("GET /metrics/ HTTP/1.1\r\nHost: a\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "405"),
        ("HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "200"),
        ("GET /metrics?x=y HTTP/1.0\r\n\r\n", "200"),
        ("what is this\r\n\r\n", "400"),
        (&long, "431"),
        (&many, "431"),
    ] {
        let mut stream = TcpStream::connect(&address).unwrap();
        // What is too long may be refused before all of it is sent.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap_or_else(|error| panic!("{status}: {error}"));
        assert!(answer.ends_with(status.as_bytes()), "{:?}: {:?}", request.get(..40), String::from_utf8_lossy(&answer));
    }
    // Nor is a request waited for that does not end.
    let mut half = TcpStream::connect(&address).unwrap();
    half.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
    half.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert_eq!(half.read(&mut [0; 12]).unwrap(), 0, "the server ends it");
    let (head, body) = ask(&address, "HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(body.is_empty() && head.contains("200 OK"), "{head}");
}

#[test]
fn whatever_scrapers_do_the_mirror_goes_on_and_memory_stays() {
    let (etcd, address) = (Etcd::start(), free_address());
    let mut kea = Kea::start_connected(&wanted(&etcd, &address));
    kea.wait_log("ETCD_METRICS metrics are served", 1);
    let pid = kea.pid();
    let open_files = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let memory = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().trim();
        line.trim_end_matches(" kB").parse::<usize>().unwrap()
    };
    let client = Client4::new(&kea, 1, 1);
    client.take();
    assert_mirrored(&kea, &etcd);
    let (files, kilobytes) = (open_files(), memory());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (stop, address) = (&stop, &address);
        // Requests that never end, and answers that nobody reads: a byte now and then, on connections that stay.
        scope.spawn(move || {
            let mut open = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let Ok(mut stream) = TcpStream::connect(address) else { continue };
                let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ");
                open.push(stream);
                for stream in &mut open {
                    let _ = stream.write_all(b"a");
                }
                if open.len() > 200 {
                    open.clear();
                }
                sleep(Duration::from_millis(5));
            }
        });
        // One connection after another, with headers without an end.
        scope.spawn(move || {
            let rubbish = [b"GET /metrics HTTP/1.1\r\n".as_slice(), &b"X: y\r\n".repeat(100_000)].concat();
            while !stop.load(Ordering::Relaxed) {
                if let Ok(mut stream) = TcpStream::connect(address) {
                    let _ = stream.write_all(&rubbish);
                }
            }
        });
        // Scrapes as fast as they are answered.
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if let Ok(mut stream) = TcpStream::connect(address) {
                    let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
                    let _ = stream.read_to_end(&mut Vec::new());
                }
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut client = Client4::new(&kea, 2, 0);
            let mut most = 0;
            for number in 100..300 {
                client.become_client(number);
                client.take();
                most = most.max(open_files());
                sleep(Duration::from_millis(10));
            }
            // Mirrored while they go on.
            assert_eq!(assert_mirrored(&kea, &etcd).len(), 201);
            assert!(most <= files + 20, "{most} open files, {files} before");
            // And somebody who asks properly is answered, perhaps not the first time.
            let until = Instant::now() + Duration::from_secs(60);
            loop {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
                let mut answer = String::new();
                if stream.read_to_string(&mut answer).is_ok() && answer.contains("dhcp_etcd_pending") {
                    break;
                }
                assert!(Instant::now() < until, "no scrape is answered");
            }
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    let grown = memory().saturating_sub(kilobytes);
    println!("{grown} kB more than before");
    assert!(grown < 16 * 1024, "{grown} kB more than before");
    kea.assert_alive();
    assert!(!kea.log().contains("ETCD_BUG"), "{}", kea.log());
}
