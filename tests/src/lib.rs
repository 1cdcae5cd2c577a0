//! Runs real programs bare and under the preloaded library, on a simulated machine of their own.
//!
//! Every test makes a [`Container`]: a machine with GPUs, a control file and limits that nobody else uses.
//! Programs from `tests/programs` are compiled once, started in it either [`World::Bare`] or
//! [`World::Limited`], and judged by the `key value` lines they print, by what the simulated machine counted
//! and by what the control file says. Nothing here links the preloaded library.

mod artefacts;
mod container;
mod file_lock;
mod outcome;
mod patience;
mod program;
mod run;
mod terminal;

pub use artefacts::{Artefacts, artefacts};
pub use container::{Container, GIB, GpuUse, MIB, World};
pub use outcome::Outcome;
pub use patience::measured_again_while;
pub use program::{Language, compiled, program, shared_library};
pub use run::{Run, Running};
pub use terminal::OnTerminal;

/// `CUDA_SUCCESS`.
pub const SUCCESS: i64 = 0;
/// `CUDA_ERROR_OUT_OF_MEMORY`.
pub const OUT_OF_MEMORY: i64 = 2;
/// `CUDA_ERROR_NOT_PERMITTED`: what `cuInit` answers where limits can't be put into force.
pub const NOT_PERMITTED: i64 = 800;

/// Says that a test can't be made here, and why. The test then returns.
pub fn skip(reason: &str) {
    eprintln!("skipped: {reason}");
}
