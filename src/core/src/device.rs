//! Names of devices: the UUID a driver reports and a person writes, and the index an entry has in the control file.
//!
//! Owns parsing and printing only; it knows no driver and no file.

use core::fmt;
use core::str::FromStr;

use crate::abi::DEVICE_CAPACITY;

/// Whether a UUID is printed as a GPU's or as a MIG instance's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UuidKind {
    /// `GPU-…`.
    #[default]
    Gpu,
    /// `MIG-…`.
    Mig,
}

/// The 16 bytes that name a GPU or a MIG instance, in the order they are printed.
///
/// Two of them are the same device if their bytes are equal; the kind is only how they are printed.
#[derive(Clone, Copy)]
pub struct Uuid {
    bytes: [u8; 16],
    kind: UuidKind,
}

impl Uuid {
    /// A GPU's UUID.
    pub const fn gpu(bytes: [u8; 16]) -> Self {
        Self { bytes, kind: UuidKind::Gpu }
    }

    /// A MIG instance's UUID.
    pub const fn mig(bytes: [u8; 16]) -> Self {
        Self { bytes, kind: UuidKind::Mig }
    }

    /// The bytes, in the order they are printed.
    pub const fn bytes(&self) -> [u8; 16] {
        self.bytes
    }

    /// How it is printed.
    pub const fn kind(&self) -> UuidKind {
        self.kind
    }

    /// The two halves as the control file keeps them.
    pub(crate) const fn halves(&self) -> (u64, u64) {
        let both = u128::from_be_bytes(self.bytes);
        ((both >> 64) as u64, both as u64)
    }

    pub(crate) const fn from_halves(high: u64, low: u64, kind: UuidKind) -> Self {
        Self { bytes: (((high as u128) << 64) | low as u128).to_be_bytes(), kind }
    }
}

impl PartialEq for Uuid {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Uuid {}

impl Ord for Uuid {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.bytes.cmp(&other.bytes)
    }
}

impl PartialOrd for Uuid {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl core::hash::Hash for Uuid {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
    }
}

impl From<[u8; 16]> for Uuid {
    fn from(bytes: [u8; 16]) -> Self {
        Self::gpu(bytes)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            UuidKind::Gpu => "GPU-",
            UuidKind::Mig => "MIG-",
        })?;
        for (position, byte) in self.bytes.iter().enumerate() {
            if matches!(position, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no UUID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UuidError {
    text: String,
}

impl fmt::Display for UuidError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a GPU's name: write GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx, or MIG-… with the same \
             digits, as `nvidia-smi -L` prints them",
            self.text
        )
    }
}

impl std::error::Error for UuidError {}

impl FromStr for Uuid {
    type Err = UuidError;

    fn from_str(text: &str) -> Result<Self, UuidError> {
        parse(text).ok_or_else(|| UuidError { text: text.chars().take(64).collect() })
    }
}

/// Accepts `GPU-` or `MIG-` and 8-4-4-4-12 hexadecimal digits of either case.
fn parse(text: &str) -> Option<Uuid> {
    let (kind, digits) = match text.split_at_checked(4)? {
        ("GPU-", digits) => (UuidKind::Gpu, digits),
        ("MIG-", digits) => (UuidKind::Mig, digits),
        _ => return None,
    };
    let mut groups = digits.split('-');
    let mut both: u128 = 0;
    for length in [8, 4, 4, 4, 12] {
        let group = groups.next()?;
        if group.len() != length || !group.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        both = (both << (4 * length)) | u128::from_str_radix(group, 16).ok()?;
    }
    groups.next().is_none().then(|| Uuid { bytes: both.to_be_bytes(), kind })
}

/// Where a device stands in the control file, below [`DEVICE_CAPACITY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceIndex(u8);

impl DeviceIndex {
    /// The index, or `None` if there is no such entry in any file.
    pub const fn new(index: usize) -> Option<Self> {
        if index < DEVICE_CAPACITY { Some(Self(index as u8)) } else { None }
    }

    /// As a number, below [`DEVICE_CAPACITY`].
    pub const fn get(self) -> usize {
        self.0 as usize
    }

    /// Every index there is.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..DEVICE_CAPACITY).filter_map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prints_as_the_driver_does() {
        let bytes = *b"\x0f\x1e\x2d\x3c\x4b\x5a\x69\x78\x87\x96\xa5\xb4\xc3\xd2\xe1\xf0";
        assert_eq!(Uuid::gpu(bytes).to_string(), "GPU-0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0");
        assert_eq!(Uuid::mig(bytes).to_string(), "MIG-0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0");
        assert_eq!(Uuid::gpu(bytes), Uuid::mig(bytes));
    }

    #[test]
    fn refuses_what_is_nearly_one() {
        for text in [
            "",
            "GPU-",
            "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0",
            "gpu-0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0",
            "GPU-0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f",
            "GPU-0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f00",
            "GPU-0f1e2d3c4b5a-6978-8796-a5b4c3d2e1f0-",
            "GPU-0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0-",
            "GPU-+f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0",
            "GPU-é1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0",
            "MIG-GPU-0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0/1/0",
        ] {
            let error = text.parse::<Uuid>().expect_err(text);
            assert!(error.to_string().contains("GPU-xxxxxxxx"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn reads_what_it_prints(bytes: [u8; 16], mig: bool) {
            let uuid = if mig { Uuid::mig(bytes) } else { Uuid::gpu(bytes) };
            let text = uuid.to_string();
            prop_assert_eq!(text.parse::<Uuid>().map(|read| (read.bytes(), read.kind())), Ok((bytes, uuid.kind())));
            prop_assert_eq!(text.replace('-', "").to_lowercase().len(), 35);
            let (high, low) = uuid.halves();
            prop_assert_eq!(Uuid::from_halves(high, low, UuidKind::Gpu), uuid);
        }

        #[test]
        fn never_panics(text: String) {
            let _ = text.parse::<Uuid>();
        }
    }
}
