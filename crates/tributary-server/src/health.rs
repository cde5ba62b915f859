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
use super::wire::{LogState, Ready, ShardState, TaskState};

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
/// slower. Names of shards, logs and tasks are for principals that may see the state of the
/// process.
#[utoipa::path(
    get, path = "/readyz", operation_id = "readyz", tag = "health", security((), ("bearer" = [])),
    summary = "Whether the shards answer",
    description = "The lists are for keys with the scope `admin`.",
    params(("strict" = Option<String>, Query, description = "`degraded` is then 503, too")),
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
    let strict = query
        .0
        .is_some_and(|query| query.split('&').any(|p| p == "strict" || p.starts_with("strict=")));
    let health = fleet(&tributary).health();
    let up = health.iter().filter(|shard| shard.state.is_ok()).count();
    let shards: Vec<ShardState<'_>> = health
        .iter()
        .map(|shard| ShardState { name: shard.name, status: status_of(shard) })
        .collect();
    let failing: Vec<TaskState> =
        tasks.into_iter().filter(|task| task.is_failing).map(TaskState::new).collect();
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
        return (
            code,
            json(&Ready { status, shards: None, memory: Vec::new(), failing: Vec::new() }),
        )
            .into_response();
    }
    let stats = MemoryStats::of(&tributary);
    let memory = stats.iter().flat_map(|stats| &stats.logs).map(LogState::new).collect();
    (code, json(&Ready { status, shards: Some(shards), memory, failing })).into_response()
}

/// The state of a shard as a word.
pub(super) fn status_of(shard: &ShardHealth<'_>) -> &'static str {
    match (&shard.state, &shard.write_fault) {
        (Err(_), _) => "missing",
        (Ok(()), Some(_)) => "read_only",
        (Ok(()), None) => "ok",
    }
}
