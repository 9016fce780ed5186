//! Why a request failed, by what to do about it. No I/O.

use std::io;

use etcd_client::Error;

use crate::config::credentials::Credentials;

/// Why a request failed, by what to do about it. The text is etcd's, or that of TLS.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// No answer, or one that another attempt or member may better. Whether it was applied is unknown.
    NoAnswer(String),
    /// One side does not take the other's certificate.
    Tls(String),
    /// A file of the parameters cannot be used; nothing was sent.
    File(String),
    /// etcd does not take the token of this connection any more; a new connection gets another one. Nothing was applied.
    TokenEnded(String),
    /// etcd does not take user and password, or wants some. Nothing was applied.
    NotAuthenticated(String),
    /// The database is full (alarm NOSPACE). Writes are refused until an operator makes room.
    NoSpace(String),
    /// The user may not write or read the keys.
    Denied(String),
    /// This very request will never be taken.
    Refused(String),
    /// An etcd lease that records were to hang on does not exist any more.
    LeaseGone(String),
    /// The revision asked for cannot be read any more.
    Compacted(String),
    /// The member that was asked alone does not have the revision yet.
    Behind(String),
}

/// gRPC status codes (<https://grpc.github.io/grpc/core/md_doc_statuscodes.html>) that etcd uses for more than one thing.
const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
/// Also what etcd means by a lease that exists already.
pub const FAILED_PRECONDITION: i32 = 9;
/// Also what etcd means by a compacted revision.
pub const OUT_OF_RANGE: i32 = 11;
const UNAUTHENTICATED: i32 = 16;

/// What etcd says to a request without a token, once it has authentication.
const NO_USER: &str = "user name is empty";

impl Failure {
    /// What an error of the client means.
    #[must_use]
    pub fn of(error: &Error) -> Self {
        let Error::GRpcStatus(status) = error else { return Self::NoAnswer(error.to_string()) };
        match tls_error(status) {
            Some(error) => Self::Tls(error.to_string()),
            None => Self::of_status(status.code() as i32, status.message()),
        }
    }

    /// The texts are those of etcd's `api/v3rpc/rpctypes/error.go` and of grpc-go.
    fn of_status(code: i32, message: &str) -> Self {
        let says = |part: &str| message.contains(part);
        let text = message.to_owned();
        match code {
            PERMISSION_DENIED => Self::Denied(text),
            UNAUTHENTICATED => Self::TokenEnded(text),
            _ if says("tls handshake eof") => Self::Tls("it closed the connection instead of a TLS handshake".into()),
            INVALID_ARGUMENT if says("revision of auth store is old") || says(NO_USER) => Self::TokenEnded(text),
            INVALID_ARGUMENT if says("authentication failed") => Self::NotAuthenticated(text),
            RESOURCE_EXHAUSTED if says("database space exceeded") => Self::NoSpace(text),
            RESOURCE_EXHAUSTED if says("larger than max") => Self::Refused(text),
            INVALID_ARGUMENT
                if says("request is too large")
                    || says("too many operations")
                    || says("duplicate key")
                    || says("key is not provided") =>
            {
                Self::Refused(text)
            }
            // A proxy of etcd gives no code for these.
            _ if says("required revision has been compacted") => Self::Compacted(text),
            _ if says("required revision is a future revision") => Self::Behind(text),
            // Ours, not etcd's: what the keys hold is more than the client takes at once, so fewer are to be asked for.
            OUT_OF_RANGE if says("length too large") => Self::Refused(text),
            OUT_OF_RANGE if says("too large lease TTL") => Self::Refused(text),
            NOT_FOUND if says("lease not found") => Self::LeaseGone(text),
            NOT_FOUND => Self::Refused(text),
            _ => Self::NoAnswer(text),
        }
    }

