//! One request to one etcd member, and what its failure means.
//!
//! The client crate neither fails over nor bounds every wait, so each member has a client of its own and each call an
//! outer deadline.

use std::net::IpAddr;
use std::time::Duration;

use etcd_client::{
    Compare, CompareOp, Error, Event, EventType, GetOptions, GetResponse, KeyValue, LeaseGrantOptions, PutOptions, Txn,
    TxnOp, TxnOpResponse, WatchOptions, WatchResponse,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::credentials::Credentials;
use crate::connection::Member;
use crate::failure::{FAILED_PRECONDITION, Failure, OUT_OF_RANGE};
use crate::guard::{Found, FoundKey};
use crate::lease::Row;
use crate::leftovers::Before;
use crate::lifetime::Window;
use crate::pending::Batch;
use crate::record::{self, Summary};
use crate::writer::{Action, Writer};

/// Seconds that a session outlives its server: the presence key's etcd lease.
pub const SESSION_TTL: i64 = 15;

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
        /// What each key holds that was to be read, in the order of the batch. None is where a batch was to be written.
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
        /// Whether it is read as the member has it. What a member told as of a revision it has for good: it need ask nobody, which
        /// would come after all writes that are under way (etcd `server/etcdserver/v3_server.go`, `Range`).
        serializable: bool,
    },
}

impl Request {
    /// The transaction that writes `batch` if the session lives and each key still has its expected revision. Else the keys are
    /// read in another one: were they in this, etcd and this thread would pay for each of them in every transaction, though hardly
    /// any fails. `granted` tells whether the etcd lease of a window is known to exist.
    #[must_use]
    pub fn write(
        batch: &Batch,
        writer: &Writer,
        presence: &str,
        session: i64,
        granted: impl Fn(Window) -> bool,
        now: i64,
    ) -> Self {
        let number = batch.operations().len();
        let mut conditions = Vec::with_capacity(1 + number);
        conditions.push(Compare::lease(presence, CompareOp::Equal, session));
        let (mut operations, mut windows) = (Vec::with_capacity(number), Vec::new());
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
        let reads = Self::reads(std::iter::empty(), presence);
        Self::Write(Txn::new().when(conditions).and_then(operations).or_else(reads), windows)
    }

    /// Reads the keys of addresses.
    #[must_use]
    pub fn look(addresses: impl Iterator<Item = IpAddr>, writer: &Writer, presence: &str) -> Self {
        let keys = addresses.map(|address| writer.keys.of(address));
        Self::Look(Txn::new().and_then(Self::reads(keys, presence)))
    }

    /// Reads what needs the rights to the records, below `base`, and to the presence key.
    #[must_use]
    pub fn probe(base: &str, presence: &str) -> Self {
        Self::Look(Txn::new().and_then(Self::reads(std::iter::once(base.to_owned()), presence)))
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

    /// The presence key, then each of the keys.
    fn reads(keys: impl Iterator<Item = String>, presence: &str) -> Vec<TxnOp> {
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
        credentials: &Credentials,
        connect_timeout: Duration,
        request_timeout: Duration,
    ) -> Result<(Member, Answer), Failure> {
        let fresh = member.is_none();
        let whole = if fresh { connect_timeout + request_timeout } else { request_timeout };
        let exchange = async {
            let mut member = match member {
                Some(member) => member,
                // Apart, as few requests need it, and all would be 10 KB larger, which are moved several times.
                None => Box::pin(Member::connect(endpoint, credentials, connect_timeout)).await?,
            };
            let answer = self.ask(&mut member).await.map_err(|error| Failure::of(&error))?;
            Ok((member, answer))
        };
        let late = |_| Err(Failure::NoAnswer(format!("no answer within {} ms", whole.as_millis())));
        let result = timeout(whole, exchange).await.unwrap_or_else(late);
        result.map_err(|failure: Failure| failure.with(credentials, endpoint, fresh))
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
                grant(member, windows).await?;
                Ok(landed(&member.kv.txn(txn).await?))
            }
            Self::Look(txn) => Ok(seen(&member.kv.txn(txn).await?)),
            Self::Range { from, to, revision, limit, keys_only, serializable } => {
                let mut options = GetOptions::new().with_range(to).with_limit(limit).with_revision(revision);
                if keys_only {
                    options = options.with_keys_only();
                }
                if serializable {
                    options = options.with_serializable();
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
    // Operations of a transaction see those before them. Whose value it is and how large does not matter.
    let reads = std::iter::once(presence).chain(landmarks);
    let reads = reads.map(|key| TxnOp::get(key, Some(GetOptions::new().with_keys_only())));
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

/// Grants the etcd leases of windows, all at once: one after another they could take longer than the request may.
async fn grant(member: &Member, windows: Vec<(Window, i64)>) -> Result<(), Error> {
    let mut grants = JoinSet::new();
    for (window, ttl) in windows {
        let mut leases = member.lease.clone();
        let options = LeaseGrantOptions::new().with_id(window.id);
        grants.spawn(async move { leases.grant(ttl.max(1), Some(options)).await });
    }
    while let Some(granted) = grants.join_next().await {
        match granted.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic())) {
            // An earlier run of this server has.
            Err(Error::GRpcStatus(status))
                if status.code() as i32 == FAILED_PRECONDITION && status.message().contains("lease already exists") => {
            }
            result => drop(result?),
        }
    }
    Ok(())
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

/// Stands until the connection does not, by a watch on `key`, whatever that tells; returns why it ended.
pub async fn hold(mut member: Member, key: String) -> String {
    let held = async {
        let mut stream = member.watch.watch(key, None).await?;
        while let Some(news) = stream.message().await? {
            if news.canceled() {
                return Ok(news.cancel_reason().to_owned());
            }
        }
        Ok("etcd ended it".to_owned())
    };
    held.await.unwrap_or_else(|error: Error| error.to_string())
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
