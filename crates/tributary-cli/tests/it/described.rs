//! The description of the HTTP interface: code, committed file and documents say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use tributary::{Config, Tributary};
use tributary_server::{RouterOptions, Scope};

use crate::access::protected_fleet;
use crate::support::credentials::TestCredentials;
use crate::support::http::TestServer;
use crate::support::{root, run, scratch, seed, size, skip};

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
        let methods = ["get", "post", "put", "patch", "delete"].into_iter();
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

/// A parameter whose type is not inlined refers to a type that the document does not have.
#[test]
fn every_reference_leads_to_a_part_of_the_description() {
    let (document, text) = (document(), tributary_server::openapi_json());
    for reference in text.split("\"$ref\": \"#").skip(1) {
        let path = reference.split('"').next().unwrap();
        assert!(document.pointer(path).is_some(), "{path}: add #[param(inline)] to the parameter");
    }
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

/// Refuses fields that are not described. The document itself does not: clients must accept fields
/// of later versions.
fn strict(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.contains_key("properties") {
                object.insert("additionalProperties".to_owned(), json!(false));
            }
            object.values_mut().for_each(strict);
        }
        Value::Array(values) => values.iter_mut().for_each(strict),
        _ => {}
    }
}

/// Schemathesis sends valid and invalid requests to every operation, follows the links between
/// them, and compares each answer with the description.
#[test]
fn generated_requests_are_answered_as_described() {
    let Ok(program) = std::env::var("TRIBUTARY_SCHEMATHESIS") else {
        return skip("description of the interface: TRIBUTARY_SCHEMATHESIS names no program");
    };
    let (credentials, dir) = (TestCredentials::new(), scratch());
    let (mut document, file) = (document(), dir.path().join("openapi.json"));
    strict(&mut document["components"]["schemas"]);
    fs::write(&file, document.to_string()).unwrap();
    let key = credentials.key(&Scope::ALL);
    run(async {
        let (tributary, access, _fleet) = protected_fleet(&credentials).await;
        let mut options = RouterOptions::default();
        options.access = access;
        for limit in [&mut options.limits.keys, &mut options.limits.addresses] {
            (limit.per_second, limit.burst, limit.in_flight) = (1 << 20, 1 << 20, 1 << 10);
        }
        let server = TestServer::start_as(tributary, options).await;
        let mut command = Command::new(program);
        command
            .arg("--config-file")
            .arg(root().join("crates/tributary-cli/tests/schemathesis.toml"))
            .arg("run")
            .arg(&file)
            .arg(format!("--url=http://{}", server.address))
            .arg(format!("--header=Authorization: Bearer {key}"))
            // An answer of this operation does not end.
            .arg("--exclude-operation-id=live")
            .arg(format!("--seed={}", seed(31) % 1_000_000))
            .arg(format!("--max-examples={}", size(20, 400)))
            .args(["--generation-database=none", "--no-color"])
            .current_dir(dir.path());
        let output = tokio::task::block_in_place(|| command.output()).unwrap();
        let report = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{report}{errors}");
        println!("{}", report.split("SUMMARY").last().unwrap_or_default());
    });
}

/// Whether a value has the described form. `"..."` stands for any text, and `{"...": "..."}` for
/// any object.
fn has_form(document: &Value, schema: &Value, value: &Value) -> bool {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return has_form(document, &document["components"]["schemas"][name], value);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        return choices.iter().any(|choice| has_form(document, choice, value));
    }
    if schema["enum"].as_array().is_some_and(|values| !values.contains(value)) {
        return false;
    }
    let is = |kind: &str| match schema["type"].as_array() {
        Some(kinds) => kinds.iter().any(|one| one == kind),
        None => schema["type"] == kind,
    };
    match value {
        Value::Null => is("null"),
        Value::Bool(_) => is("boolean"),
        Value::Number(_) => is("integer"),
        Value::String(_) => is("string"),
        Value::Array(items) => {
            is("array") && items.iter().all(|item| has_form(document, &schema["items"], item))
        }
        Value::Object(fields) if fields.contains_key("...") => is("object"),
        Value::Object(fields) => {
            let known = schema["properties"].as_object();
            let required = schema["required"].as_array().into_iter().flatten();
            is("object")
                && required.into_iter().all(|name| fields.contains_key(name.as_str().unwrap()))
                && fields.iter().all(|(name, value)| {
                    let field = known.and_then(|known| known.get(name));
                    field.is_some_and(|field| has_form(document, field, value))
                })
        }
    }
}

/// The JSON objects in a document, in blocks and in lines.
fn json_examples(text: &str) -> Vec<Value> {
    let mut texts = Vec::new();
    for (index, part) in text.split("```").enumerate() {
        match part.strip_prefix("json\n") {
            Some(block) if index % 2 == 1 => texts.push(block.to_owned()),
            _ if index % 2 == 0 => {
                let inline = part.split('`').skip(1).step_by(2);
                texts.extend(inline.filter(|code| code.starts_with('{')).map(str::to_owned));
            }
            _ => {}
        }
    }
    let parse = |text: String| {
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    texts.into_iter().map(parse).collect()
}

#[test]
fn the_json_of_the_documents_has_a_described_form() {
    let document = document();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for (file, at_least) in [("docs/api.md", 6), ("docs/problems.md", 1)] {
        let examples = json_examples(&read(file));
        assert!(examples.len() >= at_least, "{file}: {examples:?}");
        for example in examples {
            let has_one = schemas.values().any(|schema| has_form(&document, schema, &example));
            assert!(has_one, "{file}: no schema describes {example}");
        }
    }
}

#[test]
fn the_commands_of_the_documents_work() {
    if Command::new("curl").arg("--version").output().is_err() {
        return skip("commands of docs/api.md: curl is not installed");
    }
    run(async {
        let dir = scratch();
        let tributary = Tributary::open(&Config::embedded(&dir.path().join("data"))).await.unwrap();
        let server = TestServer::start(tributary).await;
        let text = read("docs/api.md");
        let scripts: Vec<&str> = text.split("```sh\n").skip(1).collect();
        assert!(!scripts.is_empty());
        for script in scripts {
            let script = script.split("```").next().unwrap();
            assert!(script.contains("127.0.0.1:7878"));
            let script = script.replace("127.0.0.1:7878", &server.address.to_string());
            let mut shell = Command::new("sh");
            shell.args(["-euc", &script.replace("curl ", "curl --fail --silent --show-error ")]);
            let output = tokio::task::block_in_place(|| shell.output()).unwrap();
            let (text, errors) = (output.stdout, String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success(), "{script}\n{errors}");
            assert!(!text.is_empty(), "{script}");
        }
    });
}
