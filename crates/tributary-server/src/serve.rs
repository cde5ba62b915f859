//! The server: its listening sockets, and the graceful stop.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRef;
use futures_util::future::join_all;
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::warn;
use tributary::Tributary;
use tributary::config::Http;

use super::auth::{Access, CursorKeys};
use super::checks::Checks;
use super::connections::Connections;
use super::cors::Cors;
use super::history::History;
use super::listener::{Listener, Routes};
use super::live::Streams;
use super::reload::{Configuration, Reloadable, Reloading};
use super::tls::Certificate;
use super::{App, Role, RouterOptions, Web, routes};

/// Open connections without streams at one time, if the process may open enough files.
const CONNECTIONS_MAX: usize = 8_192;
/// The time limit for requests in flight after the signal to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);

/// A server with an open listening socket. It answers nothing before [`BoundServer::serve`].
#[derive(Debug)]
pub struct BoundServer {
    /// The public listener, and perhaps others beside it.
    listeners: Vec<Listener>,
    certificate: Option<Certificate>,
    reloading: Option<Reloading>,
    options: RouterOptions,
    address: SocketAddr,
    limits: Http,
}

/// Listens on a loopback address without credentials, as [`Access::local`] with these host names.
/// Port 0 selects a free port.
///
/// # Errors
/// As [`bind_with`].
pub async fn bind(address: SocketAddr, names: &[String]) -> io::Result<BoundServer> {
    let access = Access::local(names);
    bind_with(address, RouterOptions { access, ..RouterOptions::default() }).await
}

/// Listens on `address`; port 0 selects a free port. Without credentials, and unless
/// [`Access::insecure`] is chosen, this must be a loopback address.
///
/// # Errors
/// The address cannot be bound, for example because another process uses it. The kind is
/// `PermissionDenied` if other machines could reach it without a credential.
pub async fn bind_with(address: SocketAddr, options: RouterOptions) -> io::Result<BoundServer> {
    let listener = listen(address, &options.access, Role::Public)?;
    let (address, limits) = (listener.address, Http::default());
    let (listeners, certificate, reloading) = (vec![listener], None, None);
    Ok(BoundServer { listeners, certificate, reloading, options, address, limits })
}

