//! The management library (`libnvidia-ml.so.1`).

mod signatures;
pub mod symbols;
pub mod types;

use crate::table::Symbol;

/// The row of the ABI symbol `name`.
pub fn find(name: &str) -> Option<&'static Symbol> {
    crate::table::find(symbols::SYMBOLS, name)
}
