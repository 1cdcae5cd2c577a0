//! The machine's locks: robust mutexes in shared memory, so that a process killed while holding one leaves
//! it to the next one, which is told.

use crate::layout::SharedLock;

/// Held while what the lock is for is changed.
pub struct Guard<'lock>(&'lock SharedLock);

fn mutex(lock: &SharedLock) -> *mut libc::pthread_mutex_t {
    lock.0.get().cast()
}

/// Makes a lock of a file that no other process sees yet.
pub fn initialise(lock: &SharedLock) {
    let mutex = mutex(lock);
    // SAFETY: an all-zero attribute object is only passed on to be initialised.
    let mut attributes: libc::pthread_mutexattr_t = unsafe { std::mem::zeroed() };
    // SAFETY: `attributes` and `mutex` are live, large and aligned enough (asserted in layout), and unshared.
    unsafe {
        libc::pthread_mutexattr_init(&mut attributes);
        libc::pthread_mutexattr_setpshared(&mut attributes, libc::PTHREAD_PROCESS_SHARED);
        libc::pthread_mutexattr_setrobust(&mut attributes, libc::PTHREAD_MUTEX_ROBUST);
        libc::pthread_mutex_init(mutex, &attributes);
        libc::pthread_mutexattr_destroy(&mut attributes);
    }
}

/// Takes a lock; true if the last holder died with it and may have left a change half done.
pub fn acquire(lock: &SharedLock) -> (Guard<'_>, bool) {
    let mutex = mutex(lock);
    // SAFETY: the mutex was initialised before the file was given its name, and lives in shared memory.
    let abandoned = unsafe { libc::pthread_mutex_lock(mutex) } == libc::EOWNERDEAD;
    if abandoned {
        // SAFETY: this thread holds the mutex, as EOWNERDEAD says.
        unsafe { libc::pthread_mutex_consistent(mutex) };
    }
    (Guard(lock), abandoned)
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        // SAFETY: the guard exists only while this thread holds the mutex.
        unsafe { libc::pthread_mutex_unlock(mutex(self.0)) };
    }
}
