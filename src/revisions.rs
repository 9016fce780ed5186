//! Which of etcd's revisions are accounted for: those of our own changes, and those that the watch told. No I/O.
//!
//! Whatever changes anything in etcd, wherever, is at the revision after the one before it, one for each transaction
//! (etcd `mvcc/kvstore_txn.go`, `storeTxnWrite.End`). So while the revisions of our own transactions follow one another,
//! nobody else changed anything, and a watch would only tell us what we wrote. One that is missing is of a request of ours whose
//! answer is on its way, or somebody else's; a watch is to tell everything from there on.

use std::collections::BTreeSet;

/// A watch that is to tell more revisions than these is not begun: to catch up with many takes etcd longer than to be compared
/// (etcd `mvcc/watchable_store.go`, `syncWatchers`, reads all of them for each thousand that it tells).
const FAR: i64 = 10_000;

/// Of so many that follow a missing one the oldest are forgotten: the watch tells them like those of somebody else, in the end.
const MOST: usize = 10_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Revisions {
    /// Everything before it is accounted for.
    from: Option<i64>,
    /// Ours after that one, which is missing.
    own: BTreeSet<i64>,
    /// The missing one, and the number of the next request when it was first missed.
    missing: Option<(i64, u64)>,
}

impl Revisions {
    /// What is in etcd at `revision` is known, or being read.
    pub fn begin_after(&mut self, revision: i64) {
        self.from = Some(revision + 1);
        self.own = self.own.split_off(&(revision + 1));
        self.pass_own();
    }

    /// Only what happened up to `revision` is known to be in the history that goes on, which is at `now`. False when that is too
    /// far back to be told: something is to be read anew.
    #[must_use]
    pub fn go_back(&mut self, revision: i64, now: i64) -> bool {
        self.from = self.from.map(|from| from.min(revision + 1));
        self.own.split_off(&(revision + 1));
        let is_far = self.from.is_some_and(|from| now - from > FAR);
        if is_far {
            self.lose();
        }
        !is_far
    }

    /// Nobody can tell any more what others did, until something is read anew.
    pub fn lose(&mut self) {
        self.from = None;
    }

    /// The first revision that a watch is to tell, unless something is to be read first.
    #[must_use]
    pub fn from(&self) -> Option<i64> {
        self.from
    }

    /// A transaction of ours changed something, at `revision`.
    pub fn wrote(&mut self, revision: i64) {
        if self.from.is_none_or(|from| from <= revision) {
            self.own.insert(revision);
            self.pass_own();
            if self.own.len() > MOST {
                self.own.pop_first();
            }
        }
    }

    /// The watch told what happened up to `revision`; of that one there may be more, as what is much comes in parts.
    pub fn told(&mut self, revision: i64) {
        if self.from.is_some_and(|from| from < revision) {
            self.from = Some(revision);
            self.own = self.own.split_off(&revision);
            self.pass_own();
        }
    }

    /// Whether what happened at `revision` is known already.
    #[must_use]
    pub fn has(&self, revision: i64) -> bool {
        self.from.is_some_and(|from| revision < from) || self.own.contains(&revision)
    }

    /// Whether somebody else changed something before the newest of ours. Of our own requests that may change something the
    /// oldest under way has the number `oldest`; the next request gets `next`.
    pub fn has_others(&mut self, oldest: Option<u64>, next: u64) -> bool {
        let Some(from) = self.from.filter(|_| !self.own.is_empty()) else {
            self.missing = None;
            return false;
        };
        if self.missing.is_none_or(|(missing, _)| missing != from) {
            self.missing = Some((from, next));
        }
        self.missing.is_some_and(|(_, before)| oldest.is_none_or(|oldest| before <= oldest))
    }

    fn pass_own(&mut self) {
        while let Some(from) = self.from.filter(|from| self.own.first() == Some(from)) {
            self.own.pop_first();
            self.from = Some(from + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(revision: i64, own: &[i64]) -> Revisions {
        let mut revisions = Revisions::default();
        revisions.begin_after(revision);
        for revision in own {
            revisions.wrote(*revision);
        }
        revisions
    }

    #[test]
    fn ours_that_follow_one_another_need_no_watch() {
        let mut revisions = after(6, &[7, 9, 8, 10]);
        assert_eq!(revisions.from(), Some(11));
        assert!(!revisions.has_others(None, 5));
        assert!(revisions.has(10) && !revisions.has(11));
    }

    #[test]
    fn one_that_is_missing_may_be_of_a_request_under_way() {
        let mut revisions = after(6, &[8, 9]);
        assert_eq!(revisions.from(), Some(7));
        assert!(!revisions.has_others(Some(3), 5));
        // Sent since: it came after what is missing.
        assert!(!revisions.has_others(Some(4), 7));
        assert!(revisions.has_others(Some(5), 9), "all that were under way are answered");
        assert!(revisions.has_others(None, 9));
        assert!(revisions.has(8) && !revisions.has(7));
        revisions.wrote(7);
        assert_eq!(revisions.from(), Some(10), "its answer was only late");
        assert!(!revisions.has_others(None, 9));
        revisions.wrote(11);
        assert!(!revisions.has_others(Some(8), 9), "another one is missing now");
    }

    #[test]
    fn what_the_watch_told_is_accounted_for_but_for_the_last_of_it() {
        let mut revisions = after(6, &[8]);
        revisions.told(7);
        assert_eq!(revisions.from(), Some(7), "there may be more of it");
        assert!(!revisions.has(7), "it is told in parts");
        revisions.told(8);
        assert_eq!(revisions.from(), Some(9), "ours is whole");
        revisions.told(12);
        assert_eq!(revisions.from(), Some(12));
        revisions.wrote(10);
        assert!(revisions.has(10) && !revisions.has_others(None, 5), "it was told before it was answered");
    }

    #[test]
    fn nobody_can_tell_before_something_is_read() {
        let mut revisions = after(6, &[8]);
        revisions.lose();
        revisions.wrote(11);
        revisions.wrote(13);
        assert_eq!(revisions.from(), None);
        assert!(!revisions.has_others(None, 5));
        revisions.begin_after(10);
        assert_eq!(revisions.from(), Some(12), "ours are known all the same");
        assert!(revisions.has(13) && revisions.has_others(None, 5));
    }

    #[test]
    fn what_may_be_of_another_history_is_told_anew() {
        let mut revisions = after(6, &[7, 8, 12]);
        assert!(revisions.go_back(10, 14));
        assert_eq!(revisions.from(), Some(9));
        assert!(!revisions.has(12));
        assert!(revisions.go_back(7, 14));
        assert_eq!(revisions.from(), Some(8));
        assert!(revisions.has(7) && !revisions.has(8));
        assert!(!revisions.go_back(7, 9 + FAR));
        assert_eq!(revisions.from(), None);
    }

    #[test]
    fn what_no_watch_ever_tells_does_not_fill_memory() {
        let mut revisions = after(6, &[]);
        for revision in 8..30_000 {
            revisions.wrote(revision);
        }
        assert_eq!(revisions.own.len(), MOST);
        assert_eq!(revisions.from(), Some(7));
        assert!(revisions.has_others(None, 5) && revisions.has(29_999));
    }
}
