//! The kinds of nodes: how each is added to a graph, asked for its parameters and given others.

use crate::edge::{Items, Out, Value};
use crate::exec::Exec;
use crate::fill::Fill;
use crate::function;
use crate::graph::{self, Graph, Node, add_node};
use crate::graph_memory::Range;
use crate::kernel::{Launch, Shape};
use crate::raw;
use crate::slab::handle_of;
use crate::transfer::Transfer;
use crate::values;
use crate::work::Work;
use std::ffi::c_void;
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};

type Dependencies = Items<CUgraphNode>;

fn kernel_work(params: &CUDA_KERNEL_NODE_PARAMS) -> Result<Work, CUerror> {
    let handle = if params.func.is_null() { CUfunction(params.kern.0) } else { params.func };
    let shape = Shape {
        grid: [params.gridDimX, params.gridDimY, params.gridDimZ],
        block: [params.blockDimX, params.blockDimY, params.blockDimZ],
        shared_bytes: params.sharedMemBytes,
    };
    let function = function::find(handle)?;
    Ok(Work::Kernel(Launch::new(function, shape, params.kernelParams, params.extra)?))
}

fn newer(params: CUDA_KERNEL_NODE_PARAMS_v1) -> CUDA_KERNEL_NODE_PARAMS {
    CUDA_KERNEL_NODE_PARAMS {
        func: params.func,
        gridDimX: params.gridDimX,
        gridDimY: params.gridDimY,
        gridDimZ: params.gridDimZ,
        blockDimX: params.blockDimX,
        blockDimY: params.blockDimY,
        blockDimZ: params.blockDimZ,
        sharedMemBytes: params.sharedMemBytes,
        kernelParams: params.kernelParams,
        extra: params.extra,
        kern: CUkernel::NULL,
        ctx: CUcontext::NULL,
    }
}

fn copy_work(copy: &CUDA_MEMCPY3D) -> Result<Work, CUerror> {
    Ok(Work::Transfer(Box::new(Transfer::of_box(copy)?)))
}

fn alloc_work(bytes: usize, location: CUmemLocation) -> Result<(Work, u64), CUerror> {
    if location.type_ != CU_MEM_LOCATION_TYPE_DEVICE {
        return Err(CUerror::INVALID_VALUE);
    }
    let ordinal = crate::driver::driver().device(location.id)?.ordinal;
    let range = Range::new(bytes as u64, ordinal)?;
    let address = range.address;
    Ok((Work::Alloc(range), address))
}

/// A host function and its data, as its node's parameters begin.
fn host_work(params: *const c_void) -> Result<Work, CUerror> {
    if params.is_null() {
        return Err(CUerror::INVALID_VALUE);
    }
    let [function, data] = raw::read::<[usize; 2]>(params as u64);
    if function == 0 { Err(CUerror::INVALID_VALUE) } else { Ok(Work::Host { function, data }) }
}

/// The values that a batch writes and waits for, as its node's parameters name them.
fn values_work(params: *const c_void) -> Result<Work, CUerror> {
    if params.is_null() {
        return Err(CUerror::INVALID_VALUE);
    }
    let place = params as u64;
    let (count, operations) = (raw::read::<u32>(place + 8), raw::read::<*const c_void>(place + 16));
    values::batch_work(count, &Items::at(operations))
}

pub fn add_kernel_v1(
    out: Out<CUgraphNode>,
    graph: &'static Graph,
    dependencies: Dependencies,
    count: usize,
    params: Value<CUDA_KERNEL_NODE_PARAMS_v1>,
) -> CUresult {
    add_kernel(out, graph, dependencies, count, Value(newer(params.0)))
}

pub fn add_kernel(
    out: Out<CUgraphNode>,
    graph: &'static Graph,
    dependencies: Dependencies,
    count: usize,
    params: Value<CUDA_KERNEL_NODE_PARAMS>,
) -> CUresult {
    add_node(out, graph, &dependencies, count, kernel_work(&params.0)?)
}

pub fn add_copy(
    out: Out<CUgraphNode>,
    graph: &'static Graph,
    dependencies: Dependencies,
    count: usize,
    copy: Value<CUDA_MEMCPY3D>,
    _context: CUcontext,
) -> CUresult {
    add_node(out, graph, &dependencies, count, copy_work(&copy.0)?)
}

pub fn add_fill(
    out: Out<CUgraphNode>,
    graph: &'static Graph,
    dependencies: Dependencies,
    count: usize,
    params: Value<CUDA_MEMSET_NODE_PARAMS>,
    _context: CUcontext,
) -> CUresult {
    add_node(out, graph, &dependencies, count, Work::Fill(Fill::new(params.0)?))
}

