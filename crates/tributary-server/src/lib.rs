//! The HTTP server: the listening sockets, TLS, pages from memory, the route table and the
//! middleware.

mod address;
mod admin;
mod audit;
mod auth;
mod checks;
mod compression;
mod conditional;
mod connections;
mod cors;
#[doc(hidden)]
pub mod decoders;
mod error;
mod explain;
mod files;
mod frame;
mod from_memory;
mod graph;
mod head_timer;
mod health;
mod history;
mod limits;
mod listener;
mod live;
mod markers;
mod metrics;
mod news;
mod observe;
mod openapi;
mod posts;
mod problems;
mod publish;
mod query;
mod reload;
mod serve;
mod service;
mod space_saving;
mod stream;
mod takeover;
mod timeline;
mod tls;
mod traffic;
mod watched;
mod web;
mod wire;

use std::sync::Arc;

use axum::Router;
use axum::extract::FromRef;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post, put};
use tributary::Tributary;
use tributary::config::{Http, Limits, Network};
use tributary::explain::Explanation;
use tributary::internal::tasks::TaskStats;
use tributary::internal::{Draft, Fleet, fleet};

use self::auth::SessionCookie;
pub use self::auth::{
    Access, Credentials, CredentialsError, CursorKeys, CursorKeysError, KeyFile, KeySecret,
    KeysError, Scope, ServiceKey, TOKEN_LIFE_MAX_S, UnknownScope,
};
use self::checks::Checks;
use self::connections::Connections;
use self::error::ApiError;
use self::frame::Frame;
use self::history::History;
use self::limits::{CurrentLimiter, Limiter};
use self::live::{LiveParts, Streams};
use self::observe::Observed;
pub use self::openapi::openapi_json;
pub use self::reload::Reloading;
use self::reload::{Configuration, Reloadable};
pub use self::serve::{BoundServer, bind, bind_with};
pub use self::tls::{Certificate, CertificateError};
pub use self::web::Web;

/// The background tasks of the process.
struct TaskList(Vec<TaskStats>);

/// How [`router`] answers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RouterOptions {
    /// Which requests are answered. By default those of this machine only: the application must
    /// then listen on a loopback address. If it serves the router with `ConnectInfo`, clients of
    /// other machines are refused.
    pub access: Access,
    /// The keys that seal cursors and freshness tokens. By default a random key, so that both end
    /// with the process.
    pub cursor_keys: CursorKeys,
    /// The limits of each client, unless only this machine is served.
    pub limits: Limits,
    /// Proxies whose `X-Forwarded-For` names the address of a client; by default this machine's.
    /// Limits of addresses need `ConnectInfo`.
    pub trusted_proxies: Vec<Network>,
    /// The pages for people. By default there are none.
    pub web: Option<Web>,
    /// The streams of events at one time. An application that stops must end their connections.
    pub streams_max: usize,
}

impl Default for RouterOptions {
    fn default() -> Self {
        Self {
            access: Access::default(),
            cursor_keys: CursorKeys::random(),
            limits: Limits::default(),
            trusted_proxies: Http::default().trusted_proxies,
            web: None,
            streams_max: Http::default().streams_max,
        }
    }
}

/// The parts that all requests share.
#[derive(Clone, Debug)]
struct App {
    tributary: Tributary,
    access: Access,
    cursor_keys: CursorKeys,
    /// The connections of clients. `None` if the application has them.
    clients: Option<Arc<Connections>>,
    streams: Arc<Streams>,
    /// `None` without limits.
    limiter: Option<CurrentLimiter>,
    certificate: Option<Certificate>,
    /// `None` without pages for people.
    web: Option<Web>,
    /// Counts of answers, for metrics.
    observed: Arc<Observed>,
    /// Samples for the page for operators. `None` without pages or without a server of ours.
    history: Option<Arc<History>>,
    /// The checks of the servers. `None` without pages or without a configuration.
    checks: Option<Arc<Checks>>,
    /// `None` if the application has the configuration.
    configuration: Option<Arc<Configuration>>,
}

