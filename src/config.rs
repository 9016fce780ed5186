//! The library's parameters: reading, defaults, ranges. No I/O but asking for the host's name.

pub mod credentials;
pub mod endpoints;

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use zeroize::Zeroize;

use crate::index::Kind;
use credentials::Credentials;

/// The parameters as they hold for one load of the library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// etcd members, `http://host:port` each, or `https://host:port` each; at least one.
    pub endpoints: Vec<String>,
    /// How etcd knows us, and we it.
    pub credentials: Arc<Credentials>,
    /// Root of every key; begins with a slash, does not end with one.
    pub prefix: String,
    /// Who writes the records.
    pub server_name: String,
    /// For opening a connection.
    pub connect_timeout: Duration,
    /// For one request.
    pub request_timeout: Duration,
    /// Changed addresses that may wait to be written.
    pub queue_size: usize,
    /// Whether records vanish by themselves when no server is left to remove them.
    pub expire_keys: bool,
    /// Seconds after the end of a lease at which they do.
    pub expire_grace: i64,
    /// Between full comparisons; `None` when only events trigger them.
    pub resync_interval: Option<Duration>,
    /// By what leases can be found through index keys.
    pub index: Vec<Kind>,
    /// How long unloading may wait for what is still unwritten.
    pub flush_timeout: Duration,
    /// Where Prometheus may scrape metrics, if anywhere; the port is not 0.
    pub metrics_address: Option<SocketAddr>,
}

/// A parameter that cannot be accepted: which one, what was found, what is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    parameter: String,
    found: String,
    accepted: String,
}

impl Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "parameter '{}': found {}, accepted is {}", self.parameter, self.found, self.accepted)
    }
}

impl std::error::Error for ConfigError {}

/// Every parameter's name.
const NAMES: [&str; 19] = [
    "endpoints",
    "trust-anchor",
    "cert-file",
    "key-file",
    "user",
    "password",
    "password-file",
    "allow-plaintext-password",
    "prefix",
    "server-name",
    "connect-timeout",
    "request-timeout",
    "queue-size",
    "expire-keys",
    "expire-grace",
    "resync-interval",
    "index",
    "flush-timeout",
    "metrics-address",
];

/// Milliseconds that a time-out may have.
const TIMEOUT: RangeInclusive<u64> = 10..=600_000;

impl Config {
    /// Reads the `parameters` of `hooks-libraries`, JSON text as Kea gives it.
    ///
    /// # Errors
    /// The first parameter that is unknown, of a wrong type or out of range.
    pub fn parse(parameters: &str) -> Result<Self, ConfigError> {
        let accepted = "a map of parameters";
        let value: Value = serde_json::from_str(parameters)
            .map_err(|error| fault("parameters", format!("no JSON ({error})"), accepted))?;
        // Not the value itself: there may be a password in it.
        let Value::Object(mut map) = value else { return Err(fault("parameters", kind(&value), accepted)) };
        let config = Self::of(&map);
        if let Some(Value::String(password)) = map.get_mut("password") {
            password.zeroize();
        }
        config
    }

    fn of(map: &Map<String, Value>) -> Result<Self, ConfigError> {
        if let Some(unknown) = map.keys().find(|name| !NAMES.contains(&name.as_str())) {
            return Err(fault(unknown, "an unknown name", format!("one of {}", NAMES.join(", "))));
        }
        let endpoints = endpoints::parse(map)?;
        Ok(Self {
            credentials: Arc::new(Credentials::parse(map, &endpoints)?),
            endpoints,
            prefix: prefix(map)?,
            server_name: server_name(map)?,
            connect_timeout: milliseconds(map, "connect-timeout", 2000, TIMEOUT)?,
            request_timeout: milliseconds(map, "request-timeout", 5000, TIMEOUT)?,
            queue_size: usize::try_from(number(map, "queue-size", 65_536, 1..=16_777_216, "addresses")?)
                .unwrap_or(usize::MAX),
            expire_keys: boolean(map, "expire-keys", true)?,
            expire_grace: i64::try_from(number(map, "expire-grace", 120, 0..=31_536_000, "seconds")?).unwrap_or(120),
            resync_interval: match number(map, "resync-interval", 3600, 0..=31_536_000, "seconds")? {
                0 => None,
                seconds => Some(Duration::from_secs(seconds)),
            },
            index: index(map)?,
            flush_timeout: milliseconds(map, "flush-timeout", 3000, 0..=600_000)?,
            metrics_address: metrics_address(map)?,
        })
    }
}

pub(crate) fn fault(parameter: &str, found: impl Display, accepted: impl Display) -> ConfigError {
    ConfigError { parameter: parameter.into(), found: found.to_string(), accepted: accepted.to_string() }
}

/// What a value is, where it must not be shown itself.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

