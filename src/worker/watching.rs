//! The watch on the records: what others change in etcd makes their addresses suspects.
//!
//! It tells what we write as well, which costs etcd and this thread as much as what others do. So it ends while many of our
//! transactions land in a row, and begins again where a revision is somebody else's, or when they come to rest: until the next
//! one lands nothing else would tell what others do ([`crate::revisions`]).

use std::collections::VecDeque;
use std::time::Duration;

use etcd_client::{Event, EventType, WatchResponse};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::debug;

use super::TICK;
use super::mirroring::{Flight, Mirroring, WINDOW};
use crate::control::Purpose;
use crate::etcd::{self, Request, Watched};
use crate::messages;

/// Messages of the watch that wait at most: twice as many as transactions are under way, each of which is told in one.
const UNHEARD: usize = 2 * WINDOW;

/// So many transactions of ours without one of somebody else end the watch: a second of a busy server or less, and enough that it
/// is not begun and ended all the time.
const ALONE: usize = 64;
/// So long after the last of ours it begins again. Etcd tells within as much what happened before (etcd
/// `mvcc/watchable_store.go`, `syncWatchersLoop`), so others are noticed with the next tick but one at the latest.
const REST: Duration = Duration::from_millis(100);

/// A watch under way; it ends when this is dropped.
pub(super) struct Watch {
    news: mpsc::Receiver<Watched>,
    /// What it told, in order, while that may be of transactions of our own whose answers are on their way: of requests with a
    /// number below that beside it.
    unheard: VecDeque<(WatchResponse, u64)>,
    /// How many transactions of ours landed, each soon after the one before, since it began or somebody else changed something.
    alone: usize,
    task: AbortHandle,
}

impl Watch {
    /// What it told next, unless that may be of the request of number `oldest` or a later one.
    fn known(&mut self, oldest: u64) -> Option<WatchResponse> {
        let is_known = self.unheard.front().is_some_and(|(_, before)| *before <= oldest);
        if is_known { self.unheard.pop_front().map(|(news, _)| news) } else { None }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Mirroring<'_> {
    /// Begins the watch when others may change something that we would not know of, and ends it when that is not so. Returns when
    /// to look again.
    pub(super) fn keep_watch(&mut self) -> Option<Instant> {
        let (_, from) = (self.session?, self.revisions.from()?);
        let has_others = self.revisions.has_others(self.oldest_write(), self.next_number);
        let Some(watch) = &mut self.watch else {
            let at = if has_others { self.watch_not_before } else { self.watch_not_before.max(self.landed_at + REST) };
            if Instant::now() < at {
                return Some(at);
            }
            self.start_watch(from);
            return None;
        };
        if has_others {
            watch.alone = 0;
        } else if watch.alone >= ALONE {
            self.watch = None;
            return Some(self.landed_at + REST);
        }
        None
    }

    /// A transaction of ours changed something.
    pub(super) fn wrote(&mut self, revision: i64) {
        self.revisions.wrote(revision);
        let before = std::mem::replace(&mut self.landed_at, Instant::now());
        if let Some(watch) = &mut self.watch {
            let soon = self.landed_at < before + REST;
            watch.alone = if soon { watch.alone + 1 } else { 1 };
        }
    }

    /// The number of the oldest request under way that may change something.
    fn oldest_write(&self) -> Option<u64> {
        self.flights.iter().filter(|(_, flight)| flight.writes()).map(|(number, _)| *number).min()
    }

    fn start_watch(&mut self, from: i64) {
        let Some(member) = self.link.member() else { return };
        let (tell, news) = mpsc::channel(16);
        let writer = self.pending.writer();
        // Only a record that was ours tells which index keys there are.
        let (base, tell_before) = (writer.keys.base().to_owned(), !writer.index.is_off());
        // From the revision before, though that is known: etcd before 3.4.34 and 3.5.16 keeps no removal at the very revision up to
        // which it was compacted, but says that something is missing only to those who begin below that (etcd
        // `mvcc/key_index.go`, `doCompact`; `mvcc/watcher_group.go`, `choose`).
        let task = tokio::spawn(etcd::watch(member, base, from - 1, tell_before, tell)).abort_handle();
        self.watch = Some(Watch { news, unheard: VecDeque::new(), alone: 0, task });
    }

    pub(super) fn hear(&mut self, news: Watched) {
        match news {
            Watched::Changes(news) => {
                if let Some(watch) = &mut self.watch {
                    watch.unheard.push_back((news, self.next_number));
                }
            }
            Watched::Lost(reason) => {
                debug!(target: messages::NOTICED, "changes by others were missed: {reason}");
                self.watch = None;
                // The watch goes on where the comparison reads.
                self.revisions.lose();
                self.shared.control.want(Purpose::Resync, "etcd compacted");
            }
            Watched::Canceled(reason) => {
                debug!(target: messages::NOTICED, "the watch ended: {reason}");
                self.watch = None;
                self.watch_not_before = Instant::now() + TICK;
                // Perhaps etcd takes our token no more, or we may not read any more, which of a watch it tells by a text that differs
                // from version to version. A request that reads tells it as any other does.
                let request = Request::probe(self.pending.writer().keys.base(), &self.presence_key);
                self.fly(request, Flight::Probe);
            }
            Watched::Disconnected(reason) => self.line_ended(&reason),
        }
    }

    /// Hears what the watch told, unless some of it may be our own transaction: the watch tells of that before its answer comes
    /// as often as after it, and what we wrote is not to be read again to find out. It waits for the answers of all that were
    /// under way when it came; they need not come in the order of their revisions.
    pub(super) fn hear_changes(&mut self) {
        let oldest = self.oldest_write().unwrap_or(u64::MAX);
        while let Some(news) = self.watch.as_mut().and_then(|watch| watch.known(oldest)) {
            for event in news.events() {
                self.notice(event);
            }
            // The header has the store's revision, also while the watch catches up and has told only older ones, and in the first
            // message, which tells nothing (etcd `mvcc/watchable_store.go`, `syncWatchers`).
            if let Some(last) = news.events().last().and_then(Event::kv) {
                self.revisions.told(last.mod_revision());
            }
            let mut written = news.events().iter().rev().filter(|event| event.event_type() == EventType::Put);
            if let Some((Ok(key), record)) = written.find_map(Event::kv).map(|record| (record.key_str(), record)) {
                self.history.heard(key.to_owned(), record.mod_revision());
            }
        }
    }

    /// A key below the records changed.
    fn notice(&mut self, event: &Event) {
        // Most changes are our own: what they hold is not even looked at.
        let Some(pair) = event.kv().filter(|pair| !self.revisions.has(pair.mod_revision())) else { return };
        let writer = self.pending.writer();
        let Some(address) = writer.keys.address(pair.key()).filter(|address| self.shared.family.has(*address)) else {
            return;
        };
        let (found, before) = etcd::changed(event, pair, !writer.index.is_off());
        if let Some(resync) = &mut self.resync {
            resync.touch(address);
        }
        if self.pending.noticed(address, &found, before) {
            return;
        }
        if self.noticed.len() < self.config().queue_size {
            self.noticed.insert(address);
        } else {
            self.shared.control.want(Purpose::Resync, "many changes by others");
        }
    }
}

/// What the watch tells next, while there is one and not too much of what it told is unheard.
pub(super) async fn next_news(watch: &mut Option<Watch>) -> Option<Watched> {
    watch.as_mut().filter(|watch| watch.unheard.len() < UNHEARD)?.news.recv().await
}
