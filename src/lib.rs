//! `libdhcp_etcd.so`: a Kea hook library that keeps every DHCP lease as a JSON record in etcd.
//!
//! A lease's way, and the modules on it:
//!
//! 1. [`bridge`](self): Kea calls an exported callout; the C++ shim unpacks its arguments.
//! 2. [`mirror`]: what the hook point means ([`hints`], [`marks`], [`lease_commands`]); the lease database is read again, at the
//!    next turn of Kea's main loop ([`committed`]) or, where it is no memory of Kea's, at once.
//! 3. [`handover`]: the bounded map of the newest change per address that the worker empties; the memory of what was settled
//!    comes back the other way ([`spent`]).
//! 4. [`worker`]: the one thread that talks to etcd, over the [`link`] to one of its members.
//! 5. [`pending`]: which changes wait, which are under way, what is known of each key, which leases
//!    [`ended`], and which index keys are [`leftovers`]; makes the batches.
//! 6. [`writer`]: what a change becomes: the record, its [`index`] keys, and its [`lifetime`] in etcd.
//! 7. [`guard`]: who wins when a key holds something else than expected.
//! 8. [`etcd`]: a batch as a guarded transaction over a [`connection`]; what a [`failure`] means.
//!
//! What no callout tells is found by comparing everything: [`resync`] reads page by page, [`walk`] chooses the pages of
//! etcd's keys, [`comparison`] judges, by what it keeps in an [`address_table`]. Its [`suspects`], and those of the watch, are
//! read again; [`readings`] is where the worker asks Kea's main thread to read the lease database. [`revisions`] tells
//! when somebody else changes something, and [`history`] when etcd lost or restored data, so that a comparison is due.
//!
//! Beside it: [`lease`] and [`record`] (what a lease is, and its JSON), [`presence`] (that of the server), [`config`] (the
//! parameters), [`credential_files`] (what those of TLS and authentication name), [`commands`] and [`control`] (what
//! operators ask and get told), [`messages`] and [`log`] (Kea's log), [`counters`] (Kea's statistics), [`metrics`] and
//! [`scrape`] (what Prometheus is told, and where). Only the bridge needs Kea; without the feature `kea` the rest is built and
//! tested alone.

pub mod address_table;
#[cfg(feature = "kea")]
mod bridge;
pub mod commands;
pub mod committed;
pub mod comparison;
pub mod config;
pub mod connection;
pub mod control;
pub mod counters;
pub mod credential_files;
pub mod ended;
pub mod etcd;
pub mod failure;
pub mod guard;
pub mod handover;
pub mod hints;
pub mod history;
pub mod index;
pub mod lease;
pub mod lease_commands;
pub mod leftovers;
pub mod lifetime;
pub mod link;
pub mod log;
pub mod marks;
pub mod messages;
pub mod metrics;
pub mod mirror;
pub mod pending;
pub mod presence;
pub mod readings;
pub mod record;
pub mod resync;
pub mod revisions;
pub mod scrape;
pub mod spent;
pub mod suspects;
pub mod walk;
pub mod worker;
pub mod writer;
