//! `vcuda doctor`: what was found here, and what can't be enforced and why.

use anyhow::Result;
use clap::Args;
use std::process::ExitCode;

/// Arguments of `vcuda doctor`.
#[derive(Args)]
pub struct Doctor {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Doctor {
    /// Examines this machine and prints the findings.
    pub fn execute(&self) -> Result<ExitCode> {
        Ok(ExitCode::SUCCESS)
    }
}
