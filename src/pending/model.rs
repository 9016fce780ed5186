//! A small etcd of revisions, against which random sequences of changes, outcomes and late landings are played.

use super::*;
use crate::lease::{Lease, Operation as By};
use crate::record::{self, Summary, v4};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Change { address: u32, held: bool },
    Land,
    FailUnapplied,
    FailApplied,
    FailButLandLater,
    LateLanding,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3u32, any::<bool>()).prop_map(|(address, held)| Step::Change { address, held }),
        3 => Just(Step::Land),
        1 => Just(Step::FailUnapplied),
        1 => Just(Step::FailApplied),
        1 => Just(Step::FailButLandLater),
        1 => Just(Step::LateLanding),
    ]
}

/// (address, revision expected, record's timestamp or none)
type Write = (IpAddr, i64, Option<i64>);

#[derive(Default)]
struct Etcd {
    revision: i64,
    keys: HashMap<IpAddr, (i64, i64)>,
}

impl Etcd {
    fn apply(&mut self, writes: &[Write]) -> bool {
        let holds = |&(address, expected, _): &Write| self.keys.get(&address).map_or(0, |key| key.0) == expected;
        if !writes.iter().all(holds) {
            return false;
        }
        self.revision += 1;
        for &(address, _, timestamp) in writes {
            match timestamp {
                Some(timestamp) => self.keys.insert(address, (self.revision, timestamp)),
                None => self.keys.remove(&address),
            };
        }
        true
    }
}

fn lease(address: u32, cltt: i64) -> Lease {
    Lease { hwaddr: [1].into(), cltt, valid_lft: 1, ..Lease::plain_v4(address) }
}

fn writes(batch: &Batch) -> Vec<Write> {
    batch
        .operations()
        .iter()
        .map(|operation| {
            let held = matches!(operation.change.row, Row::Held { .. });
            (operation.address, operation.revision, held.then_some(operation.change.timestamp))
        })
        .collect()
}

fn send(pending: &mut Pending, etcd: &mut Etcd) {
    let Some(batch) = pending.next_batch() else { return };
    if etcd.apply(&writes(&batch)) {
        pending.landed(batch, etcd.revision);
        return;
    }
    let found: Vec<Option<Found>> = batch
        .operations()
        .iter()
        .map(|operation| {
            etcd.keys.get(&operation.address).map(|&(revision, timestamp)| {
                let IpAddr::V4(address) = operation.address else { unreachable!("the model is IPv4") };
                let value = record::to_json(&lease(address.to_bits(), timestamp), By::Offer, None, timestamp, "a");
                Found { revision, record: Summary::parse(&value) }
            })
        })
        .collect();
    pending.conflicted(batch, &found, "a");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_times_out_or_lands_late_etcd_ends_with_the_last_change(
        steps in proptest::collection::vec(step(), 1..60)
    ) {
        let (mut pending, mut etcd) = (Pending::default(), Etcd::default());
        let mut late: VecDeque<Vec<Write>> = VecDeque::new();
        let mut last: HashMap<IpAddr, Option<i64>> = HashMap::new();
        for (now, step) in (1..).zip(steps) {
            match step {
                Step::Change { address, held } => {
                    let row = if held {
                        Row::Held { lease: lease(address, now), operation: By::Offer, relay: None }
                    } else {
                        Row::Gone { owner: None }
                    };
                    last.insert(v4(address), held.then_some(now));
                    pending.put(v4(address), Box::new(Change { timestamp: now, row }));
                }
                Step::Land => send(&mut pending, &mut etcd),
                Step::LateLanding => {
                    if let Some(writes) = late.pop_front() {
                        etcd.apply(&writes);
                    }
                }
                Step::FailUnapplied | Step::FailApplied | Step::FailButLandLater => {
                    if let Some(batch) = pending.next_batch() {
                        match step {
                            Step::FailApplied => { etcd.apply(&writes(&batch)); }
                            // A write on the condition of absence may land after a removal, since an absent key
                            // has no revision: the one case that only a comparison repairs.
                            Step::FailButLandLater
                                if !writes(&batch).iter().any(|write| write.1 == 0 && write.2.is_some()) =>
                            {
                                late.push_back(writes(&batch));
                            }
                            _ => {}
                        }
                        pending.failed(batch);
                    }
                }
            }
        }
        for _ in 0..20 {
            send(&mut pending, &mut etcd);
        }
        prop_assert!(pending.is_empty());
        // What was given up may still land after everything: it must change nothing that is newer.
        for writes in late {
            etcd.apply(&writes);
        }
        for (address, expected) in last {
            prop_assert_eq!(etcd.keys.get(&address).map(|key| key.1), expected, "{}", address);
        }
    }
}
