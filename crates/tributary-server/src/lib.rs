//! The HTTP server: the listening socket, the page cache, the route table and the middleware.

mod connections;
mod error;
mod frame;
mod health;
mod metrics;
mod page_cache;
mod publish;
mod query;
mod serve;
mod stream;
mod timeline;
mod wire;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, put};
use tributary::Tributary;
use tributary::internal::{Draft, Fleet};

use self::error::ApiError;
use self::frame::{BodyLimit, Frame, Hosts};
pub use self::serve::{BoundServer, bind};

/// How [`router`] answers.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RouterOptions {
    /// The names that a `Host` header may have; all if absent. A server that listens on an address
    /// of this machine only should name them, because a web page of another site could else read
    /// what only this machine may (DNS rebinding). Loopback names are always accepted.
    pub hosts: Option<Vec<String>>,
}

/// All routes of the HTTP API, to be mounted in an axum application, also under a prefix with
/// [`Router::nest`]. It limits request bodies, catches panics and sets trace ids; the application
/// limits connections and stops them. It does not use the page cache, which [`BoundServer`] has in
/// front of the routes. The `Link` headers of pages name paths without the prefix.
pub fn router(tributary: Tributary, options: RouterOptions) -> Router {
    let hosts = options.hosts.map_or(Hosts::Any, |names| Hosts::Local(names.into()));
    routes(tributary, hosts)
}

/// The route table.
fn routes(tributary: Tributary, hosts: Hosts) -> Router {
    let frame = Frame { limit: BodyLimit::of(&tributary), hosts };
    Router::new()
        .route("/user/feed/{user_id}", get(timeline::express_feed))
        .route("/v1/users/{user_id}/feed", get(timeline::feed))
        .route("/v1/users/{user_id}/posts", get(timeline::posts).post(publish::publish))
        .route(
            "/v1/users/{user_id}/posts/{post_id}",
            get(publish::post).delete(publish::delete_post),
        )
        .route("/v1/users/{user_id}/following", get(timeline::following).post(publish::follow_all))
        .route(
            "/v1/users/{user_id}/following/{followee_id}",
            put(publish::follow).delete(publish::unfollow),
        )
        .route("/metrics", get(metrics::metrics))
        .route("/livez", get(health::live))
        .route("/healthz", get(health::live))
        .route("/readyz", get(health::ready))
        .fallback(async || ApiError::NotFound)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(from_fn_with_state(frame, frame::handle))
        .with_state(tributary)
}

/// The JSON of `GET /v1/users/{id}/feed`, indented over several lines.
///
/// # Errors
/// None in practice: every part of a page has a JSON form.
pub fn page_json(page: &Draft, fleet: &Fleet) -> serde_json::Result<String> {
    let page: serde_json::Value = {
        let json = wire::posts_json(page, &wire::Cursors::of(page), fleet)?;
        serde_json::from_slice(&json)?
    };
    serde_json::to_string_pretty(&page)
}
