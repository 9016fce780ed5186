//! One request to one etcd member, and what its failure means.
//!
//! The client crate neither fails over nor bounds every wait, so each member has a client of its own and each call an
//! outer deadline.

use std::net::IpAddr;
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, Error, Event, EventType, GetOptions, GetResponse, KeyValue, KvClient,
    LeaseClient, LeaseGrantOptions, PutOptions, Txn, TxnOp, TxnOpResponse, WatchClient, WatchOptions, WatchResponse,
};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::guard::{Found, FoundKey};
use crate::lease::Row;
use crate::leftovers::Before;
use crate::lifetime::Window;
use crate::pending::Batch;
use crate::record::{self, Summary};
use crate::writer::{Action, Writer};

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
    /// An etcd lease that records were to hang on does not exist any more.
    LeaseGone(String),
    /// The revision asked for cannot be read any more.
    Compacted(String),
}

/// gRPC status codes (<https://grpc.github.io/grpc/core/md_doc_statuscodes.html>) that etcd uses for more than one thing.
const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;

/// Bytes that an answer may have: many times a page of records, and more than any value that etcd takes by default.
const LARGEST_ANSWER: usize = 16 * 1024 * 1024;

/// Seconds that a session outlives its server: the presence key's etcd lease.
pub const SESSION_TTL: i64 = 15;

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
            OUT_OF_RANGE if says("has been compacted") || says("future revision") => Self::Compacted(text),
            // Ours, not etcd's: what the keys hold is more than the client takes at once, so fewer are to be asked for.
            OUT_OF_RANGE if says("length too large") => Self::Refused(text),
            OUT_OF_RANGE if says("too large lease TTL") => Self::Refused(text),
            NOT_FOUND if says("lease not found") => Self::LeaseGone(text),
            NOT_FOUND => Self::Refused(text),
            _ => Self::NoAnswer(text),
        }
    }
}

/// The connection to one member.
#[derive(Clone)]
pub struct Member {
    kv: KvClient,
    lease: LeaseClient,
    watch: WatchClient,
}

impl Member {
    async fn connect(endpoint: &str, connect_timeout: Duration) -> Result<Self, Error> {
        // etcd closes connections that ping more often than every 5 s, or while idle (embed.DefaultGRPCKeepAliveMinTime).
        let options = ConnectOptions::new()
            .with_connect_timeout(connect_timeout)
            .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5))
            .with_keep_alive_while_idle(false)
            .with_require_leader(true);
        let client = Client::connect([endpoint], Some(options)).await?;
        Ok(Self {
            kv: client.kv_client().max_decoding_message_size(LARGEST_ANSWER),
            lease: client.lease_client(),
            watch: client.watch_client().max_decoding_message_size(LARGEST_ANSWER),
        })
    }
}

/// What an answered request did.
#[derive(Debug)]
pub enum Answer {
    /// A session began.
    Opened(Opened),
    /// The session lives on, or (false) its etcd lease is gone.
    KeptAlive(bool),
    /// Every operation was applied, at this revision.
    Landed {
        /// The revision.
        revision: i64,
    },
    /// Nothing was applied: it was only asked, or a condition failed.
    Seen {
        /// What each key holds that was read, in the order of the batch.
        found: Vec<Found>,
        /// The etcd lease that the presence key hangs on; 0 for none.
        session: i64,
    },
    /// A page of keys.
    Page(Page),
    /// The session is over.
    Closed,
}

/// A session that began.
#[derive(Debug)]
pub struct Opened {
    /// Its etcd lease.
    pub lease: i64,
    /// The revision of the transaction that began it.
    pub revision: i64,
    /// The `mod_revision` of each landmark; 0 when it does not exist.
    pub landmarks: Vec<i64>,
    /// The etcd lease that the presence key hung on before; 0 for none.
    pub before: i64,
}

/// A page of keys, read at one revision.
#[derive(Debug)]
pub struct Page {
    /// Keys with what they hold, in the order of the keys.
    pub pairs: Vec<KeyValue>,
    /// Whether there are more.
    pub more: bool,
    /// Keys in the whole range.
    pub count: usize,
    /// The revision that the whole range is read at.
    pub revision: i64,
}

