//! Where this process stands: unlimited, limited or refused, from its configuration on. Never anything in between: what
//! can't be put into force refuses every call.

use super::{Slice, StartError};
use crate::leaked::Leaked;
use crate::part::Part;
use crate::{driver, fork, log, mode};
use std::cell::Cell;
use vcuda_core::limits::{Limits, LimitsError, LogLevel};
use vcuda_driver::result::CUerror;

/// What a process gets that can't be limited as asked: "operation not permitted".
const REFUSED: CUerror = CUerror::NOT_PERMITTED;

/// Where this process stands.
enum Standing {
    /// Limits are in force.
    Limited(Box<Slice>),
    /// Limits can't be put into force: every call is refused.
    Refused,
}

static STANDING: Leaked<Standing> = Leaked::new();

/// The slice, if this process is limited. `Ok(None)` if it isn't, or if CUDA isn't initialised: then a call
/// is the driver's own affair. An error if limits can't be enforced.
#[inline]
pub fn current() -> Result<Option<&'static Slice>, CUerror> {
    match STANDING.get() {
        Some(Standing::Limited(slice)) if fork::is_owner() => Ok(Some(slice)),
        Some(Standing::Refused) => Err(REFUSED),
        _ => not_started(),
    }
}

/// A hook ran in a process where `cuInit` was not seen: it failed, it never ran, or it ran in a parent.
#[cold]
fn not_started() -> Result<Option<&'static Slice>, CUerror> {
    if driver::devices().is_err() {
        return Ok(None);
    }
    start()?;
    match STANDING.get() {
        Some(Standing::Limited(slice)) => Ok(Some(slice)),
        Some(Standing::Refused) => Err(REFUSED),
        None => Ok(None),
    }
}

/// Puts the limits into force, once the driver is initialised. Does nothing if that is done already.
pub fn start() -> Result<(), CUerror> {
    let seen = STANDING.get();
    match seen {
        Some(Standing::Limited(_)) if fork::is_owner() => return Ok(()),
        Some(Standing::Refused) => return Err(REFUSED),
        _ => {}
    }
    let standing = match configured() {
        Ok(None) => {
            mode::set_unlimited();
            return Ok(());
        }
        Ok(Some(limits)) => {
            fork::take_ownership();
            Slice::new(limits).map(|slice| Standing::Limited(Box::new(slice)))
        }
        Err(error) => Err(StartError::Configuration(error)),
    };
    let standing = standing.unwrap_or_else(|error| {
        log::error!("{error}; CUDA is refused to this process");
        Standing::Refused
    });
    match STANDING.publish(seen, standing) {
        Standing::Limited(slice) => {
            mode::set_limited(slice.paces().next().is_some(), slice.has_idle_release);
            Ok(())
        }
        Standing::Refused => Err(REFUSED),
    }
}

/// Puts limits into force that were changed since, if it is time to look. True if so.
#[inline]
pub fn look_at_limits() -> bool {
    let Some(slice) = started() else { return false };
    let due = slice.parts.iter().filter(|part| part.lookout.is_due());
    due.fold(false, |has_changed, part| has_changed | look_now(slice, part))
}

#[cold]
fn look_now(slice: &Slice, part: &Part) -> bool {
    let has_changed = Cell::new(false);
    let take = |limits: &Limits| {
        slice.take(part, limits)?;
        has_changed.set(true);
        Ok(())
    };
    if let Some(mistake) = part.lookout.look(&take) {
        log::error!("{mistake}; the limits of this program stay as they are");
    }
    has_changed.get()
}

/// The limits as configured: `Ok(None)` if there are none.
pub fn configured() -> Result<Option<&'static Limits>, &'static LimitsError> {
    static CONFIGURED: Leaked<Result<Limits, LimitsError>> = Leaked::new();
    let configured = CONFIGURED.get_or_make(|| {
        let limits = Limits::of_this_process();
        let (level, _) = LogLevel::from_environment(&|name| std::env::var(name).ok());
        log::set_level(level);
        if let Ok(limits) = &limits {
            for warning in &limits.warnings {
                log::warning!("{warning}");
            }
            for note in &limits.notes {
                log::info!("{note}");
            }
        }
        limits
    });
    configured.as_ref().map(|limits| (!limits.is_unlimited()).then_some(limits))
}

/// Whether this process is known to have no limits, before anything of CUDA ran.
pub fn is_unlimited() -> bool {
    let unlimited = matches!(configured(), Ok(None));
    if unlimited {
        mode::set_unlimited();
    }
    unlimited
}

/// Takes over what dead processes of the container left. Returns how many are being torn down just now:
/// dead, but their device memory not all given back.
pub fn reap() -> u32 {
    started().map_or(0, |slice| slice.reap().1)
}

/// The slice, if limits are in force in this process already.
pub fn started() -> Option<&'static Slice> {
    match STANDING.get() {
        Some(Standing::Limited(slice)) if fork::is_owner() => Some(slice),
        _ => None,
    }
}
