//! Control files that can't be used, and ones that are spoilt under a running program.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::mem::offset_of;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use vcuda_core::abi::{self, Header};
use vcuda_tests::{
    Container, GIB, MIB, NOT_PERMITTED, OUT_OF_MEMORY, Outcome, Running, World, program, skip,
};

fn devices(container: &Container, control: &Path) -> Outcome {
    container.run(World::Limited, program("devices")).env("VCUDA_CONTROL_FILE", control).finish()
}

/// CUDA is refused, and one line names the file.
#[track_caller]
fn assert_refused(outcome: &Outcome, control: &Path, words: &[&str]) {
    assert_eq!((outcome.code(), outcome.number("init")), (0, NOT_PERMITTED), "{outcome:#?}");
    let [line] = outcome.complaints()[..] else { panic!("one line, not {:?}", outcome.stderr) };
    assert!(line.contains(&control.display().to_string()), "{line}");
    for word in words {
        assert!(line.contains(word), "\"{word}\" is not in: {line}");
    }
}

#[test]
fn places_where_no_file_can_be_made_are_refused() {
    let container = Container::new();
    for place in ["/proc/control", "/nowhere/at/all/control", "/dev/null/control"] {
        assert_refused(&devices(&container, Path::new(place)), Path::new(place), &[]);
    }
    assert_refused(&devices(&container, container.directory()), container.directory(), &["regular file"]);
    let relative = devices(&container, Path::new("control"));
    assert_refused(&relative, Path::new("control"), &["VCUDA_CONTROL_FILE", "absolute"]);
}

#[test]
fn a_directory_without_permission_is_refused() {
    let container = Container::new();
    let directory = container.directory().join("closed");
    fs::create_dir(&directory).expect("a directory");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o555)).expect("permissions");
    // Root may write everywhere: the program runs as nobody.
    fs::set_permissions(container.directory(), fs::Permissions::from_mode(0o777)).expect("permissions");
    let probe =
        container.run(World::Bare, "setpriv").args(["--reuid=65534", "--clear-groups", "true"]).finish();
    if !probe.status.success() {
        return skip("this user can't become another");
    }
    let control = directory.join("control");
    let run = container
        .run(World::Limited, "setpriv")
        .args(["--reuid=65534", "--clear-groups"])
        .arg(program("devices"));
    let outcome = run.env("VCUDA_CONTROL_FILE", &control).finish();
    if outcome.stderr.contains("Permission denied") && outcome.stdout.is_empty() {
        return skip("another user can't read the test programs here");
    }
    assert_refused(&outcome, &control, &["Permission denied"]);
}

#[test]
fn links_are_never_followed() {
    let container = Container::new();
    let target = container.directory().join("victim");
    fs::write(&target, "precious").expect("a file");
    let control = container.directory().join("link");
    symlink(&target, &control).expect("a link");
    assert_refused(&devices(&container, &control), &control, &["symbolic link"]);
    assert_eq!(fs::read_to_string(&target).expect("the file"), "precious");
    fs::remove_file(&target).expect("the file");
    assert_refused(&devices(&container, &control), &control, &["symbolic link"]);
    assert!(!target.exists(), "a dangling link is no way to make files");
}

/// A control file as the library makes it.
fn made(container: &Container) -> Vec<u8> {
    container.run(World::Limited, program("devices")).finish().clean();
    fs::read(container.control_path()).expect("a control file")
}

#[test]
fn files_that_are_no_control_files_are_refused_and_left_alone() {
    let container = Container::new();
    let good = made(&container);
    assert_eq!(good.len(), abi::FILE_BYTES);
    let changed = |offset: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[offset] = byte;
        bytes
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("text", b"hello".to_vec()),
        ("zeros", vec![0; abi::FILE_BYTES]),
        ("noise", (0..abi::FILE_BYTES).map(|i| (i * 31 % 251) as u8).collect()),
        ("short", good[..abi::FILE_BYTES / 2].to_vec()),
        ("long", good.iter().copied().chain([0; 4096]).collect()),
        ("another version", changed(offset_of!(Header, version), 99)),
        ("another layout", changed(offset_of!(Header, slot_bytes), 1)),
        ("not ready", changed(offset_of!(Header, ready), 0)),
    ];
    for (name, bytes) in cases {
        let control = container.directory().join("case");
        fs::write(&control, &bytes).expect("a file");
        assert_refused(&devices(&container, &control), &control, &[]);
        assert!(fs::read(&control).expect("the file") == bytes, "{name}: the file was changed");
    }
}

