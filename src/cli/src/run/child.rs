//! Runs a command as if it had been started in our place: it gets the signals that are meant for it.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};

/// Signals that are sent to a process to make it do something, and so are meant for the command.
const PASSED_ON: [libc::c_int; 6] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2];

/// Starts `command` and waits for its end, passing on signals in between.
pub fn run_to_end(mut command: Command) -> io::Result<ExitStatus> {
    let waited = signal_set(PASSED_ON.iter().chain(&[libc::SIGCHLD]));
    let before = block(&waited)?;
    // SAFETY: the closure calls one async-signal-safe function on a value it owns.
    unsafe { command.pre_exec(move || set_mask(&before)) };
    let mut child = command.spawn()?;
    loop {
        let (signal, is_from_process) = wait_for(&waited)?;
        if signal == libc::SIGCHLD {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
        } else if is_from_process {
            // A terminal sends its signals to all processes in front, so the command has those already.
            // SAFETY: the child has not been waited for, so its process id is still its own.
            unsafe { libc::kill(child.id() as libc::pid_t, signal) };
        }
    }
}

fn signal_set<'a>(signals: impl IntoIterator<Item = &'a libc::c_int>) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set; sigaddset gets valid signal numbers.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

/// Blocks the signals and returns the mask from before. Makes sure that the end of a child is signalled,
/// which whoever started us may have turned off.
fn block(signals: &libc::sigset_t) -> io::Result<libc::sigset_t> {
    let mut before = MaybeUninit::uninit();
    // SAFETY: both sets are valid; on success `before` is filled in.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        if libc::sigprocmask(libc::SIG_BLOCK, signals, before.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(before.assume_init())
    }
}

fn set_mask(mask: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: a valid set, and no place for the old one.
    match unsafe { libc::sigprocmask(libc::SIG_SETMASK, mask, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The next of the blocked signals, and whether a process sent it rather than the kernel.
fn wait_for(signals: &libc::sigset_t) -> io::Result<(libc::c_int, bool)> {
    loop {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        // SAFETY: a valid set, and a place for what is known of the signal.
        let signal = unsafe { libc::sigwaitinfo(signals, info.as_mut_ptr()) };
        if signal > 0 {
            // SAFETY: all zeros is a valid siginfo_t, which the call filled in.
            return Ok((signal, unsafe { info.assume_init() }.si_code <= 0));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
