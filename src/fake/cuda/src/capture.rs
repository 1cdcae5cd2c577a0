//! Capture: work given to a stream becomes nodes of a graph. And what captures forbid meanwhile.

use crate::context::Context;
use crate::edge::Out;
use crate::event::Event;
use crate::graph::{self, Graph};
use crate::graph_memory::Range;
use crate::slab::handle_of;
use crate::stream::{self, STREAMS, Stream};
use crate::work::Work;
use parking_lot::Mutex;
use std::cell::Cell;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};

/// A capture, of one stream and those that joined it.
pub struct Capture {
    pub id: u64,
    mode: CUstreamCaptureMode,
    thread: u64,
    /// Handle of the stream that it began on.
    origin: usize,
    pub graph: &'static Graph,
    state: AtomicU8,
}

const RUNNING: u8 = 0;
const INVALID: u8 = 1;
const ENDED: u8 = 2;

/// A stream's part in a capture.
pub struct StreamCapture {
    pub capture: Arc<Capture>,
    /// The nodes that the next one depends on.
    pub tips: Vec<usize>,
}

/// Captures under way, in any thread.
static RUNNING_COUNT: AtomicU32 = AtomicU32::new(0);
static ALL: Mutex<Vec<Arc<Capture>>> = Mutex::new(Vec::new());

thread_local! {
    static MODE: Cell<CUstreamCaptureMode> = const { Cell::new(CU_STREAM_CAPTURE_MODE_GLOBAL) };
    static THREAD: Cell<u64> = const { Cell::new(0) };
}

fn this_thread() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    if THREAD.get() == 0 {
        THREAD.set(NEXT.fetch_add(1, Relaxed));
    }
    THREAD.get()
}

impl Capture {
    pub fn is_running(&self) -> bool {
        self.state.load(Acquire) != ENDED
    }

    pub fn invalidate(&self) {
        let _ = self.state.compare_exchange(RUNNING, INVALID, AcqRel, Acquire);
    }

    fn check(&self) -> CUresult {
        if self.state.load(Acquire) == RUNNING { Ok(()) } else { Err(CUerror::STREAM_CAPTURE_INVALIDATED) }
    }

    fn end(self: &Arc<Capture>) {
        if self.state.swap(ENDED, AcqRel) != ENDED {
            RUNNING_COUNT.fetch_sub(1, AcqRel);
            ALL.lock().retain(|other| !Arc::ptr_eq(self, other));
        }
    }
}

/// Fails if a capture forbids this thread calls that could disturb it, and ends that capture's validity.
#[inline]
pub fn forbid_unsafe() -> CUresult {
    if RUNNING_COUNT.load(Acquire) == 0 { Ok(()) } else { forbid_unsafe_here() }
}

#[cold]
fn forbid_unsafe_here() -> CUresult {
    let thread = this_thread();
    let mode = MODE.get();
    if mode == CU_STREAM_CAPTURE_MODE_RELAXED {
        return Ok(());
    }
    let mut result = Ok(());
    for capture in ALL.lock().iter() {
        let own = capture.thread == thread && capture.mode != CU_STREAM_CAPTURE_MODE_RELAXED;
        let global = capture.mode == CU_STREAM_CAPTURE_MODE_GLOBAL && mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
        if own || global {
            capture.invalidate();
            result = Err(CUerror::STREAM_CAPTURE_UNSUPPORTED);
        }
    }
    result
}

/// Fails if any stream of the context is captured, which could then not be waited for.
pub fn forbid_in(context: &Context) -> CUresult {
    forbid_unsafe()?;
    if RUNNING_COUNT.load(Acquire) == 0 {
        return Ok(());
    }
    let mut result = Ok(());
    for capture in ALL.lock().iter() {
        let origin = STREAMS.get(capture.origin).and_then(|origin| origin.context().ok());
        if origin.is_some_and(|origin| std::ptr::eq(origin, context)) {
            capture.invalidate();
            result = Err(CUerror::STREAM_CAPTURE_UNSUPPORTED);
        }
    }
    result
}

/// Fails if the stream is captured: then it can't be waited for or asked.
#[inline]
pub fn forbid_on(stream: &Stream) -> CUresult {
    if RUNNING_COUNT.load(Acquire) == 0 {
        return Ok(());
    }
    forbid_implicit(stream)?;
    match &*stream.capture.lock() {
        None => Ok(()),
        Some(part) => {
            part.capture.invalidate();
            Err(CUerror::STREAM_CAPTURE_UNSUPPORTED)
        }
    }
}

