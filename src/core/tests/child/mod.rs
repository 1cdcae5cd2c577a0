//! Forked processes for tests that must not outlive them.
#![allow(dead_code, reason = "each test file uses its own part")]

/// A forked process that is killed, if it still runs, when this goes.
pub struct Child {
    pid: libc::pid_t,
    reaped: bool,
}

impl Child {
    /// Forks. The child runs `process` and exits with 0, or with 101 if it panicked.
    pub fn fork(process: impl FnOnce()) -> Self {
        // SAFETY: the child uses only what glibc keeps usable after fork (malloc, files) and leaves by _exit.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(process));
            let code = if outcome.is_ok() { 0 } else { 101 };
            // SAFETY: ends the process without running what the parent registered.
            unsafe { libc::_exit(code) }
        }
        Self { pid, reaped: false }
    }

    pub fn pid(&self) -> libc::pid_t {
        self.pid
    }

    pub fn wait(&mut self) -> i32 {
        let mut status = 0;
        // SAFETY: waits for our own child, once.
        assert_eq!(unsafe { libc::waitpid(self.pid, &mut status, 0) }, self.pid);
        self.reaped = true;
        status
    }

    pub fn kill(mut self) {
        self.signal_and_wait();
    }

    pub fn signal_and_wait(&mut self) {
        if !self.reaped {
            // SAFETY: our own child, not waited for yet, so the pid is its own.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            self.wait();
        }
    }

    pub fn succeed(mut self) {
        assert_eq!(self.wait(), 0, "the child failed");
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.signal_and_wait();
    }
}
