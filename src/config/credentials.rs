//! The parameters by which etcd knows us and we it: TLS, user and password. What they name is read elsewhere, anew for
//! each connection. No I/O.

use std::fmt;
use std::path::{Path, PathBuf};

use rustls::pki_types::ServerName;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::endpoints::{host, is_encrypted, is_loopback};
use super::{ConfigError, boolean, fault, kind, string};

/// How etcd knows us, and we it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The files of TLS; `None` when the endpoints are `http`.
    pub tls: Option<TlsFiles>,
    /// etcd's user. With a client certificate and without this, etcd may take the certificate's name.
    pub user: Option<User>,
}

/// The PEM files of TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// `trust-anchor`: certificates of the authorities that may sign etcd's certificate.
    pub trust_anchor: PathBuf,
    /// `cert-file` and `key-file`: the certificate that we show, and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// A user of etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// Where the password is.
    pub password: Password,
}

/// Where a password is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Password {
    /// In the parameters.
    Given(Secret),
    /// In a file.
    File(PathBuf),
}

/// A text that no log, answer or error shows, and that is wiped from memory when it is dropped. Kea's own copy of the
/// parameters, and that of the client crate in an open connection, are not ours to wipe.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// From now on a secret.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }

    /// The text itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Credentials {
    /// Reads what the parameters say of it; the endpoints are valid ones.
    ///
    /// # Errors
    /// The first parameter that is of a wrong type, that lacks another one, or that does not go with another one.
    pub(super) fn parse(map: &Map<String, Value>, endpoints: &[String]) -> Result<Self, ConfigError> {
        let credentials = Self { tls: tls_files(map, endpoints)?, user: user(map)? };
        let allowed = boolean(map, "allow-plaintext-password", false)?;
        let in_the_open = endpoints.iter().find(|endpoint| !is_encrypted(endpoint) && !is_loopback(endpoint));
        match in_the_open {
            Some(endpoint) if credentials.user.is_some() && !allowed => Err(fault(
                "allow-plaintext-password",
                format!("false, and a password for {endpoint}, which is neither https nor loopback"),
                "true, or https endpoints",
            )),
            _ => Ok(credentials),
        }
    }
}

fn tls_files(map: &Map<String, Value>, endpoints: &[String]) -> Result<Option<TlsFiles>, ConfigError> {
    const ANCHOR: &str = "the path of a PEM file with the certificates of the authorities that etcd's is signed by";
    let trust_anchor = path(map, "trust-anchor", ANCHOR)?;
    let cert_file = path(map, "cert-file", "the path of a PEM file with a certificate")?;
    let key_file = path(map, "key-file", "the path of a PEM file with a private key")?;
    let client = match (cert_file, key_file) {
        (Some(cert_file), Some(key_file)) => Some((cert_file, key_file)),
        (None, None) => None,
        (Some(_), None) => return Err(fault("key-file", "nothing", "the key of the certificate in 'cert-file'")),
        (None, Some(_)) => return Err(fault("cert-file", "nothing", "the certificate of the key in 'key-file'")),
    };
    if !endpoints.iter().all(|endpoint| is_encrypted(endpoint)) {
        let needless = ["trust-anchor", "cert-file"].into_iter().find(|name| map.contains_key(*name));
        return match needless {
            Some(name) => Err(fault(name, &map[name], "nothing with http endpoints, or https ones")),
            None => Ok(None),
        };
    }
    for endpoint in endpoints {
        if ServerName::try_from(host(endpoint)).is_err() {
            return Err(fault("endpoints", endpoint, "with https a host that a certificate can name"));
        }
    }
    let trust_anchor = trust_anchor.ok_or_else(|| fault("trust-anchor", "nothing, and https endpoints", ANCHOR))?;
    Ok(Some(TlsFiles { trust_anchor, client }))
}

fn user(map: &Map<String, Value>) -> Result<Option<User>, ConfigError> {
    const USER: &str = "the name of a user of etcd";
    const PASSWORD: &str = "the password of 'user', not empty";
    let password = match map.get("password") {
        None => None,
        Some(Value::String(text)) if !text.is_empty() => Some(Secret::new(text)),
        Some(Value::String(_)) => return Err(fault("password", "an empty string", PASSWORD)),
        Some(other) => return Err(fault("password", kind(other), PASSWORD)),
    };
    let file = path(map, "password-file", "the path of a file with the password of 'user'")?;
    let password = match (password, file) {
        (Some(_), Some(_)) => return Err(fault("password-file", "'password' as well", "one of the two")),
        (Some(password), None) => Some(Password::Given(password)),
        (None, file) => file.map(Password::File),
    };
    match (string(map, "user", USER)?, password) {
        (None, None) => Ok(None),
        (Some(""), _) => Err(fault("user", "\"\"", USER)),
        (Some(name), Some(password)) => Ok(Some(User { name: name.to_owned(), password })),
        (Some(_), None) => Err(fault("password", "nothing, and 'user'", "it, or 'password-file', with 'user'")),
        (None, Some(_)) => Err(fault("user", "nothing, and a password", USER)),
    }
}

