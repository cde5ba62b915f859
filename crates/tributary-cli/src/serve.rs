//! `tributary serve`: serves timelines over HTTP until SIGINT or SIGTERM.

use std::net::SocketAddr;

use anyhow::Result;
use clap::Args;
use tokio::signal;
use tokio::sync::mpsc;
use tracing::{info, warn};
use tributary::{Config, OpenError, Tributary};
use tributary_server::{
    self as http, Access, Certificate, Credentials, CursorKeys, Reloading, RouterOptions, Web,
};

use crate::{DATA_FOLDER, DataSource, Outcome, log, say, systemd};

#[derive(Args, Debug)]
pub(crate) struct Serve {
    #[command(flatten)]
    source: DataSource,
    #[command(flatten)]
    listen: Listen,
}

#[derive(Args, Debug)]
pub(crate) struct Listen {
    /// Address to listen on [default: 127.0.0.1:7878]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Serve without credentials on an address that other machines can reach: everybody who
    /// reaches it can read and write everything
    #[arg(long)]
    insecure: bool,
}

impl Serve {
    pub(crate) async fn run(self) -> Result<Outcome> {
        // Registered first: the signal ends a process that does not expect it.
        let requests = hangups();
        let config = self.source.load(DATA_FOLDER)?;
        let bound = self.listen.bind(&config).await?;
        let (bound, admin) = with_admin(bound, &config).await?;
        let tributary = Tributary::open(&config).await?;
        let bound = bound.cursor_keys(cursor_keys(&config)?);
        say(format_args!("Serving timelines on {}", bound.url()));
        say(format_args!("Serving metrics and administration on {admin}"));
        let source = self.source;
        let reloading = Reloading {
            config,
            read: Box::new(move || source.read(DATA_FOLDER)),
            apply_log: Box::new(log::apply),
            requests,
        };
        serve(bound.with_reload(reloading), tributary).await;
        Ok(Outcome::Done)
    }
}

/// Opens the listening socket for operators. Returns its address too.
async fn with_admin(
    bound: http::BoundServer,
    config: &Config,
) -> Result<(http::BoundServer, SocketAddr)> {
    let address = config.admin.listen;
    let bound = bound.with_admin(address).await;
    bound.map_err(|error| {
        prerequisite(format!(
            "cannot listen on {address} for operators: {error}; choose another address with \
             admin.listen"
        ))
        .into()
    })
}

impl Listen {
    /// Opens the listening socket on the address of the flag, else of the configuration. Without
    /// credentials, an address that other machines can reach is refused, unless the flag
    /// `--insecure` is set.
    pub(crate) async fn bind(&self, config: &Config) -> Result<http::BoundServer> {
        let address = self.listen.unwrap_or(config.http.listen);
        let options = self.options(address, config)?;
        let bound = http::bind_with(address, options).await.map_err(|error| {
            prerequisite(format!(
                "cannot listen on {address}: {error}; choose another address with --listen"
            ))
        })?;
        let bound = bound.with_limits(&config.http);
        let Some(tls) = &config.http.tls else { return Ok(bound) };
        let bound = bound.with_tls(Certificate::open(tls).map_err(prerequisite)?);
        let Some(address) = config.http.plain_listen else { return Ok(bound) };
        let bound = bound.with_plain(address).await;
        let (bound, address) = bound.map_err(|error| {
            prerequisite(format!("cannot listen on {address} (http.plain_listen): {error}"))
        })?;
        info!(%address, "Serving plain HTTP beside TLS");
        Ok(bound)
    }

    fn options(&self, address: SocketAddr, config: &Config) -> Result<RouterOptions, OpenError> {
        let mut options = RouterOptions::default();
        options.limits = config.limits;
        options.web = config.web.enabled.then(|| Web::new(config.write.enabled));
        options.streams_max = config.http.streams_max;
        options.trusted_proxies.clone_from(&config.http.trusted_proxies);
        options.access = match Credentials::open(&config.auth).map_err(prerequisite)? {
            Some(_) if self.insecure => {
                let text = "--insecure contradicts auth.keys_file; remove one of them";
                return Err(prerequisite(text));
            }
            Some(credentials) => {
                if config.http.tls.is_none() && !address.ip().is_loopback() {
                    warn!(
                        %address,
                        "Other machines are served without TLS; their credentials cross the network \
                         unencrypted. Set [http.tls], or put a proxy with TLS in front"
                    );
                }
                Access::credentials(credentials)
            }
            None if self.insecure => {
                warn!(
                    %address,
                    "Serving without access control (--insecure): everybody who reaches this \
                     address can read and write everything"
                );
                Access::insecure()
            }
            None if !address.ip().is_loopback() => {
                return Err(prerequisite(format!(
                    "other machines can reach {address}, and no credentials are configured; name a \
                     file of keys in auth.keys_file, listen on a loopback address, or add \
                     --insecure to serve everybody"
                )));
            }
            None => Access::local(&config.http.hosts),
        };
        Ok(options)
    }
}

/// The keys that seal cursors and freshness tokens.
pub(crate) fn cursor_keys(config: &Config) -> Result<CursorKeys, OpenError> {
    let configured = config.auth.cursor_keys_file.as_deref();
    let keys = match (configured, config.default_cursor_keys_file()) {
        (Some(file), _) => CursorKeys::from_file(file),
        (None, Some(file)) => CursorKeys::from_file_or_new(&file),
        (None, None) => Ok(CursorKeys::random()),
    };
    keys.map_err(|error| {
        prerequisite(format!("{error}; auth.cursor_keys_file can name another file"))
    })
}

fn prerequisite(text: impl ToString) -> OpenError {
    OpenError::Prerequisite(text.to_string())
}

/// Serves until SIGINT or SIGTERM.
pub(crate) async fn serve(bound: http::BoundServer, tributary: Tributary) {
    let stopped = stopped();
    let watchdog = systemd::ready();
    let stop = async {
        tokio::select! {
            () = stopped => {}
            () = watchdog => {}
        }
        systemd::stopping();
    };
    bound.serve(tributary.clone(), stop).await;
    tributary.close().await;
    info!("Server stopped");
}

/// An item for each SIGHUP. The call registers the signal, which would else end the process.
#[cfg(unix)]
fn hangups() -> mpsc::Receiver<()> {
    use signal::unix::{SignalKind, signal};
    // One that arrives during a reload causes another one; more would do the same.
    let (sender, receiver) = mpsc::channel(1);
    match signal(SignalKind::hangup()) {
        Ok(mut hangups) => drop(tokio::spawn(async move {
            while hangups.recv().await.is_some() {
                let _ = sender.try_send(());
            }
        })),
        Err(error) => warn!(%error, "Cannot receive SIGHUP; use POST /reload instead"),
    }
    receiver
}

/// Other systems have no such signal.
#[cfg(not(unix))]
fn hangups() -> mpsc::Receiver<()> {
    mpsc::channel(1).1
}

/// Completes at SIGINT or SIGTERM. The call registers the signals, so that one which arrives before
/// the first poll does not kill the process.
#[cfg(unix)]
fn stopped() -> impl Future<Output = ()> {
    use signal::unix::{SignalKind, signal};
    let signals = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
    let [interrupted, terminated] = signals.map(|registered| async move {
        match registered {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    });
    async move {
        tokio::select! {
            () = interrupted => {}
            () = terminated => {}
        }
        info!("Stopping; requests in flight may still finish");
    }
}

/// Completes at Ctrl-C.
#[cfg(not(unix))]
async fn stopped() {
    if signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
    info!("Stopping; requests in flight may still finish");
}
