//! Who has a fault, and what is said about it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use vcuda_core::device::Uuid;

use crate::era::Era;
use crate::xid::meaning;

/// A GPU's or MIG instance's fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Who has it: a GPU, or a MIG instance where the driver says that only that one is concerned.
    pub device: Uuid,
    /// The GPU itself.
    pub gpu: Uuid,
    /// What the driver told of, each once, in the order of time. Empty where what was remembered can't be read.
    pub xids: Vec<u64>,
    /// When the first of them was, in seconds after 1970.
    pub since_seconds: u64,
    /// In which start of machine and driver.
    pub era: Era,
    /// Why what was remembered can't be read, if so.
    pub unreadable: Option<String>,
}

impl Fault {
    /// XIDs that are remembered of one fault. The first ones tell what it is.
    pub(crate) const MOST_XIDS: usize = 16;

    /// The XID that is why.
    pub fn xid(&self) -> Option<u64> {
        self.xids.first().copied()
    }

    /// What it is, and what an admin does about it.
    pub fn trouble(&self) -> String {
        let device = self.device;
        let Some((&first, later)) = self.xids.split_first() else {
            let why = self.unreadable.as_deref().unwrap_or("it is empty");
            return format!(
                "a fault is remembered that can't be read: {why}. Once the GPU is well, declare it so: vcuda-node \
                 --declare-well {device}"
            );
        };
        let (what, remedy) = meaning(first);
        let then: String = later.iter().map(|xid| format!(", then XID {xid}")).collect();
        let at = UNIX_EPOCH.checked_add(Duration::from_secs(self.since_seconds)).unwrap_or(UNIX_EPOCH);
        format!(
            "XID {first}, {what}, at {}{then}. {}. After a restart of the machine or of the driver it counts as well; after \
             anything else, declare it so: vcuda-node --declare-well {device}",
            humantime::format_rfc3339_seconds(at),
            remedy.text(),
        )
    }
}

/// All faults, by who has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(BTreeMap<Uuid, Fault>);

impl Faults {
    /// Why a device is not to be used: a fault of its own, or of the GPU that it is a part of.
    pub fn of(&self, device: Uuid, parent: Option<Uuid>) -> Option<&Fault> {
        self.0.get(&device).or_else(|| self.0.get(&parent?))
    }

    /// Whether a GPU and all of its parts are free of faults.
    pub fn is_well(&self, gpu: Uuid) -> bool {
        self.iter().all(|fault| fault.gpu != gpu && fault.device != gpu)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.values()
    }

    /// Adds others, each in the place of what the same device had.
    pub fn extend(&mut self, others: &Self) {
        self.0.extend(others.0.iter().map(|(device, fault)| (*device, fault.clone())));
    }

    pub(crate) fn get(&self, device: Uuid) -> Option<&Fault> {
        self.0.get(&device)
    }

    pub(crate) fn insert(&mut self, fault: Fault) {
        self.0.insert(fault.device, fault);
    }

    pub(crate) fn remove(&mut self, device: Uuid) {
        self.0.remove(&device);
    }
}

impl FromIterator<Fault> for Faults {
    fn from_iter<I: IntoIterator<Item = Fault>>(faults: I) -> Self {
        Self(faults.into_iter().map(|fault| (fault.device, fault)).collect())
    }
}

/// Now, in seconds after 1970.
pub(crate) fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(device: Uuid, gpu: Uuid, xids: &[u64]) -> Fault {
        Fault {
            device,
            gpu,
            xids: xids.into(),
            since_seconds: 1_764_000_000,
            era: Era::default(),
            unreadable: None,
        }
    }

    #[test]
    fn it_says_what_it_is_and_what_to_do() {
        let gpu = Uuid::gpu([1; 16]);
        let text = fault(gpu, gpu, &[79, 154]).trouble();
        assert_eq!(
            text,
            "XID 79, the GPU has fallen off the bus, at 2025-11-24T16:00:00Z, then XID 154. Restart the machine, by power if \
             that is not enough; have the GPU's seat, power and cooling looked at if it comes again. After a restart of the \
             machine or of the driver it counts as well; after anything else, declare it so: vcuda-node --declare-well \
             GPU-01010101-0101-0101-0101-010101010101"
        );
        assert!(fault(gpu, gpu, &[48]).trouble().starts_with("XID 48, a double-bit ECC error"));
        assert!(fault(gpu, gpu, &[12345]).trouble().starts_with("XID 12345, an error, at"));
        let unreadable = Fault { unreadable: Some("EOF".to_owned()), ..fault(gpu, gpu, &[]) };
        assert!(unreadable.trouble().starts_with("a fault is remembered that can't be read: EOF."));
    }

    #[test]
    fn a_fault_of_a_gpu_is_its_parts_and_one_of_a_part_is_its_own() {
        let (gpu, part, other) = (Uuid::gpu([1; 16]), Uuid::mig([2; 16]), Uuid::mig([3; 16]));
        let of_part: Faults = [fault(part, gpu, &[94])].into_iter().collect();
        assert!(of_part.of(part, Some(gpu)).is_some());
        assert!(of_part.of(other, Some(gpu)).is_none() && of_part.of(gpu, None).is_none());
        assert!(!of_part.is_well(gpu) && of_part.is_well(Uuid::gpu([9; 16])));
        let of_gpu: Faults = [fault(gpu, gpu, &[79])].into_iter().collect();
        assert!(of_gpu.of(part, Some(gpu)).is_some() && of_gpu.of(other, Some(gpu)).is_some());
        assert!(of_gpu.of(gpu, None).is_some() && !of_gpu.is_well(gpu));
    }
}
