//! Configurations that are accepted and refused.

use std::fs;

use super::*;

const FLEET: &str = r#"
[servers.db1]
address = "127.0.0.1:3306"
user = "reader"

[[shards]]
name = "s0"
server = "db1"
database = "social_0"

[[shards]]
name = "s1"
server = "db1"
database = "social_1"
"#;

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    let variables = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Config::from_file(file.path(), variables).map_err(|error| {
        let path = file.path().display().to_string();
        error.to_string().replace(&path, "FILE")
    })
}

#[test]
fn the_environment_overrides_the_file_and_the_file_the_defaults() {
    let config = load(FLEET, &[]).unwrap();
    assert_eq!(config.http.listen.to_string(), LISTEN_DEFAULT);
    assert_eq!(config.request.deadline_ms, DEADLINE_MS_DEFAULT);
    let text = format!("[request]\ndeadline_ms = 300\n{FLEET}");
    assert_eq!(load(&text, &[]).unwrap().request.deadline_ms, 300);
    let environment = [
        ("TRIBUTARY_REQUEST__DEADLINE_MS", "400"),
        ("TRIBUTARY_HTTP__LISTEN", "127.0.0.1:1"),
        ("TRIBUTARY_SERVERS__DB1__PASSWORD", "12345"),
        ("TRIBUTARY_CACHE", "not a key"),
    ];
    let config = load(&text, &environment).unwrap();
    assert_eq!(config.request.deadline_ms, 400);
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:1");
    let FleetConfig::Servers(fleet) = &config.fleet else { panic!("servers were named") };
    assert_eq!(fleet.servers["db1"].secret().unwrap().unwrap().reveal(), "12345");
    assert!(!format!("{config:?}").contains("12345"));
}

#[test]
fn mistakes_are_reported_with_their_location_and_a_fix() {
    type Case<'a> = (String, &'a [(&'a str, &'a str)], &'a str);
    let cases: [Case<'_>; 15] = [
        (format!("[htp]\n{FLEET}"), &[], "FILE: line 1: unknown key `htp`; did you mean `http`?"),
        (
            format!("[http]\nlistn = 1\n{FLEET}"),
            &[],
            "line 2: unknown key `listn`; did you mean `listen`?",
        ),
        (
            FLEET.into(),
            &[("TRIBUTARY_REQUEST__DEADLINE", "1")],
            "TRIBUTARY_REQUEST__DEADLINE: unknown key `deadline`; did you mean `deadline_ms`?",
        ),
        (
            FLEET.into(),
            &[("TRIBUTARY_REQUEST__DEADLINE_MS", "soon")],
            "TRIBUTARY_REQUEST__DEADLINE_MS: request.deadline_ms = \"soon\": not a whole number",
        ),
        (
            FLEET.into(),
            &[("TRIBUTARY_ADMIN__LISTEN", "")],
            "TRIBUTARY_ADMIN__LISTEN: admin.listen = \"\": invalid socket address syntax; correct",
        ),
        (
            format!("[admin]\nlisten = \"here\"\n{FLEET}"),
            &[],
            "line 2: admin.listen = \"here\": invalid socket address syntax",
        ),
        (format!("[request]\ndeadline_ms = 0\n{FLEET}"), &[], "at least 1"),
        (
            FLEET.into(),
            &[("TRIBUTARY_SERVERS__DB2__PASSWORD", "p")],
            "no server has the name `db2`; did you mean `db1`?",
        ),
        (
            FLEET.replace("user =", "password = \"x\"\nuser ="),
            &[],
            "TRIBUTARY_SERVERS__DB1__PASSWORD",
        ),
        (FLEET.replace("server = \"db1\"", "server = \"db2\""), &[], "did you mean `db1`?"),
        (FLEET.replace("s1", "s0"), &[], "two shards have the name `s0`"),
        (FLEET.replace("social_1", "social_0"), &[], "are the same database `social_0`"),
        (FLEET.replace(":3306", ""), &[], "not of the form host:port"),
        (String::new(), &[], "no shards are configured"),
        (
            format!("{FLEET}[tables.posts]\nvisible = {{ column = \"a\", value = \"now\" }}"),
            &[],
            "no row would ever be visible",
        ),
    ];
    for (text, environment, expected) in cases {
        let error = load(&text, environment).unwrap_err();
        assert!(error.contains(expected), "{error}\n  does not contain\n{expected}");
    }
}