/// The capture that work on a stream would have to wait for: where the stream is the default one, and a blocking
/// stream of its context is captured.
fn implicit(stream: &Stream) -> Result<Option<Arc<Capture>>, CUerror> {
    if !stream.is_legacy() {
        return Ok(None);
    }
    let context = stream.context()?;
    let captured = stream::all_of_context(context).into_iter().filter(|other| other.is_blocking());
    Ok(captured.filter_map(|other| Some(Arc::clone(&other.capture.lock().as_ref()?.capture))).next())
}

/// Fails, in every mode, where the default stream would have to wait for a capture, which can't be expressed.
fn forbid_implicit(stream: &Stream) -> CUresult {
    match implicit(stream)? {
        None => Ok(()),
        Some(capture) => {
            capture.invalidate();
            Err(CUerror::STREAM_CAPTURE_IMPLICIT)
        }
    }
}

/// Adds work to the graph that the stream is captured into; gives it back where there is none.
#[inline]
pub fn add(stream: &Stream, work: Work) -> Result<Option<Work>, CUerror> {
    if RUNNING_COUNT.load(Acquire) == 0 {
        return Ok(Some(work));
    }
    add_here(stream, work)
}

#[cold]
fn add_here(stream: &Stream, work: Work) -> Result<Option<Work>, CUerror> {
    forbid_implicit(stream)?;
    let mut part = stream.capture.lock();
    let Some(part) = &mut *part else { return Ok(Some(work)) };
    part.capture.check()?;
    let node = part.capture.graph.add(work, &part.tips)?;
    part.tips = vec![handle_of(node)];
    Ok(None)
}

/// Whether the stream is captured.
pub fn is_captured(stream: &Stream) -> bool {
    RUNNING_COUNT.load(Acquire) > 0 && stream.is_capturing.load(Acquire)
}

/// Adds an allocation to the graph that the stream is captured into, if it is; gives its address.
pub fn add_alloc(stream: &Stream, bytes: u64) -> Result<Option<u64>, CUerror> {
    if !is_captured(stream) {
        return Ok(None);
    }
    let range = Range::new(bytes, stream.context()?.device().ordinal)?;
    let address = range.address;
    add(stream, Work::Alloc(range))?;
    Ok(Some(address))
}

/// Adds a free to the graph that the stream is captured into; false if it isn't.
pub fn add_free(stream: &Stream, address: u64) -> Result<bool, CUerror> {
    if !is_captured(stream) {
        return Ok(false);
    }
    Ok(add(stream, Work::Free(address))?.is_none())
}

/// Marks an event's place in a capture; false if the stream isn't captured.
pub fn record_event(stream: &Stream, event: &Event) -> Result<bool, CUerror> {
    if RUNNING_COUNT.load(Acquire) == 0 {
        return Ok(false);
    }
    forbid_implicit(stream)?;
    let Some(part) = &*stream.capture.lock() else { return Ok(false) };
    part.capture.check()?;
    event.record_in(Arc::clone(&part.capture), part.tips.clone());
    Ok(true)
}

/// Makes a stream wait for a captured event, and part of its capture; false if neither is captured.
pub fn join_by_event(stream: &Stream, event: &Event) -> Result<bool, CUerror> {
    if RUNNING_COUNT.load(Acquire) == 0 {
        return Ok(false);
    }
    forbid_implicit(stream)?;
    if stream.is_legacy()
        && let Some((capture, _)) = event.captured()
    {
        capture.invalidate();
        return Err(CUerror::STREAM_CAPTURE_UNSUPPORTED);
    }
    let mut part = stream.capture.lock();
    match (&mut *part, event.captured()) {
        (None, None) => Ok(false),
        (Some(part), None) => {
            part.capture.invalidate();
            Err(CUerror::STREAM_CAPTURE_ISOLATION)
        }
        (Some(part), Some((capture, nodes))) => {
            if !Arc::ptr_eq(&part.capture, &capture) {
                part.capture.invalidate();
                capture.invalidate();
                return Err(CUerror::STREAM_CAPTURE_MERGE);
            }
            for node in nodes {
                if !part.tips.contains(&node) {
                    part.tips.push(node);
                }
            }
            Ok(true)
        }
        (none, Some((capture, nodes))) => {
            capture.check()?;
            *none = Some(StreamCapture { capture, tips: nodes });
            stream.is_capturing.store(true, Release);
            Ok(true)
        }
    }
}

