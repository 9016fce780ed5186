//! Single interleavings of one server, each with what it taught.

use super::*;
use crate::guard::FoundKey;
use crate::lease::{Identifier, Lease, Operation as By};
use crate::lifetime::Lifetime;
use crate::record::{Summary, v4};

fn change(timestamp: i64) -> Box<Change> {
    let lease = Lease { cltt: timestamp, ..Lease::plain_v4(0) };
    Box::new(Change { queued: None, timestamp, operation: By::Renew, row: Row::Held { lease, relay: None } })
}

fn sync(timestamp: i64) -> Box<Change> {
    Box::new(Change { operation: By::Sync, ..*change(timestamp) })
}

fn pending(addresses: u32) -> Pending {
    let mut pending = Pending::new(Writer::plain("a"));
    for n in 0..addresses {
        pending.put(v4(n), change(1));
    }
    pending
}

/// The key of the only address is asked for, and this is the answer.
fn observe(pending: &mut Pending, found: Found) -> bool {
    pending.ask(&[v4(0)]);
    pending.observe(v4(0), found)
}

#[test]
fn batches_hold_at_most_127_operations() {
    let mut pending = pending(300);
    let sizes: Vec<usize> =
        std::iter::from_fn(|| pending.next_batch(0)).map(|batch| batch.operations().len()).collect();
    assert_eq!(sizes, [127, 127, 46]);
}

#[test]
fn a_key_that_is_to_be_read_first_is_due_and_no_write_is() {
    let mut pending = pending(2);
    pending.put(v4(2), Box::new(Change { row: Row::Gone { owner: None }, ..*change(1) }));
    assert!(pending.is_write_due());
    assert_eq!(pending.next_batch(0).unwrap().operations().len(), 2);
    assert_eq!((pending.is_write_due(), pending.due()), (false, 1));
    assert!(pending.next_batch(0).unwrap().only_looks());
}

#[test]
fn an_address_is_in_one_transaction_at_a_time() {
    let mut pending = pending(1);
    let first = pending.next_batch(0).unwrap();
    pending.put(v4(0), change(2));
    assert!(pending.next_batch(0).is_none());
    pending.landed(first, 7);
    assert_eq!(pending.next_batch(0).unwrap().operations()[0].change.timestamp, 2);
}

#[test]
fn what_failed_is_tried_again_unless_newer_news_came() {
    let mut pending = pending(2);
    let batch = pending.next_batch(0).unwrap();
    pending.put(v4(1), change(2));
    pending.failed(batch);
    let again = pending.next_batch(0).unwrap();
    let mut times: Vec<i64> = again.operations().iter().map(|operation| operation.change.timestamp).collect();
    times.sort_unstable();
    assert_eq!(times, [1, 2]);
}

#[test]
fn beyond_the_limit_new_addresses_are_dropped_but_not_news_of_pending_ones() {
    let mut pending = pending(2);
    let batch = pending.next_batch(0).unwrap();
    let mut news: Changes = (0..4).map(|n| (v4(n), change(2))).collect();
    assert_eq!(pending.absorb(&mut news, 2), 2);
    pending.failed(batch);
    let again = pending.next_batch(0).unwrap();
    assert_eq!(again.operations().iter().map(|operation| operation.change.timestamp).collect::<Vec<_>>(), [2, 2]);
}

#[test]
fn the_one_operation_that_etcd_refuses_is_found_and_the_others_go_on() {
    let mut pending = pending(100);
    let (mut landed, mut refused) = (0, Vec::new());
    while let Some(batch) = pending.next_batch(0) {
        if batch.operations().iter().any(|operation| operation.address == v4(42)) {
            refused.extend(pending.refused(batch).map(|operation| operation.address));
        } else {
            landed += batch.operations().len();
            pending.landed(batch, 1);
        }
    }
    assert_eq!((landed, refused), (99, vec![v4(42)]));
    assert!(pending.is_empty());
}

fn junk(revision: i64) -> Found {
    Found { as_of: revision, key: Some(FoundKey { revision, etcd_lease: 0, record: None }) }
}

#[test]
fn a_conflict_is_tried_again_on_what_was_found_and_keeps_no_other_operation_out() {
    let mut pending = pending(2);
    let batch = pending.next_batch(0).unwrap();
    let found = batch.operations().iter().map(|operation| {
        // The other key is absent, as its condition said.
        if operation.address == v4(0) { junk(9) } else { Found { as_of: 9, key: None } }
    });
    let found = found.collect();
    pending.seen(batch, Vec::new());
    let looks = pending.next_batch(0).unwrap();
    assert!(looks.only_looks());
    assert_eq!(pending.seen(looks, found), 1);
    let again = pending.next_batch(0).unwrap();
    let on = |address| {
        let operation = again.operations().iter().find(|operation| operation.address == address).unwrap();
        operation.write.as_ref().unwrap().revision
    };
    assert_eq!((on(v4(0)), on(v4(1))), (9, 0));
}

