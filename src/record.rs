//! The JSON record of a lease, the key that it stands under, and what is read back from one. No I/O.

use std::borrow::Cow;
use std::fmt::Write;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use foldhash::quality::RandomState;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::lease::{Lease, Operation, Owner, Protocol};
use crate::lifetime;

/// Characters of an address, at most: an IPv6 address without `::`.
const LONGEST_ADDRESS: usize = 39;

/// Where a server's records stand: `<prefix>/leases/`.
#[derive(Clone, Debug)]
pub struct LeaseKeys {
    base: String,
}

impl LeaseKeys {
    /// The keys below `prefix`, which has no slash at its end.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { base: format!("{prefix}/leases/") }
    }

    /// What every key begins with.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The key of an address: its canonical text (RFC 5952 for IPv6) after the base.
    #[must_use]
    pub fn of(&self, address: IpAddr) -> String {
        let mut key = String::with_capacity(self.base.len() + LONGEST_ADDRESS);
        key.push_str(&self.base);
        write!(key, "{address}").expect("a string takes all");
        key
    }

    /// The address that a key is of; `None` for any other key.
    #[must_use]
    pub fn address(&self, key: &[u8]) -> Option<IpAddr> {
        let text = std::str::from_utf8(key).ok()?.strip_prefix(&self.base)?;
        let address: IpAddr = text.parse().ok()?;
        (address.to_string() == text).then_some(address)
    }
}

/// The record in the order that its readers rely on: `ip` first, `operation` second.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record<'a> {
    ip: IpAddr,
    operation: Cow<'a, str>,
    state: u32,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    lease_type: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix_len: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hwaddr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iaid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
    fqdn_fwd: bool,
    fqdn_rev: bool,
    subnet_id: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    pool_id: u32,
    cltt: i64,
    valid_lft: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    preferred_lft: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    relay_ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_context: Option<Value>,
    timestamp: i64,
    server: Cow<'a, str>,
}

impl<'a> Record<'a> {
    fn new(lease: &Lease, operation: &'a str, relay: Option<IpAddr>, timestamp: i64, server: &'a str) -> Self {
        let mut record = Record {
            ip: lease.address,
            operation: operation.into(),
            state: lease.state,
            lease_type: None,
            prefix_len: None,
            hwaddr: hex(&lease.hwaddr),
            client_id: None,
            duid: None,
            iaid: None,
            hostname: (!lease.hostname.is_empty()).then(|| text(&lease.hostname)),
            fqdn_fwd: lease.fqdn_fwd,
            fqdn_rev: lease.fqdn_rev,
            subnet_id: lease.subnet_id,
            pool_id: lease.pool_id,
            cltt: lease.cltt,
            valid_lft: lease.valid_lft,
            preferred_lft: None,
            expires_at: lease.expires_at(),
            relay_ip: relay,
            user_context: context(&lease.user_context),
            timestamp,
            server: server.into(),
        };
        match &lease.protocol {
            Protocol::V4 { client_id } => record.client_id = hex(client_id),
            Protocol::V6 { lease_type, prefix_len, duid, iaid, preferred_lft } => {
                record.lease_type = Some(lease_type.name().into());
                record.prefix_len = Some(*prefix_len);
                record.duid = hex(duid);
                record.iaid = Some(*iaid);
                record.preferred_lft = Some(*preferred_lft);
            }
        }
        record
    }

    fn json(&self) -> Vec<u8> {
        // Most are shorter; growing took a tenth of the time of a record.
        let mut json = Vec::with_capacity(512);
        serde_json::to_writer(&mut json, self).expect("a record has a JSON form");
        json
    }

    fn identifiers(&self) -> Identifiers {
        Identifiers {
            hwaddr: self.hwaddr.clone(),
            client_id: self.client_id.clone(),
            duid: self.duid.clone(),
            iaid: self.iaid,
            hostname: self.hostname.clone(),
        }
    }

    /// What the lease database tells, without what only the change knew: its operation, relay, time and server.
    fn content(&self) -> Content {
        static STATE: LazyLock<RandomState> = LazyLock::new(RandomState::default);
        #[rustfmt::skip]
        let Self {
            ip, operation: _, state, lease_type, prefix_len, hwaddr, client_id, duid, iaid, hostname, fqdn_fwd, fqdn_rev, subnet_id,
            pool_id, cltt, valid_lft, preferred_lft, expires_at, relay_ip: _, user_context, timestamp: _, server: _,
        } = self;
        let whose = (ip, lease_type, prefix_len, hwaddr, client_id, duid, iaid, hostname, fqdn_fwd, fqdn_rev);
        let lasts = (cltt, valid_lft, preferred_lft, expires_at);
        // As text, which tells 0 from -0.
        let user_context = user_context.as_ref().map(Value::to_string);
        let all = (whose, lasts, state, subnet_id, pool_id, user_context);
        Content(STATE.hash_one(all))
    }
}

