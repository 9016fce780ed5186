//! etcd and the lease database as far as the targets need them: what is compared, what a comparison has written, and
//! what every write must keep to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dhcp_etcd::comparison::{Comparison, Findings};
use dhcp_etcd::etcd::{Page, found_key};
use dhcp_etcd::guard::Found;
use dhcp_etcd::index::{Index, Kind};
use dhcp_etcd::lease::{Change, Family, Lease, Operation, Row};
use dhcp_etcd::lifetime::Lifetime;
use dhcp_etcd::pending::MAX_OPERATIONS;
use dhcp_etcd::record::{LeaseKeys, to_json};
use dhcp_etcd::writer::{Action, Plan, Write, Writer};
use etcd_client::KeyValue;
use etcd_client::proto::PbKeyValue;

use super::{GRACE, NOW, PREFIX, SERVER};

/// A writer like that of a server with these parameters.
pub fn writer(family: Family, kinds: &[Kind], expire_keys: bool) -> Writer {
    Writer {
        server: SERVER.into(),
        keys: LeaseKeys::new(PREFIX),
        index: Index::new(PREFIX, kinds),
        lifetime: expire_keys.then(|| Lifetime::new(PREFIX, SERVER, family.name(), GRACE)),
        grace: GRACE,
    }
}

/// The kinds of index keys that these bits stand for.
pub fn kinds(bits: u8) -> Vec<Kind> {
    Kind::ALL.into_iter().enumerate().filter(|(place, _)| bits >> place & 1 == 1).map(|(_, kind)| kind).collect()
}

/// What a comparison is to do with a lease or with its end, which nobody told of.
pub fn finding(lease: Option<&Lease>) -> Change {
    let (timestamp, row) = match lease {
        Some(lease) => (lease.cltt, Row::Held { lease: lease.clone(), relay: None }),
        None => (NOW, Row::Gone { owner: None }),
    };
    Change { timestamp, queued: None, operation: Operation::Sync, row }
}

/// Index keys that belong to no record, with the revision of each.
type Orphans = Vec<(Vec<u8>, i64)>;

/// See the module.
pub struct Store {
    pub writer: Writer,
    pub family: Family,
    pub leases: BTreeMap<IpAddr, Lease>,
    keys: BTreeMap<Vec<u8>, KeyValue>,
    revision: i64,
}

impl Store {
    pub fn new(writer: Writer, family: Family) -> Self {
        Self { writer, family, leases: BTreeMap::new(), keys: BTreeMap::new(), revision: 0 }
    }

    /// Whoever puts it.
    pub fn put(&mut self, key: &[u8], value: &[u8], lease: i64) {
        self.revision += 1;
        let (mod_revision, create_revision, version) = (self.revision, self.revision, 1);
        let pair = PbKeyValue { key: key.into(), create_revision, mod_revision, version, value: value.into(), lease };
        self.keys.insert(key.into(), KeyValue(pair));
    }

    pub fn get(&self, key: &[u8]) -> Option<&KeyValue> {
        self.keys.get(key)
    }

    pub fn found(&self, address: IpAddr) -> Found {
        let key = self.get(self.writer.keys.of(address).as_bytes()).map(found_key);
        Found { as_of: self.revision, key }
    }

    fn page(&self, base: &str) -> Page {
        let pairs: Vec<_> =
            self.keys.values().filter(|pair| pair.key().starts_with(base.as_bytes())).cloned().collect();
        Page { more: false, count: pairs.len(), revision: self.revision, pairs }
    }

