//! A walk over all keys below a base, in ranges that cost etcd little. No I/O.
//!
//! A range request costs etcd what the whole range holds, whatever its limit is: it looks up the revision of every key
//! before it reads the first ones (`rangeKeys` in `mvcc/kvstore_txn.go` of etcd 3.4; 3.5 still counts them
//! all). Pages of one range over 300,000 records took 70 ms each, all of it load for a server that others use too. So a
//! range ends where a prefix of its first key ends, and the prefix becomes longer or shorter with what is found there.

/// A range that holds more is made narrower.
const MANY: usize = 4096;
/// When a range was over that held less, the next one is wider.
const FEW: usize = 512;

/// See the module.
#[derive(Clone, Debug)]
pub struct Walk {
    base: Vec<u8>,
    from: Vec<u8>,
    /// How much of the first key the keys of a range have in common, at most; never less than the base.
    common: usize,
}

impl Walk {
    /// Over the keys that begin with `base`, which ends in a slash.
    #[must_use]
    pub fn new(base: &str) -> Self {
        Self { base: base.into(), from: base.into(), common: base.len() }
    }

    /// The next range: its first key and the first key after it.
    #[must_use]
    pub fn range(&self) -> (Vec<u8>, Vec<u8>) {
        (self.from.clone(), self.end())
    }

    /// The range was read: it holds `count` keys, and `last` is the one after which there are more. False when the walk is
    /// over.
    pub fn went(&mut self, count: usize, last: Option<&[u8]>) -> bool {
        let end = self.end();
        if let Some(last) = last {
            if count > MANY && self.common < last.len() {
                let shared = self.from.iter().zip(last).take_while(|(from, last)| from == last).count();
                self.common = shared.max(self.common + 1);
            }
            self.from = [last, &[0]].concat();
        } else {
            self.from = end;
            let wider = self.common.min(self.from.len()) - usize::from(count < FEW);
            self.common = wider.max(self.base.len());
        }
        self.from.starts_with(&self.base)
    }

    /// The first key after all that have the prefix of the first key in common.
    fn end(&self) -> Vec<u8> {
        let mut end = self.from[..self.common.min(self.from.len())].to_vec();
        while end.last() == Some(&u8::MAX) {
            end.pop();
        }
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const BASE: &str = "/nnoe/dhcp/leases/";

    /// Walks over keys as etcd holds them. Returns those that were met, the requests, and the keys in all of their ranges.
    fn walk(keys: &BTreeSet<Vec<u8>>, limit: usize) -> (Vec<Vec<u8>>, usize, usize) {
        let (mut walk, mut met, mut requests, mut cost) = (Walk::new(BASE), Vec::new(), 0, 0);
        loop {
            let (from, to) = walk.range();
            assert!(from < to);
            let count = keys.range(from.clone()..to.clone()).count();
            let page: Vec<_> = keys.range(from..to).take(limit).cloned().collect();
            requests += 1;
            cost += count;
            let last = if page.len() < count { page.last().map(Vec::as_slice) } else { None };
            let goes_on = walk.went(count, last);
            met.extend(page);
            if !goes_on {
                return (met, requests, cost);
            }
        }
    }

    fn keys(addresses: impl Iterator<Item = String>) -> BTreeSet<Vec<u8>> {
        addresses.map(|address| [BASE, &address].concat().into_bytes()).collect()
    }

    #[test]
    fn many_leases_cost_a_few_times_their_number() {
        let v4 = (0..200_000_u32).map(|host| std::net::Ipv4Addr::from(0x0a00_0001 + host).to_string());
        let dense = (0..100_000_u32).map(|host| format!("2001:db8::{host:x}"));
        let prefixes = (0..100_000_u32).map(|site| format!("2001:db8:{:x}:{:x}00::", site / 256 + 1, site % 256));
        for keys in [keys(v4), keys(dense), keys(prefixes)] {
            let (met, requests, cost) = walk(&keys, 1024);
            assert!(met.iter().eq(&keys));
            println!("{} keys, {requests} requests, {cost} keys in their ranges", keys.len());
            assert!(requests < keys.len() / 200, "{requests} requests for {} keys", keys.len());
            assert!(cost < 20 * keys.len(), "{cost} keys in the ranges of {} keys", keys.len());
        }
    }

    #[test]
    fn nothing_costs_one_request() {
        assert_eq!(walk(&BTreeSet::new(), 1024), (Vec::new(), 1, 0));
    }

    proptest! {
        #[test]
        fn every_key_is_met_once(
            keys in prop::collection::btree_set(prop::collection::vec(prop::sample::select(vec![0, b'1', b'2', b'/', 255]), 0..6), 0..300),
            limit in 1_usize..20,
        ) {
            let keys = keys.into_iter().map(|key| [BASE.as_bytes(), &key].concat()).collect();
            let (met, ..) = walk(&keys, limit);
            prop_assert!(met.iter().eq(&keys));
        }
    }
}