/// The stream is about to end.
pub fn abandon(stream: &Stream) {
    let part = stream.capture.lock().take();
    if let Some(part) = part {
        part.capture.invalidate();
        if part.capture.origin == handle_of(stream) {
            part.capture.end();
        }
        stream.is_capturing.store(false, Release);
    }
}

fn begin_into(
    stream: &'static Stream,
    graph: &'static Graph,
    tips: Vec<usize>,
    mode: CUstreamCaptureMode,
) -> CUresult {
    static NEXT_ID: AtomicU64 = AtomicU64::new(1);
    if mode > CU_STREAM_CAPTURE_MODE_RELAXED {
        return Err(CUerror::INVALID_VALUE);
    }
    if stream.is_legacy() {
        return Err(CUerror::STREAM_CAPTURE_UNSUPPORTED);
    }
    let mut part = stream.capture.lock();
    if part.is_some() {
        return Err(CUerror::ILLEGAL_STATE);
    }
    let capture = Arc::new(Capture {
        id: NEXT_ID.fetch_add(1, Relaxed),
        mode,
        thread: this_thread(),
        origin: handle_of(stream),
        graph,
        state: AtomicU8::new(RUNNING),
    });
    ALL.lock().push(Arc::clone(&capture));
    RUNNING_COUNT.fetch_add(1, AcqRel);
    *part = Some(StreamCapture { capture, tips });
    stream.is_capturing.store(true, Release);
    Ok(())
}

pub fn begin_v1(stream: &'static Stream) -> CUresult {
    begin(stream, CU_STREAM_CAPTURE_MODE_GLOBAL)
}

pub fn begin(stream: &'static Stream, mode: CUstreamCaptureMode) -> CUresult {
    let graph = Graph::create()?;
    begin_into(stream, graph, Vec::new(), mode).inspect_err(|_| graph.end())
}

pub fn begin_to_graph(
    stream: &'static Stream,
    graph: &'static Graph,
    dependencies: crate::edge::Items<CUgraphNode>,
    _data: *const c_void,
    count: usize,
    mode: CUstreamCaptureMode,
) -> CUresult {
    let tips = dependencies.first(count).into_iter().map(|node| node.0).collect();
    begin_into(stream, graph, tips, mode)
}

pub fn end(stream: &'static Stream, out: Out<CUgraph>) -> CUresult {
    let (capture, tips) = {
        let part = stream.capture.lock();
        let part = part.as_ref().ok_or(CUerror::ILLEGAL_STATE)?;
        (Arc::clone(&part.capture), part.tips.clone())
    };
    if capture.origin != handle_of(stream) {
        capture.invalidate();
        return Err(CUerror::STREAM_CAPTURE_UNMATCHED);
    }
    if capture.thread != this_thread() && capture.mode != CU_STREAM_CAPTURE_MODE_RELAXED {
        return Err(CUerror::STREAM_CAPTURE_WRONG_THREAD);
    }
    let is_valid = capture.check().is_ok();
    capture.end();
    let mut joined_tips = Vec::new();
    for other in STREAMS.live() {
        let mut part = other.capture.lock();
        if part.as_ref().is_some_and(|part| Arc::ptr_eq(&part.capture, &capture)) {
            if !std::ptr::eq(other, stream) {
                joined_tips.extend(part.take().map(|part| part.tips).unwrap_or_default());
            }
            *part = None;
            other.is_capturing.store(false, Release);
        }
    }
    if !is_valid {
        capture.graph.end();
        out.set(CUgraph::NULL);
        return Err(CUerror::STREAM_CAPTURE_INVALIDATED);
    }
    // Work of joined streams must lead back to the first one.
    if joined_tips.iter().any(|&tip| !tips.contains(&tip) && !capture.graph.leads_to(tip, &tips)) {
        capture.graph.end();
        out.set(CUgraph::NULL);
        return Err(CUerror::STREAM_CAPTURE_UNJOINED);
    }
    out.set(CUgraph(handle_of(capture.graph)));
    Ok(())
}

