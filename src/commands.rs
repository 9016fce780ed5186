//! The library's own commands: `etcd-status`, `etcd-resync`, `etcd-verify`. Answered from what the worker told last; only
//! a comparison that is asked for is waited for, at most a second.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::comparison::{Findings, Tally};
use crate::control::{COMMAND, Control, Done, Purpose};
use crate::counters::Counters;

/// The commands' names.
pub const NAMES: [&str; 3] = ["etcd-status", "etcd-resync", "etcd-verify"];

/// How long a command waits. The main thread does nothing else meanwhile, so it is less than the time after which
/// clients send again (RFC 2131 section 4.1: 4 s, RFC 8415 section 7.6: 1 s).
const PATIENCE: Duration = Duration::from_secs(1);

/// Kea's result codes (`cc/command_interpreter.h`).
const SUCCESS: u8 = 0;
const ERROR: u8 = 1;

/// Carries out a command, given with its arguments as JSON text. `meanwhile` is called while a comparison is waited for.
pub fn answer(command: &str, now: i64, control: &Control, counters: &Counters, meanwhile: impl FnMut()) -> Value {
    let command: Value = match serde_json::from_str(command) {
        Ok(command) => command,
        // Kea's own reader takes more than ours: numbers without bounds, any depth.
        Err(error) => return bad(&format!("'command': found what cannot be read ({error}), accepted is JSON")),
    };
    let Some(name) = NAMES.into_iter().find(|name| command["command"] == *name) else {
        let found = &command["command"];
        return bad(&format!("'command': found {found}, accepted is one of {}", NAMES.join(", ")));
    };
    let none = Map::new();
    let arguments = match command.get("arguments") {
        None | Some(Value::Null) => &none,
        Some(Value::Object(arguments)) => arguments,
        Some(other) => return bad(&format!("'arguments': found {other}, accepted is a map")),
    };
    let takes: &[&str] = if name == "etcd-resync" { &["wait"] } else { &[] };
    if let Some(unknown) = arguments.keys().find(|argument| !takes.contains(&argument.as_str())) {
        let accepted = if takes.is_empty() { "none".into() } else { takes.join(", ") };
        return bad(&format!("'{unknown}': found an unknown argument of {name}, accepted is {accepted}"));
    }
    match name {
        "etcd-status" => success("how the mirror is", &status(control, counters)),
        "etcd-verify" => compared(Purpose::Verify, now, control, meanwhile),
        _ => match arguments.get("wait") {
            None | Some(Value::Bool(false)) => {
                control.want(Purpose::Resync, COMMAND);
                success("a comparison begins", &json!({}))
            }
            Some(Value::Bool(true)) => compared(Purpose::Resync, now, control, meanwhile),
            Some(other) => bad(&format!("'wait': found {other}, accepted is true or false")),
        },
    }
}

fn success(text: &str, arguments: &Value) -> Value {
    json!({ "result": SUCCESS, "text": text, "arguments": arguments })
}

fn bad(text: &str) -> Value {
    json!({ "result": ERROR, "text": text })
}

fn compared(purpose: Purpose, now: i64, control: &Control, meanwhile: impl FnMut()) -> Value {
    if let Some(done) = control.wait(purpose, now, Instant::now() + PATIENCE, meanwhile) {
        let Findings { missing, different, extra, .. } = &done.findings;
        let text = format!("{} missing, {} different, {} extra", missing.count, different.count, extra.count);
        return success(&text, &found(&done));
    }
    let status = control.status();
    let text = match status.last_error {
        Some((error, _)) if status.connection != "up" => format!("etcd does not answer: {error}"),
        _ => "the comparison still runs: give the command again to get its result".into(),
    };
    json!({ "result": ERROR, "text": text, "arguments": { "running": true } })
}

fn found(done: &Done) -> Value {
    let Findings { leases, records, missing, different, extra, others, foreign } = &done.findings;
    let mut found = json!({
        "missing": missing.count, "different": different.count, "extra": extra.count,
        "leases": leases, "records": records, "others": others, "foreign": foreign,
        "reason": done.reason, "finished-at": done.at, "took-ms": milliseconds(done.took),
    });
    for (name, Tally { addresses, .. }) in
        [("missing-addresses", missing), ("different-addresses", different), ("extra-addresses", extra)]
    {
        found[name] = json!(addresses);
    }
    found
}