pub fn add_host(
    out: Out<CUgraphNode>,
    graph: &'static Graph,
    dependencies: Dependencies,
    count: usize,
    params: *const c_void,
) -> CUresult {
    add_node(out, graph, &dependencies, count, host_work(params)?)
}

pub fn add_values(
    out: Out<CUgraphNode>,
    graph: &'static Graph,
    dependencies: Dependencies,
    count: usize,
    params: *const c_void,
) -> CUresult {
    add_node(out, graph, &dependencies, count, values_work(params)?)
}

pub fn add_child(
    out: Out<CUgraphNode>,
    graph: &'static Graph,
    dependencies: Dependencies,
    count: usize,
    child: &'static Graph,
) -> CUresult {
    add_node(out, graph, &dependencies, count, graph::child(child)?)
}

pub fn add_empty(
    out: Out<CUgraphNode>,
    graph: &'static Graph,
    dependencies: Dependencies,
    count: usize,
) -> CUresult {
    add_node(out, graph, &dependencies, count, Work::Empty)
}

pub fn add_event_record(
    out: Out<CUgraphNode>,
    graph: &'static Graph,
    dependencies: Dependencies,
    count: usize,
    event: CUevent,
) -> CUresult {
    add_node(out, graph, &dependencies, count, Work::RecordEvent(event.0))
}

pub fn add_event_wait(
    out: Out<CUgraphNode>,
    graph: &'static Graph,
    dependencies: Dependencies,
    count: usize,
    event: CUevent,
) -> CUresult {
    add_node(out, graph, &dependencies, count, Work::WaitEvent(event.0))
}

pub fn add_alloc(
    out: Out<CUgraphNode>,
    graph: &'static Graph,
    dependencies: Dependencies,
    count: usize,
    params: Out<CUDA_MEM_ALLOC_NODE_PARAMS>,
) -> CUresult {
    let wanted = params.get();
    let (work, address) = alloc_work(wanted.bytesize, wanted.poolProps.location)?;
    add_node(out, graph, &dependencies, count, work)?;
    params.set(CUDA_MEM_ALLOC_NODE_PARAMS { dptr: CUdeviceptr(address), ..wanted });
    Ok(())
}

pub fn add_free(
    out: Out<CUgraphNode>,
    graph: &'static Graph,
    dependencies: Dependencies,
    count: usize,
    address: CUdeviceptr,
) -> CUresult {
    add_node(out, graph, &dependencies, count, Work::Free(address.0))
}

/// What a node of any kind is made of.
fn any_work(params: &mut CUgraphNodeParams) -> Result<Work, CUerror> {
    let body = params.body.as_ptr() as u64;
    match params.type_ {
        CU_GRAPH_NODE_TYPE_KERNEL => kernel_work(&raw::read(body)),
        // Flags and a context come before the copy itself.
        CU_GRAPH_NODE_TYPE_MEMCPY => copy_work(&raw::read(body + 16)),
        CU_GRAPH_NODE_TYPE_MEMSET => Ok(Work::Fill(Fill::new(raw::read(body))?)),
        CU_GRAPH_NODE_TYPE_HOST => host_work(body as *const c_void),
        CU_GRAPH_NODE_TYPE_BATCH_MEM_OP => values_work(body as *const c_void),
        CU_GRAPH_NODE_TYPE_GRAPH => graph::child(graph::find(raw::read(body))?),
        CU_GRAPH_NODE_TYPE_EMPTY => Ok(Work::Empty),
        CU_GRAPH_NODE_TYPE_WAIT_EVENT => Ok(Work::WaitEvent(raw::read(body))),
        CU_GRAPH_NODE_TYPE_EVENT_RECORD => Ok(Work::RecordEvent(raw::read(body))),
        CU_GRAPH_NODE_TYPE_MEM_ALLOC => {
            let wanted: CUDA_MEM_ALLOC_NODE_PARAMS_v2 = raw::read(body);
            let (work, address) = alloc_work(wanted.bytesize, wanted.poolProps.location)?;
            params.set(CUDA_MEM_ALLOC_NODE_PARAMS_v2 { dptr: CUdeviceptr(address), ..wanted });
            Ok(work)
        }
        CU_GRAPH_NODE_TYPE_MEM_FREE => Ok(Work::Free(raw::read(body))),
        _ => Err(CUerror::NOT_SUPPORTED),
    }
}

