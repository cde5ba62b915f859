//! Rules of the code base that the compiler cannot check.

use std::fs;
use std::path::Path;

use crate::prose::{self, Finding};
use crate::support::root;

/// A longer file probably does two jobs.
const FILE_LINES_MAX: usize = 700;

/// Every file under `dir` whose name has this ending: its path from the root, and its text. Skips
/// `target`, `node_modules` and hidden folders.
fn files(dir: &str, ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut waiting = vec![root().join(dir)];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                let name = path.file_name().unwrap().to_str().unwrap();
                if !["target", "node_modules"].contains(&name) && !name.starts_with('.') {
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
    const PURE: &[(&str, &[&str])] = &[
        (
            "crates/tributary/src/",
            &[
                "changes/",
                "clock.rs",
                "cursor.rs",
                "fit.rs",
                "freshness.rs",
                "mapping.rs",
                "memory/keeper",
                "memory/recent.rs",
                "model.rs",
                "moment.rs",
                "placement.rs",
                "post_id.rs",
                "post_json.rs",
                "shard/infer.rs",
                "shard/marks.rs",
                "timeline/merge.rs",
                "timeline/page.rs",
            ],
        ),
        (
            "crates/tributary-bench/src/",
            &[
                "check.rs",
                "demo/",
                "freshness.rs",
                "known.rs",
                "mix.rs",
                "page.rs",
                "record.rs",
                "words.rs",
                "world.rs",
            ],
        ),
    ];
    const BANNED: [&str; 6] = ["tokio", "mysql_async", "rusqlite", "axum", "hyper", "std::fs"];
    for (src, pure) in PURE {
        let files = files(src, ".rs");
        for path in *pure {
            let path = format!("{src}{path}");
            let mut found = files.iter().filter(|(name, _)| name.starts_with(&path)).peekable();
            assert!(found.peek().is_some(), "{path} does not exist");
            for (name, text) in found {
                for banned in BANNED {
                    assert!(!shipped(text).contains(banned), "{name} uses {banned}");
                }
            }
        }
    }
}

#[test]
fn only_shards_contain_sql_and_few_modules_derive_json() {
    const JSON: [&str; 6] = [
        "crates/tributary/src/post_json.rs",
        "crates/tributary-server/src/error.rs",
        "crates/tributary-server/src/explain.rs",
        "crates/tributary-server/src/news.rs",
        "crates/tributary-server/src/wire.rs",
        "crates/tributary-server/src/wire/posts.rs",
    ];
    for (name, text) in files("crates", ".rs") {
        if name.contains("/tests/") || name.contains("/examples/") {
            continue;
        }
        let text = shipped(&text);
        if !name.starts_with("crates/tributary/src/shard/") {
            for sql in ["SELECT ", "INSERT INTO", "CREATE TABLE"] {
                assert!(!text.contains(sql), "{name} contains SQL");
            }
        }
        if !JSON.contains(&name.as_str()) {
            let derives = text.lines().filter(|line| line.contains("derive("));
            let derived = derives.flat_map(|line| line.split(['(', ')', ',', ' ']));
            assert!(
                !derived.into_iter().any(|name| name == "Serialize"),
                "{name} derives Serialize"
            );
        }
    }
}

#[test]
fn files_start_with_a_module_doc_and_stay_short() {
    for (name, text) in files("crates", ".rs") {
        assert!(text.starts_with("//! "), "{name} does not start with a module doc");
        let lines = text.lines().count();
        assert!(lines <= FILE_LINES_MAX, "{name} has {lines} lines");
    }
}

/// The names that a module declares as `pub`, by `pub use` or by an item of its own. Nested items
/// and modules that are hidden from the documentation are not counted.
fn exported(text: &str) -> Vec<String> {
    const ITEMS: [&str; 9] =
        ["struct", "enum", "union", "trait", "type", "const", "static", "fn", "mod"];
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = code.collect::<Vec<_>>().join("\n").replace("#[doc(hidden)]\npub mod ", "mod ");
    let mut names = Vec::new();
    for item in code.split("\npub ").skip(1) {
        if let Some(paths) = item.strip_prefix("use ") {
            let paths = paths.split(';').next().unwrap_or(paths).split(['{', '}', ',']);
            let paths =
                paths.map(str::trim).filter(|path| !path.is_empty() && !path.ends_with(':'));
            names
                .extend(paths.filter_map(|path| path.rsplit([':', ' ']).next()).map(str::to_owned));
        } else {
            let mut words = item.split(|c: char| !(c.is_alphanumeric() || c == '_'));
            let is_item = |word: &&str| ITEMS.contains(word);
            // In `const fn` and `async fn`, the name is after the last of the words.
            let name = words.find(|word| !is_item(word) && !["async", "unsafe"].contains(word));
            names.extend(name.map(str::to_owned));
        }
    }
    assert!(!names.iter().any(|name| name == "*"), "a glob exports an unknown number of names");
    names
}

#[test]
fn the_library_exports_few_names() {
    const LIMITS: [(&str, usize); 2] = [("lib.rs", 28), ("internal/mod.rs", 40)];
    for (file, limit) in LIMITS {
        let path = root().join("crates/tributary/src").join(file);
        let names = exported(&fs::read_to_string(path).unwrap());
        let count = names.len();
        assert!((10..=limit).contains(&count), "{file} exports {count} of {limit}: {names:?}");
    }
}

#[test]
fn exported_names_are_counted() {
    let text = "//! A doc.\n\nmod a;\npub mod b;\n#[doc(hidden)]\npub mod hidden;\n\n\
                #[cfg(feature = \"x\")]\npub use c::{D, e,};\npub use f::G;\n\
                pub use h::{\n    i::{J, K as L},\n    m::N,\n};\n\
                pub(crate) use o::P;\n/// Q.\npub struct Q(pub u8);\n\
                pub const fn r() {}\nimpl Q {\n    pub fn s(self) {}\n}\n";
    assert_eq!(exported(text), ["b", "D", "e", "G", "J", "L", "N", "Q", "r"]);
}

#[test]
fn prose_is_plain_english() {
    let mut hits = Vec::new();
    for (name, text) in [".rs", ".md"].iter().flat_map(|ending| files("", ending)) {
        let findings = prose::check(&name, &text).into_iter();
        hits.extend(findings.map(|Finding { line, problem }| format!("{name}:{line}: {problem}")));
    }
    let (count, list) = (hits.len(), hits.join("\n"));
    assert!(
        hits.is_empty(),
        "{list}\n{count} hits; the rules are in crates/tributary-cli/tests/it/prose.rs"
    );
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
        for path in text.split('`').skip(1).step_by(2).filter(|word| word.ends_with(".rs")) {
            if path.contains(['{', '*', ' ']) {
                continue;
            }
            assert!(exists(path), "{name} names {path}, which does not exist");
        }
    }
}

/// Documents name source files from the root of the repository, or within a crate.
fn exists(path: &str) -> bool {
    let crates = fs::read_dir(root().join("crates")).unwrap();
    let crates = crates.map(|dir| dir.unwrap().path());
    let mut dirs = crates.flat_map(|dir| [dir.join("src"), dir.join("tests/it"), dir]);
    root().join(path).exists() || dirs.any(|dir| dir.join(path).exists())
}
