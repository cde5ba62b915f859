//! The commands: what is typed, what is printed, which exit code.

mod bench;
mod check;
mod demo;
mod feed;
mod import;
mod migrate;
mod serve;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing::level_filters::LevelFilter;

use crate::config::{Config, ConfigError, environment};
use crate::shard::OpenError;

/// The folder of `tributary demo`, which `tributary feed` looks into unless told otherwise.
const DEMO_FOLDER: &str = "tributary-demo";
/// The folder of the other commands.
const DATA_FOLDER: &str = "tributary-data";

/// Exit codes, beside 0 for success and 2 for wrong usage.
const FAILED: u8 = 1;
const PREREQUISITE: u8 = 3;
const PARTIAL: u8 = 4;

/// Home timelines from sharded MySQL, MariaDB or embedded SQLite.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a prerequisite or the \
                  configuration is wrong, 4 done in part."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a social graph to play with, once, and serve it
    Demo(demo::Demo),
    /// Answer timelines over HTTP
    Serve(serve::Serve),
    /// Load follows and posts from CSV files
    Import(import::Import),
    /// Look at servers: how to serve them, and what to mend first
    Check(check::Check),
    /// Show a user's home timeline
    Feed(feed::Feed),
    /// Make the tables that writing needs
    Migrate(migrate::Migrate),
    /// Measure a server, and check its answers meanwhile
    Bench(bench::Bench),
}

/// Where the rows are.
#[derive(Args, Debug)]
struct DataSource {
    /// A TOML file that names servers and shards
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    config: Option<PathBuf>,
    /// A folder of embedded shards
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl DataSource {
    /// The flags that were given, to be typed again.
    fn flags(&self) -> String {
        match (&self.config, &self.data) {
            (Some(file), _) => format!(" --config {}", file.display()),
            (None, Some(folder)) => format!(" --data {}", folder.display()),
            (None, None) => String::new(),
        }
    }

    /// The configuration; that of `folder` when no other place is named.
    fn load(&self, folder: &str) -> Result<Config, ConfigError> {
        match &self.config {
            Some(file) => Config::from_file(file, environment()),
            None => {
                let folder = self.data.as_deref().unwrap_or(Path::new(folder));
                Config::from_folder(folder, environment())
            }
        }
    }
}

/// How a command ended.
enum Outcome {
    Done,
    /// Done, but for what was said on the way.
    Partial,
    /// Something that was said must be mended first.
    NotReady,
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = runtime.context("cannot start").and_then(|runtime| {
        let outcome = runtime.block_on(async {
            match cli.command {
                Command::Demo(demo) => demo.run().await,
                Command::Serve(serve) => serve.run().await,
                Command::Import(import) => import.run().await,
                Command::Check(check) => check.run().await,
                Command::Feed(feed) => feed.run().await,
                Command::Migrate(migrate) => migrate.run().await,
                Command::Bench(bench) => bench.run().await,
            }
        });
        // Queries that are still running have nobody left to answer.
        runtime.shutdown_timeout(Duration::from_secs(1));
        outcome
    });
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Partial) => ExitCode::from(PARTIAL),
        Ok(Outcome::NotReady) => ExitCode::from(PREREQUISITE),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "tributary: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<OpenError>() || error.is::<ConfigError>() { PREREQUISITE } else { FAILED }
}

/// The log goes to standard error, coloured on a terminal unless `NO_COLOR` is set;
/// `TRIBUTARY_LOG` is `error`, `warn`, `info` (the default), `debug` or `trace`.
fn start_log() {
    let level = std::env::var("TRIBUTARY_LOG").ok().and_then(|level| level.parse().ok());
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .with_target(false)
        .with_max_level(level.unwrap_or(LevelFilter::INFO))
        .init();
}

/// Prints to standard output. That nobody reads on is no failure of the command.
fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A bar on standard error, if that is a terminal.
fn progress(total: u64, unit: &'static str, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let template = match unit {
        "bytes" => "{msg} {wide_bar} {bytes}/{total_bytes} {eta}",
        _ => "{msg} {wide_bar} {human_pos}/{human_len} {eta}",
    };
    bar.set_style(ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar()));
    bar.with_message(what)
}
