//! When the driver itself fails, nothing stays charged and the program hears the driver's own code.

use std::time::{Duration, Instant};
use vcuda_tests::{Container, GIB, MIB, Outcome, World, program};

/// Runs a path while the driver fails `faults`.
fn with_faults(container: &Container, path: &str, faults: &str) -> Outcome {
    let run = container.run(World::Limited, program("memory_paths")).args([path, "64", "3072"]);
    run.env("VCUDA_FAKE_FAULTS", faults).finish().succeeded()
}

/// The fourth call fails, which is the fourth step at the latest; after release, all the quota is there again.
#[track_caller]
fn fails_at_the_fourth(path: &str, symbol: &str) {
    let container = Container::new();
    let outcome = with_faults(&container, path, &format!("{symbol}:4=999"));
    assert_eq!(outcome.number("refused"), 999, "{outcome:#?}");
    assert!((1..=3).contains(&outcome.number("steps")), "{outcome:#?}");
    assert_eq!(outcome.number("again_refused"), vcuda_tests::OUT_OF_MEMORY);
    let whole = with_faults(&Container::new(), path, "");
    assert_eq!(outcome.float("again_mib"), whole.float("again_mib"), "something stayed charged");
}

macro_rules! failures {
    ($($test:ident $path:literal $symbol:literal;)*) => { $(
        #[test]
        fn $test() {
            fails_at_the_fourth($path, $symbol);
        }
    )* };
}

failures! {
    a_failed_allocation_is_rolled_back "linear" "cuMemAlloc_v2";
    a_failed_small_allocation_is_rolled_back "small" "cuMemAlloc_v2";
    a_failed_pitched_allocation_is_rolled_back "pitched" "cuMemAllocPitch_v2";
    a_failed_managed_allocation_is_rolled_back "managed" "cuMemAllocManaged";
    a_failed_stream_ordered_allocation_is_rolled_back "async_default" "cuMemAllocAsync";
    a_failed_pool_allocation_is_rolled_back "async_pool" "cuMemAllocFromPoolAsync";
    a_failed_physical_allocation_is_rolled_back "vmm" "cuMemCreate";
    a_failed_mapping_keeps_the_count "vmm" "cuMemMap";
    a_failed_array_is_rolled_back "array_2d" "cuArrayCreate_v2";
    a_failed_3d_array_is_rolled_back "array_layered" "cuArray3DCreate_v2";
    a_failed_mipmap_is_rolled_back "mipmap" "cuMipmappedArrayCreate";
    a_failed_launch_of_a_graph_is_rolled_back "graph_node" "cuGraphLaunch";
    a_failed_module_is_rolled_back "module" "cuModuleLoadData";
}

#[test]
fn a_failed_context_is_rolled_back() {
    let container = Container::new();
    let outcome = with_faults(&container, "context", "cuCtxCreate_v4:2=999");
    assert_eq!(outcome.number("refused"), 999, "{outcome:#?}");
    let whole = with_faults(&Container::new(), "context", "");
    assert_eq!(outcome.float("again_mib"), whole.float("again_mib"));
}

#[test]
fn a_failed_first_context_charges_nothing() {
    let container = Container::new();
    let run = container.run(World::Limited, program("devices")).arg("hold");
    let mut running = run.env("VCUDA_FAKE_FAULTS", "cuDevicePrimaryCtxRetain:*=999").start();
    running.wait_for("held");
    assert_eq!(running.number("device_0_context"), 999);
    assert_eq!(container.charged_bytes(0), 0);
    running.finish().clean();
}

#[test]
fn a_failed_free_keeps_the_charge() {
    let container = Container::new();
    let run = container.run(World::Limited, program("memory_paths")).args(["linear", "64", "512", "hold"]);
    let mut running = run.env("VCUDA_FAKE_FAULTS", "cuMemFree_v2:3=999").start();
    running.wait_for("full").go_on().wait_for("empty");
    assert_eq!(running.number("released"), 999);
    let (charged, taken) = (container.charged_bytes(0), container.gpu(0).process_bytes);
    assert!(charged.abs_diff(taken) <= 2 * MIB, "{charged} bytes are charged, {taken} are taken");
    running.finish();
}

