//! Reports to systemd that the server is ready, alive, or stopping; nothing without systemd.

use std::future::pending;
use std::time::Duration;

use tokio::time::interval;

/// Reports that the server is ready. The returned future never completes. It reports twice in each
/// period of the watchdog that the server is alive. If the runtime hangs, systemd restarts the
/// process.
pub(crate) fn ready() -> impl Future<Output = ()> {
    notify("READY=1");
    async {
        let Some(period) = watchdog() else { return pending().await };
        let mut ticks = interval((period / 2).max(Duration::from_millis(1)));
        loop {
            ticks.tick().await;
            notify("WATCHDOG=1");
        }
    }
}

/// Reports that the server stops.
pub(crate) fn stopping() {
    notify("STOPPING=1");
}

#[cfg(unix)]
fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

#[cfg(unix)]
fn notify(state: &str) {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Custom(state)]) {
        tracing::warn!(%error, state, "Cannot report to systemd");
    }
}

#[cfg(not(unix))]
fn watchdog() -> Option<Duration> {
    None
}

#[cfg(not(unix))]
fn notify(_: &str) {}
