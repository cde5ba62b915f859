//! The routes for operators: the state of servers and shards, the credentials, and the reload of
//! files.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use tributary::internal::fleet;
use tributary::internal::stats::MemoryStats;

use super::App;
use super::auth::{AllowedHere, ReadKeys, ReadState, Reload};
use super::error::ApiError;
use super::health::status_of;
use super::reload::{ReloadError, Reloadable};
use super::timeline::json;
use super::web;
use super::wire::{KeysState, LogState, Reloaded, ServerState, ShardDetails, ShardsState};

/// `GET /shards`: every server and shard with its state, for a browser as a page. The reasons are
/// those of the log.
#[utoipa::path(
    get, path = "/shards", operation_id = "shards", tag = "operators",
    summary = "Every server and shard with its state", description = "",
    responses((status = 200, description = "The state", body = ShardsState<'_>))
)]
pub(super) async fn shards(
    State(app): State<App>,
    allowed: AllowedHere<ReadState>,
    headers: HeaderMap,
) -> Response {
    if app.web.is_some() && web::wants_page(&headers) {
        return web::shards_page(&app, &allowed.principal, &headers);
    }
    let tributary = app.tributary;
    let fleet = fleet(&tributary);
    let health = fleet.health();
    let stats = MemoryStats::of(&tributary);
    let shards = health.iter().map(|shard| ShardDetails {
        name: shard.name,
        server: shard.server,
        status: status_of(shard),
        reason: shard.state.as_ref().err().or(shard.write_fault.as_ref()),
        foreign_writes: shard.foreign_writes,
    });
    json(&ShardsState {
        servers: ServerState::all(fleet),
        shards: shards.collect(),
        memory: stats.iter().flat_map(|stats| &stats.logs).map(LogState::new).collect(),
    })
}

/// `GET /keys`: the credentials in effect, without their secrets.
#[utoipa::path(
    get, path = "/keys", operation_id = "keys", tag = "operators",
    summary = "The credentials in effect, without their secrets", description = "",
    responses((status = 200, description = "The credentials", body = KeysState<'_>))
)]
pub(super) async fn keys(
    State(files): State<Reloadable>,
    allowed: AllowedHere<ReadKeys>,
) -> Response {
    super::audit::act("read keys", &allowed.principal, "done");
    match &files.credentials {
        Some(credentials) => credentials.with_state(|state| json(&state)),
        None => json(&KeysState::default()),
    }
}

/// `POST /reload`: reads the configuration and the files that it names. 409 if one of them cannot
/// be used; nothing has changed then.
#[utoipa::path(
    post, path = "/reload", operation_id = "reload", tag = "operators",
    summary = "Read the configuration, and the files that it names", description = "",
    responses(
        (status = 200, description = "They are in effect", body = Reloaded),
        (status = 409, description = "One of them cannot be used; nothing has changed",
         body = Reloaded)
    )
)]
pub(super) async fn reload(
    State(reloadable): State<Reloadable>,
    allowed: AllowedHere<Reload>,
) -> Result<Response, ApiError> {
    let outcome = reloadable.reload().await;
    let word = if outcome.is_ok() { "done" } else { "failed" };
    super::audit::act("reload", &allowed.principal, word);
    match outcome {
        Ok(done) => Ok(json(&done)),
        Err(ReloadError::Refused(problem)) => {
            let refused = Reloaded { problem: Some(problem), ..Reloaded::default() };
            Ok((StatusCode::CONFLICT, json(&refused)).into_response())
        }
        Err(ReloadError::Fault) => Err(ApiError::Internal),
    }
}
