//! Graphs: nodes of work with what each waits for, and the order they run in.

use crate::capture;
use crate::driver::driver;
use crate::edge::{FromC, Items, Out};
use crate::graph_memory::Range;
use crate::kernel::Run;
use crate::slab::{Slab, handle_of};
use crate::stream::Stream;
use crate::work::Work;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};

pub static GRAPHS: Slab<Graph> = Slab::new();
pub static NODES: Slab<Node> = Slab::new();

/// A graph as it is built: the handles of its nodes.
#[derive(Default)]
pub struct Graph(Mutex<Vec<usize>>);

/// A node.
#[derive(Default)]
pub struct Node(pub Mutex<NodeState>);

/// What a node is.
pub struct NodeState {
    pub graph: usize,
    pub work: Work,
    pub dependencies: Vec<usize>,
    /// In a clone, the node that this one is the copy of.
    pub original: usize,
    /// Addresses of a kernel's parameters, for whoever asks for them.
    pub shown: Vec<usize>,
}

impl Default for NodeState {
    fn default() -> NodeState {
        NodeState { graph: 0, work: Work::Empty, dependencies: Vec::new(), original: 0, shown: Vec::new() }
    }
}

/// A graph in the order it runs in.
#[derive(Clone, Default)]
pub struct Template {
    pub steps: Vec<Step>,
}

/// A node as it runs.
#[derive(Clone)]
pub struct Step {
    pub node: usize,
    pub work: Work,
    pub is_enabled: bool,
    /// Places in the order of what it waits for.
    pub dependencies: Vec<usize>,
}

impl FromC<CUgraph> for &'static Graph {
    unsafe fn from_c(value: CUgraph) -> Result<&'static Graph, CUerror> {
        find(value)
    }
}

impl FromC<CUgraphNode> for &'static Node {
    unsafe fn from_c(value: CUgraphNode) -> Result<&'static Node, CUerror> {
        NODES.get(value.0).ok_or(CUerror::INVALID_VALUE)
    }
}

/// The graph of a handle.
pub fn find(handle: CUgraph) -> Result<&'static Graph, CUerror> {
    GRAPHS.get(handle.0).ok_or(CUerror::INVALID_VALUE)
}

impl Graph {
    pub fn create() -> Result<&'static Graph, CUerror> {
        let graph = GRAPHS.add().ok_or(CUerror::OUT_OF_MEMORY)?;
        graph.0.lock().clear();
        Ok(graph)
    }

    /// Adds a node that waits for others.
    pub fn add(&self, work: Work, dependencies: &[usize]) -> Result<&'static Node, CUerror> {
        let mut nodes = self.0.lock();
        if dependencies.iter().any(|dependency| !nodes.contains(dependency)) {
            return Err(CUerror::INVALID_VALUE);
        }
        let node = NODES.add().ok_or(CUerror::OUT_OF_MEMORY)?;
        *node.0.lock() = NodeState {
            graph: handle_of(self),
            work,
            dependencies: dependencies.to_vec(),
            original: 0,
            shown: Vec::new(),
        };
        nodes.push(handle_of(node));
        Ok(node)
    }

    /// Ends the graph and its nodes.
    pub fn end(&'static self) {
        if !GRAPHS.remove(self) {
            return;
        }
        let nodes = std::mem::take(&mut *self.0.lock());
        for node in nodes.into_iter().filter_map(|handle| NODES.get(handle)) {
            end_node(node);
        }
    }

    fn nodes(&self) -> Vec<&'static Node> {
        self.0.lock().iter().filter_map(|&handle| NODES.get(handle)).collect()
    }

    /// Whether one of `ends` waits, by way of others, for `from`.
    pub fn leads_to(&self, from: usize, ends: &[usize]) -> bool {
        let mut waiting = ends.to_vec();
        let mut seen = Vec::new();
        while let Some(handle) = waiting.pop() {
            if handle == from {
                return true;
            }
            if seen.contains(&handle) {
                continue;
            }
            seen.push(handle);
            if let Some(node) = NODES.get(handle) {
                waiting.extend(&node.0.lock().dependencies);
            }
        }
        false
    }

    /// The graph in an order that it can run in.
    pub fn template(&self) -> Result<Template, CUerror> {
        let mut left = self.nodes();
        let mut places: HashMap<usize, usize> = HashMap::new();
        let mut steps = Vec::with_capacity(left.len());
        while !left.is_empty() {
            let before = left.len();
            left.retain(|node| {
                let state = node.0.lock();
                let dependencies: Option<Vec<usize>> =
                    state.dependencies.iter().map(|handle| places.get(handle).copied()).collect();
                let Some(dependencies) = dependencies else { return true };
                places.insert(handle_of(*node), steps.len());
                let work = state.work.clone();
                steps.push(Step { node: handle_of(*node), work, is_enabled: true, dependencies });
                false
            });
            if left.len() == before {
                // What is left waits for itself.
                return Err(CUerror::INVALID_VALUE);
            }
        }
        Ok(Template { steps })
    }
}

fn end_node(node: &'static Node) {
    if NODES.remove(node) {
        *node.0.lock() = NodeState::default();
    }
}

