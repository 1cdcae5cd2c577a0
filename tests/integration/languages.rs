//! The same quota for programs in C, C++ and Python, linked to the driver or not.

use vcuda_tests::{Container, MIB, OUT_OF_MEMORY, Outcome, SUCCESS, World, artefacts, program};

const MOST_MIB: &str = "3072";

fn in_c(container: &Container, world: World) -> Outcome {
    container.run(world, program("memory_paths")).args(["linear", "64", MOST_MIB]).finish().clean()
}

fn in_cpp(container: &Container, world: World) -> Outcome {
    container.run(world, program("opened")).arg(MOST_MIB).finish().clean()
}

fn in_python(container: &Container, world: World) -> Outcome {
    let script = artefacts().root.join("tests/programs/ctypes_quota.py");
    container.run(world, "python3").arg(script).arg(MOST_MIB).finish().clean()
}

#[test]
fn c_cpp_and_python_get_the_same() {
    for run in [in_c, in_cpp, in_python] {
        let bare = run(&Container::new(), World::Bare);
        assert_eq!((bare.number("refused"), bare.number("got_mib")), (SUCCESS, 3072));
        let container = Container::new();
        let limited = run(&container, World::Limited);
        assert_eq!(limited.number("refused"), OUT_OF_MEMORY);
        assert_eq!(limited.number("got_mib"), in_c(&Container::new(), World::Limited).number("got_mib"));
        assert!(container.gpu(0).peak_bytes <= 2068 * MIB);
    }
}

#[test]
fn what_python_starts_is_quiet() {
    let outcome = in_python(&Container::new(), World::Limited);
    assert_eq!(outcome.text("child"), "0 2 ''");
    assert_eq!(outcome.number("total_mib"), 2048);
}
