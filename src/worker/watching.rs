//! The watch on the records: what others change in etcd makes their addresses suspects.

use etcd_client::Event;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::debug;

use super::mirroring::Mirroring;
use crate::control::Purpose;
use crate::etcd::{self, Watched};
use crate::messages;

/// A watch under way; it ends when this is dropped.
pub(super) struct Watch {
    news: mpsc::Receiver<Watched>,
    task: AbortHandle,
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
        self.watch = Some(Watch { news, task });
    }

    pub(super) fn hear(&mut self, news: Watched) {
        match news {
            Watched::Changes(news) => {
                for event in news.events() {
                    self.notice(event);
                }
                // The header has the store's newest revision, also while the watch catches up and has told only older ones,
                // and in the first message, which tells nothing (etcd mvcc/watchable_store.go, syncWatchers).
                let Some(last) = news.events().last().and_then(Event::kv) else { return };
                self.watched_to = self.watched_to.max(last.mod_revision());
                // The last revision is told again when the watch begins anew.
                self.own = self.own.split_off(&self.watched_to);
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

/// What the watch tells next, while there is one.
pub(super) async fn next_news(watch: &mut Option<Watch>) -> Option<Watched> {
    watch.as_mut()?.news.recv().await
}
