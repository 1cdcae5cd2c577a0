//! How GPUs are cut into equal slices, and what the slices are called: `GPU-…::3`.
//!
//! Pure. Kubelet gives each slice to one container at a time; what it is of a GPU is said by its number alone.

use std::fmt;
use std::str::FromStr;

use vcuda_core::device::Uuid;
use vcuda_core::limits::Amount;
use vcuda_core::share::Share as Cores;

use super::super::inventory::Gpu;

/// The most slices of a GPU: a set of them is a word.
pub const MOST_SLICES: u32 = 64;
/// What a slice's memory is rounded down to.
const STEP_BYTES: u64 = 1 << 20;
/// Between a GPU and a slice's number.
const SEPARATOR: &str = "::";

/// How each GPU is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Into so many slices.
    Count(u32),
    /// Into slices of so much memory, as many as there is room for.
    Memory(u64),
}

/// The slices of one GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cutting {
    /// How many there are.
    pub count: u32,
    /// Memory of one.
    pub slice_bytes: u64,
}

impl Cut {
    /// The slices of `gpu`; `None` if it has no room for one.
    pub fn of(self, gpu: &Gpu) -> Option<Cutting> {
        let (count, slice_bytes) = match self {
            Cut::Count(count) => (count, gpu.memory_bytes / u64::from(count) / STEP_BYTES * STEP_BYTES),
            Cut::Memory(bytes) => {
                let count = u32::try_from(gpu.memory_bytes / bytes).unwrap_or(u32::MAX);
                (count.min(MOST_SLICES), bytes)
            }
        };
        (count > 0 && slice_bytes > 0).then_some(Cutting { count, slice_bytes })
    }
}

impl Cutting {
    /// What `slices` are of the GPU's time; `None` for all of it.
    pub fn cores(self, slices: Slices) -> Option<Cores> {
        let whole = u64::from(Cores::WHOLE.ppm());
        let ppm = u32::try_from(whole * u64::from(slices.count()) / u64::from(self.count)).ok()?;
        Cores::from_ppm(ppm).filter(|cores| !cores.is_whole())
    }

    /// Memory of `slices`.
    pub fn memory_bytes(self, slices: Slices) -> u64 {
        self.slice_bytes * u64::from(slices.count())
    }

    /// All of them.
    pub fn all(self) -> impl Iterator<Item = u32> {
        0..self.count
    }
}

impl FromStr for Cut {
    type Err = String;

    fn from_str(text: &str) -> Result<Cut, String> {
        let remedy = format!(
            "write how many slices a GPU has, 1 to {MOST_SLICES}, or how much memory a slice has, such as 10GiB"
        );
        let text = text.trim();
        if let Ok(count) = text.parse::<u32>() {
            return if (1..=MOST_SLICES).contains(&count) { Ok(Cut::Count(count)) } else { Err(remedy) };
        }
        match Amount::parse("slices", text) {
            Ok(Amount::Bytes(bytes)) if bytes >= 64 * STEP_BYTES && bytes % STEP_BYTES == 0 => {
                Ok(Cut::Memory(bytes))
            }
            Ok(Amount::Bytes(_)) => Err("a slice has whole MiB, and 64 of them at least".to_owned()),
            _ => Err(remedy),
        }
    }
}

/// Some slices of one GPU: a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slices(u64);

impl Slices {
    /// Adds the slice `number`. False if there can't be one of that number, or it is among them.
    pub fn add(&mut self, number: u32) -> bool {
        let bit = 1_u64.checked_shl(number).unwrap_or(0);
        let is_new = bit != 0 && self.0 & bit == 0;
        self.0 |= bit;
        is_new
    }

    /// How many.
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Those of either.
    pub fn union(self, other: Slices) -> Slices {
        Slices(self.0 | other.0)
    }

    /// Whether all of `other` are among them.
    pub fn contains(self, other: Slices) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether some of `other` are among them.
    pub fn overlaps(self, other: Slices) -> bool {
        self.0 & other.0 != 0
    }
}

impl FromIterator<u32> for Slices {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Slices {
        let mut slices = Slices::default();
        for number in numbers {
            slices.add(number);
        }
        slices
    }
}

