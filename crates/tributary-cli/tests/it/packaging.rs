//! Checks of the packaging that need no container engine and no running systemd. They parse the
//! files, verify paths and names, and run settings and statements on real servers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use toml::Table;
use tributary::config::{EMBEDDED_SHARDS_DEFAULT, FleetConfig, LISTEN_DEFAULT, Servers, Tls};
use tributary::internal::{Fleet, mysql_tables};
use tributary::{Config, Tributary};
use yaml_rust2::{Yaml, YamlLoader};

use crate::support::database::{PASSWORD, mariadb, mariadbd};
use crate::support::fleet::load_into;
use crate::support::http::TestServer;
use crate::support::world::World;
use crate::support::{root, run, scratch, skip};

const BINARY: &str = env!("CARGO_BIN_EXE_tributary");
/// The paths of the binary and of its configuration after an installation.
const BINARY_IN_PLACE: &str = "/usr/local/bin/tributary";
const CONFIG_IN_PLACE: &str = "/etc/tributary/tributary.toml";

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Asserts that our command line accepts the arguments. `--help` is added last, so that clap
/// parses all others first.
fn assert_accepted<S: AsRef<str>>(arguments: &[S]) {
    let arguments = arguments.iter().map(AsRef::as_ref);
    let mut command = Command::new(BINARY);
    let output = command.args(arguments).arg("--help").output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// Loads a configuration in the same way as `--config`. The password files do not exist in tests,
/// so variables override them.
fn load(text: &str) -> Result<Config, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    let table: Table = text.parse().unwrap();
    let servers = table.get("servers").and_then(toml::Value::as_table).cloned().unwrap_or_default();
    let passwords = servers.keys().map(|name| {
        (format!("TRIBUTARY_SERVERS__{}__PASSWORD", name.to_uppercase()), PASSWORD.to_owned())
    });
    Config::from_file(file.path(), passwords).map_err(|error| error.to_string())
}

fn servers(config: &Config) -> &Servers {
    match &config.fleet {
        FleetConfig::Servers(servers) => servers,
        _ => panic!("the configuration must name servers"),
    }
}

// --- compose.yaml ------------------------------------------------------------------------------

fn compose() -> Yaml {
    YamlLoader::load_from_str(&read("compose.yaml")).unwrap().remove(0)
}

/// The services, with their merge keys filled in.
fn services(compose: &Yaml) -> BTreeMap<String, Yaml> {
    let services = compose["services"].as_hash().unwrap().iter();
    let merged = services.map(|(name, service)| {
        let mut all = service["<<"].as_hash().cloned().unwrap_or_default();
        all.extend(service.as_hash().unwrap().clone());
        (text(name), Yaml::Hash(all))
    });
    merged.collect()
}

fn text(yaml: &Yaml) -> String {
    yaml.as_str().unwrap_or_else(|| panic!("{yaml:?} is not a string")).to_owned()
}

fn list(yaml: &Yaml) -> Vec<String> {
    yaml.as_vec().map(|items| items.iter().map(text).collect()).unwrap_or_default()
}

fn names(yaml: &Yaml) -> BTreeSet<String> {
    yaml.as_hash().map(|hash| hash.keys().map(text).collect()).unwrap_or_default()
}

