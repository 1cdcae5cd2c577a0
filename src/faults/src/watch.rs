//! Hearing of faults when they happen: the events of the driver's management library.
//!
//! Owns what is registered with the library and whom an event concerns. nvml-wrapper gives its events without the MIG
//! instance, and frees a set of events with which one GPU could not be registered; the calls for that are made here, and
//! nothing else is.
#![allow(unsafe_code)]

use std::ops::ControlFlow;
use std::ptr;

use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::error::{NvmlError, nvml_sym, nvml_try};
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlEventData_t, nvmlEventSet_t};
use vcuda_core::device::Uuid;

use crate::xid;

/// How long one wait is: nobody is asked whether to go on any sooner.
const WAIT_MS: u32 = 500;
/// After so many waits it is looked whether there are other GPUs.
const WAITS_TO_A_LOOK: u32 = 60;
/// Where an event is not a MIG instance's.
const NO_INSTANCE: u32 = u32::MAX;

/// What there is to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Faults of these GPUs are heard of from now on.
    Begun {
        /// The GPUs.
        gpus: Vec<Uuid>,
        /// What is wrong with the others.
        others: Vec<String>,
    },
    /// Something happened.
    Event(Event),
    /// Nothing in this half second.
    Nothing,
}

/// Something that the driver told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The GPU.
    pub gpu: Uuid,
    /// Whom it concerns: the GPU, or those of its MIG instances that it was said of.
    pub devices: Vec<Uuid>,
    /// What it was. The library's own event for double-bit ECC errors has the number that it has as an XID.
    pub xid: u64,
    /// Whether it came as an XID.
    pub is_xid: bool,
}

/// Tells of what happens to GPUs until `tell` says that it is enough, or there are other GPUs than in the beginning.
///
/// # Errors
/// Those of the library, after which it is best opened anew.
pub fn watch(library: &Nvml, mut tell: impl FnMut(Told) -> ControlFlow<()>) -> Result<(), NvmlError> {
    let set = Set::new(library)?;
    let count = library.device_count()?;
    let mut watched = Vec::new();
    let mut missing: Vec<u32> = (0..count).collect();
    let mut waits: u32 = 0;
    loop {
        if waits.is_multiple_of(WAITS_TO_A_LOOK) {
            if library.device_count()? != count {
                return Ok(());
            }
            let before = watched.len();
            let mut others = Vec::new();
            missing.retain(|index| match set.register(*index) {
                Ok(gpu) => {
                    watched.push(gpu);
                    false
                }
                Err(NvmlError::NotSupported) => {
                    others.push(format!("the driver does not tell of faults of GPU {index}"));
                    true
                }
                Err(error) => {
                    others.push(format!("the driver says of GPU {index}: {error}"));
                    true
                }
            });
            let gpus = watched.iter().map(|gpu| gpu.uuid).collect();
            let is_new = waits == 0 || watched.len() > before;
            if is_new && tell(Told::Begun { gpus, others }).is_break() {
                return Ok(());
            }
        }
        let told = set.wait(&watched)?;
        waits = waits.wrapping_add(1);
        if tell(told).is_break() {
            return Ok(());
        }
    }
}

/// A GPU that is heard of.
struct Watched {
    handle: nvmlDevice_t,
    uuid: Uuid,
}

/// The library's set of events.
struct Set<'library> {
    library: &'library Nvml,
    set: nvmlEventSet_t,
}

impl<'library> Set<'library> {
    fn new(library: &'library Nvml) -> Result<Self, NvmlError> {
        let create = nvml_sym(library.lib().nvmlEventSetCreate.as_ref())?;
        let mut set = ptr::null_mut();
        // SAFETY: the library is open, and writes one handle.
        nvml_try(unsafe { create(&raw mut set) })?;
        Ok(Self { library, set })
    }

    /// Has the library tell of one GPU.
    fn register(&self, index: u32) -> Result<Watched, NvmlError> {
        let wanted = EventTypes::CRITICAL_XID_ERROR | EventTypes::DOUBLE_BIT_ECC_ERROR;
        let device = self.library.device_by_index(index)?;
        let uuid = uuid_of(&device)?;
        let kinds = device.supported_event_types()? & wanted;
        if kinds.is_empty() {
            return Err(NvmlError::NotSupported);
        }
        let register = nvml_sym(self.library.lib().nvmlDeviceRegisterEvents.as_ref())?;
        // SAFETY: the handle is used while the library is open, which is as long as it is valid.
        let handle = unsafe { device.handle() };
        // SAFETY: the library is open; the GPU and the set are its own.
        nvml_try(unsafe { register(handle, kinds.bits(), self.set) })?;
        Ok(Watched { handle, uuid })
    }

