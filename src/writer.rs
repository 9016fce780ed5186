//! How this server writes: what a change becomes in etcd, given what is known of its key. No I/O.
//!
//! A record, its etcd lease and its index keys are always written and removed in one transaction. So whoever knows what
//! a record says knows its index keys too, and before a record changes hands it is looked at.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::IpAddr;

use crate::guard::{self, Found, FoundKey, Verdict};
use crate::index::Index;
use crate::lease::{Change, Row};
use crate::lifetime::{self, Lifetime, Window};
use crate::record::{Identifiers, LeaseKeys};

/// Bytes of an index key, at most: host names have 255, identifiers less.
const LONGEST_KEY: usize = 8 * 1024;

/// What is remembered of a key that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its `mod_revision`.
    pub revision: i64,
    /// Which index keys its record has, as a number to compare.
    pub indexed: u64,
}

/// What is to be done with a change.
#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    /// The key must be read first.
    Look,
    /// Write this.
    Write(Write),
    /// Nothing; the key is as it should be and known, or somebody else's.
    Settled(Option<Known>),
}

/// One address's part of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The `mod_revision` that the key must still have; 0 for a key that must not exist.
    pub revision: i64,
    /// What happens to the record.
    pub action: Action,
    /// Index keys to be written, on the record's etcd lease.
    pub index: Vec<String>,
    /// Index keys to be removed.
    pub outdated: Vec<String>,
}

/// What happens to the record of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The record is written, to hang on the etcd lease of the window.
    Put(Option<Window>),
    /// The record stays as it is and moves to the etcd lease of the window.
    Move(Option<Window>),
    /// The record stays as it is, and at its revision; only index keys are removed.
    Keep,
    /// The record is removed.
    Remove,
}

impl Write {
    /// Operations that it takes in a transaction.
    #[must_use]
    pub fn operations(&self) -> usize {
        usize::from(!matches!(self.action, Action::Keep)) + self.index.len() + self.outdated.len()
    }

