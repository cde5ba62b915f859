//! `tributary config`: prints the settings in effect, or a commented file with all of them.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use tributary::config::{environment, settings};

use crate::{Outcome, say};

/// The example of the documentation, whose values are the defaults.
const EXAMPLE: &str = include_str!("../../../packaging/tributary.toml");

#[derive(Args, Debug)]
pub(crate) struct ConfigCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print every setting with its value; passwords are masked
    Show {
        /// Configuration file (TOML)
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Also print what sets each value: the file, a variable, or the default
        #[arg(long)]
        origin: bool,
    },
    /// Print a commented configuration file with all settings and their defaults
    Default,
}

impl ConfigCommand {
    pub(crate) fn run(self) -> Result<Outcome> {
        match self.command {
            Command::Show { config, origin } => {
                for setting in settings(&config, environment())? {
                    let line = format!("{} = {}", setting.key, setting.value);
                    match origin {
                        true => say(format_args!("{line}  # {}", setting.origin)),
                        false => say(line),
                    }
                }
            }
            Command::Default => say(EXAMPLE.trim_end()),
        }
        Ok(Outcome::Done)
    }
}
