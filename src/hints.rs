//! What callouts before the write told, for the callout after it: both run on the thread that handles the exchange. No I/O.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;

use crate::lease::Operation;

/// Leases of one exchange that are remembered; those beyond are called newly assigned.
const ROOM: usize = 16;

thread_local! {
    static HINTS: RefCell<[Option<(IpAddr, Operation)>; ROOM]> = const { RefCell::new([None; ROOM]) };
    static NEXT: Cell<usize> = const { Cell::new(0) };
}

/// Remembers what is about to happen to an address, instead of what was told of it before.
pub fn tell(address: IpAddr, operation: Operation) {
    HINTS.with_borrow_mut(|hints| {
        let known = hints.iter().position(|hint| hint.is_some_and(|(known, _)| known == address));
        let place = known.unwrap_or_else(|| NEXT.replace((NEXT.get() + 1) % ROOM));
        hints[place] = Some((address, operation));
    });
}

/// What was told of an address, once.
pub fn told(address: IpAddr) -> Option<Operation> {
    HINTS.with_borrow_mut(|hints| {
        let hint = hints.iter_mut().find(|hint| hint.is_some_and(|(known, _)| known == address))?;
        hint.take().map(|(_, operation)| operation)
    })
}
