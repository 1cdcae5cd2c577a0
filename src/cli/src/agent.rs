//! What `vcuda suspend`, `vcuda resume` and `vcuda release` have in common: the driver and the GPUs as they are outside of every slice,
//! and the waiting that people should know of.

use crate::inspect::control_file_of;
use anyhow::{Context, Result, bail};
use std::sync::Arc;
use std::time::Duration;
use vcuda_core::control::Control;
use vcuda_core::limits::parse_span;
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
    /// Opens everything, to work on the slice of `own` among others.
    pub fn open(own: Option<&Arc<Control>>) -> Result<Tools> {
        if is_limited() {
            bail!(
                "this shell is inside of a slice, where the driver tells of the slice alone; suspend and resume from \
                 outside of it"
            );
        }
        let memory =
            Nvml::open().map_err(|reason| anyhow::anyhow!("libnvidia-ml.so.1 can't be used: {reason}"))?;
        let others = find(&[]).into_iter().filter(|path| own.is_none_or(|own| path != own.path()));
        let mut slices: Vec<_> = others.filter_map(|path| Control::open_existing(path).ok()).collect();
        slices.extend(own.cloned());
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
pub fn is_limited() -> bool {
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

/// A time such as `30s` or `5m`.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    parse_span("time", text).map_err(|error| error.to_string())
}

/// "1 process", "3 processes".
pub fn processes(count: usize) -> String {
    if count == 1 { "1 process".to_owned() } else { format!("{count} processes") }
}