#[test]
fn numbers_that_contradict_each_other_crash_nothing() {
    let container = Container::new();
    let good = made(&container);
    // Everything behind the header, in patterns that no writer leaves.
    for (start, end, byte) in
        [(4096, 12_288, 0xff), (4096, 12_288, 0x01), (12_288, 1_000_000, 0xff), (12_288, 1_000_000, 0x02)]
    {
        let mut bytes = good.clone();
        bytes[start..end].fill(byte);
        let control = container.directory().join("spoilt");
        fs::write(&control, &bytes).expect("a file");
        let outcome = devices(&container, &control);
        assert_eq!(outcome.code(), 0, "{byte:#x}: {outcome:#?}");
        assert!(outcome.complaints().len() <= 2, "{outcome:#?}");
        let told_more = (0..2).any(|index| {
            outcome
                .find(&format!("device_{index}_total"))
                .is_some_and(|total| total.parse::<u64>().unwrap_or(0) > 2 * GIB)
        });
        assert!(!told_more, "{byte:#x} gave more than the limit: {outcome:#?}");
    }
}

/// A program that holds a quarter of its slice and waits.
fn holder(container: &Container) -> Running {
    let mut running =
        container.run(World::Limited, program("memory_paths")).args(["linear", "64", "512", "hold"]).start();
    running.wait_for("full");
    running
}

/// The program goes on to its end, in which it takes memory again; it isn't crashed, and gets no more than
/// its limit.
#[track_caller]
fn assert_survives(container: &Container, mut running: Running) -> Outcome {
    running.go_on();
    let outcome = running.finish();
    assert!(outcome.code() == 0 || outcome.stdout.contains("failed"), "crashed: {outcome:#?}");
    assert!(outcome.code() < 128, "{outcome:#?}");
    assert!(outcome.complaints().len() <= 1, "{outcome:#?}");
    assert!(container.gpu(0).peak_bytes <= 2 * GIB + 20 * MIB);
    outcome
}

#[test]
fn truncated_under_a_running_program() {
    for length in [0, 4096, abi::FILE_BYTES as u64 / 2] {
        let container = Container::new();
        let running = holder(&container);
        let file = OpenOptions::new().write(true).open(container.control_path()).expect("the control file");
        file.set_len(length).expect("truncation");
        let outcome = assert_survives(&container, running);
        assert!(outcome.complaints().iter().all(|line| line.contains("control file")), "{outcome:#?}");
        let again = container.run(World::Limited, program("devices")).finish();
        assert_refused(&again, &container.control_path(), &[]);
    }
}

#[test]
fn overwritten_under_a_running_program() {
    let container = Container::new();
    let running = holder(&container);
    let mut file = OpenOptions::new().write(true).open(container.control_path()).expect("the control file");
    file.seek(SeekFrom::Start(0)).expect("the start");
    file.write_all(&vec![0; abi::FILE_BYTES]).expect("zeros");
    assert_survives(&container, running);
}

#[test]
fn removed_under_a_running_program() {
    let container = Container::new();
    let running = holder(&container);
    fs::remove_file(container.control_path()).expect("the control file");
    let outcome = assert_survives(&container, running);
    assert_eq!(outcome.number("again_mib"), outcome.number("got_mib"), "it goes on with what it has mapped");
}

#[test]
fn replaced_under_a_running_program() {
    let container = Container::new();
    let running = holder(&container);
    let other = container.directory().join("other");
    fs::write(&other, "something else").expect("a file");
    fs::rename(&other, container.control_path()).expect("a rename");
    assert_survives(&container, running);
    assert_eq!(fs::read_to_string(container.control_path()).expect("the file"), "something else");
}

#[test]
fn a_full_disk_is_told() {
    let container = Container::new();
    let mount = container.directory().join("full");
    fs::create_dir(&mount).expect("a directory");
    let control = mount.join("control");
    let script = format!("mount -t tmpfs -o size=64k none '{}' && exec \"$@\"", mount.display());
    let probe =
        container.run(World::Bare, "unshare").args(["-m", "sh", "-c", &script, "sh", "true"]).finish();
    if !probe.status.success() {
        return skip("no file system can be mounted here");
    }
    let run = container
        .run(World::Limited, "unshare")
        .args(["-m", "sh", "-c", &script, "sh"])
        .arg(program("devices"));
    assert_refused(&run.env("VCUDA_CONTROL_FILE", &control).finish(), &control, &["no space left"]);
}

#[test]
fn programs_that_start_together_make_one_file() {
    let container = Container::new().limit("6GiB");
    let mut running: Vec<Running> =
        (0..8).map(|_| container.run(World::Limited, program("devices")).arg("hold").start()).collect();
    running.iter_mut().for_each(|one| {
        one.wait_for("held");
    });
    assert_eq!(container.snapshot().processes.len(), 8);
    for one in &mut running {
        one.finish().clean();
    }
    let left: Vec<_> = fs::read_dir(container.directory())
        .expect("the test's directory")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name != "machine")
        .collect();
    assert_eq!(left, ["control"], "nothing half made is left behind");
}

#[test]
fn a_refused_allocation_is_counted_for_the_tools() {
    let container = Container::new();
    let outcome = container
        .run(World::Limited, program("memory_paths"))
        .args(["linear", "64", "3072"])
        .finish()
        .clean();
    assert_eq!(outcome.number("refused"), OUT_OF_MEMORY);
    assert!(container.snapshot().devices[0].refused_count >= 2);
    assert!(File::open(container.control_path()).is_ok());
}
