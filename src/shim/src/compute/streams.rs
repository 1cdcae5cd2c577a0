//! From the handle that a program names a stream by to the stream's time line.
//!
//! Owns the table of streams that were given work, and each thread's memory of those it used last, which is all that
//! a launch usually touches. A stream is forgotten before the driver destroys it; from then on no event is recorded
//! on it.

use crate::capture;
use crate::compute::events::{self, Gpu};
use crate::compute::{Pace, Stream};
use crate::driver;
use crate::hash::{WordMap, spread};
use crate::slice::Slice;
use parking_lot::Mutex;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use vcuda_driver::cuda::types::{CU_STREAM_LEGACY, CU_STREAM_PER_THREAD, CUcontext, CUstream};

/// How a program names a stream in one call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StreamName(CUstream);

impl StreamName {
    /// Whether work for the stream goes into a graph now.
    pub fn is_capturing(self) -> bool {
        // The default stream of a context can't be captured, and asking about it disturbs captures.
        self.0 != CU_STREAM_LEGACY && driver::stream_is_capturing(self.0)
    }

    /// Whether what the program gives it now is captured: a graph's, and not run.
    #[inline]
    pub fn is_captured(self) -> bool {
        capture::active() && self.is_capturing()
    }

    #[inline]
    fn is_default(self) -> bool {
        self.0 == CU_STREAM_LEGACY || self.0 == CU_STREAM_PER_THREAD
    }

    /// Where the stream is, as the calling thread names it; `None` if it has no context.
    #[inline]
    fn locate(self) -> Option<Key> {
        if !self.is_default() {
            return Some(Key { handle: self.0, context: CUcontext::NULL, thread: 0 });
        }
        let context = driver::current_context().ok().filter(|&context| context != CUcontext::NULL)?;
        let thread = if self.0 == CU_STREAM_PER_THREAD { this_thread() } else { 0 };
        Some(Key { handle: self.0, context, thread })
    }
}

/// Which stream a call means by 0, or by naming none.
pub trait DefaultStream {
    /// The stream, as the program named it.
    fn name(stream: CUstream) -> StreamName;
}

/// Of ordinary symbols: the context's default stream.
pub struct Legacy;

/// Of `_ptds` and `_ptsz` symbols: the thread's own default stream.
pub struct PerThread;

impl DefaultStream for Legacy {
    #[inline]
    fn name(stream: CUstream) -> StreamName {
        StreamName(if stream == CUstream::NULL { CU_STREAM_LEGACY } else { stream })
    }
}

impl DefaultStream for PerThread {
    #[inline]
    fn name(stream: CUstream) -> StreamName {
        StreamName(if stream == CUstream::NULL { CU_STREAM_PER_THREAD } else { stream })
    }
}

/// What tells streams apart: default streams have the same handle in every context or thread.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    handle: CUstream,
    context: CUcontext,
    thread: usize,
}

/// A stream as events are recorded on it.
#[derive(Clone, Copy)]
pub struct Place {
    key: Key,
    /// Its context.
    pub context: CUcontext,
}

impl Place {
    /// The handle to record on, if the calling thread can name the stream.
    pub fn handle(&self) -> Option<CUstream> {
        let name = StreamName(self.key.handle);
        (!name.is_default() || name.locate() == Some(self.key)).then_some(self.key.handle)
    }

    /// As [`StreamName::is_captured`].
    pub fn is_captured(&self) -> bool {
        StreamName(self.key.handle).is_captured()
    }

    /// Whether it is a default stream, which other streams' captures may depend on.
    pub fn is_default(&self) -> bool {
        StreamName(self.key.handle).is_default()
    }
}

/// A stream that was found.
#[derive(Clone)]
pub struct Known {
    key: Key,
    generation: u64,
    /// Its device.
    pub pace: &'static Pace,
    /// Its time line.
    pub stream: Arc<Stream>,
}

/// Streams that a thread remembers.
const RECENT: usize = 16;

thread_local! {
    static RECENTLY_USED: RefCell<[Option<Known>; RECENT]> = const { RefCell::new([const { None }; RECENT]) };
    static MARK: u8 = const { 0 };
}

/// Tells this thread from all others that live.
fn this_thread() -> usize {
    MARK.try_with(|mark| std::ptr::from_ref(mark) as usize).unwrap_or(1)
}

