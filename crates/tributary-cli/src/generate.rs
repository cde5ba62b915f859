//! `tributary completions`, `tributary man` and `tributary openapi`: files that the program makes
//! from itself.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::{Cli, Outcome, say};

#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// The shell that will read the script
    shell: Shell,
}

#[derive(Args, Debug)]
pub(crate) struct ManPages {
    /// Folder for the pages; it is made if it does not exist
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Prints the document of `GET /openapi.json`.
pub(crate) fn openapi() -> Outcome {
    say(tributary_server::openapi_json().trim_end());
    Outcome::Done
}

impl Completions {
    pub(crate) fn run(&self) -> Outcome {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "tributary", &mut script);
        say(String::from_utf8_lossy(&script).trim_end());
        Outcome::Done
    }
}

impl ManPages {
    /// Writes a page for the command, and one for each of its subcommands.
    pub(crate) fn run(&self) -> Result<Outcome> {
        fs::create_dir_all(&self.dir).with_context(|| self.dir.display().to_string())?;
        let mut command = Cli::command();
        command.build();
        let pages = write_pages(&command, "tributary", &self.dir)?;
        say(format_args!("{pages} pages in {}", self.dir.display()));
        Ok(Outcome::Done)
    }
}

/// Returns the number of pages.
fn write_pages(command: &Command, name: &str, dir: &Path) -> Result<usize> {
    let path = dir.join(format!("{name}.1"));
    let mut file = File::create(&path).with_context(|| path.display().to_string())?;
    Man::new(command.clone()).title(name.to_uppercase()).render(&mut file)?;
    let mut pages = 1;
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        pages += write_pages(inner, &format!("{name}-{}", inner.get_name()), dir)?;
    }
    Ok(pages)
}