impl fmt::LowerHex for Slices {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

/// What kubelet calls a slice.
pub fn device_id(gpu: Uuid, number: u32) -> String {
    format!("{gpu}{SEPARATOR}{number}")
}

/// The slice that kubelet calls so.
pub fn parse_device_id(id: &str) -> Option<(Uuid, u32)> {
    let (gpu, number) = id.split_once(SEPARATOR)?;
    let (gpu, number) = (gpu.parse().ok()?, number.parse().ok()?);
    // One name each, so that "+3" and "03" are not 3.
    (number < MOST_SLICES && device_id(gpu, number) == id).then_some((gpu, number))
}

const SHARE_PREFIX: &str = "slices-";

/// What the share of some slices is called: the same slices, the same name.
pub fn share_name(gpu: Uuid, slices: Slices) -> String {
    format!("{SHARE_PREFIX}{}-{slices:x}", gpu.to_string().to_lowercase())
}

/// The slices that a share of this name is of. Of which GPU the share itself says.
pub fn slices_of_share(name: &str) -> Option<Slices> {
    let (_, digits) = name.strip_prefix(SHARE_PREFIX)?.rsplit_once('-')?;
    u64::from_str_radix(digits, 16).ok().filter(|&bits| bits != 0).map(Slices)
}

#[cfg(test)]
mod tests {
    use super::super::tests::gpu;
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_gpu_is_cut_by_number_or_by_memory() {
        let of = |text: &str, gib: u64| text.parse::<Cut>().unwrap().of(&gpu(1, gib * GIB));
        assert_eq!(of("8", 80), Some(Cutting { count: 8, slice_bytes: 10 * GIB }));
        assert_eq!(of("3", 16), Some(Cutting { count: 3, slice_bytes: 5461 << 20 }));
        assert_eq!(of("10GiB", 80), Some(Cutting { count: 8, slice_bytes: 10 * GIB }));
        assert_eq!(of("12GiB", 80), Some(Cutting { count: 6, slice_bytes: 12 * GIB }));
        assert_eq!(of("96GiB", 80), None);
        assert_eq!(of("64MiB", 80).unwrap().count, MOST_SLICES);
        for wrong in ["", "0", "65", "-1", "1.5", "50%", "1MiB", "100000001B", "ten"] {
            wrong.parse::<Cut>().expect_err(wrong);
        }
    }

    #[test]
    fn slices_together_are_never_more_than_the_gpu() {
        for (text, gib) in [("3", 16), ("7", 24), ("64", 141), ("10GiB", 95), ("1", 16)] {
            let gpu = gpu(1, gib * GIB);
            let cutting = text.parse::<Cut>().unwrap().of(&gpu).unwrap();
            let all: Slices = cutting.all().collect();
            assert!(cutting.memory_bytes(all) <= gpu.memory_bytes);
            assert_eq!(cutting.cores(all), None, "all the slices are all of its time");
            let one = |number| cutting.cores([number].into_iter().collect()).map_or(1_000_000, Cores::ppm);
            assert!(cutting.all().map(|number| u64::from(one(number))).sum::<u64>() <= 1_000_000);
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        let gpu = Uuid::gpu([7; 16]);
        for number in [0, 9, 63] {
            assert_eq!(parse_device_id(&device_id(gpu, number)), Some((gpu, number)));
            assert!(device_id(gpu, number).len() <= 63, "kubelet takes no longer ones");
        }
        for wrong in
            ["", "::", "GPU-7::1", &format!("{gpu}::64"), &format!("{gpu}::+1"), &format!("{gpu}::01")]
        {
            assert_eq!(parse_device_id(wrong), None, "{wrong}");
        }
        let slices: Slices = [0, 3, 63].into_iter().collect();
        let name = share_name(gpu, slices);
        assert!(vcuda_shares::is_usable(&name), "{name}");
        assert_eq!(slices_of_share(&name), Some(slices));
        for other in ["half", "slices-", "slices-x-0", "slices-x-g"] {
            assert_eq!(slices_of_share(other), None, "{other}");
        }
        assert!(slices.overlaps([3].into_iter().collect()) && !slices.overlaps([4].into_iter().collect()));
        assert!(!Slices::default().add(64) && Slices::default().add(0));
    }
}
