//! What memory calls answer at the edges: as the driver does, and without losing count.

use vcuda_tests::{Container, GIB, MIB, World, program};

#[test]
fn odd_calls_get_the_drivers_own_answers() {
    let answers = World::BOTH.map(|world| {
        let container = Container::new();
        container.run(world, program("edge_cases")).arg("answers").finish().clean().stdout
    });
    let [bare, limited] = &answers;
    assert!(bare.lines().count() > 30, "{bare}");
    assert_eq!(bare, limited);
}

#[test]
fn what_dies_with_a_context_is_free_again() {
    let container = Container::new();
    let mut running = container.run(World::Limited, program("edge_cases")).arg("contexts").start();
    running.wait_for("destroyed");
    assert_close(&container);
    assert!(running.text("taken_mib").parse::<f64>().unwrap() > 600.0, "a context, 100 MiB and an array");
    let after_destroy = running.number("kept_after_destroy_bytes");
    assert!(after_destroy.unsigned_abs() <= 2 * MIB, "{after_destroy} bytes stayed charged");
    running.go_on().wait_for("reset");
    assert_close(&container);
    running.go_on().wait_for("released");
    assert_close(&container);
    assert!(container.charged_bytes(0) <= 2 * MIB, "without a context nothing is held");
    let outcome = running.go_on().finish().clean();
    let after_reset = outcome.number("kept_after_reset_bytes");
    assert!(after_reset.unsigned_abs() <= 2 * MIB, "{after_reset} bytes stayed charged");
}

#[test]
fn memory_is_charged_to_the_gpu_it_is_on_whichever_is_current() {
    let container = Container::new();
    let mut running = container.run(World::Limited, program("edge_cases")).arg("two_devices").start();
    let charged = || [container.charged_bytes(0), container.charged_bytes(1)];
    running.wait_for("contexts");
    let [first, second] = charged();
    running.go_on().wait_for("physical");
    assert_eq!(charged(), [first, second + 256 * MIB]);
    running.go_on().wait_for("pool");
    assert_eq!(charged(), [first, second + 512 * MIB]);
    assert!(charged()[1].abs_diff(container.gpu(1).process_bytes) <= 2 * MIB);
    running.go_on().wait_for("released");
    assert_eq!(charged(), [first, second]);
    running.finish().clean();
}

#[test]
fn a_capture_survives_whatever_is_asked_meanwhile() {
    let [bare, limited] = World::BOTH.map(|world| {
        let container = Container::new();
        container.run(world, program("edge_cases")).arg("capture").finish().clean()
    });
    assert_eq!(bare.stdout, limited.stdout);
    assert_eq!((bare.number("end"), bare.number("run"), bare.number("filled")), (0, 0, 22));
}

#[track_caller]
fn assert_close(container: &Container) {
    let (charged, taken) = (container.charged_bytes(0), container.gpu(0).process_bytes);
    assert!(charged.abs_diff(taken) <= 2 * MIB, "{charged} bytes are charged, {taken} are taken");
}

#[test]
fn a_hundred_thousand_live_allocations_are_kept_apart() {
    let container = Container::new();
    let mut running = container.run(World::Limited, program("edge_cases")).args(["many", "100000"]).start();
    running.wait_for("many");
    assert_close(&container);
    assert!(container.charged_bytes(0) > 400 * MIB, "100,000 allocations of 4 KiB on average");
    running.go_on().wait_for("none");
    assert_close(&container);
    let outcome = running.go_on().finish().clean();
    let lost = outcome.number("lost_bytes");
    assert!(lost.unsigned_abs() <= 2 * MIB, "{lost} bytes stayed charged");
}

#[test]
fn a_process_that_frees_nothing_leaves_nothing() {
    let container = Container::new();
    for _ in 0..3 {
        let outcome = container.run(World::Limited, program("process_forms")).args(["once"]).finish().clean();
        assert_eq!(outcome.number("after_got"), 0);
    }
    assert_eq!(container.gpu(0).process_bytes, 0);
    let outcome = container
        .run(World::Limited, program("memory_paths"))
        .args(["linear", "64", "3072"])
        .finish()
        .clean();
    let fresh = Container::new();
    let expected =
        fresh.run(World::Limited, program("memory_paths")).args(["linear", "64", "3072"]).finish().clean();
    assert_eq!(outcome.float("got_mib"), expected.float("got_mib"));
}

#[test]
fn a_limit_above_the_gpus_memory_is_the_gpus_memory() {
    let container = Container::new().gpus("1x4GiB").limit("100GiB");
    let told = container.run(World::Limited, program("devices")).finish().clean();
    let bare = container.run(World::Bare, program("devices")).finish().clean();
    assert_eq!(told.number("device_0_total"), bare.number("device_0_total"));
    assert!(told.number("device_0_total") as u64 <= 4 * GIB);
    let outcome = container
        .run(World::Limited, program("memory_paths"))
        .args(["linear", "64", "6000"])
        .finish()
        .clean();
    assert_eq!(outcome.number("refused"), vcuda_tests::OUT_OF_MEMORY);
}

#[test]
fn without_a_limit_everything_is_the_drivers() {
    let container = Container::new().no_limit();
    let bare = container.run(World::Bare, program("devices")).finish().clean();
    let unlimited = container.run(World::Limited, program("devices")).finish().clean();
    assert_eq!(bare.stdout, unlimited.stdout);
    let outcome = container
        .run(World::Limited, program("memory_paths"))
        .args(["linear", "64", "3072"])
        .finish()
        .clean();
    assert_eq!(outcome.number("refused"), 0);
    assert!(!container.control_path().exists(), "nothing is counted where nothing is limited");
}

#[test]
fn a_stream_gets_what_it_freed_again_on_a_full_quota() {
    let container = Container::new().limit("2GiB");
    let outcome = container.run(World::Limited, program("pool_reuse")).args(["1024", "20"]).finish().clean();
    assert_eq!((outcome.number("got"), outcome.number("result")), (20, 0));
    assert_eq!(outcome.number("second_on_the_same_stream"), 2);
    assert_eq!(outcome.number("second_on_another_stream"), 2);
    assert_eq!(outcome.number("after_waiting"), 0);
    assert!(container.snapshot().devices[0].peak_bytes <= 2 * GIB, "never beyond the quota");
}