pub fn add_any(
    out: Out<CUgraphNode>,
    graph: &'static Graph,
    dependencies: Dependencies,
    count: usize,
    params: Out<CUgraphNodeParams>,
) -> CUresult {
    let mut given = params.get();
    let work = any_work(&mut given)?;
    add_node(out, graph, &dependencies, count, work)?;
    params.set(given);
    Ok(())
}

/// Edges have no data here.
pub fn add_any_v2(
    out: Out<CUgraphNode>,
    graph: &'static Graph,
    dependencies: Dependencies,
    _data: *const c_void,
    count: usize,
    params: Out<CUgraphNodeParams>,
) -> CUresult {
    add_any(out, graph, dependencies, count, params)
}

/// Replaces a node's work by some of the same kind.
fn replace(node: &Node, work: Work) -> CUresult {
    let mut state = node.0.lock();
    if state.work.node_type() != work.node_type() {
        return Err(CUerror::INVALID_VALUE);
    }
    state.work = work;
    Ok(())
}

pub fn set_any(node: &'static Node, params: Out<CUgraphNodeParams>) -> CUresult {
    let mut given = params.get();
    replace(node, any_work(&mut given)?)
}

pub fn set_any_in(exec: &'static Exec, node: CUgraphNode, params: Out<CUgraphNodeParams>) -> CUresult {
    let mut given = params.get();
    exec.replace(node.0, any_work(&mut given)?)
}

pub fn get_kernel(node: &'static Node, out: Out<CUDA_KERNEL_NODE_PARAMS>) -> CUresult {
    let mut state = node.0.lock();
    let Work::Kernel(launch) = state.work.clone() else { return Err(CUerror::INVALID_VALUE) };
    let function = launch.function()?;
    let block = launch.parameters.as_ptr() as usize;
    state.shown = function.entry()?.parameters.iter().map(|parameter| block + parameter.offset).collect();
    let [grid_x, grid_y, grid_z] = launch.shape.grid;
    let [block_x, block_y, block_z] = launch.shape.block;
    out.set(CUDA_KERNEL_NODE_PARAMS {
        func: CUfunction(handle_of(function)),
        gridDimX: grid_x,
        gridDimY: grid_y,
        gridDimZ: grid_z,
        blockDimX: block_x,
        blockDimY: block_y,
        blockDimZ: block_z,
        sharedMemBytes: launch.shape.shared_bytes,
        kernelParams: state.shown.as_mut_ptr().cast(),
        extra: std::ptr::null_mut(),
        kern: CUkernel::NULL,
        ctx: CUcontext::NULL,
    });
    Ok(())
}

/// The older struct is the beginning of the newer one.
pub fn get_kernel_v1(node: &'static Node, out: Out<CUDA_KERNEL_NODE_PARAMS_v1>) -> CUresult {
    let mut newer = CUDA_KERNEL_NODE_PARAMS::default();
    get_kernel(node, Out::to(&mut newer))?;
    out.set(raw::read(&raw const newer as u64));
    Ok(())
}

pub fn set_kernel(node: &'static Node, params: Value<CUDA_KERNEL_NODE_PARAMS>) -> CUresult {
    replace(node, kernel_work(&params.0)?)
}

pub fn set_kernel_v1(node: &'static Node, params: Value<CUDA_KERNEL_NODE_PARAMS_v1>) -> CUresult {
    set_kernel(node, Value(newer(params.0)))
}

pub fn set_kernel_in(
    exec: &'static Exec,
    node: CUgraphNode,
    params: Value<CUDA_KERNEL_NODE_PARAMS>,
) -> CUresult {
    exec.replace(node.0, kernel_work(&params.0)?)
}

pub fn set_kernel_in_v1(
    exec: &'static Exec,
    node: CUgraphNode,
    params: Value<CUDA_KERNEL_NODE_PARAMS_v1>,
) -> CUresult {
    set_kernel_in(exec, node, Value(newer(params.0)))
}

pub fn get_copy(node: &'static Node, out: Out<CUDA_MEMCPY3D>) -> CUresult {
    let Work::Transfer(transfer) = &node.0.lock().work else { return Err(CUerror::INVALID_VALUE) };
    out.set(transfer.description.0);
    Ok(())
}

pub fn set_copy(node: &'static Node, copy: Value<CUDA_MEMCPY3D>) -> CUresult {
    replace(node, copy_work(&copy.0)?)
}

