//! Leases that ended here of late: a record of one may yet come from another server, which had read the lease before.
//! No I/O.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use crate::lease::{Change, Owner, Row};

/// How many are remembered, some 3 MB at most. What is forgotten waits for the other server's next comparison.
const MAX: usize = 16_384;

/// How often a late record of one lease is removed: also that of a write whose answer was lost, and that was tried again.
/// Not for ever: another server that has the lease all the same, in a database of its own, writes its record anew.
const TIMES: u8 = 2;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    /// Whose lease it was, and how often a late record of it may still be removed; `None` where that is over, or somebody
    /// has the address since.
    by_address: HashMap<IpAddr, Option<(Owner, u8)>>,
    /// In the order in which they came.
    order: VecDeque<IpAddr>,
}

impl Ended {
    /// A change of an address was written, or there was nothing to be written.
    pub fn note(&mut self, address: IpAddr, change: Change, written: bool) {
        let owner = match change.row {
            Row::Gone { owner: Some(owner) } if !change.is_finding() => owner,
            // What was known of its end before is true as ever.
            Row::Gone { owner: None } => return,
            row => {
                if let Some(known) = self.by_address.get_mut(&address).filter(|_| written) {
                    let again = known.take().filter(|(_, times)| matches!(row, Row::Gone { .. }) && *times > 1);
                    *known = again.map(|(owner, times)| (owner, times - 1));
                }
                return;
            }
        };
        if self.by_address.insert(address, Some((owner, TIMES))).is_none() {
            self.order.push_back(address);
        }
        while self.order.len() > MAX {
            let first = self.order.pop_front();
            first.and_then(|first| self.by_address.remove(&first));
        }
    }

    /// Whose lease ended at an address last, if that is remembered.
    #[must_use]
    pub fn owner(&self, address: IpAddr) -> Option<Owner> {
        self.by_address.get(&address)?.as_ref().map(|(owner, _)| owner.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{Lease, Operation};
    use crate::record::v4;

    fn note(ended: &mut Ended, n: u32, row: Row) {
        ended.note(v4(n), Change { timestamp: 1, operation: Operation::Update, row }, true);
    }

    #[test]
    fn a_late_record_is_removed_a_limited_number_of_times() {
        let (mut ended, owner) = (Ended::default(), Some(Lease::plain_v4(1).owner()));
        note(&mut ended, 1, Row::Gone { owner: owner.clone() });
        let finding = Change { timestamp: 1, operation: Operation::Sync, row: Row::Gone { owner: owner.clone() } };
        ended.note(v4(1), finding.clone(), false);
        for _ in 0..TIMES {
            assert_eq!(ended.owner(v4(1)), owner);
            ended.note(v4(1), finding.clone(), true);
        }
        assert_eq!(ended.owner(v4(1)), None);
    }

    #[test]
    fn the_last_owner_is_remembered_until_somebody_has_the_address() {
        let (mut ended, lease) = (Ended::default(), Lease::plain_v4(1));
        note(&mut ended, 1, Row::Gone { owner: Some(lease.owner()) });
        note(&mut ended, 1, Row::Gone { owner: None });
        assert_eq!(ended.owner(v4(1)), Some(lease.owner()));
        note(&mut ended, 1, Row::Held { lease, relay: None });
        assert_eq!(ended.owner(v4(1)), None);
    }

    #[test]
    fn their_number_is_bounded() {
        let (mut ended, owner) = (Ended::default(), Lease::plain_v4(1).owner());
        let last = u32::try_from(MAX).unwrap();
        for n in 0..=last {
            note(&mut ended, n, Row::Gone { owner: Some(owner.clone()) });
        }
        assert_eq!((ended.owner(v4(0)), ended.owner(v4(last))), (None, Some(owner)));
        assert_eq!((ended.by_address.len(), ended.order.len()), (MAX, MAX));
    }
}
