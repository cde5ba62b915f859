//! The reload of a running process: the configuration, and the files that it names. All of it takes
//! effect, or nothing does.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::{Mutex, mpsc};
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};
use tributary::config::{self, ConfigError, Log};
use tributary::internal::fleet;
use tributary::{Config, Tributary};

use super::audit;
use super::auth::Credentials;
use super::limits::CurrentLimiter;
use super::tls::Certificate;
use super::wire::Reloaded;

/// How a server reads its configuration again.
pub struct Reloading {
    /// The configuration in effect.
    pub config: Config,
    /// Reads the configuration.
    pub read: Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>,
    /// Applies the settings of the log.
    pub apply_log: Box<dyn Fn(&Log) + Send + Sync>,
    /// Each item requests a reload, as `POST /reload` does.
    pub requests: mpsc::Receiver<()>,
}

impl fmt::Debug for Reloading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloading").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The configuration in effect, which can be read again.
pub(super) struct Configuration {
    /// Locked during a reload, so that one runs at a time.
    current: Mutex<Config>,
    read: Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>,
    apply_log: Box<dyn Fn(&Log) + Send + Sync>,
}

impl fmt::Debug for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[configuration]")
    }
}

impl Configuration {
    /// The configuration, and the requests to read it again.
    pub(super) fn of(reloading: Reloading) -> (Arc<Self>, mpsc::Receiver<()>) {
        let Reloading { config, read, apply_log, requests } = reloading;
        (Arc::new(Self { current: Mutex::new(config), read, apply_log }), requests)
    }
}

impl Configuration {
    /// The configuration in effect.
    pub(super) async fn current(&self) -> Config {
        self.current.lock().await.clone()
    }
}

/// Why a reload has changed nothing.
#[derive(Debug)]
pub(super) enum ReloadError {
    /// A setting or a file cannot be used.
    Refused(String),
    /// A fault of the program.
    Fault,
}

/// The parts of a server that a reload changes.
#[derive(Clone, Debug)]
pub(super) struct Reloadable {
    pub(super) tributary: Tributary,
    pub(super) credentials: Option<Credentials>,
    pub(super) certificate: Option<Certificate>,
    pub(super) limiter: Option<CurrentLimiter>,
    pub(super) configuration: Option<Arc<Configuration>>,
}

impl Reloadable {
    /// Reloads at each request.
    pub(super) async fn serve(&self, mut requests: mpsc::Receiver<()>) {
        while requests.recv().await.is_some() {
            let outcome = self.reload().await;
            audit::signal("reload", if outcome.is_ok() { "done" } else { "failed" });
        }
    }

    /// Reads everything again, and logs what has changed or why nothing has. The reload does not
    /// end with its caller.
    ///
    /// # Errors
    /// Something cannot be used, and nothing has changed.
    pub(super) async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let this = self.clone();
        let reload = async move { AssertUnwindSafe(this.run()).catch_unwind().await };
        let outcome = tokio::spawn(reload).await.ok().and_then(Result::ok);
        let outcome = outcome.unwrap_or(Err(ReloadError::Fault));
        match &outcome {
            Ok(Reloaded { changed, needs_restart, .. }) => {
                info!(?changed, "Configuration was read again");
                if !needs_restart.is_empty() {
                    warn!(?needs_restart, "Some settings have changed; restart to apply them");
                }
            }
            Err(ReloadError::Refused(problem)) => {
                error!(problem, "Reload is refused; nothing has changed");
            }
            Err(ReloadError::Fault) => {
                error!("Reload failed; report this as a fault of the program");
            }
        }
        outcome
    }

    async fn run(self) -> Result<Reloaded, ReloadError> {
        let Some(configuration) = self.configuration.clone() else {
            let done = Reloaded { changed: self.apply(Vec::new).await?, ..Reloaded::default() };
            return Ok(done);
        };
        let mut current = configuration.current.lock().await;
        let read = Arc::clone(&configuration);
        let next = spawn_blocking(move || (read.read)()).await.map_err(|_| ReloadError::Fault)?;
        let next = next.map_err(|error| ReloadError::Refused(error.to_string()))?;
        let config::Reload { config, mut changed, needs_restart, .. } = current.reload(next);
        let logins = fleet(&self.tributary).next_logins(&config).await;
        let logins = logins.map_err(|error| ReloadError::Refused(error.to_string()))?;
        let (limiter, limits, log) = (self.limiter.clone(), config.limits, config.log);
        let has_limits = changed.iter().any(|key| key.starts_with("limits."));
        let settings = Arc::clone(&configuration);
        let apply = move || {
            if let Some(limiter) = limiter.filter(|_| has_limits) {
                limiter.replace(&limits);
            }
            (settings.apply_log)(&log);
            logins.apply().into_iter().map(|name| format!("servers.{name}")).collect()
        };
        changed.extend(self.apply(apply).await?);
        *current = config;
        Ok(Reloaded { changed, needs_restart, problem: None })
    }

    /// Reads the files, and applies them together with `settings`.
    async fn apply(
        self,
        settings: impl FnOnce() -> Vec<String> + Send + 'static,
    ) -> Result<Vec<String>, ReloadError> {
        let apply = move || {
            let credentials = self.credentials.as_ref().map(Credentials::prepare).transpose()?;
            let certificate = self.certificate.as_ref().map(Certificate::prepare).transpose()?;
            // Nothing fails from here on.
            let mut changed = settings();
            if credentials.is_some_and(|commit| commit()) {
                changed.push("credentials".to_owned());
            }
            if certificate.is_some_and(|commit| commit()) {
                changed.push("certificate".to_owned());
            }
            Ok(changed)
        };
        let applied = spawn_blocking(apply).await.map_err(|_| ReloadError::Fault)?;
        applied.map_err(ReloadError::Refused)
    }
}