pub fn set_copy_in(
    exec: &'static Exec,
    node: CUgraphNode,
    copy: Value<CUDA_MEMCPY3D>,
    _context: CUcontext,
) -> CUresult {
    exec.replace(node.0, copy_work(&copy.0)?)
}

pub fn get_fill(node: &'static Node, out: Out<CUDA_MEMSET_NODE_PARAMS>) -> CUresult {
    let Work::Fill(fill) = &node.0.lock().work else { return Err(CUerror::INVALID_VALUE) };
    out.set(fill.params);
    Ok(())
}

pub fn set_fill(node: &'static Node, params: Value<CUDA_MEMSET_NODE_PARAMS>) -> CUresult {
    replace(node, Work::Fill(Fill::new(params.0)?))
}

pub fn set_fill_in(
    exec: &'static Exec,
    node: CUgraphNode,
    params: Value<CUDA_MEMSET_NODE_PARAMS>,
    _context: CUcontext,
) -> CUresult {
    exec.replace(node.0, Work::Fill(Fill::new(params.0)?))
}

pub fn get_host(node: &'static Node, out: Out<c_void>) -> CUresult {
    let Work::Host { function, data } = node.0.lock().work else { return Err(CUerror::INVALID_VALUE) };
    out.cast::<[usize; 2]>().set([function, data]);
    Ok(())
}

pub fn set_host(node: &'static Node, params: *const c_void) -> CUresult {
    replace(node, host_work(params)?)
}

pub fn set_host_in(exec: &'static Exec, node: CUgraphNode, params: *const c_void) -> CUresult {
    exec.replace(node.0, host_work(params)?)
}

pub fn set_values(node: &'static Node, params: *const c_void) -> CUresult {
    replace(node, values_work(params)?)
}

pub fn set_values_in(exec: &'static Exec, node: CUgraphNode, params: *const c_void) -> CUresult {
    exec.replace(node.0, values_work(params)?)
}

pub fn get_child(node: &'static Node, out: Out<CUgraph>) -> CUresult {
    let Work::Graph(_, handle) = node.0.lock().work else { return Err(CUerror::INVALID_VALUE) };
    out.set(CUgraph(handle));
    Ok(())
}

pub fn set_child_in(exec: &'static Exec, node: CUgraphNode, child: &'static Graph) -> CUresult {
    exec.replace(node.0, graph::child(child)?)
}

pub fn get_alloc(node: &'static Node, out: Out<CUDA_MEM_ALLOC_NODE_PARAMS>) -> CUresult {
    let state = node.0.lock();
    let Work::Alloc(range) = &state.work else { return Err(CUerror::INVALID_VALUE) };
    let location = CUmemLocation { type_: CU_MEM_LOCATION_TYPE_DEVICE, id: range.ordinal as i32 };
    out.set(CUDA_MEM_ALLOC_NODE_PARAMS {
        poolProps: CUmemPoolProps {
            allocType: CU_MEM_ALLOCATION_TYPE_PINNED,
            location,
            ..CUmemPoolProps::default()
        },
        bytesize: range.asked_bytes as usize,
        dptr: CUdeviceptr(range.address),
        ..CUDA_MEM_ALLOC_NODE_PARAMS::default()
    });
    Ok(())
}

pub fn get_free(node: &'static Node, out: Out<CUdeviceptr>) -> CUresult {
    let Work::Free(address) = node.0.lock().work else { return Err(CUerror::INVALID_VALUE) };
    out.set(CUdeviceptr(address));
    Ok(())
}

fn event_of(work: &Work) -> Option<usize> {
    match *work {
        Work::RecordEvent(event) | Work::WaitEvent(event) => Some(event),
        _ => None,
    }
}

pub fn get_event(node: &'static Node, out: Out<CUevent>) -> CUresult {
    out.set(CUevent(event_of(&node.0.lock().work).ok_or(CUerror::INVALID_VALUE)?));
    Ok(())
}

pub fn set_record_event(node: &'static Node, event: CUevent) -> CUresult {
    replace(node, Work::RecordEvent(event.0))
}

pub fn set_wait_event(node: &'static Node, event: CUevent) -> CUresult {
    replace(node, Work::WaitEvent(event.0))
}

pub fn set_record_event_in(exec: &'static Exec, node: CUgraphNode, event: CUevent) -> CUresult {
    exec.replace(node.0, Work::RecordEvent(event.0))
}

pub fn set_wait_event_in(exec: &'static Exec, node: CUgraphNode, event: CUevent) -> CUresult {
    exec.replace(node.0, Work::WaitEvent(event.0))
}