#[test]
fn what_an_answer_leaves_out_is_not_lost() {
    let mut pending = pending(2);
    let batch = pending.next_batch(0).unwrap();
    pending.seen(batch, Vec::new());
    let looks = pending.next_batch(0).unwrap();
    pending.seen(looks, vec![junk(9)]);
    assert_eq!(pending.next_batch(0).unwrap().operations().len(), 2);
}

#[test]
fn the_end_of_a_lease_that_is_not_written_needs_no_look_and_no_record() {
    let mut pending = pending(0);
    let offered = Box::new(Change { operation: By::Offer, ..*change(1) });
    let gone = |timestamp| {
        let row = Row::Gone { owner: None };
        Box::new(Change { queued: None, timestamp, operation: By::Update, row })
    };
    pending.put(v4(0), offered.clone());
    pending.put(v4(0), gone(2));
    pending.put(v4(1), change(1));
    let batch = pending.next_batch(0).unwrap();
    let requires = |batch: &Batch, address| {
        let operation = batch.operations().iter().find(|operation| operation.address == address).unwrap();
        operation.write.as_ref().map(|write| (write.revision, write.action, write.operations()))
    };
    assert_eq!(batch.operations().len(), 2, "it goes with the others");
    assert_eq!(requires(&batch, v4(0)), Some((0, Action::Tidy, 0)));

    // Somebody forged a record, or a write of ours had landed after all.
    let record = our_record(&offered, 7);
    let others = Found { as_of: 8, key: None };
    let found = batch.addresses().map(|address| if address == v4(0) { record.clone() } else { others.clone() });
    let found = found.collect();
    pending.seen(batch, Vec::new());
    let looks = pending.next_batch(0).unwrap();
    assert_eq!(pending.seen(looks, found), 0, "nobody else did");
    let batch = pending.next_batch(0).unwrap();
    assert_eq!(requires(&batch, v4(0)), Some((7, Action::Remove, 1)));
    pending.landed(batch, 9);

    // What is written is known.
    pending.put(v4(0), offered.clone());
    let batch = pending.next_batch(0).unwrap();
    pending.landed(batch, 10);
    pending.put(v4(0), gone(3));
    assert_eq!(requires(&pending.next_batch(0).unwrap(), v4(0)), Some((10, Action::Remove, 1)));
}

#[test]
fn a_lease_that_is_found_where_another_was_taken_back_is_called_updated() {
    let mut pending = pending(0);
    pending.put(v4(0), Box::new(Change { operation: By::Offer, row: Row::Gone { owner: None }, ..*change(1) }));
    // Another server of the same lease database has assigned the address.
    pending.put(v4(0), sync(2));
    assert_eq!(pending.next_batch(0).unwrap().operations()[0].change.operation, By::Update);
}

#[test]
fn a_transaction_has_at_most_127_conditions_also_where_nothing_is_written() {
    let mut pending = pending(0);
    for n in 0..200 {
        let change = Change { operation: By::Offer, row: Row::Gone { owner: None }, ..*change(1) };
        pending.put(v4(n), Box::new(change));
    }
    assert_eq!(pending.next_batch(0).unwrap().operations().len(), MAX_OPERATIONS);
}

#[test]
fn a_finding_is_written_only_on_what_was_observed_before() {
    let mut pending = pending(0);
    pending.put(v4(0), sync(2));
    assert_eq!(pending.take_again(), [v4(0)], "nothing was observed");
    assert!(observe(&mut pending, junk(7)));
    pending.put(v4(0), sync(2));
    let batch = pending.next_batch(0).unwrap();
    assert_eq!(batch.operations()[0].write.as_ref().unwrap().revision, 7);
    pending.seen(batch, Vec::new());
    assert_eq!(pending.take_again(), [v4(0)], "something changed meanwhile");
    assert!(pending.is_empty());
}

#[test]
fn a_finding_does_not_hide_what_a_callout_told() {
    let mut pending = pending(1);
    assert!(!observe(&mut pending, junk(7)));
    assert_eq!(pending.take_again(), [v4(0)], "what waits may have been read before");
    pending.put(v4(0), sync(2));
    let batch = pending.next_batch(0).unwrap();
    assert_eq!(batch.operations()[0].change.operation, By::Renew);
    pending.put(v4(0), sync(2));
    assert_eq!(pending.take_again(), [v4(0)]);
    pending.failed(batch);
    assert_eq!(pending.next_batch(0).unwrap().operations()[0].change.operation, By::Renew);
}

#[test]
fn a_finding_of_what_a_callout_told_takes_nothing_from_it() {
    let mut pending = Pending::new(Writer::plain("a"));
    let Row::Held { lease, .. } = change(1).row else { unreachable!("it is held") };
    pending.put(v4(0), Box::new(Change { row: Row::Held { lease, relay: Some(v4(9)) }, ..*change(1) }));
    pending.put(v4(0), sync(1));
    let batch = pending.next_batch(0).unwrap();
    assert!(matches!(batch.operations()[0].change.row, Row::Held { relay: Some(_), .. }));
}

