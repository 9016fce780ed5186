//! What callouts before the write told, for the callout after it: both run on the thread that handles the packet, and
//! what was told is true of that packet only. No I/O.

use std::cell::RefCell;
use std::net::IpAddr;

use crate::lease::Operation;

/// Leases of one packet that are remembered; those beyond are called newly assigned.
const ROOM: usize = 16;

/// What was told of the packet that the thread handles.
struct Hints {
    told: [Option<(IpAddr, Operation)>; ROOM],
    len: usize,
}

thread_local! {
    static HINTS: RefCell<Hints> = const { RefCell::new(Hints { told: [None; ROOM], len: 0 }) };
}

/// Another packet is handled.
pub fn forget() {
    HINTS.with_borrow_mut(|hints| hints.len = 0);
}

/// Remembers what is about to happen to an address, instead of what was told of it before.
pub fn tell(address: IpAddr, operation: Operation) {
    HINTS.with_borrow_mut(|Hints { told, len }| {
        let known = told[..*len].iter().position(|hint| hint.is_some_and(|(known, _)| known == address));
        let place = known.unwrap_or(*len);
        if let Some(hint) = told.get_mut(place) {
            *hint = Some((address, operation));
            *len = (*len).max(place + 1);
        }
    });
}

/// What was told of an address, once.
pub fn told(address: IpAddr) -> Option<Operation> {
    HINTS.with_borrow_mut(|Hints { told, len }| {
        let hint = told[..*len].iter_mut().find(|hint| hint.is_some_and(|(known, _)| known == address))?;
        hint.take().map(|(_, operation)| operation)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::v4;

    #[test]
    fn what_is_told_last_counts_once_and_for_one_packet() {
        tell(v4(1), Operation::Decline);
        tell(v4(1), Operation::Renew);
        tell(v4(2), Operation::Renew);
        assert_eq!((told(v4(1)), told(v4(1))), (Some(Operation::Renew), None));
        forget();
        assert_eq!(told(v4(2)), None, "of another packet");
    }

    #[test]
    fn so_many_are_remembered() {
        let last = u32::try_from(ROOM).unwrap();
        (0..=last).for_each(|n| tell(v4(n), Operation::Renew));
        assert_eq!((told(v4(last - 1)), told(v4(last))), (Some(Operation::Renew), None));
        forget();
    }
}
