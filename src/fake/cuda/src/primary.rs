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
    /// Its handle, the same for good; 0 while it was never retained.
    handle: usize,
    retained: u64,
    flags: u32,
}

impl Primary {
    /// None yet.
    pub const fn new() -> Primary {
        Primary { handle: 0, retained: 0, flags: 0 }
    }

    fn context(&self) -> Option<&'static Context> {
        CONTEXTS.get(self.handle).filter(|context| context.is_alive())
    }

    fn end(&mut self) {
        if let Some(context) = self.context() {
            context.destroy();
        }
    }
}

/// The device's primary context, brought to life if it isn't.
pub fn retained(device: &Device) -> Result<&'static Context, CUerror> {
    let mut primary = device.primary.lock();
    let context = match CONTEXTS.get(primary.handle) {
        Some(context) => context,
        None => {
            let context = Context::create_primary_handle()?;
            primary.handle = handle_of(context);
            context
        }
    };
    if !context.is_alive() {
        context.open_primary(device, primary.flags)?;
    }
    primary.retained += 1;
    Ok(context)
}

/// Gives up one retaining of the device's primary context.
pub fn released(device: &Device) -> CUresult {
    let mut primary = device.primary.lock();
    primary.retained = primary.retained.checked_sub(1).ok_or(CUerror::INVALID_CONTEXT)?;
    if primary.retained == 0 {
        primary.end();
    }
    Ok(())
}

/// As `released`, for a green context that lived within it.
pub fn give_up_green(device: &Device) -> CUresult {
    if let Some(context) = device.primary.lock().context() {
        context.holdings.lock().greens -= 1;
    }
    released(device)
}

pub fn retain(out: Out<CUcontext>, device: CUdevice) -> CUresult {
    out.set(retained(driver().device(device)?)?.handle());
    Ok(())
}

pub fn release(device: CUdevice) -> CUresult {
    released(driver().device(device)?)
}

/// Ends the context; whoever retained it still does, and finds it destroyed until it is retained again.
pub fn reset(device: CUdevice) -> CUresult {
    driver().device(device)?.primary.lock().end();
    Ok(())
}

pub fn get_state(device: CUdevice, flags: Out<u32>, is_active: Out<i32>) -> CUresult {
    let primary = driver().device(device)?.primary.lock();
    flags.set(primary.flags);
    is_active.set(i32::from(primary.context().is_some()));
    Ok(())
}

pub fn set_flags(device: CUdevice, flags: u32) -> CUresult {
    if flags & !0xff != 0 {
        return Err(CUerror::INVALID_VALUE);
    }
    let mut primary = driver().device(device)?.primary.lock();
    primary.flags = flags;
    if let Some(context) = primary.context() {
        context.flags.store(flags, Relaxed);
    }
    Ok(())
}
