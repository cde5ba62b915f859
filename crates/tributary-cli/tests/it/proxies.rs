//! A proxy, or several servers, at the address of a server.

use std::sync::Arc;

use serde_json::Value;
use tributary::config::password_variable;
use tributary::{Config, Tributary};

use crate::check::{Given, check, codes};
use crate::support::database::{Database, PASSWORD, mariadb, mysql};
use crate::support::relay::{Relay, Rules};
use crate::support::watch::until_warm;
use crate::support::{run, user_id};

/// The DSNs of a fleet on one server, with the port of a relay to these servers.
async fn through(given: &Given, servers: &[&Arc<Database>], rules: Rules) -> Vec<String> {
    let ports: Vec<u16> = servers.iter().map(|server| server.port).collect();
    let relay = Relay::start(&ports, rules).await;
    let (own, port) = (format!(":{}/", given.servers[0].port), format!(":{}/", relay.port));
    given.dsns().iter().map(|dsn| dsn.replace(&own, &port)).collect()
}

/// Opens the fleet of a report with memory.
async fn open(report: &Value) -> Tributary {
    let variables = [
        (password_variable("db0"), PASSWORD.to_owned()),
        ("TRIBUTARY_MEMORY__BUDGET".to_owned(), (16 << 20).to_string()),
    ];
    let text = report["configuration"].as_str().unwrap();
    Tributary::open(&Config::from_text(text, variables).unwrap()).await.unwrap()
}

/// Through each kind of proxy, `check` passes what can be served, and reports the proxy once.
#[test]
fn a_proxy_is_reported_once_and_pages_are_read_through_it() {
    run(async {
        let servers = [mysql(), Some(&mariadb()[0])];
        for server in servers.into_iter().flatten() {
            let given = Given::with_rows(std::slice::from_ref(server), 2).await;
            let (code, report) = check(&through(&given, &[server], Rules::default()).await);
            assert_eq!(code, 0, "{report:#}");
            let quiet = ["proxy", "several_servers", "unchecked"];
            let warnings = codes(&report, "warning");
            assert!(!warnings.iter().any(|w| quiet.contains(&w.as_str())), "{report:#}");

            let versions = ["8.0.11", "5.5.30", "5.5.5-10.6.12-MariaDB", "26.7.0"];
            let mut rules: Vec<Rules> =
                versions.map(|version| Rules { version: Some(version), ..Rules::default() }).into();
            rules.push(Rules { refuses_log: true, ..Rules::default() });
            rules.push(Rules { refuses_log: true, version: Some("8.0.11"), ..Rules::default() });
            for rules in rules {
                let (code, report) = check(&through(&given, &[server], rules).await);
                assert_eq!(code, 0, "{rules:?} {report:#}");
                let warnings = codes(&report, "warning");
                let proxies = warnings.iter().filter(|code| *code == "proxy").count();
                assert_eq!(proxies, 1, "{rules:?} {report:#}");
                assert!(report.to_string().contains("the server's own address"), "{report:#}");
                let tributary = open(&report).await;
                let page = tributary.home_timeline(user_id(0), &Default::default()).await.unwrap();
                assert!(page.is_complete() && page.posts.len() == 1, "{rules:?}");
                if !rules.refuses_log {
                    until_warm(&tributary, user_id(0), 10).await;
                }
            }

            // The client library panics at an event that is too short. The feed connects again.
            let rules = Rules { cuts_events: true, ..Rules::default() };
            let tributary = open(&check(&through(&given, &[server], rules).await).1).await;
            until_warm(&tributary, user_id(0), 10).await;

            // Without the settings of the session, times would be wrong.
            let rules = Rules { refuses_set: true, ..Rules::default() };
            let (code, report) = check(&through(&given, &[server], rules).await);
            assert_eq!((code, codes(&report, "error")), (3, vec!["refused".to_owned()]));
            assert!(report.to_string().contains("if a proxy is at this address"), "{report:#}");
        }
    });
}

/// Two servers with the same databases at one address.
#[test]
fn an_address_of_several_servers_is_reported() {
    run(async {
        let [first, second] = [&mariadb()[0], &mariadb()[1]];
        let given = Given::with_rows(std::slice::from_ref(first), 2).await;
        let copy =
            Given { servers: vec![Arc::clone(second); 2], databases: given.databases.clone() };
        copy.create().await;
        copy.fill().await;
        let (code, report) = check(&through(&given, &[first, second], Rules::default()).await);
        assert_eq!(code, 0, "{report:#}");
        assert!(codes(&report, "warning").contains(&"several_servers".to_owned()), "{report:#}");
        assert!(report.to_string().contains("leads to 2 servers"), "{report:#}");
    });
}
