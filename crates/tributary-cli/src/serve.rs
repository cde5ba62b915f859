//! `tributary serve`: serves timelines over HTTP until SIGINT or SIGTERM.

use std::net::SocketAddr;

use anyhow::Result;
use clap::Args;
use tokio::signal;
use tracing::info;
use tributary::{Config, OpenError, Tributary};
use tributary_server as http;

use crate::{DATA_FOLDER, DataSource, Outcome, say};

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
    /// Allow an address that other machines can reach, although there is no access control yet
    #[arg(long)]
    insecure: bool,
}

impl Serve {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let config = self.source.load(DATA_FOLDER)?;
        let bound = self.listen.bind(&config).await?;
        let tributary = Tributary::open(&config).await?;
        say(format_args!("Serving timelines on http://{}", bound.address()));
        serve(bound, tributary).await;
        Ok(Outcome::Done)
    }
}

impl Listen {
    /// Opens the listening socket on the address of the flag, else of the configuration. An
    /// address that other machines can reach is refused without `--insecure`.
    pub(crate) async fn bind(&self, config: &Config) -> Result<http::BoundServer> {
        let address = self.listen.unwrap_or(config.http.listen);
        if !address.ip().is_loopback() && !self.insecure {
            let text = format!(
                "other machines can reach {address}, and there is no access control yet; listen \
                 on a loopback address behind a proxy with access control, or add --insecure"
            );
            return Err(OpenError::Prerequisite(text).into());
        }
        let bound = http::bind(address, &config.http.hosts).await;
        bound.map(|bound| bound.with_limits(&config.http)).map_err(|error| {
            let text = format!(
                "cannot listen on {address}: {error}; choose another address with --listen"
            );
            OpenError::Prerequisite(text).into()
        })
    }
}

/// Serves until SIGINT or SIGTERM.
pub(crate) async fn serve(bound: http::BoundServer, tributary: Tributary) {
    bound.serve(tributary, stopped()).await;
    info!("Server stopped");
}

/// Completes at SIGINT or SIGTERM.
async fn stopped() {
    let interrupted = async {
        if signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminated = async {
        match signal::unix::signal(signal::unix::SignalKind::terminate()) {
            Ok(mut terminate) => drop(terminate.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    tokio::select! {
        () = interrupted => {}
        () = terminated => {}
    }
    info!("Stopping; requests in flight may still finish");
}
