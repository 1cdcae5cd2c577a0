//! The agent as the driver of a Kubernetes node: what kubelet asks of it, and what it tells the API server.
//!
//! Asked for by options; without them nothing of this runs. Kubernetes decides who gets what: nothing here allocates.

pub mod allocation;
pub mod authority;
pub mod configuration;
#[cfg(test)]
mod example;
mod hpack;
pub mod inventory;
pub mod messages;
pub mod options;
mod quantity;
pub mod registration;
pub mod slices;
pub mod sockets;

/// The driver's name, for dynamic resource allocation and in front of what it makes.
pub const DRIVER: &str = "gpu.vcuda.dev";
