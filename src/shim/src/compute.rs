//! The compute share of this process's devices: brings the limiter together with the driver.
//!
//! Owns one meter per device of which a share or sharing is told, and the way from a stream's handle to its time line. What is charged,
//! measured and waited for is the limiter's business; how, is in [`events`].

pub mod events;
mod streams;

pub use streams::{DefaultStream, Directory, Legacy, PerThread, Place, StreamName};

use crate::driver;
use crate::log;
use crate::slice::{self, Slice};
use events::Gpu;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use vcuda_core::compute::{ComputeAccount, ComputeWords};
use vcuda_core::share::Share;
use vcuda_core::sharing::Sharing;
use vcuda_driver::cuda::types::CUcontext;
use vcuda_driver::result::CUresult;
use vcuda_limiter::cost::Unit;
use vcuda_limiter::machine::Machine;
use vcuda_limiter::meter::{Meter, Shared, StreamOf};

/// A stream's time line.
pub type Stream = StreamOf<Gpu>;

/// The words shared with the container's other processes.
pub struct Words {
    account: ComputeAccount,
    told: AtomicBool,
}

impl Shared for Words {
    fn words(&self) -> ComputeWords<'_> {
        slice::look_at_limits();
        let (words, lost) = self.account.open();
        if let Some(lost) = lost
            && !self.told.swap(true, Ordering::Relaxed)
        {
            log::error!("control file {lost}; the compute share holds for this process alone from now on");
        }
        words
    }
}

/// A device of whose time something is told: a share, how it is shared with others, or both.
pub struct Pace {
    /// Charges, measures, holds back.
    pub meter: Meter<Gpu, Words>,
    /// How the device is shared with others, as [`Sharing::to_word`] has it; 0 where nothing is told any more.
    sharing: AtomicU64,
    /// The device's primary context, once retained; 0 before.
    pub primary_context: AtomicU64,
}

impl Pace {
    /// Holds the container to `share` of a device, if there is one, and shares the device as told.
    pub fn new(account: ComputeAccount, share: Option<Share>, sharing: Sharing) -> Pace {
        let share_ppm = share.unwrap_or(Share::WHOLE).ppm();
        let words = Words { account, told: AtomicBool::new(false) };
        words.words().set_share_ppm(share_ppm);
        words.words().set_sharing(Some(sharing));
        Pace {
            meter: Meter::new(words, share_ppm),
            sharing: AtomicU64::new(sharing.to_word()),
            primary_context: AtomicU64::new(0),
        }
    }

    /// Another share from now on; without one all of the time is the container's, and is measured as before.
    pub fn set_share(&self, share: Option<Share>) {
        let share = share.unwrap_or(Share::WHOLE);
        if share.ppm() != self.meter.share_ppm() {
            self.meter.change_share(&Gpu, share.ppm());
            log::info!("the compute limit is {share} now");
        }
    }

    /// How the device is shared with others; `None` where nothing is told of its time any more.
    pub fn sharing(&self) -> Option<Sharing> {
        Sharing::from_word(self.sharing.load(Ordering::Relaxed))
    }

    /// Shares the device so from now on.
    pub fn set_sharing(&self, sharing: Option<Sharing>) {
        if sharing == self.sharing() {
            return;
        }
        self.sharing.store(sharing.map_or(0, Sharing::to_word), Ordering::Relaxed);
        self.meter.shared.words().set_sharing(sharing);
        if let Some(sharing) = sharing {
            log::info!("GPU time is shared by {sharing} now");
        }
    }
}

/// Gives work to a stream: `driver` is the program's own call, and `unit` says what it is.
///
/// One function for all kinds of calls: a copy of the limiter for each would double the library.
#[inline(never)]
pub fn submit(
    slice: &'static Slice,
    stream: StreamName,
    unit: Unit,
    driver: &dyn Fn() -> CUresult,
) -> CUresult {
    // What is captured is not run.
    if stream.is_captured() {
        return driver();
    }
    match slice.streams.take(slice, stream) {
        Some(known) => {
            let done = known.pace.meter.submit(&Gpu, &known.stream, unit, driver);
            slice.streams.put_back(known);
            done
        }
        None => driver(),
    }
}

/// As [`submit`], for calls that are rare enough, or take long enough, not to need a body of their own.
pub fn work(stream: StreamName, unit: Unit, driver: &dyn Fn() -> CUresult) -> CUresult {
    match slice::current()? {
        Some(slice) => submit(slice, stream, unit, driver),
        None => driver(),
    }
}

/// The program puts something into a stream that may have to wait: what is measured ends before it.
pub fn interrupt(stream: StreamName, driver: impl FnOnce() -> CUresult) -> CUresult {
    let Some(slice) = slice::current()? else { return driver() };
    if stream.is_captured() {
        return driver();
    }
    if let Some(known) = slice.streams.take(slice, stream) {
        known.pace.meter.interrupt(&Gpu, &known.stream);
        slice.streams.put_back(known);
    }
    driver()
}

/// As [`interrupt`], for all streams of which `is_concerned` says so.
pub fn interrupt_all(is_concerned: impl Fn(&Place) -> bool, driver: impl FnOnce() -> CUresult) -> CUresult {
    let Some(slice) = slice::current()? else { return driver() };
    for (pace, stream) in slice.streams.select(slice, is_concerned) {
        if !stream.stream.is_captured() {
            pace.meter.interrupt(&Gpu, &stream);
        }
    }
    driver()
}

/// The program waits for a stream: what is done then is measured, for free.
pub fn synchronize(stream: StreamName, driver: impl FnOnce() -> CUresult) -> CUresult {
    let called_ns = Gpu.now_ns();
    driver()?;
    if let Some(slice) = slice::started()
        && let Some(known) = slice.streams.take(slice, stream)
    {
        known.pace.meter.synchronized(&Gpu, &known.stream, called_ns);
        slice.streams.put_back(known);
    }
    Ok(())
}

/// The program waits for all streams of a context; null is the current one.
pub fn synchronize_context(context: CUcontext, synchronize: impl FnOnce() -> CUresult) -> CUresult {
    let called_ns = Gpu.now_ns();
    synchronize_somehow(|| {
        synchronize()?;
        let now_ns = Gpu.now_ns();
        if let Some(slice) = slice::started() {
            // A question of our own that fails is no answer to the program's: then nothing is learned.
            let context = match context {
                CUcontext::NULL => driver::current_context().unwrap_or(CUcontext::NULL),
                named => named,
            };
            for (_, stream) in slice.streams.select(slice, |place| place.context == context) {
                stream.line.lock().synchronized(called_ns, now_ns);
            }
        }
        Ok(())
    })
}

/// The program waits for something else than streams.
pub fn synchronize_somehow(driver: impl FnOnce() -> CUresult) -> CUresult {
    driver()?;
    for pace in slice::started().into_iter().flat_map(|slice| slice.paces()) {
        pace.meter.settle(&Gpu);
    }
    Ok(())
}

/// A context is about to go: nothing of it is touched from now on.
pub fn forget_context(slice: &Slice, context: CUcontext) {
    slice.streams.forget(slice, |place| place.context == context);
    events::forget_context(context);
}
