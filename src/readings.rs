//! What the worker wants read from the lease database, which only Kea's main thread may read: a page for a comparison,
//! and addresses that are to be read again. A turn of the main loop reads one page and as many addresses, so that no
//! packet waits for more than that.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::lease::Lease;

/// Leases of a page. Reading one takes a time that grows with the square of this: 0.1 ms for 200 (Kea 2.2 memfile).
pub const PAGE: usize = 200;

/// What a turn of the main loop is to read.
#[derive(Debug, Default)]
pub struct Wanted {
    /// The page after this address.
    pub page_after: Option<IpAddr>,
    /// Addresses to be read again, at most [`PAGE`].
    pub addresses: Vec<IpAddr>,
    /// Whether there are more.
    pub more: bool,
}

#[derive(Debug, Default)]
struct State {
    page_after: Option<IpAddr>,
    addresses: VecDeque<IpAddr>,
    /// Addresses that the main thread suspects.
    suspects: Vec<IpAddr>,
    /// Addresses that a turn has taken and not read yet.
    being_read: usize,
    /// The page that was read last, and after which address.
    page: Option<(IpAddr, Result<Vec<Lease>, String>)>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Readings {
    state: Mutex<State>,
    arrived: Notify,
}

impl Readings {
    /// The worker wants the page after an address.
    pub fn want_page(&self, after: IpAddr) {
        let mut state = self.lock();
        state.page_after = Some(after);
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
        state.addresses.len() + state.being_read
    }

    /// The page after an address, once it was read.
    pub fn take_page(&self, wanted: IpAddr) -> Option<Result<Vec<Lease>, String>> {
        let (after, page) = self.lock().page.take()?;
        (after == wanted).then_some(page)
    }

    /// Returns when something was read.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// The main thread suspects that the records of these addresses are behind.
    pub fn suspect(&self, addresses: Vec<IpAddr>) {
        if !addresses.is_empty() {
            self.lock().suspects.extend(addresses);
            self.arrived.notify_one();
        }
    }

    /// What the main thread suspects.
    pub fn take_suspects(&self) -> Vec<IpAddr> {
        std::mem::take(&mut self.lock().suspects)
    }

    /// The main thread takes over what is wanted.
    pub fn take_wanted(&self) -> Wanted {
        let mut state = self.lock();
        let many = state.addresses.len().min(PAGE);
        state.being_read = many;
        Wanted {
            page_after: state.page_after.take(),
            addresses: state.addresses.drain(..many).collect(),
            more: !state.addresses.is_empty(),
        }
    }

    /// The main thread has read what it took over: the addresses, and the page if one was wanted.
    pub fn done(&self, page: Option<(IpAddr, Result<Vec<Lease>, String>)>) {
        let mut state = self.lock();
        state.being_read = 0;
        if page.is_some() {
            state.page = page;
        }
        drop(state);
        self.arrived.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
