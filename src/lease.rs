//! A lease as Kea's lease database holds it, and a change of one on its way to etcd. No I/O.

use std::net::IpAddr;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use smallvec::SmallVec;

/// The time, in seconds since the epoch as in leases.
#[must_use]
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// A valid or preferred lifetime that never ends (Kea `Lease::INFINITY_LFT`, RFC 8415 section 7.7).
pub const INFINITE_LIFETIME: u32 = 0xffff_ffff;

/// `state` of a lease that a client holds (Kea `Lease::STATE_DEFAULT`).
pub const STATE_ASSIGNED: u32 = 0;
/// `state` of an address that a client found in use (Kea `Lease::STATE_DECLINED`).
pub const STATE_DECLINED: u32 = 1;
/// `state` of a row that Kea keeps for a while after reclamation (Kea `Lease::STATE_EXPIRED_RECLAIMED`).
pub const STATE_EXPIRED_RECLAIMED: u32 = 2;
/// `state` of a row that Kea 3.0 keeps after a release (Kea `Lease::STATE_RELEASED`).
pub const STATE_RELEASED: u32 = 3;

/// Whether a row with this state and lifetime means that somebody holds the address. Rows that Kea keeps after reclamation
/// or release do not; Kea 2.6 gives a released one no lifetime, and Kea's lease file takes such a row for a removal
/// (`lease_file_loader.h`).
#[must_use]
pub fn is_held(state: u32, valid_lft: u32) -> bool {
    !matches!(state, STATE_EXPIRED_RECLAIMED | STATE_RELEASED) && valid_lft != 0
}

/// Which server loaded the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// kea-dhcp4.
    V4,
    /// kea-dhcp6.
    V6,
}

impl Family {
    /// The name in keys.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "dhcp4",
            Self::V6 => "dhcp6",
        }
    }

    /// Whether the server leases addresses of this kind.
    #[must_use]
    pub fn has(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }
}

/// Which of DHCPv6's identity associations a lease belongs to (RFC 8415 section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseType {
    /// A non-temporary address.
    Na,
    /// A temporary address.
    Ta,
    /// A delegated prefix.
    Pd,
}

impl LeaseType {
    /// The name in records and in Kea's commands.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Na => "IA_NA",
            Self::Ta => "IA_TA",
            Self::Pd => "IA_PD",
        }
    }

    /// The type that Kea's commands call `name`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Na, Self::Ta, Self::Pd].into_iter().find(|known| known.name() == name)
    }
}

/// A hardware address, a client identifier or a DUID. Up to 16 bytes, like those of most, take no memory of their own: what a
/// packet thread takes from the allocator and the worker gives back costs both of them.
pub type Identifier = SmallVec<[u8; 16]>;

/// What only one of the two protocols knows of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// DHCPv4 (RFC 2131).
    V4 {
        /// The client identifier (option 61); empty when the client sent none.
        client_id: Identifier,
    },
    /// DHCPv6 (RFC 8415).
    V6 {
        /// The kind of lease.
        lease_type: LeaseType,
        /// 128, or the length of the delegated prefix.
        prefix_len: u8,
        /// The client's DUID.
        duid: Identifier,
        /// The identity association.
        iaid: u32,
        /// Seconds, or [`INFINITE_LIFETIME`].
        preferred_lft: u32,
    },
}

/// One row of the lease database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The address, or the base address of a delegated prefix.
    pub address: IpAddr,
    /// Kea's number for the state.
    pub state: u32,
    /// The hardware address; empty when Kea holds none.
    pub hwaddr: Identifier,
    /// What only DHCPv4 or DHCPv6 knows.
    pub protocol: Protocol,
    /// The host name, in whatever bytes Kea holds; empty when there is none.
    pub hostname: Box<[u8]>,
    /// Whether DNS was updated forward.
    pub fqdn_fwd: bool,
    /// Whether DNS was updated in reverse.
    pub fqdn_rev: bool,
    /// The subnet.
    pub subnet_id: u32,
    /// The pool (Kea 2.4 and later); 0 for none.
    pub pool_id: u32,
    /// Client's last transaction time, seconds since the epoch.
    pub cltt: i64,
    /// Seconds, or [`INFINITE_LIFETIME`].
    pub valid_lft: u32,
    /// JSON text; empty when there is none.
    pub user_context: Box<str>,
}

impl Lease {
    /// Whether the row means that somebody holds the address.
    #[must_use]
    pub fn is_held(&self) -> bool {
        is_held(self.state, self.valid_lft)
    }

    /// When the lease ends, in seconds since the epoch; `None` when it never does.
    #[must_use]
    pub fn expires_at(&self) -> Option<i64> {
        (self.valid_lft != INFINITE_LIFETIME).then(|| self.cltt.saturating_add(i64::from(self.valid_lft)))
    }

    /// Who holds the lease.
    #[must_use]
    pub fn owner(&self) -> Owner {
        let (client, iaid) = match &self.protocol {
            Protocol::V4 { client_id } => (client_id.clone(), None),
            Protocol::V6 { duid, iaid, .. } => (duid.clone(), Some(*iaid)),
        };
        Owner { hwaddr: self.hwaddr.clone(), client, iaid, cltt: self.cltt, hostname: self.hostname.clone() }
    }
}

#[cfg(test)]
impl Lease {
    /// A DHCPv4 lease of an hour that knows no more than its address, for tests to fill in.
    pub(crate) fn plain_v4(address: u32) -> Self {
        Self {
            address: std::net::Ipv4Addr::from_bits(address).into(),
            state: STATE_ASSIGNED,
            hwaddr: Identifier::new(),
            protocol: Protocol::V4 { client_id: Identifier::new() },
            hostname: [].into(),
            fqdn_fwd: false,
            fqdn_rev: false,
            subnet_id: 1,
            pool_id: 0,
            cltt: 0,
            valid_lft: 3600,
            user_context: "".into(),
        }
    }
}

