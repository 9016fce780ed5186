//! What must hold of whatever others send: one function for each side that sends something. Each takes any bytes at all
//! and panics when something does not hold. The fuzzer runs them (`make fuzz`), and so does a test, on the inputs that
//! are kept in `fuzz/corpus/` (`tests/fuzz_corpus.rs`).
#![allow(dead_code, reason = "each binary of the fuzzer uses one target")]

pub mod client;
pub mod etcd;
pub mod operator;
pub mod store;

/// Seconds since the epoch, in every input.
const NOW: i64 = 1_700_000_000;

/// Seconds that a record stays after its lease ended.
const GRACE: i64 = 120;

/// Our own `server-name`.
const SERVER: &str = "a";

/// Where our keys stand.
const PREFIX: &str = "/p";