/// What to ask.
#[derive(Debug)]
pub enum Request {
    /// Begins a session: its etcd lease, and the presence key on it. Reads the landmarks on the way.
    Open {
        /// The presence key.
        presence: String,
        /// What it is to hold.
        value: Vec<u8>,
        /// The id of the etcd lease.
        lease: i64,
        /// Keys that we wrote.
        landmarks: Vec<String>,
    },
    /// Writes the presence key anew.
    Present {
        /// The presence key.
        presence: String,
        /// What it is to hold.
        value: Vec<u8>,
        /// The session's etcd lease.
        session: i64,
    },
    /// Keeps a session's etcd lease.
    KeepAlive(i64),
    /// Ends a session: its etcd lease, and with it the presence key.
    Close(i64),
    /// A batch as a guarded transaction. The etcd leases of the windows are granted before.
    Write(Txn, Vec<(Window, i64)>),
    /// What keys hold.
    Look(Txn),
    /// A page of a range.
    Range {
        /// The first key.
        from: Vec<u8>,
        /// The key after the last.
        to: Vec<u8>,
        /// The revision to read at; 0 for the newest.
        revision: i64,
        /// Keys at most.
        limit: i64,
        /// Whether the values are left out.
        keys_only: bool,
    },
}

impl Request {
    /// The transaction that writes `batch` if the session lives and each key still has its expected revision, and else
    /// reads the keys of [`Batch::read`]. `granted` tells whether the etcd lease of a window is known to exist.
    #[must_use]
    pub fn write(
        batch: &Batch,
        writer: &Writer,
        presence: &str,
        session: i64,
        granted: impl Fn(Window) -> bool,
        now: i64,
    ) -> Self {
        let reads = Self::reads(batch.read(), writer, presence);
        let mut conditions = vec![Compare::lease(presence, CompareOp::Equal, session)];
        let (mut operations, mut windows) = (Vec::new(), Vec::new());
        for operation in batch.operations() {
            let Some(write) = &operation.write else { continue };
            let key = writer.keys.of(operation.address);
            conditions.push(Compare::mod_revision(key.as_str(), CompareOp::Equal, write.revision));
            let etcd_lease = write.window().map_or(0, |window| window.id);
            let on_lease = || PutOptions::new().with_lease(etcd_lease);
            match (write.action, &operation.change.row) {
                (Action::Put(_), Row::Held { lease, relay }) => {
                    let change = &operation.change;
                    let value = record::to_json(lease, change.operation, *relay, change.timestamp, &writer.server);
                    operations.push(TxnOp::put(key, value, Some(on_lease())));
                }
                (Action::Move(_), _) => operations.push(TxnOp::put(key, "", Some(on_lease().with_ignore_value()))),
                (Action::Remove | Action::Put(_), _) => operations.push(TxnOp::delete(key, None)),
                (Action::Keep | Action::Tidy, _) => {}
            }
            for key in &write.index {
                operations.push(TxnOp::put(key.as_str(), "", Some(on_lease())));
            }
            for key in &write.outdated {
                operations.push(TxnOp::delete(key.as_str(), None));
            }
            windows.extend(write.window().filter(|window| !granted(*window)).map(|window| (window, window.end - now)));
        }
        windows.sort_unstable_by_key(|(window, _)| window.id);
        windows.dedup();
        Self::Write(Txn::new().when(conditions).and_then(operations).or_else(reads), windows)
    }

    /// Reads the keys of addresses.
    #[must_use]
    pub fn look(addresses: impl Iterator<Item = IpAddr>, writer: &Writer, presence: &str) -> Self {
        Self::Look(Txn::new().and_then(Self::reads(addresses, writer, presence)))
    }

    /// Removes index keys that belong to no record, if each still has the revision told: a lease that takes one of them
    /// up again writes it anew.
    #[must_use]
    pub fn tidy(orphans: &[(Vec<u8>, i64)], presence: &str, session: i64) -> Self {
        let mut conditions = vec![Compare::lease(presence, CompareOp::Equal, session)];
        let mut deletes = Vec::new();
        for (key, revision) in orphans {
            conditions.push(Compare::mod_revision(key.as_slice(), CompareOp::Equal, *revision));
            deletes.push(TxnOp::delete(key.as_slice(), None));
        }
        Self::Write(Txn::new().when(conditions).and_then(deletes), Vec::new())
    }

    /// The presence key, then each key of the addresses.
    fn reads(addresses: impl Iterator<Item = IpAddr>, writer: &Writer, presence: &str) -> Vec<TxnOp> {
        let keys = addresses.map(|address| writer.keys.of(address));
        std::iter::once(presence.to_owned()).chain(keys).map(|key| TxnOp::get(key, None)).collect()
    }