    /// What happens in the next half second, at once when it does.
    fn wait(&self, watched: &[Watched]) -> Result<Told, NvmlError> {
        let wait = nvml_sym(self.library.lib().nvmlEventSetWait_v2.as_ref())?;
        let mut data = nvmlEventData_t {
            device: ptr::null_mut(),
            eventType: 0,
            eventData: 0,
            gpuInstanceId: NO_INSTANCE,
            computeInstanceId: NO_INSTANCE,
        };
        // SAFETY: the library is open, the set its own; it writes one event.
        match nvml_try(unsafe { wait(self.set, &raw mut data, WAIT_MS) }) {
            Err(NvmlError::Timeout) => return Ok(Told::Nothing),
            waited => waited?,
        }
        let is_xid = EventTypes::from_bits_truncate(data.eventType).contains(EventTypes::CRITICAL_XID_ERROR);
        let xid = if is_xid { data.eventData } else { xid::DOUBLE_BIT_ECC };
        // The library names what was registered with it.
        let gpu = watched.iter().find(|gpu| gpu.handle == data.device).ok_or(NvmlError::Unknown)?;
        let (of_gpu, of_compute) = (data.gpuInstanceId, data.computeInstanceId);
        let instances =
            if of_gpu == NO_INSTANCE { Vec::new() } else { self.instances(gpu).unwrap_or_default() };
        let devices = concerned(gpu.uuid, of_gpu, of_compute, &instances);
        Ok(Told::Event(Event { gpu: gpu.uuid, devices, xid, is_xid }))
    }

    /// The MIG instances of a GPU, as they are now.
    fn instances(&self, gpu: &Watched) -> Result<Vec<Instance>, NvmlError> {
        let library = self.library.lib();
        let gpu_instance = nvml_sym(library.nvmlDeviceGetGpuInstanceId.as_ref())?;
        let compute_instance = nvml_sym(library.nvmlDeviceGetComputeInstanceId.as_ref())?;
        // SAFETY: the handle is of this library, which is open.
        let device = unsafe { Device::new(gpu.handle, self.library) };
        let places =
            (0..device.mig_device_count()?).filter_map(|place| device.mig_device_by_index(place).ok());
        let describe = |instance: Device<'_>| {
            let (mut of_gpu, mut of_compute) = (NO_INSTANCE, NO_INSTANCE);
            // SAFETY: as above.
            let handle = unsafe { instance.handle() };
            // SAFETY: the library is open and writes one number.
            nvml_try(unsafe { gpu_instance(handle, &raw mut of_gpu) })?;
            // SAFETY: as above.
            nvml_try(unsafe { compute_instance(handle, &raw mut of_compute) })?;
            Ok(Instance { uuid: uuid_of(&instance)?, of_gpu, of_compute })
        };
        places.map(describe).collect()
    }
}

impl Drop for Set<'_> {
    fn drop(&mut self) {
        if let Ok(free) = &self.library.lib().nvmlEventSetFree {
            // SAFETY: the library is open, and nobody else has the set.
            unsafe { free(self.set) };
        }
    }
}

/// A MIG instance, and the numbers that events name it by.
#[derive(Clone, Debug)]
struct Instance {
    uuid: Uuid,
    of_gpu: u32,
    of_compute: u32,
}

/// Whom an event concerns: the MIG instances that it names, or the whole GPU where it names none or none that is there.
fn concerned(gpu: Uuid, of_gpu: u32, of_compute: u32, instances: &[Instance]) -> Vec<Uuid> {
    let is_named = |instance: &&Instance| {
        of_gpu != NO_INSTANCE
            && instance.of_gpu == of_gpu
            && (of_compute == NO_INSTANCE || instance.of_compute == of_compute)
    };
    let named: Vec<Uuid> = instances.iter().filter(is_named).map(|instance| instance.uuid).collect();
    if named.is_empty() { vec![gpu] } else { named }
}

fn uuid_of(device: &Device<'_>) -> Result<Uuid, NvmlError> {
    device.uuid()?.parse().map_err(|_| NvmlError::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_concerns_the_instances_that_it_names_or_the_whole_gpu() {
        let gpu = Uuid::gpu([1; 16]);
        let instance =
            |number: u8, of_gpu, of_compute| Instance { uuid: Uuid::mig([number; 16]), of_gpu, of_compute };
        let instances = [instance(10, 1, 0), instance(11, 1, 1), instance(20, 2, 0)];
        let of = |of_gpu, of_compute| concerned(gpu, of_gpu, of_compute, &instances);
        assert_eq!(of(1, 1), [instances[1].uuid]);
        assert_eq!(of(2, 0), [instances[2].uuid]);
        assert_eq!(of(1, NO_INSTANCE), [instances[0].uuid, instances[1].uuid], "all of a GPU instance");
        assert_eq!(of(NO_INSTANCE, NO_INSTANCE), [gpu]);
        assert_eq!(of(NO_INSTANCE, 0), [gpu]);
        assert_eq!(of(7, 0), [gpu], "one that is gone");
        assert_eq!(concerned(gpu, 1, 0, &[]), [gpu], "a GPU that is whole, or does not tell of its parts");
    }
}
