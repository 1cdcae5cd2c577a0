//! Holds the work that a process gives to a GPU to a share of the GPU's time.
//!
//! The logic alone: what a launch is expected to cost ([`cost`]), when a stream was busy between two timing events
//! ([`mod@line`], [`segment`]), and what to do about a piece of work ([`meter`]): charge it, hold it back, measure it. What it
//! needs of the world, a clock, timing events and sleep, it is given as a [`machine::Machine`]; the preloaded library
//! brings the driver's, tests bring a virtual one. What processes share are the words of the control file, in
//! `vcuda_core::compute`.
//!
//! # How GPU time is known
//!
//! A timing event is recorded into a stream after about each millisecond of predicted work, so that measuring costs
//! next to nothing. What passed between two events of a stream is not all work: a stream runs dry when the program has
//! nothing for it. So for each launch the line predicts when the stream would have finished what it had, from the time of
//! the launch and a cost model, and adds up the gaps. Busy time between two events is
//!
//! ```text
//! elapsed - predicted gaps - what the events themselves take
//! ```
//!
//! While a stream never runs dry there are no gaps and this is exact, whatever the model thinks, and the model learns from
//! it. When it runs dry between launches, how long each piece took has left no trace in its events: a prediction that is too
//! short makes the gaps longer by as much. The sum of the predictions then counts, corrected only by what is far from them,
//! and so they have to be right by themselves: of such a stream now and then one launch gets an event just before it and
//! one just behind, which together measure it alone. The first of the two is recorded when the work is, so it does not see
//! the 150 us that a GPU takes to come from another process, nor a long pause; each burst after a wait begins with one, too.
//! Where the program waits for its streams itself, the end of that wait says when the work was done, for free.
//!
//! Intervals of all streams and processes are united in the control file's record of busy time. What kernels cost that run
//! at the same time as others is learned from the sum of what all streams were busy and the sum that was new.
//!
//! # How it is held to a share
//!
//! Work is charged to the container's bucket by prediction, about each millisecond (four while other processes charge, too,
//! so that the GPU goes less often from one to the other), and corrected when it was measured.
//! A launch that finds the bucket's deadline more than a millisecond of GPU time ahead waits until the deadline is due.
//! The deadline is absolute and debt is carried, so neither late wake-ups nor wrong predictions add up.
//!
//! # How containers take turns
//!
//! Where several containers want a device at once, each has it to itself for a while ([`vcuda_core::arbiter`]): a launch
//! that comes at another's turn is held back as well. Shares hold over that: what a container could not use because others
//! had their turn it may catch up on.
#![deny(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod cost;
pub mod line;
pub mod machine;
pub mod meter;
mod overlap;
mod restate;
pub mod segment;
mod settle;
mod turn;
mod wait;
