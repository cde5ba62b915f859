//! The parts of a build: licences and sources of all crates, the toolchain, unsafe code. Also the
//! tests that the promises of SECURITY.md name.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value as Json;
use toml::{Table, Value};

use crate::support::root;

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn parsed(path: &str) -> Table {
    read(path).parse().unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn texts<'a>(table: &'a Table, section: &str, key: &str) -> BTreeSet<&'a str> {
    let values = table[section][key].as_array().unwrap().iter();
    values.map(|value| value.as_str().unwrap()).collect()
}

/// The crates that a build for this platform contains, with those of tests.
fn built_crates() -> Vec<Json> {
    let rustc = Command::new("rustc").arg("-vV").current_dir(root()).output().unwrap();
    let rustc = String::from_utf8(rustc.stdout).unwrap();
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version", "1", "--locked", "--offline"]);
    let output = cargo.args(["--filter-platform", host]).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Json = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// The licences of an SPDX expression that are used: one for each part joined by AND. `None` if a
/// part offers none of `allowed`.
fn chosen<'a>(expression: &'a str, allowed: &BTreeSet<&str>) -> Option<Vec<&'a str>> {
    let part = |part: &'a str| {
        let offers = part.trim_matches(['(', ')']).split([' ', '/']);
        offers.into_iter().find(|offer| allowed.contains(offer))
    };
    expression.split(" AND ").map(part).collect()
}

#[test]
fn every_crate_has_an_allowed_licence_and_source() {
    let rules = parsed("deny.toml");
    let allowed = texts(&rules, "licenses", "allow");
    let (mut used, crates) = (BTreeSet::new(), built_crates());
    assert!(crates.len() > 100);
    for one in &crates {
        let licence = one["license"].as_str().unwrap_or_default();
        let chosen = chosen(licence, &allowed);
        used.extend(chosen.unwrap_or_else(|| panic!("{}: licence `{licence}`", one["name"])));
    }
    // A crate that offers a choice may take one licence here and another one there.
    assert!(used.is_subset(&allowed));

    let sources = texts(&rules, "sources", "allow-registry");
    let banned = rules["bans"]["deny"].as_array().unwrap();
    let banned: BTreeSet<&str> = banned.iter().filter_map(|ban| ban["crate"].as_str()).collect();
    let lock = parsed("Cargo.lock");
    for one in lock["package"].as_array().unwrap() {
        let name = one["name"].as_str().unwrap();
        assert!(!banned.contains(name), "{name} is banned in deny.toml");
        match one.get("source").and_then(Value::as_str) {
            None => assert!(name.starts_with("tributary"), "{name} has no source"),
            Some(source) => {
                let registry = source.strip_prefix("registry+").unwrap_or(source);
                assert!(sources.contains(registry), "{name} comes from {source}");
                assert!(one.get("checksum").is_some(), "{name} has no checksum");
            }
        }
    }
}

#[test]
fn licences_are_read_part_by_part() {
    let allowed = BTreeSet::from(["MIT", "ISC"]);
    for (expression, expected) in [
        ("MIT", Some(vec!["MIT"])),
        ("Apache-2.0/MIT", Some(vec!["MIT"])),
        ("(GPL-3.0 OR MIT) AND ISC", Some(vec!["MIT", "ISC"])),
        ("MIT AND GPL-3.0", None),
        ("LGPL-2.1-or-later", None),
        ("", None),
    ] {
        assert_eq!(chosen(expression, &allowed), expected, "{expression}");
    }
}

#[test]
fn all_files_name_the_same_toolchain() {
    let toolchain = parsed("rust-toolchain.toml");
    let channel = toolchain["toolchain"]["channel"].as_str().unwrap();
    let minimum = env!("CARGO_PKG_RUST_VERSION");
    assert!(channel.strip_prefix(minimum).is_some_and(|rest| rest.starts_with('.')), "{minimum}");
    assert!(read("Dockerfile").contains(&format!("FROM rust:{channel}-slim-")), "Dockerfile");
    assert!(read("README.md").contains(&format!("Rust {channel}")), "README.md");
    // CI runs ./dev, which uses the `cargo` of rustup; neither names a version of its own.
    for script in ["dev", ".ci/run"] {
        assert!(!read(script).contains("+stable") && !read(script).contains(minimum), "{script}");
    }
}

#[test]
fn no_crate_of_ours_has_unsafe_code() {
    let workspace = parsed("Cargo.toml");
    assert_eq!(workspace["workspace"]["lints"]["rust"]["unsafe_code"].as_str(), Some("forbid"));
    for dir in fs::read_dir(root().join("crates")).unwrap() {
        let manifest: Table =
            fs::read_to_string(dir.unwrap().path().join("Cargo.toml")).unwrap().parse().unwrap();
        assert_eq!(manifest["lints"]["workspace"].as_bool(), Some(true), "{}", manifest["package"]);
    }
}

/// The names of all functions in Rust files below `crates`.
fn functions() -> BTreeSet<String> {
    let (mut names, mut waiting) = (BTreeSet::new(), vec![root().join("crates")]);
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let parts = text.split("fn ").skip(1).filter_map(|rest| rest.split('(').next());
                names.extend(parts.map(str::to_owned));
            }
        }
    }
    names
}

#[test]
fn every_promise_names_tests_that_exist() {
    let (security, functions) = (read("SECURITY.md"), functions());
    let section = security.split("\n## ").find(|part| part.starts_with("Guarantees")).unwrap();
    let promises: Vec<&str> = section.split("\n- ").skip(1).collect();
    assert!(promises.len() >= 10);
    for promise in promises {
        let (_, tests) = promise
            .rsplit_once("Test")
            .unwrap_or_else(|| panic!("this promise names no test:\n{promise}"));
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "this promise names no test:\n{promise}");
        for name in names {
            assert!(functions.contains(name), "SECURITY.md names {name}, which does not exist");
        }
    }
}