#[test]
fn what_a_callout_tells_ends_a_finding() {
    let mut pending = pending(0);
    assert!(observe(&mut pending, junk(7)));
    pending.put(v4(0), sync(2));
    pending.put(v4(0), change(3));
    let batch = pending.next_batch(0).unwrap();
    assert_eq!(batch.operations()[0].change.operation, By::Renew);
    assert_eq!(batch.operations()[0].write.as_ref().unwrap().revision, 0);
}

#[test]
fn a_record_that_only_loses_index_keys_keeps_its_revision() {
    let lease = Lease { hwaddr: Identifier::from_slice(&[1]), cltt: 2, ..Lease::plain_v4(0) };
    let value = crate::record::to_json(&lease, By::Offer, None, 2, "a");
    let key = FoundKey { revision: 7, etcd_lease: 0, record: crate::record::Summary::parse(&value) };
    let mut pending = pending(0);
    assert!(observe(&mut pending, Found { as_of: 8, key: Some(key) }));
    let row = Row::Held { lease, relay: None };
    pending.put(v4(0), Box::new(Change { queued: None, timestamp: 2, operation: By::Sync, row }));
    let batch = pending.next_batch(0).unwrap();
    assert_eq!(batch.operations()[0].write.as_ref().unwrap().action, Action::Keep);
    pending.landed(batch, 9);
    pending.put(v4(0), change(3));
    let batch = pending.next_batch(0).unwrap();
    assert_eq!(batch.operations()[0].write.as_ref().unwrap().revision, 7);
}

#[test]
fn an_address_whose_finding_was_dropped_is_in_one_transaction_at_a_time_too() {
    let mut pending = pending(0);
    assert!(observe(&mut pending, junk(7)));
    pending.put(v4(0), sync(2));
    // Somebody writes the key before the finding is sent; then Kea tells of a change, and of another.
    assert!(!pending.noticed(v4(0), &junk(8), Before::Nothing));
    pending.put(v4(0), change(3));
    let first = pending.next_batch(0).unwrap();
    assert_eq!(first.operations().len(), 1);
    pending.put(v4(0), change(4));
    assert!(pending.next_batch(0).is_none());
    pending.landed(first, 9);
    assert_eq!(pending.next_batch(0).unwrap().operations()[0].change.timestamp, 4);
    assert!(pending.next_batch(0).is_none());
}

#[test]
fn somebody_who_writes_after_a_finding_is_noticed_also_before_its_answer() {
    let mut pending = pending(0);
    assert!(observe(&mut pending, junk(7)));
    pending.put(v4(0), sync(2));
    let batch = pending.next_batch(0).unwrap();
    assert!(pending.noticed(v4(0), &junk(9), Before::Nothing));
    assert_eq!(pending.landed(batch, 8), [v4(0)]);
}

#[test]
fn a_removal_that_does_not_know_whose_lease_went_learns_it_from_what_it_replaces_and_was_told() {
    for (older, learns) in [(change(1), true), (sync(1), false)] {
        let mut pending = pending(0);
        assert!(observe(&mut pending, junk(7)));
        pending.put(v4(0), older);
        let gone = Change { queued: None, timestamp: 9, operation: By::Update, row: Row::Gone { owner: None } };
        pending.put(v4(0), Box::new(gone));
        let Row::Gone { owner } = &pending.waiting[&v4(0)].row else { unreachable!("a removal") };
        assert_eq!(owner.is_some(), learns);
    }
}

/// A record of the other server, of this lease.
fn partners(lease: &Lease, timestamp: i64, revision: i64) -> Found {
    let value = crate::record::to_json(lease, By::Offer, None, timestamp, "b");
    let key = FoundKey { revision, etcd_lease: 0, record: Summary::parse(&value) };
    Found { as_of: revision, key: Some(key) }
}

#[test]
fn a_watch_that_lags_behind_our_own_writes_settles_nothing() {
    let mut pending = pending(0);
    let Row::Held { lease, .. } = change(20).row else { unreachable!("a lease") };
    let old = partners(&Lease { hwaddr: Identifier::from_slice(&[9]), cltt: 10, ..lease.clone() }, 10, 5);
    pending.put(v4(0), change(20));
    let batch = pending.next_batch(0).unwrap();
    missed(&mut pending, batch, old.clone());
    let batch = pending.next_batch(0).unwrap();
    pending.landed(batch, 6);
    // The lease ends, and waits for others; only then the watch tells of what we have written over.
    let row = Row::Gone { owner: Some(lease.owner()) };
    pending.put(v4(0), Box::new(Change { queued: None, timestamp: 30, operation: By::Update, row }));
    assert!(pending.noticed(v4(0), &old, Before::Nothing));
    let batch = pending.next_batch(0).expect("our record is there still");
    assert_eq!(batch.operations()[0].write.as_ref().unwrap().revision, 6);
}

