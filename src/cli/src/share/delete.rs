//! `vcuda share delete`.

use super::Where;
use super::list::users_text;
use anyhow::{Result, bail};
use clap::Args;
use std::path::Path;
use std::process::ExitCode;
use vcuda_shares::MadeBy;

/// Arguments of `vcuda share delete`.
#[derive(Args)]
pub struct Delete {
    /// The share, as vcuda share list names it
    #[arg(value_name = "NAME")]
    name: String,
    /// Also if it is in use or somebody else's: what runs in it goes on under its limits, which can't be changed any more
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    places: Where,
}

impl Delete {
    /// Removes the share.
    pub fn execute(&self) -> Result<ExitCode> {
        // Its control file is written by whoever is in a container. Without it, we read all the same.
        let _ = vcuda_slices::truncation::survive();
        let store = self.places.store(Path::new(""))?;
        if let Some(share) = store.find(&self.name)?
            && !self.force
        {
            if share.wanted.made_by != MadeBy::Cli {
                bail!(
                    "{} was made by {}, which removes it when it is not needed any more; --force removes it now",
                    self.name,
                    share.wanted.made_by
                );
            }
            if let Some(users) = users_text(&share.users()) {
                bail!(
                    "{} is in use by {users}; end them first, or say --force: they go on under its limits, but others may be \
                     promised the same",
                    self.name
                );
            }
        }
        if !store.delete(&self.name)? {
            let names: Vec<String> = store.list()?.iter().map(|share| share.name().to_owned()).collect();
            let known = if names.is_empty() {
                "there are none".to_owned()
            } else {
                format!("there are {}", names.join(", "))
            };
            bail!("there is no share {}; {known}", self.name);
        }
        println!("{}: removed", self.name);
        Ok(ExitCode::SUCCESS)
    }
}
