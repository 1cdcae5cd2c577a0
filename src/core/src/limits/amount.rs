//! Amounts of memory: `4GiB`, `512M`, `1.5GiB`, `8000MB`, `50%`.
//!
//! K, M, G and T alone, and with `iB`, are powers of 1024, as `docker --memory` and HAMi read them; with `B`
//! alone (KB, MB, GB, TB) they are powers of 1000, as the SI defines them. Case does not matter. A number
//! without a unit is bytes. Arithmetic is exact, and rounds down to a whole byte.

use super::LimitsError;
use super::error::quoted;
use crate::decimal::Decimal;
use std::fmt;

/// How much memory a limit allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// A number of bytes, at least 1.
    Bytes(u64),
    /// A share of the GPU's physical memory, in millionths of a percent: 1 to [`WHOLE`].
    Share(u32),
}

/// [`Amount::Share`] of all memory.
pub const WHOLE: u32 = 100_000_000;

/// Decimal digits that are kept after the point of a percentage.
const PERCENT_DECIMALS: u32 = 6;

/// Units by name in lower case, with their size in bytes; the first of a size is used for display.
const UNITS: [(&str, u64); 14] = [
    ("tib", 1 << 40),
    ("gib", 1 << 30),
    ("mib", 1 << 20),
    ("kib", 1 << 10),
    ("b", 1),
    ("", 1),
    ("t", 1 << 40),
    ("g", 1 << 30),
    ("m", 1 << 20),
    ("k", 1 << 10),
    ("tb", 1_000_000_000_000),
    ("gb", 1_000_000_000),
    ("mb", 1_000_000),
    ("kb", 1_000),
];

const REMEDY: &str = "write an amount such as 4GiB, 512M, 1.5GiB or 50%";

impl Amount {
    /// Reads an amount. `place` names the text in errors. Zero, negative and overflowing amounts are
    /// errors, and so is more than 100 %.
    pub fn parse(place: &str, text: &str) -> Result<Amount, LimitsError> {
        match parse_or_zero(place, text)? {
            Some(amount) => Ok(amount),
            None => Err(LimitsError::new(
                place,
                format!("{} is no memory at all", quoted(text.trim())),
                "write an amount such as 4GiB or 50%, or remove the limit to have none",
            )),
        }
    }

    /// The limit in bytes on a GPU with `physical_bytes` of memory: never more than that, at least 1.
    pub fn of(self, physical_bytes: u64) -> u64 {
        let bytes = match self {
            Amount::Bytes(bytes) => bytes,
            Amount::Share(parts) => {
                let exact = u128::from(physical_bytes) * u128::from(parts) / u128::from(WHOLE);
                u64::try_from(exact).unwrap_or(u64::MAX)
            }
        };
        bytes.min(physical_bytes).max(1)
    }
}

/// Like [`Amount::parse`], with `None` for exactly zero, which HAMi uses for "not set".
pub(super) fn parse_or_zero(place: &str, text: &str) -> Result<Option<Amount>, LimitsError> {
    let text = text.trim();
    let wrong = |problem: &str| LimitsError::new(place, format!("{} {problem}", quoted(text)), REMEDY);
    if text.is_empty() {
        return Err(LimitsError::new(place, "the amount is empty", REMEDY));
    }
    if text.starts_with('-') {
        return Err(wrong("is negative"));
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let decimal = Decimal::parse(number).ok_or_else(|| wrong("is not an amount of memory"))?;
    let unit = unit.trim_start().to_ascii_lowercase();
    if unit == "%" {
        let whole = 10u64.pow(PERCENT_DECIMALS);
        let parts = decimal.times(whole).and_then(|parts| u32::try_from(parts).ok());
        return match parts {
            Some(0) if decimal.is_zero() => Ok(None),
            Some(0) => Err(wrong("is too small a share")),
            Some(parts) if parts <= WHOLE => Ok(Some(Amount::Share(parts))),
            _ => Err(wrong("is more than the whole GPU")),
        };
    }
    let Some((_, unit_bytes)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(LimitsError::new(
            place,
            format!("{} has an unknown unit {}", quoted(text), quoted(&unit)),
            "the units are B, K, M, G and T (KiB and so on mean the same; KB is 1000 bytes) and %",
        ));
    };
    match decimal.times(*unit_bytes) {
        Some(0) if decimal.is_zero() => Ok(None),
        Some(0) => Err(wrong("is less than one byte")),
        Some(bytes) => Ok(Some(Amount::Bytes(bytes))),
        None => Err(wrong("is more than any GPU has")),
    }
}

impl fmt::Display for Amount {
    /// The shortest exact form, which [`Amount::parse`] reads back.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match *self {
            Amount::Share(parts) => {
                let whole = 10u32.pow(PERCENT_DECIMALS);
                let fraction = format!("{:06}", parts % whole);
                match fraction.trim_end_matches('0') {
                    "" => write!(f, "{}%", parts / whole),
                    fraction => write!(f, "{}.{fraction}%", parts / whole),
                }
            }
            Amount::Bytes(bytes) => {
                let exact = [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
                match exact.iter().find(|(_, unit)| bytes >= *unit && bytes % unit == 0) {
                    Some((name, unit)) => write!(f, "{}{name}", bytes / unit),
                    None => write!(f, "{bytes}B"),
                }
            }
        }
    }
}
