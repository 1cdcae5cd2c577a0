//! The driver of this process once `cuInit` succeeded: its place in the machine and the devices that the
//! program may see.

use crate::device::{self, Device};
use crate::settings::settings;
use crate::{gate, settings};
use parking_lot::Mutex;
use std::sync::OnceLock;
use vcuda_driver::result::{CUerror, CUresult};
use vcuda_fake_machine::{Machine, Member, OBSTACLE_UNCOUNTED};

/// Memory that initialising takes of each visible device, put down to no process.
const INITIAL_BYTES: u64 = 53 << 16;

/// The initialised driver.
pub struct Driver {
    pub member: Member,
    pub devices: Vec<Device>,
}

static DRIVER: OnceLock<Driver> = OnceLock::new();

/// The initialised driver. Only bodies of functions that the gate lets through after `cuInit` get here.
#[inline]
pub fn driver() -> &'static Driver {
    DRIVER.get().expect("the gate opens after cuInit only")
}

/// `cuInit`.
pub fn initialise(flags: u32) -> CUresult {
    static INITIALISING: Mutex<()> = Mutex::new(());
    if gate::is_forked() {
        return Err(CUerror::NOT_INITIALIZED);
    }
    if flags != 0 {
        return Err(CUerror::INVALID_VALUE);
    }
    let _initialising = INITIALISING.lock();
    if DRIVER.get().is_some() {
        return Ok(());
    }
    let member = Machine::from_environment().and_then(Machine::join).map_err(|error| {
        eprintln!("simulated driver: {error}");
        CUerror::NO_DEVICE
    })?;
    let devices = device::visible(&member, settings().visible_devices.as_deref());
    if devices.is_empty() {
        return Err(CUerror::NO_DEVICE);
    }
    member.set_obstacle(OBSTACLE_UNCOUNTED, settings().is_null);
    for device in &devices {
        let initial = vcuda_fake_machine::Bytes { device: INITIAL_BYTES, process: 0 };
        member.take(device.gpu, initial).map_err(|_| CUerror::OUT_OF_MEMORY)?;
    }
    if DRIVER.set(Driver { member, devices }).is_ok() {
        gate::open();
    }
    Ok(())
}

/// `cuDriverGetVersion`.
pub fn version(version: crate::edge::Out<i32>) -> CUresult {
    version.set(settings::settings().driver_version as i32);
    Ok(())
}

impl Driver {
    /// The device of the program's own number.
    pub fn device(&self, ordinal: i32) -> Result<&Device, CUerror> {
        usize::try_from(ordinal)
            .ok()
            .and_then(|ordinal| self.devices.get(ordinal))
            .ok_or(CUerror::INVALID_DEVICE)
    }
}
