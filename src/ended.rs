//! Leases that ended here of late: a record of one may yet come from another server, which had read the lease before.
//! No I/O.

use std::collections::VecDeque;
use std::net::IpAddr;

use crate::handover::ByAddress;
use crate::lease::{Change, Owner, Row};

/// How many are remembered, some 4 MB at most. What is forgotten waits for the other server's next comparison.
const MAX: usize = 16_384;

/// How often a late record of one lease is removed: also that of a write whose answer was lost, and that was tried again.
/// Not for ever: another server that has the lease all the same, in a database of its own, writes its record anew.
const TIMES: u8 = 2;

/// The last lease of an address.
#[derive(Clone, Debug)]
struct End {
    /// Tells it from other ends.
    number: u64,
    owner: Owner,
    /// How often a late record of it may still be removed.
    times: u8,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    by_address: ByAddress<End>,
    /// The last ends in their order; some are not the last of their address any more.
    order: VecDeque<(u64, IpAddr)>,
    next: u64,
}

impl Ended {
    /// A change of an address was written, or there was nothing to be written. Whose lease went is kept, if it tells.
    pub fn note(&mut self, address: IpAddr, change: &mut Change, written: bool) {
        let finding = change.is_finding();
        match &mut change.row {
            Row::Gone { owner } if !finding => {
                if let Some(owner) = owner.take() {
                    self.put(address, owner);
                }
            }
            Row::Gone { owner: Some(_) } if written => {
                if let Some(end) = self.by_address.get_mut(&address) {
                    end.times = end.times.saturating_sub(1);
                }
            }
            Row::Held { .. } if written => drop(self.by_address.remove(&address)),
            // What was known of its end before is true as ever.
            Row::Gone { .. } | Row::Held { .. } => {}
        }
    }

    fn put(&mut self, address: IpAddr, owner: Owner) {
        self.next += 1;
        self.by_address.insert(address, End { number: self.next, owner, times: TIMES });
        self.order.push_back((self.next, address));
        while self.order.len() > MAX {
            let Some((number, first)) = self.order.pop_front() else { break };
            if self.by_address.get(&first).is_some_and(|end| end.number == number) {
                self.by_address.remove(&first);
            }
        }
    }

    /// Whose lease ended at an address last, if that is remembered.
    #[must_use]
    pub fn owner(&self, address: IpAddr) -> Option<Owner> {
        self.by_address.get(&address).filter(|end| end.times > 0).map(|end| end.owner.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{Lease, Operation};
    use crate::record::v4;

    fn note(ended: &mut Ended, n: u32, row: Row) {
        ended.note(v4(n), &mut Change { queued: None, timestamp: 1, operation: Operation::Update, row }, true);
    }

    #[test]
    fn a_late_record_is_removed_a_limited_number_of_times() {
        let (mut ended, owner) = (Ended::default(), Some(Lease::plain_v4(1).owner()));
        note(&mut ended, 1, Row::Gone { owner: owner.clone() });
        let mut finding =
            Change { queued: None, timestamp: 1, operation: Operation::Sync, row: Row::Gone { owner: owner.clone() } };
        ended.note(v4(1), &mut finding, false);
        for _ in 0..TIMES {
            assert_eq!(ended.owner(v4(1)), owner);
            ended.note(v4(1), &mut finding, true);
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
        assert_eq!((ended.owner(v4(0)), ended.owner(v4(last))), (None, Some(owner.clone())));
        assert_eq!((ended.by_address.len(), ended.order.len()), (MAX, MAX));
        // One that ends again is the last.
        for n in [1, last + 1] {
            note(&mut ended, n, Row::Gone { owner: Some(owner.clone()) });
        }
        assert_eq!((ended.owner(v4(1)), ended.owner(v4(2))), (Some(owner), None));
    }
}
