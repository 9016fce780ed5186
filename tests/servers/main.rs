//! The library in real servers: kea-dhcp4 and kea-dhcp6 on loopback, a real etcd, DHCP spoken as a relay agent.
//!
//! Every test starts servers of its own on free ports, so they run side by side. After each, the records in etcd are
//! compared field by field with what Kea's own `lease4-get-all` and `lease6-get-all` tell.

mod certificates;
mod client4;
mod client6;
mod etcd;
mod hosts;
mod journal;
mod kea;
mod left_out;
mod mirrored;
mod ports;
mod program;
#[expect(dead_code, reason = "the benchmark needs more of it")]
mod prometheus;
mod records;
mod sql;
mod tcp_link;

mod apparmor;
mod authentication;
mod bad_parameters;
mod chaos;
mod comparison;
mod etcd_faults;
mod expiry;
mod exported_symbols;
mod few_addresses;
mod ha;
mod hostile_keys;
mod index_keys;
mod life4;
mod life6;
mod memory;
mod metrics;
mod newer_kea;
mod operators;
mod real_clients;
mod reload;
mod role;
mod sample_configs;
mod sql_leases;
mod strange_leases;
mod tls;
mod two_servers;
mod watching;
