//! How this server writes: what a change becomes in etcd, given what is known of its key. No I/O.
//!
//! A record, its etcd lease and its index keys are always written and removed in one transaction. So whoever knows what
//! a record says knows its index keys too, and before a record changes hands it is looked at. Index keys that somebody
//! else left behind go with the next write, or alone.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::IpAddr;

use crate::guard::{self, Found, FoundKey, Verdict};
use crate::index::Index;
use crate::lease::{Change, Lease, Row};
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
    /// Whether the address is to be suspected when it is written ([`Verdict::Contest`]).
    pub contests: bool,
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
    /// No record of ours stands there, or none at all: only index keys are removed, if any. With revision 0 the absence of the
    /// key is required.
    Tidy,
    /// The record is removed.
    Remove,
}

impl Write {
    /// Operations that it takes in a transaction, beside its condition; none where only that is wanted.
    #[must_use]
    pub fn operations(&self) -> usize {
        usize::from(self.changes_key()) + self.index.len() + self.outdated.len()
    }

    /// Whether the key of the address has another revision afterwards.
    #[must_use]
    pub fn changes_key(&self) -> bool {
        !matches!(self.action, Action::Keep | Action::Tidy)
    }

    /// The window whose etcd lease must exist.
    #[must_use]
    pub fn window(&self) -> Option<Window> {
        match self.action {
            Action::Put(window) | Action::Move(window) => window,
            Action::Keep | Action::Tidy | Action::Remove => None,
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
    /// What to do with `change`, given what is remembered of its key, what was last found there, and what the records said
    /// that may have `left` index keys.
    #[must_use]
    pub fn plan(
        &self,
        address: IpAddr,
        change: &Change,
        known: Option<Known>,
        found: Option<&Found>,
        left: &[&Identifiers],
        now: i64,
    ) -> Plan {
        let Some(found) = found else { return self.plan_unseen(address, change, known, left, now) };
        let key = found.key.as_ref();
        let has_vanished = |lease: &Lease| change.is_finding() && self.may_have_vanished(lease.expires_at(), now);
        if key.is_none() && matches!(&change.row, Row::Held { lease, .. } if has_vanished(lease)) {
            return self.tidy(address, change, key, left);
        }
        match guard::decide(change, &self.server, self.grace, found) {
            Verdict::Yield => self.tidy(address, change, key, left),
            verdict @ (Verdict::Write | Verdict::Contest) => {
                let contests = verdict == Verdict::Contest;
                Plan::Write(Write { contests, ..self.write(address, change, key, left, now) })
            }
            Verdict::Same => key.map_or(Plan::Settled(None), |key| self.complete(address, change, key, left, now)),
        }
    }

    fn plan_unseen(
        &self,
        address: IpAddr,
        change: &Change,
        known: Option<Known>,
        left: &[&Identifiers],
        now: i64,
    ) -> Plan {
        if known.is_none() && change.takes_back() {
            // There is no record, unless somebody else wrote one: that is required beside what else is written.
            return Plan::Write(self.write_nothing(address, change, None, left));
        }
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
        let mut write = self.write(address, change, None, left, now);
        write.revision = known.map_or(0, |known| known.revision);
        Plan::Write(write)
    }

    /// The write of `change` over `key`, and the end of the index keys that it had.
    fn write(
        &self,
        address: IpAddr,
        change: &Change,
        key: Option<&FoundKey>,
        left: &[&Identifiers],
        now: i64,
    ) -> Write {
        let (action, index) = match &change.row {
            Row::Held { lease, .. } => {
                let window = self.lifetime.as_ref().and_then(|lifetime| lifetime.window(lease.expires_at(), now));
                (Action::Put(window), self.index_keys(address, change))
            }
            Row::Gone { .. } => (Action::Remove, Vec::new()),
        };
        // The record may not be the one that we wrote.
        let of_gone = self.who_went(change);
        let records = identifiers(key).chain(&of_gone).chain(left.iter().copied());
        let outdated = self.outdated(address, records, &index);
        Write { revision: key.map_or(0, |key| key.revision), action, outdated, index, contests: false }
    }

    /// What is left to be done where the change yields to what stands there.
    fn tidy(&self, address: IpAddr, change: &Change, key: Option<&FoundKey>, left: &[&Identifiers]) -> Plan {
        let write = self.write_nothing(address, change, key, left);
        if write.operations() == 0 { Plan::Settled(None) } else { Plan::Write(write) }
    }

    /// No record is written or removed, only index keys are that do not belong to what stands there.
    fn write_nothing(&self, address: IpAddr, change: &Change, key: Option<&FoundKey>, left: &[&Identifiers]) -> Write {
        // A finding knows it from an end that took its index keys along.
        let of_gone = self.who_went(change).filter(|_| key.is_none() && !change.is_finding());
        let stay = identifiers(key).flat_map(|stays| self.index.possible_keys(stays, address)).collect::<Vec<_>>();
        let outdated = self.outdated(address, of_gone.iter().chain(left.iter().copied()), &stay);
        let revision = key.map_or(0, |key| key.revision);
        Write { revision, action: Action::Tidy, index: Vec::new(), outdated, contests: false }
    }

    /// Whose lease went, where a removal tells and index keys are written.
    fn who_went(&self, change: &Change) -> Option<Identifiers> {
        match &change.row {
            Row::Gone { owner: Some(owner) } if !self.index.is_off() => Some(owner.into()),
            _ => None,
        }
    }

    /// What our own record lacks besides its text: the right etcd lease, and the index keys as the parameter says.
    fn complete(&self, address: IpAddr, change: &Change, key: &FoundKey, left: &[&Identifiers], now: i64) -> Plan {
        let known = Known { revision: key.revision, indexed: self.indexed(address, change) };
        let Row::Held { lease, .. } = &change.row else { return Plan::Settled(None) };
        let wanted = self.index_keys(address, change);
        let records = identifiers(change.is_finding().then_some(key)).chain(left.iter().copied());
        let outdated = self.outdated(address, records, &wanted);
        let window = self.lifetime.as_ref().and_then(|lifetime| lifetime.window(lease.expires_at(), now));
        let stays = self.hangs_right(key);
        // What was told is complete: it is a write of ours whose answer did not come. Unless it hangs on a wrong etcd lease:
        // then somebody wrote the same text once more, and the index keys may have gone with theirs.
        let index = if change.is_finding() || !stays { wanted } else { Vec::new() };
        // Index keys go onto the same etcd lease, so with them the record moves as well.
        let action = if stays && index.is_empty() { Action::Keep } else { Action::Move(window) };
        let write = Write { revision: key.revision, action, index, outdated, contests: false };
        if write.operations() == 0 { Plan::Settled(Some(known)) } else { Plan::Write(write) }
    }

    fn index_keys(&self, address: IpAddr, change: &Change) -> Vec<String> {
        match &change.row {
            Row::Held { lease, .. } if !self.index.is_off() => self.index.keys(&Identifiers::of(lease), address),
            _ => Vec::new(),
        }
    }

    /// Index keys that records with these identifiers may have and that are not among the `wanted`, each once.
    fn outdated<'a>(
        &self,
        address: IpAddr,
        records: impl Iterator<Item = &'a Identifiers>,
        wanted: &[String],
    ) -> Vec<String> {
        let mut keys = Vec::new();
        for key in records.flat_map(|record| self.index.possible_keys(record, address)) {
            // A longer value is none that anybody could have made an index key of: somebody else's record.
            if key.len() <= LONGEST_KEY && !wanted.contains(&key) && !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }

    /// A number that is the same for two changes whose leases have the same index keys.
    #[must_use]
    pub fn indexed(&self, address: IpAddr, change: &Change) -> u64 {
        match &change.row {
            _ if self.index.is_off() => 0,
            Row::Held { .. } => {
                BuildHasherDefault::<DefaultHasher>::default().hash_one(self.index_keys(address, change))
            }
            Row::Gone { .. } => 0,
        }
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

/// What the record says that stands under a key.
fn identifiers(key: Option<&FoundKey>) -> impl Iterator<Item = &Identifiers> {
    key.and_then(|key| key.record.as_ref()).map(|record| &record.identifiers).into_iter()
}

#[cfg(test)]
impl Writer {
    /// Writes records and nothing else.
    pub(crate) fn plain(server: &str) -> Self {
        let (keys, index) = (LeaseKeys::new("/p"), Index::new("/p", &[]));
        Self { server: server.into(), keys, index, lifetime: None, grace: 120 }
    }
}
