//! Who wins when etcd holds something else than expected. No I/O.
//!
//! A server may change a key only in the state in which it has seen it: every write is conditional on the revision last
//! seen, so nobody's write is ever replaced unseen. When the condition fails the key is read, and the rule below decides
//! about what was found. *Ours* is a record with our `server-name`; *the same* is a record that says of the lease what
//! our lease database says.
//!
//! | our change | etcd holds | then |
//! | --- | --- | --- |
//! | a lease | nothing, or something that is no record | write |
//! | a lease | ours | write, unless it is the same and nobody told of a change |
//! | a lease, told by Kea | another server's | write if ours has the newer `cltt`, at a tie the newer or same `timestamp`; then look again if it said something else of the same `cltt` |
//! | a lease, found by comparison | another server's | write if ours has the newer `cltt`, or `timestamp` at a tie; leave the same |
//! | a removal | nothing | done |
//! | a removal, told by Kea | something that is no record | remove |
//! | a removal, found by comparison | something that is no record | leave: it is somebody's, and no lease |
//! | a removal | ours | remove |
//! | a removal | another server's | remove if it is the lease that went (same owner, `cltt` not later), or if it is past its end and the grace |
//!
//! Times are seconds, and two servers that share a lease database may both write an address within one: the one that had
//! read it first may write its record last. So whoever told takes the place of the other one's record at a tie, and then
//! the address is suspected, which is to say that the record is observed and the lease read once more. Servers with lease
//! databases of their own read what they have written.
//!
//! A removal that found nothing yet is remembered ([`ended`](crate::ended)): when another server's record of that lease
//! comes late, it is decided once more.
//!
//! A time that no server has ([`age`]) counts as the oldest of all.
//!
//! A server's own record gives way whatever its times: its lease database is the truth about its own leases, and a
//! clock may have been set back.
//!
//! What no condition on a key can stop is a write of ours that was given up and lands much later on a key that does not
//! exist: absence has no revision. So every transaction also requires that the server's presence key still hangs on the
//! etcd lease of the session that sent it, and after any request whose outcome is unknown a new session begins.

use crate::lease::{Change, Row};
use crate::record::{Content, Summary, age};

/// What etcd holds under the key of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The revision of the store when this was so.
    pub as_of: i64,
    /// The key; `None` when it does not exist.
    pub key: Option<FoundKey>,
}

/// A key that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundKey {
    /// Its `mod_revision`.
    pub revision: i64,
    /// The etcd lease that it hangs on; 0 for none.
    pub etcd_lease: i64,
    /// The record; `None` when the value is no record.
    pub record: Option<Summary>,
}

impl Found {
    /// The revision that a write on what was found must still meet; 0 when the key does not exist.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.key.as_ref().map_or(0, |key| key.revision)
    }
}

/// What to do with a change, given what etcd holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Write or remove.
    Write,
    /// Write over what another server told of the same second, and look again: what was read may have been the older.
    Contest,
    /// Our own record says it already.
    Same,
    /// Leave etcd as it is; the change is settled.
    Yield,
}

