//! Which threads of a process wait inside of the driver.
//!
//! A call that the preloaded library doesn't see (there are hundreds, and private tables besides) waits in the driver
//! while its process is put aside, and tells nobody. But whoever may checkpoint a process may also look where its threads
//! wait: a thread that sleeps in a system call called from `libcuda.so` waits for the driver. The driver's own threads do
//! so all the time; they are known by having done so before.
//!
//! Must only look. What it takes for a wait costs a needless return at worst.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// As much of a stack as is looked at: what the C library needs for a wait, and the driver's innermost frame.
const STACK_BYTES: usize = 4096;

/// Whose code a place is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Driver,
    /// The C library and the kernel's page: whatever waits, waits through them.
    System,
    Other,
}

struct Code {
    start: u64,
    end: u64,
    owner: Owner,
}

/// The threads of a process that wait inside of the driver; empty if that can't be told.
pub(crate) fn threads_in_driver(pid: u32) -> BTreeSet<u32> {
    let Ok(maps) = fs::read_to_string(format!("/proc/{pid}/maps")) else { return BTreeSet::new() };
    let code: Vec<Code> = maps.lines().filter_map(code).collect();
    let Ok(memory) = File::open(format!("/proc/{pid}/mem")) else { return BTreeSet::new() };
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return BTreeSet::new() };
    threads
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|thread| waits_in_driver(pid, *thread, &code, &memory))
        .collect()
}

fn waits_in_driver(pid: u32, thread: u32, code: &[Code], memory: &File) -> bool {
    let Ok(text) = fs::read_to_string(format!("/proc/{pid}/task/{thread}/syscall")) else { return false };
    let Some(stack) = stack_pointer(&text) else { return false };
    let mut bytes = [0; STACK_BYTES];
    // A stack that is nearly empty ends sooner.
    let length = memory.read_at(&mut bytes, stack).unwrap_or(0);
    let words =
        bytes[..length].chunks_exact(8).filter_map(|word| Some(u64::from_le_bytes(word.try_into().ok()?)));
    let mut owners = words.filter_map(|word| owner(code, word)).filter(|owner| *owner != Owner::System);
    owners.next() == Some(Owner::Driver)
}

/// Where the stack of a thread in a system call begins: `NUMBER SIX-ARGUMENTS STACK PLACE`.
fn stack_pointer(syscall: &str) -> Option<u64> {
    let fields: Vec<&str> = syscall.split_ascii_whitespace().collect();
    let [number, .., stack, _place] = fields.as_slice() else { return None };
    // -1: stopped elsewhere. A thread that runs says so with a word.
    number.parse::<i64>().ok().filter(|number| *number >= 0)?;
    u64::from_str_radix(stack.strip_prefix("0x")?, 16).ok()
}

fn owner(code: &[Code], place: u64) -> Option<Owner> {
    code.iter().find(|code| (code.start..code.end).contains(&place)).map(|code| code.owner)
}

/// An executable mapping of a line of `/proc/PID/maps`.
fn code(line: &str) -> Option<Code> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    if !fields.next()?.contains('x') {
        return None;
    }
    let path = fields.nth(3).unwrap_or("");
    let name = Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or(path);
    let is = |starts: &[&str]| starts.iter().any(|start| name.starts_with(start));
    let owner = match () {
        () if is(&["libcuda.so"]) => Owner::Driver,
        () if is(&["libc.so", "libc-", "libpthread", "ld-linux", "[vdso]"]) => Owner::System,
        () => Owner::Other,
    };
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some(Code { start: number(start)?, end: number(end)?, owner })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_told_apart() {
        let of = |line: &str| code(line).map(|code| (code.start, code.end, code.owner));
        assert_eq!(
            of("7f10-7f20 r-xp 00000000 08:01 5 /usr/lib/libcuda.so.580.159"),
            Some((0x7f10, 0x7f20, Owner::Driver))
        );
        assert_eq!(of("7f10-7f20 r--p 00000000 08:01 5 /usr/lib/libcuda.so.1"), None);
        assert_eq!(of("1-2 r-xp 00000000 08:01 5 /lib/x86_64-linux-gnu/libc.so.6").unwrap().2, Owner::System);
        assert_eq!(of("1-2 r-xp 00000000 00:00 0 [vdso]").unwrap().2, Owner::System);
        assert_eq!(of("1-2 r-xp 00000000 00:00 0").unwrap().2, Owner::Other);
        assert_eq!(of("1-2 r-xp 00000000 08:01 5 /lib/libcudart.so.13").unwrap().2, Owner::Other);
        assert!(of("").is_none());
    }

    #[test]
    fn a_thread_in_a_system_call_has_a_stack() {
        assert_eq!(stack_pointer("202 0x1 0x80 0x0 0x0 0x0 0x0 0x7ffd10 0x7f55\n"), Some(0x7f_fd10));
        assert_eq!(stack_pointer("-1 0x7ffd10 0x7f55\n"), None);
        assert_eq!(stack_pointer("running\n"), None);
        assert_eq!(stack_pointer(""), None);
    }

    #[test]
    fn threads_of_this_process_wait_elsewhere() {
        let waits = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || waits.1.recv());
        assert_eq!(threads_in_driver(std::process::id()), BTreeSet::new());
        drop(waits.0);
        assert!(thread.join().unwrap().is_err());
    }
}