/// What a record says of the lease itself, as a number to compare within this process: equal records give equal ones, and two
/// different ones the same with a probability of about 2^-64, that nobody outside can raise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content(u64);

impl Content {
    /// What the record of `lease` says.
    #[must_use]
    pub fn of(lease: &Lease) -> Self {
        Record::new(lease, "", None, 0, "").content()
    }
}

/// The record of `lease` as compact JSON. `timestamp` is when Kea made the change, seconds since the epoch; `server`
/// is the writer's `server-name`.
///
/// # Panics
/// Never: every field has a JSON form.
#[must_use]
pub fn to_json(lease: &Lease, operation: Operation, relay: Option<IpAddr>, timestamp: i64, server: &str) -> Vec<u8> {
    Record::new(lease, operation.name(), relay, timestamp, server).json()
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A time, seconds since the epoch, as it is held against others: those of servers fit 32 bits, until 2106, and any other
/// counts as the oldest. A forged record of a later time would be newer than every lease.
#[must_use]
pub fn age(time: i64) -> u32 {
    u32::try_from(time).unwrap_or(0)
}

/// Colon-separated lower-case hex, as Kea spells identifiers; `None` for no bytes.
fn hex(bytes: &[u8]) -> Option<String> {
    // Formatting each byte took two fifths of the time of a record.
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 3);
    for byte in bytes {
        if !text.is_empty() {
            text.push(':');
        }
        for digit in [byte >> 4, byte & 0xf] {
            text.push(char::from(DIGITS[usize::from(digit)]));
        }
    }
    (!text.is_empty()).then_some(text)
}

/// A host name's bytes as text: UTF-8 as it is, other bytes one character each (ISO 8859-1), so that none is lost.
/// Kea's own JSON does the latter for every byte above 0x7e (`StringElement::toJSON`).
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|&byte| char::from(byte)).collect(),
    }
}

/// A user context as JSON; `None` where there is none. Kea gives JSON; should it ever not be, its text is kept rather than
/// lost.
fn context(text: &str) -> Option<Value> {
    if text.is_empty() {
        return None;
    }
    // In a list, as deep as in the record: a deeper one could be written and not be read back.
    match serde_json::from_str::<[Value; 1]>(&format!("[{text}]")) {
        // Which reads back as no context.
        Ok([Value::Null]) => None,
        Ok([context]) => Some(context),
        Err(_) => Some(text.into()),
    }
}

/// What is read back from a record: whether another change may replace it, and which index keys it has.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Summary {
    /// Who wrote it.
    pub server: String,
    /// Client's last transaction time, seconds since the epoch.
    pub cltt: i64,
    /// When Kea made the change, seconds since the epoch.
    pub timestamp: i64,
    /// When the lease ends; absent for an infinite lifetime.
    pub expires_at: Option<i64>,
    /// The lease's identifiers.
    #[serde(flatten)]
    pub identifiers: Identifiers,
    /// `None` when the record is not in the form that this version writes.
    #[serde(skip)]
    pub content: Option<Content>,
}

/// What identifies the holder of a lease, in the record's spelling.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Identifiers {
    /// Hardware address.
    pub hwaddr: Option<String>,
    /// DHCPv4 client identifier.
    pub client_id: Option<String>,
    /// DHCPv6 DUID.
    pub duid: Option<String>,
    /// DHCPv6 identity association.
    pub iaid: Option<u32>,
    /// Host name.
    pub hostname: Option<String>,
}

impl Identifiers {
    /// Those of `lease`.
    #[must_use]
    pub fn of(lease: &Lease) -> Self {
        Record::new(lease, "", None, 0, "").identifiers()
    }
}

impl From<&Owner> for Identifiers {
    fn from(owner: &Owner) -> Self {
        let (client, is_v6) = (hex(&owner.client), owner.iaid.is_some());
        Self {
            hwaddr: hex(&owner.hwaddr),
            client_id: client.clone().filter(|_| !is_v6),
            duid: client.filter(|_| is_v6),
            iaid: owner.iaid,
            hostname: (!owner.hostname.is_empty()).then(|| text(&owner.hostname)),
        }
    }
}