    /// A whole comparison, in which `touched` changes: what it found, and who is suspected.
    pub fn compare(&self, touched: Option<IpAddr>) -> (Findings, BTreeSet<IpAddr>, Orphans) {
        let mut comparison = Comparison::new(self.writer.clone(), self.family, NOW);
        if let Some(address) = touched {
            comparison.touch(address);
        }
        let records = self.page(self.writer.keys.base());
        comparison.records(&records);
        comparison.index(&self.page(self.writer.index.base()));
        let orphans = comparison.take_orphans();
        for (key, _) in &orphans {
            assert!(self.writer.index.address(key).is_some_and(|address| self.family.has(address)));
        }
        let leases: Vec<Lease> = self.leases.values().cloned().collect();
        let (missing, mut suspects) = comparison.leases(leases);
        let (findings, more) = comparison.finish(|_| false);
        suspects.extend(missing.iter().map(|lease| lease.address).chain(more));
        let judged: BTreeSet<IpAddr> = suspects.iter().copied().collect();
        assert_eq!(judged.len(), suspects.len(), "an address is suspected twice");
        for address in &judged {
            assert!(self.family.has(*address) && Some(*address) != touched, "{address}");
            assert!(self.leases.contains_key(address) || self.found(*address).key.is_some(), "{address}");
        }
        assert!(findings.records <= records.pairs.len() && findings.leases <= self.leases.len());
        for tally in [&findings.missing, &findings.different, &findings.extra] {
            assert_eq!(tally.addresses.len(), tally.count.min(20));
        }
        (findings, judged, orphans)
    }

    /// Has written what a comparison found, and compares again: then nothing must be left to do.
    pub fn converge(&mut self, tidy_first: bool) {
        let (_, suspects, orphans) = self.compare(None);
        if tidy_first {
            self.tidy(&orphans);
        }
        for address in suspects {
            let change = finding(self.leases.get(&address).filter(|lease| lease.is_held()));
            self.write(address, &change);
        }
        if !tidy_first {
            self.tidy(&orphans);
        }
        let (findings, suspects, orphans) = self.compare(None);
        let Findings { missing, different, extra, .. } = &findings;
        assert_eq!([missing.count, different.count, extra.count], [0; 3], "{findings:?}");
        assert!(suspects.is_empty() && orphans.is_empty(), "{suspects:?} {orphans:?}");
    }

    fn tidy(&mut self, orphans: &[(Vec<u8>, i64)]) {
        for (key, revision) in orphans {
            if self.get(key).is_some_and(|pair| pair.mod_revision() == *revision) {
                self.keys.remove(key);
            }
        }
    }

    /// Plans the change on what stands there, and carries it out.
    pub fn write(&mut self, address: IpAddr, change: &Change) {
        let found = self.found(address);
        match self.writer.plan(address, change, None, Some(&found), &[], NOW) {
            Plan::Look => panic!("it was looked at"),
            Plan::Settled(_) => {}
            Plan::Write(write) => {
                check(&self.writer, address, &write);
                assert_eq!(write.revision, found.revision());
                self.apply(address, change, &write);
            }
        }
    }

    fn apply(&mut self, address: IpAddr, change: &Change, write: &Write) {
        let key = self.writer.keys.of(address).into_bytes();
        let etcd_lease = write.window().map_or(0, |window| window.id);
        match write.action {
            Action::Put(_) => {
                let Row::Held { lease, relay } = &change.row else { panic!("a removal is put") };
                self.put(&key, &to_json(lease, change.operation, *relay, change.timestamp, SERVER), etcd_lease);
            }
            Action::Move(_) => {
                let value = self.keys[&key].value().to_vec();
                self.put(&key, &value, etcd_lease);
            }
            Action::Remove => drop(self.keys.remove(&key)),
            Action::Keep | Action::Tidy => {}
        }
        for key in &write.outdated {
            self.keys.remove(key.as_bytes());
        }
        for key in &write.index {
            self.put(key.as_bytes(), b"", etcd_lease);
        }
    }
}

/// What every write keeps to: it fits into a transaction, has each key once, and no index key is of another address or
/// elsewhere than below the base.
pub fn check(writer: &Writer, address: IpAddr, write: &Write) {
    assert!((1..=MAX_OPERATIONS).contains(&write.operations()), "{write:?}");
    let mut keys = BTreeSet::new();
    for key in write.index.iter().chain(&write.outdated) {
        assert!(keys.insert(key), "{key} twice");
        assert!(key.starts_with(writer.index.base()), "{key}");
        assert_eq!(writer.index.address(key.as_bytes()), Some(address), "{key}");
        assert!(key.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{key:?}");
    }
    if let Some(window) = write.window() {
        assert!(window.id > 0 && window.end > NOW, "{window:?}");
    }
}
