//! Leases, and a Kea that has them, for the benchmarks of the library without a server.

use std::net::{IpAddr, Ipv6Addr};

use dhcp_etcd::committed::Shown;
use dhcp_etcd::index::Index;
use dhcp_etcd::lease::{Identifier, Lease, LeaseType, Operation, Protocol};
use dhcp_etcd::lifetime::Lifetime;
use dhcp_etcd::mirror::Kea;
use dhcp_etcd::record::{LeaseKeys, to_json, v4};
use dhcp_etcd::writer::Writer;

/// Seconds since the epoch.
pub const NOW: i64 = 1_700_000_000;

/// A DHCPv4 lease of a home network: hardware address, client identifier, host name.
pub fn lease(number: u32) -> Lease {
    let [_, a, b, c] = number.to_be_bytes();
    Lease {
        address: v4(0x0a00_0000 + number),
        state: 0,
        hwaddr: Identifier::from_slice(&[2, 0, 0, a, b, c]),
        protocol: Protocol::V4 { client_id: Identifier::from_slice(&[1, 2, 0, 0, a, b, c]) },
        hostname: b"printer.example.org".as_slice().into(),
        fqdn_fwd: false,
        fqdn_rev: false,
        subnet_id: 1,
        pool_id: 0,
        cltt: NOW,
        valid_lft: 3600,
        user_context: "".into(),
    }
}

/// The DHCPv6 lease of an address, of a home network likewise.
pub fn lease6(address: Ipv6Addr) -> Lease {
    let [.., a, b, c] = address.octets();
    Lease {
        address: address.into(),
        protocol: Protocol::V6 {
            lease_type: LeaseType::Na,
            prefix_len: 128,
            duid: Identifier::from_slice(&[0, 3, 0, 1, 2, 0, 0, a, b, c]),
            iaid: 1,
            preferred_lft: 1800,
        },
        ..lease(0)
    }
}

/// The record of a lease.
pub fn record(number: u32) -> Vec<u8> {
    to_json(&lease(number), Operation::Offer, None, NOW, "host")
}

/// What a server without index keys writes by.
pub fn writer() -> Writer {
    Writer {
        server: "host".into(),
        keys: LeaseKeys::new("/nnoe/dhcp"),
        index: Index::new("/nnoe/dhcp", &[]),
        lifetime: Some(Lifetime::new("/nnoe/dhcp", "host", "dhcp4", 120)),
        grace: 120,
    }
}

/// What a callout shows besides; nobody looks at it.
pub fn shown() -> Shown {
    Shown::new(|| None)
}

/// A server that has every lease, and makes it when it is read.
#[derive(Default)]
pub struct Leases {
    /// Whether its lease database tells every write, as from Kea 2.4 on.
    pub tells_writes: bool,
    /// Whether it is in Kea's memory.
    pub in_memory: bool,
}

impl Kea for Leases {
    fn read_lease(&self, address: IpAddr, _: LeaseType) -> Result<Option<Lease>, String> {
        Ok(Some(match address {
            IpAddr::V4(address) => lease(address.to_bits() & 0x00ff_ffff),
            IpAddr::V6(address) => lease6(address),
        }))
    }

    fn read_page(&self, _: IpAddr, _: usize) -> Result<Vec<Lease>, String> {
        Ok(Vec::new())
    }

    fn version(&self) -> String {
        String::new()
    }

    fn on_main_thread(&self) -> bool {
        false
    }

    fn lease_database_open(&self) -> bool {
        true
    }

    fn lease_database_in_memory(&self) -> bool {
        self.in_memory
    }

    fn track_lease_database(&self) -> bool {
        self.tells_writes
    }

    fn wake_main_loop(&self) {}

    fn give_way(&self) {}

    fn set_statistic(&self, _: &str, _: i64) {}

    fn without_signals(&self, _: &mut dyn FnMut()) {}
}
