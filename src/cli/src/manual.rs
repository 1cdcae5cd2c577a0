//! `vcuda completions` and `vcuda man`: what shells and readers of manuals need to know, made from the command line's own
//! description.

use crate::Arguments;
use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `vcuda completions`.
#[derive(Args)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    /// Prints the shell's completions.
    pub fn execute(&self) -> Result<ExitCode> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "vcuda", &mut text);
        std::io::stdout().write_all(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Arguments of `vcuda man`.
#[derive(Args)]
pub struct Man {
    /// Where to write the pages, such as /usr/local/share/man/man1; made if it is missing
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

impl Man {
    /// Writes a page for the command and one for each of its subcommands.
    pub fn execute(&self) -> Result<ExitCode> {
        let shown = self.directory.display();
        std::fs::create_dir_all(&self.directory).with_context(|| format!("can't make {shown}"))?;
        clap_mangen::generate_to(Arguments::command(), &self.directory)
            .with_context(|| format!("can't write manual pages into {shown}"))?;
        Ok(ExitCode::SUCCESS)
    }
}
