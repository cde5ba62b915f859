//! The command line: the commands and their arguments, their output and their exit codes.

mod backup;
mod bench;
mod check;
mod config;
#[doc(hidden)]
pub mod decoders;
mod delete_user;
mod demo;
mod dsn;
mod explain;
mod export;
mod feed;
mod generate;
mod import;
mod keys;
mod log;
mod migrate;
mod serve;
mod shards;
mod systemd;
mod terminal;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tributary::config::{ConfigError, environment};
use tributary::{Config, OpenError};
use tributary_server::KeysError;

use crate::dsn::DsnError;

/// The default folder of `tributary demo`; also that of `feed` and `explain` if the other one does
/// not exist.
const DEMO_FOLDER: &str = "tributary-demo";
/// The default folder of all other commands.
const DATA_FOLDER: &str = "tributary-data";

// Exit codes. In addition, 0 is success.
const FAILED: u8 = 1;
/// Wrong usage; clap exits with the same code.
const USAGE: u8 = 2;
const PREREQUISITE: u8 = 3;
const PARTIAL: u8 = 4;

/// Home timelines from sharded MySQL, MariaDB or embedded SQLite.
#[derive(Debug, Parser)]
#[command(
    name = "tributary",
    version,
    about,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a prerequisite or the \
                  configuration is wrong, 4 partly done."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Generate a social graph to try Tributary with, once, and serve it
    Demo(demo::Demo),
    /// Serve timelines over HTTP
    Serve(serve::Serve),
    /// Load follows and posts from CSV or NDJSON files
    Import(import::Import),
    /// Write a user's posts and follows to files that `import` reads
    Export(export::Export),
    /// Delete all rows of a user from all shards, and verify it
    DeleteUser(delete_user::DeleteUser),
    /// Copy a folder of embedded shards, also while another process serves it
    Backup(backup::BackUp),
    /// Copy a back-up of embedded shards to a new folder
    Restore(backup::Restore),
    /// Inspect servers: print a configuration for them, and the problems to fix first
    Check(check::Check),
    /// Print the home timeline of a user
    Feed(feed::Feed),
    /// Read the home timeline of a user, and print how it was read
    Explain(explain::Explain),
    /// Print the state of the servers and shards of a running server
    Shards(shards::Shards),
    /// Create the tables that the write path needs
    Migrate(migrate::Migrate),
    /// Make, list, rotate and revoke credentials for the HTTP API
    Keys(keys::Keys),
    /// Print the settings that are in effect, or a commented file with all of them
    Config(config::ConfigCommand),
    /// Print a script that completes the command line in a shell
    Completions(generate::Completions),
    /// Print the OpenAPI document of the HTTP interface
    Openapi,
    /// Write manual pages
    Man(generate::ManPages),
    /// Measure the speed of a server, and check its answers at the same time
    Bench(bench::Bench),
}

/// The shards that a command works on.
#[derive(Args, Debug)]
struct DataSource {
    /// Configuration file (TOML) that names servers and shards
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    config: Option<PathBuf>,
    /// Folder of embedded shards
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl DataSource {
    /// The flags of this command line, for a command that the output suggests.
    fn flags(&self) -> String {
        match (&self.config, &self.data) {
            (Some(file), _) => format!(" --config {}", file.display()),
            (None, Some(folder)) => format!(" --data {}", folder.display()),
            (None, None) => String::new(),
        }
    }

    /// Loads the configuration, and applies the settings of the log.
    fn load(&self, folder: &str) -> Result<Config, ConfigError> {
        let config = self.read(folder)?;
        log::apply(&config.log);
        Ok(config)
    }

    /// Reads the configuration. Without flags it is that of embedded shards in `folder`.
    fn read(&self, folder: &str) -> Result<Config, ConfigError> {
        match &self.config {
            Some(file) => Config::from_file(file, environment()),
            None => {
                let folder = self.data.as_deref().unwrap_or(Path::new(folder));
                Config::from_folder(folder, environment())
            }
        }
    }
}

/// The result of a command that did not fail.
enum Outcome {
    Done,
    /// Partly done; the command printed the exceptions.
    Partial,
    /// The command printed problems that must be fixed first.
    NotReady,
}

/// Runs the command of the command line to its end, and returns its exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    log::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = runtime.context("cannot start the runtime").and_then(|runtime| {
        let outcome = runtime.block_on(async {
            match cli.command {
                Command::Demo(demo) => demo.run().await,
                Command::Serve(serve) => serve.run().await,
                Command::Import(import) => import.run().await,
                Command::Export(export) => export.run().await,
                Command::DeleteUser(user) => user.run().await,
                Command::Backup(backup) => backup.run().await,
                Command::Restore(restore) => restore.run().await,
                Command::Check(check) => check.run().await,
                Command::Feed(feed) => feed.run().await,
                Command::Explain(explain) => explain.run().await,
                Command::Shards(shards) => shards.run().await,
                Command::Migrate(migrate) => migrate.run().await,
                Command::Keys(keys) => keys.run(),
                Command::Config(config) => config.run(),
                Command::Completions(completions) => Ok(completions.run()),
                Command::Openapi => Ok(generate::openapi()),
                Command::Man(pages) => pages.run(),
                Command::Bench(bench) => bench.run().await,
            }
        });
        // Queries that still run have no caller any more, so they may be cut off after a second.
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
    if error.is::<DsnError>() {
        USAGE
    } else if error.is::<OpenError>() || error.is::<ConfigError>() || error.is::<KeysError>() {
        PREREQUISITE
    } else {
        FAILED
    }
}

/// Prints a line to standard output. Errors are ignored: the command does not fail because the
/// reader of a pipe has exited.
fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A progress bar on standard error; invisible if that is no terminal.
fn progress(total: u64, unit: &'static str, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let template = match unit {
        "bytes" => "{msg} {wide_bar} {bytes}/{total_bytes} {eta}",
        _ => "{msg} {wide_bar} {human_pos}/{human_len} {eta}",
    };
    bar.set_style(ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar()));
    bar.with_message(what)
}
