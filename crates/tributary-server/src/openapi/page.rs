//! The page of `GET /docs`, made from the OpenAPI document. It is one file without scripts.

use std::fmt::Write;

use serde_json::Value;

use crate::problems::PROBLEMS;

/// The methods in the order of the page.
const METHODS: [&str; 4] = ["get", "post", "put", "delete"];

const HEAD: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
<meta name=\"viewport\" content=\"width=device-width\"><title>Tributary: HTTP interface</title><style>\
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;\
color-scheme:light dark}code,pre{font:14px/1.4 ui-monospace,monospace}h3 code{font-size:1rem}\
pre{overflow:auto;border:1px solid #8884;padding:.5rem}table{border-collapse:collapse}\
td,th{border:1px solid #8884;padding:.2rem .6rem;text-align:left;vertical-align:top}\
:target{outline:2px solid #48f}</style><h1>Tributary: HTTP interface</h1>";

/// The page for this document.
pub(super) fn render(document: &[u8]) -> String {
    let document: Value = serde_json::from_slice(document).unwrap_or_default();
    let mut page = HEAD.to_owned();
    let about = text(&document["info"]["description"]);
    push(
        &mut page,
        format_args!("<p>{about} The document: <a href=\"openapi.json\">openapi.json</a>"),
    );
    for (path, item) in fields(&document["paths"]) {
        for method in METHODS {
            if let Some(operation) = item.get(method) {
                push_operation(&mut page, (method, path), operation);
            }
        }
    }
    page.push_str("<h2>Types</h2>");
    for (name, schema) in fields(&document["components"]["schemas"]) {
        let schema = serde_json::to_string_pretty(schema).unwrap_or_default();
        let schema = linked(&escaped(&schema));
        push(&mut page, format_args!("<h3 id=\"{name}\">{name}</h3><pre>{schema}</pre>"));
    }
    page.push_str("<h2>Problems</h2><table><tr><th>Status<th>Code<th>Cause");
    for (status, code, cause) in PROBLEMS {
        let cause = escaped(cause);
        push(
            &mut page,
            format_args!("<tr id=\"{code}\"><td>{status}<td><code>{code}</code><td>{cause}"),
        );
    }
    page.push_str("</table></html>\n");
    page
}

/// Adds the section of one operation.
fn push_operation(page: &mut String, (method, path): (&str, &str), operation: &Value) {
    let (id, method) = (text(&operation["operationId"]), method.to_uppercase());
    push(page, format_args!("<h3 id=\"{id}\"><code>{method} {path}</code></h3>"));
    let (summary, about) = (text(&operation["summary"]), text(&operation["description"]));
    push(page, format_args!("<p>{summary} {about}"));
    let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !parameters.is_empty() {
        page.push_str("<table><tr><th>Parameter<th>In<th>Type<th>Meaning");
    }
    for one in parameters {
        let (name, place) = (text(&one["name"]), text(&one["in"]));
        let (kind, about) = (kind(&one["schema"]), text(&one["description"]));
        push(page, format_args!("<tr><td><code>{name}</code><td>{place}<td>{kind}<td>{about}"));
    }
    if !parameters.is_empty() {
        page.push_str("</table>");
    }
    for (_, body) in fields(&operation["requestBody"]["content"]) {
        push(page, format_args!("<p>Body: {}", kind(&body["schema"])));
    }
    page.push_str("<table><tr><th>Status<th>Answer<th>Type");
    for (status, answer) in fields(&operation["responses"]) {
        if status == "default" {
            page.push_str("<tr><td>other<td>One of the <a href=\"#Problem\">problems</a><td>");
            continue;
        }
        let kinds = fields(&answer["content"]).map(|(_, content)| kind(&content["schema"]));
        let kinds: String = kinds.collect();
        let about = text(&answer["description"]);
        push(page, format_args!("<tr><td>{status}<td>{about}<td>{kinds}"));
    }
    page.push_str("</table>");
}

/// A schema in one line: a link to its type, or its JSON.
fn kind(schema: &Value) -> String {
    match schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        Some(name) => format!("<a href=\"#{name}\">{name}</a>"),
        None if schema.is_null() => String::new(),
        None => format!("<code>{}</code>", linked(&escaped(&schema.to_string()))),
    }
}

/// Turns the references in escaped JSON into links.
fn linked(json: &str) -> String {
    const REFERENCE: &str = "#/components/schemas/";
    let mut parts = json.split(REFERENCE);
    let mut linked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once("&quot;").unwrap_or((part, ""));
        push(&mut linked, format_args!("<a href=\"#{name}\">{name}</a>&quot;{rest}"));
    }
    linked
}

fn fields(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flatten()
}

fn text(value: &Value) -> String {
    escaped(value.as_str().unwrap_or_default())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn push(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = page.write_fmt(text);
}
