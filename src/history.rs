//! Whether etcd still has the history that we wrote into. No I/O.
//!
//! A data directory that was lost or restored from an older snapshot holds an earlier state, and its revisions may have
//! grown past ours by the time that we connect again. But a history that has the last record that we wrote, at the
//! revision at which we wrote it, has everything before it as well. So that record is a landmark, and so is the presence
//! key; both are read whenever a session begins. Where neither can tell (somebody wrote the key since, or we only removed since), the history counts as
//! lost and everything is compared: that is never wrong, only more work.
//!
//! What others wrote after our last record may be lost though that stands, and so may what they did since: the watch is to tell
//! that anew. The last records that it told are landmarks for that.
//!
//! Only what was written in the session of this very connection counts; a stream on the same connection tells when it
//! breaks. The client connects again by itself, and what it writes then may be in another history already.

use std::collections::VecDeque;

use crate::etcd::Opened;

/// So many records that the watch told are remembered.
const HEARD: usize = 4;

/// What we know to have written.
#[derive(Debug, Default)]
pub struct History {
    /// Keys of ours with the `mod_revision` of each: the last record, and the presence key. Either proves all that matters,
    /// so the history goes on when one of them stands: the presence key vanishes with its session, a record is removed.
    landmarks: Vec<(String, i64)>,
    /// The last records that the watch told, of different keys: what one client renews each second soon stands no more.
    heard: VecDeque<(String, i64)>,
    /// The newest revision of an answer.
    newest: i64,
}

impl History {
    /// A record was written at `revision`.
    pub fn wrote(&mut self, key: String, revision: i64) {
        if revision >= self.newest {
            self.landmarks = vec![(key, revision)];
            self.newest = revision;
        }
    }

    /// The presence key was written at `revision`.
    pub fn presented(&mut self, key: &str, revision: i64) {
        if revision >= self.newest {
            self.landmarks.retain(|(landmark, _)| landmark != key);
            self.landmarks.push((key.to_owned(), revision));
            self.newest = revision;
        }
    }

    /// Something was removed, and nothing written, by a transaction whose answer has this revision. When that is another one's,
    /// nothing was there to be removed.
    pub fn removed(&mut self, revision: i64) {
        if revision > self.newest {
            self.landmarks.clear();
            self.newest = revision;
        }
    }

    /// The watch told that a record was written at `revision`.
    pub fn heard(&mut self, key: String, revision: i64) {
        self.heard.retain(|(heard, _)| *heard != key);
        self.heard.truncate(HEARD - 1);
        self.heard.push_front((key, revision));
    }

    /// Something was written or removed, and perhaps not in the history that we know.
    pub fn doubt(&mut self) {
        self.landmarks.clear();
    }

    /// The keys to be read when a session begins.
    #[must_use]
    pub fn landmarks(&self) -> Vec<String> {
        self.landmarks.iter().chain(&self.heard).map(|(key, _)| key.clone()).collect()
    }

    /// Up to which revision the session that began goes on with the history that we know, if it does; the landmarks must not
    /// have changed since they were asked for. From now on it is the session's history.
    pub fn goes_on(&mut self, opened: &Opened, presence: &str) -> Option<i64> {
        let stands = |((_, revision), found): (&(String, i64), &i64)| (revision == found).then_some(*revision);
        let mut found = opened.landmarks.iter();
        let ours = self.landmarks.iter().zip(found.by_ref()).filter_map(stands).max();
        self.heard.retain(|(_, revision)| found.next() == Some(revision));
        let heard = self.heard.iter().map(|(_, revision)| *revision).max();
        let goes_on = match ours.filter(|_| opened.revision > self.newest) {
            Some(ours) => heard.max(Some(ours)),
            None => (self.newest == 0).then_some(opened.revision),
        };
        if goes_on.is_none() {
            self.landmarks.clear();
            self.heard.clear();
        }
        self.newest = self.newest.min(opened.revision);
        self.presented(presence, opened.revision);
        goes_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(revision: i64, landmarks: &[i64]) -> Opened {
        Opened { lease: 1, revision, landmarks: landmarks.to_vec(), before: 0 }
    }

    fn history() -> History {
        let mut history = History::default();
        assert_eq!(history.goes_on(&opened(5, &[]), "p"), Some(5), "the first session has nothing to go on with");
        history
    }

    #[test]
    fn a_history_with_our_last_record_goes_on() {
        let mut history = history();
        assert_eq!(history.landmarks(), ["p"]);
        history.wrote("a".into(), 7);
        history.wrote("b".into(), 6);
        assert_eq!(history.landmarks(), ["a"]);
        assert_eq!(history.goes_on(&opened(9, &[7]), "p"), Some(7));
        assert_eq!(history.landmarks(), ["a", "p"]);
        assert_eq!(
            history.goes_on(&opened(12, &[7, 0]), "p"),
            Some(7),
            "the presence key has vanished, the record stands"
        );
        assert_eq!(history.goes_on(&opened(14, &[0, 12]), "p"), Some(12), "the other way round");
    }

    #[test]
    fn what_others_wrote_is_known_as_far_as_it_stands() {
        let mut history = history();
        history.wrote("a".into(), 7);
        history.heard("b".into(), 20);
        assert_eq!(history.landmarks(), ["a", "b"]);
        assert_eq!(history.goes_on(&opened(30, &[7, 20]), "p"), Some(20));
        assert_eq!(history.landmarks(), ["a", "p", "b"]);
        assert_eq!(history.goes_on(&opened(40, &[7, 30, 0]), "p"), Some(30), "a later one of ours is as good");
        assert_eq!(history.landmarks(), ["a", "p"], "what stands no more tells nothing of the next one");
        assert_eq!(history.goes_on(&opened(50, &[7, 0]), "p"), Some(7), "an older state, grown");
        for (key, revision) in [("b", 60), ("c", 61), ("d", 62), ("e", 63), ("f", 64), ("c", 65)] {
            history.heard(key.into(), revision);
        }
        assert_eq!(history.landmarks(), ["a", "p", "c", "f", "e", "d"]);
        assert_eq!(history.goes_on(&opened(70, &[7, 0, 69, 64, 63, 0]), "p"), Some(64), "one is enough");
        assert_eq!(history.goes_on(&opened(80, &[0, 0, 64, 63]), "p"), None, "of what we wrote they tell nothing");
    }

    #[test]
    fn an_older_state_is_found_out_even_when_its_revisions_have_grown() {
        for (revision, landmark) in [(9, 3), (9, 0), (4, 0), (6, 7)] {
            let mut history = history();
            history.wrote("a".into(), 7);
            assert_eq!(history.goes_on(&opened(revision, &[landmark]), "p"), None, "{revision} {landmark}");
            assert_eq!(history.landmarks(), ["p"], "the older state is where we go on from");
        }
    }

    #[test]
    fn after_a_removal_nobody_can_tell_until_something_is_written() {
        let mut history = history();
        history.wrote("a".into(), 7);
        history.removed(8);
        assert!(history.landmarks().is_empty());
        assert_eq!(history.goes_on(&opened(9, &[]), "p"), None);
        history.removed(10);
        history.presented("p", 11);
        history.removed(11);
        assert_eq!(history.landmarks(), ["p"], "nothing was removed");
        assert_eq!(history.goes_on(&opened(12, &[11]), "p"), Some(11));
    }
}
