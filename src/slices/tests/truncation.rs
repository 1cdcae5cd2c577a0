//! Files that shrink and grow while they are read. Each test is a process of its own, as a bus error ends one.

use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vcuda_core::abi::FILE_BYTES;
use vcuda_core::control::Control;
use vcuda_core::device::Uuid;
use vcuda_slices::truncation;

/// Runs the ignored test `name` of this file in a process of its own; the signal that ended it, if one did.
fn in_a_process(name: &str) -> (bool, Option<i32>) {
    let this = std::env::current_exe().unwrap();
    let output = Command::new(this).args(["--ignored", "--exact", name]).output().unwrap();
    let ran = String::from_utf8_lossy(&output.stdout).contains("running 1 test");
    assert!(ran, "{output:?}");
    (output.status.success(), output.status.signal())
}

/// A mapped control file whose end is cut off under the mapping.
fn cut_off(path: &Path) -> memmap2::MmapRaw {
    drop(Control::open_or_create(path).unwrap());
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let map = memmap2::MmapOptions::new().len(FILE_BYTES).map_raw(&file).unwrap();
    file.set_len(4096).unwrap();
    map
}

fn last_byte(map: &memmap2::MmapRaw) -> u8 {
    // SAFETY: within the mapping; that it is cut off is what is being tried.
    unsafe { map.as_ptr().add(FILE_BYTES - 1).read_volatile() }
}

#[test]
fn a_file_that_was_cut_off_reads_as_zeros() {
    assert_eq!(in_a_process("reads_beyond_the_end"), (true, None));
}

#[test]
#[ignore = "run by another test in a process of its own"]
fn reads_beyond_the_end() {
    truncation::survive().unwrap();
    let directory = tempfile::tempdir().unwrap();
    for number in 0..3 {
        let map = cut_off(&directory.path().join(number.to_string()));
        assert_eq!(last_byte(&map), 0);
        // SAFETY: the first byte of the mapping.
        let first = unsafe { map.as_ptr().read_volatile() };
        assert_eq!(first, 0, "the whole mapping is zeros, not only its end");
    }
}

#[test]
fn other_bus_errors_end_the_process() {
    assert_eq!(in_a_process("reads_beyond_the_end_of_something_else"), (false, Some(libc::SIGBUS)));
}

#[test]
#[ignore = "run by another test in a process of its own"]
fn reads_beyond_the_end_of_something_else() {
    truncation::survive().unwrap();
    let file = tempfile::tempfile().unwrap();
    file.set_len(8192).unwrap();
    let map = memmap2::MmapOptions::new().len(8192).map_raw(&file).unwrap();
    file.set_len(0).unwrap();
    // SAFETY: within the mapping; that it is cut off is what is being tried.
    let byte = unsafe { map.as_ptr().read_volatile() };
    panic!("read {byte}");
}

#[test]
fn nobody_can_end_a_reader_by_truncating_all_day() {
    assert_eq!(in_a_process("reads_while_somebody_truncates"), (true, None));
}

#[test]
#[ignore = "run by another test in a process of its own"]
fn reads_while_somebody_truncates() {
    truncation::survive().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    drop(Control::open_or_create(&path).unwrap());
    let original = std::fs::read(&path).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let file = OpenOptions::new().write(true).open(&path).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    file.set_len(4096).unwrap();
                    file.set_len(FILE_BYTES as u64).unwrap();
                    std::os::unix::fs::FileExt::write_all_at(
                        &file,
                        &original[FILE_BYTES - 8..],
                        FILE_BYTES as u64 - 8,
                    )
                    .unwrap();
                }
            });
        }
        let end = Instant::now() + Duration::from_secs(2);
        let (mut read, mut lost) = (0, 0);
        while Instant::now() < end {
            match Control::open_existing(&path) {
                Ok(control) => {
                    let _ = control.device(Uuid::gpu([7; 16]));
                    let _ = control.reap();
                    match control.snapshot() {
                        Ok(_) => read += 1,
                        Err(_) => lost += 1,
                    }
                }
                Err(_) => lost += 1,
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(read > 0 && lost > 0, "{read} read, {lost} lost");
    });
}
