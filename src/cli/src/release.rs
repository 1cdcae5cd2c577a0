//! `vcuda release`: puts idle programs aside while others need their memory, on a machine without the node's daemon: one of the
//! two does it, and the other says so.
//!
//! Ended at any moment, it leaves nothing half done that the next one doesn't finish; programs that were put aside wait
//! for that, or for `vcuda resume`.

use crate::agent::Tools;
use anyhow::{Result, bail};
use clap::Args;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};
use vcuda_core::control::Control;
use vcuda_slices::find;
use vcuda_suspend::agent::Agent;
use vcuda_suspend::sole::Sole;

/// How often it is looked for new slices: programs wait a second for that.
const FIND: Duration = Duration::from_millis(300);

/// Arguments of `vcuda release`.
#[derive(Args)]
pub struct Release {
    /// Also see to this control file; may be given more than once
    #[arg(long, value_name = "FILE")]
    control_file: Vec<PathBuf>,
}

impl Release {
    /// Takes turns until it is ended.
    pub fn execute(&self) -> Result<ExitCode> {
        let sole = match Sole::claim() {
            Ok(sole) => sole,
            Err(other) => bail!("{other} makes room on this machine already; see there what it has done"),
        };
        let tools = Tools::open(None)?;
        let mut agent = Agent::new(&tools.driver, &tools.memory);
        let mut slices: BTreeMap<PathBuf, Arc<Control>> = BTreeMap::new();
        let mut found: Option<Instant> = None;
        println!("vcuda: making room on this machine's GPUs; end with Ctrl-C");
        loop {
            if found.is_none_or(|found| found.elapsed() >= FIND) {
                if let Some(other) = sole.superseded() {
                    println!("vcuda: {other} makes room for all users from now on");
                    return Ok(ExitCode::SUCCESS);
                }
                found = Some(Instant::now());
                self.find(&mut slices);
            }
            let all: Vec<_> = slices.values().cloned().collect();
            for event in agent.turn(&all) {
                println!("{event}");
            }
            sleep(agent.pause());
        }
    }

    /// Opens slices that are new, and lets go of those that are gone.
    fn find(&self, slices: &mut BTreeMap<PathBuf, Arc<Control>>) {
        let named = self.control_file.iter().filter(|path| path.exists()).cloned().collect::<Vec<_>>();
        let paths = find(&named);
        slices.retain(|path, control| paths.contains(path) && control.is_at_path().unwrap_or(false));
        for path in paths {
            if let std::collections::btree_map::Entry::Vacant(place) = slices.entry(path)
                && let Ok(control) = Control::open_existing(place.key())
            {
                place.insert(control);
            }
        }
    }
}
