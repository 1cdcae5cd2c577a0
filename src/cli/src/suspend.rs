//! `vcuda suspend`: takes a slice's programs off the GPU until `vcuda resume`.

use crate::agent::{Tools, open_slice, parse_time, processes, teller};
use crate::size;
use anyhow::Result;
use clap::Args;
use std::process::ExitCode;
use std::time::Duration;
use vcuda_suspend::lease::Terms;
use vcuda_suspend::preflight::Host;
use vcuda_suspend::suspend::{Request, Suspended, suspend};

/// Arguments of `vcuda suspend`.
#[derive(Args)]
pub struct Suspend {
    /// The slice: its name or a process in it as vcuda ps shows them, or its control file
    #[arg(value_name = "SLICE")]
    slice: String,
    /// How long its programs may take to come to rest: work that they have submitted is waited for
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_time)]
    timeout: Duration,
}

impl Suspend {
    /// Suspends all programs of the slice, or none.
    pub fn execute(&self) -> Result<ExitCode> {
        let slice = open_slice(&self.slice)?;
        let tools = Tools::open(Some(slice.control()))?;
        let request =
            Request { driver: &tools.driver, host: Host::here(), lock_timeout: self.timeout, idle: None };
        let mut tell = teller();
        let mut terms = Terms {
            slices: &tools.slices,
            memory: &tools.memory,
            overcommit: true,
            timeout: None,
            tell: &mut tell,
        };
        println!("{}", told(suspend(&slice, &request, &mut terms)?));
        Ok(ExitCode::SUCCESS)
    }
}

fn told(done: Suspended) -> String {
    let mut text = match (done.processes, done.already) {
        (0, already) if already > 0 => format!("already suspended: {}", processes(already)),
        (now, 0) => format!("suspended: {}, {} given back", processes(now), size::text(done.bytes)),
        (now, already) => {
            let given = size::text(done.bytes);
            format!(
                "suspended: {}, {given} given back; {} were so before",
                processes(now),
                processes(already)
            )
        }
    };
    if done.ended > 0 {
        text.push_str(&format!("; {} ended meanwhile", processes(done.ended)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_told() {
        let done = Suspended { processes: 2, bytes: 3 << 29, ..Suspended::default() };
        assert_eq!(told(done), "suspended: 2 processes, 1.50 GiB given back");
        assert_eq!(
            told(Suspended { ended: 1, ..done }),
            "suspended: 2 processes, 1.50 GiB given back; 1 process ended meanwhile"
        );
        assert_eq!(told(Suspended { already: 3, ..Suspended::default() }), "already suspended: 3 processes");
    }
}
