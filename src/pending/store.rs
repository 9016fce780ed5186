//! An etcd in memory, as much of it as `Pending` meets: revisions, etcd leases, sessions, guarded transactions, and what a
//! watch has to tell.

use std::collections::{BTreeMap, BTreeSet};

use super::Batch;
use crate::guard::{Found, FoundKey};
use crate::lease::{Change, Row};
use crate::record::{self, Summary};
use crate::writer::{Action, Writer};

/// What a key holds.
#[derive(Clone, Debug)]
pub struct Entry {
    pub value: Vec<u8>,
    pub revision: i64,
    pub etcd_lease: i64,
}

impl Entry {
    pub fn found(&self) -> FoundKey {
        FoundKey { revision: self.revision, etcd_lease: self.etcd_lease, record: self.record() }
    }

    pub fn record(&self) -> Option<Summary> {
        Summary::parse(&self.value)
    }
}

/// A new value, on an etcd lease; `None` removes the key.
type Value = Option<(Vec<u8>, i64)>;

/// A change of a key.
#[derive(Clone, Debug)]
pub struct Event {
    pub revision: i64,
    pub key: String,
    pub before: Option<Entry>,
    pub after: Option<Entry>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Store {
    pub revision: i64,
    pub compacted: i64,
    pub entries: BTreeMap<String, Entry>,
    pub events: Vec<Event>,
    /// The etcd leases of windows, and when they end.
    pub leases: BTreeMap<i64, i64>,
    /// The session that each server's presence key hangs on.
    pub sessions: [i64; 2],
}

impl Store {
    pub fn found(&self, key: &str) -> Found {
        Found { as_of: self.revision, key: self.entries.get(key).map(Entry::found) }
    }

    pub fn record(&self, key: &str) -> Option<Summary> {
        self.entries.get(key).and_then(Entry::record)
    }

    /// One transaction: keys with their new values, on etcd leases, or removed.
    pub fn write(&mut self, changes: Vec<(String, Value)>) {
        let keys: BTreeSet<&String> = changes.iter().map(|(key, _)| key).collect();
        assert_eq!(keys.len(), changes.len(), "etcd takes each key once: {changes:?}");
        let revision = self.revision + 1;
        for (key, value) in changes {
            let after = value.map(|(value, etcd_lease)| Entry { value, revision, etcd_lease });
            let before = match &after {
                Some(entry) => self.entries.insert(key.clone(), entry.clone()),
                None => self.entries.remove(&key),
            };
            if before.is_some() || after.is_some() {
                self.revision = revision;
                self.events.push(Event { revision, key, before, after });
            }
        }
    }

    /// An etcd lease ends, and so does what hangs on it.
    pub fn revoke(&mut self, id: i64) {
        self.leases.remove(&id);
        let on_it = self.entries.iter().filter(|(_, entry)| entry.etcd_lease == id);
        self.write(on_it.map(|(key, _)| (key.clone(), None)).collect());
    }

    /// Whether every key of `batch` has the revision that is expected.
    pub fn meets(&self, batch: &Batch, writer: &Writer) -> bool {
        batch.operations().iter().all(|operation| {
            let revision = self.found(&writer.keys.of(operation.address)).revision();
            operation.write.as_ref().is_some_and(|write| write.revision == revision)
        })
    }

    /// Applies `batch`, with the etcd leases that it needs.
    pub fn apply(&mut self, batch: &Batch, writer: &Writer, now: i64) {
        let mut changes = Vec::new();
        for operation in batch.operations() {
            let (key, write) = (writer.keys.of(operation.address), operation.write.as_ref().expect("a write"));
            let etcd_lease = write.window().map_or(0, |window| window.id);
            if let Some(window) = write.window() {
                self.leases.entry(window.id).or_insert(window.end.max(now + 1));
            }
            let value = match write.action {
                Action::Keep | Action::Tidy => None,
                Action::Remove => Some(None),
                Action::Move(_) => Some(Some((self.entries[&key].value.clone(), etcd_lease))),
                Action::Put(_) => Some(Some((value(&operation.change, &writer.server), etcd_lease))),
            };
            changes.extend(value.map(|value| (key, value)));
            changes.extend(write.index.iter().map(|key| (key.clone(), Some((Vec::new(), etcd_lease)))));
            changes.extend(write.outdated.iter().map(|key| (key.clone(), None)));
        }
        self.write(changes);
    }
}

fn value(change: &Change, server: &str) -> Vec<u8> {
    let Row::Held { lease, relay } = &change.row else { unreachable!("a removal puts nothing") };
    record::to_json(lease, change.operation, *relay, change.timestamp, server)
}
