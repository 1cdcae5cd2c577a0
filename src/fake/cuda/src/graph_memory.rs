//! Memory of graphs with allocation nodes: addresses are fixed when a node is added, memory is taken when
//! the graph is first uploaded or launched, in steps of 32 MiB, and kept for other graphs until trimmed.

use crate::backing::{STEP_BYTES as MAPPING_BYTES, window};
use crate::device::Device;
use crate::driver::driver;
use crate::edge::Out;
use crate::pool_memory::STEP_BYTES;
use crate::space::{self, Allocation, Kind};
use crate::stream::Stream;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};

/// Addresses of one allocation node. They are free again when no graph has the node any more.
pub struct Range {
    pub address: u64,
    /// As the program asked for it.
    pub asked_bytes: u64,
    /// In whole mappings.
    pub bytes: u64,
    pub ordinal: usize,
}

impl Drop for Range {
    fn drop(&mut self) {
        space::remove_if(self.address, |found| found.kind == Kind::Graph);
        if let Some(window) = window() {
            window.give(self.address, self.bytes);
        }
    }
}

impl Range {
    /// Fresh addresses.
    pub fn new(asked_bytes: u64, ordinal: usize) -> Result<Arc<Range>, CUerror> {
        if asked_bytes == 0 {
            return Err(CUerror::INVALID_VALUE);
        }
        let bytes = asked_bytes.checked_next_multiple_of(MAPPING_BYTES).ok_or(CUerror::OUT_OF_MEMORY)?;
        let address = window().and_then(|window| window.take(bytes)).ok_or(CUerror::OUT_OF_MEMORY)?;
        Ok(Arc::new(Range { address, asked_bytes, bytes, ordinal }))
    }

    /// The allocation node runs: the memory is the program's until freed.
    pub fn enter(&self, _stream: &Stream) {
        space::insert(Allocation {
            address: self.address,
            bytes: self.asked_bytes,
            ordinal: self.ordinal,
            context_id: 0,
            kind: Kind::Graph,
            flags: 0,
            id: space::next_id(),
        });
    }
}

/// What graphs hold of one device.
pub struct GraphMemory {
    reserved: u64,
    reserved_high: u64,
    used_high: u64,
    /// Memory by executable graph, with the addresses it is for.
    bound: HashMap<usize, (u64, Vec<u64>)>,
}

impl GraphMemory {
    /// Nothing.
    pub fn new() -> GraphMemory {
        GraphMemory { reserved: 0, reserved_high: 0, used_high: 0, bound: HashMap::new() }
    }

    fn used(&self) -> u64 {
        self.bound.values().map(|(bytes, _)| bytes).sum()
    }
}

/// Makes sure that an executable graph's allocations have memory.
pub fn bind(device: &Device, graph: usize, ranges: &[Arc<Range>]) -> CUresult {
    if ranges.is_empty() {
        return Ok(());
    }
    let mut memory = device.graph_memory.lock();
    if memory.bound.contains_key(&graph) {
        return Ok(());
    }
    let bytes: u64 = ranges.iter().map(|range| range.bytes).sum();
    let bytes = bytes.next_multiple_of(STEP_BYTES);
    let free = memory.reserved - memory.used();
    let more = bytes.saturating_sub(free);
    device.take(more)?;
    memory.reserved += more;
    memory.reserved_high = memory.reserved_high.max(memory.reserved);
    memory.bound.insert(graph, (bytes, ranges.iter().map(|range| range.address).collect()));
    memory.used_high = memory.used_high.max(memory.used());
    Ok(())
}

/// An executable graph is gone; its memory stays for others.
pub fn unbind(device: &Device, graph: usize) {
    let mut memory = device.graph_memory.lock();
    let is_in_use = |addresses: &[u64]| {
        addresses.iter().any(|&address| space::find(address).is_some_and(|found| found.kind == Kind::Graph))
    };
    // What the program hasn't freed yet is still its own.
    if memory.bound.get(&graph).is_some_and(|(_, addresses)| !is_in_use(addresses)) {
        memory.bound.remove(&graph);
    }
}

/// Frees an allocation that a graph left to the program.
pub fn free(address: u64) -> CUresult {
    space::remove_if(address, |found| found.kind == Kind::Graph).map(|_| ()).ok_or(CUerror::INVALID_VALUE)
}

pub fn trim(device: CUdevice) -> CUresult {
    let device = driver().device(device)?;
    let mut memory = device.graph_memory.lock();
    memory.bound.retain(|_, (_, addresses)| {
        addresses.iter().any(|&address| space::find(address).is_some_and(|found| found.kind == Kind::Graph))
    });
    let used = memory.used();
    let surplus = memory.reserved.saturating_sub(used);
    memory.reserved -= surplus;
    device.give(surplus);
    Ok(())
}

pub fn get_attribute(device: CUdevice, attribute: u32, out: Out<c_void>) -> CUresult {
    let memory = driver().device(device)?.graph_memory.lock();
    out.cast::<u64>().set(match attribute {
        CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT => memory.used(),
        CU_GRAPH_MEM_ATTR_USED_MEM_HIGH => memory.used_high,
        CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT => memory.reserved,
        CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH => memory.reserved_high,
        _ => return Err(CUerror::INVALID_VALUE),
    });
    Ok(())
}

/// Peaks can only be started over, by setting them to 0.
pub fn set_attribute(device: CUdevice, attribute: u32, value: Out<c_void>) -> CUresult {
    let mut memory = driver().device(device)?.graph_memory.lock();
    match (attribute, value.cast::<u64>().get()) {
        (CU_GRAPH_MEM_ATTR_USED_MEM_HIGH, 0) => memory.used_high = memory.used(),
        (CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH, 0) => memory.reserved_high = memory.reserved,
        _ => return Err(CUerror::INVALID_VALUE),
    }
    Ok(())
}
