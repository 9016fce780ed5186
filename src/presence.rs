//! The presence key of a running server, `<prefix>/servers/<server-name>/<dhcp4|dhcp6>`: its JSON. It hangs on the
//! session's etcd lease of 15 seconds, so it vanishes soon after its server. No I/O.

use serde::Serialize;

/// How far the mirror is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing was compared yet.
    #[default]
    Starting,
    /// The lease database is being compared with etcd, or what that found is being written.
    Syncing,
    /// The last comparison's findings are written.
    Synced,
}

/// What the presence key holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Presence {
    /// Of this library.
    pub version: &'static str,
    /// Of Kea.
    pub kea_version: String,
    /// When the library was loaded, seconds since the epoch.
    pub started_at: i64,
    /// How far the mirror is.
    pub state: State,
    /// Leases that somebody holds, and declined ones.
    pub leases: usize,
    /// When the last comparison was done, seconds since the epoch; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synced_at: Option<i64>,
}

impl Presence {
    /// A server that starts.
    #[must_use]
    pub fn new(kea_version: String, started_at: i64) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        Self { version, kea_version, started_at, state: State::Starting, leases: 0, synced_at: None }
    }

    /// The key's value.
    ///
    /// # Panics
    /// Never: every field has a JSON form.
    #[must_use]
    pub fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("presence has a JSON form")
    }
}

/// The presence key of the server `server`; `family` is `dhcp4` or `dhcp6`.
#[must_use]
pub fn key(prefix: &str, server: &str, family: &str) -> String {
    format!("{prefix}/servers/{server}/{family}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presence_is_the_documented_json() {
        let mut presence = Presence::new("2.2.0".into(), 7);
        let version = env!("CARGO_PKG_VERSION");
        let text = |presence: &Presence| String::from_utf8(presence.json()).unwrap();
        assert_eq!(
            text(&presence),
            format!(r#"{{"version":"{version}","kea_version":"2.2.0","started_at":7,"state":"starting","leases":0}}"#)
        );
        (presence.state, presence.leases, presence.synced_at) = (State::Synced, 3, Some(9));
        assert!(text(&presence).ends_with(r#""state":"synced","leases":3,"synced_at":9}"#));
    }
}
