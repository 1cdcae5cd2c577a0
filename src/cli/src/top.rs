//! `vcuda top`: slices, GPUs and processes as they are now, full screen and kept up to date.
//!
//! Looks and nothing else: it changes no limit and ends no program. Must leave the terminal as it found it, however it
//! ends.

mod rows;
mod screen;
mod state;
mod text;
mod view;

use crate::neighbours::Watch;
use anyhow::{Result, bail};
use clap::Args;
use rows::Look;
use state::State;
use std::cell::RefCell;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use vcuda_core::control::Control;
use vcuda_slices::truncation;

/// Between the two looks of a single frame: rates are differences.
const ONCE_INTERVAL: Duration = Duration::from_millis(250);
/// Columns of a frame for nobody's terminal.
const ONCE_COLUMNS: u16 = 80;

/// Arguments of `vcuda top`.
#[derive(Args)]
pub struct Top {
    /// Seconds between looks
    #[arg(short = 'd', long, value_name = "SECONDS", default_value = "1")]
    interval: f64,
    /// Print one frame as text, as is done where the output is no terminal
    #[arg(long)]
    once: bool,
    /// Also show this control file; may be given more than once
    #[arg(long, value_name = "FILE")]
    control_file: Vec<PathBuf>,
}

impl Top {
    /// Shows what the control files say until the user has seen enough.
    pub fn execute(&self) -> Result<ExitCode> {
        if !(0.1..=3600.0).contains(&self.interval) {
            bail!("--interval {} is not within 0.1 and 3600 seconds", self.interval);
        }
        // Some of the files are other people's, who may do with them what they like. Without it, we read all the same.
        let _ = truncation::survive();
        // Later, one that is gone is an ended slice's.
        for path in &self.control_file {
            Control::open_existing(path)?;
        }
        let watch = RefCell::new(Watch::default());
        let look = || Look::take(&self.control_file, &mut watch.borrow_mut());
        let mut state = State::new(Duration::from_secs_f64(self.interval));
        state.see(look()?);
        if self.once || !std::io::stdout().is_terminal() {
            std::thread::sleep(ONCE_INTERVAL);
            state.see(look()?);
            print!("{}", text::frame(&state, columns()));
            return Ok(ExitCode::SUCCESS);
        }
        screen::run(&mut state, look)
    }
}

/// As many columns as a shell says there are.
fn columns() -> u16 {
    let said = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    said.unwrap_or(ONCE_COLUMNS).clamp(60, 500)
}
