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
        self.log.line(*event.metadata().level(), event.metadata().target(), &one_line(text.0));
    }
}

/// Some of what is logged others have written: a control character would end the line, or tell a terminal something.
fn one_line(text: String) -> String {
    if !text.contains(char::is_control) {
        return text;
    }
    let plain = |char: char| if char.is_control() { char.escape_default().to_string() } else { char.into() };
    text.chars().map(plain).collect()
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    struct Lines(Arc<Mutex<Vec<String>>>);

    impl Log for Lines {
        fn enabled(&self, _: Level) -> bool {
            true
        }
        fn line(&self, _: Level, id: &str, text: &str) {
            self.0.lock().unwrap().push(format!("{id} {text}"));
        }
    }

    #[test]
    fn whatever_a_message_tells_is_one_line() {
        let lines = Arc::default();
        let subscriber = tracing_subscriber::registry().with(KeaLayer { log: Lines(Arc::clone(&lines)) });
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(target: "ETCD_BUG", "{}", "büro\nETCD_CONNECTED \u{1b}[2J\u{9b}2J");
        });
        assert_eq!(*lines.lock().unwrap(), [r"ETCD_BUG büro\nETCD_CONNECTED \u{1b}[2J\u{9b}2J"]);
    }
}
