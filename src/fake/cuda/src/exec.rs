//! Executable graphs: made of graphs, launched on streams, changed in small ways.

use crate::cost;
use crate::driver::driver;
use crate::edge::{FromC, Out};
use crate::graph::{self, Graph, Template};
use crate::graph_memory;
use crate::raw;
use crate::settings::settings;
use crate::slab::{Slab, handle_of};
use crate::space::{self, Kind};
use crate::stream::{self, Stream};
use crate::work::Work;
use parking_lot::Mutex;
use std::ffi::{c_char, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};

pub static EXECS: Slab<Exec> = Slab::new();

const UPDATE_SUCCESS: u32 = 0;
const UPDATE_TOPOLOGY_CHANGED: u32 = 2;
const UPDATE_NODE_TYPE_CHANGED: u32 = 3;

/// An executable graph.
#[derive(Default)]
pub struct Exec {
    template: Mutex<Arc<Template>>,
    flags: AtomicU64,
}

impl FromC<CUgraphExec> for &'static Exec {
    unsafe fn from_c(value: CUgraphExec) -> Result<&'static Exec, CUerror> {
        EXECS.get(value.0).ok_or(CUerror::INVALID_VALUE)
    }
}

impl Exec {
    fn create(graph: &Graph, flags: u64) -> Result<&'static Exec, CUerror> {
        let template = Arc::new(graph.template()?);
        let exec = EXECS.add().ok_or(CUerror::OUT_OF_MEMORY)?;
        *exec.template.lock() = template;
        exec.flags.store(flags, Relaxed);
        Ok(exec)
    }

    fn template(&self) -> Arc<Template> {
        Arc::clone(&self.template.lock())
    }

    /// Takes memory for the graph's allocations, if it has none yet.
    fn bind(&self, template: &Template) -> CUresult {
        let ranges = template.ranges();
        match graph::device_of(&ranges) {
            Some(device) => graph_memory::bind(device, handle_of(self), &ranges),
            None => Ok(()),
        }
    }

    /// Replaces one node's work.
    pub fn replace(&self, node: usize, work: Work) -> CUresult {
        let mut template = self.template.lock();
        let template = Arc::make_mut(&mut template);
        let step = template.steps.iter_mut().find(|step| step.node == node);
        let step = step.ok_or(CUerror::INVALID_VALUE)?;
        if step.work.node_type() != work.node_type() {
            return Err(CUerror::INVALID_VALUE);
        }
        step.work = work;
        Ok(())
    }

    fn launch(&self, stream: &'static Stream) -> CUresult {
        let template = self.template();
        let Some(Work::Graph(template, _)) = graph::add_to_capture(stream, template)? else { return Ok(()) };
        let _cost = cost::begin(settings().times.launch_ns);
        self.bind(&template)?;
        self.settle_allocations(&template)?;
        template.run(stream)
    }

    /// Before a launch, nothing that it allocates may be allocated still, unless it may be freed.
    fn settle_allocations(&self, template: &Template) -> CUresult {
        for range in template.ranges() {
            if space::find(range.address).is_none_or(|found| found.kind != Kind::Graph) {
                continue;
            }
            if self.flags.load(Relaxed) & u64::from(CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH) == 0 {
                return Err(CUerror::INVALID_VALUE);
            }
            graph_memory::free(range.address)?;
        }
        Ok(())
    }
}

pub fn instantiate(out: Out<CUgraphExec>, graph: &'static Graph, flags: u64) -> CUresult {
    if flags & !0xf != 0 {
        return Err(CUerror::INVALID_VALUE);
    }
    out.set(CUgraphExec(handle_of(Exec::create(graph, flags)?)));
    Ok(())
}

pub fn instantiate_v2(
    out: Out<CUgraphExec>,
    graph: &'static Graph,
    error_node: Option<Out<CUgraphNode>>,
    _log: *mut c_char,
    _log_bytes: usize,
) -> CUresult {
    if let Some(error_node) = error_node {
        error_node.set(CUgraphNode::NULL);
    }
    instantiate(out, graph, 0)
}