fn status(control: &Control, counters: &Counters) -> Value {
    let status = control.status();
    let running = status.running.map(|(purpose, reason, since)| {
        let purpose = if purpose == Purpose::Resync { "resync" } else { "verify" };
        json!({ "purpose": purpose, "reason": reason, "since": since })
    });
    let mut answer = json!({
        "connection": status.connection,
        "endpoint": status.endpoint,
        "tls": status.tls,
        "user": status.user,
        "state": status.state,
        "leases": status.leases,
        "queue-depth": status.queued,
        "unwritten": status.unwritten,
        "lag-seconds": status.lag,
        "running": running,
        "last-resync": control.last(Purpose::Resync).as_ref().map(found),
        "counters": Map::from_iter(counters.all().map(|(name, count)| (name.to_owned(), count.into()))),
    });
    if let Some((text, at)) = status.last_error {
        answer["last-error"] = json!({ "text": text, "at": at });
    }
    answer
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(command: &Value) -> Value {
        answer(&command.to_string(), 0, &Control::default(), &Counters::default(), || {})
    }

    #[test]
    fn status_is_answered_before_anything_happened() {
        let answer = ask(&json!({ "command": "etcd-status" }));
        assert_eq!(answer["result"], 0);
        assert_eq!(answer["arguments"]["last-resync"], Value::Null);
        assert_eq!(answer["arguments"]["counters"]["etcd-writes"], 0);
    }

    #[test]
    fn bad_arguments_are_named() {
        for (arguments, text) in [
            (json!([1]), "'arguments': found [1], accepted is a map"),
            (json!({ "wiat": true }), "'wiat': found an unknown argument of etcd-resync, accepted is wait"),
            (json!({ "wait": 1 }), "'wait': found 1, accepted is true or false"),
        ] {
            let answer = ask(&json!({ "command": "etcd-resync", "arguments": arguments }));
            assert_eq!((&answer["result"], &answer["text"]), (&json!(1), &json!(text)));
        }
        let answer = ask(&json!({ "command": "etcd-verify", "arguments": { "x": 1 } }));
        assert_eq!(answer["text"], "'x': found an unknown argument of etcd-verify, accepted is none");
    }

    #[test]
    fn what_cannot_be_read_or_is_not_ours_begins_nothing() {
        let deep = format!(r#"{{"command":"etcd-verify","arguments":{}{}}}"#, "[".repeat(200), "]".repeat(200));
        for (command, text) in [
            ("", "'command': found what cannot be read (EOF while parsing a value at line 1 column 0)"),
            (&deep, "'command': found what cannot be read (recursion limit exceeded"),
            (
                r#"{"command":"etcd-resync","arguments":{"x":1e400}}"#,
                "'command': found what cannot be read (number out",
            ),
            (
                r#"{"command":"etcd-sync"}"#,
                "'command': found \"etcd-sync\", accepted is one of etcd-status, etcd-resync",
            ),
            ("7", "'command': found null, accepted is one of"),
        ] {
            let control = Control::default();
            let answer = answer(command, 0, &control, &Counters::default(), || {});
            assert_eq!(answer["result"], 1);
            assert!(answer["text"].as_str().unwrap().starts_with(text), "{answer}");
            assert_eq!(control.next(false), None, "{command}");
        }
    }

    #[test]
    fn a_comparison_that_does_not_end_is_waited_for_a_second_and_its_result_told_to_the_next() {
        let (control, counters) = (Control::default(), Counters::default());
        let command = json!({ "command": "etcd-verify" }).to_string();
        let first = answer(&command, 100, &control, &counters, || {});
        assert_eq!((&first["result"], &first["arguments"]["running"]), (&json!(1), &json!(true)));
        assert_eq!(control.next(false), Some((Purpose::Verify, COMMAND)));
        let findings = Findings { leases: 3, ..Findings::default() };
        let done = Done { at: 101, took: Duration::from_millis(7), reason: COMMAND, findings };
        control.finished(Purpose::Verify, done);
        let second = answer(&command, 102, &control, &counters, || {});
        assert_eq!((&second["result"], &second["arguments"]["leases"]), (&json!(0), &json!(3)));
        assert_eq!(second["text"], "0 missing, 0 different, 0 extra");
        assert_eq!(control.next(false), None, "no other one was wanted");
    }
}
