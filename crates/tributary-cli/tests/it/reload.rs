//! Settings, passwords and files that change while the server runs.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use tributary::config::{FleetConfig, ServerConfig};
use tributary::internal::fleet;
use tributary::{Config, PageRequest, Tributary};
use tributary_server::Scope;

use crate::admin::{Server, send, with};
use crate::commands::tributary;
use crate::support::credentials::TestCredentials;
use crate::support::database::Database;
use crate::support::fleet::{Backend, Tables, TestFleet};
use crate::support::world::World;
use crate::support::{run, scratch, user_id};

/// The next report to systemd.
fn report(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 64];
    let length = socket.recv(&mut bytes).expect("systemd receives no report");
    String::from_utf8(bytes[..length].to_vec()).unwrap().trim_end().to_owned()
}

#[test]
fn settings_are_reloaded_together_or_not_at_all_and_systemd_is_informed() {
    let credentials = TestCredentials::new();
    let folder = credentials.folder();
    let config = folder.join("tributary.toml");
    let data = folder.join("data");
    let write = |units: u32, rest: &str| {
        let section = credentials.section();
        let text = format!(
            "[embedded]\ndir = {data:?}\n[http]\nlisten = \"127.0.0.1:0\"\n{section}\n\
             [limits.keys]\nper_second = 10\nburst = {units}\n{rest}"
        );
        fs::write(&config, text).unwrap();
    };
    write(40, "");
    let key = with(&credentials.key(&[Scope::Admin]));
    let socket = UnixDatagram::bind(folder.join("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut command = tributary(&["serve", "--config", config.to_str().unwrap()]);
    command.env("NOTIFY_SOCKET", folder.join("notify")).env("WATCHDOG_USEC", "200000");
    let server = Server::spawn(command);
    assert_eq!(report(&socket), "READY=1");
    assert_eq!(report(&socket), "WATCHDOG=1");
    let burst = || {
        let metrics = crate::commands::get_with(&server.admin, "/shards", &key);
        let found = metrics.lines().find_map(|line| line.strip_prefix("x-ratelimit-limit: "));
        found.unwrap_or_else(|| panic!("{metrics}")).to_owned()
    };
    assert_eq!(burst(), "40");

    write(50, "[request]\ndeadline_ms = 3000\n[log]\nlevel = \"debug\"\nformat = \"json\"\n");
    let reload = || send(&server.admin, "POST /reload", &key);
    let (status, body) = reload();
    let expected = r#"{"changed":["limits.keys.burst","log.level"],"needs_restart":["log.format","request.deadline_ms"],"problem":null}"#;
    assert_eq!((status, body.as_str()), (200, expected));
    assert_eq!(burst(), "50");
    server.until_logged(&["restart to apply", "request.deadline_ms"]);

    // A refused reload changes nothing, also if only one part is wrong.
    write(60, "");
    let keys = fs::read_to_string(credentials.keys_file()).unwrap();
    for (damaged, reason) in
        [("[damaged", "keys.toml: line 1"), (" \n", "keys.toml: the file is empty")]
    {
        fs::write(credentials.keys_file(), damaged).unwrap();
        let (status, body) = reload();
        assert!(status == 409 && body.contains(reason), "{body}");
        assert_eq!(burst(), "50");
    }
    fs::write(credentials.keys_file(), keys).unwrap();
    write(60, "[limits.users]\nburst = 0\n");
    server.signal("-HUP");
    server.until_logged(&["Reload is refused", "limits.users"]);
    server.until_logged(&["Audit", "signal", "failed"]);
    assert_eq!(burst(), "50");

    write(60, "");
    server.signal("-HUP");
    server.until_logged(&["Configuration was read again", "limits.keys.burst", "log.level"]);
    assert_eq!(burst(), "60");
    server.signal("-TERM");
    while report(&socket) != "STOPPING=1" {}
}

/// Sets the password of the account on the server, and closes its connections.
async fn set_password(database: &Database, password: &str) {
    database
        .execute(&[
            format!("ALTER USER 'rotated'@'%' IDENTIFIED BY '{password}'"),
            "KILL USER 'rotated'@'%'".to_owned(),
        ])
        .await;
}

/// The configuration with another account on the first server.
fn with_account(config: &Config, server: impl Fn(ServerConfig) -> ServerConfig) -> Config {
    let mut config = config.clone();
    if let FleetConfig::Servers(servers) = &mut config.fleet {
        let first = servers.servers.get_mut("db0").unwrap();
        *first = server(ServerConfig::new(first.address.clone(), "rotated"));
    }
    config
}

/// Waits until the page of reader 4 on the first server is complete.
async fn until_complete(tributary: &Tributary) {
    let start = Instant::now();
    loop {
        let page = tributary.home_timeline(user_id(4), &PageRequest::default()).await.unwrap();
        if page.is_complete() && page.posts.len() == 1 {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{page:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn prints(file: &Path) -> [String; 2] {
    ["cat".to_owned(), file.to_str().unwrap().to_owned()]
}

#[test]
fn passwords_change_without_a_restart() {
    run(async {
        let mut world = World::default();
        world.follow(4, 8);
        world.post(8, 1_650_000_000_000, 5);
        let fleet_of = TestFleet::new(Backend::MariaDb, Tables::Ours).await.unwrap();
        fleet_of.load(&world).await;
        let (database, name) = &fleet_of.databases[0];
        database
            .execute(&[
                "CREATE OR REPLACE USER 'rotated'@'%' IDENTIFIED BY 'one'".to_owned(),
                format!("GRANT SELECT ON `{name}`.* TO 'rotated'@'%'"),
            ])
            .await;
        let config = fleet_of.config();
        let first = with_account(&config, |server| server.password("one"));
        let tributary = Tributary::open(&first).await.unwrap();
        until_complete(&tributary).await;

        set_password(database, "two").await;
        let wrong = with_account(&config, |server| server.password("wrong"));
        let error = fleet(&tributary).next_logins(&wrong).await.unwrap_err().to_string();
        assert!(error.contains("server db0") && error.contains("check user"), "{error}");
        let second = with_account(&config, |server| server.password("two"));
        let logins = fleet(&tributary).next_logins(&second).await.unwrap();
        assert_eq!(logins.apply(), ["db0"]);
        until_complete(&tributary).await;
        assert!(fleet(&tributary).next_logins(&second).await.unwrap().apply().is_empty());

        // A command prints the password; it runs again when the server refuses the last one.
        let dir = scratch();
        let file = dir.path().join("password");
        fs::write(&file, "two\n").unwrap();
        let printed = with_account(&config, |server| server.password_command(prints(&file)));
        let logins = fleet(&tributary).next_logins(&printed).await.unwrap();
        assert_eq!(logins.apply(), ["db0"]);
        until_complete(&tributary).await;
        fs::write(&file, "three\n").unwrap();
        set_password(database, "three").await;
        until_complete(&tributary).await;
        tributary.close().await;
        let again = Tributary::open(&printed).await.unwrap();
        until_complete(&again).await;
        again.close().await;
        fs::remove_file(&file).unwrap();
        let degraded = Tributary::open(&printed).await.unwrap();
        let reason = degraded.health()[0].state.clone().unwrap_err();
        assert!(reason.contains("password_command `cat` failed"), "{reason}");
        degraded.close().await;
        database.execute(&["DROP USER 'rotated'@'%'".to_owned()]).await;
    });
}
