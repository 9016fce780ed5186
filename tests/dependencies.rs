//! The crates that this one depends on: their licences, where they come from, and why there are direct ones at all.
//!
//! `make deny` checks the same and more with cargo-deny, which takes a quarter of an hour to compile.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;
use spdx::{Expression, ParseMode};

/// A file of the repository.
fn file(name: &str) -> String {
    fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Every crate that may be compiled on this platform, in one with tests and benchmarks.
fn packages() -> Vec<Value> {
    let host = Command::new("rustc").arg("-vV").output().unwrap();
    let host = String::from_utf8(host.stdout).unwrap();
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args(["metadata", "--format-version", "1", "--locked"]);
    let output = cargo.args(["--all-features", "--filter-platform", host]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// What stands between quotation marks.
fn quoted<'a>(text: &'a str, mark: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(mark).skip(1).step_by(2)
}

#[test]
fn licences_and_sources_are_among_those_that_are_allowed() {
    let deny = file("deny.toml");
    let allowed = deny.split("\nallow = [").nth(1).unwrap().split(']').next().unwrap();
    let allowed: BTreeSet<&str> = quoted(allowed, "\"").collect();
    assert!(allowed.contains("MPL-2.0"), "{allowed:?}");
    let packages = packages();
    assert!(packages.len() > 100, "only {} crates", packages.len());
    for package in packages {
        let text = package["license"].as_str().unwrap_or_else(|| panic!("{} tells no licence", package["id"]));
        let licence = Expression::parse_mode(text, ParseMode::LAX).unwrap_or_else(|error| panic!("{text}: {error}"));
        let fits = licence.evaluate(|wanted| allowed.contains(wanted.to_string().as_str()));
        assert!(fits, "{}: {text}; allowed are {allowed:?}", package["id"]);
        let source = package["source"].as_str();
        let known = source.map_or(package["name"] == "dhcp_etcd", |source| {
            source == "registry+https://github.com/rust-lang/crates.io-index"
        });
        assert!(known, "{} is from {source:?}", package["id"]);
    }
}

#[test]
fn each_direct_dependency_has_a_reason() {
    let readme = file("README.md");
    let table = readme.split("| dependency | for |\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let mut told = BTreeSet::new();
    for row in table.lines().skip(1) {
        let [_, names, reason, _] = row.split('|').collect::<Vec<_>>()[..] else { panic!("{row}") };
        assert!(!reason.trim().is_empty(), "{row}");
        for name in quoted(names, "`") {
            assert!(told.insert(name.to_owned()), "{name} is there twice");
        }
    }
    let packages = packages();
    let ours = packages.iter().find(|package| package["name"] == "dhcp_etcd").unwrap();
    let used = ours["dependencies"].as_array().unwrap().iter().map(|used| used["name"].as_str().unwrap().to_owned());
    assert_eq!(told, used.collect(), "README.md, Cargo.toml");
}
