//! Graphs: memory of allocation nodes is charged when a launch or upload makes the driver take it.

use crate::capture;
use crate::compute::{self, DefaultStream};
use crate::driver;
use crate::edge::{In, Out};
use crate::graph_memory::{Footprint, node_pages};
use crate::hash::spread;
use crate::mode;
use crate::quota::{Quota, Reservation};
use crate::slice::{self, Slice};
use std::ffi::{c_char, c_void};
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};
use vcuda_limiter::cost::Unit;

/// What a graph is taken to cost before any launch of it was measured.
const GUESS_NS: u64 = 50_000;

/// Every way to begin a stream capture.
pub fn capture_begins(driver: impl Fn() -> CUresult) -> CUresult {
    capture::begin(driver)
}

/// Every way to end one.
pub fn capture_ends<D: DefaultStream>(driver: impl Fn() -> CUresult, stream: CUstream) -> CUresult {
    capture::end(|| D::name(stream).is_capturing(), driver)
}

/// An executable graph as the cost model tells it from others.
fn unit(executable: CUgraphExec) -> Unit {
    Unit { kind: spread(executable.as_u64()) | 1, family: 0, size: 1, guess_ns: GUESS_NS, waits: false }
}

/// Every way to change an executable graph: what it costs is learned anew.
pub fn changed(driver: impl Fn() -> CUresult, executable: CUgraphExec) -> CUresult {
    driver()?;
    if let Some(slice) = slice::current()? {
        forget_cost(slice, executable);
    }
    Ok(())
}

fn forget_cost(slice: &Slice, executable: CUgraphExec) {
    for pace in slice.paces() {
        pace.meter.model.forget(unit(executable).kind);
    }
}

/// Refuses an allocation node that no launch could ever back.
fn refuse_hopeless(parameters: Option<CUDA_MEM_ALLOC_NODE_PARAMS>) -> CUresult {
    let (Some(slice), Some(parameters)) = (slice::current()?, parameters) else { return Ok(()) };
    let location = parameters.poolProps.location;
    if location.type_ != CU_MEM_LOCATION_TYPE_DEVICE {
        return Ok(());
    }
    match slice.quota(location.id) {
        Some(quota) if quota.limit_bytes().is_some_and(|limit| parameters.bytesize as u64 > limit) => {
            quota.count_refusal();
            Err(CUerror::OUT_OF_MEMORY)
        }
        _ => Ok(()),
    }
}

/// `cuGraphAddMemAllocNode`.
pub fn add_alloc_node(
    driver: impl Fn() -> CUresult,
    _node: Out<CUgraphNode>,
    _graph: CUgraph,
    _dependencies: In<CUgraphNode>,
    _dependency_count: usize,
    parameters: Out<CUDA_MEM_ALLOC_NODE_PARAMS>,
) -> CUresult {
    refuse_hopeless(parameters.get())?;
    driver()
}

/// `cuGraphAddNode`.
pub fn add_node(
    driver: impl Fn() -> CUresult,
    _node: Out<CUgraphNode>,
    _graph: CUgraph,
    _dependencies: In<CUgraphNode>,
    _dependency_count: usize,
    parameters: Out<CUgraphNodeParams>,
) -> CUresult {
    let allocation = parameters.get().and_then(|node| node.get::<CUDA_MEM_ALLOC_NODE_PARAMS_v2>());
    refuse_hopeless(allocation.map(Into::into))?;
    driver()
}

/// `cuGraphAddNode_v2` and `_v3`, with edge data.
pub fn add_node_v2(
    driver: impl Fn() -> CUresult,
    node: Out<CUgraphNode>,
    graph: CUgraph,
    dependencies: In<CUgraphNode>,
    _edges: In<c_void>,
    dependency_count: usize,
    parameters: Out<CUgraphNodeParams>,
) -> CUresult {
    add_node(driver, node, graph, dependencies, dependency_count, parameters)
}

