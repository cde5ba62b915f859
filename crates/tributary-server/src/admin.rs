//! The routes for operators: the state of servers and shards, the credentials, and the reload of
//! files.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use tributary::internal::fleet;
use tributary::internal::stats::MemoryStats;

use super::App;
use super::auth::{AllowedHere, Credentials, ReadKeys, ReadState, Reload};
use super::health::status_of;
use super::timeline::json;
use super::tls::Certificate;
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
    _: AllowedHere<ReadState>,
    headers: HeaderMap,
) -> Response {
    if app.web.is_some() && web::wants_page(&headers) {
        return web::shards_page(&app, &headers);
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

/// `POST /reload`: reads the files of credentials and of the certificate now. 409 if one of them
/// cannot be used; the earlier content stays in effect.
#[utoipa::path(
    post, path = "/reload", operation_id = "reload", tag = "operators",
    summary = "Read the files of credentials and of the certificate now", description = "",
    responses(
        (status = 200, description = "All files are in effect", body = [Reloaded]),
        (status = 409, description = "A file cannot be used; its earlier content stays in effect",
         body = [Reloaded])
    )
)]
pub(super) async fn reload(
    State(files): State<Reloadable>,
    allowed: AllowedHere<Reload>,
) -> Response {
    let done = tokio::task::spawn_blocking(move || files.reload()).await.unwrap_or_default();
    let failed = done.iter().any(|file| file.problem.is_some());
    super::audit::act("reload", &allowed.principal, if failed { "failed" } else { "done" });
    let status = if failed { StatusCode::CONFLICT } else { StatusCode::OK };
    (status, json(&done)).into_response()
}

/// The files that `POST /reload` reads again.
#[derive(Clone, Debug, Default)]
pub(super) struct Reloadable {
    pub(super) credentials: Option<Credentials>,
    pub(super) certificate: Option<Certificate>,
}

impl Reloadable {
    fn reload(&self) -> Vec<Reloaded> {
        let credentials = self.credentials.as_ref().map(|files| ("credentials", files.reload()));
        let certificate = self.certificate.as_ref().map(|files| ("certificate", files.reload()));
        let reloaded = |(files, result): (_, Result<bool, String>)| Reloaded {
            files,
            changed: *result.as_ref().unwrap_or(&false),
            problem: result.err(),
        };
        credentials.into_iter().chain(certificate).map(reloaded).collect()
    }
}