/// A text that is no value of most keys.
#[test]
fn an_error_about_a_value_names_its_key_and_its_variable() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), FLEET).unwrap();
    let mut refused = 0;
    let settings = settings(file.path(), []).unwrap();
    // Variables cannot set parts of lists.
    for Setting { key, .. } in settings.into_iter().filter(|setting| !setting.key.contains('[')) {
        let variable = format!("TRIBUTARY_{}", key.replace('.', "__").to_uppercase());
        let Err(error) = load(FLEET, &[(variable.as_str(), "~ ~")]) else { continue };
        // Later checks have texts of their own.
        if error.contains("= \"~ ~\"") {
            assert!(error.starts_with(&format!("{variable}: {key} = ")), "{key}: {error}");
            refused += 1;
        }
        assert!(error.contains(key.rsplit('.').next().unwrap()), "{key}: {error}");
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn user_tokens_need_all_their_settings_and_a_file_of_keys() {
    let auth = |section: &str| load(&format!("[auth]\n{section}\n{FLEET}"), &[]);
    let tokens = "token_keys_file = \"jwks.json\"\nissuer = \"i\"\naudience = \"a\"";
    let whole = auth(&format!("keys_file = \"/k/keys.toml\"\n{tokens}")).unwrap();
    assert_eq!(whole.auth.tokens(), Some((Path::new("jwks.json"), "i", "a")));
    assert_eq!(whole.default_cursor_keys_file().unwrap(), Path::new("/k/cursor-keys"));
    assert!(auth(tokens).unwrap_err().contains("auth.keys_file"));
    for part in tokens.lines() {
        let rest = tokens.replace(part, "");
        for some in [part, &rest] {
            let error = auth(&format!("keys_file = \"k\"\n{some}")).unwrap_err();
            assert!(error.contains("all of auth.token_keys_file"), "{some}: {error}");
        }
    }
    let none = load(FLEET, &[]).unwrap();
    assert!(none.auth.tokens().is_none() && none.default_cursor_keys_file().is_none());
    let folder = Config::from_folder(Path::new("d"), []).unwrap();
    assert_eq!(folder.default_cursor_keys_file().unwrap(), Path::new("d/cursor-keys"));
}

#[test]
fn the_old_deadline_key_is_read_with_one_warning() {
    let config = load(&format!("[read]\ndeadline_ms = 300\n{FLEET}"), &[]).unwrap();
    assert_eq!(config.request.deadline_ms, 300);
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
    assert!(config.warnings[0].contains("rename it to request.deadline_ms"));
    let old = [("TRIBUTARY_READ__DEADLINE_MS", "400")];
    assert_eq!(load(FLEET, &old).unwrap().request.deadline_ms, 400);
}

#[test]
fn both_names_of_the_deadline_key_are_an_error_that_names_both() {
    let both = format!("[read]\ndeadline_ms = 300\n[request]\ndeadline_ms = 300\n{FLEET}");
    let new = format!("[request]\ndeadline_ms = 300\n{FLEET}");
    let old = [("TRIBUTARY_READ__DEADLINE_MS", "300")];
    for error in [load(&both, &[]).unwrap_err(), load(&new, &old).unwrap_err()] {
        assert!(error.contains("request.deadline_ms and read.deadline_ms"), "{error}");
    }
    let zero = load(&format!("[read]\ndeadline_ms = 0\n{FLEET}"), &[]).unwrap_err();
    assert_eq!(zero, "read.deadline_ms must be at least 1");
}

#[test]
fn obsolete_sections_are_not_suggested() {
    let error = load(&format!("[reads]\n{FLEET}"), &[]).unwrap_err();
    let (_, known) = error.split_once("known here: ").unwrap();
    assert!(known.contains("request") && !known.contains("read,"), "{error}");
}

#[test]
fn a_variable_finds_a_server_with_capital_letters_and_hyphens() {
    let variable = [("TRIBUTARY_SERVERS__DB_1__PASSWORD", "p")];
    let config = load(&FLEET.replace("db1", "Db-1"), &variable).unwrap();
    let FleetConfig::Servers(fleet) = &config.fleet else { panic!("servers were named") };
    assert!(fleet.servers["Db-1"].secret().unwrap().is_some());
}

#[test]
fn a_folder_needs_no_file() {
    let variables = [("TRIBUTARY_EMBEDDED__SHARDS".to_owned(), "2".to_owned())];
    let config = Config::from_folder(Path::new("here"), variables).unwrap();
    let FleetConfig::Embedded(embedded) = config.fleet else { panic!("a folder was named") };
    assert_eq!((embedded.dir.as_path(), embedded.shards), (Path::new("here"), 2));
}

#[test]
fn servers_are_written_only_if_enabled() {
    let write = |text: &str, environment: &[(&str, &str)]| {
        load(&format!("{text}\n{FLEET}"), environment).map(|config| config.write)
    };
    assert!(!write("", &[]).unwrap().enabled);
    assert!(write("[write]\nenabled = true", &[]).unwrap().enabled);
    assert!(write("", &[("TRIBUTARY_WRITE__ENABLED", "true")]).unwrap().enabled);
    assert_eq!(write("", &[]).unwrap().content_bytes_max, CONTENT_BYTES_DEFAULT);
    assert!(write("[write]\nenabled = 1", &[]).unwrap_err().contains("neither true nor"));
    let error = write("[write]\ncontent_bytes_max = 2000000", &[]).unwrap_err();
    assert!(error.contains("from 1 to 1048576"), "{error}");
    assert!(Config::from_folder(Path::new("here"), []).unwrap().write.enabled);
}

#[test]
fn tls_is_on_unless_the_server_is_this_machine() {
    let tls = |address: &str| {
        let text = FLEET.replace("127.0.0.1:3306", address);
        let FleetConfig::Servers(fleet) = load(&text, &[]).unwrap().fleet else { panic!() };
        fleet.servers["db1"].effective_tls()
    };
    for local in ["127.0.0.1:1", "localhost:1", "[::1]:1"] {
        assert_eq!(tls(local), Tls::Disabled);
    }
    for remote in ["10.0.0.1:1", "db.example.org:3306"] {
        assert_eq!(tls(remote), Tls::VerifyIdentity);
    }
}

#[test]
fn a_placement_map_names_shards() {
    let config = load(&format!("[placement]\nmap = [\"s1\", \"s0\"]\n{FLEET}"), &[]).unwrap();
    let placement = config.placement.build(&["s0", "s1"]).unwrap();
    assert_eq!(placement.shard_of(crate::model::UserId(0)), ShardId(1));
    let wrong = PlacementConfig { map: Some(vec!["s2".into()]) };
    assert!(
        wrong.build(&["s0", "s1"]).unwrap_err().0.contains("no shard `s2`; did you mean `s0`?")
    );
}

#[test]
fn defaults_apply_to_servers_without_own_values() {
    let defaults =
        "[server_defaults]\nuser = \"common\"\nconnections_max = 4\ntls = \"required\"\n";
    let bare = FLEET.replace("user = \"reader\"\n", "tls = \"disabled\"\n");
    let environment = [("TRIBUTARY_SERVER_DEFAULTS__PASSWORD", "secret")];
    let config = load(&format!("{defaults}{bare}"), &environment).unwrap();
    let FleetConfig::Servers(fleet) = &config.fleet else { panic!("servers were named") };
    let server = &fleet.servers["db1"];
    assert_eq!((server.user.as_str(), server.connections_max), ("common", 4));
    assert_eq!(server.tls, Some(Tls::Disabled));
    assert_eq!(server.secret().unwrap().unwrap().reveal(), "secret");
    let own = [environment[0], ("TRIBUTARY_SERVERS__DB1__PASSWORD", "own")];
    let config = load(&format!("{defaults}{bare}"), &own).unwrap();
    let FleetConfig::Servers(fleet) = &config.fleet else { panic!("servers were named") };
    assert_eq!(fleet.servers["db1"].secret().unwrap().unwrap().reveal(), "own");
    let error = load(&bare, &[]).unwrap_err();
    assert_eq!(
        error,
        "servers.db1: user is missing; set it here, or for all servers in [server_defaults]"
    );
    let error = load(&format!("[server_defaults]\npassword = \"x\"\n{FLEET}"), &[]).unwrap_err();
    assert!(error.contains("TRIBUTARY_SERVER_DEFAULTS__PASSWORD"), "{error}");
    let error = load(&format!("[server_defaults]\nadress = \"x\"\n{FLEET}"), &[]).unwrap_err();
    assert!(error.contains("unknown key `adress`"), "{error}");
}

#[test]
fn a_variable_that_sets_nothing_is_a_warning() {
    let environment = [("TRIBUTARY_HTTP_LISTEN", "127.0.0.1:1"), ("TRIBUTARY_LOG", "debug")];
    let warnings = load(FLEET, &environment).unwrap().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("TRIBUTARY_HTTP_LISTEN sets nothing"), "{warnings:?}");
}

