//! Programs that don't touch CUDA never notice the library.

use std::fs;
use vcuda_tests::{Container, Outcome, World};

fn both(container: &Container, program: &str, arguments: &[&str], input: &str) -> [Outcome; 2] {
    World::BOTH.map(|world| container.run(world, program).args(arguments).input(input).finish())
}

#[track_caller]
fn assert_same(program: &str, arguments: &[&str], input: &str) {
    let container = Container::new();
    let [bare, limited] = both(&container, program, arguments, input);
    assert_eq!(bare.code(), limited.code(), "{program} {arguments:?}");
    assert_eq!(bare.stdout, limited.stdout, "{program} {arguments:?}");
    assert_eq!(bare.stderr, limited.stderr, "{program} {arguments:?}");
    assert!(!container.control_path().exists(), "{program} {arguments:?} made a control file");
}

#[test]
fn ordinary_programs_print_and_exit_as_ever() {
    assert_same("/bin/true", &[], "");
    assert_same("/bin/false", &[], "");
    assert_same("cat", &[], "one\ntwo\n");
    assert_same("sh", &["-c", "echo out; echo err >&2; exit 7"], "");
    assert_same("sh", &["-c", "kill -TERM $$"], "");
    assert_same("ls", &["/no/such/directory"], "");
    assert_same("python3", &["-c", "import ctypes, json, threading; print(json.dumps([1]))"], "");
}

#[test]
fn no_descriptor_stays_open() {
    assert_same("sh", &["-c", "ls /proc/self/fd | wc -l"], "");
    assert_same("python3", &["-c", "import os; print(sorted(os.listdir('/proc/self/fd')))"], "");
}

#[test]
fn closed_standard_descriptors_stay_closed() {
    let script = "exec <&- >&-; ls -l /proc/self/fd 2>/dev/null | wc -l >&2";
    assert_same("sh", &["-c", script], "");
}

#[test]
fn signals_mask_and_umask_stay() {
    let script = "grep -E 'Sig(Blk|Ign|Cgt)|Umask' /proc/self/status";
    assert_same("sh", &["-c", script], "");
}

#[test]
fn bad_settings_trouble_no_program_without_cuda() {
    let container = Container::new().limit("nonsense");
    let [bare, limited] = both(&container, "python3", &["-c", "print(1)"], "");
    assert_eq!((bare.code(), &bare.stdout), (limited.code(), &limited.stdout));
    assert_eq!(limited.stderr, "");
}

#[test]
fn loading_the_driver_alone_makes_no_control_file() {
    let container = Container::new();
    let script =
        "import ctypes; ctypes.CDLL('libcuda.so.1'); ctypes.CDLL('libnvidia-ml.so.1'); print('loaded')";
    let outcome = container.run(World::Limited, "python3").args(["-c", script]).finish().clean();
    assert_eq!(outcome.stdout, "loaded\n");
    assert!(!container.control_path().exists());
    let files = fs::read_dir(container.directory()).expect("the test's directory").count();
    assert_eq!(files, 0, "a program that only loads the driver leaves no file");
}

#[test]
fn driver_names_are_missing_where_there_is_no_driver() {
    let container = Container::new();
    let script = "import ctypes; print(hasattr(ctypes.CDLL(None), 'cuInit'), hasattr(ctypes.CDLL(None), 'nvmlInit_v2'))";
    let outcome = container.run(World::Limited, "python3").args(["-c", script]).finish().clean();
    assert_eq!(outcome.stdout, "False False\n");
}