/// Which routes a listener has, beside those of health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// For clients.
    Public,
    /// For operators.
    Admin,
    Both,
}

impl App {
    fn new(tributary: Tributary, options: RouterOptions) -> Self {
        let RouterOptions { access, cursor_keys, limits, trusted_proxies, web, streams_max } =
            options;
        let access = match web {
            Some(_) => access.with_cookie(SessionCookie::Public),
            None => access,
        };
        let limiter = (!access.is_local()).then(|| Limiter::new(&limits, &trusted_proxies));
        Self {
            tributary,
            access,
            cursor_keys,
            clients: None,
            streams: Streams::new(streams_max),
            limiter: limiter.map(CurrentLimiter::new),
            certificate: None,
            web,
            observed: Arc::default(),
            history: None,
            checks: None,
            configuration: None,
        }
    }

    /// The same app for a listener for operators only, whose browsers sign in separately.
    fn for_operators(self, access: Access) -> Self {
        let access = match self.web {
            Some(_) => access.with_cookie(SessionCookie::Admin),
            None => access,
        };
        Self { access, ..self }
    }
}

impl FromRef<App> for Tributary {
    fn from_ref(app: &App) -> Self {
        app.tributary.clone()
    }
}

impl FromRef<App> for Access {
    fn from_ref(app: &App) -> Self {
        app.access.clone()
    }
}

impl FromRef<App> for Web {
    fn from_ref(app: &App) -> Self {
        app.web.clone().unwrap_or_default()
    }
}

impl FromRef<App> for TaskList {
    fn from_ref(app: &App) -> Self {
        let mut tasks = fleet(&app.tributary).tasks().stats();
        tasks.extend(app.access.tasks());
        tasks.extend(app.history.iter().flat_map(|history| history.tasks()));
        tasks.extend(app.checks.iter().flat_map(|checks| checks.tasks()));
        tasks.extend(app.certificate.iter().flat_map(Certificate::tasks));
        Self(tasks)
    }
}

impl FromRef<App> for LiveParts {
    fn from_ref(app: &App) -> Self {
        Self {
            tributary: app.tributary.clone(),
            keys: app.cursor_keys.clone(),
            access: app.access.clone(),
            streams: Arc::clone(&app.streams),
        }
    }
}

impl FromRef<App> for CursorKeys {
    fn from_ref(app: &App) -> Self {
        app.cursor_keys.clone()
    }
}

impl FromRef<App> for Reloadable {
    fn from_ref(app: &App) -> Self {
        Self {
            tributary: app.tributary.clone(),
            credentials: app.access.configured().cloned(),
            certificate: app.certificate.clone(),
            limiter: app.limiter.clone(),
            configuration: app.configuration.clone(),
        }
    }
}

/// The routes of the HTTP API for clients, to be mounted in an axum application, also under a
/// prefix with [`Router::nest`]. It checks access, limits clients and request bodies, catches
/// panics and sets trace ids; the application limits connections and stops them. It must also limit
/// the bytes of all answers that wait for their clients, and of all request bodies, as
/// [`BoundServer`] does: an answer has about 1 MiB, and a request body six times the longest text.
/// It has no page cache, no compression and no headers for other origins; [`BoundServer`] has them
/// in front of the routes. The `Link` headers of pages name paths without the prefix.
pub fn router(tributary: Tributary, options: RouterOptions) -> Router {
    routes(App::new(tributary, options), Role::Public)
}

/// The routes for operators: metrics, the state of shards and keys, the reload of files, and
/// explained pages. Without credentials, serve them on a loopback address only.
pub fn admin_router(tributary: Tributary, options: RouterOptions) -> Router {
    let app = App::new(tributary, options);
    let access = app.access.clone();
    routes(app.for_operators(access), Role::Admin)
}

