//! `vcuda ps`: who holds how much GPU memory and uses how much GPU time, and of which limits.

pub mod json;
pub mod state;
pub mod text;

use crate::neighbours::Watch;
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use vcuda_core::control::Control;
use vcuda_core::error::ControlErrorKind;
use vcuda_core::identity::pid_namespace_of_this_process;
use vcuda_core::snapshot::{ComputeView, ProcessView, RECENT_NS, Snapshot};

/// Arguments of `vcuda ps`.
#[derive(Args)]
pub struct Ps {
    /// Print JSON, with amounts in bytes and nanoseconds, and idle slices included
    #[arg(long)]
    json: bool,
    /// Also show this control file; may be given more than once
    #[arg(long, value_name = "FILE")]
    control_file: Vec<PathBuf>,
}

impl Ps {
    /// Prints what the control files say.
    pub fn execute(&self) -> Result<ExitCode> {
        // Some of the files are other people's, who may do with them what they like. Without it, we read all the same.
        let _ = vcuda_slices::truncation::survive();
        let mut snapshots = Vec::new();
        for path in vcuda_slices::find(&self.control_file) {
            match Control::open_existing(&path) {
                Ok(control) => {
                    // What dead processes left; a file that may only be read is cleaned by others.
                    let _ = control.reap();
                    snapshots.push(control.snapshot()?);
                }
                Err(error) if self.control_file.contains(&path) => return Err(error.into()),
                // It may have gone since it was listed, and its directory may hold other files.
                Err(error) => match error.kind() {
                    ControlErrorKind::Missing | ControlErrorKind::NotControlFile => {}
                    _ => eprintln!("vcuda: {error}"),
                },
            }
        }
        if self.json {
            println!("{}", json::slices(&snapshots));
        } else {
            print!("{}", text::slices(&snapshots, pid_namespace_of_this_process()));
            print!("{}", text::beside(&Watch::default().look(&snapshots)));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The processes that are not known to be dead.
pub fn living(snapshot: &Snapshot) -> impl Iterator<Item = &ProcessView> {
    snapshot.processes.iter().filter(|process| process.alive != Some(false))
}

/// How much of the device's time was used lately, 0 to 1.
pub fn recent_busy_ratio(compute: &ComputeView) -> f64 {
    compute.recent_busy_ns as f64 / RECENT_NS as f64
}