fn string<'a>(map: &'a Map<String, Value>, name: &str, accepted: &str) -> Result<Option<&'a str>, ConfigError> {
    match map.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(fault(name, other, accepted)),
    }
}

fn boolean(map: &Map<String, Value>, name: &str, default: bool) -> Result<bool, ConfigError> {
    let Some(value) = map.get(name) else { return Ok(default) };
    value.as_bool().ok_or_else(|| fault(name, value, "true or false"))
}

fn number(
    map: &Map<String, Value>,
    name: &str,
    default: u64,
    range: RangeInclusive<u64>,
    unit: &str,
) -> Result<u64, ConfigError> {
    let Some(value) = map.get(name) else { return Ok(default) };
    value.as_u64().filter(|number| range.contains(number)).ok_or_else(|| {
        fault(name, value, format!("a whole number of {unit} from {} to {}", range.start(), range.end()))
    })
}

fn milliseconds(
    map: &Map<String, Value>,
    name: &str,
    default: u64,
    range: RangeInclusive<u64>,
) -> Result<Duration, ConfigError> {
    number(map, name, default, range, "milliseconds").map(Duration::from_millis)
}

fn index(map: &Map<String, Value>) -> Result<Vec<Kind>, ConfigError> {
    const NAME: &str = "index";
    let accepted = || format!("a list of {}, each at most once", Kind::ALL.map(Kind::name).join(", "));
    let Some(value) = map.get(NAME) else { return Ok(Vec::new()) };
    let list = value.as_array().ok_or_else(|| fault(NAME, value, accepted()))?;
    let mut kinds = Vec::new();
    for value in list {
        let kind = Kind::ALL.into_iter().find(|kind| value.as_str() == Some(kind.name()));
        match kind.filter(|kind| !kinds.contains(kind)) {
            Some(kind) => kinds.push(kind),
            None => return Err(fault(NAME, value, accepted())),
        }
    }
    Ok(kinds)
}

fn metrics_address(map: &Map<String, Value>) -> Result<Option<SocketAddr>, ConfigError> {
    const NAME: &str = "metrics-address";
    const ACCEPTED: &str = "an IP address and a port from 1 to 65535, such as 127.0.0.1:9547 or [::1]:9547";
    let Some(text) = string(map, NAME, ACCEPTED)? else { return Ok(None) };
    let address = text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
    address.map(Some).ok_or_else(|| fault(NAME, Value::from(text), ACCEPTED))
}

fn prefix(map: &Map<String, Value>) -> Result<String, ConfigError> {
    const ACCEPTED: &str =
        "up to 1024 printable ASCII characters that begin with '/', with no empty part and no '/' at the end";
    let Some(text) = string(map, "prefix", ACCEPTED)? else { return Ok("/nnoe/dhcp".into()) };
    let parts_are_whole = text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(|part| !part.is_empty()));
    if parts_are_whole && text.bytes().all(|byte| byte.is_ascii_graphic()) && text.len() <= 1024 {
        Ok(text.to_owned())
    } else {
        Err(fault("prefix", Value::from(text), ACCEPTED))
    }
}

