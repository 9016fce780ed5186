//! What a machine has not got for a test is told, whatever becomes of the test.

use std::io::Write;

/// Says what is left out. What `println!` says is only shown of a test that fails.
pub fn tell(what: &str) {
    let _ = writeln!(std::io::stderr(), "left out: {what}");
}