#[test]
fn every_setting_is_shown_with_its_origin_and_passwords_are_masked() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = format!("[server_defaults]\nconnections_max = 4\n[http]\nhosts = [\"a\"]\n{FLEET}");
    fs::write(file.path(), text).unwrap();
    let environment =
        [("TRIBUTARY_REQUEST__DEADLINE_MS", "400"), ("TRIBUTARY_SERVERS__DB1__PASSWORD", "secret")];
    let variables = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let settings = settings(file.path(), variables).unwrap();
    let path = file.path().display().to_string();
    let shown = |key: &str| {
        let setting = settings.iter().find(|setting| setting.key == key);
        let setting = setting.unwrap_or_else(|| panic!("{key} is not shown: {settings:#?}"));
        (setting.value.clone(), setting.origin.replace(&path, "FILE"))
    };
    let pair = |value: &str, origin: &str| (value.to_owned(), origin.to_owned());
    assert_eq!(shown("http.listen"), pair("\"127.0.0.1:7878\"", "default"));
    assert_eq!(shown("http.hosts"), pair("[\"a\"]", "FILE"));
    assert_eq!(shown("request.deadline_ms"), pair("400", "TRIBUTARY_REQUEST__DEADLINE_MS"));
    assert_eq!(shown("servers.db1.user"), pair("\"reader\"", "FILE"));
    assert_eq!(shown("servers.db1.connections_max"), pair("4", "server_defaults"));
    assert_eq!(shown("servers.db1.tls"), pair("\"disabled\"", "default"));
    assert_eq!(
        shown("servers.db1.password"),
        pair("\"********\"", "TRIBUTARY_SERVERS__DB1__PASSWORD")
    );
    assert_eq!(shown("shards[1].name"), pair("\"s1\"", "FILE"));
    assert!(!format!("{settings:?}").contains("secret"));
}

#[test]
fn the_changes_take_at_most_half_of_the_budget() {
    let read = |memory: &str| {
        load(&format!("[memory]\n{memory}\n{FLEET}"), &[]).map(|config| config.memory.news_bytes())
    };
    assert_eq!(read("budget = '64MiB'"), Ok(4 << 20));
    assert_eq!(read("budget = '64MiB'\nnews = '32MiB'"), Ok(32 << 20));
    assert!(read("budget = '64MiB'\nnews = '33MiB'").unwrap_err().contains("memory.news"));
}