#[test]
fn a_gpu_that_is_full_refuses_within_the_limit_and_keeps_nothing_charged() {
    // Somebody outside the container has most of the GPU.
    let container = Container::new().gpus("1x4GiB").limit("3GiB");
    let mut foreign = container.run(World::Bare, program("views")).arg("2000").start();
    foreign.wait_for("ready");
    let outcome = with_faults(&container, "linear", "");
    assert_eq!(outcome.number("refused"), vcuda_tests::OUT_OF_MEMORY);
    assert!(outcome.number("got_mib") < 1500, "{outcome:#?}");
    assert!(outcome.number("got_mib") > 500, "{outcome:#?}");
    assert_eq!(outcome.float("again_mib"), outcome.float("got_mib"), "what the GPU refused isn't charged");
    foreign.kill();
    let outcome = with_faults(&container, "linear", "");
    assert!(outcome.number("got_mib") > 2000, "{outcome:#?}");
}

#[test]
fn a_slow_driver_is_waited_for_and_holds_up_nobody_else() {
    let container = Container::new();
    let run = container.run(World::Limited, program("memory_paths")).args(["linear", "64", "128"]);
    let mut slow = run.env("VCUDA_FAKE_FAULTS", "cuMemAlloc_v2:2=sleep:3s").start();
    assert!(Container::eventually(
        || container.control_path().exists() && container.charged_bytes(0) > GIB / 2
    ));
    let start = Instant::now();
    let outcome = with_faults(&container, "linear", "");
    assert_eq!(outcome.number("refused"), vcuda_tests::OUT_OF_MEMORY);
    assert!(start.elapsed() < Duration::from_millis(2500), "waited for the slow process");
    slow.wait_for("refused");
    assert_eq!(slow.number("got_mib"), 128);
    slow.finish().clean();
}

#[test]
fn cu_init_that_fails_fails_with_the_drivers_code() {
    let container = Container::new();
    let run = container.run(World::Limited, program("devices")).env("VCUDA_FAKE_FAULTS", "cuInit:*=100");
    let outcome = run.finish().clean();
    assert_eq!((outcome.number("init"), outcome.number("init_again")), (100, 100));
    assert!(!container.control_path().exists());
}

#[test]
fn without_a_management_library_limits_hold() {
    let container = Container::new();
    for mode in ["absent", "no-process-memory", "host-pids"] {
        let run = container.run(World::Limited, program("memory_paths")).args(["linear", "64", "3072"]);
        let outcome = run.env("VCUDA_FAKE_NVML", mode).finish().clean();
        assert_eq!(outcome.number("refused"), vcuda_tests::OUT_OF_MEMORY, "{mode}");
        assert!(container.gpu(0).peak_bytes <= 2 * GIB + 20 * MIB, "{mode}");
        assert_eq!(outcome.float("again_mib"), outcome.float("got_mib"), "{mode}");
    }
}

#[test]
fn a_pool_that_could_not_be_destroyed_keeps_its_books() {
    let container = Container::new();
    let run = container.run(World::Limited, program("pool_survives"));
    let mut running = run.env("VCUDA_FAKE_FAULTS", "cuMemPoolDestroy:1=999").start();
    running.wait_for("both");
    assert_eq!(running.number("destroyed"), 999);
    let (charged, taken) = (container.charged_bytes(0), container.gpu(0).process_bytes);
    assert!(taken > 512 * MIB, "both blocks are there");
    assert!(charged.abs_diff(taken) <= 2 * MIB, "{charged} bytes are charged, {taken} are taken");
    running.go_on().finish().clean();
}
