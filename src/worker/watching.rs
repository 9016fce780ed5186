//! The watch on the records: what others change in etcd makes their addresses suspects.

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::debug;

use super::mirroring::Mirroring;
use crate::control::Purpose;
use crate::etcd::{self, KeyChange, Watched};
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
            Watched::Changes { revision, changes } => {
                for change in changes {
                    self.notice(change);
                }
                self.watched_to = self.watched_to.max(revision);
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
    fn notice(&mut self, KeyChange { key, found, before }: KeyChange) {
        let Some(address) = self.pending.writer().keys.address(&key) else { return };
        if !self.shared.family.has(address) || self.own.contains(&found.as_of) {
            return;
        }
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