#[test]
fn what_the_watch_told_is_written_on_and_looked_at_before_anything_is_settled() {
    for (theirs, looks) in [(1, false), (9, true)] {
        let mut pending = pending(1);
        let Row::Held { lease, .. } = change(1).row else { unreachable!("a lease") };
        let told = partners(&Lease { cltt: theirs, hwaddr: Identifier::from_slice(&[9]), ..lease }, 1, 5);
        assert!(pending.noticed(v4(0), &told, Before::Nothing));
        let batch = pending.next_batch(0).unwrap();
        assert_eq!(batch.only_looks(), looks, "their cltt is {theirs}");
        if looks {
            pending.seen(batch, vec![told]);
            assert!(pending.next_batch(0).is_none(), "it yields");
        } else {
            assert_eq!(batch.operations()[0].write.as_ref().unwrap().revision, 5);
        }
    }
}

#[test]
fn what_takes_the_place_of_what_another_told_of_the_same_second_is_looked_at_again() {
    for is_answered in [true, false] {
        let mut pending = pending(1);
        let batch = pending.next_batch(0).unwrap();
        let other = Lease { hwaddr: Identifier::from_slice(&[9]), cltt: 1, ..Lease::plain_v4(0) };
        missed(&mut pending, batch, partners(&other, 1, 5));
        let contest = pending.next_batch(0).unwrap();
        let suspects = if is_answered {
            pending.landed(contest, 6)
        } else {
            // Perhaps it was applied.
            pending.failed(contest);
            pending.take_again()
        };
        assert_eq!(suspects, [v4(0)]);
    }
}

#[test]
fn what_is_refused_after_somebody_else_wrote_is_suspected() {
    let mut pending = pending(1);
    let batch = pending.next_batch(0).unwrap();
    assert!(pending.noticed(v4(0), &junk(6), Before::Nothing));
    assert!(pending.refused(batch).is_some());
    assert_eq!(pending.take_again(), [v4(0)]);
}

#[test]
fn an_observation_that_is_older_than_what_is_known_does_not_count() {
    let mut pending = indexed();
    assert!(!observe(&mut pending, junk(4)), "we wrote at revision 5");
    assert!(!pending.noticed(v4(0), &junk(10), before()));
    assert!(!observe(&mut pending, junk(8)));
    assert_eq!(pending.take_again(), [v4(0), v4(0)]);
    assert!(observe(&mut pending, junk(10)));
}

#[test]
fn an_observation_does_not_count_when_something_was_sent_since_it_was_asked_for() {
    let mut pending = pending(0);
    pending.ask(&[v4(0)]);
    pending.put(v4(0), change(2));
    let write = pending.next_batch(0).unwrap();
    pending.landed(write, 7);
    let gone = Change { queued: None, timestamp: 3, operation: By::Update, row: Row::Gone { owner: None } };
    pending.put(v4(0), Box::new(gone));
    let removal = pending.next_batch(0).unwrap();
    pending.landed(removal, 8);
    // The key was read before all that.
    assert!(!pending.observe(v4(0), junk(5)));
    assert_eq!(pending.take_again(), [v4(0)]);
}

#[test]
fn a_comparison_does_not_judge_what_is_being_observed() {
    let mut pending = pending(0);
    let unjudged = |pending: &Pending| pending.addresses().collect::<Vec<_>>();
    pending.ask(&[v4(0)]);
    assert_eq!(unjudged(&pending), [v4(0)], "its key is being read");
    assert!(pending.observe(v4(0), junk(7)));
    assert_eq!(unjudged(&pending), [v4(0)], "its lease is being read");
    pending.all_read();
    assert!(unjudged(&pending).is_empty());
}

#[test]
fn an_observation_does_not_count_when_something_was_under_way_as_it_was_asked_for() {
    let mut pending = pending(1);
    let write = pending.next_batch(0).unwrap();
    pending.landed(write, 7);
    let gone = Change { queued: None, timestamp: 2, operation: By::Update, row: Row::Gone { owner: None } };
    pending.put(v4(0), Box::new(gone));
    let removal = pending.next_batch(0).unwrap();
    pending.ask(&[v4(0)]);
    pending.landed(removal, 9);
    // The key was read before it was removed. No revision is known of a key that does not exist.
    assert!(!pending.observe(v4(0), junk(8)));
    assert_eq!(pending.take_again(), [v4(0)]);
}

#[test]
fn a_lease_without_a_record_is_written_if_there_still_is_none() {
    let mut pending = pending(0);
    pending.found_missing(Lease::plain_v4(0), 7);
    let batch = pending.next_batch(0).unwrap();
    let write = batch.operations()[0].write.clone().unwrap();
    assert_eq!((write.revision, batch.operations()[0].change.operation), (0, By::Sync));
    // Somebody was faster: what it says is looked at, and the lease read again.
    pending.seen(batch, Vec::new());
    assert!(pending.next_batch(0).is_none());
    assert_eq!(pending.take_again(), [v4(0)]);
}

#[test]
fn a_lease_without_a_record_is_suspected_where_more_is_known() {
    let mut pending = pending(1);
    pending.found_missing(Lease::plain_v4(0), 7);
    assert_eq!(pending.take_again(), [v4(0)], "a change waits");
    let batch = pending.next_batch(0).unwrap();
    assert_eq!(batch.operations()[0].change.operation, By::Renew);
    pending.landed(batch, 8);
    pending.found_missing(Lease::plain_v4(0), 7);
    assert_eq!(pending.take_again(), [v4(0)], "we wrote at revision 8");
    assert!(pending.is_empty());
}

