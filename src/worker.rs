//! The one thread that talks to etcd: takes changes, sends them in transactions, and keeps trying.
//!
//! With a member that answers it opens a session: an etcd lease of 15 seconds with the presence key on it. Every
//! transaction requires that session, and after a request whose outcome is unknown a new one begins, so that what was
//! given up changes nothing when it lands late. While a transaction is under way, and a little longer when there is much to
//! do, changes gather and the next one is larger; up to sixteen full ones are under way at a time. When no member answers, one
//! request at a time is tried, with growing pauses, and everything waits newest per address.
//!
//! Besides it watches the records for changes by others, and runs comparisons. What these find goes back to Kea's main
//! thread as addresses to be read again, and comes from there like any other change.

mod answers;
mod comparing;
mod files;
mod gathering;
mod mirroring;
mod session;
mod telling;
mod watching;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::error;

use crate::committed::Committed;
use crate::config::Config;
use crate::control::Control;
use crate::counters::Counters;
use crate::handover::{Changes, Handover};
use crate::lease::Family;
use crate::messages;
use crate::metrics::{self, Lag, Told};
use crate::readings::Readings;
use crate::scrape;
use crate::spent::Spent;

use mirroring::Mirroring;

/// How often Kea's main thread is told that there are news for its statistics, and everything that needs no haste is done.
const TICK: Duration = Duration::from_secs(1);
/// How long the end of a session may take when the library is unloaded.
const CLOSING: Duration = Duration::from_millis(500);

/// The thread did not end in time.
#[derive(Debug)]
pub struct Stuck;

/// What a worker shares with Kea's threads.
#[derive(Debug)]
pub struct Shared {
    /// The parameters.
    pub config: Config,
    /// Which server this is.
    pub family: Family,
    /// Its version.
    pub kea_version: String,
    /// When the library was loaded, seconds since the epoch.
    pub started_at: i64,
    /// Changes that are to be read.
    pub committed: Committed,
    /// The changes.
    pub handover: Handover,
    /// What is left of those that were settled.
    pub spent: Spent,
    /// What the lease database is to be asked for.
    pub readings: Readings,
    /// Wishes for comparisons, and how the worker is.
    pub control: Control,
    /// Whether the next turn of Kea's main loop is to do everything that needs no haste.
    pub ticked: AtomicBool,
    /// What is counted.
    pub counters: Counters,
    /// How long changes waited until etcd had them.
    pub lag: Lag,
}

impl Shared {
    /// How many changes wait, wherever they are.
    pub fn waiting(&self) -> usize {
        self.committed.len() + self.handover.waiting()
    }

    /// What Prometheus is told.
    fn metrics(&self) -> prometheus::Result<String> {
        metrics::text(&Told {
            config: &self.config,
            family: self.family,
            kea_version: &self.kea_version,
            started_at: self.started_at,
            counters: &self.counters,
            control: &self.control,
            waiting: self.waiting(),
            lag: &self.lag,
        })
    }
}

/// A running worker. Dropping it leaves the thread behind; [`stop`](Self::stop) ends it.
#[derive(Debug)]
pub struct Worker {
    stop: oneshot::Sender<Instant>,
    left: mpsc::Receiver<Changes>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts the thread. It inherits the caller's signal mask, so the caller blocks every signal around this call.
    /// `begin` is what it does first. `wake` is called on it to have Kea's main thread read what is wanted and publish what was
    /// counted; it must return at once.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        shared: Arc<Shared>,
        begin: impl FnOnce() + Send + 'static,
        wake: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, mut stopping) = oneshot::channel();
        let (give, left) = mpsc::channel();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        if let Some(address) = shared.config.metrics_address {
            let shared = Arc::clone(&shared);
            // Ends with the runtime, before the thread does: the next load can have the port at once.
            runtime.spawn(scrape::serve(address, Arc::new(move || shared.metrics())));
        }
        let thread = std::thread::Builder::new().name("dhcp-etcd".into()).spawn(move || {
            begin();
            loop {
                let mirroring = Mirroring::new(&shared, &wake);
                match catch_unwind(AssertUnwindSafe(|| runtime.block_on(mirroring.run(&mut stopping)))) {
                    Ok(unwritten) => {
                        let _ = give.send(unwritten);
                        break;
                    }
                    Err(_) if stopping.is_terminated() => {
                        error!(target: messages::BUG, "the worker panicked while it ended; what it held is lost");
                        break;
                    }
                    Err(_) => {
                        error!(target: messages::BUG, "the worker panicked and starts anew with a comparison");
                        shared.control.restarted();
                        // What panics each time must not do so in a hurry.
                        std::thread::sleep(TICK);
                    }
                }
            }
            // A name that never resolves keeps a thread of the runtime busy; it is not waited for.
            runtime.shutdown_background();
        })?;
        Ok(Self { stop, left, thread })
    }

    /// Lets the thread write what is left, for at most `flush`, and ends it. Returns what is unwritten.
    ///
    /// # Errors
    /// [`Stuck`] when the thread does not answer half a second after that; it is left behind.
    pub fn stop(self, flush: Duration) -> Result<Changes, Stuck> {
        let _ = self.stop.send(Instant::now() + flush);
        let patience = flush.max(CLOSING) + Duration::from_millis(500);
        let unwritten = self.left.recv_timeout(patience).map_err(|_| Stuck)?;
        self.thread.join().map_err(|_| Stuck)?;
        Ok(unwritten)
    }
}