fn server_name(map: &Map<String, Value>) -> Result<String, ConfigError> {
    const ACCEPTED: &str = "1 to 255 printable ASCII characters without '/' (default: the host's name)";
    let name = match string(map, "server-name", ACCEPTED)? {
        Some(name) => name.to_owned(),
        None => hostname::get()
            .map_err(|error| fault("server-name", format!("none, and no host name either ({error})"), ACCEPTED))?
            .to_string_lossy()
            .into_owned(),
    };
    if (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/') {
        Ok(name)
    } else {
        Err(fault("server-name", Value::from(name), ACCEPTED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn without_parameters_the_documented_defaults_hold() {
        let config = Config::parse("{}").unwrap();
        assert_eq!(config.endpoints, ["http://127.0.0.1:2379"]);
        assert_eq!(config.prefix, "/nnoe/dhcp");
        assert_eq!(config.connect_timeout, Duration::from_secs(2));
        assert_eq!(config.request_timeout, Duration::from_secs(5));
        assert_eq!(config.queue_size, 65_536);
        assert_eq!(config.flush_timeout, Duration::from_secs(3));
        assert!(config.expire_keys && config.index.is_empty() && config.metrics_address.is_none());
        assert_eq!(config.expire_grace, 120);
        assert_eq!(config.resync_interval, Some(Duration::from_secs(3600)));
        assert!(!config.server_name.is_empty());
    }

    #[test]
    fn every_parameter_is_read() {
        let config = Config::parse(
            r#"{"endpoints":["HTTP://10.0.0.1:2379","http://[::1]:2379/"],"prefix":"/a/b","server-name":"s1",
               "connect-timeout":100,"request-timeout":200,"queue-size":3,"flush-timeout":0,"expire-keys":false,
               "expire-grace":0,"resync-interval":0,"index":["duid","hostname"],
               "metrics-address":"[::1]:9547"}"#,
        )
        .unwrap();
        assert_eq!(
            config,
            Config {
                endpoints: vec!["http://10.0.0.1:2379".into(), "http://[::1]:2379".into()],
                credentials: Arc::default(),
                prefix: "/a/b".into(),
                server_name: "s1".into(),
                connect_timeout: Duration::from_millis(100),
                request_timeout: Duration::from_millis(200),
                queue_size: 3,
                expire_keys: false,
                expire_grace: 0,
                resync_interval: None,
                index: vec![Kind::Duid, Kind::Hostname],
                flush_timeout: Duration::ZERO,
                metrics_address: Some("[::1]:9547".parse().unwrap()),
            }
        );
    }

    #[test]
    fn a_bad_parameter_is_named_with_what_was_found_and_what_is_accepted() {
        for (parameters, name, found) in [
            (r#"{"endpoint":[]}"#, "endpoint", "an unknown name"),
            (r#"{"metrics-address":9547}"#, "metrics-address", "9547"),
            (r#"{"metrics-address":"localhost:9547"}"#, "metrics-address", r#""localhost:9547""#),
            (r#"{"metrics-address":"127.0.0.1"}"#, "metrics-address", r#""127.0.0.1""#),
            (r#"{"metrics-address":"127.0.0.1:0"}"#, "metrics-address", r#""127.0.0.1:0""#),
            (r#"{"metrics-address":"127.0.0.1:65536"}"#, "metrics-address", r#""127.0.0.1:65536""#),
            (r#"{"metrics-address":"::1:9547"}"#, "metrics-address", r#""::1:9547""#),
            (r#"{"expire-keys":"yes"}"#, "expire-keys", r#""yes""#),
            (r#"{"expire-grace":-1}"#, "expire-grace", "-1"),
            (r#"{"resync-interval":0.5}"#, "resync-interval", "0.5"),
            (r#"{"index":"duid"}"#, "index", r#""duid""#),
            (r#"{"index":["mac"]}"#, "index", r#""mac""#),
            (r#"{"index":["duid","duid"]}"#, "index", r#""duid""#),
            (r#"{"endpoints":[]}"#, "endpoints", "[]"),
            (r#"{"endpoints":"http://a:1"}"#, "endpoints", r#""http://a:1""#),
            (r#"{"endpoints":[7]}"#, "endpoints", "7"),
            (r#"{"endpoints":["ftp://a:1"]}"#, "endpoints", r#""ftp://a:1""#),
            (
                r#"{"endpoints":["http://a:1","https://b:1"]}"#,
                "endpoints",
                r#"["http://a:1","https://b:1"] (http and https mixed)"#,
            ),
            (r#"{"endpoints":["http://a"]}"#, "endpoints", r#""http://a""#),
            (r#"{"endpoints":["http://a:0"]}"#, "endpoints", r#""http://a:0""#),
            (r#"{"endpoints":["http://u:p@a:1"]}"#, "endpoints", "a URL with '@'"),
            (r#"{"endpoints":["http://a:1/x"]}"#, "endpoints", r#""http://a:1/x""#),
            (r#"{"endpoints":["http://a:1#x"]}"#, "endpoints", r#""http://a:1#x""#),
            (r#"{"endpoints":["a b"]}"#, "endpoints", r#""a b""#),
            (r#"{"prefix":"nnoe"}"#, "prefix", r#""nnoe""#),
            (r#"{"prefix":"/nnoe/"}"#, "prefix", r#""/nnoe/""#),
            (r#"{"prefix":"/a b"}"#, "prefix", r#""/a b""#),
            (r#"{"prefix":5}"#, "prefix", "5"),
            (r#"{"server-name":""}"#, "server-name", r#""""#),
            (r#"{"server-name":"a/b"}"#, "server-name", r#""a/b""#),
            (r#"{"connect-timeout":9}"#, "connect-timeout", "9"),
            (r#"{"request-timeout":"5s"}"#, "request-timeout", r#""5s""#),
            (r#"{"queue-size":0}"#, "queue-size", "0"),
            (r#"{"queue-size":1.5}"#, "queue-size", "1.5"),
            (r#"{"flush-timeout":-1}"#, "flush-timeout", "-1"),
            ("[]", "parameters", "a list"),
        ] {
            let message = Config::parse(parameters).expect_err(parameters).to_string();
            assert!(message.starts_with(&format!("parameter '{name}': found {found}")), "{parameters}: {message}");
            assert!(message.contains("accepted is "), "{message}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(parameters in "\\PC{0,80}") {
            let _ = Config::parse(&parameters);
        }
    }
}