/// Which lease a removal is about: whose it was, and as of when.
///
/// The owner is the client identifier or hardware address of DHCPv4, DUID and IAID of DHCPv6.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The hardware address; may be empty.
    pub hwaddr: Identifier,
    /// Client identifier or DUID; may be empty for DHCPv4.
    pub client: Identifier,
    /// The identity association; `None` for DHCPv4.
    pub iaid: Option<u32>,
    /// `cltt` of the lease that went: a record with a later one is about a newer lease.
    pub cltt: i64,
    /// The host name; empty when there was none.
    pub hostname: Box<[u8]>,
}

impl Owner {
    /// Whether both are the same client, whatever the lease.
    #[must_use]
    pub fn is_holder(&self, other: &Self) -> bool {
        (&self.hwaddr, &self.client, self.iaid) == (&other.hwaddr, &other.client, other.iaid)
    }
}

/// What last changed a lease, as the record tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Newly assigned.
    Offer,
    /// Renewed by its holder.
    Renew,
    /// Rebound by its holder (DHCPv6).
    Rebind,
    /// A client found the address in use.
    Decline,
    /// The probation of a declined address ended.
    Recover,
    /// Added by a command.
    Add,
    /// Changed by a command.
    Update,
    /// Found by comparison with the lease database, or by watching etcd: nobody told of it.
    Sync,
}

impl Operation {
    /// The value of the record's field `operation`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Offer => "offer",
            Self::Renew => "renew",
            Self::Rebind => "rebind",
            Self::Decline => "decline",
            Self::Recover => "recover",
            Self::Add => "add",
            Self::Update => "update",
            Self::Sync => "sync",
        }
    }
}

/// What the lease database held of an address when it was read again after a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// A lease that somebody holds, or a declined one.
    Held {
        /// The lease.
        lease: Lease,
        /// The first relay's address, when the client's message was relayed.
        relay: Option<IpAddr>,
    },
    /// No lease.
    Gone {
        /// Which lease went, where the callout told.
        owner: Option<Owner>,
    },
}

/// A change on its way to etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When Kea made it, seconds since the epoch. Of a change that nobody told of, the lease's `cltt`: it was made
    /// then or later, so it never counts as newer than what another server tells of the same transaction.
    pub timestamp: i64,
    /// When it, or an older one that it replaced, was queued; `None` when nobody told of it.
    pub queued: Option<Instant>,
    /// What made it; of the end of a lease that was newly assigned and not written yet, that it was (see
    /// [`takes_back`](Self::takes_back)).
    pub operation: Operation,
    /// What the lease database holds since.
    pub row: Row,
}

impl Change {
    /// Whether nobody told of it: a comparison or the watch found it.
    #[must_use]
    pub fn is_finding(&self) -> bool {
        self.operation == Operation::Sync
    }

    /// Whether it is the end of a lease that was newly assigned and, as far as this change knows, not written: unless the key is
    /// known to exist, there is most likely none.
    #[must_use]
    pub fn takes_back(&self) -> bool {
        self.operation == Operation::Offer && matches!(self.row, Row::Gone { .. })
    }

    /// Takes over from an `older` change of the same address, which this one replaces, whose lease went, if this is a
    /// removal that does not know, and that it [takes back](Self::takes_back) what was not written. What a finding read may be a
    /// lease that somebody else took away, for a reason of which nobody told; another server may still keep it.
    pub fn inherit(&mut self, older: &Self) {
        if older.is_finding() {
            return;
        }
        self.queued = older.queued.or(self.queued);
        let Row::Gone { owner } = &mut self.row else { return };
        if owner.is_none() {
            *owner = match &older.row {
                Row::Held { lease, .. } => Some(lease.owner()),
                Row::Gone { owner } => owner.clone(),
            };
        }
        if older.operation == Operation::Offer && !self.is_finding() {
            self.operation = older.operation;
        }
    }

    /// Whether this change takes the place of an `older` one of the same address that still waits. A finding does not
    /// when it found what is waiting anyway: the older one knows the operation.
    #[must_use]
    pub fn replaces(&self, older: &Self) -> bool {
        !self.is_finding()
            || match (&self.row, &older.row) {
                (Row::Held { lease, .. }, Row::Held { lease: waiting, .. }) => lease != waiting,
                (Row::Gone { .. }, Row::Gone { .. }) => false,
                _ => true,
            }
    }

    /// An upper estimate of the record's length in bytes.
    #[must_use]
    pub fn estimated_bytes(&self) -> usize {
        // Names, numbers and identifiers of a record stay well below this; hex takes three characters a byte, an
        // escaped character six.
        const FIXED: usize = 1024;
        match &self.row {
            Row::Held { lease, .. } => FIXED + 6 * lease.hostname.len() + 2 * lease.user_context.len(),
            Row::Gone { .. } => 64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_change_that_replaces_a_waiting_one_waits_since_the_first_was_queued() {
        let first = Instant::now();
        let second = first + Duration::from_secs(1);
        let change = |operation, queued| Change { timestamp: 1, queued, operation, row: Row::Gone { owner: None } };
        for (older, is_kept) in [
            (change(Operation::Offer, Some(first)), true),
            // Nobody told of it.
            (change(Operation::Sync, None), false),
        ] {
            let mut newer = change(Operation::Renew, Some(second));
            newer.inherit(&older);
            assert_eq!(newer.queued, Some(if is_kept { first } else { second }));
        }
    }
}