/// Decides for `change`, made by the server called `server` whose records stay `grace` seconds after their end.
#[must_use]
pub fn decide(change: &Change, server: &str, grace: i64, found: &Found) -> Verdict {
    let finding = change.is_finding();
    let verdict = |write| if write { Verdict::Write } else { Verdict::Yield };
    let Some(key) = &found.key else { return verdict(matches!(change.row, Row::Held { .. })) };
    match (&change.row, &key.record) {
        (Row::Held { .. }, None) => Verdict::Write,
        (Row::Gone { .. }, None) => verdict(!finding),
        (Row::Gone { .. }, Some(record)) if record.server == server => Verdict::Write,
        (Row::Gone { owner }, Some(record)) => {
            let is_about_it = owner.as_ref().is_some_and(|gone| record.is_about(gone));
            verdict(is_about_it || record.is_past_its_end(grace, change.timestamp))
        }
        (Row::Held { lease, .. }, Some(record)) => {
            let ours = record.server == server;
            let same = record.content == Some(Content::of(lease));
            if ours {
                // Told with the same time as well: a write of ours whose answer did not come.
                let known = same && (finding || record.timestamp == change.timestamp);
                return if known { Verdict::Same } else { Verdict::Write };
            }
            let change_time = (age(lease.cltt), age(change.timestamp));
            let record_time = (age(record.cltt), age(record.timestamp));
            if change_time < record_time || (change_time == record_time && finding) {
                Verdict::Yield
            } else if change_time.0 == record_time.0 && !same && !finding {
                Verdict::Contest
            } else {
                Verdict::Write
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{Identifier, Lease, Operation, Owner};
    use crate::record;

    const GRACE: i64 = 120;

    fn lease(cltt: i64, client: u8) -> Lease {
        Lease { hwaddr: Identifier::from_slice(&[client; 6]), cltt, valid_lft: 100, ..Lease::plain_v4(1) }
    }

    fn held(cltt: i64, timestamp: i64, operation: Operation) -> Change {
        Change { queued: None, timestamp, operation, row: Row::Held { lease: lease(cltt, 1), relay: None } }
    }

    fn gone(timestamp: i64, operation: Operation, owner: Option<Owner>) -> Change {
        Change { queued: None, timestamp, operation, row: Row::Gone { owner } }
    }

    fn found(server: &str, cltt: i64, timestamp: i64, client: u8) -> Found {
        let value = record::to_json(&lease(cltt, client), Operation::Offer, None, timestamp, server);
        let key = FoundKey { revision: 5, etcd_lease: 0, record: Summary::parse(&value) };
        Found { as_of: 9, key: Some(key) }
    }

    fn junk() -> Found {
        Found { as_of: 9, key: Some(FoundKey { revision: 5, etcd_lease: 0, record: None }) }
    }

    const NOTHING: Found = Found { as_of: 9, key: None };
    const TOLD: Operation = Operation::Renew;
    const SYNC: Operation = Operation::Sync;

    fn decide(change: &Change, found: &Found) -> Verdict {
        super::decide(change, "a", GRACE, found)
    }

    #[test]
    fn a_lease_replaces_nothing_junk_and_our_own_record() {
        for operation in [TOLD, SYNC] {
            assert_eq!(decide(&held(10, 10, operation), &NOTHING), Verdict::Write);
            assert_eq!(decide(&held(10, 10, operation), &junk()), Verdict::Write);
            assert_eq!(decide(&held(10, 10, operation), &found("a", 99, 99, 1)), Verdict::Write);
        }
    }

    #[test]
    fn what_our_own_record_says_already_is_not_written_again() {
        assert_eq!(decide(&held(10, 10, SYNC), &found("a", 10, 44, 1)), Verdict::Same);
        assert_eq!(decide(&held(10, 44, TOLD), &found("a", 10, 44, 1)), Verdict::Same);
        assert_eq!(decide(&held(10, 45, TOLD), &found("a", 10, 44, 1)), Verdict::Write);
        assert_eq!(decide(&held(10, 10, SYNC), &found("a", 10, 44, 2)), Verdict::Write);
    }

    #[test]
    fn between_servers_the_newer_lease_wins() {
        for operation in [TOLD, SYNC] {
            assert_eq!(decide(&held(10, 10, operation), &found("b", 9, 99, 2)), Verdict::Write);
            assert_eq!(decide(&held(10, 10, operation), &found("b", 10, 11, 2)), Verdict::Yield);
            assert_eq!(decide(&held(10, 99, operation), &found("b", 11, 11, 2)), Verdict::Yield);
        }
        assert_eq!(decide(&held(10, 11, SYNC), &found("b", 10, 10, 2)), Verdict::Write);
        assert_eq!(decide(&held(10, 10, SYNC), &found("b", 10, 10, 2)), Verdict::Yield);
    }

    #[test]
    fn a_time_that_no_server_has_is_older_than_any() {
        let end = i64::from(u32::MAX);
        for (cltt, verdict) in [(end, Verdict::Yield), (end + 1, Verdict::Write), (-1, Verdict::Write)] {
            for operation in [TOLD, SYNC] {
                assert_eq!(decide(&held(10, 10, operation), &found("b", cltt, 10, 2)), verdict, "{cltt}");
            }
        }
        // Kea takes such a time from a command; the server's own record of it is one like any other.
        assert_eq!(decide(&held(end + 1, 10, SYNC), &found("a", end + 1, 10, 1)), Verdict::Same);
        assert_eq!(decide(&held(end + 1, 10, SYNC), &found("b", end + 1, 10, 1)), Verdict::Yield);
        let owner = Some(lease(10, 1).owner());
        assert_eq!(decide(&gone(20, TOLD, owner), &found("b", end + 1, 10, 1)), Verdict::Write);
    }

    #[test]
    fn what_two_servers_told_of_the_same_second_is_looked_at_again() {
        for timestamp in [10, 11] {
            assert_eq!(decide(&held(10, timestamp, TOLD), &found("b", 10, 10, 2)), Verdict::Contest);
            assert_eq!(decide(&held(10, timestamp, TOLD), &found("b", 10, 10, 1)), Verdict::Write, "they agree");
        }
    }

    #[test]
    fn a_removal_removes_only_the_lease_that_it_is_about() {
        let owner = Some(lease(10, 1).owner());
        for operation in [TOLD, SYNC] {
            assert_eq!(decide(&gone(20, operation, owner.clone()), &NOTHING), Verdict::Yield);
            assert_eq!(decide(&gone(20, operation, None), &found("a", 10, 10, 2)), Verdict::Write);
            assert_eq!(decide(&gone(20, operation, owner.clone()), &found("b", 10, 10, 1)), Verdict::Write);
            assert_eq!(decide(&gone(20, operation, owner.clone()), &found("b", 10, 10, 2)), Verdict::Yield);
            assert_eq!(decide(&gone(20, operation, owner.clone()), &found("b", 11, 11, 1)), Verdict::Yield);
            assert_eq!(decide(&gone(20, operation, None), &found("b", 10, 10, 1)), Verdict::Yield);
        }
        assert_eq!(decide(&gone(20, TOLD, None), &junk()), Verdict::Write);
        assert_eq!(decide(&gone(20, SYNC, None), &junk()), Verdict::Yield);
    }

    #[test]
    fn a_declined_address_is_nobodys() {
        let declined = Lease { hwaddr: Identifier::new(), ..lease(10, 1) };
        let value = record::to_json(&declined, Operation::Decline, None, 10, "b");
        let key = FoundKey { revision: 5, etcd_lease: 0, record: Summary::parse(&value) };
        let found = Found { as_of: 9, key: Some(key) };
        assert_eq!(decide(&gone(20, TOLD, Some(declined.owner())), &found), Verdict::Write);
        assert_eq!(decide(&gone(20, TOLD, Some(lease(10, 1).owner())), &found), Verdict::Yield);
    }

    #[test]
    fn a_foreign_record_long_past_its_end_may_be_removed() {
        let end = 10 + 100 + GRACE;
        assert_eq!(decide(&gone(end, TOLD, None), &found("b", 10, 10, 2)), Verdict::Yield);
        assert_eq!(decide(&gone(end + 1, TOLD, None), &found("b", 10, 10, 2)), Verdict::Write);
    }
}
