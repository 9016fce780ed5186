//! Addresses that changed and that the next turn of Kea's main loop is to see to, unless a callout tells of them before.

use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::handover::ByAddress;
use crate::lease::{LeaseType, Operation, Owner};

/// What is known of a change.
#[derive(Debug)]
pub struct Mark {
    /// The type that a DHCPv6 lease is looked for as first.
    pub lease_type: LeaseType,
    /// What made it, or is about to.
    pub operation: Operation,
    /// Which lease went, where one did.
    pub owner: Option<Owner>,
    /// Whether a callout told, or only the lease database.
    pub told: bool,
}

impl Mark {
    /// Takes over what comes after.
    fn follow(&mut self, mut later: Self) {
        if let (Some(gone), Some(known)) = (&mut later.owner, self.owner.take()) {
            // The callout before the write knew more of the lease that goes: Kea clears its host name.
            if gone.is_holder(&known) && gone.hostname.is_empty() {
                gone.hostname = known.hostname;
            }
        }
        later.told |= self.told;
        *self = later;
    }
}

#[derive(Debug, Default)]
struct State {
    by_address: ByAddress<Mark>,
    turn_wanted: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Marks {
    state: Mutex<State>,
}

impl Marks {
    /// Marks an address; false when as many as `limit` others are marked.
    #[must_use]
    pub fn put(&self, address: IpAddr, mark: Mark, limit: usize) -> bool {
        let by_address = &mut self.lock().by_address;
        let full = by_address.len() >= limit;
        match by_address.entry(address) {
            Entry::Occupied(mut marked) => marked.get_mut().follow(mark),
            Entry::Vacant(_) if full => return false,
            Entry::Vacant(vacant) => drop(vacant.insert(mark)),
        }
        true
    }

    /// A turn of the main loop is wanted soon; whether nobody has asked for it yet.
    pub fn want_turn(&self) -> bool {
        !std::mem::replace(&mut self.lock().turn_wanted, true)
    }

    /// Whether a turn is to see to the marks. One for another reason leaves them: a callout may be about to tell more.
    pub fn is_turn_wanted(&self) -> bool {
        self.lock().turn_wanted
    }

    /// Takes the mark of an address away.
    pub fn remove(&self, address: IpAddr) -> Option<Mark> {
        self.lock().by_address.remove(&address)
    }

    /// Takes at most `many` marks away, and whether there are more, for which another turn is wanted then.
    pub fn take(&self, many: usize) -> (Vec<(IpAddr, Mark)>, bool) {
        let mut state = self.lock();
        let addresses: Vec<IpAddr> = state.by_address.keys().copied().take(many).collect();
        let some = addresses.into_iter().filter_map(|address| state.by_address.remove_entry(&address)).collect();
        state.turn_wanted = !state.by_address.is_empty();
        (some, state.turn_wanted)
    }

    /// Marks addresses again that were taken and not seen to; whether there were any, for which another turn is wanted.
    pub fn give_back(&self, some: impl ExactSizeIterator<Item = (IpAddr, Mark)>) -> bool {
        let left = some.len() > 0;
        let mut state = self.lock();
        for (address, mut mark) in some {
            if let Some(later) = state.by_address.remove(&address) {
                mark.follow(later);
            }
            state.by_address.insert(address, mark);
        }
        state.turn_wanted |= left;
        left
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{Identifier, Lease};

    fn mark(gone: Option<&Lease>, told: bool) -> Mark {
        Mark { lease_type: LeaseType::Na, operation: Operation::Update, owner: gone.map(Lease::owner), told }
    }

    #[test]
    fn the_last_lease_that_went_is_told_with_all_that_was_known_of_it() {
        let marks = Marks::default();
        let named = Lease { hostname: b"printer".as_slice().into(), ..Lease::plain_v4(1) };
        let unnamed = Lease::plain_v4(1);
        assert!(marks.put(named.address, mark(Some(&named), true), 1));
        assert!(marks.put(named.address, mark(Some(&unnamed), false), 1));
        let found = marks.remove(named.address).unwrap();
        assert_eq!((found.owner, found.told), (Some(named.owner()), true));
        // Somebody else had the address last.
        let other = Lease { hwaddr: Identifier::from_slice(&[1]), ..Lease::plain_v4(1) };
        assert!(marks.put(named.address, mark(Some(&named), false), 1));
        assert!(marks.put(named.address, mark(Some(&other), false), 1));
        assert_eq!(marks.remove(named.address).unwrap().owner, Some(other.owner()));
    }

    #[test]
    fn the_number_of_marks_is_bounded_and_a_turn_is_asked_for_once() {
        let marks = Marks::default();
        let [first, second] = [1, 2].map(Lease::plain_v4);
        assert!(marks.put(first.address, mark(None, true), 1));
        assert!(!marks.put(second.address, mark(None, true), 1));
        assert!(marks.want_turn());
        assert!(!marks.want_turn());
        let (some, more) = marks.take(10);
        assert_eq!((some.len(), more), (1, false));
        assert!(marks.give_back(some.into_iter()));
        assert!(!marks.want_turn(), "one is wanted for it");
        let (some, _) = marks.take(10);
        assert_eq!(some.len(), 1);
        assert!(!marks.give_back(std::iter::empty()));
        assert!(marks.want_turn());
    }
}
