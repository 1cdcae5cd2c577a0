//! What the kernel, the file system and the container allow.
#![allow(unsafe_code)]

use super::finding::Finding;
use crate::run::find_library;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use vcuda_core::control::Control;
use vcuda_core::limits::{Limits, Source};
use vcuda_core::location::default_path;

/// Inode of the first PID namespace; others get numbers from another range.
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Findings about this system.
pub fn examine() -> Vec<Finding> {
    let mut findings = vec![library()];
    findings.extend(control_files());
    findings.push(kernel());
    findings.extend(surroundings());
    findings
}

/// The library is here, and the loader takes it into a program without a word.
fn library() -> Finding {
    let path = match find_library() {
        Ok(path) => path,
        Err(error) => {
            return Finding::problem(error.to_string(), "vcuda run needs it to start programs with");
        }
    };
    let tried = Command::new("true").env("LD_PRELOAD", &path).stdin(Stdio::null()).output();
    match tried {
        Ok(output) if output.status.success() && output.stdout.is_empty() && output.stderr.is_empty() => {
            Finding::good(format!("{} loads into programs here", path.display()))
        }
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().next().unwrap_or("it ended badly and silently").to_owned();
            Finding::problem(
                format!("{} does not load into programs here: {said}", path.display()),
                "use the library of the release, which needs glibc 2.17 or newer and nothing else",
            )
        }
        Err(error) => Finding::warning(
            format!("whether {} loads into programs here is unknown: {error}", path.display()),
            "put the command true into PATH",
        ),
    }
}

/// Control files can be had: of each share, or the one there is.
fn control_files() -> Vec<Finding> {
    match Limits::of_this_process() {
        Ok(limits) => limits.parts().iter().map(|part| control_file(Some(part))).collect(),
        Err(_) => vec![control_file(None)],
    }
}

fn control_file(limits: Option<&Limits>) -> Finding {
    let configured = limits.and_then(|limits| limits.control_file.clone());
    let path = match configured.map_or_else(default_path, Ok) {
        Ok(path) => path,
        Err(error) => {
            return Finding::problem(error.to_string(), "name a control file in VCUDA_CONTROL_FILE");
        }
    };
    let directory = path.parent().unwrap_or(Path::new("/"));
    if path.exists() {
        return match Control::open_existing(&path) {
            Ok(control) if control.is_writable() => {
                Finding::good(format!("control file {} is sound", path.display()))
            }
            Ok(_) => Finding::problem(
                format!("control file {} is not writable for this user", path.display()),
                "give the user the right to write to it, or name another in VCUDA_CONTROL_FILE",
            ),
            Err(error) => {
                Finding::problem(error.to_string(), "CUDA programs fail to start under a limit until then")
            }
        };
    }
    if limits.is_some_and(|limits| matches!(limits.source(), Source::Share(_))) {
        return Finding::problem(
            format!("control file {} is missing", path.display()),
            "CUDA is refused until it is mounted: start the container with --device vcuda.dev/share=NAME",
        );
    }
    match with_file_in(directory, |file| {
        file.write_all(&[0])?;
        lock_for_this_opening_only(file)
    }) {
        Ok(()) => Finding::good(format!("control files can be made in {}", directory.display())),
        Err(error) => Finding::problem(
            format!("no control file can be made in {}: {error}", directory.display()),
            "make it writable with some free space, or name a control file elsewhere in VCUDA_CONTROL_FILE",
        ),
    }
}

fn kernel() -> Finding {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    match emptied_on_fork() {
        Ok(()) => Finding::good(format!("Linux {release} has OFD locks and MADV_WIPEONFORK")),
        Err(error) => Finding::warning(
            format!("Linux {release} has no MADV_WIPEONFORK ({error})"),
            "forked children are then told by process id, at the cost of a system call; Linux 4.14 has it",
        ),
    }
}

/// How preloading reaches programs here, and what hides them.
fn surroundings() -> Vec<Finding> {
    let mut findings = Vec::new();
    if std::env::var("LD_PRELOAD").is_ok_and(|value| value.contains("libvcuda.so")) {
        findings.push(Finding::note("this is inside a slice: LD_PRELOAD names libvcuda.so"));
    }
    let everywhere = std::fs::read_to_string("/etc/ld.so.preload").unwrap_or_default();
    if everywhere.contains("libvcuda.so") {
        findings.push(Finding::good("/etc/ld.so.preload brings libvcuda.so into every program, setuid too"));
    } else if !everywhere.trim().is_empty() {
        findings.push(Finding::note(format!("/etc/ld.so.preload brings in others: {}", everywhere.trim())));
    }
    let markers = ["/.dockerenv", "/run/.containerenv"];
    let marked = markers.into_iter().find(|path| Path::new(path).exists());
    if let Some(marker) = marked {
        findings.push(Finding::note(format!("this is a container ({marker})")));
    }
    let namespace = std::fs::metadata("/proc/self/ns/pid").map_or(0, |metadata| metadata.ino());
    if namespace != FIRST_PID_NAMESPACE {
        findings.push(Finding::note(
            "PID namespace of its own: some older drivers tell nothing of processes in one, and contexts are \
             then counted as estimated",
        ));
    }
    if Path::new("/lib/ld-musl-x86_64.so.1").exists() {
        findings.push(Finding::warning(
            "musl is installed: programs linked to it are not limited",
            "run them elsewhere, or use their glibc builds",
        ));
    }
    findings
}

/// Runs `action` on a new file in `directory` that has lost its name already, so that it leaves nothing.
fn with_file_in(directory: &Path, action: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let path = directory.join(format!(".doctor-{}", std::process::id()));
    let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    action(&mut file)
}

/// Takes the kind of lock that tells the living from the dead.
fn lock_for_this_opening_only(file: &mut File) -> io::Result<()> {
    let request = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: an open descriptor and a lock description that outlives the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn emptied_on_fork() -> io::Result<()> {
    const BYTES: usize = 4096;
    // SAFETY: a fresh anonymous mapping that is unmapped again here and never used.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let page = libc::mmap(std::ptr::null_mut(), BYTES, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let answer = libc::madvise(page, BYTES, libc::MADV_WIPEONFORK);
        let error = io::Error::last_os_error();
        libc::munmap(page, BYTES);
        if answer == 0 { Ok(()) } else { Err(error) }
    }
}