    /// The same in the light of the parameters: names those that matter. `fresh` is for the first request of a connection:
    /// its token cannot have ended, so another one would be no better.
    #[must_use]
    pub fn with(self, credentials: &Credentials, endpoint: &str, fresh: bool) -> Self {
        let user = credentials.user.as_ref().map(|user| user.name.as_str());
        match self {
            Self::Tls(reason) => Self::Tls(format!("{endpoint}: {reason} ({})", tls_parameters(credentials))),
            // With TLS 1.3 a server looks at the client's certificate when the handshake is over for the client, and what it
            // says then is lost in the client crate.
            Self::NoAnswer(reason)
                if fresh && credentials.tls.is_some() && reason.contains("operation was canceled") =>
            {
                let reason = "it closed the connection after the TLS handshake, as for a client certificate that it does not take or misses";
                Self::Tls(format!("{endpoint}: {reason} ({})", tls_parameters(credentials)))
            }
            Self::TokenEnded(reason) | Self::NotAuthenticated(reason) if user.is_none() => {
                Self::NotAuthenticated(format!("{reason} (there is no parameter 'user')"))
            }
            // The connection may have been made with a password that is another one by now.
            Self::TokenEnded(reason) | Self::NotAuthenticated(reason) if !fresh => Self::TokenEnded(reason),
            Self::TokenEnded(reason) | Self::NotAuthenticated(reason) => {
                Self::NotAuthenticated(format!("{reason} (user {})", user.unwrap_or_default()))
            }
            Self::Denied(reason) => match user {
                Some(user) => Self::Denied(format!("{reason} (user {user})")),
                None => Self::Denied(reason),
            },
            other => other,
        }
    }
}

/// The error of TLS below another one, if there is one.
fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut source = error.source();
    while let Some(error) = source {
        // An I/O error is no source of what it wraps.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let found = wrapped.and_then(|wrapped| wrapped.downcast_ref()).or_else(|| error.downcast_ref());
        if found.is_some() {
            return found;
        }
        source = error.source();
    }
    None
}

/// The parameters of TLS with their files.
fn tls_parameters(credentials: &Credentials) -> String {
    let Some(tls) = &credentials.tls else { return "the endpoints are http".into() };
    let anchor = format!("trust-anchor {}", tls.trust_anchor.display());
    match &tls.client {
        Some((cert_file, _)) => format!("{anchor}, cert-file {}", cert_file.display()),
        None => format!("{anchor}, no cert-file"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn failures_are_told_apart_by_what_helps() {
        let text = |message: &str| message.to_owned();
        for (code, message, expected) in [
            (7, "etcdserver: permission denied", Failure::Denied as fn(String) -> Failure),
            (8, "etcdserver: mvcc: database space exceeded", Failure::NoSpace),
            (8, "etcdserver: too many requests", Failure::NoAnswer),
            (8, "grpc: received message larger than max (2 vs. 1)", Failure::Refused),
            (3, "etcdserver: request is too large", Failure::Refused),
            (3, "etcdserver: duplicate key given in txn request", Failure::Refused),
            (3, "etcdserver: authentication failed, invalid user ID or password", Failure::NotAuthenticated),
            (3, "etcdserver: revision of auth store is old", Failure::TokenEnded),
            (3, "etcdserver: user name is empty", Failure::TokenEnded),
            (16, "etcdserver: invalid auth token", Failure::TokenEnded),
            (5, "etcdserver: requested lease not found", Failure::LeaseGone),
            (11, "etcdserver: mvcc: required revision has been compacted", Failure::Compacted),
            (11, "etcdserver: mvcc: required revision is a future revision", Failure::Behind),
            (11, "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes", Failure::Refused),
            (14, "etcdserver: no leader", Failure::NoAnswer),
            (1, "Timeout expired", Failure::NoAnswer),
        ] {
            assert_eq!(Failure::of_status(code, message), expected(text(message)));
        }
    }

    #[test]
    fn a_new_token_helps_a_user_and_only_when_the_old_one_worked() {
        let nobody = Credentials::default();
        let user = Config::parse(r#"{"user":"dhcp","password":"pass-phrase-7"}"#).unwrap().credentials;
        let ended = || Failure::TokenEnded("x".into());
        let refused = |text: &str| Failure::NotAuthenticated(text.into());
        assert_eq!(ended().with(&user, "", false), ended());
        assert_eq!(refused("x").with(&user, "", false), ended());
        assert_eq!(ended().with(&user, "", true), refused("x (user dhcp)"));
        assert_eq!(ended().with(&nobody, "", false), refused("x (there is no parameter 'user')"));
    }
}
