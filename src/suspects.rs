//! Addresses whose record and lease are to be read again, first the one and then the other. No I/O.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::Bound;

/// They are taken in the order of the addresses, and round again, so that none waits for ever while others come in.
#[derive(Debug, Default)]
pub struct Suspects {
    addresses: BTreeSet<IpAddr>,
    /// The address that was taken last.
    last: Option<IpAddr>,
}

impl Suspects {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.addresses.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Takes up to `many` away.
    pub fn take(&mut self, many: usize) -> Vec<IpAddr> {
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.addresses.range((after, Bound::Unbounded));
        // Those up to `last` come after the others, and nothing comes twice.
        let some: Vec<IpAddr> = rest.chain(&self.addresses).take(many.min(self.len())).copied().collect();
        for address in &some {
            self.addresses.remove(address);
        }
        self.last = some.last().copied().or(self.last);
        some
    }
}

impl Extend<IpAddr> for Suspects {
    fn extend<I: IntoIterator<Item = IpAddr>>(&mut self, addresses: I) {
        self.addresses.extend(addresses);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::v4;

    #[test]
    fn they_are_taken_in_turn() {
        let mut suspects = Suspects::default();
        suspects.extend([1, 2, 3, 4].map(v4));
        assert_eq!(suspects.take(2), [1, 2].map(v4));
        assert!(suspects.take(0).is_empty());
        suspects.extend([1, 2].map(v4));
        assert_eq!(suspects.take(3), [3, 4, 1].map(v4));
        suspects.extend([1].map(v4));
        assert_eq!(suspects.take(9), [2, 1].map(v4));
        assert!(suspects.is_empty());
        assert!(suspects.take(9).is_empty());
    }
}