    /// The window whose etcd lease must exist.
    #[must_use]
    pub fn window(&self) -> Option<Window> {
        match self.action {
            Action::Put(window) | Action::Move(window) => window,
            Action::Keep | Action::Remove => None,
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Writer {
    /// `server-name`.
    pub server: String,
    /// Where records stand.
    pub keys: LeaseKeys,
    /// Where index keys stand.
    pub index: Index,
    /// How records vanish by themselves; `None` when they do not.
    pub lifetime: Option<Lifetime>,
    /// Seconds after the end of a lease from which any server may remove its record.
    pub grace: i64,
}

impl Writer {
    /// What to do with `change`, given what is remembered of its key and what was last found there.
    #[must_use]
    pub fn plan(
        &self,
        address: IpAddr,
        change: &Change,
        known: Option<Known>,
        found: Option<&Found>,
        now: i64,
    ) -> Plan {
        let Some(found) = found else { return self.plan_unseen(address, change, known, now) };
        let key = found.key.as_ref();
        match guard::decide(change, &self.server, self.grace, found) {
            Verdict::Yield if key.is_none() => self.tidy(address, change),
            Verdict::Yield => Plan::Settled(None),
            Verdict::Write => Plan::Write(self.write(address, change, key, now)),
            Verdict::Same => key.map_or(Plan::Settled(None), |key| self.complete(address, change, key, now)),
        }
    }

    fn plan_unseen(&self, address: IpAddr, change: &Change, known: Option<Known>, now: i64) -> Plan {
        // What was removed has index keys that only its record tells, and so has what is written over.
        let look = match (&change.row, known) {
            (Row::Held { .. }, None) => false,
            (Row::Gone { .. }, None) => true,
            (Row::Gone { .. }, Some(_)) => !self.index.is_off(),
            (Row::Held { .. }, Some(known)) => known.indexed != self.indexed(address, change),
        };
        if look {
            return Plan::Look;
        }
        let mut write = self.write(address, change, None, now);
        write.revision = known.map_or(0, |known| known.revision);
        Plan::Write(write)
    }

    /// The write of `change` over `key`, and the end of the index keys that it had.
    fn write(&self, address: IpAddr, change: &Change, key: Option<&FoundKey>, now: i64) -> Write {
        let (action, index) = match &change.row {
            Row::Held { lease, .. } => {
                let window = self.lifetime.as_ref().and_then(|lifetime| lifetime.window(lease.expires_at(), now));
                (Action::Put(window), self.index_keys(address, change))
            }
            Row::Gone { .. } => (Action::Remove, Vec::new()),
        };
        let record = key.and_then(|key| key.record.as_ref());
        let mut outdated = record.map_or(Vec::new(), |record| self.outdated(address, &record.identifiers, &index));
        // The record may not be the one that we wrote.
        let of_gone = self.index_of_gone(address, change);
        outdated.extend(of_gone.into_iter().filter(|key| !outdated.contains(key)).collect::<Vec<_>>());
        Write { revision: key.map_or(0, |key| key.revision), action, outdated, index }
    }

    /// What a removal leaves to be done when somebody else has removed the record: its index keys.
    fn tidy(&self, address: IpAddr, change: &Change) -> Plan {
        let outdated = self.index_of_gone(address, change);
        if outdated.is_empty() {
            return Plan::Settled(None);
        }
        Plan::Write(Write { revision: 0, action: Action::Keep, index: Vec::new(), outdated })
    }

    /// The index keys of the lease that a removal is about.
    fn index_of_gone(&self, address: IpAddr, change: &Change) -> Vec<String> {
        match &change.row {
            Row::Gone { owner: Some(owner) } if !self.index.is_off() => self.outdated(address, &owner.into(), &[]),
            _ => Vec::new(),
        }
    }

    /// What our own record lacks besides its text: the right etcd lease, and the index keys as the parameter says.
    fn complete(&self, address: IpAddr, change: &Change, key: &FoundKey, now: i64) -> Plan {
        let known = Known { revision: key.revision, indexed: self.indexed(address, change) };
        let Row::Held { lease, .. } = &change.row else { return Plan::Settled(None) };
        if !change.is_finding() {
            return Plan::Settled(Some(known));
        }
        let window = self.lifetime.as_ref().and_then(|lifetime| lifetime.window(lease.expires_at(), now));
        let index = self.index_keys(address, change);
        let outdated =
            key.record.as_ref().map_or(Vec::new(), |record| self.outdated(address, &record.identifiers, &index));
        // Index keys go onto the same etcd lease, so with them the record moves as well.
        let action = if self.hangs_right(key) && index.is_empty() { Action::Keep } else { Action::Move(window) };
        let write = Write { revision: key.revision, action, index, outdated };
        if write.operations() == 0 { Plan::Settled(Some(known)) } else { Plan::Write(write) }
    }

    fn index_keys(&self, address: IpAddr, change: &Change) -> Vec<String> {
        match &change.row {
            Row::Held { lease, .. } if !self.index.is_off() => self.index.keys(&Identifiers::of(lease), address),
            _ => Vec::new(),
        }
    }

    /// Index keys that a record with these identifiers may have and that are not among the `wanted`.
    fn outdated(&self, address: IpAddr, identifiers: &Identifiers, wanted: &[String]) -> Vec<String> {
        let mut keys = self.index.possible_keys(identifiers, address);
        // A value that nobody could have made an index key of: somebody else's record.
        keys.retain(|key| key.len() <= LONGEST_KEY && !wanted.contains(key));
        keys
    }

    /// A number that is the same for two changes that are about the same index keys: those that a lease has, or that the
    /// lease had that went. 0 for none.
    #[must_use]
    pub fn indexed(&self, address: IpAddr, change: &Change) -> u64 {
        match &change.row {
            _ if self.index.is_off() => 0,
            Row::Held { lease, .. } => self.indexed_by(&Identifiers::of(lease), address),
            Row::Gone { owner: Some(owner) } => self.indexed_by(&owner.into(), address),
            Row::Gone { owner: None } => 0,
        }
    }

    /// The same for a record with these identifiers.
    #[must_use]
    pub fn indexed_by(&self, identifiers: &Identifiers, address: IpAddr) -> u64 {
        let keys = self.index.keys(identifiers, address);
        if keys.is_empty() { 0 } else { BuildHasherDefault::<DefaultHasher>::default().hash_one(keys) }
    }

    /// Whether a record that says what the lease says also hangs on the right etcd lease, if it is ours.
    #[must_use]
    pub fn hangs_right(&self, key: &FoundKey) -> bool {
        let Some(record) = key.record.as_ref().filter(|record| record.server == self.server) else { return true };
        match &self.lifetime {
            Some(lifetime) => lifetime.fits(key.etcd_lease, record.expires_at),
            None => key.etcd_lease == 0,
        }
    }

    /// Whether a lease is so long past its end that its record may be gone by itself already, though Kea has not
    /// reclaimed it yet.
    #[must_use]
    pub fn may_have_vanished(&self, expires_at: Option<i64>, now: i64) -> bool {
        self.lifetime.is_some() && lifetime::has_passed(expires_at, self.grace, now)
    }
}

#[cfg(test)]
impl Writer {
    /// Writes records and nothing else.
    pub(crate) fn plain(server: &str) -> Self {
        let (keys, index) = (LeaseKeys::new("/p"), Index::new("/p", &[]));
        Self { server: server.into(), keys, index, lifetime: None, grace: 120 }
    }
}
