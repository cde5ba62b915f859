//! Rules of the code base that the compiler cannot check.

use std::fs;
use std::path::{Path, PathBuf};

use crate::prose::{self, Finding};

/// A longer file probably does two jobs.
const FILE_LINES_MAX: usize = 700;

/// The root of the repository: the nearest folder with a `Cargo.lock`, wherever this crate is.
fn root() -> PathBuf {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = crate_dir.ancestors().find(|dir| dir.join("Cargo.lock").exists());
    root.unwrap().to_owned()
}

/// Every file under `dir` whose name has this ending: its path from the root, and its text. Skips
/// `target` and hidden folders.
fn files(dir: &str, ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut waiting = vec![root().join(dir)];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                let name = path.file_name().unwrap().to_str().unwrap();
                if name != "target" && !name.starts_with('.') {
                    waiting.push(path);
                }
            } else if path.to_str().unwrap().ends_with(ending) {
                let name = path.strip_prefix(root()).unwrap().display().to_string();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty());
    found.sort();
    found
}

/// The part of a source file that is not tests.
fn shipped(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

#[test]
fn pure_modules_use_no_runtime_no_sql_and_no_http() {
    const PURE: &[&str] = &[
        "src/model.rs",
        "src/cursor.rs",
        "src/placement.rs",
        "src/mapping.rs",
        "src/moment.rs",
        "src/fit.rs",
        "src/post_id.rs",
        "src/shard/infer.rs",
        "src/timeline/merge.rs",
        "src/timeline/page.rs",
        "src/demo/",
        "src/bench/check.rs",
        "src/bench/freshness.rs",
        "src/bench/known.rs",
        "src/bench/mix.rs",
        "src/bench/page.rs",
        "src/bench/record.rs",
        "src/bench/words.rs",
        "src/bench/world.rs",
        "src/clock.rs",
        "src/changes/mod.rs",
        "src/memory/keeper",
        "src/memory/recent.rs",
    ];
    const BANNED: [&str; 8] = [
        "tokio",
        "mysql_async",
        "rusqlite",
        "axum",
        "hyper",
        "crate::shard",
        "crate::http",
        "std::fs",
    ];
    for (name, text) in files("src", ".rs") {
        if PURE.iter().any(|pure| name.starts_with(pure)) {
            for banned in BANNED {
                assert!(!shipped(&text).contains(banned), "{name} uses {banned}");
            }
        }
    }
}

#[test]
fn only_shards_contain_sql_and_only_the_wire_module_derives_json() {
    for (name, text) in files("src", ".rs") {
        let text = shipped(&text);
        if !name.starts_with("src/shard/") {
            for sql in ["SELECT ", "INSERT INTO", "CREATE TABLE"] {
                assert!(!text.contains(sql), "{name} contains SQL");
            }
            assert!(!text.contains("mysql_async::"), "{name} uses the MySQL client");
        }
        let may_serialise = ["src/http/wire.rs", "src/http/error.rs"];
        if !may_serialise.contains(&name.as_str()) {
            let derives = text.lines().filter(|line| line.contains("derive("));
            let derived = derives.flat_map(|line| line.split(['(', ')', ',', ' ']));
            assert!(
                !derived.into_iter().any(|name| name == "Serialize"),
                "{name} derives Serialize"
            );
        }
        if name.starts_with("src/shard/") {
            assert!(!text.contains("crate::http"), "{name} uses HTTP");
        }
    }
}

#[test]
fn files_start_with_a_module_doc_and_stay_short() {
    for (name, text) in ["src", "tests", "examples"].iter().flat_map(|dir| files(dir, ".rs")) {
        assert!(text.starts_with("//! "), "{name} does not start with a module doc");
        let lines = text.lines().count();
        assert!(lines <= FILE_LINES_MAX, "{name} has {lines} lines");
    }
}

#[test]
fn prose_is_plain_english() {
    let mut hits = Vec::new();
    for (name, text) in [".rs", ".md"].iter().flat_map(|ending| files("", ending)) {
        let findings = prose::check(&name, &text).into_iter();
        hits.extend(findings.map(|Finding { line, problem }| format!("{name}:{line}: {problem}")));
    }
    let (count, list) = (hits.len(), hits.join("\n"));
    assert!(hits.is_empty(), "{list}\n{count} hits; the rules are in tests/it/prose.rs");
}

#[test]
fn documents_link_to_files_that_exist() {
    let documents = files("docs", ".md").into_iter().chain(
        ["README.md", "ARCHITECTURE.md", "SECURITY.md"]
            .map(|name| (name.to_owned(), fs::read_to_string(root().join(name)).unwrap())),
    );
    for (name, text) in documents {
        let dir = root().join(&name).parent().map(Path::to_path_buf).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.starts_with('#') {
                continue;
            }
            let path = link.split('#').next().unwrap_or(link);
            assert!(dir.join(path).exists(), "{name} links to {link}, which does not exist");
        }
        for path in text.split('`').skip(1).step_by(2).filter(|word| word.starts_with("src/")) {
            if path.contains(['{', '*', ' ']) {
                continue;
            }
            assert!(root().join(path).exists(), "{name} names {path}, which does not exist");
        }
    }
}
