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
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use vcuda_core::arbiter::Tenant;
use vcuda_core::arbiter::words::{Arbiter, Terms};
use vcuda_core::compute::{ComputeAccount, ComputeWords};
use vcuda_core::control::Control;
use vcuda_core::device::DeviceIndex;
use vcuda_core::share::Share;
use vcuda_core::sharing::{Priority, Sharing, Weight};
use vcuda_driver::cuda::types::CUcontext;
use vcuda_driver::result::CUresult;
use vcuda_limiter::cost::Unit;
use vcuda_limiter::machine::Machine;
use vcuda_limiter::meter::{Meter, Shared, StreamOf};

/// A stream's time line.
pub type Stream = StreamOf<Gpu>;

/// The words shared with the container's other processes, and those shared with other containers.
pub struct Words {
    account: ComputeAccount,
    arbiter: Option<(Arc<Control>, DeviceIndex)>,
    told: AtomicBool,
    told_of_arbiter: AtomicBool,
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

    fn arbiter(&self) -> Option<&Arbiter> {
        let (control, device) = self.arbiter.as_ref()?;
        let arbiter = control.arbiter(*device);
        if let Err(lost) = &arbiter
            && !self.told_of_arbiter.swap(true, Ordering::Relaxed)
        {
            log::error!("arbiter file {lost}; this program takes no turns with other containers from now on");
        }
        arbiter.ok()
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
    /// Holds the container to `share` of a device, if there is one, and shares the device as told with the other containers
    /// of `arbiter`.
    pub fn new(
        account: ComputeAccount,
        control: &Control,
        arbiter: Option<(Arc<Control>, DeviceIndex)>,
        share: Option<Share>,
        sharing: Sharing,
    ) -> Pace {
        let tenant = arbiter.is_some().then(|| Tenant::new(control.generation(), terms(share, sharing)));
        let told = AtomicBool::new(false);
        let words = Words { account, arbiter, told, told_of_arbiter: AtomicBool::new(false) };
        words.words().set_share_ppm(share.unwrap_or(Share::WHOLE).ppm());
        words.words().set_sharing(Some(sharing));
        if let (Some(tenant), Some(arbiter)) = (&tenant, words.arbiter()) {
            tenant.enter(arbiter, Gpu.now_ns());
        }
        let most = most(share, sharing, tenant.is_some());
        Pace {
            meter: Meter::of_tenant(words, most.ppm(), tenant),
            sharing: AtomicU64::new(sharing.to_word()),
            primary_context: AtomicU64::new(0),
        }
    }

    /// Another share and another way to share from now on; without a share all of the time is the container's, and is
    /// measured as before.
    pub fn set(&self, share: Option<Share>, sharing: Option<Sharing>) {
        let words = &self.meter.shared;
        if sharing != self.sharing() {
            self.sharing.store(sharing.map_or(0, Sharing::to_word), Ordering::Relaxed);
            words.words().set_sharing(sharing);
            if let Some(sharing) = sharing {
                log::info!("GPU time is shared by {sharing} now");
            }
        }
        let ways = sharing.unwrap_or(Sharing {
            elastic: false,
            weight: Weight::of_share(share),
            priority: Priority::Normal,
        });
        let tenant = self.meter.tenant();
        let most = most(share, ways, tenant.is_some());
        if most.ppm() != self.meter.share_ppm() {
            self.meter.change_share(&Gpu, most.ppm());
            log::info!("the compute limit is {most} now");
        }
        words.words().set_share_ppm(share.unwrap_or(Share::WHOLE).ppm());
        if let Some(tenant) = tenant {
            tenant.set_terms(terms(share, ways));
        }
    }

    /// How the device is shared with others; `None` where nothing is told of its time any more.
    pub fn sharing(&self) -> Option<Sharing> {
        Sharing::from_word(self.sharing.load(Ordering::Relaxed))
    }
}

/// The most that a container may have. Where nobody sees to it that others get theirs an elastic share is as any other.
fn most(share: Option<Share>, sharing: Sharing, takes_turns: bool) -> Share {
    share.filter(|_| !(sharing.elastic && takes_turns)).unwrap_or(Share::WHOLE)
}

/// A share as the arbiter takes it.
fn terms(share: Option<Share>, sharing: Sharing) -> Terms {
    Terms {
        weight: sharing.weight.get() as u16,
        share_ppm: share.map_or(0, Share::ppm),
        is_high: sharing.priority == Priority::High,
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

/// Others that share the devices should know for how long these are busy.
fn about_to_wait() {
    for pace in slice::started().into_iter().flat_map(|slice| slice.paces()) {
        pace.meter.about_to_wait(&Gpu);
    }
}

/// The program waits for a stream: what is done then is measured, for free.
pub fn synchronize(stream: StreamName, driver: impl FnOnce() -> CUresult) -> CUresult {
    about_to_wait();
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
    about_to_wait();
    driver()?;
    for pace in slice::started().into_iter().flat_map(|slice| slice.paces()) {
        pace.meter.has_waited(&Gpu);
    }
    Ok(())
}

/// A context is about to go: nothing of it is touched from now on.
pub fn forget_context(slice: &Slice, context: CUcontext) {
    slice.streams.forget(slice, |place| place.context == context);
    events::forget_context(context);
}