#[test]
fn the_compose_file_names_files_and_services_that_exist() {
    let compose = compose();
    let services = services(&compose);
    for (name, file) in compose["configs"].as_hash().unwrap() {
        let path = text(&file["file"]);
        assert!(root().join(&path).is_file(), "{name:?} is {path}, which does not exist");
    }
    let ignored = read(".gitignore");
    for (_, file) in compose["secrets"].as_hash().unwrap() {
        let path = text(&file["file"]);
        let folder = path.trim_start_matches('.').rsplit_once('/').unwrap().0;
        assert!(ignored.lines().any(|line| line == folder), "{path} could be committed");
    }
    let (mut ids, mut volumes) = (BTreeSet::new(), BTreeSet::new());
    for (name, service) in &services {
        for config in service["configs"].as_vec().unwrap() {
            let source = text(&config["source"]);
            assert!(names(&compose["configs"]).contains(&source), "{name}: {source}");
            assert!(text(&config["target"]).starts_with('/'));
        }
        for secret in list(&service["secrets"]) {
            assert!(names(&compose["secrets"]).contains(&secret), "{name}: {secret}");
        }
        for other in list(&service["depends_on"]) {
            assert!(services.contains_key(&other), "{name}: {other}");
        }
        for port in list(&service["ports"]) {
            assert!(port.starts_with("127.0.0.1:"), "{name} can be reached from elsewhere: {port}");
        }
        if text(&service["image"]).starts_with("mariadb:") {
            let id = list(&service["command"]).concat();
            assert!(
                id.starts_with("--server-id=") && ids.insert(id),
                "{name} shares its server-id"
            );
            let volume = list(&service["volumes"]).concat();
            let (volume, target) = volume.split_once(':').unwrap();
            assert_eq!(target, "/var/lib/mysql");
            assert!(names(&compose["volumes"]).contains(volume), "{name}: {volume}");
            assert!(volumes.insert(volume.to_owned()), "{name} shares its data");
        }
    }
    assert_eq!(ids.len(), 4);
}

#[test]
fn the_configuration_in_the_container_matches_the_compose_file() {
    let compose = compose();
    let services = services(&compose);
    let config = load(&read("packaging/compose/tributary.toml")).unwrap();
    let fleet = servers(&config);
    let ours = &services["tributary"];
    for (name, server) in &fleet.servers {
        let (host, port) = server.host_and_port().unwrap();
        let there = services
            .get(host)
            .unwrap_or_else(|| panic!("{name}: the compose file has no service {host}"));
        assert_eq!((host, port, server.effective_tls()), (name.as_str(), 3306, Tls::Disabled));
        let environment = &there["environment"];
        assert_eq!(text(&environment["MARIADB_USER"]), server.user);
        let secret = server.password_file.as_ref().unwrap().to_str().unwrap();
        assert_eq!(text(&environment["MARIADB_PASSWORD_FILE"]), secret);
        for key in ["MARIADB_PASSWORD_FILE", "MARIADB_ROOT_PASSWORD_FILE"] {
            let file = text(&environment[key]);
            let secret = file.strip_prefix("/run/secrets/").unwrap();
            assert!(list(&there["secrets"]).iter().any(|name| name == secret), "{name}: {secret}");
        }
        let secret = secret.strip_prefix("/run/secrets/").unwrap();
        assert!(list(&ours["secrets"]).iter().any(|name| name == secret));
    }
    for shard in &fleet.shards {
        let environment = &services[&shard.server]["environment"];
        assert_eq!(text(&environment["MARIADB_DATABASE"]), shard.database);
    }
    assert_eq!(list(&ours["depends_on"]), fleet.servers.keys().cloned().collect::<Vec<_>>());
    let ports = [config.http.listen.port(), config.admin.listen.port()];
    assert_eq!(list(&ours["ports"]), ports.map(|port| format!("127.0.0.1:{port}:{port}")));
    assert_eq!(text(&ours["configs"][0]["target"]), CONFIG_IN_PLACE);
    let command = list(&ours["command"]);
    assert!(
        command.iter().any(|flag| flag == "--insecure")
            && !config.http.listen.ip().is_loopback()
            && !config.admin.listen.ip().is_loopback()
    );
    assert!(command.iter().any(|argument| argument == CONFIG_IN_PLACE));
    assert_accepted(&command);
}

/// The SQL statements of the file that creates the tables of a shard.
fn statements() -> Vec<String> {
    let text = read("packaging/compose/tables.sql");
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("--")).collect();
    let all = lines.join("\n");
    let each = all.split(";\n").map(|statement| statement.trim().trim_end_matches(';').to_owned());
    each.filter(|statement| !statement.is_empty()).collect()
}

