//! One request to one etcd member: a guarded transaction or a probe, and what its failure means.
//!
//! The client crate neither fails over nor bounds every wait, so each member has a client of its own and each call an
//! outer deadline.

use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, ConnectOptions, Error, GetOptions, KvClient, Txn, TxnOp, TxnOpResponse};
use tokio::time::timeout;

use crate::guard::Found;
use crate::lease::Row;
use crate::pending::Batch;
use crate::record::{self, LeaseKeys, Summary};

/// Why a request failed, by what to do about it. The text is etcd's.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// No answer, or one that another attempt or member may better. Whether it was applied is unknown.
    NoAnswer(String),
    /// The database is full (alarm NOSPACE). Writes are refused until an operator makes room.
    NoSpace(String),
    /// The user may not write or read the keys.
    Denied(String),
    /// This very request will never be taken.
    Refused(String),
}

/// gRPC status codes (<https://grpc.github.io/grpc/core/md_doc_statuscodes.html>) that etcd uses for more than one thing.
const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const OUT_OF_RANGE: i32 = 11;

impl Failure {
    fn of(error: &Error) -> Self {
        let Error::GRpcStatus(status) = error else { return Self::NoAnswer(error.to_string()) };
        Self::of_status(status.code() as i32, status.message())
    }

    /// The texts are those of etcd's `api/v3rpc/rpctypes/error.go` and of grpc-go.
    fn of_status(code: i32, message: &str) -> Self {
        let says = |part: &str| message.contains(part);
        let text = message.to_owned();
        match code {
            PERMISSION_DENIED => Self::Denied(text),
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
            // Ours, not etcd's: what the keys hold is more than the client takes at once, so fewer are to be asked for.
            OUT_OF_RANGE if says("length too large") => Self::Refused(text),
            NOT_FOUND => Self::Refused(text),
            _ => Self::NoAnswer(text),
        }
    }
}

/// What an answered request did.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Every operation was applied, at this revision.
    Landed {
        /// The revision.
        revision: i64,
    },
    /// Nothing was applied since a condition failed; what each key holds, in the order of the batch.
    Conflict(Vec<Option<Found>>),
    /// The member answers.
    Alive,
}

/// What to ask.
#[derive(Debug)]
pub enum Request {
    /// A batch as a guarded transaction, with its keys.
    Write(Txn, Vec<String>),
    /// Whether the member answers: a local read of one key below this one.
    Probe(String),
}

impl Request {
    /// The transaction that writes `batch` if each key still has its expected revision, and else reads every key.
    #[must_use]
    pub fn write(batch: &Batch, keys: &LeaseKeys, server: &str) -> Self {
        let operations = batch.operations();
        let keys: Vec<String> = operations.iter().map(|operation| keys.of(operation.address)).collect();
        let (mut conditions, mut writes, mut reads) = (Vec::new(), Vec::new(), Vec::new());
        for (operation, key) in operations.iter().zip(&keys) {
            let key = key.as_str();
            conditions.push(Compare::mod_revision(key, CompareOp::Equal, operation.revision));
            writes.push(match &operation.change.row {
                Row::Held { lease, operation: by, relay } => {
                    TxnOp::put(key, record::to_json(lease, *by, *relay, operation.change.timestamp, server), None)
                }
                Row::Gone { .. } => TxnOp::delete(key, None),
            });
            reads.push(TxnOp::get(key, None));
        }
        Self::Write(Txn::new().when(conditions).and_then(writes).or_else(reads), keys)
    }

    /// Sends the request over `client`, or over a new client of `endpoint`. Returns within the sum of both time-outs.
    ///
    /// # Errors
    /// [`Failure`]; then the client should not be used again.
    pub async fn send(
        self,
        client: Option<KvClient>,
        endpoint: &str,
        connect_timeout: Duration,
        request_timeout: Duration,
    ) -> Result<(KvClient, Answer), Failure> {
        let whole = if client.is_some() { request_timeout } else { connect_timeout + request_timeout };
        let exchange = async {
            let mut client = match client {
                Some(client) => client,
                None => connect(endpoint, connect_timeout).await?,
            };
            let answer = self.ask(&mut client).await?;
            Ok((client, answer))
        };
        match timeout(whole, exchange).await {
            Ok(result) => result.map_err(|error| Failure::of(&error)),
            Err(_) => Err(Failure::NoAnswer(format!("no answer within {} ms", whole.as_millis()))),
        }
    }

    async fn ask(self, client: &mut KvClient) -> Result<Answer, Error> {
        match self {
            Self::Write(txn, keys) => {
                let response = client.txn(txn).await?;
                if response.succeeded() {
                    let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
                    return Ok(Answer::Landed { revision });
                }
                let mut reads = response.op_responses().into_iter();
                // One read a key, in order (etcd api/etcdserverpb/rpc.proto, TxnResponse.responses).
                let found = keys.iter().map(|_| reads.next().as_ref().and_then(found)).collect();
                Ok(Answer::Conflict(found))
            }
            Self::Probe(base) => {
                let one = GetOptions::new().with_prefix().with_limit(1).with_keys_only().with_serializable();
                client.get(base, Some(one)).await?;
                Ok(Answer::Alive)
            }
        }
    }
}

fn found(response: &TxnOpResponse) -> Option<Found> {
    let TxnOpResponse::Get(read) = response else { return None };
    let pair = read.kvs().first()?;
    Some(Found { revision: pair.mod_revision(), record: Summary::parse(pair.value()) })
}

async fn connect(endpoint: &str, connect_timeout: Duration) -> Result<KvClient, Error> {
    // etcd closes connections that ping more often than every 5 s, or while idle (embed.DefaultGRPCKeepAliveMinTime).
    let options = ConnectOptions::new()
        .with_connect_timeout(connect_timeout)
        .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5))
        .with_keep_alive_while_idle(false)
        .with_require_leader(true);
    Ok(Client::connect([endpoint], Some(options)).await?.kv_client())
}

#[cfg(test)]
mod tests {
    use super::*;

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
            (3, "etcdserver: authentication failed, invalid user ID or password", Failure::NoAnswer),
            (5, "etcdserver: requested lease not found", Failure::Refused),
            (11, "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes", Failure::Refused),
            (14, "etcdserver: no leader", Failure::NoAnswer),
            (1, "Timeout expired", Failure::NoAnswer),
        ] {
            assert_eq!(Failure::of_status(code, message), expected(text(message)));
        }
    }
}
