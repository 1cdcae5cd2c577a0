//! The limiter against a virtual GPU in virtual time: nothing sleeps, and every case is the same in every run.
//!
//! What agrees with a virtual device proves nothing about a real one; what does not is wrong.

mod chance;
mod device;
mod hazards;
mod host;
mod lessons;
mod oracle;
mod processes;
mod program;
mod sharing;
mod steady;
mod truth;
mod variety;
mod words;