fn recent_place(key: &Key) -> usize {
    (spread(key.handle.as_u64() ^ key.context.as_u64()) as usize) % RECENT
}

/// All streams that were given work.
#[derive(Default)]
pub struct Directory {
    streams: Mutex<WordMap<Key, (usize, Arc<Stream>)>>,
    /// Raised whenever what threads remember may be wrong.
    generation: AtomicU64,
}

/// Told apart over forks too, where a child makes a directory of its own.
static GENERATIONS: AtomicU64 = AtomicU64::new(1);

impl Directory {
    /// An empty directory.
    pub fn new() -> Directory {
        let directory = Directory::default();
        directory.renew();
        directory
    }

    fn renew(&self) {
        self.generation.store(GENERATIONS.fetch_add(1, Ordering::Relaxed), Ordering::Release);
    }

    /// The time line of a stream, out of this thread's memory until [`Directory::put_back`]; `None` if its device has
    /// no share.
    #[inline]
    pub fn take(&self, slice: &'static Slice, stream: StreamName) -> Option<Known> {
        let key = stream.locate()?;
        let generation = self.generation.load(Ordering::Acquire);
        let remembered = RECENTLY_USED.try_with(|recent| {
            let mut recent = recent.try_borrow_mut().ok()?;
            let place = recent.get_mut(recent_place(&key))?;
            place.take_if(|known| known.key == key && known.generation == generation)
        });
        match remembered {
            Ok(Some(known)) => Some(known),
            _ => self.find(slice, key, generation),
        }
    }

    /// Remembers a stream for this thread's next use.
    #[inline]
    pub fn put_back(&self, known: Known) {
        // A thread that is ending has no memory any more.
        let _ = RECENTLY_USED.try_with(|recent| {
            if let Ok(mut recent) = recent.try_borrow_mut()
                && let Some(place) = recent.get_mut(recent_place(&known.key))
            {
                *place = Some(known);
            }
        });
    }

    #[cold]
    fn find(&self, slice: &'static Slice, key: Key, generation: u64) -> Option<Known> {
        let found = self.streams.lock().get(&key).cloned();
        if let Some((position, stream)) = found {
            return Some(Known { key, generation, pace: slice.pace_at(position)?, stream });
        }
        let is_default = StreamName(key.handle).is_default();
        let device =
            if is_default { driver::current_device() } else { driver::stream_device(key.handle) }.ok()?;
        let context = if is_default { key.context } else { driver::stream_context(key.handle).ok()? };
        let position = usize::try_from(device).ok()?;
        let pace = slice.pace_at(position)?;
        let stream = pace.meter.add(Place { key, context });
        self.streams.lock().insert(key, (position, Arc::clone(&stream)));
        Some(Known { key, generation, pace, stream })
    }

    /// Whether events may be recorded on a stream.
    pub fn knows(&self, place: &Place) -> bool {
        self.streams.lock().contains_key(&place.key)
    }

    /// The streams of which `is_wanted` says so, each with its device.
    pub fn select(
        &self,
        slice: &'static Slice,
        is_wanted: impl Fn(&Place) -> bool,
    ) -> Vec<(&'static Pace, Arc<Stream>)> {
        let streams = self.streams.lock();
        let wanted = streams.values().filter(|(_, stream)| is_wanted(&stream.stream));
        wanted
            .filter_map(|(position, stream)| Some((slice.pace_at(*position)?, Arc::clone(stream))))
            .collect()
    }

    /// Forgets streams that are about to go, and returns when nobody records on them any more.
    pub fn forget(&self, slice: &Slice, is_gone: impl Fn(&Place) -> bool) {
        let mut gone = Vec::new();
        self.streams.lock().retain(|key, (position, stream)| {
            let keep = !is_gone(&stream.stream);
            if !keep {
                gone.push((*key, *position));
            }
            keep
        });
        if gone.is_empty() {
            return;
        }
        self.renew();
        events::wait_for_recorders();
        for (key, position) in gone {
            if let Some(pace) = slice.pace_at(position) {
                pace.meter.remove(&Gpu, |place| place.key == key);
            }
        }
    }

    /// Forgets a stream that the program destroys.
    pub fn forget_stream(&self, slice: &Slice, stream: CUstream) {
        self.forget(slice, |place| place.key.handle == stream);
    }
}
