//! The control files of this machine, for the tools: where they are, making one for a run, removing those that
//! nobody needs, and reading those of people who wish us ill.
//!
//! Must never remove a file that a program may still open: programs that count in two files would get the quota
//! twice. Not for the preloaded library. Only [`truncation`] contains unsafe code.
#![deny(unsafe_code)]

pub mod directory;
pub mod environments;
mod find;
pub mod limits_file;
mod name;
pub mod neighbours;
mod runs;
pub mod truncation;

pub use find::{SHARES_VARIABLE, USER_DIRECTORY_PARENTS, find, owner_of, share_of, shares_directory};
pub use name::{Found, LookupError, find_named, name_of, shown_name};
pub use runs::{MakeError, RunFiles, Sight, remove_ended};
