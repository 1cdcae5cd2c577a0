//! Suspends the processes of a slice, so that they hold nothing of any GPU, and brings them back.
//!
//! Stands on the driver's checkpoints (release 570 and later) and on the slice's control file, which keeps where each
//! process is on its way: an agent that is killed half-way leaves everything that the next one needs to finish or to
//! undo it. Blocking calls on plain threads; nothing here needs a runtime.
//!
//! * [`suspend`](mod@suspend) and [`resume`](mod@resume) are the two operations, each all or nothing for the processes
//!   that it is asked for.
//! * [`lease`] is what makes resuming safe: a restore that runs out of memory loses the process for good, so none is
//!   begun before its memory is reserved against everyone.
//! * [`driver`] and [`memory`] are what is asked of NVIDIA's two libraries, as traits; tests bring their own. [`nvml`] is the
//!   second of them, also for other tools.
//! * [`policy`] decides who is put aside when idle and who comes back, and [`agent`] does it; [`sole`] keeps two agents from
//!   undoing each other's work.
//! * [`preflight`] says what can't be suspended, and why, before anything is touched.
//!
//! # What a suspended process holds
//!
//! Nothing of the device. Of its slice's quota, what it held is *set aside*: others of the slice may reserve it. Before it
//! comes back it is reserved again, within the limit and by the same atomic exchange as every reservation, and if others
//! have taken it the process stays where it is until they give it back. Its own allocations stay what they are for
//! whoever looks into the control file.
//!
//! Device memory goes to the host's, which must have the room.
#![deny(unsafe_code)]

pub mod agent;
pub mod driver;
pub mod error;
pub mod lease;
mod look;
pub mod memory;
pub mod nvml;
pub mod policy;
pub mod preflight;
pub mod record;
pub mod resume;
mod sight;
pub mod slice;
pub mod sole;
pub mod suspend;
mod target;

pub use error::{Error, Problem};
pub use slice::Slice;
