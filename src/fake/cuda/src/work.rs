//! One piece of work: what a stream is given, and what a graph's node does. Its effect on memory happens
//! when it is queued, in the order of queuing; its time passes on the stream's time line.

use crate::callback::{self, Action};
use crate::capture;
use crate::event::EVENTS;
use crate::fill::Fill;
use crate::graph::Template;
use crate::kernel::Launch;
use crate::stream::Stream;
use crate::transfer::Transfer;
use std::sync::Arc;
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};

/// A piece of work.
#[derive(Clone)]
pub enum Work {
    Empty,
    Kernel(Launch),
    Transfer(Box<Transfer>),
    Fill(Fill),
    Host {
        function: usize,
        data: usize,
    },
    Write32 {
        address: u64,
        value: u32,
    },
    Write64 {
        address: u64,
        value: u64,
    },
    /// A graph within a graph, and the handle that it can be edited by.
    Graph(Arc<Template>, usize),
    RecordEvent(usize),
    WaitEvent(usize),
    /// Memory for a graph's run.
    Alloc(Arc<crate::graph_memory::Range>),
    /// Memory of a graph to be freed.
    Free(u64),
}

impl Work {
    /// Queues the work on a stream, or adds it to the graph that the stream is captured into.
    pub fn submit(self, stream: &'static Stream) -> CUresult {
        match capture::add(stream, self)? {
            None => Ok(()),
            Some(work) => work.run(stream),
        }
    }

    /// Queues the work.
    pub fn run(&self, stream: &'static Stream) -> CUresult {
        stream.context()?.check()?;
        match self {
            Work::Empty => Ok(()),
            Work::Kernel(launch) => launch.run(stream),
            Work::Transfer(transfer) => transfer.run(stream),
            Work::Fill(fill) => fill.run(stream),
            &Work::Host { function, data } => callback::at_end_of(stream, Action::Call { function, data }),
            &Work::Write32 { address, value } => {
                callback::at_end_of(stream, Action::Write32 { address, value })
            }
            &Work::Write64 { address, value } => {
                callback::at_end_of(stream, Action::Write64 { address, value })
            }
            Work::Graph(template, _) => template.run(stream),
            &Work::RecordEvent(event) => EVENTS.get(event).ok_or(CUerror::INVALID_HANDLE)?.record_on(stream),
            &Work::WaitEvent(event) => {
                let event = EVENTS.get(event).ok_or(CUerror::INVALID_HANDLE)?;
                stream.wait_until(event.time_ns.load(std::sync::atomic::Ordering::Acquire))
            }
            Work::Alloc(range) => {
                range.enter(stream);
                Ok(())
            }
            &Work::Free(address) => crate::graph_memory::free(address),
        }
    }

    /// The kind of node that does this.
    pub fn node_type(&self) -> CUgraphNodeType {
        match self {
            Work::Empty => CU_GRAPH_NODE_TYPE_EMPTY,
            Work::Kernel(_) => CU_GRAPH_NODE_TYPE_KERNEL,
            Work::Transfer(_) => CU_GRAPH_NODE_TYPE_MEMCPY,
            Work::Fill(_) => CU_GRAPH_NODE_TYPE_MEMSET,
            Work::Host { .. } => CU_GRAPH_NODE_TYPE_HOST,
            Work::Write32 { .. } | Work::Write64 { .. } => CU_GRAPH_NODE_TYPE_BATCH_MEM_OP,
            Work::Graph(..) => CU_GRAPH_NODE_TYPE_GRAPH,
            Work::RecordEvent(_) => CU_GRAPH_NODE_TYPE_EVENT_RECORD,
            Work::WaitEvent(_) => CU_GRAPH_NODE_TYPE_WAIT_EVENT,
            Work::Alloc(_) => CU_GRAPH_NODE_TYPE_MEM_ALLOC,
            Work::Free(_) => CU_GRAPH_NODE_TYPE_MEM_FREE,
        }
    }
}
