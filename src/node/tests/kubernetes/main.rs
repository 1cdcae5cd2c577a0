//! The agent as a node's driver: claims as the API server has them, calls as kubelet makes them, and deaths on the way.

mod claims;
mod deaths;
mod faults;
mod publishing;
mod world;