pub fn instantiate_with_params(
    out: Out<CUgraphExec>,
    graph: &'static Graph,
    params: Out<CUDA_GRAPH_INSTANTIATE_PARAMS>,
) -> CUresult {
    let wanted = params.get();
    let result = Exec::create(graph, wanted.flags);
    let result_code = if result.is_ok() {
        CUDA_GRAPH_INSTANTIATE_SUCCESS
    } else {
        CUDA_GRAPH_INSTANTIATE_INVALID_STRUCTURE
    };
    params.set(CUDA_GRAPH_INSTANTIATE_PARAMS {
        hErrNode_out: CUgraphNode::NULL,
        result_out: result_code,
        ..wanted
    });
    let exec = result?;
    if wanted.flags & u64::from(CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD) != 0 {
        stream::find(wanted.hUploadStream)?;
        exec.bind(&exec.template())?;
    }
    out.set(CUgraphExec(handle_of(exec)));
    Ok(())
}

pub fn destroy(exec: &'static Exec) -> CUresult {
    if !EXECS.remove(exec) {
        return Err(CUerror::INVALID_VALUE);
    }
    let template = std::mem::take(&mut *exec.template.lock());
    for device in &driver().devices {
        graph_memory::unbind(device, handle_of(exec));
    }
    drop(template);
    Ok(())
}

pub fn upload(exec: &'static Exec, _stream: &'static Stream) -> CUresult {
    exec.bind(&exec.template())
}

pub fn launch(exec: &'static Exec, stream: &'static Stream) -> CUresult {
    exec.launch(stream)
}

pub fn get_flags(exec: &'static Exec, out: Out<u64>) -> CUresult {
    out.set(exec.flags.load(Relaxed));
    Ok(())
}

pub fn get_enabled(exec: &'static Exec, node: CUgraphNode, out: Out<u32>) -> CUresult {
    let template = exec.template();
    let step = template.steps.iter().find(|step| step.node == node.0).ok_or(CUerror::INVALID_VALUE)?;
    out.set(u32::from(step.is_enabled));
    Ok(())
}

pub fn set_enabled(exec: &'static Exec, node: CUgraphNode, is_enabled: u32) -> CUresult {
    let mut template = exec.template.lock();
    let template = Arc::make_mut(&mut template);
    let step = template.steps.iter_mut().find(|step| step.node == node.0).ok_or(CUerror::INVALID_VALUE)?;
    step.is_enabled = is_enabled != 0;
    Ok(())
}

/// Takes over a graph of the same shape; says how that went.
fn update_with(exec: &Exec, graph: &Graph) -> Result<u32, CUerror> {
    let new = graph.template()?;
    let mut old = exec.template.lock();
    if old.steps.len() != new.steps.len() {
        return Ok(UPDATE_TOPOLOGY_CHANGED);
    }
    for (old, new) in old.steps.iter().zip(&new.steps) {
        if old.dependencies != new.dependencies {
            return Ok(UPDATE_TOPOLOGY_CHANGED);
        }
        if old.work.node_type() != new.work.node_type() {
            return Ok(UPDATE_NODE_TYPE_CHANGED);
        }
    }
    let steps = old.steps.iter().zip(new.steps).map(|(old, new)| {
        // Nodes keep the handles that the program knows the executable graph's nodes by.
        graph::Step { node: old.node, is_enabled: old.is_enabled, ..new }
    });
    *old = Arc::new(Template { steps: steps.collect() });
    Ok(UPDATE_SUCCESS)
}

fn update_result(code: u32) -> CUresult {
    if code == UPDATE_SUCCESS { Ok(()) } else { Err(CUerror::GRAPH_EXEC_UPDATE_FAILURE) }
}

pub fn update(
    exec: &'static Exec,
    graph: &'static Graph,
    error_node: Option<Out<CUgraphNode>>,
    result: Out<u32>,
) -> CUresult {
    if let Some(error_node) = error_node {
        error_node.set(CUgraphNode::NULL);
    }
    let code = update_with(exec, graph)?;
    result.set(code);
    update_result(code)
}

/// The result is followed by the nodes at fault, which aren't told here.
pub fn update_v2(exec: &'static Exec, graph: &'static Graph, result: *mut c_void) -> CUresult {
    if result.is_null() {
        return Err(CUerror::INVALID_VALUE);
    }
    let code = update_with(exec, graph)?;
    raw::write(result as u64, [u64::from(code), 0, 0]);
    update_result(code)
}
