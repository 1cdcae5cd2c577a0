//! The agent of a machine with GPUs: it reads the slices' control files, takes back what the dead left, and tells
//! metrics and health over HTTP.
//!
//! Built of jobs that know nothing of each other: each has a module, runs under [`jobs`], publishes what it found, and
//! ends when told to. What a tenant wrote is never believed further than its own slice's numbers. Only
//! [`idle_release`] uses CUDA, where a slice wants it: a look must cost no memory. Contains no unsafe code.
#![forbid(unsafe_code)]

pub mod counters;
pub mod devices;
pub mod exposition;
pub mod faults;
pub mod idle_release;
pub mod jobs;
pub mod kubernetes;
pub mod labels;
pub mod manual;
pub mod options;
pub mod places;
pub mod reading;
pub mod serve;
pub mod state;
pub mod watch;