#[test]
fn what_is_found_of_a_lease_that_ended_long_ago_is_written_only_over_something() {
    // The lease is of 1970.
    let now = 1_700_000_000;
    let lifetime = Some(Lifetime::new("/p", "a", "dhcp4", 120));
    for (found, is_written) in [(Found { as_of: 7, key: None }, false), (junk(7), true)] {
        let mut pending = Pending::new(Writer { lifetime: lifetime.clone(), ..Writer::plain("a") });
        assert!(observe(&mut pending, found));
        pending.put(v4(0), sync(1));
        assert_eq!(pending.next_batch(now).is_some(), is_written);
        assert_eq!(pending.is_empty(), !is_written);
    }
}

#[test]
fn a_record_that_was_told_and_hangs_on_no_etcd_lease_is_moved_to_its_own_with_its_index_keys() {
    let lifetime = Some(Lifetime::new("/p", "a", "dhcp4", 120));
    let index = crate::index::Index::new("/p", &[crate::index::Kind::Hostname]);
    let mut pending = Pending::new(Writer { index, lifetime, ..Writer::plain("a") });
    let told = named(b"x", 1);
    let Row::Held { lease, .. } = told.row.clone() else { unreachable!() };
    pending.put(v4(0), told);
    let batch = pending.next_batch(0).unwrap();
    // The answer was lost, and somebody has written the same text once more; the index keys may be gone.
    let record = Summary::parse(&crate::record::to_json(&lease, By::Renew, None, 1, "a"));
    let key = FoundKey { revision: 8, etcd_lease: 0, record };
    missed(&mut pending, batch, Found { as_of: 8, key: Some(key) });
    let again = pending.next_batch(0).unwrap();
    let write = again.operations()[0].write.clone().unwrap();
    assert!(matches!(write.action, Action::Move(Some(_))), "{write:?}");
    assert_eq!(write.index, ["/p/index/hostname/x/0.0.0.0"]);
}

#[test]
fn who_wrote_and_removed_a_key_before_a_write_on_its_absence_is_noticed() {
    let mut missing = pending(0);
    missing.found_missing(Lease::plain_v4(0), 7);
    for mut pending in [missing, pending(1)] {
        let batch = pending.next_batch(0).unwrap();
        assert!(pending.noticed(v4(0), &junk(8), Before::Nothing));
        assert!(pending.noticed(v4(0), &Found { as_of: 9, key: None }, Before::Nothing));
        assert_eq!(pending.landed(batch, 10), [v4(0)]);
    }
}

#[test]
fn who_did_so_is_noticed_late_as_well() {
    for is_under_way in [false, true] {
        let mut pending = pending(1);
        let batch = pending.next_batch(0).unwrap();
        assert!(pending.landed(batch, 10).is_empty());
        pending.put(v4(0), change(1));
        let batch = is_under_way.then(|| pending.next_batch(0).unwrap());
        assert!(pending.noticed(v4(0), &junk(8), Before::Nothing));
        assert!(pending.noticed(v4(0), &Found { as_of: 9, key: None }, Before::Nothing));
        if let Some(batch) = batch {
            pending.landed(batch, 11);
        }
        assert!(pending.take_again().contains(&v4(0)));
    }
}

#[test]
fn a_finding_that_waits_is_not_written_after_an_outage() {
    let mut pending = pending(1);
    let batch = pending.next_batch(0).unwrap();
    pending.found_missing(Lease::plain_v4(1), 7);
    pending.failed(batch);
    pending.drop_findings();
    assert_eq!(pending.take_again(), [v4(1)]);
    assert_eq!(pending.addresses().collect::<Vec<_>>(), [v4(0)]);
}

#[test]
fn what_was_observed_and_is_not_told_is_forgotten() {
    let mut pending = pending(0);
    // The lease ended, and its record may be gone by itself: nothing is told of it.
    assert!(observe(&mut pending, junk(7)));
    pending.all_read();
    assert!(pending.found.is_empty());
}

#[test]
fn a_late_record_of_a_lease_that_ended_here_is_removed_and_of_any_other_is_not() {
    for (cltt, is_removed) in [(1, true), (2, false)] {
        let mut pending = pending(1);
        let batch = pending.next_batch(0).unwrap();
        pending.landed(batch, 5);
        let Row::Held { lease, .. } = change(1).row else { unreachable!("a lease") };
        let row = Row::Gone { owner: Some(lease.owner()) };
        pending.put(v4(0), Box::new(Change { queued: None, timestamp: 2, operation: By::Update, row }));
        let batch = pending.next_batch(0).unwrap();
        pending.landed(batch, 6);
        // The other server had read the lease before it ended.
        let late = partners(&Lease { cltt, ..lease }, 2, 7);
        assert!(!pending.noticed(v4(0), &late, Before::Nothing));
        find(&mut pending, late, Row::Gone { owner: None });
        assert_eq!(pending.next_batch(0).is_some(), is_removed);
    }
}

