//! The files of a release: the Debian package installed in a root of its own, the SBOM, the
//! checksums, and the package of the library crate.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use toml::Table;

use crate::commands::Serving;
use crate::support::{root, scratch, skip};

/// Runs a command; panics with its output if it fails.
fn done(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn exists(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

/// The package is made from the binary of the tests: a release build takes minutes.
#[test]
fn a_release_can_be_installed_and_started() {
    if !exists("dpkg-deb") || !exists("dpkg") {
        return skip("Debian package: dpkg is not installed");
    }
    let dir = scratch();
    let out = dir.path().join("out");
    let mut build = Command::new(root().join("packaging/build"));
    build.args(["--binary", env!("CARGO_BIN_EXE_tributary")]).arg(&out);
    done(build.env("TRIBUTARY_DEB_COMPRESSION", "gzip"));
    let version = env!("CARGO_PKG_VERSION");
    let package = out.join(format!("tributary_{version}_amd64.deb"));

    let place = dir.path().join("root");
    for folder in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "var/log"] {
        fs::create_dir_all(place.join(folder)).unwrap();
    }
    fs::write(place.join("var/lib/dpkg/status"), "").unwrap();
    let mut dpkg = Command::new("dpkg");
    dpkg.arg(format!("--root={}", place.display()));
    dpkg.args(["--force-not-root", "--force-script-chrootless", "--install"]).arg(&package);
    done(dpkg.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"));
    assert_eq!(
        fs::read(place.join("etc/tributary/tributary.toml")).unwrap(),
        fs::read(root().join("packaging/tributary.toml")).unwrap()
    );
    let unit = fs::read_to_string(place.join("usr/lib/systemd/system/tributary.service")).unwrap();
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let installed = place.join(start.split(' ').next().unwrap().trim_start_matches('/'));
    assert!(place.join("usr/share/man/man1/tributary-serve.1.gz").exists());
    let mut serve = Command::new(installed);
    let data = dir.path().join("data");
    serve.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data);
    serve.env("TRIBUTARY_ADMIN__LISTEN", "127.0.0.1:0");
    let serving = Serving::start(&mut serve);
    assert!(serving.get("/livez").starts_with("HTTP/1.1 200 "));

    done(Command::new("sha256sum").args(["--check", "SHA256SUMS"]).current_dir(&out));
    parts_are_listed(&out);
}

/// The SBOM has each crate of `Cargo.lock` with its version and its checksum.
fn parts_are_listed(out: &Path) {
    let list: Value =
        serde_json::from_slice(&fs::read(out.join("sbom.cdx.json")).unwrap()).unwrap();
    assert_eq!((&list["bomFormat"], &list["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    let lock: Table = fs::read_to_string(root().join("Cargo.lock")).unwrap().parse().unwrap();
    let crates = lock["package"].as_array().unwrap();
    let parts = list["components"].as_array().unwrap();
    assert_eq!(parts.len(), crates.len());
    for (part, one) in parts.iter().zip(crates) {
        let (name, version) = (one["name"].as_str().unwrap(), one["version"].as_str().unwrap());
        assert_eq!((part["name"].as_str(), part["version"].as_str()), (Some(name), Some(version)));
        if let Some(checksum) = one.get("checksum") {
            assert_eq!(part["hashes"][0]["content"].as_str(), checksum.as_str());
            assert_eq!(part["purl"], format!("pkg:cargo/{name}@{version}"));
        }
    }
}

#[test]
fn the_library_crate_can_be_packaged() {
    let dir = scratch();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["package", "--package", "tributary", "--no-verify", "--allow-dirty", "--offline"]);
    let text = cargo.arg("--target-dir").arg(dir.path()).current_dir(root()).output().unwrap();
    let errors = String::from_utf8_lossy(&text.stderr);
    assert!(text.status.success(), "{errors}");
    let made = format!("package/tributary-{}.crate", env!("CARGO_PKG_VERSION"));
    let mut list = Command::new("tar");
    let files = done(list.arg("-tzf").arg(dir.path().join(made)));
    for file in ["Cargo.toml", "src/lib.rs", "README.md", "LICENSE"] {
        assert!(files.lines().any(|line| line.ends_with(&format!("/{file}"))), "{file}: {files}");
    }
}

/// The number of a constant such as `const VERSION: u8 = 1;` in a source file.
fn constant(file: &str, name: &str) -> String {
    let text = fs::read_to_string(root().join("crates/tributary/src").join(file)).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("const {name}: ")));
    let line = line.unwrap_or_else(|| panic!("{file} has no {name}"));
    line.rsplit("= ").next().unwrap().trim_end_matches(';').to_owned()
}

/// The highest version of a format that a file of the core library writes.
fn newest_version(file: &str) -> u8 {
    let text = fs::read_to_string(root().join("crates/tributary/src").join(file)).unwrap();
    let constants = text.lines().filter(|line| line.starts_with("const VERSION"));
    let values = constants.filter_map(|line| line.rsplit("= ").next());
    values.map(|value| value.trim_end_matches(';').parse().unwrap()).max().unwrap()
}

#[test]
fn the_page_about_upgrades_has_the_versions_of_this_release() {
    let text = fs::read_to_string(root().join("docs/upgrade.md")).unwrap();
    let row = text.lines().find(|line| line.starts_with("| unreleased ")).unwrap();
    let cells: Vec<&str> = row.split('|').collect();
    let folder = constant("shard/sqlite/folder.rs", "FOLDER_VERSION");
    assert!(cells[2].contains(&format!("writes {folder};")), "{row}");
    for (cell, file) in [(cells[3], "cursor.rs"), (cells[4], "freshness.rs")] {
        assert!(cell.contains(&format!(" {},", newest_version(file))), "{row}");
    }
}
