//! The watch on the records: what others change in etcd makes their addresses suspects.

use std::collections::VecDeque;

use etcd_client::{Event, KeyValue, WatchResponse};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::debug;

use super::mirroring::{Mirroring, WINDOW};
use crate::control::Purpose;
use crate::etcd::{self, Watched};
use crate::messages;

/// Messages of the watch that wait at most: twice as many as transactions are under way, each of which is told in one.
const UNHEARD: usize = 2 * WINDOW;

/// A watch under way; it ends when this is dropped.
pub(super) struct Watch {
    news: mpsc::Receiver<Watched>,
    /// What it told, in order, while that may be of transactions of our own whose answers are on their way: of requests with a
    /// number below that beside it.
    unheard: VecDeque<(WatchResponse, u64)>,
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
    pub(super) fn start_watch(&mut self) {
        let Some(member) = self.link.member() else { return };
        let (tell, news) = mpsc::channel(16);
        let writer = self.pending.writer();
        // Only a record that was ours tells which index keys there are.
        let (base, tell_before) = (writer.keys.base().to_owned(), !writer.index.is_off());
        let task = tokio::spawn(etcd::watch(member, base, self.watched_to, tell_before, tell)).abort_handle();
        self.watch = Some(Watch { news, unheard: VecDeque::new(), task });
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
                self.watched_to = 0;
                self.shared.control.want(Purpose::Resync, "etcd compacted");
            }
            Watched::Canceled(reason) => {
                // The next tick begins it again.
                debug!(target: messages::NOTICED, "the watch ended: {reason}");
                self.watch = None;
            }
            Watched::Disconnected(reason) => {
                debug!(target: messages::NOTICED, "the watch ended: {reason}");
                self.session_lost();
            }
        }
    }

    /// Hears what the watch told, unless some of it may be our own transaction: the watch tells of that before its answer comes
    /// as often as after it, and what we wrote is not to be read again to find out. It waits for the answers of all that were
    /// under way when it came; they need not come in the order of their revisions.
    pub(super) fn hear_changes(&mut self) {
        let writes = self.flights.iter().filter(|(_, flight)| flight.writes());
        let oldest = writes.map(|(number, _)| *number).min().unwrap_or(u64::MAX);
        while let Some(news) = self.watch.as_mut().and_then(|watch| watch.known(oldest)) {
            for event in news.events() {
                self.notice(event);
            }
            self.watched_to = self.watched_to.max(revision(&news));
            // The last revision is told again when the watch begins anew.
            self.own = self.own.split_off(&self.watched_to);
        }
    }

    /// A key below the records changed.
    fn notice(&mut self, event: &Event) {
        // Most changes are our own: what they hold is not even looked at.
        let Some(pair) = event.kv().filter(|pair| !self.own.contains(&pair.mod_revision())) else { return };
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

/// The newest revision that is told; 0 when nothing is. The header has the store's, also while the watch catches up and has told
/// only older ones, and in the first message, which tells nothing (etcd `mvcc/watchable_store.go`, `syncWatchers`).
fn revision(news: &WatchResponse) -> i64 {
    news.events().last().and_then(Event::kv).map_or(0, KeyValue::mod_revision)
}