impl Template {
    /// Queues everything, in order. Kernels that follow each other are queued as one.
    pub fn run(&self, stream: &'static Stream) -> CUresult {
        let mut pending: Option<Run> = None;
        let queue = |run: Option<Run>| run.map_or(Ok(()), |run| run.queue(stream));
        for step in self.steps.iter().filter(|step| step.is_enabled) {
            let Work::Kernel(launch) = &step.work else {
                queue(pending.take())?;
                step.work.run(stream)?;
                continue;
            };
            stream.context()?.check()?;
            let Some(run) = launch.act(stream)? else { continue };
            let joined = pending.and_then(|pending| pending.followed_by(run));
            if joined.is_none() {
                queue(pending.take())?;
            }
            pending = Some(joined.unwrap_or(run));
        }
        queue(pending)
    }

    /// Addresses that the graph's allocations have, those of graphs within it included.
    pub fn ranges(&self) -> Vec<Arc<Range>> {
        let mut ranges = Vec::new();
        for step in &self.steps {
            match &step.work {
                Work::Alloc(range) => ranges.push(Arc::clone(range)),
                Work::Graph(template, _) => ranges.extend(template.ranges()),
                _ => {}
            }
        }
        ranges
    }
}

/// Adds a node and hands it to the program.
pub fn add_node(
    out: Out<CUgraphNode>,
    graph: &'static Graph,
    dependencies: &Items<CUgraphNode>,
    count: usize,
    work: Work,
) -> CUresult {
    let dependencies: Vec<usize> = dependencies.first(count).into_iter().map(|node| node.0).collect();
    out.set(CUgraphNode(handle_of(graph.add(work, &dependencies)?)));
    Ok(())
}

pub fn create(out: Out<CUgraph>, flags: u32) -> CUresult {
    if flags != 0 {
        return Err(CUerror::INVALID_VALUE);
    }
    out.set(CUgraph(handle_of(Graph::create()?)));
    Ok(())
}

pub fn destroy(graph: &'static Graph) -> CUresult {
    graph.end();
    Ok(())
}

pub fn destroy_node(node: &'static Node) -> CUresult {
    let handle = handle_of(node);
    let graph = node.0.lock().graph;
    if let Some(graph) = GRAPHS.get(graph) {
        graph.0.lock().retain(|&other| other != handle);
        for other in graph.nodes() {
            other.0.lock().dependencies.retain(|&dependency| dependency != handle);
        }
    }
    end_node(node);
    Ok(())
}

pub fn clone(out: Out<CUgraph>, original: &'static Graph) -> CUresult {
    let copy = Graph::create()?;
    let mut copies: HashMap<usize, usize> = HashMap::new();
    for node in original.nodes() {
        let work = node.0.lock().work.clone();
        let copied = copy.add(work, &[])?;
        copied.0.lock().original = handle_of(node);
        copies.insert(handle_of(node), handle_of(copied));
    }
    for node in original.nodes() {
        let dependencies = node.0.lock().dependencies.clone();
        if let Some(copied) = copies.get(&handle_of(node)).and_then(|&handle| NODES.get(handle)) {
            copied.0.lock().dependencies =
                dependencies.iter().filter_map(|handle| copies.get(handle).copied()).collect();
        }
    }
    out.set(CUgraph(handle_of(copy)));
    Ok(())
}

pub fn find_in_clone(out: Out<CUgraphNode>, original: CUgraphNode, copy: &'static Graph) -> CUresult {
    let found = copy.nodes().into_iter().find(|node| node.0.lock().original == original.0);
    out.set(CUgraphNode(handle_of(found.ok_or(CUerror::INVALID_VALUE)?)));
    Ok(())
}

/// Gives as many handles as there is room for, zeros beyond, and how many there are.
fn give_nodes(nodes: &[usize], room: Option<Out<CUgraphNode>>, count: Out<usize>) -> CUresult {
    let Some(room) = room else {
        count.set(nodes.len());
        return Ok(());
    };
    for index in 0..count.get() {
        room.set_at(index, CUgraphNode(nodes.get(index).copied().unwrap_or(0)));
    }
    count.set(nodes.len().min(count.get()));
    Ok(())
}

pub fn get_nodes(graph: &'static Graph, room: Option<Out<CUgraphNode>>, count: Out<usize>) -> CUresult {
    let nodes = graph.0.lock().clone();
    give_nodes(&nodes, room, count)
}

pub fn get_root_nodes(graph: &'static Graph, room: Option<Out<CUgraphNode>>, count: Out<usize>) -> CUresult {
    let nodes = graph.nodes();
    let roots: Vec<usize> =
        nodes.into_iter().filter(|node| node.0.lock().dependencies.is_empty()).map(handle_of).collect();
    give_nodes(&roots, room, count)
}

fn edges(graph: &Graph) -> Vec<(usize, usize)> {
    let nodes = graph.nodes();
    nodes
        .into_iter()
        .flat_map(|node| {
            let to = handle_of(node);
            node.0.lock().dependencies.iter().map(move |&from| (from, to)).collect::<Vec<_>>()
        })
        .collect()
}

