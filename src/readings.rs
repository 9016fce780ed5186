//! What the worker wants read from the lease database, which only Kea's main thread may read: a page for a comparison,
//! and addresses that are to be read again. A turn of the main loop reads a page, and addresses for a millisecond; the
//! worker asks for another turn a little later, since the main loop reads packets only while nobody asks.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::lease::Lease;
use crate::pending::MAX_OPERATIONS;

/// Leases of a page: when none of them has a record, they fill two transactions. Reading one takes a time that grows with
/// the square of this: 0.16 ms (Kea 2.2 memfile).
pub const PAGE: usize = 2 * MAX_OPERATIONS;

/// How long a turn of the main loop reads: what was committed, and when nothing of that is left, a page, a marked address and
/// one that is wanted in any case, and others until then. Kea reads no packet meanwhile, and an address costs 0.3 microseconds in memory, but a query of its own in an SQL
/// database.
pub const TURN: Duration = Duration::from_millis(1);

/// Which page of the lease database is wanted, and for which comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The comparison's number.
    pub number: u64,
    /// The address that the page comes after.
    pub after: IpAddr,
}

/// A page that was read, or Kea's reason why not.
type Page = Result<Vec<Lease>, String>;

#[derive(Debug, Default)]
struct State {
    wanted: Option<Ticket>,
    addresses: VecDeque<IpAddr>,
    /// Addresses that Kea's threads suspect.
    suspects: Vec<IpAddr>,
    /// Whether a turn has taken an address that it has not read yet.
    reading: bool,
    /// Whether it has taken any.
    has_read: bool,
    /// Whether a turn has left something to be read.
    unfinished: bool,
    /// The page that was read last.
    page: Option<(Ticket, Page)>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Readings {
    state: Mutex<State>,
    arrived: Notify,
}

impl Readings {
    /// The worker wants a page.
    pub fn want_page(&self, ticket: Ticket) {
        let mut state = self.lock();
        state.wanted = Some(ticket);
        state.page = None;
    }

    /// The worker wants addresses read again.
    pub fn want_addresses(&self, addresses: impl Iterator<Item = IpAddr>) {
        self.lock().addresses.extend(addresses);
    }

    /// How many addresses are still to be read.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let state = self.lock();
        state.addresses.len() + usize::from(state.reading)
    }

    /// The page that was wanted, once it was read.
    pub fn take_page(&self, wanted: Ticket) -> Option<Page> {
        let (ticket, page) = self.lock().page.take()?;
        // What was read for a comparison that was given up is older than the next one.
        (ticket == wanted).then_some(page)
    }

    /// Returns when something was read.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Kea's threads suspect that the record of an address is behind; the worker is told at the end of a turn.
    pub fn suspect(&self, address: IpAddr) {
        self.lock().suspects.push(address);
    }

    /// What they suspect.
    pub fn take_suspects(&self) -> Vec<IpAddr> {
        std::mem::take(&mut self.lock().suspects)
    }

    /// Whether a turn of the main loop left something to be read, so that another one is wanted; once.
    pub fn take_unfinished(&self) -> bool {
        std::mem::take(&mut self.lock().unfinished)
    }

    /// The page that is wanted. It stays so until it was read: a turn may not come to its end.
    #[must_use]
    pub fn next_page(&self) -> Option<Ticket> {
        self.lock().wanted
    }

    /// The main thread takes over an address that is to be read; the one before has been read.
    pub fn next_address(&self) -> Option<IpAddr> {
        let mut state = self.lock();
        let next = state.addresses.pop_front();
        state.reading = next.is_some();
        state.has_read |= state.reading;
        next
    }

    /// A turn of the main loop ends: the page that it read, if one was wanted, and whether something is left.
    pub fn turned(&self, page: Option<(Ticket, Page)>, unfinished: bool) {
        let mut state = self.lock();
        state.reading = false;
        state.unfinished |= unfinished || !state.addresses.is_empty();
        let has_read = std::mem::take(&mut state.has_read) || page.is_some();
        let has_arrived = has_read || state.unfinished || !state.suspects.is_empty();
        if let Some((ticket, _)) = &page {
            state.wanted = state.wanted.filter(|wanted| wanted != ticket);
            state.page = page;
        }
        drop(state);
        if has_arrived {
            self.arrived.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::v4;

    #[test]
    fn a_page_is_wanted_until_a_turn_came_to_its_end_with_it() {
        let (readings, ticket) = (Readings::default(), Ticket { number: 1, after: v4(0) });
        readings.want_page(ticket);
        assert_eq!(readings.next_page(), Some(ticket));
        assert_eq!(readings.next_page(), Some(ticket), "that turn failed");
        readings.turned(Some((ticket, Ok(Vec::new()))), false);
        assert_eq!((readings.next_page(), readings.take_page(ticket)), (None, Some(Ok(Vec::new()))));
    }

    #[test]
    fn a_page_for_a_comparison_that_was_given_up_is_not_the_one_that_is_wanted() {
        let (readings, [before, ticket]) = (Readings::default(), [1, 2].map(|number| Ticket { number, after: v4(0) }));
        readings.want_page(before);
        let page = readings.next_page().map(|ticket| (ticket, Ok(Vec::new())));
        readings.want_page(ticket);
        readings.turned(page, false);
        assert_eq!((readings.take_page(ticket), readings.next_page()), (None, Some(ticket)));
    }
}
