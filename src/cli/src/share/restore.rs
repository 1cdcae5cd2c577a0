//! `vcuda share restore`.

use super::Where;
use anyhow::Result;
use clap::Args;
use std::path::Path;
use std::process::ExitCode;

/// Arguments of `vcuda share restore`.
#[derive(Args)]
pub struct Restore {
    #[command(flatten)]
    places: Where,
}

impl Restore {
    /// Makes what is lacking.
    pub fn execute(&self) -> Result<ExitCode> {
        // Control files are written by whoever is in a container. Without it, we read all the same.
        let _ = vcuda_slices::truncation::survive();
        for name in self.places.store(Path::new(""))?.restore()? {
            println!("{name} is there again.");
        }
        Ok(ExitCode::SUCCESS)
    }
}
