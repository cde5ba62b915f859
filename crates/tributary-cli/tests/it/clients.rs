//! The clients in other languages, against a running server.

use std::path::Path;
use std::process::Command;

use tributary::Tributary;
use tributary_server::Scope;

use crate::support::credentials::TestCredentials;
use crate::support::fleet::{Backend, Tables, TestFleet};
use crate::support::http::TestServer;
use crate::support::world::World;
use crate::support::{root, run, scratch, skip};

/// Runs a script of Node.js; panics with its output if it fails.
fn node(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let mut command = Command::new("node");
    command.args(arguments).current_dir(folder).envs(environment.iter().copied());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}{errors}");
    text
}

/// The types are those of `docs/openapi.json`, the compiler accepts the client, and the client
/// works.
#[test]
fn the_typescript_client_is_generated_compiles_and_works() {
    let Ok(compiler) = std::env::var("TRIBUTARY_TSC") else {
        return skip("TypeScript client: TRIBUTARY_TSC names no compiler");
    };
    let (folder, dir, credentials) =
        (root().join("clients/typescript"), scratch(), TestCredentials::new());
    node(&folder, &["generate.mjs", "--check"], &[]);
    let built = dir.path().to_str().unwrap();
    node(&folder, &[&compiler, "-p", ".", "--outDir", built], &[]);
    std::fs::copy(folder.join("package.json"), dir.path().join("package.json")).unwrap();
    let key = credentials.key(&[Scope::ActAsUser]);
    run(async {
        let fleet = TestFleet::new(Backend::Sqlite, Tables::Ours).await.unwrap();
        fleet.load(&World::default()).await;
        let mut config = fleet.config_with_memory(32 << 20);
        config.write.enabled = true;
        let tributary = Tributary::open(&config).await.unwrap();
        let server = TestServer::start_with(tributary, credentials.access()).await;
        let url = format!("http://{}", server.address);
        let environment = [("TRIBUTARY_URL", url.as_str()), ("TRIBUTARY_CREDENTIAL", &key)];
        let live = || node(dir.path(), &["test/live.js"], &environment);
        assert_eq!(tokio::task::block_in_place(live), "ok\n");
    });
}
