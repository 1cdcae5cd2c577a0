//! What XIDs mean, as far as it is well known, and which of them are a program's own doing.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// An error in memory that could not be corrected, of which the driver also tells by a kind of event of its own.
pub const DOUBLE_BIT_ECC: u64 = 48;

/// What to do about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// A reset of the GPU is enough.
    Reset,
    /// The same, which can wait until nobody uses the GPU: whoever does is not at risk.
    ResetWhenIdle,
    /// Only a start of the whole machine helps.
    Restart,
    /// Nothing that would always help is known.
    Look,
}

impl Remedy {
    /// What an admin does, as the beginning of a sentence.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Reset => {
                "End what runs on it and reset it (nvidia-smi --gpu-reset), or restart the machine; have the GPU looked at if \
                 it comes again"
            }
            Self::ResetWhenIdle => {
                "When nobody uses it any more, reset it (nvidia-smi --gpu-reset), or restart the machine"
            }
            Self::Restart => {
                "Restart the machine, by power if that is not enough; have the GPU's seat, power and cooling looked at if it \
                 comes again"
            }
            Self::Look => {
                "See the kernel's log (dmesg) and NVIDIA's catalog of XIDs; a restart of the machine makes the GPU anew"
            }
        }
    }
}

/// In a few words what an XID means, and what to do about it.
pub fn meaning(xid: u64) -> (&'static str, Remedy) {
    use Remedy::{Look, Reset, ResetWhenIdle, Restart};
    match xid {
        13 => ("an exception of the graphics engine", Look),
        31 => ("an access to memory that is not there", Look),
        43 => ("the GPU stopped processing", Look),
        45 => ("cleaned up after an earlier error", Look),
        46 => ("the GPU stopped processing", Reset),
        DOUBLE_BIT_ECC => ("a double-bit ECC error: memory could not be corrected", Reset),
        61 | 62 => ("the GPU's own controller has halted", Reset),
        63 => ("a bad row of memory is to be remapped, or a bad page retired", ResetWhenIdle),
        64 => ("a bad row of memory could not be remapped, or a bad page not retired", Reset),
        68 => ("an exception of the video processor", Look),
        74 => ("an error of NVLink", Reset),
        79 => ("the GPU has fallen off the bus", Restart),
        92 => ("many single-bit ECC errors", Look),
        94 => ("an ECC error that was contained: only the program that met it ended", ResetWhenIdle),
        95 => ("an ECC error that was not contained: any program on the GPU may have met it", Reset),
        109 => ("switching between programs took too long", Look),
        119 => ("the GPU's system processor (GSP) does not answer", Reset),
        120 => ("an error of the GPU's system processor (GSP)", Reset),
        140 => ("an ECC error that was not recovered from", Reset),
        143 => ("the GPU could not be initialised", Restart),
        154 => ("the driver says that the GPU must be recovered", Look),
        _ => ("an error", Look),
    }
}

/// XIDs that take no GPU out of service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// These.
    Some(BTreeSet<u64>),
    /// Whatever the driver tells of.
    All,
}

impl Ignored {
    /// What programs bring on themselves, by NVIDIA's device plugin: exceptions of engines (13, 68), memory that is not
    /// there (31), a program that was stopped (43, 45), and one that does not let others have their turn (109).
    pub const DEFAULT: &str = "13,31,43,45,68,109";

    /// Whether this XID is one of them.
    pub fn contains(&self, xid: u64) -> bool {
        match self {
            Self::Some(some) => some.contains(&xid),
            Self::All => true,
        }
    }
}

impl FromStr for Ignored {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "all" => return Ok(Self::All),
            "none" => return Ok(Self::Some(BTreeSet::new())),
            _ => {}
        }
        let number = |part: &str| {
            part.trim().parse().map_err(|_| {
                format!(
                    "{part:?} is no XID; write numbers with commas between, such as {}, or none, or all",
                    Self::DEFAULT
                )
            })
        };
        text.split(',').map(number).collect::<Result<_, _>>().map(Self::Some)
    }
}

impl fmt::Display for Ignored {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => write!(formatter, "all"),
            Self::Some(some) if some.is_empty() => write!(formatter, "none"),
            Self::Some(some) => {
                let numbers: Vec<String> = some.iter().map(u64::to_string).collect();
                write!(formatter, "{}", numbers.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_ignored_by_default_is_programs_doing() {
        let ignored: Ignored = Ignored::DEFAULT.parse().unwrap();
        for xid in [13, 31, 43, 45, 68, 109] {
            assert!(ignored.contains(xid), "{xid}");
        }
        for xid in [48, 63, 64, 74, 79, 94, 95, 119, 120, 999] {
            assert!(!ignored.contains(xid), "{xid}");
        }
    }

    #[test]
    fn other_words_are_told_what_to_write() {
        assert!("all".parse::<Ignored>().unwrap().contains(79));
        assert!(!"none".parse::<Ignored>().unwrap().contains(13));
        assert_eq!(" 13, 31 ".parse(), Ok(Ignored::Some([13, 31].into())));
        for wrong in ["", "13,", "xid13", "-1", "none,13"] {
            let error = wrong.parse::<Ignored>().expect_err(wrong);
            assert!(error.contains("13,31,43,45,68,109, or none, or all"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn lists_are_read_as_they_are_written(some: BTreeSet<u64>) {
            let ignored = Ignored::Some(some);
            prop_assert_eq!(ignored.to_string().parse(), Ok(ignored));
        }
    }
}
