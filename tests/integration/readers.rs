//! The readers of the control file in `examples/read-control`, in C and Python: they say the same, of slices in which
//! programs run, and of files that are none.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use vcuda_core::abi;
use vcuda_tests::{Container, Language, Outcome, World, artefacts, compiled, program};

fn example(name: &str) -> std::path::PathBuf {
    artefacts().root.join("examples/read-control").join(name)
}

/// What both readers say of a file, which is the same.
#[track_caller]
fn read(container: &Container, path: &Path) -> Outcome {
    let include = format!("-I{}", artefacts().root.join("include").display());
    let reader = compiled("read-control", Language::C, &[example("read-control.c")], &[include]);
    let c = container.run(World::Bare, reader).arg(path).finish();
    let python = container.run(World::Bare, "python3").arg(example("read_control.py")).arg(path).finish();
    assert_eq!(c.stdout, python.stdout);
    assert_eq!((c.code(), &c.stderr), (python.code(), &python.stderr));
    python
}

#[test]
fn both_readers_say_who_holds_and_uses_what() {
    let container = Container::new();
    let path = container.control_path();
    let mut holder = container.run(World::Limited, program("live")).env("VCUDA_CORE_LIMIT", "12.5").start();
    holder.wait_for("ready").say("take 300").wait_for("1").say("take 2000").wait_for("2");
    let told = read(&container, &path).clean().stdout;
    let lines: Vec<&str> = told.lines().collect();
    let uuid = container.uuid(0);
    assert!(
        lines[0]
            .starts_with(&format!("{uuid}  818.0 MiB in use of 2048.0 MiB, peak 818.0 MiB, refused 1 times")),
        "{told}"
    );
    assert!(lines[1].starts_with("  GPU time of 12.5000 %: ") && lines[1].contains(" calls, "), "{told}");
    assert_eq!(lines[2], format!("  pid {:<8} {:<32} {:12.1} MiB", holder.pid(), "live", 818.0));
    let pid = holder.pid();
    holder.kill();
    let told = read(&container, &path).clean().stdout;
    let dead = format!("  pid {pid:<8} {:<32} {:12.1} MiB  dead: free for whoever asks next", "live", 818.0);
    assert!(told.contains(&dead), "{told}");
    container.control().reap().expect("a whole control file");
    let told = read(&container, &path).clean().stdout;
    assert!(
        told.starts_with(&format!("{uuid}  0.0 MiB in use of 2048.0 MiB")) && !told.contains("pid"),
        "{told}"
    );
}

#[test]
fn both_readers_refuse_what_is_no_control_file() {
    let container = Container::new();
    container.run(World::Limited, program("devices")).finish().clean();
    let good = fs::read(container.control_path()).expect("a control file");
    let changed = |offset: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[offset] = byte;
        bytes
    };
    let path = container.directory().join("case");
    for (bytes, said) in [
        (Vec::new(), "not a vcuda control file"),
        (b"hello".to_vec(), "not a vcuda control file"),
        (vec![0; abi::FILE_BYTES], "not a vcuda control file"),
        (good[..8192].to_vec(), "a control file of the wrong size"),
        (good.iter().copied().chain([0; 4096]).collect(), "a control file of the wrong size"),
        (changed(8, 99), "a control file of another version; use"),
        (changed(112, 0), "a control file that is not in use"),
    ] {
        fs::write(&path, bytes).expect("a file");
        let outcome =
            container.run(World::Bare, "python3").arg(example("read_control.py")).arg(&path).finish();
        assert_eq!((outcome.code(), outcome.stdout.as_str()), (1, ""), "{said}: {outcome:#?}");
        assert!(
            outcome.stderr.starts_with(&format!("read-control: {}: {said}", path.display())),
            "{outcome:#?}"
        );
        if !said.contains("another version") {
            read(&container, &path);
        }
    }
    let link = container.directory().join("link");
    symlink(container.control_path(), &link).expect("a link");
    for (path, said) in [
        (link.as_path(), "Too many levels of symbolic links"),
        (Path::new("/nowhere/control"), "No such file or directory"),
        (container.directory(), "not a vcuda control file"),
        (Path::new("/dev/null"), "not a vcuda control file"),
    ] {
        let outcome = read(&container, path);
        assert_eq!(outcome.code(), 1);
        assert!(outcome.stderr.contains(said), "{outcome:#?}");
    }
}