fn path(map: &Map<String, Value>, name: &str, accepted: &str) -> Result<Option<PathBuf>, ConfigError> {
    match string(map, name, accepted)? {
        Some("") => Err(fault(name, "\"\"", accepted)),
        text => Ok(text.map(|text| Path::new(text).to_path_buf())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const WORD: &str = "pass-phrase-7";

    fn parse(parameters: &str) -> Result<Credentials, String> {
        let config = Config::parse(parameters).map_err(|error| error.to_string());
        config.map(|config| (*config.credentials).clone())
    }

    #[test]
    fn without_parameters_there_is_neither_tls_nor_a_user() {
        assert_eq!(parse("{}"), Ok(Credentials { tls: None, user: None }));
    }

    #[test]
    fn all_of_it_is_read() {
        let credentials = parse(
            r#"{"endpoints":["https://etcd.example:2379","https://[2001:db8::1]:2379"],"trust-anchor":"/ca.pem",
               "cert-file":"/c.pem","key-file":"/k.pem","user":"dhcp","password":"pass-phrase-7"}"#,
        );
        let client = Some(("/c.pem".into(), "/k.pem".into()));
        let user = User { name: "dhcp".into(), password: Password::Given(Secret::new(WORD)) };
        let tls = Some(TlsFiles { trust_anchor: "/ca.pem".into(), client });
        assert_eq!(credentials, Ok(Credentials { tls, user: Some(user) }));
        let credentials = parse(r#"{"user":"dhcp","password-file":"/p"}"#).unwrap();
        assert_eq!(credentials.user.unwrap().password, Password::File("/p".into()));
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        for (parameters, line) in [
            (r#"{"endpoints":["https://a:1"]}"#, "'trust-anchor': found nothing, and https endpoints"),
            (r#"{"trust-anchor":"/ca"}"#, r#"'trust-anchor': found "/ca", accepted is nothing with http endpoints"#),
            (r#"{"cert-file":"/c","key-file":"/k"}"#, r#"'cert-file': found "/c", accepted is nothing with http"#),
            (r#"{"endpoints":["https://a:1"],"trust-anchor":"/ca","cert-file":"/c"}"#, "'key-file': found nothing"),
            (r#"{"endpoints":["https://a:1"],"trust-anchor":"/ca","key-file":"/k"}"#, "'cert-file': found nothing"),
            (r#"{"endpoints":["https://a:1"],"trust-anchor":""}"#, r#"'trust-anchor': found "", accepted is the path"#),
            (r#"{"endpoints":["https://a:1"],"trust-anchor":7}"#, "'trust-anchor': found 7, accepted is the path"),
            (r#"{"endpoints":["https://-:1"],"trust-anchor":"/ca"}"#, "'endpoints': found https://-:1, accepted is"),
            (r#"{"user":"dhcp"}"#, "'password': found nothing, and 'user'"),
            (r#"{"user":"","password":"pass-phrase-7"}"#, r#"'user': found "", accepted is the name"#),
            (r#"{"password":"pass-phrase-7"}"#, "'user': found nothing, and a password"),
            (r#"{"password-file":"/p"}"#, "'user': found nothing, and a password"),
            (r#"{"user":"dhcp","password":""}"#, "'password': found an empty string"),
            (r#"{"user":"dhcp","password":["pass-phrase-7"]}"#, "'password': found a list"),
            (
                r#"{"user":"dhcp","password":"pass-phrase-7","password-file":"/p"}"#,
                "'password-file': found 'password' as well",
            ),
            (r#"{"allow-plaintext-password":"yes"}"#, r#"'allow-plaintext-password': found "yes""#),
            (r#"[{"password":"pass-phrase-7"}]"#, "'parameters': found a list"),
            (r#"{"endpoints":["http://dhcp:pass-phrase-7@a:1"]}"#, "'endpoints': found a URL with '@'"),
        ] {
            let message = parse(parameters).expect_err(parameters);
            assert!(message.starts_with(&format!("parameter {line}")), "{parameters}: {message}");
            assert!(message.contains(", accepted is "), "{message}");
            assert!(!message.contains(WORD), "{message}");
        }
    }

    #[test]
    fn a_password_in_the_open_has_to_be_allowed() {
        let with = |endpoint: &str, more: &str| {
            parse(&format!(r#"{{"endpoints":["{endpoint}"],"user":"dhcp","password":"{WORD}"{more}}}"#))
        };
        for endpoint in ["http://127.0.0.1:1", "http://127.9.9.9:1", "http://[::1]:1", "http://localhost:1"] {
            assert!(with(endpoint, "").is_ok(), "{endpoint}");
        }
        for endpoint in ["http://192.0.2.1:1", "http://[2001:db8::1]:1", "http://etcd:1", "http://localhost.example:1"]
        {
            let message = with(endpoint, "").expect_err(endpoint);
            let line = format!("parameter 'allow-plaintext-password': found false, and a password for {endpoint}");
            assert!(message.starts_with(&line), "{message}");
            assert!(with(endpoint, r#","allow-plaintext-password":true"#).is_ok(), "{endpoint}");
        }
        assert!(with("https://192.0.2.1:1", r#","trust-anchor":"/ca""#).is_ok());
        assert!(
            parse(r#"{"endpoints":["http://192.0.2.1:1"]}"#).is_ok(),
            "without a password there is none to be read"
        );
    }

    #[test]
    fn nothing_that_is_printed_shows_a_password() {
        let config = Config::parse(&format!(r#"{{"user":"dhcp","password":"{WORD}"}}"#)).unwrap();
        let printed = format!("{config:?}");
        assert!(printed.contains("dhcp") && !printed.contains(WORD), "{printed}");
    }
}