pub fn get_edges(
    graph: &'static Graph,
    from: Option<Out<CUgraphNode>>,
    to: Option<Out<CUgraphNode>>,
    count: Out<usize>,
) -> CUresult {
    let edges = edges(graph);
    let room = count.get();
    if let (Some(from), Some(to)) = (&from, &to) {
        for (index, &(start, end)) in edges.iter().take(room).enumerate() {
            from.set_at(index, CUgraphNode(start));
            to.set_at(index, CUgraphNode(end));
        }
        count.set(edges.len().min(room));
    } else {
        count.set(edges.len());
    }
    Ok(())
}

/// Edges have no data here.
pub fn get_edges_v2(
    graph: &'static Graph,
    from: Option<Out<CUgraphNode>>,
    to: Option<Out<CUgraphNode>>,
    _data: *mut std::ffi::c_void,
    count: Out<usize>,
) -> CUresult {
    get_edges(graph, from, to, count)
}

pub fn node_dependencies(node: &'static Node, room: Option<Out<CUgraphNode>>, count: Out<usize>) -> CUresult {
    let dependencies = node.0.lock().dependencies.clone();
    give_nodes(&dependencies, room, count)
}

pub fn node_dependencies_v2(
    node: &'static Node,
    room: Option<Out<CUgraphNode>>,
    _data: *mut std::ffi::c_void,
    count: Out<usize>,
) -> CUresult {
    node_dependencies(node, room, count)
}

pub fn node_dependents(node: &'static Node, room: Option<Out<CUgraphNode>>, count: Out<usize>) -> CUresult {
    let graph = find(CUgraph(node.0.lock().graph))?;
    let from = handle_of(node);
    let dependents: Vec<usize> =
        edges(graph).into_iter().filter(|&(start, _)| start == from).map(|(_, end)| end).collect();
    give_nodes(&dependents, room, count)
}

pub fn node_dependents_v2(
    node: &'static Node,
    room: Option<Out<CUgraphNode>>,
    _data: *mut std::ffi::c_void,
    count: Out<usize>,
) -> CUresult {
    node_dependents(node, room, count)
}

fn change_edges(
    graph: &Graph,
    from: &Items<CUgraphNode>,
    to: &Items<CUgraphNode>,
    count: usize,
    change: impl Fn(&mut Vec<usize>, usize) -> CUresult,
) -> CUresult {
    let members = graph.0.lock().clone();
    for (from, to) in from.first(count).into_iter().zip(to.first(count)) {
        if !members.contains(&from.0) || !members.contains(&to.0) {
            return Err(CUerror::INVALID_VALUE);
        }
        let node = NODES.get(to.0).ok_or(CUerror::INVALID_VALUE)?;
        change(&mut node.0.lock().dependencies, from.0)?;
    }
    Ok(())
}

pub fn add_dependencies(
    graph: &'static Graph,
    from: Items<CUgraphNode>,
    to: Items<CUgraphNode>,
    count: usize,
) -> CUresult {
    change_edges(graph, &from, &to, count, |dependencies, from| {
        if dependencies.contains(&from) {
            return Err(CUerror::INVALID_VALUE);
        }
        dependencies.push(from);
        Ok(())
    })
}

pub fn add_dependencies_v2(
    graph: &'static Graph,
    from: Items<CUgraphNode>,
    to: Items<CUgraphNode>,
    _data: *const std::ffi::c_void,
    count: usize,
) -> CUresult {
    add_dependencies(graph, from, to, count)
}

pub fn remove_dependencies(
    graph: &'static Graph,
    from: Items<CUgraphNode>,
    to: Items<CUgraphNode>,
    count: usize,
) -> CUresult {
    change_edges(graph, &from, &to, count, |dependencies, from| {
        dependencies.retain(|&other| other != from);
        Ok(())
    })
}

pub fn remove_dependencies_v2(
    graph: &'static Graph,
    from: Items<CUgraphNode>,
    to: Items<CUgraphNode>,
    _data: *const std::ffi::c_void,
    count: usize,
) -> CUresult {
    remove_dependencies(graph, from, to, count)
}

pub fn node_type(node: &'static Node, out: Out<CUgraphNodeType>) -> CUresult {
    out.set(node.0.lock().work.node_type());
    Ok(())
}

pub fn node_graph(node: &'static Node, out: Out<CUgraph>) -> CUresult {
    out.set(CUgraph(node.0.lock().graph));
    Ok(())
}

/// The device whose graph memory a template takes; `None` if it takes none.
pub fn device_of(ranges: &[Arc<Range>]) -> Option<&'static crate::device::Device> {
    ranges.first().map(|range| &driver().devices[range.ordinal])
}

/// A graph as a node of another: it is copied, and the copy can be edited by its handle.
pub fn child(graph: &'static Graph) -> Result<Work, CUerror> {
    Ok(Work::Graph(Arc::new(graph.template()?), handle_of(graph)))
}

/// Launches an executable graph as part of the graph that the stream is captured into.
pub fn add_to_capture(stream: &Stream, template: Arc<Template>) -> Result<Option<Work>, CUerror> {
    capture::add(stream, Work::Graph(template, 0))
}
