//! The agent from outside: what it makes of slices, of people who wish it ill, and of signals.

mod hostile;
mod manual;
mod process;
mod slices;
mod text;
mod unit;
mod world;