/// Runs an instantiation and notes what launches of its outcome may take.
fn instantiated(driver: impl Fn() -> CUresult, executable: Out<CUgraphExec>, graph: CUgraph) -> CUresult {
    let Some(slice) = slice::current()? else { return driver() };
    let allocations = driver::graph_allocations(graph).unwrap_or_default();
    driver()?;
    let Some(executable) = executable.get() else { return Ok(()) };
    let mut footprints: Vec<Footprint> = Vec::new();
    for (device, bytes) in allocations {
        if slice.quota(device).is_none() {
            continue;
        }
        match footprints.iter_mut().find(|footprint| footprint.device == device) {
            Some(footprint) => footprint.pages += node_pages(bytes),
            None => footprints.push(Footprint { device, pages: node_pages(bytes), backed_at: None }),
        }
    }
    slice.graphs.note(executable, footprints);
    Ok(())
}

/// `cuGraphInstantiate` and `_v2`, with an error log.
pub fn instantiate(
    driver: impl Fn() -> CUresult,
    executable: Out<CUgraphExec>,
    graph: CUgraph,
    _error_node: Out<CUgraphNode>,
    _log: Out<c_char>,
    _log_bytes: usize,
) -> CUresult {
    instantiated(driver, executable, graph)
}

/// `cuGraphInstantiateWithFlags`.
pub fn instantiate_with_flags(
    driver: impl Fn() -> CUresult,
    executable: Out<CUgraphExec>,
    graph: CUgraph,
    _flags: u64,
) -> CUresult {
    instantiated(driver, executable, graph)
}

/// `cuGraphInstantiateWithParams`. May upload, and so take memory, at once.
pub fn instantiate_with_params(
    driver: impl Fn() -> CUresult,
    executable: Out<CUgraphExec>,
    graph: CUgraph,
    _parameters: Out<CUDA_GRAPH_INSTANTIATE_PARAMS>,
) -> CUresult {
    instantiated(driver, executable, graph)?;
    if let Some(slice) = slice::current()? {
        for quota in slice.quotas() {
            quota.graphs.catch_up(quota);
        }
    }
    Ok(())
}

/// `cuGraphExecDestroy`. The memory stays with the driver until it is trimmed.
pub fn destroy(driver: impl Fn() -> CUresult, executable: CUgraphExec) -> CUresult {
    if let Some(slice) = slice::current()? {
        slice.graphs.forget(executable);
        forget_cost(slice, executable);
    }
    driver()
}

/// Runs a launch or upload with what the driver may take for it reserved.
fn backed(slice: &Slice, executable: CUgraphExec, driver: impl Fn() -> CUresult) -> CUresult {
    let Some(footprints) = slice.graphs.find(executable) else { return driver() };
    let mut reserved: Vec<(&Quota, u64, Reservation)> = Vec::new();
    for footprint in &footprints {
        let Some(quota) = slice.quota(footprint.device) else { continue };
        let trims = quota.graphs.trims();
        if footprint.backed_at != Some(trims) {
            reserved.push((quota, trims, quota.reserve(footprint.pages)?));
        }
    }
    let launched = driver();
    for (quota, trims, reservation) in reserved {
        quota.graphs.settle(quota, reservation);
        if launched.is_ok() {
            slice.graphs.backed(executable, quota.ordinal, trims);
        }
    }
    // Graphs that share memory while they take turns need their own when they overlap.
    for quota in footprints.iter().filter_map(|footprint| slice.quota(footprint.device)) {
        quota.graphs.catch_up(quota);
    }
    launched
}

/// `cuGraphUpload`.
pub fn upload(driver: impl Fn() -> CUresult, executable: CUgraphExec, _stream: CUstream) -> CUresult {
    let Some(slice) = slice::current()? else { return driver() };
    backed(slice, executable, driver)
}

/// `cuGraphLaunch`.
pub fn launch<D: DefaultStream>(
    driver: impl Fn() -> CUresult,
    executable: CUgraphExec,
    stream: CUstream,
) -> CUresult {
    let Some(slice) = slice::current()? else { return driver() };
    compute::submit(slice, D::name(stream), unit(executable), &|| backed(slice, executable, &driver))?;
    if mode::watched() {
        slice.measure_stale();
    }
    Ok(())
}

/// `cuDeviceGraphMemTrim`.
pub fn trim(driver: impl Fn() -> CUresult, device: CUdevice) -> CUresult {
    driver()?;
    if let Some(quota) = slice::current()?.and_then(|slice| slice.quota(device)) {
        quota.graphs.trimmed(quota);
    }
    Ok(())
}