/// Listens on an address that the access allows.
fn listen(address: SocketAddr, access: &Access, role: Role) -> io::Result<Listener> {
    if access.refuses(address) {
        let text = "other machines can reach the address, and no credentials are configured";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Listener::bind(address, role)
}

impl BoundServer {
    /// The address of the listening socket, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of the listening socket.
    pub fn url(&self) -> String {
        let encrypted = self.listeners.first().is_some_and(|first| first.certificate.is_some());
        format!("{}://{}", if encrypted { "https" } else { "http" }, self.address)
    }

    /// Sets the keys that seal cursors and freshness tokens.
    #[must_use]
    pub fn cursor_keys(mut self, cursor_keys: CursorKeys) -> Self {
        self.options.cursor_keys = cursor_keys;
        self
    }

    /// Uses the limits of connections and the origins of other sites in this configuration instead
    /// of the defaults.
    #[must_use]
    pub fn with_limits(self, limits: &Http) -> Self {
        Self { limits: limits.clone(), ..self }
    }

    /// Serves pages for people too.
    #[must_use]
    pub fn with_web(mut self, web: Web) -> Self {
        self.options.web = Some(web);
        self
    }

    /// Serves TLS only, with this certificate. Call it before other listeners are added.
    #[must_use]
    pub fn with_tls(mut self, certificate: Certificate) -> Self {
        for listener in &mut self.listeners {
            listener.certificate = Some(certificate.clone());
        }
        self.certificate = Some(certificate);
        self
    }

    /// Reads the configuration again on request.
    #[must_use]
    pub fn with_reload(self, reloading: Reloading) -> Self {
        Self { reloading: Some(reloading), ..self }
    }

    /// Serves the routes for operators on the public address too.
    #[must_use]
    pub fn with_admin_routes(mut self) -> Self {
        for listener in &mut self.listeners {
            listener.role = Role::Both;
        }
        self
    }

    /// Listens on a further address for operators: metrics, the state of shards and keys, the
    /// reload of files. An address that other machines can reach has the certificate of the public
    /// one. Returns the address, with the real port.
    ///
    /// # Errors
    /// As [`bind_with`].
    pub async fn with_admin(mut self, address: SocketAddr) -> io::Result<(Self, SocketAddr)> {
        let mut listener = listen(address, &self.options.access, Role::Admin)?;
        let address = listener.address;
        if !address.ip().is_loopback() {
            listener.certificate.clone_from(&self.certificate);
        }
        self.listeners.push(listener);
        Ok((self, address))
    }

    /// Listens on a further address for plain HTTP, with the same access. Returns its address, with
    /// the real port.
    ///
    /// # Errors
    /// As [`bind_with`].
    pub async fn with_plain(mut self, address: SocketAddr) -> io::Result<(Self, SocketAddr)> {
        let listener = listen(address, &self.options.access, Role::Public)?;
        let address = listener.address;
        self.listeners.push(listener);
        Ok((self, address))
    }

    /// Serves until `stop` completes. Then it accepts no connection and no request, and waits at
    /// most eight seconds for the requests in flight.
    pub async fn serve(self, tributary: Tributary, stop: impl Future<Output = ()>) {
        let cors = Cors::of(&self.limits.cors_origins);
        let limit = files_limit();
        let files = files_for_connections(limit);
        // Streams are never closed to make room, so other connections need a part of their own.
        let streams_max = self.options.streams_max.min(limit / 2).min(files / 4 * 3);
        let streams = Streams::new(streams_max);
        let connections = Connections::new((files.min(CONNECTIONS_MAX), files), self.limits);
        let clients = Some(Arc::clone(&connections));
        let certificate = self.certificate;
        let (configuration, requests) = self.reloading.map(Configuration::of).unzip();
        let app = App::new(tributary, self.options);
        let mut app = App { certificate, clients, streams, configuration, ..app };
        if let Some(web) = &mut app.web {
            web.has_shards = self.listeners.iter().any(|listener| listener.role == Role::Both);
            app.history = Some(History::start(app.tributary.clone()));
            app.checks = app.configuration.as_ref().map(Checks::start);
        }
        let reloadable = Reloadable::from_ref(&app);
        let reloads = async {
            if let Some(requests) = requests {
                reloadable.serve(requests).await;
            }
            std::future::pending::<()>().await;
        };
        let (stopping, stopped) = watch::channel(());
        let serving = self.listeners.iter().map(|listener| {
            let app = match listener.role {
                Role::Admin => app.clone().for_operators(app.access.on(listener.address)),
                Role::Public | Role::Both => app.clone(),
            };
            let router = TowerToHyperService::new(routes(app.clone(), listener.role));
            let cors = cors.clone().filter(|_| listener.role != Role::Admin);
            listener.serve(Routes { app, router, cors }, connections.clone(), stopped.clone())
        });
        let serving = join_all(serving);
        tokio::select! {
            () = stop => {}
            _ = serving => {}
            () = reloads => {}
        }
        drop((self.listeners, stopped));
        app.streams.stop();
        stopping.send_replace(());
        if timeout(STOP_TIMEOUT, stopping.closed()).await.is_err() {
            warn!("Some requests did not end within 8 s; their connections are closed");
        }
        app.access.close().await;
        if let Some(history) = &app.history {
            history.close().await;
        }
        if let Some(checks) = &app.checks {
            checks.close().await;
        }
        if let Some(certificate) = &app.certificate {
            certificate.close().await;
        }
    }
}

/// The number of files that the process may open.
fn files_limit() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let files = files.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    files.unwrap_or(4 * CONNECTIONS_MAX)
}

/// The number of files for connections, which leaves a quarter of those that the process may still
/// open to the databases.
fn files_for_connections(limit: usize) -> usize {
    let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    (limit.saturating_sub(open) / 4 * 3).max(1)
}
