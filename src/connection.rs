//! Connects to one etcd member: TLS, and authentication. What files hold is read anew for each connection.
//!
//! TLS is rustls', version 1.2 or 1.3, with every check of the member's certificate: who signed it, its time, its name.

use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Error, Identity, KvClient, LeaseClient, TlsOptions, WatchClient};

use crate::config::credentials::{Credentials, User};
use crate::config::endpoints::host;
use crate::credential_files::{self, Tls};
use crate::failure::Failure;

/// Bytes that an answer may have: many times a page of records, and more than any value that etcd takes by default.
const LARGEST_ANSWER: usize = 16 * 1024 * 1024;

/// The connection to one member.
#[derive(Clone)]
pub struct Member {
    pub(crate) kv: KvClient,
    pub(crate) lease: LeaseClient,
    pub(crate) watch: WatchClient,
}

impl Member {
    /// Connects, with a token if there is a user; without one nothing is sent yet. How long that may take is the caller's
    /// to say.
    ///
    /// # Errors
    /// [`Failure::File`] before anything is sent, and any other one of authentication.
    pub(crate) async fn connect(
        endpoint: &str,
        credentials: &Credentials,
        connect_timeout: Duration,
    ) -> Result<Self, Failure> {
        let unusable = |error: crate::config::ConfigError| Failure::File(error.to_string());
        let options = options(endpoint, credentials, connect_timeout).map_err(unusable)?;
        let client = match &credentials.user {
            None => Client::connect([endpoint], Some(options)).await,
            Some(User { name, password }) => {
                let password = credential_files::read_password(password).map_err(unusable)?;
                let with_user = options.clone().with_user(name, password.reveal());
                match Client::connect([endpoint], Some(with_user)).await {
                    // Authentication may be switched on later, which ends the connection then (as in etcd's own client,
                    // client/v3/client.go, getToken).
                    Err(Error::GRpcStatus(status)) if status.message().contains("authentication is not enabled") => {
                        Client::connect([endpoint], Some(options)).await
                    }
                    result => result,
                }
            }
        };
        let client = client.map_err(|error| Failure::of(&error))?;
        Ok(Self {
            kv: client.kv_client().max_decoding_message_size(LARGEST_ANSWER),
            lease: client.lease_client(),
            watch: client.watch_client().max_decoding_message_size(LARGEST_ANSWER),
        })
    }
}

fn options(
    endpoint: &str,
    credentials: &Credentials,
    connect_timeout: Duration,
) -> Result<ConnectOptions, crate::config::ConfigError> {
    // etcd closes connections that ping more often than every 5 s, or while idle (embed.DefaultGRPCKeepAliveMinTime).
    let options = ConnectOptions::new()
        .with_connect_timeout(connect_timeout)
        .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5))
        .with_keep_alive_while_idle(false)
        .with_require_leader(true)
        // A token that only ran out is replaced without an end of the session. What the client does not recognise as
        // such ends the connection.
        .with_auto_token_refresh(true);
    let Some(files) = &credentials.tls else { return Ok(options) };
    let Tls { trust_anchors, client } = credential_files::read_tls(files)?;
    // The client would take the brackets of an IPv6 address for a part of the name.
    let mut tls = TlsOptions::new().domain_name(host(endpoint)).trust_anchors(trust_anchors).timeout(connect_timeout);
    if let Some((certificates, key)) = client {
        tls = tls.identity(Identity::from_pem(certificates, key));
    }
    Ok(options.with_tls(tls))
}