#[test]
fn somebody_who_writes_after_us_is_noticed_and_our_own_write_is_not() {
    let mut pending = pending(2);
    let batch = pending.next_batch(0).unwrap();
    // The watch was faster than the answer.
    assert!(pending.noticed(v4(0), &junk(5), Before::Nothing));
    assert!(pending.noticed(v4(1), &junk(6), Before::Nothing));
    assert_eq!(pending.landed(batch, 5), [v4(1)]);
    assert!(!pending.noticed(v4(0), &junk(8), Before::Nothing));
}

fn named(hostname: &[u8], timestamp: i64) -> Box<Change> {
    let lease = Lease { hostname: hostname.into(), cltt: timestamp, ..Lease::plain_v4(0) };
    Box::new(Change { queued: None, timestamp, operation: By::Renew, row: Row::Held { lease, relay: None } })
}

/// The end of the lease of a name, told by somebody who knew the lease.
fn ended(hostname: &[u8], cltt: i64) -> Box<Change> {
    let lease = Lease { hostname: hostname.into(), cltt, ..Lease::plain_v4(0) };
    Box::new(Change {
        queued: None,
        timestamp: 3,
        operation: By::Update,
        row: Row::Gone { owner: Some(lease.owner()) },
    })
}

/// What the watch or a look tells of our own record of `change`.
fn our_record(change: &Change, revision: i64) -> Found {
    let Row::Held { lease, .. } = &change.row else { unreachable!("a lease") };
    let value = crate::record::to_json(lease, change.operation, None, change.timestamp, "a");
    let record = crate::record::Summary::parse(&value);
    Found { as_of: revision, key: Some(FoundKey { revision, etcd_lease: 0, record }) }
}

fn pending_with_index() -> Pending {
    let mut writer = Writer::plain("a");
    writer.index = crate::index::Index::new("/p", &[crate::index::Kind::Hostname]);
    Pending::new(writer)
}

/// With the record of a lease of the name x, written at revision 5, and its index key.
fn indexed() -> Pending {
    let mut pending = pending_with_index();
    pending.put(v4(0), named(b"x", 1));
    let batch = pending.next_batch(0).unwrap();
    assert!(pending.landed(batch, 5).is_empty());
    pending
}

/// What the watch tells of our record of the name x when it is there no more.
fn before() -> Before {
    Before::Record(our_record(&named(b"x", 1), 5).key.unwrap().record.unwrap())
}

fn gone(as_of: i64) -> Found {
    Found { as_of, key: None }
}

/// The next write, which is to take the index key of the name x along, or not.
fn next_write(pending: &mut Pending, takes_along: bool) -> Batch {
    let batch = pending.next_batch(0).unwrap();
    let write = batch.operations()[0].write.as_ref().expect("a write");
    let key = "/p/index/hostname/x/0.0.0.0".to_owned();
    assert_eq!(write.outdated.contains(&key), takes_along, "{write:?}");
    batch
}

/// A look at the key, which holds `found`.
fn look(pending: &mut Pending, found: Found) {
    let batch = pending.next_batch(0).unwrap();
    assert!(batch.only_looks());
    pending.seen(batch, vec![found]);
}

/// The batch is not applied, and a look finds in the key why.
fn missed(pending: &mut Pending, batch: Batch, found: Found) {
    pending.seen(batch, Vec::new());
    look(pending, found);
}

/// What a suspect becomes: its key is observed, and then its lease read.
fn find(pending: &mut Pending, found: Found, row: Row) {
    assert!(observe(pending, found));
    pending.put(v4(0), Box::new(Change { queued: None, timestamp: 1, operation: By::Sync, row }));
}

#[test]
fn index_keys_of_a_record_that_we_replace_ourselves_go_with_that_and_are_not_left() {
    let mut pending = indexed();
    pending.put(v4(0), named(b"y", 2));
    look(&mut pending, our_record(&named(b"x", 1), 5));
    let batch = next_write(&mut pending, true);
    // The watch is faster than the answer.
    assert!(pending.noticed(v4(0), &our_record(&named(b"y", 2), 6), before()));
    assert!(pending.landed(batch, 6).is_empty());
    // A renewal needs no look.
    pending.put(v4(0), named(b"y", 3));
    let batch = next_write(&mut pending, false);
    assert!(pending.landed(batch, 7).is_empty());
    assert!(!pending.take_index_in_doubt());
}

#[test]
fn index_keys_of_a_record_that_was_forged_are_removed() {
    let mut pending = indexed();
    let forged = our_record(&named(b"forged", 3), 8);
    assert!(!pending.noticed(v4(0), &forged, before()));
    pending.put(v4(0), named(b"z", 4));
    let batch = next_write(&mut pending, true);
    missed(&mut pending, batch, forged);
    let batch = next_write(&mut pending, true);
    assert!(pending.landed(batch, 9).is_empty());
}

