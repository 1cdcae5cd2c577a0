//! Since when a GPU's state may be what it is: the machine's start, and the driver's.
//!
//! Both make a GPU anew, so that a fault of before is over; if it is not, the driver tells of it again. A GPU that was reset
//! alone leaves no trace that could be told from one that was not.

use std::fs;
use std::os::unix::fs::MetadataExt;

/// Differs after each start of the machine.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";
/// The kernel's entry of the loaded driver. Its inode is never given to another one of the same boot.
const DRIVER: &str = "/sys/module/nvidia";

/// One start of the machine and of its driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Era {
    /// The kernel's name for the machine's start.
    pub boot: Option<String>,
    /// A number for the driver's start, no other one's until the machine starts anew.
    pub driver: Option<u64>,
}

impl Era {
    /// This one.
    pub fn now() -> Self {
        Self {
            boot: fs::read_to_string(BOOT).ok().map(|text| text.trim().to_owned()),
            driver: fs::metadata(DRIVER).ok().map(|entry| entry.ino()),
        }
    }

    /// What has begun anew between this one and `now`, if anything has for certain.
    pub fn ended_before(&self, now: &Self) -> Option<&'static str> {
        let differs = |before: bool, after: bool, is_same: bool| before && after && !is_same;
        if differs(self.boot.is_some(), now.boot.is_some(), self.boot == now.boot) {
            Some("the machine was started anew")
        } else if differs(self.driver.is_some(), now.driver.is_some(), self.driver == now.driver) {
            Some("the driver was loaded anew")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_twice_can_differ() {
        let era = |boot: Option<&str>, driver| Era { boot: boot.map(str::to_owned), driver };
        let whole = era(Some("a"), Some(1));
        assert_eq!(whole.ended_before(&whole.clone()), None);
        assert_eq!(
            whole.ended_before(&era(Some("b"), Some(1))),
            Some("the machine was started anew"),
            "inodes of two boots say nothing"
        );
        assert_eq!(whole.ended_before(&era(Some("a"), Some(2))), Some("the driver was loaded anew"));
        for other in [era(None, Some(1)), era(Some("a"), None), era(None, None)] {
            assert_eq!(whole.ended_before(&other), None, "{other:?}");
            assert_eq!(other.ended_before(&whole), None, "{other:?}");
        }
    }

    #[test]
    fn this_machine_has_a_name_for_its_start() {
        assert_eq!(Era::now().boot.unwrap().len(), 36);
        assert_eq!(Era::now(), Era::now());
    }
}