#[test]
fn the_tables_of_the_compose_file_are_ours() {
    assert_eq!(statements()[..2], mysql_tables("social"));
}

/// Runs on real servers the statements of the MariaDB image and then those of our file. Then opens
/// our configuration with the addresses of these servers.
#[test]
fn shards_of_the_compose_file_can_be_served_and_loaded() {
    run(async {
        let ours =
            |text: &str| text.replace("social", "packaged").replace("'tributary'", "'packaged'");
        let mut text = ours(&read("packaging/compose/tributary.toml"))
            .replace("user = \"tributary\"", "user = \"packaged\"");
        for (index, server) in mariadb().iter().enumerate() {
            let mut all = vec![
                "CREATE DATABASE `packaged`".into(),
                format!("CREATE USER 'packaged'@'%' IDENTIFIED BY '{PASSWORD}'"),
                "GRANT ALL ON `packaged`.* TO 'packaged'@'%'".into(),
            ];
            all.extend(statements().iter().map(|statement| ours(statement)));
            server.execute(&all).await;
            text = text.replace(&format!("db{index}:3306"), &server.address());
        }
        let fleet = Fleet::open_to_load(&load(&text).unwrap()).await.unwrap();
        for shard in fleet.health() {
            assert_eq!(shard.state, Ok(()), "{}", shard.name);
        }
        fleet.loadable().unwrap();
        let mut world = World::default();
        (0..8).for_each(|user| world.follow(user, user + 1));
        (0..8).for_each(|user| world.post(user, 1, user));
        load_into(&fleet, &world).await;
    });
}

#[test]
fn the_settings_of_a_shard_are_known_to_mariadb() {
    let text = read("packaging/compose/shard.cnf");
    let settings: Vec<(&str, &str)> =
        text.lines().filter_map(|line| line.split_once(" = ")).collect();
    assert!(settings.len() > 8 && text.contains("[mariadb]\n"));
    let mut command = Command::new(mariadbd());
    command.args(settings.iter().map(|(name, value)| format!("--{name}={value}")));
    let output = command.args(["--verbose", "--help"]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !errors.contains("unknown"), "{errors}");
    // The server accepts abbreviated names. Its list of settings has the full names.
    let known = String::from_utf8_lossy(&output.stdout);
    for (name, _) in settings {
        assert!(known.lines().any(|line| line.starts_with(&format!("{name} "))), "{name}");
    }
}

// --- Dockerfile --------------------------------------------------------------------------------

/// The instructions with their arguments, in order.
fn dockerfile() -> Vec<(String, String)> {
    let text = read("Dockerfile").replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ')).map(|(a, b)| (a.into(), b.into())).collect()
}

fn instruction(name: &str) -> String {
    let all = dockerfile();
    let found: Vec<&String> = all.iter().filter(|(key, _)| key == name).map(|(_, v)| v).collect();
    assert_eq!(found.len(), 1, "{name}");
    found[0].clone()
}

