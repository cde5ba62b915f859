//! Connections to servers: TLS, authentication plugins, time limits.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use mysql_async::prelude::Queryable;
use tributary::{PageRequest, Tributary};

use crate::support::database::{Database, Kind};
use crate::support::fleet::{TestFleet, every_backend};
use crate::support::world::World;
use crate::support::{run, user_id};

/// Opens the fleet with these lines added to its server's section.
async fn open_with(fleet: &TestFleet, lines: &str) -> Result<Tributary, String> {
    let file = fleet.config_file.clone().unwrap();
    let before = fs::read_to_string(&file).unwrap();
    fs::write(&file, before.replace("user = ", &format!("{lines}\nuser = "))).unwrap();
    let outcome = Tributary::open(&fleet.config()).await;
    fs::write(&file, before).unwrap();
    outcome.map_err(|error| error.to_string())
}

fn toml_path(key: &str, path: &Path) -> String {
    format!("{key} = \"{}\"", path.display())
}

/// A MySQL 9 account uses `caching_sha2_password`. The first login after a server start sends the
/// password itself, over TLS or encrypted with the server's key.
#[test]
fn mysql_is_reached_with_caching_sha2_in_plain_and_over_tls() {
    let Some(server) = Database::start(Kind::MySql).map(Arc::new) else { return };
    run(async {
        let fleet = TestFleet::on(&[Arc::clone(&server)]);
        for (server, database) in &fleet.databases {
            let mut statements = vec![format!("CREATE DATABASE {database}")];
            statements.extend(tributary::internal::mysql_tables(database));
            server.execute(&statements).await;
        }
        let mut world = World::default();
        world.follow(1, 2);
        world.post(2, 1, 1);
        fleet.load(&world).await;
        let mut connection = server.connect().await;
        let plugin: Option<String> = connection
            .query_first("SELECT plugin FROM mysql.user WHERE user = 'tributary'")
            .await
            .unwrap();
        assert_eq!(plugin.as_deref(), Some("caching_sha2_password"));

        for lines in ["tls = \"disabled\"", "tls = \"required\""] {
            // The server drops its cache of passwords, so the next login is a full one.
            connection.query_drop("FLUSH PRIVILEGES").await.unwrap();
            assert_reads(&open_with(&fleet, lines).await.unwrap()).await;
        }
        // The account can be set to accept TLS connections only.
        let account = "ALTER USER 'tributary'@'127.0.0.1' REQUIRE SSL";
        connection.query_drop(account).await.unwrap();
        assert!(open_with(&fleet, "tls = \"disabled\"").await.is_err());
        assert_reads(&open_with(&fleet, "tls = \"required\"").await.unwrap()).await;

        // The certificate that the server generated names no host.
        let ca = toml_path("tls_ca_file", &server.data_file("ca.pem"));
        let verified = format!("tls = \"verify-identity\"\n{ca}");
        for lines in ["tls = \"verify-identity\"", &verified] {
            let error = open_with(&fleet, lines).await.unwrap_err();
            assert!(error.contains("check tls"), "{error}");
        }
        connection.query_drop("ALTER USER 'tributary'@'127.0.0.1' REQUIRE NONE").await.unwrap();
        server.kill();
        certify(&server);
        server.launch();
        assert_reads(&open_with(&fleet, &verified).await.unwrap()).await;
        let error = open_with(&fleet, "tls = \"verify-identity\"").await.unwrap_err();
        assert!(error.contains("check tls"), "{error}: the authority is private");
    });
}

async fn assert_reads(tributary: &Tributary) {
    let page = tributary.home_timeline(user_id(1), &PageRequest::default()).await.unwrap();
    assert!(page.is_complete() && page.posts.len() == 1, "{page:?}");
}

/// Gives the server a certificate for its address, signed by a new private authority.
fn certify(server: &Database) {
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = own.signed_by(&key, &issuer).unwrap();
    for (name, pem) in [
        ("ca.pem", authority_pem),
        ("server-cert.pem", certificate.pem()),
        ("server-key.pem", key.serialize_pem()),
    ] {
        fs::write(server.data_file(name), pem).unwrap();
    }
}

/// The server must end a query whose reader has given up.
#[test]
fn the_server_ends_a_statement_that_takes_too_long() {
    run(async {
        for (backend, fleet) in every_backend().await {
            let Some((server, database)) = fleet.databases.first() else { continue };
            // A table lock makes every read of the table wait. The time limit must end the wait.
            let mut lock = server.connect().await;
            let mut config = fleet.config();
            config.request.deadline_ms = 600;
            let tributary = Tributary::open(&config).await.unwrap();
            lock.query_drop(format!("LOCK TABLES {database}.followers WRITE")).await.unwrap();
            let page = tributary.home_timeline(user_id(4), &PageRequest::default()).await.unwrap();
            assert!(!page.is_complete());
            let mut connection = server.connect().await;
            let give_up = std::time::Instant::now() + std::time::Duration::from_secs(20);
            loop {
                let left: Option<u64> = connection
                    .exec_first(
                        "SELECT count(*) FROM information_schema.processlist
                         WHERE info LIKE ? AND id <> connection_id()",
                        (format!("%{database}%"),),
                    )
                    .await
                    .unwrap();
                if left == Some(0) {
                    break;
                }
                assert!(std::time::Instant::now() < give_up, "{backend:?}: the query still runs");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
            lock.query_drop("UNLOCK TABLES").await.unwrap();
        }
    });
}
