//! `libdhcp_etcd.so`: a Kea hook library that keeps every DHCP lease as a JSON record in etcd.
//!
//! A lease's way, and the modules on it:
//!
//! 1. [`bridge`](self): Kea calls an exported callout; the C++ shim unpacks its arguments.
//! 2. [`mirror`]: what the hook point means; the lease database is read again, under a lock of the address.
//! 3. [`handover`]: the bounded map of the newest change per address that the worker empties.
//! 4. [`worker`]: the one thread that talks to etcd.
//! 5. [`pending`]: which changes wait, which are under way, which revision each key had; makes the batches.
//! 6. [`etcd`]: a batch as a guarded transaction; what a failure means.
//! 7. [`guard`]: who wins when a key holds something else than expected.
//!
//! Beside it: [`lease`] and [`record`] (what a lease is, and its JSON), [`config`] (the parameters), [`messages`] and
//! [`log`] (Kea's log), [`counters`] (Kea's statistics). Only the bridge needs Kea; without the feature `kea` the rest is
//! built and tested alone.

#[cfg(feature = "kea")]
mod bridge;
pub mod config;
pub mod counters;
pub mod etcd;
pub mod guard;
pub mod handover;
pub mod lease;
pub mod log;
pub mod messages;
pub mod mirror;
pub mod pending;
pub mod record;
pub mod worker;
