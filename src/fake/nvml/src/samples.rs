//! Samples of what a GPU did lately, one for each tenth of a second.

use crate::edge::Out;
use crate::library::{Device, machine};
use std::ffi::c_void;
use std::time::{SystemTime, UNIX_EPOCH};
use vcuda_driver::result::{NvmlError, NvmlResult};
use vcuda_fake_machine::now_ns;

/// Kinds of samples that there are here.
const GPU_UTILISATION: u32 = 1;
const MEMORY_UTILISATION: u32 = 2;
/// The type of the values: whole numbers without a sign.
const UNSIGNED: u32 = 1;
const HALF_A_SAMPLE_US: u64 = 50_000;
/// Samples that are kept.
const KEPT: usize = 120;

/// One sample: when, in microseconds of the wall clock, and how much.
#[repr(C)]
#[derive(Clone, Copy)]
struct Sample {
    time_us: u64,
    value: u64,
}

/// Microseconds of the wall clock at a time of the machine's.
pub fn wall_clock_us(time_ns: u64) -> u64 {
    let now_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64);
    now_us.saturating_sub(now_ns().saturating_sub(time_ns) / 1000)
}

pub fn get(
    device: Device,
    kind: u32,
    last_seen_us: u64,
    value_type: Out<u32>,
    count: Out<u32>,
    room: *mut c_void,
) -> NvmlResult {
    let part = match kind {
        GPU_UTILISATION => 1,
        MEMORY_UTILISATION => 2,
        _ => return Err(NvmlError::NOT_SUPPORTED),
    };
    value_type.set(UNSIGNED);
    let Some(room) = Out::at(room.cast::<Sample>()) else {
        count.set(KEPT as u32);
        return Ok(());
    };
    let utilisation = machine()?.timeline(|timeline| timeline.utilisation(device.index, KEPT));
    let samples = utilisation
        .into_iter()
        .map(|slot| Sample { time_us: wall_clock_us(slot.end_ns), value: u64::from(slot.percent / part) });
    // The two clocks don't go quite alike: the sample last seen may seem to be from a little later now.
    let newer = samples.filter(|sample| sample.time_us > last_seen_us.saturating_add(HALF_A_SAMPLE_US));
    let newer = newer.take(count.get() as usize);
    let mut given = 0;
    for (index, sample) in newer.enumerate() {
        room.set_at(index, sample);
        given = index as u32 + 1;
    }
    count.set(given);
    if given == 0 { Err(NvmlError::NOT_FOUND) } else { Ok(()) }
}
