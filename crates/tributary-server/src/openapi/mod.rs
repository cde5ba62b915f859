//! The description of the HTTP interface: OpenAPI 3.1, generated from the annotations of the
//! handlers and of the JSON types, and a page that shows it.

mod page;
pub(super) mod schemas;

use std::sync::LazyLock;

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{Object, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, HeaderBuilder, OpenApi as Document, PathItem, Ref, RefOr,
    ResponseBuilder, Schema,
};
use utoipa::{Modify, OpenApi};

use super::error::Problem;
use super::problems::PROBLEMS;
use super::timeline::json_bytes;
use super::{admin, graph, health, live, markers, metrics, news, posts, publish, timeline};

/// The name of the response in every operation that stands for all errors.
const PROBLEM: &str = "Problem";

/// Every route of the tables in `lib.rs`; a test compares both.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tributary",
        description = "Home timelines over sharded MySQL, MariaDB and SQLite. Ids are strings, \
                       since they exceed 2^53. Routes with the tag `operators` are on an address \
                       of their own. Every error is a problem document with a stable `code`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    servers((url = "/")),
    paths(
        timeline::express_feed,
        timeline::feed,
        news::news,
        live::live,
        markers::read_marker,
        markers::mark_read,
        timeline::posts,
        publish::publish,
        publish::post,
        publish::edit_post,
        publish::delete_post,
        posts::posts,
        posts::counts,
        timeline::following,
        publish::follow_all,
        publish::follow,
        publish::unfollow,
        graph::find_users,
        graph::followers,
        graph::counts,
        graph::relationships,
        graph::mutes,
        graph::mute,
        graph::unmute,
        graph::blocks,
        graph::block,
        graph::unblock,
        metrics::metrics,
        admin::shards,
        admin::keys,
        admin::reload,
        health::live,
        health::healthz,
        health::ready,
        json,
        docs,
    ),
    components(schemas(Problem)),
    security(("bearer" = [])),
    tags(
        (name = "timelines", description = "Pages of posts, and what is new"),
        (name = "posts", description = "Write, read, edit and delete single posts"),
        (name = "follows", description = "Follows, mutes and blocks"),
        (name = "health", description = "For load balancers"),
        (name = "operators", description = "On the address for operators"),
        (name = "description", description = "This interface")
    ),
    modifiers(&Shared)
)]
struct Api;

/// The document as it is served.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| openapi_json().into());
/// The page as it is served.
static PAGE: LazyLock<Bytes> = LazyLock::new(|| page::render(&DOCUMENT).into());

/// The OpenAPI 3.1 document of all routes, as `GET /openapi.json` answers it.
#[must_use]
pub fn openapi_json() -> String {
    // Strings, numbers and maps only: this cannot fail.
    Api::openapi().to_pretty_json().unwrap_or_default() + "\n"
}

/// `GET /openapi.json`.
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "openapi", tag = "description", security(()),
    summary = "This document", description = "",
    responses((status = 200, description = "The OpenAPI document", body = Object))
)]
pub(super) async fn json() -> Response {
    json_bytes(DOCUMENT.clone())
}

/// The page loads nothing, neither from here nor from elsewhere.
const PAGE_POLICY: (HeaderName, HeaderValue) = (
    header::CONTENT_SECURITY_POLICY,
    HeaderValue::from_static(
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
    ),
);

/// `GET /docs`: the same for people, with every problem.
#[utoipa::path(
    get, path = "/docs", operation_id = "docs", tag = "description", security(()),
    summary = "This document and all problems as a page", description = "",
    responses((status = 200, description = "A page for browsers",
               body = String, content_type = "text/html"))
)]
pub(super) async fn docs() -> Response {
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    ([(header::CONTENT_TYPE, html), PAGE_POLICY], PAGE.clone()).into_response()
}

/// Adds the parts that all operations share.
struct Shared;

impl Modify for Shared {
    fn modify(&self, api: &mut Document) {
        let components = api.components.get_or_insert_with(Components::new);
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(
            "A service key or a user token; none is needed if none is configured",
        ));
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer.build()));
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(PROBLEM))).build();
        let trouble = ResponseBuilder::new()
            .description("A problem document (RFC 9457); `code` is stable")
            .content("application/problem+json", content);
        if let Some(RefOr::T(Schema::Object(problem))) = components.schemas.get_mut(PROBLEM)
            && let Some(RefOr::T(Schema::Object(code))) = problem.properties.get_mut("code")
        {
            code.enum_values = Some(PROBLEMS.iter().map(|(_, code, _)| (*code).into()).collect());
        }
        components.responses.insert(PROBLEM.to_owned(), trouble.build().into());
        for item in api.paths.paths.values_mut() {
            item.get.iter_mut().for_each(add_tag);
            operations(item).into_iter().for_each(share);
        }
    }
}

fn operations(item: &mut PathItem) -> Vec<&mut Operation> {
    let PathItem { get, put, post, patch, delete, .. } = item;
    [get, put, post, patch, delete].into_iter().flatten().collect()
}

/// Adds the tag of an answer in JSON, and the answer to a client that has it.
fn add_tag(operation: &mut Operation) {
    let answers = &mut operation.responses.responses;
    let Some(RefOr::T(answer)) = answers.get_mut("200") else { return };
    if !answer.content.contains_key("application/json") {
        return;
    }
    let tag = HeaderBuilder::new().schema(Some(Object::with_type(Type::String)));
    let tag = tag.description(Some("Identifies the body; send it as `If-None-Match`"));
    answer.headers.insert("ETag".to_owned(), tag.build().into());
    let known = ResponseBuilder::new().description("The client has this answer").build();
    answers.insert("304".to_owned(), known.into());
}

/// Adds the answer for errors.
fn share(operation: &mut Operation) {
    operation.description = operation.description.take().filter(|text| !text.is_empty());
    let problem = Ref::from_response_name(PROBLEM).into();
    operation.responses.responses.insert("default".to_owned(), problem);
}
