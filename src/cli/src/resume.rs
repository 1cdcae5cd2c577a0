//! `vcuda resume`: brings back what was suspended, once there is room for it.

use crate::agent::{Tools, open_slice, parse_time, processes, teller};
use anyhow::Result;
use clap::Args;
use std::process::ExitCode;
use std::time::Duration;
use vcuda_suspend::lease::Terms;
use vcuda_suspend::resume::{Resumed, resume};

/// Arguments of `vcuda resume`.
#[derive(Args)]
pub struct Resume {
    /// The slice: its name or a process in it as vcuda ps shows them, or its control file
    #[arg(value_name = "SLICE")]
    slice: String,
    /// How long to wait for GPU memory [default: as long as it takes]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    timeout: Option<Duration>,
    /// Go by the memory that is free now, whatever other slices were promised
    #[arg(long)]
    overcommit: bool,
}

impl Resume {
    /// Resumes all programs of the slice.
    pub fn execute(&self) -> Result<ExitCode> {
        let slice = open_slice(&self.slice)?;
        let tools = Tools::open(Some(slice.control()))?;
        let mut tell = teller();
        let mut terms = Terms {
            slices: &tools.slices,
            memory: &tools.memory,
            overcommit: self.overcommit,
            timeout: self.timeout,
            tell: &mut tell,
        };
        println!("{}", told(resume(&slice, &tools.driver, None, &mut terms)?));
        Ok(ExitCode::SUCCESS)
    }
}

fn told(done: Resumed) -> String {
    let mut text = match done.processes {
        0 if done.ended == 0 => format!("already running: {}", processes(done.running)),
        resumed => format!("resumed: {}", processes(resumed)),
    };
    if done.ended > 0 {
        text.push_str(&format!("; {} ended while suspended", processes(done.ended)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_told() {
        assert_eq!(told(Resumed { processes: 1, running: 2, ended: 0 }), "resumed: 1 process");
        assert_eq!(told(Resumed { running: 2, ..Resumed::default() }), "already running: 2 processes");
        let ended = Resumed { ended: 1, ..Resumed::default() };
        assert_eq!(told(ended), "resumed: 0 processes; 1 process ended while suspended");
    }
}
