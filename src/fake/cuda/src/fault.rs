//! Faults on demand: `VCUDA_FAKE_FAULTS` names functions by ABI symbol and says at which call each fails or
//! is slow.
//!
//! `cuMemAlloc_v2:3=2;cuMemCreate:*=999;cuLaunchKernel:100+=719;cuCtxCreate_v4:1=sleep:200ms` makes the
//! third `cuMemAlloc_v2` fail with code 2, every `cuMemCreate` with 999, `cuLaunchKernel` from the 100th
//! call on with 719, and the first `cuCtxCreate_v4` take 200 ms longer. The name may be `*`: any function,
//! each counted for itself.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use vcuda_driver::result::{CUerror, CUresult};

/// Which calls of a function, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Calls {
    Only(u64),
    From(u64),
}

/// What happens then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Fail(CUerror),
    Sleep(Duration),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    name: String,
    calls: Calls,
    effect: Effect,
}

fn plans() -> &'static [Plan] {
    static PLANS: OnceLock<Vec<Plan>> = OnceLock::new();
    PLANS.get_or_init(|| {
        let text = std::env::var("VCUDA_FAKE_FAULTS").unwrap_or_default();
        let parts = text.split(';').map(str::trim).filter(|part| !part.is_empty());
        parts.filter_map(|part| parse(part).or_else(|| complain(part))).collect()
    })
}

fn complain(part: &str) -> Option<Plan> {
    eprintln!("simulated driver: VCUDA_FAKE_FAULTS: '{part}' left out; write for example cuMemAlloc_v2:3=2");
    None
}

fn parse(text: &str) -> Option<Plan> {
    let (place, effect) = text.split_once('=')?;
    let (name, calls) = place.split_once(':')?;
    let calls = match (calls, calls.strip_suffix('+')) {
        ("*", _) => Calls::From(1),
        (_, Some(first)) => Calls::From(first.parse().ok()?),
        (only, None) => Calls::Only(only.parse().ok()?),
    };
    let effect = match effect.strip_prefix("sleep:") {
        Some(time) => Effect::Sleep(parse_time(time)?),
        None => Effect::Fail(CUerror::new(effect.parse().ok()?)?),
    };
    Some(Plan { name: name.to_owned(), calls, effect })
}

fn parse_time(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number = number.parse().ok()?;
    match unit {
        "s" => Some(Duration::from_secs(number)),
        "ms" => Some(Duration::from_millis(number)),
        "us" => Some(Duration::from_micros(number)),
        _ => None,
    }
}

/// Whether any fault is planned.
pub fn is_any_planned() -> bool {
    !plans().is_empty()
}

/// One function's calls so far.
pub struct Fault {
    calls: AtomicU64,
}

impl Fault {
    /// None so far.
    pub const fn new() -> Fault {
        Fault { calls: AtomicU64::new(0) }
    }

    /// Counts a call of the function `name` and does to it what is planned.
    pub fn strike(&self, name: &str) -> CUresult {
        let plans = plans();
        if plans.is_empty() {
            return Ok(());
        }
        let call = self.calls.fetch_add(1, Relaxed) + 1;
        for plan in plans {
            let due = match plan.calls {
                Calls::Only(number) => call == number,
                Calls::From(number) => call >= number,
            };
            if !due || (plan.name != name && plan.name != "*") {
                continue;
            }
            match plan.effect {
                Effect::Fail(error) => return Err(error),
                Effect::Sleep(time) => std::thread::sleep(time),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_read() {
        let plan = |text| parse(text).unwrap();
        assert_eq!(plan("cuMemAlloc_v2:3=2").calls, Calls::Only(3));
        assert_eq!(plan("cuMemAlloc_v2:3=2").effect, Effect::Fail(CUerror::OUT_OF_MEMORY));
        assert_eq!(plan("cuMemCreate:*=999").calls, Calls::From(1));
        assert_eq!(plan("cuLaunchKernel:100+=719").calls, Calls::From(100));
        assert_eq!(plan("cuCtxCreate_v4:1=sleep:200ms").effect, Effect::Sleep(Duration::from_millis(200)));
        for bad in ["", "cuInit", "cuInit:1", "cuInit:x=1", "cuInit:1=0", "cuInit:1=sleep:5"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
