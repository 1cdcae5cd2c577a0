//! Primary contexts: the one per device that the runtime API and others share, counted by who retains it.

use crate::context::{CONTEXTS, Context};
use crate::device::Device;
use crate::driver::driver;
use crate::edge::Out;
use crate::slab::handle_of;
use std::sync::atomic::Ordering::Relaxed;
use vcuda_driver::cuda::types::{CUcontext, CUdevice};
use vcuda_driver::result::{CUerror, CUresult};

/// A device's primary context.
pub struct Primary {
    /// Its handle; 0 while there is none.
    handle: usize,
    retained: u64,
    flags: u32,
}

impl Primary {
    /// None yet.
    pub const fn new() -> Primary {
        Primary { handle: 0, retained: 0, flags: 0 }
    }

    fn end(&mut self) {
        self.retained = 0;
        if let Some(context) = CONTEXTS.get(std::mem::take(&mut self.handle)) {
            context.destroy();
        }
    }
}

/// The device's primary context, made if there is none.
pub fn retained(device: &Device) -> Result<&'static Context, CUerror> {
    let mut primary = device.primary.lock();
    let context = match CONTEXTS.get(primary.handle) {
        Some(context) => context,
        None => {
            let context = Context::create(device, primary.flags)?;
            primary.handle = handle_of(context);
            context
        }
    };
    primary.retained += 1;
    Ok(context)
}

/// Whether a context is its device's primary one.
pub fn is_primary(context: &Context) -> bool {
    context.device().primary.lock().handle == handle_of(context)
}

pub fn retain(out: Out<CUcontext>, device: CUdevice) -> CUresult {
    out.set(retained(driver().device(device)?)?.handle());
    Ok(())
}

pub fn release(device: CUdevice) -> CUresult {
    let mut primary = driver().device(device)?.primary.lock();
    primary.retained = primary.retained.checked_sub(1).ok_or(CUerror::INVALID_CONTEXT)?;
    if primary.retained == 0 {
        primary.end();
    }
    Ok(())
}

pub fn reset(device: CUdevice) -> CUresult {
    driver().device(device)?.primary.lock().end();
    Ok(())
}

pub fn get_state(device: CUdevice, flags: Out<u32>, is_active: Out<i32>) -> CUresult {
    let primary = driver().device(device)?.primary.lock();
    flags.set(primary.flags);
    is_active.set(i32::from(primary.handle != 0));
    Ok(())
}

pub fn set_flags(device: CUdevice, flags: u32) -> CUresult {
    if flags & !0xff != 0 {
        return Err(CUerror::INVALID_VALUE);
    }
    let mut primary = driver().device(device)?.primary.lock();
    primary.flags = flags;
    if let Some(context) = CONTEXTS.get(primary.handle) {
        context.flags.store(flags, Relaxed);
    }
    Ok(())
}