    /// Sends the request over `member`, or over a new connection to `endpoint`. Returns within the sum of both time-outs.
    ///
    /// # Errors
    /// [`Failure`]; after [`Failure::NoAnswer`] the connection should not be used again.
    pub async fn send(
        self,
        member: Option<Member>,
        endpoint: &str,
        connect_timeout: Duration,
        request_timeout: Duration,
    ) -> Result<(Member, Answer), Failure> {
        let whole = if member.is_some() { request_timeout } else { connect_timeout + request_timeout };
        let exchange = async {
            let mut member = match member {
                Some(member) => member,
                None => Member::connect(endpoint, connect_timeout).await?,
            };
            let answer = self.ask(&mut member).await?;
            Ok((member, answer))
        };
        match timeout(whole, exchange).await {
            Ok(result) => result.map_err(|error| Failure::of(&error)),
            Err(_) => Err(Failure::NoAnswer(format!("no answer within {} ms", whole.as_millis()))),
        }
    }

    async fn ask(self, member: &mut Member) -> Result<Answer, Error> {
        match self {
            Self::Open { presence, value, lease, landmarks } => open(member, presence, value, lease, landmarks).await,
            Self::Present { presence, value, session } => {
                let in_session = Compare::lease(presence.as_str(), CompareOp::Equal, session);
                let put = TxnOp::put(presence, value, Some(PutOptions::new().with_lease(session)));
                Ok(landed(&member.kv.txn(Txn::new().when([in_session]).and_then([put])).await?))
            }
            Self::KeepAlive(lease) => {
                // The client takes the first answer itself. Of a lease that is gone etcd says that it has no time to live.
                match member.lease.keep_alive(lease).await {
                    Ok(_) => Ok(Answer::KeptAlive(true)),
                    Err(Error::LeaseKeepAliveError(_)) => Ok(Answer::KeptAlive(false)),
                    Err(error) => Err(error),
                }
            }
            Self::Close(lease) => {
                member.lease.revoke(lease).await?;
                Ok(Answer::Closed)
            }
            Self::Write(txn, windows) => {
                for (window, ttl) in windows {
                    grant(member, window, ttl).await?;
                }
                Ok(landed(&member.kv.txn(txn).await?))
            }
            Self::Look(txn) => Ok(seen(&member.kv.txn(txn).await?)),
            Self::Range { from, to, revision, limit, keys_only } => {
                let mut options = GetOptions::new().with_range(to).with_limit(limit).with_revision(revision);
                if keys_only {
                    options = options.with_keys_only();
                }
                let mut answer = member.kv.get(from, Some(options)).await?;
                let newest = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
                let revision = if revision == 0 { newest } else { revision };
                let count = usize::try_from(answer.count()).unwrap_or(0);
                Ok(Answer::Page(Page { more: answer.more(), count, pairs: answer.take_kvs(), revision }))
            }
        }
    }
}

async fn open(
    member: &mut Member,
    presence: String,
    value: Vec<u8>,
    lease: i64,
    landmarks: Vec<String>,
) -> Result<Answer, Error> {
    member.lease.grant(SESSION_TTL, Some(LeaseGrantOptions::new().with_id(lease))).await?;
    let put = TxnOp::put(presence.as_str(), value, Some(PutOptions::new().with_lease(lease)));
    // Operations of a transaction see those before them.
    let reads = std::iter::once(presence).chain(landmarks).map(|key| TxnOp::get(key, None));
    let answer = member.kv.txn(Txn::new().and_then(reads.chain([put]).collect::<Vec<_>>())).await?;
    let mut reads: Vec<Option<KeyValue>> = answer.op_responses().into_iter().map(into_pair).collect();
    // The last one is the put's.
    reads.pop();
    let mut reads = reads.into_iter();
    Ok(Answer::Opened(Opened {
        lease,
        revision: answer.header().map_or(0, etcd_client::ResponseHeader::revision),
        before: reads.next().flatten().map_or(0, |presence| presence.lease()),
        landmarks: reads.map(|key| key.map_or(0, |key| key.mod_revision())).collect(),
    }))
}

/// Grants the etcd lease of a window, unless an earlier run of this server has.
async fn grant(member: &mut Member, window: Window, ttl: i64) -> Result<(), Error> {
    match member.lease.grant(ttl.max(1), Some(LeaseGrantOptions::new().with_id(window.id))).await {
        Err(Error::GRpcStatus(status))
            if status.code() as i32 == FAILED_PRECONDITION && status.message().contains("lease already exists") =>
        {
            Ok(())
        }
        result => result.map(|_| ()),
    }
}

