//! The inputs that the fuzzer found worth keeping, without the fuzzer. A failure names the file.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

#[path = "../fuzz/targets/mod.rs"]
mod targets;

fn run_through(name: &str, target: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let files: Vec<_> = fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() > 20, "{} files in {}", files.len(), dir.display());
    for file in files {
        let input = fs::read(&file).unwrap();
        assert!(catch_unwind(|| target(&input)).is_ok(), "{}", file.display());
    }
}

#[test]
fn what_operators_write_is_taken_or_refused_as_documented() {
    run_through("operator", targets::operator::try_input);
}

#[test]
fn what_stands_in_etcd_harms_nothing_and_a_comparison_mends_it() {
    run_through("etcd", targets::etcd::try_input);
}

#[test]
fn what_clients_send_makes_records_and_index_keys_that_read_back() {
    run_through("client", targets::client::try_input);
}