fn json(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn the_image_is_built_from_existing_files_with_our_rust_version() {
    let all = dockerfile();
    let from: Vec<&str> =
        all.iter().filter(|(key, _)| key == "FROM").map(|(_, image)| image.as_str()).collect();
    let toolchain: Table = read("rust-toolchain.toml").parse().unwrap();
    let rust = toolchain["toolchain"]["channel"].as_str().unwrap();
    let debian = from[1].strip_prefix("debian:").unwrap().strip_suffix("-slim").unwrap();
    assert_eq!(from[0], format!("rust:{rust}-slim-{debian} AS build"));
    assert_eq!(from.len(), 2);

    let ignored = read(".dockerignore");
    assert_eq!(ignored.lines().next(), Some("*"));
    let sent: BTreeSet<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let mut copied = BTreeSet::new();
    for (_, arguments) in all.iter().filter(|(key, _)| key == "COPY") {
        let mut words: Vec<&str> = arguments.split(' ').collect();
        let target = words.pop().unwrap();
        if words[0] == "--from=build" {
            assert_eq!(words[1..], ["/build/target/release/tributary"]);
            assert_eq!(target, BINARY_IN_PLACE);
            continue;
        }
        copied.extend(words);
    }
    assert_eq!(copied, sent);
    for path in copied {
        assert!(root().join(path).exists(), "{path} does not exist");
    }
}

#[test]
fn the_image_starts_the_binary_without_root() {
    assert_eq!(json(&instruction("ENTRYPOINT")), [BINARY_IN_PLACE]);
    let command = json(&instruction("CMD"));
    assert!(command.iter().any(|argument| argument == CONFIG_IN_PLACE));
    assert_accepted(&command);
    let user = instruction("USER");
    let ids: Vec<u32> = user.split(':').map(|id| id.parse().unwrap()).collect();
    assert!(ids.len() == 2 && !ids.contains(&0), "{user}");
    assert!(LISTEN_DEFAULT.ends_with(&format!(":{}", instruction("EXPOSE"))));
}

#[test]
fn the_health_check_of_the_image_works() {
    if Command::new("bash").arg("--version").output().is_err() {
        return skip("health check of the image: bash is not installed");
    }
    let check = instruction("HEALTHCHECK");
    let command = json(check.split_once("CMD ").unwrap().1);
    let is_healthy = |port: u16| {
        let words = command.iter().map(|word| word.replace("/7878 ", &format!("/{port} ")));
        let words: Vec<String> = words.collect();
        assert_ne!(words, command);
        Command::new(&words[0]).args(&words[1..]).output().unwrap().status.success()
    };
    run(async {
        let dir = scratch();
        let config = Config::from_folder(&dir.path().join("data"), []).unwrap();
        let server = TestServer::start(Tributary::open(&config).await.unwrap()).await;
        let port = server.address.port();
        assert!(tokio::task::block_in_place(|| is_healthy(port)));
    });
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    assert!(!is_healthy(unused));
}

// --- systemd -----------------------------------------------------------------------------------

#[test]
fn the_unit_starts_the_binary_and_does_not_restart_it_after_exit_codes_2_and_3() {
    let unit = read("packaging/tributary.service");
    let setting = |name: &str| {
        let mut found = unit.lines().filter_map(|line| line.strip_prefix(&format!("{name}=")));
        found.next().unwrap_or_else(|| panic!("the unit has no {name}")).to_owned()
    };
    let start = setting("ExecStart");
    let words: Vec<&str> = start.split(' ').collect();
    assert_eq!(words[0], BINARY_IN_PLACE);
    assert!(words.contains(&CONFIG_IN_PLACE));
    assert_accepted(&words[1..]);
    assert_eq!(setting("RestartPreventExitStatus"), "2 3");
    // A stop waits 8 s for requests and 1 s for statements. Each client needs a file descriptor.
    assert!(setting("TimeoutStopSec").parse::<u32>().unwrap() > 9);
    assert!(setting("LimitNOFILE").parse::<u32>().unwrap() > 8_192 + 4_096);
    // The example configuration must read the passwords from the paths that the unit provides.
    let credential = setting("LoadCredential");
    let (id, folder) = credential.split_once(':').unwrap();
    assert_eq!(folder, "/etc/tributary/passwords");
    let config = load(&read("packaging/tributary.toml")).unwrap();
    for (name, server) in &servers(&config).servers {
        let file = format!("/run/credentials/tributary.service/{id}_{name}");
        assert_eq!(server.password_file.as_ref().unwrap().to_str(), Some(file.as_str()));
    }

    let dir = scratch();
    let here = dir.path().join("tributary.service");
    fs::write(&here, unit.replace(BINARY_IN_PLACE, BINARY)).unwrap();
    match Command::new("systemd-analyze").arg("verify").arg(&here).output() {
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && !errors.contains("tributary"), "{errors}");
        }
        Err(_) => skip("systemd unit: systemd-analyze is not installed"),
    }
}

// --- the example configuration -----------------------------------------------------------------

