//! One piece of work: what a stream is given, and what a graph's node does. Its effect on memory happens
//! when it is queued, in the order of queuing; its time passes on the stream's line. Host functions and values
//! that a stream writes or waits for happen in their time.

use crate::callback::{self, Action};
use crate::event::EVENTS;
use crate::fill::Fill;
use crate::graph::Template;
use crate::kernel::Launch;
use crate::settings::settings;
use crate::stream::Stream;
use crate::transfer::Transfer;
use crate::values::Value;
use crate::{capture, cost};
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
    /// Values in memory that are written and waited for.
    Values(Arc<[Value]>),
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
            Some(work) => {
                let _cost = cost::begin(settings().times.launch_ns);
                work.run(stream)
            }
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
            Work::Values(values) => values.iter().try_for_each(|value| value.run(stream)),
            Work::Graph(template, _) => template.run(stream),
            &Work::RecordEvent(event) => EVENTS.get(event).ok_or(CUerror::INVALID_HANDLE)?.record_on(stream),
            &Work::WaitEvent(event) => {
                let event = EVENTS.get(event).ok_or(CUerror::INVALID_HANDLE)?;
                event.pending().map_or(Ok(()), |mark| stream.wait_for(mark))
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
            Work::Values(_) => CU_GRAPH_NODE_TYPE_BATCH_MEM_OP,
            Work::Graph(..) => CU_GRAPH_NODE_TYPE_GRAPH,
            Work::RecordEvent(_) => CU_GRAPH_NODE_TYPE_EVENT_RECORD,
            Work::WaitEvent(_) => CU_GRAPH_NODE_TYPE_WAIT_EVENT,
            Work::Alloc(_) => CU_GRAPH_NODE_TYPE_MEM_ALLOC,
            Work::Free(_) => CU_GRAPH_NODE_TYPE_MEM_FREE,
        }
    }
}
