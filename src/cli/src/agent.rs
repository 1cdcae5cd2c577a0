//! What `vcuda suspend` and `vcuda resume` have in common: the driver and the GPUs as they are outside of every slice,
//! and the waiting that people should know of.

use crate::inspect::control_file_of;
use anyhow::{Context, Result, bail};
use std::sync::Arc;
use std::time::Duration;
use vcuda_core::control::Control;
use vcuda_slices::{Found, find, find_named};
use vcuda_suspend::Slice;
use vcuda_suspend::driver::CudaDriver;
use vcuda_suspend::lease::Waiting;
use vcuda_suspend::memory::Nvml;

/// What an operation works with.
pub struct Tools {
    pub driver: CudaDriver,
    pub memory: Nvml,
    /// All slices of the machine that can be opened.
    pub slices: Vec<Arc<Control>>,
}

impl Tools {
    /// Opens everything, to work on the slice of `own`.
    pub fn open(own: &Arc<Control>) -> Result<Tools> {
        if is_limited() {
            bail!(
                "this shell is inside of a slice, where the driver tells of the slice alone; suspend and resume from \
                 outside of it"
            );
        }
        let memory =
            Nvml::open().map_err(|reason| anyhow::anyhow!("libnvidia-ml.so.1 can't be used: {reason}"))?;
        let others = find(&[]).into_iter().filter(|path| path != own.path());
        let mut slices: Vec<_> = others.filter_map(|path| Control::open_existing(path).ok()).collect();
        slices.push(Arc::clone(own));
        Ok(Tools { driver: CudaDriver::open().context("nothing can be suspended here")?, memory, slices })
    }
}

/// The slice that a person means.
pub fn open_slice(name: &str) -> Result<Slice> {
    let path = match find_named(name)? {
        Found::Slice(path) => path,
        Found::Limits(path) => control_file_of(path)?,
    };
    Ok(Slice::open(path)?)
}

/// Whether the preloaded library is in this process: its hooks would answer in the driver's place.
fn is_limited() -> bool {
    std::fs::read_to_string("/proc/self/maps")
        .is_ok_and(|maps| maps.lines().any(|line| line.ends_with("/libvcuda.so")))
}

/// Tells on standard error what is waited for, whenever that becomes something else.
pub fn teller() -> impl FnMut(&Waiting) {
    let mut told = None;
    move |waiting| {
        let kind = std::mem::discriminant(waiting);
        if told != Some(kind) {
            eprintln!("vcuda: waiting: {waiting}");
            told = Some(kind);
        }
    }
}

/// A time such as `30s`, `1.5m`, `2h`, or seconds.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let digits =
        text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit.trim() {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("\"{unit}\" is no unit of time; write 30s, 5m or 1h")),
    };
    let seconds = number.parse::<f64>().map_err(|_| format!("\"{text}\" is no time; write 30s, 5m or 1h"))?;
    Duration::try_from_secs_f64(seconds * scale).map_err(|_| format!("\"{text}\" is too long"))
}

/// "1 process", "3 processes".
pub fn processes(count: usize) -> String {
    if count == 1 { "1 process".to_owned() } else { format!("{count} processes") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, ms) in [("30s", 30_000), ("1.5m", 90_000), ("2h", 7_200_000), ("7", 7_000), ("250ms", 250)]
        {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "1d", "-1s", "1.2.3s"] {
            assert!(parse_time(text).unwrap_err().contains("write 30s"), "{text}");
        }
    }
}