/// The keys that a section accepts, taken from the error for an unknown key.
fn known(section: &str) -> Vec<String> {
    let error = load(&format!("{section}\nzz = 1\n")).unwrap_err();
    let list = error.split_once("known here: ").and_then(|(_, rest)| rest.split_once(')'));
    list.unwrap_or_else(|| panic!("{error}")).0.split(", ").map(str::to_owned).collect()
}

#[test]
fn the_example_configuration_shows_every_key_with_its_default() {
    let example = read("packaging/tributary.toml");
    // Activates lines such as `#key = 1` and `#[section]`. Comments have a space after the `#`.
    let whole: String = example
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let table: Table = whole.parse().unwrap();
    for section in known("") {
        assert!(table.contains_key(&section), "the example does not contain {section}");
        let (header, shown) = match section.as_str() {
            "servers" => ("[servers.zz]".to_owned(), table["servers"]["db0"].as_table()),
            "shards" => ("[[shards]]".to_owned(), table["shards"][0].as_table()),
            _ => (format!("[{section}]"), table[&section].as_table()),
        };
        const PARTS: [(&str, &[&str]); 2] = [
            ("tables", &["follows", "posts", "users", "mutes", "blocks"]),
            ("limits", &["keys", "users", "addresses"]),
        ];
        let parts = PARTS.iter().filter(|(name, _)| *name == section);
        for part in parts.flat_map(|(_, parts)| *parts) {
            let shown = table[&section][*part].as_table().unwrap();
            for key in known(&format!("[{section}.{part}]")) {
                assert!(
                    shown.contains_key(&key),
                    "the example does not contain {section}.{part}.{key}"
                );
            }
        }
        for key in known(&header).iter().filter(|key| *key != "password") {
            assert!(
                shown.unwrap().contains_key(key),
                "the example does not contain {section}.{key}"
            );
        }
    }
    assert!(load(&whole).unwrap_err().contains("exclude each other"));
    let shards = table["embedded"]["shards"].as_integer().unwrap();
    assert_eq!(shards, i64::from(EMBEDDED_SHARDS_DEFAULT));

    const NEEDED: [&str; 8] = [
        "[servers.",
        "[[shards]]",
        "address =",
        "user =",
        "password_file =",
        "name =",
        "server =",
        "database =",
    ];
    let mut of_fleet = false;
    let needed = example.lines().filter(|line| {
        if line.starts_with('[') {
            of_fleet = line.starts_with("[servers.") || line.starts_with("[[shards]]");
        }
        of_fleet && NEEDED.iter().any(|key| line.starts_with(key))
    });
    let [shown, bare] = [example.clone(), needed.collect::<Vec<_>>().join("\n")].map(|text| {
        let mut config = load(&text).unwrap();
        if let FleetConfig::Servers(fleet) = &mut config.fleet {
            fleet.servers.values_mut().for_each(|server| server.tls = Some(server.effective_tls()));
        }
        format!("{config:#?}")
    });
    assert_eq!(shown, bare);
}

// --- the binary --------------------------------------------------------------------------------

/// The binary is the only file to install: it links nothing dynamically except the C library.
#[cfg(target_os = "linux")]
#[test]
fn the_binary_needs_only_the_c_library() {
    const KNOWN: [&str; 8] = [
        "linux-vdso.so",
        "linux-gate.so",
        "ld-linux",
        "libc.so",
        "libm.so",
        "libgcc_s.so",
        "libpthread.so",
        "libdl.so",
    ];
    let Ok(output) = Command::new("ldd").arg(BINARY).output() else {
        return skip("libraries of the binary: ldd is not installed");
    };
    let libraries = String::from_utf8(output.stdout).unwrap();
    assert!(libraries.contains("libc.so"), "{libraries}");
    for line in libraries.lines() {
        let path = line.trim().split(' ').next().unwrap();
        let name = path.rsplit('/').next().unwrap();
        assert!(KNOWN.iter().any(|known| name.starts_with(known)), "the binary needs {name}");
    }
}