fn landed(answer: &etcd_client::TxnResponse) -> Answer {
    if !answer.succeeded() {
        return seen(answer);
    }
    Answer::Landed { revision: answer.header().map_or(0, etcd_client::ResponseHeader::revision) }
}

/// What a transaction read: the presence key, then one key an operation, in order (etcd api/etcdserverpb/rpc.proto,
/// TxnResponse.responses).
fn seen(answer: &etcd_client::TxnResponse) -> Answer {
    let as_of = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
    let mut reads = answer.op_responses().into_iter().map(into_pair);
    let session = reads.next().flatten().map_or(0, |presence| presence.lease());
    let found = reads.map(|pair| Found { as_of, key: pair.as_ref().map(found_key) }).collect();
    Answer::Seen { found, session }
}

fn into_pair(response: TxnOpResponse) -> Option<KeyValue> {
    let TxnOpResponse::Get(read) = response else { return None };
    first(read)
}

fn first(mut read: GetResponse) -> Option<KeyValue> {
    read.take_kvs().into_iter().next()
}

/// What a key was found to hold.
#[must_use]
pub fn found_key(pair: &KeyValue) -> FoundKey {
    FoundKey { revision: pair.mod_revision(), etcd_lease: pair.lease(), record: Summary::parse(pair.value()) }
}

/// What a key holds since a change that the watch tells, and what it held before; `is_told` is whether the watch was to tell
/// that.
#[must_use]
pub fn changed(event: &Event, pair: &KeyValue, is_told: bool) -> (Found, Before) {
    let key = (event.event_type() == EventType::Put).then(|| found_key(pair));
    let was_created = key.is_some() && pair.version() == 1;
    let before = match event.prev_kv() {
        Some(before) => Summary::parse(before.value()).map_or(Before::Nothing, Before::Record),
        // It cannot be had any more (etcd api/v3rpc/watch.go, sendLoop).
        None if is_told && !was_created => Before::Lost,
        None => Before::Nothing,
    };
    (Found { as_of: pair.mod_revision(), key }, before)
}

/// What a watch tells.
#[derive(Debug)]
pub enum Watched {
    /// What happened to which key, in order.
    Changes(WatchResponse),
    /// Changes were lost: compacted, or more than the client takes.
    Lost(String),
    /// etcd ended the watch, for this reason; the connection stands.
    Canceled(String),
    /// The connection failed, for this reason. The client would connect again unasked, perhaps to another history.
    Disconnected(String),
}

/// Tells every change below `base` from the revision `from` on, with what was there before if `tell_before` (etcd reads
/// it anew for each change), until the connection fails or nobody listens.
pub async fn watch(mut member: Member, base: String, from: i64, tell_before: bool, tell: mpsc::Sender<Watched>) {
    let end = match watch_until_error(&mut member, base, from, tell_before, &tell).await {
        Ok(end) => end,
        Err(error) => match error {
            Error::GRpcStatus(status) if status.code() as i32 == OUT_OF_RANGE => Watched::Lost(status.message().into()),
            other => Watched::Disconnected(other.to_string()),
        },
    };
    let _ = tell.send(end).await;
}

async fn watch_until_error(
    member: &mut Member,
    base: String,
    from: i64,
    tell_before: bool,
    tell: &mpsc::Sender<Watched>,
) -> Result<Watched, Error> {
    // In parts, or what others wrote during an outage could be more than the client takes.
    let mut options = WatchOptions::new().with_prefix().with_fragment().with_start_revision(from);
    if tell_before {
        options = options.with_prev_key();
    }
    let mut stream = member.watch.watch(base, Some(options)).await?;
    while let Some(news) = stream.message().await? {
        if news.compact_revision() > 0 {
            return Ok(Watched::Lost(format!("compacted up to {}", news.compact_revision())));
        }
        if news.canceled() {
            return Ok(Watched::Canceled(news.cancel_reason().into()));
        }
        if tell.send(Watched::Changes(news)).await.is_err() {
            break;
        }
    }
    Ok(Watched::Disconnected("the watch ended".into()))
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
            (5, "etcdserver: requested lease not found", Failure::LeaseGone),
            (11, "etcdserver: mvcc: required revision has been compacted", Failure::Compacted),
            (11, "etcdserver: mvcc: required revision is a future revision", Failure::Compacted),
            (11, "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes", Failure::Refused),
            (14, "etcdserver: no leader", Failure::NoAnswer),
            (1, "Timeout expired", Failure::NoAnswer),
        ] {
            assert_eq!(Failure::of_status(code, message), expected(text(message)));
        }
    }
}