fn status(stream: &Stream) -> Result<(CUstreamCaptureStatus, Option<Arc<Capture>>), CUerror> {
    if RUNNING_COUNT.load(Acquire) == 0 {
        return Ok((CU_STREAM_CAPTURE_STATUS_NONE, None));
    }
    if implicit(stream)?.is_some() {
        // Having asked does the capture no harm.
        return Err(CUerror::STREAM_CAPTURE_IMPLICIT);
    }
    Ok(match &*stream.capture.lock() {
        None => (CU_STREAM_CAPTURE_STATUS_NONE, None),
        Some(part) if part.capture.check().is_err() => {
            (CU_STREAM_CAPTURE_STATUS_INVALIDATED, Some(Arc::clone(&part.capture)))
        }
        Some(part) => (CU_STREAM_CAPTURE_STATUS_ACTIVE, Some(Arc::clone(&part.capture))),
    })
}

pub fn is_capturing(stream: &'static Stream, out: Out<CUstreamCaptureStatus>) -> CUresult {
    out.set(status(stream)?.0);
    Ok(())
}

pub fn info(stream: &'static Stream, out: Out<CUstreamCaptureStatus>, id: Option<Out<u64>>) -> CUresult {
    let (status, capture) = status(stream)?;
    out.set(status);
    if let (Some(id), Some(capture)) = (id, capture) {
        id.set(capture.id);
    }
    Ok(())
}

pub fn info_v2(
    stream: &'static Stream,
    out: Out<CUstreamCaptureStatus>,
    id: Option<Out<u64>>,
    graph: Option<Out<CUgraph>>,
    dependencies: Option<Out<*const CUgraphNode>>,
    count: Option<Out<usize>>,
) -> CUresult {
    thread_local! {
        /// What the program was last shown; the driver, too, keeps it until the next call.
        static SHOWN: std::cell::RefCell<Vec<CUgraphNode>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    let (status, capture) = status(stream)?;
    out.set(status);
    let Some(capture) = capture else { return Ok(()) };
    if let Some(id) = id {
        id.set(capture.id);
    }
    if let Some(graph) = graph {
        graph.set(CUgraph(handle_of(capture.graph)));
    }
    let tips = stream.capture.lock().as_ref().map(|part| part.tips.clone()).unwrap_or_default();
    if let Some(count) = count {
        count.set(tips.len());
    }
    if let Some(dependencies) = dependencies {
        SHOWN.with_borrow_mut(|shown| {
            *shown = tips.into_iter().map(CUgraphNode).collect();
            dependencies.set(shown.as_ptr());
        });
    }
    Ok(())
}

pub fn info_v3(
    stream: &'static Stream,
    out: Out<CUstreamCaptureStatus>,
    id: Option<Out<u64>>,
    graph: Option<Out<CUgraph>>,
    dependencies: Option<Out<*const CUgraphNode>>,
    data: Option<Out<*const c_void>>,
    count: Option<Out<usize>>,
) -> CUresult {
    if let Some(data) = data {
        data.set(std::ptr::null());
    }
    info_v2(stream, out, id, graph, dependencies, count)
}

/// Flag: replace the dependencies instead of adding to them.
const SET_DEPENDENCIES: u32 = 1;

pub fn update_dependencies(
    stream: &'static Stream,
    dependencies: crate::edge::Items<CUgraphNode>,
    count: usize,
    flags: u32,
) -> CUresult {
    let mut part = stream.capture.lock();
    let part = part.as_mut().ok_or(CUerror::ILLEGAL_STATE)?;
    let nodes: Vec<usize> = dependencies.first(count).into_iter().map(|node| node.0).collect();
    if nodes.iter().any(|&node| graph::NODES.get(node).is_none()) {
        return Err(CUerror::INVALID_VALUE);
    }
    if flags & SET_DEPENDENCIES != 0 {
        part.tips.clear();
    }
    part.tips.extend(nodes);
    Ok(())
}

pub fn update_dependencies_v2(
    stream: &'static Stream,
    dependencies: crate::edge::Items<CUgraphNode>,
    _data: *const c_void,
    count: usize,
    flags: u32,
) -> CUresult {
    update_dependencies(stream, dependencies, count, flags)
}

pub fn exchange_mode(mode: Out<CUstreamCaptureMode>) -> CUresult {
    if mode.get() > CU_STREAM_CAPTURE_MODE_RELAXED {
        return Err(CUerror::INVALID_VALUE);
    }
    mode.set(MODE.replace(mode.get()));
    Ok(())
}
