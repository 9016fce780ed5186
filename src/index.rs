//! The secondary keys of a record: `<prefix>/index/<kind>/<value>/<address>`, to find a lease by who holds it. No I/O.

use std::net::IpAddr;

use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use crate::record::Identifiers;

/// By what a lease can be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The hardware address.
    HwAddress,
    /// The DHCPv4 client identifier.
    ClientId,
    /// The DHCPv6 DUID.
    Duid,
    /// The host name.
    Hostname,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::HwAddress, Self::ClientId, Self::Duid, Self::Hostname];

    /// The name in keys and in the parameter `index`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HwAddress => "hw-address",
            Self::ClientId => "client-id",
            Self::Duid => "duid",
            Self::Hostname => "hostname",
        }
    }

    fn value(self, identifiers: &Identifiers) -> Option<&str> {
        match self {
            Self::HwAddress => identifiers.hwaddr.as_deref(),
            Self::ClientId => identifiers.client_id.as_deref(),
            Self::Duid => identifiers.duid.as_deref(),
            Self::Hostname => identifiers.hostname.as_deref(),
        }
    }
}

/// What a value does not keep as it is, besides what is not ASCII: it would end the value, or is the escape itself.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'/').add(b'%');

/// The index keys that this server writes.
#[derive(Clone, Debug)]
pub struct Index {
    base: String,
    kinds: Vec<Kind>,
}

impl Index {
    /// The index of `kinds` below `prefix`.
    #[must_use]
    pub fn new(prefix: &str, kinds: &[Kind]) -> Self {
        Self { base: format!("{prefix}/index/"), kinds: kinds.to_vec() }
    }

    /// What every index key begins with.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Whether this server writes none.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.kinds.is_empty()
    }

    /// The keys that a record of this server has.
    #[must_use]
    pub fn keys(&self, identifiers: &Identifiers, address: IpAddr) -> Vec<String> {
        self.kinds.iter().filter_map(|kind| self.key(*kind, identifiers, address)).collect()
    }

    /// Every key that a record may have, whatever its server's parameters were.
    #[must_use]
    pub fn possible_keys(&self, identifiers: &Identifiers, address: IpAddr) -> Vec<String> {
        Kind::ALL.into_iter().filter_map(|kind| self.key(kind, identifiers, address)).collect()
    }

    /// The same with whether this server writes the key.
    pub fn slots(&self, identifiers: &Identifiers, address: IpAddr) -> impl Iterator<Item = (String, bool)> {
        let of_kind = move |kind| Some((self.key(kind, identifiers, address)?, self.kinds.contains(&kind)));
        Kind::ALL.into_iter().filter_map(of_kind)
    }

    fn key(&self, kind: Kind, identifiers: &Identifiers, address: IpAddr) -> Option<String> {
        let value = kind.value(identifiers)?;
        Some(format!("{}{}/{}/{address}", self.base, kind.name(), percent_encode(value.as_bytes(), ESCAPED)))
    }

    /// The address that an index key is of; `None` for any other key.
    #[must_use]
    pub fn address(&self, key: &[u8]) -> Option<IpAddr> {
        let rest = std::str::from_utf8(key).ok()?.strip_prefix(&self.base)?;
        let (kind, rest) = rest.split_once('/')?;
        let (_, address) = rest.rsplit_once('/')?;
        Kind::ALL.iter().any(|known| known.name() == kind).then(|| address.parse().ok())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::v4;

    fn identifiers(hostname: &str) -> Identifiers {
        Identifiers { hwaddr: Some("02:00:00:00:00:01".into()), hostname: Some(hostname.into()), ..Default::default() }
    }

    #[test]
    fn keys_are_those_of_the_kinds_that_the_lease_has() {
        let index = Index::new("/nnoe/dhcp", &[Kind::HwAddress, Kind::ClientId]);
        assert_eq!(
            index.keys(&identifiers("x"), v4(0xc000_0201)),
            ["/nnoe/dhcp/index/hw-address/02:00:00:00:00:01/192.0.2.1"]
        );
        assert_eq!(index.possible_keys(&identifiers("x"), v4(1)).len(), 2);
        assert!(Index::new("/p", &[]).keys(&identifiers("x"), v4(1)).is_empty());
    }

    #[test]
    fn values_are_escaped_where_they_would_break_the_key() {
        let index = Index::new("/p", &[Kind::Hostname]);
        for (hostname, value) in [
            ("printer.example", "printer.example"),
            ("a/b%c", "a%2Fb%25c"),
            ("b\u{fc}ro", "b%C3%BCro"),
            ("a b\t\u{7f}", "a b%09%7F"),
        ] {
            let keys = index.keys(&identifiers(hostname), v4(1));
            assert_eq!(keys, [format!("/p/index/hostname/{value}/0.0.0.1")]);
            assert_eq!(index.address(keys[0].as_bytes()), Some(v4(1)));
        }
    }

    #[test]
    fn other_keys_are_of_no_address() {
        let index = Index::new("/p", &[]);
        for key in
            ["/p/leases/0.0.0.1", "/p/index/hostname/0.0.0.1", "/p/index/size/x/0.0.0.1", "/p/index/hostname/x/y"]
        {
            assert_eq!(index.address(key.as_bytes()), None, "{key}");
        }
    }
}
