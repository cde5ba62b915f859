//! The description of the HTTP interface: code, committed file and documents say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;
use tributary::{Config, Tributary};

use crate::support::http::TestServer;
use crate::support::{root, run, scratch};

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn document() -> Value {
    serde_json::from_str(&tributary_server::openapi_json()).unwrap()
}

/// The methods of each path of the route tables: `.route("/path", get(..).post(..))`.
fn routes() -> BTreeMap<String, BTreeSet<String>> {
    let table = read("crates/tributary-server/src/lib.rs");
    let mut routes = BTreeMap::new();
    for route in table.split(".route(").skip(1) {
        let path = route.split('"').nth(1).unwrap().to_owned();
        let handlers = route.split("        .").next().unwrap();
        let methods = ["get", "post", "put", "delete"].into_iter();
        let has = |method: &&str| handlers.contains(&format!("{method}("));
        routes.insert(path, methods.filter(has).map(str::to_owned).collect());
    }
    assert!(routes.values().all(|methods: &BTreeSet<String>| !methods.is_empty()));
    routes
}

#[test]
fn every_route_is_described() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap().iter();
    let described: BTreeMap<String, BTreeSet<String>> = paths
        .map(|(path, item)| (path.clone(), item.as_object().unwrap().keys().cloned().collect()))
        .collect();
    assert_eq!(
        described,
        routes(),
        "annotate the handler with #[utoipa::path] and name it in openapi/mod.rs"
    );
    let mut operations = BTreeSet::new();
    for operation in paths_of(&document) {
        let id = operation["operationId"].as_str().unwrap().to_owned();
        assert!(operation["summary"].is_string() && operation["tags"][0].is_string(), "{id}");
        assert!(operations.insert(id), "{operation}");
    }
}

fn paths_of(document: &Value) -> impl Iterator<Item = &Value> {
    let items = document["paths"].as_object().unwrap().values();
    items.flat_map(|item| item.as_object().unwrap().values())
}

#[test]
fn the_committed_description_is_that_of_the_code() {
    assert!(
        read("docs/openapi.json") == tributary_server::openapi_json(),
        "run `cargo run -- openapi > docs/openapi.json`"
    );
}

/// The rows of the table in `docs/problems.md`: status, code and cause.
fn documented_problems() -> Vec<[String; 3]> {
    let rows = read("docs/problems.md");
    let rows = rows.lines().filter_map(|line| line.strip_prefix("| "));
    let cells = rows.map(|row| row.trim_end_matches(" |").splitn(3, " | ").map(str::to_owned));
    let cells = cells.map(|cells| cells.collect::<Vec<_>>().try_into().unwrap());
    cells.skip(1).collect()
}

#[test]
fn the_type_of_a_problem_leads_to_its_description() {
    run(async {
        let dir = scratch();
        let tributary = Tributary::open(&Config::embedded(&dir.path().join("data"))).await.unwrap();
        let server = TestServer::start(tributary).await;
        let served = server.get("/openapi.json").await;
        assert_eq!(served.header("content-type"), "application/json");
        assert_eq!(served.body, tributary_server::openapi_json());

        let page = server.get("/docs").await;
        assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
        for loaded in ["<script", "<link", "<img", "src=", "url(", "//"] {
            assert!(!page.body.contains(loaded), "{loaded}");
        }
        let rows = page.body.split("<tr id=\"").skip(1);
        let rows: Vec<[String; 3]> = rows
            .map(|row| {
                let cells: Vec<&str> = row.split("<td>").collect();
                let code = row.split('"').next().unwrap();
                let cause = cells[3].split('<').next().unwrap();
                [cells[1].to_owned(), format!("`{code}`"), cause.to_owned()]
            })
            .collect();
        let rows = rows.into_iter().collect::<BTreeSet<_>>();
        let plain = |[status, code, cause]: [String; 3]| [status, code, cause.replace('`', "")];
        let documented = documented_problems().into_iter().map(plain).collect();
        assert_eq!(rows, documented, "docs/problems.md and problems.rs");

        let problem = server.get("/v1/users/1/feed?limit=0").await.json();
        let (path, code) = problem["type"].as_str().unwrap().split_once('#').unwrap();
        assert_eq!((path, code), ("/docs", "invalid_limit"));
        assert!(page.body.contains(&format!("id=\"{code}\"")));
    });
}