/// The routes of a role, within the middleware.
fn routes(app: App, role: Role) -> Router {
    let frame = Frame::of(&app);
    let routes = match role {
        Role::Public => public_routes(),
        Role::Admin => {
            admin_routes().route("/v1/users/{user_id}/feed", get(explain::feed_for_operators))
        }
        Role::Both => public_routes().merge(admin_routes()),
    };
    let routes = match (&app.web, role) {
        (None, _) => routes,
        (Some(_), Role::Admin) => routes.merge(web::common_routes()).merge(web::operator_routes()),
        (Some(_), _) => routes.merge(web::common_routes()).merge(web::page_routes()),
    };
    routes
        .route("/livez", get(health::live))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::ready))
        .route("/openapi.json", get(openapi::json))
        .route("/docs", get(openapi::docs))
        .fallback(async || ApiError::NotFound)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(from_fn_with_state(frame, frame::handle))
        .with_state(app)
}

/// The route table. The handler of each route names the permission that it needs, and describes the
/// route in the OpenAPI document.
fn public_routes() -> Router<App> {
    Router::new()
        .route("/user/feed/{user_id}", get(timeline::express_feed))
        .route("/v1/users/{user_id}/feed", get(timeline::feed))
        .route("/v1/users/{user_id}/feed/new", get(news::news))
        .route("/v1/users/{user_id}/feed/live", get(live::live))
        .route("/v1/users/{user_id}/feed/marker", get(markers::read_marker).put(markers::mark_read))
        .route("/v1/users/{user_id}/posts", get(timeline::posts).post(publish::publish))
        .route(
            "/v1/users/{user_id}/posts/{post_id}",
            get(publish::post).patch(publish::edit_post).delete(publish::delete_post),
        )
        .route("/v1/posts", get(posts::posts))
        .route("/v1/posts/counts", get(posts::counts))
        .route("/v1/users/{user_id}/following", get(timeline::following).post(publish::follow_all))
        .route(
            "/v1/users/{user_id}/following/{followee_id}",
            put(publish::follow).delete(publish::unfollow),
        )
        .route("/v1/users", get(graph::find_users))
        .route("/v1/users/{user_id}/followers", get(graph::followers))
        .route("/v1/users/{user_id}/counts", get(graph::counts))
        .route("/v1/users/{user_id}/relationships", get(graph::relationships))
        .route("/v1/users/{user_id}/mutes", get(graph::mutes))
        .route("/v1/users/{user_id}/mutes/{muted_id}", put(graph::mute).delete(graph::unmute))
        .route("/v1/users/{user_id}/blocks", get(graph::blocks))
        .route("/v1/users/{user_id}/blocks/{blocked_id}", put(graph::block).delete(graph::unblock))
}

/// The routes for operators, as above.
fn admin_routes() -> Router<App> {
    Router::new()
        .route("/metrics", get(metrics::metrics))
        .route("/shards", get(admin::shards))
        .route("/keys", get(admin::keys))
        .route("/reload", post(admin::reload))
}

/// The JSON of `GET /v1/users/{id}/feed`, indented over several lines. Its cursors have no seal, so
/// only the library accepts them.
///
/// # Errors
/// None in practice: every part of a page has a JSON form.
pub fn page_json(page: &Draft, fleet: &Fleet) -> serde_json::Result<String> {
    let page: serde_json::Value = {
        let json = wire::posts_json(page, &wire::Cursors::unsealed(page), fleet)?;
        serde_json::from_slice(&json)?
    };
    serde_json::to_string_pretty(&page)
}

/// The JSON of `explain` in `GET /v1/users/{id}/feed?explain=1`, indented over several lines.
///
/// # Errors
/// None in practice: every part of an explanation has a JSON form.
pub fn explanation_json(explanation: &Explanation, fleet: &Fleet) -> serde_json::Result<String> {
    serde_json::to_string_pretty(&explain::to_json(explanation, fleet)?)
}
