//! `vcuda share`: shares of GPUs for containers.

mod create;
mod delete;
mod list;
mod merge;
mod restore;

pub use merge::MergePreload;

use anyhow::Result;
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use vcuda_core::location::SHARES_ON_HOST;
use vcuda_shares::{CDI_OF_COMMANDS, Places, Store};
use vcuda_slices::SHARES_VARIABLE;

/// Arguments of `vcuda share`.
#[derive(Args)]
pub struct Share {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a share of a GPU, which containers then ask for by --device vcuda.dev/share=NAME
    Create(create::Create),
    /// Show the shares of this machine: what each is promised, and who uses it
    List(list::List),
    /// Remove a share
    Delete(delete::Delete),
    /// Make anew what of the shares was in memory before the machine was started anew, so that their containers can start;
    /// vcuda-shares.service does so
    Restore(restore::Restore),
}

impl Share {
    /// Does what is asked for.
    pub fn execute(&self) -> Result<ExitCode> {
        match &self.command {
            Command::Create(create) => create.execute(),
            Command::List(list) => list.execute(),
            Command::Delete(delete) => delete.execute(),
            Command::Restore(restore) => restore.execute(),
        }
    }
}

/// Where shares are.
#[derive(Args)]
struct Where {
    /// Where the shares of this machine are kept
    #[arg(long, env = SHARES_VARIABLE, value_name = "DIR", default_value = SHARES_ON_HOST)]
    shares: PathBuf,
    /// Where container runtimes look for CDI files
    #[arg(long, env = "VCUDA_CDI", value_name = "DIR", default_value = CDI_OF_COMMANDS)]
    cdi: PathBuf,
}

impl Where {
    /// The shares there; `library` is what containers are given.
    fn store(&self, library: &Path) -> Result<Store> {
        let [shares, cdi] = [&self.shares, &self.cdi].map(std::path::absolute);
        Ok(Store::open(Places::of(shares?, cdi?, library)))
    }
}