impl Summary {
    /// Reads a value from etcd; `None` when it is no record of ours, whoever wrote it.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let Ok(record) = serde_json::from_slice::<Record>(value) else {
            // Of another version of this library, or edited.
            return serde_json::from_slice(value).ok();
        };
        let ours_in_form = record.json() == value;
        Some(Self {
            server: record.server.clone().into_owned(),
            cltt: record.cltt,
            timestamp: record.timestamp,
            expires_at: record.expires_at,
            identifiers: record.identifiers(),
            content: ours_in_form.then(|| record.content()),
        })
    }

    /// Whether the lease ended, and the time after that in which its server may still remove the record.
    #[must_use]
    pub fn is_past_its_end(&self, grace: i64, now: i64) -> bool {
        lifetime::has_passed(self.expires_at, grace, now)
    }

    /// Whether the record is about the lease that went, or an earlier one of the same owner.
    #[must_use]
    pub fn is_about(&self, gone: &Owner) -> bool {
        age(self.cltt) <= age(gone.cltt) && self.belongs_to(gone)
    }

    /// Whether the record's lease belongs to `owner`. DHCPv4 tells clients apart by the client identifier where both
    /// have one, else by the hardware address (RFC 2131 section 4.2); DHCPv6 by DUID and IAID (RFC 8415 section 12). A
    /// declined address belongs to nobody: neither side names anyone then.
    fn belongs_to(&self, owner: &Owner) -> bool {
        let ours = &self.identifiers;
        let (client, hwaddr) = (hex(&owner.client), hex(&owner.hwaddr));
        if owner.iaid.is_some() {
            return ours.iaid == owner.iaid && ours.duid == client;
        }
        if client.is_some() && ours.client_id.is_some() { ours.client_id == client } else { ours.hwaddr == hwaddr }
    }
}

/// A relay's address as the record tells it: `None` for a message that came straight from the client.
#[must_use]
pub fn relay(address: IpAddr) -> Option<IpAddr> {
    (!address.is_unspecified()).then_some(address)
}

