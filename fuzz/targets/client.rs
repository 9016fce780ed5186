//! What a client sends and Kea keeps in a lease: host names, hardware addresses, client identifiers and DUIDs of any
//! bytes; and user contexts.

use std::net::IpAddr;

use arbitrary::{Result, Unstructured};
use dhcp_etcd::index::{Index, Kind};
use dhcp_etcd::lease::{Change, Family, Lease, LeaseType, Operation, Protocol, Row};
use dhcp_etcd::record::{Content, Identifiers, Summary, to_json};
use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::store::{Store, kinds, writer};
use super::{NOW, PREFIX, SERVER};

/// Takes the input as some leases, written one after the other.
pub fn try_input(input: &[u8]) {
    let mut bytes = Unstructured::new(input);
    let Ok([kind_bits, switches, many]) = bytes.arbitrary::<[u8; 3]>() else { return };
    let family = if switches & 1 == 1 { Family::V6 } else { Family::V4 };
    let mut store = Store::new(writer(family, &kinds(kind_bits), switches & 2 == 2), family);
    for _ in 0..=many % 8 {
        let Ok((lease, operation, relay)) = lease(&mut bytes, family) else { break };
        let timestamp = if operation == Operation::Sync { lease.cltt } else { NOW };
        record(&lease, operation, relay, timestamp);
        index_keys(&store.writer.index, &lease);
        let address = lease.address;
        let row = if lease.is_held() {
            store.leases.insert(address, lease.clone());
            Row::Held { lease, relay }
        } else {
            let owner = store.leases.remove(&address).map(|lease| lease.owner());
            Row::Gone { owner }
        };
        store.write(address, &Change { timestamp, queued: None, operation, row });
    }
    // What was written as it came is what a comparison would have written.
    let (findings, suspects, orphans) = store.compare(None);
    assert!(suspects.is_empty() && orphans.is_empty(), "{findings:?}");
}

fn lease(bytes: &mut Unstructured, family: Family) -> Result<(Lease, Operation, Option<IpAddr>)> {
    let place: u8 = bytes.int_in_range(0..=3)?;
    let address: IpAddr = match family {
        Family::V4 => [192, 0, 2, place].into(),
        Family::V6 => [0x2001, 0xdb8, 0, 0, 0, 0, 0, place.into()].into(),
    };
    let lease = Lease {
        address,
        state: bytes.arbitrary::<u8>()?.into(),
        // What Kea takes at most (`HWAddr::MAX_HWADDR_LEN`, `ClientId::MAX_CLIENT_ID_LEN`, `DUID::MAX_DUID_LEN`).
        hwaddr: some(bytes, 20)?.into(),
        protocol: match family {
            Family::V4 => Protocol::V4 { client_id: some(bytes, 255)?.into() },
            Family::V6 => Protocol::V6 {
                lease_type: *bytes.choose(&[LeaseType::Na, LeaseType::Ta, LeaseType::Pd])?,
                prefix_len: bytes.int_in_range(0..=128)?,
                duid: some(bytes, 130)?.into(),
                iaid: bytes.arbitrary()?,
                preferred_lft: bytes.arbitrary()?,
            },
        },
        hostname: some(bytes, 255)?.into(),
        fqdn_fwd: bytes.arbitrary()?,
        fqdn_rev: bytes.arbitrary()?,
        subnet_id: bytes.arbitrary()?,
        pool_id: bytes.arbitrary()?,
        cltt: NOW - i64::from(bytes.arbitrary::<u16>()?),
        // From here on a lease never seems to be past its end.
        valid_lft: bytes.arbitrary::<u32>()?.saturating_add(65_536),
        user_context: bytes.arbitrary::<&str>()?.into(),
    };
    let operations = [Operation::Offer, Operation::Renew, Operation::Rebind, Operation::Decline, Operation::Recover];
    let operation = *bytes.choose(&operations)?;
    let relay = bytes.arbitrary::<Option<[u8; 4]>>()?.map(IpAddr::from);
    Ok((lease, operation, relay))
}

fn some<'a>(bytes: &mut Unstructured<'a>, most: usize) -> Result<&'a [u8]> {
    let all: &[u8] = bytes.arbitrary()?;
    Ok(&all[..all.len().min(most)])
}

/// It is one line of compact JSON, begins as documented, and reads back as what was written.
fn record(lease: &Lease, operation: Operation, relay: Option<IpAddr>, timestamp: i64) {
    let value = to_json(lease, operation, relay, timestamp, SERVER);
    let text = String::from_utf8(value.clone()).expect("a record is UTF-8");
    let begin = format!(r#"{{"ip":"{}","operation":"{}","state":{},"#, lease.address, operation.name(), lease.state);
    assert!(text.starts_with(&begin), "{text}");
    assert!(!text.bytes().any(|byte| byte < b' '), "not one line: {text:?}");
    let json: Value = serde_json::from_str(&text).expect("a record is JSON");
    assert_eq!(json.to_string(), text, "not compact");
    let hostname = json["hostname"].as_str().unwrap_or_default();
    let as_latin1 = || hostname.chars().map(|char| u8::try_from(char).ok()).collect::<Option<Vec<u8>>>();
    assert!(*hostname.as_bytes() == *lease.hostname || as_latin1().as_deref() == Some(&*lease.hostname), "{text}");

    let summary = Summary::parse(&value).expect("a record reads back");
    assert_eq!(summary.content, Some(Content::of(lease)), "{text}");
    assert_eq!((summary.server.as_str(), summary.cltt, summary.timestamp), (SERVER, lease.cltt, timestamp));
    assert_eq!(summary.expires_at, lease.expires_at());
    assert_eq!(summary.identifiers, Identifiers::of(lease));
    assert_eq!(summary.identifiers, Identifiers::from(&lease.owner()));
    assert!(summary.is_about(&lease.owner()), "{text}");
}

/// Each is below its kind, printable, of the address, and tells the identifier in the record's spelling.
fn index_keys(index: &Index, lease: &Lease) {
    let identifiers = Identifiers::of(lease);
    let there =
        [&identifiers.hwaddr, &identifiers.client_id, &identifiers.duid, &identifiers.hostname].map(Option::as_deref);
    let keys = index.possible_keys(&identifiers, lease.address);
    let kinds = Kind::ALL.into_iter().zip(there).filter_map(|(kind, value)| Some((kind, value?)));
    assert_eq!(kinds.clone().count(), keys.len());
    for ((kind, value), key) in kinds.zip(keys) {
        assert!(key.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{key:?}");
        assert_eq!(index.address(key.as_bytes()), Some(lease.address), "{key}");
        let rest = key.strip_prefix(&format!("{PREFIX}/index/{}/", kind.name())).expect("it is below its kind");
        let (spelled, address) = rest.split_once('/').expect("the address follows");
        assert_eq!(address, lease.address.to_string());
        assert_eq!(percent_decode_str(spelled).collect::<Vec<u8>>(), value.as_bytes());
    }
}
