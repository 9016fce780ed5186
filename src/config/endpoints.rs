//! The parameter `endpoints`, and what a URL in it tells. No I/O.

use std::net::IpAddr;

use http::uri::{Authority, Uri};
use serde_json::{Map, Value};

use super::{ConfigError, fault};

/// Reads the parameter.
pub(super) fn parse(map: &Map<String, Value>) -> Result<Vec<String>, ConfigError> {
    const NAME: &str = "endpoints";
    const ACCEPTED: &str = "a list of at least one URL, each http://host:port or each https://host:port";
    let Some(value) = map.get(NAME) else { return Ok(vec!["http://127.0.0.1:2379".into()]) };
    let list = value.as_array().filter(|list| !list.is_empty()).ok_or_else(|| fault(NAME, value, ACCEPTED))?;
    let endpoints: Vec<String> = list
        .iter()
        .map(|value| {
            let text = value.as_str().ok_or_else(|| fault(NAME, value, ACCEPTED))?;
            if text.contains('@') {
                // Not the text itself: a password may stand before the sign.
                return Err(fault(NAME, "a URL with '@' (a user has a parameter of its own)", ACCEPTED));
            }
            let uri: Uri = text.parse().map_err(|error| fault(NAME, format!("{value} ({error})"), ACCEPTED))?;
            // The parser leaves out what follows a '#', and the client knows the scheme in small letters only.
            let scheme = uri.scheme_str().filter(|scheme| ["http", "https"].contains(scheme));
            let plain = uri.path_and_query().is_none_or(|rest| rest.as_str() == "/") && !text.contains('#');
            let whole = |of: &&Authority| plain && !of.host().is_empty() && of.port_u16().is_some_and(|port| port != 0);
            match (scheme, uri.authority().filter(whole)) {
                (Some(scheme), Some(authority)) => Ok(format!("{scheme}://{authority}")),
                _ => Err(fault(NAME, value, ACCEPTED)),
            }
        })
        .collect::<Result<_, _>>()?;
    let encrypted = endpoints.iter().filter(|endpoint| is_encrypted(endpoint)).count();
    if encrypted == 0 || encrypted == endpoints.len() {
        Ok(endpoints)
    } else {
        Err(fault(NAME, format!("{value} (http and https mixed)"), ACCEPTED))
    }
}

/// Whether an endpoint is spoken to over TLS.
pub(super) fn is_encrypted(endpoint: &str) -> bool {
    endpoint.starts_with("https:")
}

/// The host of an endpoint, without the brackets of an IPv6 address.
#[must_use]
pub fn host(endpoint: &str) -> String {
    let uri: Option<Uri> = endpoint.parse().ok();
    let host = uri.as_ref().and_then(Uri::host).unwrap_or_default();
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

/// Whether an endpoint is on this very host.
pub(super) fn is_loopback(endpoint: &str) -> bool {
    let host = host(endpoint);
    let is_loopback = |address: IpAddr| address.to_canonical().is_loopback();
    // RFC 6761 section 6.3.
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_loopback)
}
