//! The borders inside the core library: the table "module / job / may import" of ARCHITECTURE.md is
//! checked against every import, so that neither the code nor the document can drift.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::support::root;

const CORE: &str = "crates/tributary/src";
/// These are above all modules and may import any of them.
const TOP: [&str; 3] = ["lib", "internal", "operations"];

/// The modules in the order of the table, each with those that it may import.
fn allowed(document: &str) -> Vec<(String, BTreeSet<String>)> {
    let names = |cell: &str| -> BTreeSet<String> {
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let rows = document.lines().skip_while(|line| *line != "| module | job | may import |").skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').collect();
        let [_, module, .., imports, _] = cells.as_slice() else { panic!("not a row: {line}") };
        (names(module).pop_first().unwrap(), names(imports))
    };
    rows.map(row).collect()
}

/// The top-level module of a file: `timeline` for `timeline/view.rs`, `model` for `model.rs`.
fn module_of(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The top-level modules that a source text names as `crate::module` outside its unit tests.
fn imports(text: &str) -> BTreeSet<String> {
    let shipped = text.split("#[cfg(test)]").next().unwrap_or(text);
    let code = shipped.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code: Vec<&str> = code.collect();
    let code = code.join("\n");
    assert!(!code.contains("crate::{"), "one `use` for each module, so that this test can read it");
    let name = |rest: &str| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        rest[..end].to_owned()
    };
    code.split("crate::").skip(1).map(name).collect()
}

/// Every file of the core library with its text, by its path below `src`.
fn sources() -> BTreeMap<String, String> {
    let (src, mut found) = (root().join(CORE), BTreeMap::new());
    let mut waiting = vec![src.clone()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
                continue;
            }
            let name = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
            // Unit tests in files of their own may use whatever they need.
            if !name.ends_with("/tests.rs") {
                found.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}

/// The imports and rows that break the rules; empty if there are none.
fn violations(
    table: &[(String, BTreeSet<String>)],
    sources: &BTreeMap<String, String>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut above = BTreeSet::new();
    for (module, may_import) in table {
        for name in may_import.difference(&above) {
            wrong.push(format!(
                "the row of {module} imports {name}, which is not in a row above it"
            ));
        }
        above.insert(module.clone());
    }
    let table: BTreeMap<_, _> = table.iter().cloned().collect();
    let exists: BTreeSet<String> = sources.keys().map(|name| module_of(Path::new(name))).collect();
    for module in table.keys().filter(|module| !exists.contains(*module)) {
        wrong.push(format!("the table has a row for {module}, which does not exist"));
    }
    for (name, text) in sources {
        let module = module_of(Path::new(name));
        if TOP.contains(&module.as_str()) {
            continue;
        }
        let Some(may_import) = table.get(&module) else {
            wrong.push(format!("{name}: the table has no row for {module}"));
            continue;
        };
        for import in imports(text) {
            if import != module && !may_import.contains(&import) {
                wrong.push(format!("{name} imports {import}, which {module} may not"));
            }
        }
    }
    wrong
}

#[test]
fn every_import_is_in_the_table_of_the_architecture() {
    let document = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let table = allowed(&document);
    assert!(table.len() > 10, "ARCHITECTURE.md has the table of modules");
    let wrong = violations(&table, &sources());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_import_that_the_table_does_not_allow_is_found() {
    let table = "| module | job | may import |\n|---|---|---|\n| `a` | x | nothing |\n\
                 | `b` | y | `a` |\n";
    let sources = |a: &str, b: &str| {
        BTreeMap::from([("a.rs".to_owned(), a.to_owned()), ("b/mod.rs".into(), b.to_owned())])
    };
    let table = allowed(table);
    assert!(violations(&table, &sources("", "use crate::a::X;")).is_empty());
    assert!(violations(&table, &sources("#[cfg(test)] use crate::b;", "")).is_empty());
    let wrong = violations(&table, &sources("fn f() { crate::b::g() }", ""));
    assert_eq!(wrong, ["a.rs imports b, which a may not"]);
    let wrong = violations(&table, &sources("", "use crate::Tributary;"));
    assert_eq!(wrong, ["b/mod.rs imports Tributary, which b may not"]);
    let backwards = [("a".to_owned(), BTreeSet::from(["b".to_owned()]))];
    assert!(!violations(&backwards, &sources("", "")).is_empty());
}
