//! The simulated driver as programs see it.

mod api;
mod captures;
mod checkpoints;
mod devices;
mod graphs;
mod memory;
mod pools;
mod processes;
mod program;
mod streams;
mod times;
mod values;
mod world;
