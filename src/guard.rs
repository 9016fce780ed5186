//! Who wins when etcd holds something else than expected. No I/O.
//!
//! Every write is conditional on the revision last seen of its key, so a write that was given up and lands late changes
//! nothing. When the condition fails, the key is read and the rule below decides:
//!
//! | our change | etcd holds | then |
//! | --- | --- | --- |
//! | a lease | nothing, something that is no record, or a record of ours | write |
//! | a lease | another server's record | write if ours has the newer `cltt`, at a tie the newer or same `timestamp` |
//! | a removal | nothing | done |
//! | a removal | something that is no record, or a record of ours | remove |
//! | a removal | another server's record | remove if it is the lease that went (same owner) and not younger than the removal, or if it is past its end and the grace |
//!
//! A server's own record gives way whatever its times: its lease database is the truth about its own leases, and a
//! clock may have been set back.

use crate::lease::{Change, Row};
use crate::record::Summary;

/// Seconds after `expires_at` from which any server may remove a record (`expire-grace`).
const GRACE: i64 = 120;

/// What etcd holds under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The key's `mod_revision`.
    pub revision: i64,
    /// The record; `None` when the value is no record.
    pub record: Option<Summary>,
}

/// What to do with a change whose condition failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Try again, on the condition that the key still has this revision (0: does not exist).
    Write {
        /// The revision.
        revision: i64,
    },
    /// Leave etcd as it is; the change is settled.
    Yield,
}

/// Decides for `change`, made by the server called `server`.
#[must_use]
pub fn decide(change: &Change, server: &str, found: Option<&Found>) -> Verdict {
    let Some(found) = found else {
        return match change.row {
            Row::Held { .. } => Verdict::Write { revision: 0 },
            Row::Gone { .. } => Verdict::Yield,
        };
    };
    let ours_wins = match (&found.record, &change.row) {
        (None, _) => true,
        (Some(record), _) if record.server == server => true,
        (Some(record), Row::Held { lease, .. }) => (lease.cltt, change.timestamp) >= (record.cltt, record.timestamp),
        (Some(record), Row::Gone { owner }) => {
            let past_its_end = record.expires_at.is_some_and(|end| end.saturating_add(GRACE) < change.timestamp);
            let the_lease_that_went = owner.as_ref().is_some_and(|owner| record.belongs_to(owner));
            past_its_end || (the_lease_that_went && record.cltt <= change.timestamp)
        }
    };
    if ours_wins { Verdict::Write { revision: found.revision } } else { Verdict::Yield }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{Lease, Operation, Owner};
    use crate::record;

    fn lease(cltt: i64, client: u8) -> Lease {
        Lease { hwaddr: [client; 6].into(), cltt, valid_lft: 100, ..Lease::plain_v4(1) }
    }

    fn held(cltt: i64, timestamp: i64) -> Change {
        Change { timestamp, row: Row::Held { lease: lease(cltt, 1), operation: Operation::Offer, relay: None } }
    }

    fn gone(timestamp: i64, owner: Option<Owner>) -> Change {
        Change { timestamp, row: Row::Gone { owner } }
    }

    fn found(server: &str, cltt: i64, timestamp: i64, client: u8) -> Found {
        let value = record::to_json(&lease(cltt, client), Operation::Offer, None, timestamp, server);
        Found { revision: 5, record: Summary::parse(&value) }
    }

    const WRITE: Verdict = Verdict::Write { revision: 5 };

    #[test]
    fn a_lease_replaces_nothing_junk_and_our_own_record() {
        assert_eq!(decide(&held(10, 10), "a", None), Verdict::Write { revision: 0 });
        assert_eq!(decide(&held(10, 10), "a", Some(&Found { revision: 5, record: None })), WRITE);
        assert_eq!(decide(&held(10, 10), "a", Some(&found("a", 99, 99, 1))), WRITE);
    }

    #[test]
    fn between_servers_the_newer_lease_wins() {
        assert_eq!(decide(&held(10, 10), "a", Some(&found("b", 9, 99, 2))), WRITE);
        assert_eq!(decide(&held(10, 11), "a", Some(&found("b", 10, 10, 2))), WRITE);
        assert_eq!(decide(&held(10, 10), "a", Some(&found("b", 10, 11, 2))), Verdict::Yield);
        assert_eq!(decide(&held(10, 99), "a", Some(&found("b", 11, 11, 2))), Verdict::Yield);
    }

    #[test]
    fn a_removal_removes_only_the_lease_that_it_is_about() {
        let owner = Some(lease(0, 1).owner());
        assert_eq!(decide(&gone(20, owner.clone()), "a", None), Verdict::Yield);
        assert_eq!(decide(&gone(20, None), "a", Some(&found("a", 10, 10, 2))), WRITE);
        assert_eq!(decide(&gone(20, None), "a", Some(&Found { revision: 5, record: None })), WRITE);
        assert_eq!(decide(&gone(20, owner.clone()), "a", Some(&found("b", 10, 10, 1))), WRITE);
        assert_eq!(decide(&gone(20, owner.clone()), "a", Some(&found("b", 10, 10, 2))), Verdict::Yield);
        assert_eq!(decide(&gone(20, owner), "a", Some(&found("b", 21, 21, 1))), Verdict::Yield);
        assert_eq!(decide(&gone(20, None), "a", Some(&found("b", 10, 10, 1))), Verdict::Yield);
    }

    #[test]
    fn a_foreign_record_long_past_its_end_may_be_removed() {
        assert_eq!(decide(&gone(10 + 100 + GRACE, None), "a", Some(&found("b", 10, 10, 2))), Verdict::Yield);
        assert_eq!(decide(&gone(10 + 100 + GRACE + 1, None), "a", Some(&found("b", 10, 10, 2))), WRITE);
    }
}
