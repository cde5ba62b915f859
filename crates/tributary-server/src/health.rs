//! The health routes: whether the process runs, and whether its shards answer.

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tributary::internal::fleet;
use tributary::internal::stats::MemoryStats;
use tributary::{ShardHealth, Tributary};

use super::TaskList;
use super::auth::SeesState;
use super::timeline::json;
use super::wire::{LogState, Ready, ServerState, ShardState, TaskState};

/// The paths of these routes.
pub(super) const PATHS: [&str; 3] = ["/livez", "/healthz", "/readyz"];

/// `GET /livez`: 200 while the process answers. Shards are not checked, because a
/// restart of this process would not repair a dead database.
#[utoipa::path(
    get, path = "/livez", operation_id = "livez", tag = "health", security(()),
    summary = "Whether the process answers", description = "",
    responses((status = 200, description = "It does", body = String))
)]
pub(super) async fn live() -> &'static str {
    "ok\n"
}

/// `GET /healthz`: the same under another name.
#[utoipa::path(
    get, path = "/healthz", operation_id = "healthz", tag = "health", security(()),
    summary = "Whether the process answers", description = "",
    responses((status = 200, description = "It does", body = String))
)]
pub(super) async fn healthz() -> &'static str {
    live().await
}

/// `GET /readyz`: 200 `ok` if all shards are in service and no background task fails, 200
/// `degraded` if at least one shard answers reads, else 503. With `?strict`, `degraded` is 503 too.
/// The state of memory is listed and does not change the status: without memory pages are only
/// slower. `?verbose` adds servers, all tasks, and how far memory is in each log. Names of shards,
/// logs and tasks are for principals that may see the state of the process.
#[utoipa::path(
    get, path = "/readyz", operation_id = "readyz", tag = "health", security((), ("bearer" = [])),
    summary = "Whether the shards answer",
    description = "The lists are for keys with the scope `admin`.",
    params(
        ("strict" = Option<String>, Query, description = "`degraded` is then 503, too"),
        ("verbose" = Option<String>, Query,
         description = "Adds servers, tasks, and the progress of memory in each log")
    ),
    responses(
        (status = 200, description = "`ok` or `degraded`", body = Ready<'_>),
        (status = 503, description = "`unavailable`, or `degraded` with `strict`",
         body = Ready<'_>)
    )
)]
pub(super) async fn ready(
    State(tributary): State<Tributary>,
    State(TaskList(tasks)): State<TaskList>,
    SeesState(sees_state): SeesState,
    query: RawQuery,
) -> Response {
    let flag = |name: &str| {
        let parameters = query.0.iter().flat_map(|query| query.split('&'));
        parameters.map(|parameter| parameter.split('=').next()).any(|p| p == Some(name))
    };
    let (strict, verbose) = (flag("strict"), flag("verbose"));
    let health = fleet(&tributary).health();
    let up = health.iter().filter(|shard| shard.state.is_ok()).count();
    let shards: Vec<ShardState<'_>> = health
        .iter()
        .map(|shard| ShardState { name: shard.name, status: status_of(shard) })
        .collect();
    let failing = tasks.iter().filter(|task| task.is_failing).map(TaskState::new);
    let failing: Vec<TaskState> = failing.collect();
    let status = match up {
        0 => "unavailable",
        _ if failing.is_empty() && shards.iter().all(|shard| shard.status == "ok") => "ok",
        _ => "degraded",
    };
    let code = match status {
        "ok" => StatusCode::OK,
        "degraded" if !strict => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    if !sees_state {
        return (code, json(&Ready { status, ..Ready::default() })).into_response();
    }
    let stats = MemoryStats::of(&tributary);
    let log_state = if verbose { LogState::with_details } else { LogState::new };
    let ready = Ready {
        status,
        shards: Some(shards),
        memory: stats.iter().flat_map(|stats| &stats.logs).map(log_state).collect(),
        failing,
        servers: verbose.then(|| ServerState::all(fleet(&tributary))),
        tasks: verbose.then(|| tasks.iter().map(TaskState::new).collect()),
    };
    (code, json(&ready)).into_response()
}

/// The states of shards.
pub(super) const SHARD_STATES: [&str; 3] = ["ok", "read_only", "missing"];

/// The state of a shard as a word.
pub(super) fn status_of(shard: &ShardHealth<'_>) -> &'static str {
    match (&shard.state, &shard.write_fault) {
        (Err(_), _) => "missing",
        (Ok(()), Some(_)) => "read_only",
        (Ok(()), None) => "ok",
    }
}