/// The address that 32 bits in host order stand for, as Kea counts them.
#[must_use]
pub fn v4(bits: u32) -> IpAddr {
    Ipv4Addr::from_bits(bits).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{INFINITE_LIFETIME, Identifier, LeaseType};
    use proptest::prelude::*;

    fn v4_lease() -> Lease {
        Lease {
            hwaddr: Identifier::from_slice(&[0xaa, 0xbb, 0xcc, 0, 1, 2]),
            protocol: Protocol::V4 { client_id: Identifier::from_slice(&[1, 0xaa]) },
            hostname: b"printer.example".as_slice().into(),
            fqdn_rev: true,
            subnet_id: 7,
            cltt: 1_700_000_000,
            ..Lease::plain_v4(0xc000_020a)
        }
    }

    fn json(lease: &Lease, relay: Option<IpAddr>) -> String {
        String::from_utf8(to_json(lease, Operation::Offer, relay, 1_700_000_001, "dhcp-a")).unwrap()
    }

    #[test]
    fn a_v4_record_has_its_fields_in_the_documented_order() {
        assert_eq!(
            json(&v4_lease(), Some("192.0.2.1".parse().unwrap())),
            r#"{"ip":"192.0.2.10","operation":"offer","state":0,"hwaddr":"aa:bb:cc:00:01:02","client_id":"01:aa","hostname":"printer.example","fqdn_fwd":false,"fqdn_rev":true,"subnet_id":7,"cltt":1700000000,"valid_lft":3600,"expires_at":1700003600,"relay_ip":"192.0.2.1","timestamp":1700000001,"server":"dhcp-a"}"#
        );
    }

    #[test]
    fn a_pool_is_told_where_kea_has_one() {
        let lease = Lease { pool_id: 3, ..v4_lease() };
        assert!(json(&lease, None).contains(r#""subnet_id":7,"pool_id":3,"cltt""#));
        assert!(Summary::parse(json(&lease, None).as_bytes()).unwrap().content == Some(Content::of(&lease)));
    }

    #[test]
    fn a_delegated_prefix_tells_type_length_and_preferred_lifetime() {
        let mut lease = v4_lease();
        lease.address = "2001:db8:1:0:0:0:0:0".parse().unwrap();
        lease.hwaddr = Identifier::new();
        lease.hostname = [].into();
        lease.protocol = Protocol::V6 {
            lease_type: LeaseType::Pd,
            prefix_len: 56,
            duid: Identifier::from_slice(&[0, 1, 2]),
            iaid: 9,
            preferred_lft: 1800,
        };
        assert_eq!(
            json(&lease, None),
            r#"{"ip":"2001:db8:1::","operation":"offer","state":0,"type":"IA_PD","prefix_len":56,"duid":"00:01:02","iaid":9,"fqdn_fwd":false,"fqdn_rev":true,"subnet_id":7,"cltt":1700000000,"valid_lft":3600,"preferred_lft":1800,"expires_at":1700003600,"timestamp":1700000001,"server":"dhcp-a"}"#
        );
    }

    #[test]
    fn an_infinite_lease_does_not_expire() {
        let lease = Lease { valid_lft: INFINITE_LIFETIME, ..v4_lease() };
        assert!(!json(&lease, None).contains("expires_at"));
    }

    #[test]
    fn host_names_keep_utf8_and_lose_no_other_byte() {
        let utf8 = Lease { hostname: "büro".as_bytes().into(), ..v4_lease() };
        assert!(json(&utf8, None).contains(r#""hostname":"büro""#));
        let latin1 = Lease { hostname: [b'a', 0xff, b'"', 0].into(), ..v4_lease() };
        assert!(json(&latin1, None).contains(r#""hostname":"aÿ\"\u0000""#));
    }

    #[test]
    fn a_user_context_is_embedded_as_json_without_spaces() {
        let lease = Lease { user_context: r#"{ "b": 1, "a": [ "x y" ] }"#.into(), ..v4_lease() };
        assert!(json(&lease, None).contains(r#""user_context":{"b":1,"a":["x y"]}"#));
        let broken = Lease { user_context: "{oops".into(), ..v4_lease() };
        assert!(json(&broken, None).contains(r#""user_context":"{oops""#));
    }

    #[test]
    fn every_user_context_reads_back_in_its_record() {
        for depth in 120..=130 {
            let context = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            let lease = Lease { user_context: context.clone().into(), ..v4_lease() };
            assert!(json(&lease, None).contains(&context));
            let summary = Summary::parse(json(&lease, None).as_bytes());
            assert_eq!(summary.unwrap().content, Some(Content::of(&lease)), "{depth} levels");
        }
        let lease = Lease { user_context: " null ".into(), ..v4_lease() };
        assert_eq!(json(&lease, None), json(&v4_lease(), None));
    }

    #[test]
    fn owners_are_told_apart_as_the_protocols_do() {
        let summary = Summary::parse(json(&v4_lease(), None).as_bytes()).unwrap();
        let mut owner = v4_lease().owner();
        assert!(summary.is_about(&owner));
        owner.hwaddr = Identifier::from_slice(&[9]);
        assert!(summary.is_about(&owner), "the client identifier decides");
        owner.client = Identifier::new();
        assert!(!summary.is_about(&owner), "without one the hardware address does");
    }

    #[test]
    fn keys_are_canonical() {
        let keys = LeaseKeys::new("/nnoe/dhcp");
        assert_eq!(keys.of("2001:DB8:0:0::100".parse().unwrap()), "/nnoe/dhcp/leases/2001:db8::100");
        assert_eq!(keys.of(v4(0xc000_020a)), "/nnoe/dhcp/leases/192.0.2.10");
    }

    proptest! {
        #[test]
        fn any_bytes_make_a_valid_record_that_reads_back(
            hostname in proptest::collection::vec(any::<u8>(), 0..255),
            context in "\\PC{0,60}",
            hwaddr in proptest::collection::vec(any::<u8>(), 0..20),
            client in proptest::collection::vec(any::<u8>(), 0..255),
            cltt in 0..i64::from(u32::MAX), valid_lft: u32, state: u32, server in "[a-z0-9.-]{1,20}",
        ) {
            let lease = Lease {
                hostname: hostname.as_slice().into(), user_context: context.into(), hwaddr: hwaddr.into(),
                protocol: Protocol::V4 { client_id: client.into() }, cltt, valid_lft, state, ..v4_lease()
            };
            let value = to_json(&lease, Operation::Renew, None, cltt, &server);
            let parsed: Value = serde_json::from_slice(&value).unwrap();
            prop_assert_eq!(parsed["hostname"].as_str().unwrap_or(""), text(&hostname));
            let summary = Summary::parse(&value).unwrap();
            prop_assert_eq!(summary.expires_at, lease.expires_at());
            prop_assert_eq!(summary.server, server);
        }

        #[test]
        fn reading_back_anything_at_all_never_panics(value in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Summary::parse(&value);
        }
    }
}