#[test]
fn a_lease_whose_record_was_removed_keeps_its_index_keys() {
    let mut pending = indexed();
    assert!(!pending.noticed(v4(0), &gone(6), before()));
    find(&mut pending, gone(6), named(b"x", 1).row);
    let batch = next_write(&mut pending, false);
    assert!(pending.landed(batch, 7).is_empty());
}

#[test]
fn a_lease_that_ended_through_another_server_takes_its_index_keys_along() {
    let mut pending = indexed();
    assert!(!pending.noticed(v4(0), &gone(6), before()));
    find(&mut pending, gone(6), Row::Gone { owner: None });
    let batch = next_write(&mut pending, true);
    assert_eq!(batch.operations()[0].write.as_ref().unwrap().action, Action::Tidy);
    // Nothing changed, so it is as of the last revision.
    assert!(pending.landed(batch, 6).is_empty());
    assert!(pending.is_empty() && pending.leftovers.of(v4(0)).is_empty());
    assert!(!pending.take_index_in_doubt(), "no comparison is needed");
}

#[test]
fn a_write_that_fails_or_meets_something_else_settles_no_index_key() {
    let mut pending = indexed();
    assert!(!pending.noticed(v4(0), &gone(6), before()));
    find(&mut pending, gone(6), named(b"y", 1).row);
    let batch = next_write(&mut pending, true);
    pending.failed(batch);
    assert_eq!(pending.take_again(), [v4(0)]);
    // The lease changes hands.
    pending.put(v4(0), named(b"z", 2));
    let batch = next_write(&mut pending, true);
    missed(&mut pending, batch, junk(8));
    let batch = next_write(&mut pending, true);
    pending.landed(batch, 9);
    assert!(pending.leftovers.of(v4(0)).is_empty());
}

#[test]
fn what_is_spoilt_before_the_first_write_is_answered_is_told_by_the_watch() {
    let mut pending = pending_with_index();
    pending.put(v4(0), named(b"x", 1));
    let batch = pending.next_batch(0).unwrap();
    // Meanwhile the lease changes hands, and the record is spoilt.
    pending.put(v4(0), named(b"y", 2));
    assert!(pending.noticed(v4(0), &our_record(&named(b"x", 1), 5), Before::Nothing));
    assert!(pending.noticed(v4(0), &junk(6), before()));
    pending.landed(batch, 5);
    let batch = next_write(&mut pending, true);
    assert_eq!(batch.operations()[0].write.as_ref().unwrap().revision, 6);
}

#[test]
fn what_was_spoilt_before_this_server_wrote_over_it_is_tidied_up() {
    let mut pending = pending_with_index();
    // A record of an earlier life of this server was spoilt; this one wrote over that before it was told.
    let unnamed = named(b"", 2);
    pending.put(v4(0), unnamed.clone());
    let batch = next_write(&mut pending, false);
    missed(&mut pending, batch, junk(6));
    let batch = next_write(&mut pending, false);
    // Before the answer, or after it.
    let mut later = pending.clone();
    assert!(pending.noticed(v4(0), &junk(6), before()));
    assert_eq!(pending.landed(batch.clone(), 7), [v4(0)]);
    later.landed(batch, 7);
    assert!(!later.noticed(v4(0), &junk(6), before()));
    for mut pending in [pending, later] {
        find(&mut pending, our_record(&unnamed, 7), unnamed.row.clone());
        let batch = next_write(&mut pending, true);
        assert_eq!(batch.operations()[0].write.as_ref().unwrap().action, Action::Keep);
        assert!(pending.landed(batch, 7).is_empty());
    }
}

#[test]
fn a_removal_takes_along_what_the_watch_told_and_the_index_keys_of_the_lease_that_went() {
    for (told, takes_along) in [(before(), true), (Before::Nothing, false)] {
        let mut pending = indexed();
        assert!(!pending.noticed(v4(0), &junk(6), told));
        // The lease changed hands, and ended before that was written.
        pending.put(v4(0), ended(b"y", 2));
        look(&mut pending, junk(6));
        let batch = next_write(&mut pending, takes_along);
        let outdated = &batch.operations()[0].write.as_ref().unwrap().outdated;
        assert!(outdated.contains(&"/p/index/hostname/y/0.0.0.0".to_owned()));
    }
}

#[test]
fn a_change_that_yields_leaves_the_index_keys_of_what_stands_there() {
    for (name, takes_along) in [(b"x", false), (b"y", true)] {
        let mut pending = indexed();
        assert!(!pending.noticed(v4(0), &junk(6), before()));
        // A partner gives the address to somebody else, and then the end of our lease is told.
        let Row::Held { lease, .. } = named(name, 2).row else { unreachable!("a lease") };
        pending.put(v4(0), ended(b"x", 1));
        look(&mut pending, partners(&lease, 2, 7));
        if takes_along {
            let batch = next_write(&mut pending, true);
            pending.landed(batch, 8);
        } else {
            assert!(pending.next_batch(0).is_none());
        }
        assert!(pending.is_empty() && pending.leftovers.of(v4(0)).is_empty());
        assert!(!pending.known.contains_key(&v4(0)), "it is not ours");
    }
}

