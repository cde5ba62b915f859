//! The last findings of the checks of `tributary check`, for the page for operators. The server
//! makes them at its start, and then once an hour.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::warn;
use tributary::Config;
use tributary::config::FleetConfig;
use tributary::internal::checks::check_fleet;
use tributary::internal::tasks::{TaskStats, Tasks};
use tributary::internal::{Finding, now_ms};

use super::reload::Configuration;

/// The time between two checks. A check opens a few connections to each server and reads samples.
const PAUSE: Duration = Duration::from_secs(60 * 60);
/// Findings that are kept and logged.
const FINDINGS_MAX: usize = 100;

/// The result of one check.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) at_ms: i64,
    /// The findings, each with the server, shard or fleet that it concerns; errors first.
    pub(super) findings: Vec<(String, Finding)>,
}

/// Checks the servers once an hour, until it is dropped.
#[derive(Debug, Default)]
pub(super) struct Checks {
    last: Mutex<Option<Arc<Checked>>>,
    tasks: Tasks,
}

impl Checks {
    /// Starts on the current tokio runtime.
    pub(super) fn start(configuration: &Arc<Configuration>) -> Arc<Self> {
        let (checks, configuration) = (Arc::new(Self::default()), Arc::clone(configuration));
        let weak = Arc::downgrade(&checks);
        let run = move || watch(Weak::clone(&weak), Arc::clone(&configuration));
        checks.tasks.spawn("checks", "", run);
        checks
    }

    /// The last result. `None` before the first one, and for a folder, which needs no check.
    pub(super) fn last(&self) -> Option<Arc<Checked>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn tasks(&self) -> Vec<TaskStats> {
        self.tasks.stats()
    }

    pub(super) async fn close(&self) {
        self.tasks.close().await;
    }

    /// Keeps a result, and logs what the one before did not have.
    fn keep(&self, checked: Checked) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        for found in &checked.findings {
            if !last.as_ref().is_some_and(|last| last.findings.contains(found)) {
                let (subject, finding) = found;
                warn!(subject, code = finding.code, "Check has found a problem: {finding}");
            }
        }
        *last = Some(Arc::new(checked));
    }
}

async fn watch(checks: Weak<Checks>, configuration: Arc<Configuration>) {
    loop {
        let config = configuration.current().await;
        if !matches!(config.fleet, FleetConfig::Servers(_)) {
            return;
        }
        let Some(mut findings) = on_a_thread(config).await else { return };
        findings.sort_by_key(|(_, finding)| !finding.is_error());
        findings.truncate(FINDINGS_MAX);
        let Some(checks) = checks.upgrade() else { return };
        checks.keep(Checked { at_ms: now_ms(), findings });
        drop(checks);
        sleep(PAUSE).await;
    }
}

/// Makes a check. Its future is not `Send`, so it has a thread, which ends with the caller.
async fn on_a_thread(config: Config) -> Option<Vec<(String, Finding)>> {
    let (caller, waits) = oneshot::channel::<()>();
    let work = move || {
        Handle::current().block_on(async {
            tokio::select! {
                findings = check(&config) => Some(findings),
                _ = waits => None,
            }
        })
    };
    let findings = spawn_blocking(work).await;
    drop(caller);
    findings.ok().flatten()
}

async fn check(config: &Config) -> Vec<(String, Finding)> {
    let FleetConfig::Servers(servers) = &config.fleet else { return Vec::new() };
    check_fleet(config, servers).await.unwrap_or_else(|error| {
        vec![("the fleet".to_owned(), Finding::error("configuration", error.to_string()))]
    })
}
