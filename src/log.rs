//! Carries tracing events into Kea's log: those whose target is one of our message identifiers.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

/// Kea's log.
pub trait Log: Send + Sync + 'static {
    /// Whether a line of this level would be written.
    fn enabled(&self, level: Level) -> bool;
    /// Writes a line under a message identifier. From any thread.
    fn line(&self, level: Level, id: &str, text: &str);
}

/// Sends our events to `log` from now on. Only the first call in a process has an effect, so `log` must outlive a load.
pub fn install(log: impl Log) {
    let subscriber = tracing_subscriber::registry().with(KeaLayer { log });
    let _ = tracing::subscriber::set_global_default(subscriber);
}

struct KeaLayer<L> {
    log: L,
}

impl<L: Log, S: Subscriber> Layer<S> for KeaLayer<L> {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // Kea's level can change with every configuration, so it is asked each time; other crates never log here.
        if metadata.target().starts_with("ETCD_") { Interest::sometimes() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target().starts_with("ETCD_") && self.log.enabled(*metadata.level())
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.log.line(*event.metadata().level(), event.metadata().target(), &text.0);
    }
}

/// The message of an event, then its other fields as `name=value`.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = if field.name() == "message" {
            write!(self.0, "{value:?}")
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
    }
}
