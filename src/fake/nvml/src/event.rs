//! Events: sets of what is waited for, and what happened to the machine's GPUs since.

use crate::edge::{FromC, Out};
use crate::library::{Device, machine};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use vcuda_driver::nvml::types::*;
use vcuda_driver::result::{NvmlError, NvmlResult};
use vcuda_fake_machine::Incident;

/// What is told of here.
const SUPPORTED: u64 =
    nvmlEventTypeSingleBitEccError | nvmlEventTypeDoubleBitEccError | nvmlEventTypeXidCriticalError;

/// Kinds of events by GPU, and how many incidents of the machine were looked at.
#[derive(Default)]
struct Set {
    kinds: BTreeMap<usize, u64>,
    seen: u64,
}

static SETS: Mutex<BTreeMap<usize, Set>> = Mutex::new(BTreeMap::new());

/// The key of a set that was made and not freed.
pub struct Known(usize);

impl FromC<nvmlEventSet_t> for Known {
    unsafe fn from_c(value: nvmlEventSet_t) -> Result<Known, NvmlError> {
        if SETS.lock().contains_key(&value.0) { Ok(Known(value.0)) } else { Err(NvmlError::INVALID_ARGUMENT) }
    }
}

pub fn supported(_device: Device, out: Out<u64>) -> NvmlResult {
    out.set(SUPPORTED);
    Ok(())
}

pub fn create(out: Out<nvmlEventSet_t>) -> NvmlResult {
    let mut sets = SETS.lock();
    let key = sets.last_key_value().map_or(1, |(last, _)| last + 1);
    sets.insert(key, Set { seen: machine()?.incident_count(), ..Set::default() });
    out.set(nvmlEventSet_t(key));
    Ok(())
}

pub fn register(device: Device, kinds: u64, set: Known) -> NvmlResult {
    device.gpu()?;
    if kinds & !SUPPORTED != 0 {
        return Err(NvmlError::NOT_SUPPORTED);
    }
    if let Some(set) = SETS.lock().get_mut(&set.0) {
        *set.kinds.entry(device.index).or_default() |= kinds;
    }
    Ok(())
}

pub fn free(set: Known) -> NvmlResult {
    SETS.lock().remove(&set.0);
    Ok(())
}

/// As every driver has it since MIG: with the instances.
pub fn wait(set: Known, out: Out<nvmlEventData_t>, timeout_ms: u32) -> NvmlResult {
    let end = Instant::now() + Duration::from_millis(timeout_ms.into());
    loop {
        let seen = match next(set.0)? {
            Next::Event(event) => {
                out.set(event);
                return Ok(());
            }
            Next::None(seen) => seen,
        };
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(NvmlError::TIMEOUT);
        }
        machine()?.wait_for_incident(seen, left);
    }
}

/// What there is for a set.
enum Next {
    Event(nvmlEventData_t),
    /// Nothing beyond so many incidents.
    None(u64),
}

fn next(key: usize) -> Result<Next, NvmlError> {
    let mut sets = SETS.lock();
    // Somebody may have freed it meanwhile.
    let set = sets.get_mut(&key).ok_or(NvmlError::INVALID_ARGUMENT)?;
    while let Some(((scene, incident), seen)) = machine()?.incident_after(set.seen) {
        set.seen = seen;
        let (kind, data) = match incident {
            Incident::Xid(number) => (nvmlEventTypeXidCriticalError, number.into()),
            Incident::DoubleBitEcc => (nvmlEventTypeDoubleBitEccError, 0),
        };
        if set.kinds.get(&scene.gpu).is_some_and(|kinds| kinds & kind != 0) {
            let any = (NVML_INSTANCE_NOT_AVAILABLE, NVML_INSTANCE_NOT_AVAILABLE);
            let instance = scene.instance.map_or(any, |(gpu, compute)| (gpu.into(), compute.into()));
            return Ok(Next::Event(nvmlEventData_t {
                device: Device { index: scene.gpu }.handle(),
                eventType: kind,
                eventData: data,
                gpuInstanceId: instance.0,
                computeInstanceId: instance.1,
            }));
        }
    }
    Ok(Next::None(set.seen))
}
