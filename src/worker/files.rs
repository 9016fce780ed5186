//! Looks, once a tick, whether the files of TLS and authentication changed. Each connection reads them anew anyway; this
//! is for the one that stands, and for not waiting out a pause once an operator mended something.

use tracing::{info, warn};

use super::mirroring::{Ending, Mirroring};
use crate::config::credentials::Credentials;
use crate::credential_files::{self, Stamp};
use crate::messages;

/// How the files looked.
pub(super) struct Files {
    /// When they were last acted upon: any connection has read them no earlier.
    used: (Vec<Stamp>, Stamp),
    /// At the last tick.
    seen: (Vec<Stamp>, Stamp),
}

impl Files {
    /// As they are before the first connection.
    pub(super) fn new(credentials: &Credentials) -> Self {
        let used = credential_files::stamps(credentials);
        Self { seen: used.clone(), used }
    }
}

impl Mirroring<'_> {
    /// Makes a new connection when files of TLS changed and can be used; while they cannot, the one that stands goes on.
    /// A changed password needs none: the token holds until etcd has another password too.
    pub(super) fn look_at_files(&mut self) {
        if self.ending != Ending::No {
            return;
        }
        let credentials = &self.config().credentials;
        let now = credential_files::stamps(credentials);
        if now == self.files.used || now != std::mem::replace(&mut self.files.seen, now.clone()) {
            // Two files are not replaced at once: they are acted upon when they kept still for a tick.
            return;
        }
        let tls_changed = now.0 != self.files.used.0;
        self.files.used = now;
        if !self.link.is_up() {
            self.link.renew();
            self.link.retry();
            return;
        }
        if let Err(error) = credential_files::usable(credentials) {
            self.last_error = Some((error.to_string(), crate::lease::now()));
            warn!(target: messages::BAD_FILE, "{error}; the connection that stands goes on");
        } else if tls_changed {
            info!(target: messages::FILES_CHANGED, "files of TLS changed, a new connection is made");
            self.link.renew();
            self.disconnected();
        }
    }
}
