//! Whether etcd still has the history that we wrote into. No I/O.
//!
//! A data directory that was lost or restored from an older snapshot holds an earlier state, and its revisions may have
//! grown past ours by the time that we connect again. But a history that has the last record that we wrote, at the
//! revision at which we wrote it, has everything before it as well. So that record is the landmark, read whenever a
//! session begins. Where it cannot tell (somebody wrote the key since, or we only removed since), the history counts as
//! lost and everything is compared: that is never wrong, only more work.
//!
//! Only what was written in the session of this very connection counts; the watch on the same connection tells when it
//! breaks. The client connects again by itself, and what it writes then may be in another history already.

use crate::etcd::Opened;

/// What we know to have written.
#[derive(Debug, Default)]
pub struct History {
    /// A key of ours and its `mod_revision`.
    landmark: Option<(String, i64)>,
    /// The newest revision of an answer.
    newest: i64,
}

impl History {
    /// The key was written at `revision`.
    pub fn wrote(&mut self, key: String, revision: i64) {
        if revision >= self.newest {
            self.landmark = Some((key, revision));
            self.newest = revision;
        }
    }

    /// Something was removed at `revision`, and nothing written.
    pub fn removed(&mut self, revision: i64) {
        if revision >= self.newest {
            self.landmark = None;
            self.newest = revision;
        }
    }

    /// Something was written or removed, and perhaps not in the history that we know.
    pub fn doubt(&mut self) {
        self.landmark = None;
    }

    /// The key to be read when a session begins, if any.
    #[must_use]
    pub fn landmark(&self) -> Option<&str> {
        self.landmark.as_ref().map(|(key, _)| key.as_str())
    }

    /// Whether the session that began goes on with the history that we know. From now on that is the session's.
    pub fn goes_on(&mut self, opened: &Opened, presence: &str) -> bool {
        let landmark_stands = self.landmark.as_ref().is_some_and(|(_, revision)| *revision == opened.landmark);
        let goes_on = self.newest == 0 || (landmark_stands && opened.revision > self.newest);
        self.newest = opened.revision;
        self.landmark = Some((presence.to_owned(), opened.revision));
        goes_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(revision: i64, landmark: i64) -> Opened {
        Opened { lease: 1, revision, landmark, before: None }
    }

    #[test]
    fn the_first_session_has_nothing_to_go_on_with() {
        assert!(History::default().goes_on(&opened(5, 0), "p"));
    }

    #[test]
    fn a_history_with_our_last_record_goes_on() {
        let mut history = History::default();
        history.goes_on(&opened(5, 0), "p");
        assert_eq!(history.landmark(), Some("p"));
        history.wrote("a".into(), 7);
        history.wrote("b".into(), 6);
        assert_eq!(history.landmark(), Some("a"));
        assert!(history.goes_on(&opened(9, 7), "p"));
        assert_eq!(history.landmark(), Some("p"));
    }

    #[test]
    fn an_older_state_is_found_out_even_when_its_revisions_have_grown() {
        for (revision, landmark) in [(9, 3), (9, 0), (4, 0), (6, 7)] {
            let mut history = History::default();
            history.goes_on(&opened(5, 0), "p");
            history.wrote("a".into(), 7);
            assert!(!history.goes_on(&opened(revision, landmark), "p"), "{revision} {landmark}");
        }
    }

    #[test]
    fn after_a_removal_nobody_can_tell() {
        let mut history = History::default();
        history.goes_on(&opened(5, 0), "p");
        history.wrote("a".into(), 7);
        history.removed(8);
        assert_eq!(history.landmark(), None);
        assert!(!history.goes_on(&opened(9, 0), "p"));
    }
}
