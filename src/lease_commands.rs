//! What Kea's commands do to leases, by their names and arguments. No I/O.

use std::net::IpAddr;

use serde_json::Value;

use crate::lease::{LeaseType, Operation};

/// What a command does to leases.
pub enum Commanded {
    /// Nothing.
    Nothing,
    /// Something to those that its arguments name.
    Named(Operation),
    /// Expired ones are reclaimed, and callouts have told which.
    Reclaimed,
    /// Something, without naming them.
    Unnamed(&'static str),
}

/// What the command of this name does.
#[must_use]
pub fn commanded(name: &str) -> Commanded {
    match name {
        "lease4-add" | "lease6-add" => Commanded::Named(Operation::Add),
        "lease4-update" | "lease6-update" | "lease4-del" | "lease6-del" | "lease6-bulk-apply" => {
            Commanded::Named(Operation::Update)
        }
        "leases-reclaim" => Commanded::Reclaimed,
        "lease4-wipe" => Commanded::Unnamed("lease4-wipe"),
        "lease6-wipe" => Commanded::Unnamed("lease6-wipe"),
        // It writes straight into the lease database (Kea ha_service.cc, asyncSyncLeasesInternal).
        "ha-sync" => Commanded::Unnamed("ha-sync"),
        _ => Commanded::Nothing,
    }
}

/// The addresses in a lease command's arguments: its own, or those of `lease6-bulk-apply` in both of its lists.
#[must_use]
pub fn named_addresses(arguments: &Value) -> Vec<(IpAddr, LeaseType)> {
    let one = |lease: &Value| {
        let address = lease.get("ip-address")?.as_str()?.parse().ok()?;
        let lease_type = lease.get("type").and_then(Value::as_str).and_then(LeaseType::from_name);
        Some((address, lease_type.unwrap_or(LeaseType::Na)))
    };
    let lists = ["deleted-leases", "leases"].into_iter().filter_map(|name| arguments.get(name)?.as_array()).flatten();
    std::iter::once(arguments).chain(lists).filter_map(one).collect()
}
