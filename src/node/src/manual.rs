//! `vcuda-node man`: the agent's manual page, made from its options' own description.

use crate::options::Options;
use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use std::path::PathBuf;

/// Arguments of `vcuda-node man`.
#[derive(Args)]
pub struct Man {
    /// Where to write the page, such as /usr/local/share/man/man8; made if it is missing
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

impl Man {
    /// Writes the page `vcuda-node.8`. An error names the file and says why it can't be written.
    pub fn execute(&self) -> Result<()> {
        let shown = self.directory.display();
        std::fs::create_dir_all(&self.directory).with_context(|| format!("can't make {shown}"))?;
        // Of commands for administrators and daemons; vcuda's own pages are in section 1.
        let page = clap_mangen::Man::new(Options::command()).section("8");
        let mut text = Vec::new();
        page.render(&mut text)?;
        let file = self.directory.join("vcuda-node.8");
        std::fs::write(&file, text).with_context(|| format!("can't write {}", file.display()))
    }
}