#[test]
fn an_end_that_is_remembered_is_used_up_by_late_records_alone() {
    let mut pending = pending_with_index();
    pending.put(v4(0), ended(b"x", 1));
    look(&mut pending, gone(5));
    let batch = next_write(&mut pending, true);
    pending.landed(batch, 5);
    for revision in [7, 9] {
        // Somebody writes something here and takes it away again.
        find(&mut pending, gone(revision), Row::Gone { owner: None });
        assert!(pending.next_batch(0).is_none(), "there is nothing to be tidied up");
    }
    let Row::Held { lease, .. } = named(b"x", 1).row else { unreachable!("a lease") };
    find(&mut pending, partners(&lease, 1, 11), Row::Gone { owner: None });
    let batch = next_write(&mut pending, true);
    assert_eq!(batch.operations()[0].write.as_ref().unwrap().action, Action::Remove);
}

#[test]
fn what_is_forgotten_is_not_counted_as_settled_by_what_is_under_way() {
    let mut pending = indexed();
    assert!(!pending.noticed(v4(0), &gone(6), before()));
    find(&mut pending, gone(6), named(b"y", 1).row);
    let batch = next_write(&mut pending, true);
    pending.forget();
    let y = our_record(&named(b"y", 1), 8).key.unwrap().record.unwrap();
    assert!(pending.noticed(v4(0), &gone(9), Before::Record(y)));
    pending.landed(batch, 8);
    assert_eq!(pending.leftovers.of(v4(0)).len(), 1);
    // A comparison of everything has seen to it.
    pending.compared(8);
    assert_eq!(pending.leftovers.of(v4(0)).len(), 1);
    pending.compared(9);
    assert!(pending.leftovers.of(v4(0)).is_empty());
}

#[test]
fn a_record_of_ours_that_etcd_has_compacted_asks_for_a_comparison() {
    let mut pending = indexed();
    assert!(!pending.noticed(v4(0), &gone(6), Before::Lost));
    assert!(pending.take_index_in_doubt());
    assert!(!pending.take_index_in_doubt());
}

#[test]
fn a_transaction_has_room_for_the_index_keys() {
    let mut writer = Writer::plain("a");
    writer.index = crate::index::Index::new("/p", &[crate::index::Kind::HwAddress, crate::index::Kind::Hostname]);
    let mut pending = Pending::new(writer);
    for n in 0..100 {
        let lease = Lease { hwaddr: Identifier::from_slice(&[1]), hostname: (*b"x").into(), ..Lease::plain_v4(n) };
        let row = Row::Held { lease, relay: None };
        pending.put(v4(n), Box::new(Change { queued: None, timestamp: 1, operation: By::Offer, row }));
    }
    let sizes: Vec<usize> =
        std::iter::from_fn(|| pending.next_batch(0)).map(|batch| batch.operations().len()).collect();
    assert_eq!(sizes, [42, 42, 16], "three operations each");
}

#[test]
fn what_kea_told_goes_back_to_it_once_nobody_needs_it() {
    let mut pending = pending(3);
    let settled =
        |pending: &mut Pending| pending.settled().drain(..).map(|change| change.timestamp).collect::<Vec<_>>();
    pending.put(v4(0), change(2));
    assert_eq!(settled(&mut pending), [1], "replaced before it was sent");
    let batch = pending.next_batch(0).unwrap();
    pending.put(v4(1), change(3));
    pending.failed(batch);
    assert_eq!(settled(&mut pending), [1], "replaced while it was under way");
    let batch = pending.next_batch(0).unwrap();
    pending.landed(batch, 7);
    let mut written = settled(&mut pending);
    written.sort_unstable();
    assert_eq!(written, [1, 2, 3]);
    pending.found_missing(Lease::plain_v4(9), 8);
    let batch = pending.next_batch(0).unwrap();
    pending.landed(batch, 9);
    assert!(settled(&mut pending).is_empty(), "a finding of the worker");
}

#[test]
fn nothing_unsettled_is_lost_at_the_end() {
    let mut pending = pending(200);
    let batch = pending.next_batch(0).unwrap();
    pending.put(batch.operations()[0].address, change(5));
    let left = pending.into_changes([batch]);
    assert_eq!(left.len(), 200);
    assert_eq!(left.values().filter(|change| change.timestamp == 5).count(), 1);
}

#[test]
fn what_failed_and_was_replaced_meanwhile_counts_as_waiting_since_it_was_queued_first() {
    let mut pending = pending(0);
    let first = std::time::Instant::now();
    let queued = |queued| Box::new(Change { queued: Some(queued), ..*change(1) });
    pending.put(v4(0), queued(first));
    let batch = pending.next_batch(0).unwrap();
    pending.put(v4(0), queued(first + std::time::Duration::from_secs(1)));
    pending.failed(batch);
    let again = pending.next_batch(0).unwrap();
    assert_eq!(again.operations()[0].change.queued, Some(first));
}
