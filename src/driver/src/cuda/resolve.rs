//! From names to ABI symbols, the way the driver itself goes.
//!
//! Programs ask `cuGetProcAddress` for a base name and say which CUDA version they were built for; the
//! driver answers with the newest ABI that this version knew. The table's `since` column is enough to give
//! the same answer, and to tell which ABI a pointer must have that the driver gave.

use super::symbols::{SYMBOLS, TELLING_WORDS};
use crate::table::{StreamMode, Symbol};

/// The row of the ABI symbol `name`.
pub fn find(name: &str) -> Option<&'static Symbol> {
    crate::table::find(SYMBOLS, name)
}

/// Every ABI symbol of the base name `base`, in no particular order.
pub fn family(base: &str) -> impl Iterator<Item = &'static Symbol> {
    // A family's names all start with its base, so they stand together, between names they share it with.
    let start = SYMBOLS.partition_point(|symbol| symbol.name < base);
    SYMBOLS
        .get(start..)
        .unwrap_or_default()
        .iter()
        .take_while(move |symbol| symbol.name.starts_with(base))
        .filter(move |symbol| symbol.base == base)
}

/// What `cuGetProcAddress` gives for `base` to a program built for CUDA `version` (as `CUDA_VERSION`:
/// 12080 is 12.8; `u32::MAX`, which programs pass as -1, is the newest), with or without the per-thread
/// default stream.
///
/// `None` where the base name is unknown, where no ABI of it is that old, or where it has per-thread
/// variants and none of them is that old. Symbols of unknown age are never given. The driver gives the same
/// answers, but for versions later than its own, which it refuses; `scripts/gen-driver-table --driver`
/// compares the two.
pub fn resolve(base: &str, version: u32, per_thread: bool) -> Option<&'static Symbol> {
    let of = |mode| family(base).filter(move |symbol| symbol.stream == mode);
    let mode = match per_thread && of(StreamMode::PerThread).next().is_some() {
        true => StreamMode::PerThread,
        false => StreamMode::Legacy,
    };
    of(mode).filter(|symbol| symbol.since != 0 && symbol.since <= version).max_by_key(|symbol| symbol.since)
}

/// Whether a function of this name, which the table need not know, looks as if it takes device memory,
/// launches work, or tells how much memory there is.
pub fn looks_like_work(name: &str) -> bool {
    TELLING_WORDS.iter().any(|word| name.contains(word))
}
