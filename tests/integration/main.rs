//! Behaviour of the preloaded library, one module per behaviour. See `vcuda_tests` for how tests are made.

mod artefact;
mod cli;
mod compute_copies;
mod compute_kernels;
mod compute_views;
mod config;
mod control_file;
mod faults;
mod idle_release;
mod interception;
mod languages;
mod live;
mod lookups;
mod memory;
mod memory_paths;
mod neighbours;
mod processes;
mod quiet;
mod races;
mod readers;
mod set;
mod shares;
mod sharing_example;
mod suspend;
mod top;
mod views;
