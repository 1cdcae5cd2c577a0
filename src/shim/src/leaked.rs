//! A value that is made once and lives as long as the process, published without a lock.
//!
//! A lock here would hang a child forked while another thread was making the value (std's `OnceLock` does).
//! Threads that race make one each; the first to publish wins and the others drop theirs.
#![allow(unsafe_code)]

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A place for one leaked value.
pub struct Leaked<T>(AtomicPtr<T>);

impl<T: Sync> Leaked<T> {
    /// An empty place.
    pub const fn new() -> Leaked<T> {
        Leaked(AtomicPtr::new(ptr::null_mut()))
    }

    /// The value, if there is one.
    #[inline]
    pub fn get(&self) -> Option<&'static T> {
        // SAFETY: only `publish` stores here, always a leaked box.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    /// Replaces `seen` (what `get` gave) by `value`; if another thread was faster, drops `value` and gives
    /// the other's.
    pub fn publish(&self, seen: Option<&'static T>, value: T) -> &'static T {
        let seen = seen.map_or(ptr::null_mut(), |seen| ptr::from_ref(seen).cast_mut());
        let made = Box::into_raw(Box::new(value));
        match self.0.compare_exchange(seen, made, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: the box was leaked above and is shared from now on.
            Ok(_) => unsafe { &*made },
            Err(theirs) => {
                // SAFETY: nobody has seen our box, so it is still ours alone to drop.
                drop(unsafe { Box::from_raw(made) });
                // SAFETY: another thread published this leaked box.
                unsafe { &*theirs }
            }
        }
    }

    /// The value, made by `make` if there is none yet.
    pub fn get_or_make(&self, make: impl FnOnce() -> T) -> &'static T {
        match self.get() {
            Some(value) => value,
            None => self.publish(None, make()),
        }
    }
}

/// The leaked value that was looked for last; empty at first.
pub struct Latest<T: 'static>(AtomicPtr<T>);

impl<T: Sync> Latest<T> {
    /// The value.
    #[inline]
    pub fn get(&self) -> Option<&'static T> {
        // SAFETY: only `set` stores here, always a value that lives as long as the process.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    /// Remembers another value, or none.
    pub fn set(&self, value: Option<&'static T>) {
        self.0
            .store(value.map_or(ptr::null_mut(), |value| ptr::from_ref(value).cast_mut()), Ordering::Release);
    }
}

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Latest(AtomicPtr::new(ptr::null_mut()))
    }
}
