//! `vcuda merge-preload`: not for people, see [`vcuda_shares::merge_preload`].

use anyhow::{Context, Result};
use clap::Args;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `vcuda merge-preload`.
#[derive(Args)]
pub struct MergePreload {
    /// The share's directory
    #[arg(value_name = "DIRECTORY")]
    share: PathBuf,
}

impl MergePreload {
    /// Reads the container's state from standard input.
    pub fn execute(&self) -> Result<ExitCode> {
        let mut state = Vec::new();
        std::io::stdin().take(1 << 20).read_to_end(&mut state).context("can't read the container's state")?;
        vcuda_shares::merge_preload(&state, &self.share)?;
        Ok(ExitCode::SUCCESS)
    }
}
