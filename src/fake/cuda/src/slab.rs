//! Objects behind handles: a handle is an object's address, found valid without a lock and without
//! believing the program.
//!
//! Objects live as long as the process and are used again after they were removed, so a program that uses a
//! handle too long meets a dead or different object, never freed memory. Their fields must therefore be
//! changeable in place (atomics, locks).

use parking_lot::Mutex;
use std::mem::size_of;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicUsize};

/// Objects of one kind there may ever be at the same time.
const CAPACITY: usize = 1 << 20;

/// All objects of one kind.
pub struct Slab<T: 'static> {
    base: OnceLock<usize>,
    /// Bytes from `base` on that hold made slots.
    made_bytes: AtomicUsize,
    unused: Mutex<Vec<&'static Slot<T>>>,
}

#[repr(C)]
struct Slot<T> {
    /// First, so that an object's address is its slot's.
    object: T,
    is_live: AtomicBool,
}

impl<T: Default + Sync + 'static> Slab<T> {
    /// No objects yet.
    pub const fn new() -> Slab<T> {
        Slab { base: OnceLock::new(), made_bytes: AtomicUsize::new(0), unused: Mutex::new(Vec::new()) }
    }

    /// Brings an object to life, fresh or as it was left. `None` when there are too many.
    pub fn add(&self) -> Option<&'static T> {
        let mut unused = self.unused.lock();
        let slot = match unused.pop() {
            Some(slot) => slot,
            None => self.make()?,
        };
        slot.is_live.store(true, Release);
        Some(&slot.object)
    }

    /// Makes one more slot. Call it with `unused` locked.
    fn make(&self) -> Option<&'static Slot<T>> {
        let size = size_of::<Slot<T>>();
        let base = *self.base.get_or_init(|| crate::raw::reserve(CAPACITY * size));
        let made = self.made_bytes.load(Relaxed);
        if base == 0 || made == CAPACITY * size {
            return None;
        }
        let place = (base + made) as *mut Slot<T>;
        // SAFETY: the place lies in the range reserved above, is a multiple of the slot's size from its
        // page-aligned start, and belongs to nobody yet.
        let slot = unsafe {
            place.write(Slot { object: T::default(), is_live: AtomicBool::new(false) });
            &*place
        };
        self.made_bytes.store(made + size, Release);
        Some(slot)
    }

    /// The live object of a handle.
    #[inline]
    pub fn get(&self, handle: usize) -> Option<&'static T> {
        self.slot(handle).filter(|slot| slot.is_live.load(Acquire)).map(|slot| &slot.object)
    }

    #[inline]
    fn slot(&self, handle: usize) -> Option<&'static Slot<T>> {
        let made_bytes = self.made_bytes.load(Acquire);
        let offset = handle.wrapping_sub(*self.base.get()?);
        if offset >= made_bytes || offset % size_of::<Slot<T>>() != 0 {
            return None;
        }
        // SAFETY: slots below `made_bytes` were written whole, are never moved or dropped, and begin at
        // multiples of their size.
        Some(unsafe { &*(handle as *const Slot<T>) })
    }

    /// Ends an object's life; false if another thread did already.
    pub fn remove(&self, object: &'static T) -> bool {
        let Some(slot) = self.slot(handle_of(object)) else { return false };
        let was_live = slot.is_live.swap(false, Release);
        if was_live {
            self.unused.lock().push(slot);
        }
        was_live
    }

    /// All live objects.
    pub fn live(&self) -> Vec<&'static T> {
        let Some(&base) = self.base.get() else { return Vec::new() };
        let end = base + self.made_bytes.load(Acquire);
        (base..end).step_by(size_of::<Slot<T>>()).filter_map(|handle| self.get(handle)).collect()
    }
}

/// The handle of an object of a slab.
#[inline]
pub fn handle_of<T>(object: &T) -> usize {
    std::ptr::from_ref(object) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_live_objects_are_found() {
        static SLAB: Slab<AtomicUsize> = Slab::new();
        assert!(SLAB.get(0).is_none());
        let one = SLAB.add().unwrap();
        let other = SLAB.add().unwrap();
        assert_eq!(SLAB.get(handle_of(one)).map(handle_of), Some(handle_of(one)));
        for wrong in [0, 1, handle_of(one) + 1, handle_of(other) + 16, usize::MAX] {
            assert!(SLAB.get(wrong).is_none(), "{wrong:#x}");
        }
        assert!(SLAB.remove(one));
        assert!(!SLAB.remove(one));
        assert!(SLAB.get(handle_of(one)).is_none());
        assert_eq!(SLAB.live().len(), 1);
        assert_eq!(handle_of(SLAB.add().unwrap()), handle_of(one));
    }
}
