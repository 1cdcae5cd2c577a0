//! Every way to take device memory: bare it gets past the limit, inside the slice it is refused at the limit
//! and gets the same again after it gave everything back. What is charged is what the machine counts.

use vcuda_tests::{Container, MIB, OUT_OF_MEMORY, Outcome, Run, SUCCESS, World, program};

const LIMIT_MIB: f64 = 2048.0;
const STEP_MIB: &str = "64";
/// More than the limit, less than the GPU has.
const MOST_MIB: &str = "3072";
/// Charged and taken may differ by this.
const TOLERANCE_BYTES: u64 = 2 * MIB;
/// Device memory that the driver takes for itself and puts down to no process, per process and context.
const UNATTRIBUTED_BYTES: u64 = 10 * MIB;

/// How a path differs from the usual.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Usual,
    /// The driver takes it and puts it down to no process.
    Unattributed,
    /// Taken by two processes.
    Shared,
    /// Its size is known only once it is there: what passes the limit is undone at once.
    Measured,
    /// Given back by itself when something else needs it, so that it is never refused.
    Reclaimed,
    /// Measured, and the driver keeps it with the context when it is released.
    Kept,
}

fn memory_paths(container: &Container, world: World, path: &str) -> Run {
    container.run(world, program("memory_paths")).args([path, STEP_MIB, MOST_MIB])
}

/// What a run got, in MiB, by whichever figure tells: some paths don't ask for bytes.
fn got_mib(outcome: &Outcome) -> f64 {
    outcome.float("got_mib").max(outcome.float("taken_mib"))
}

#[track_caller]
fn path(name: &str, kind: Kind) {
    let bare = memory_paths(&Container::new(), World::Bare, name).finish().clean();
    assert_eq!(bare.find("unsupported"), None, "the simulated driver doesn't know {name}");
    assert_eq!(bare.number("refused"), SUCCESS);
    assert!(got_mib(&bare) >= LIMIT_MIB, "bare it must get beyond the limit: {bare:#?}");

    let container = Container::new().limit(&format!("{LIMIT_MIB}MiB"));
    let limit_bytes = LIMIT_MIB as u64 * MIB;
    let mut running = memory_paths(&container, World::Limited, name).arg("hold").start();

    running.wait_for("full");
    let charged = container.charged_bytes(0);
    let gpu = container.gpu(0);
    let steps = running.number("steps").max(1) as u64;
    let taken_bytes = (running.number("taken_mib") as u64 * MIB).max(running.number("got_mib") as u64 * MIB);
    let step_bytes = taken_bytes / steps;
    let refused = if kind == Kind::Reclaimed { SUCCESS } else { OUT_OF_MEMORY };
    assert_eq!(running.number("refused"), refused);
    assert!(charged <= limit_bytes, "{charged} of {limit_bytes} bytes are charged");
    assert!(
        kind == Kind::Reclaimed || limit_bytes - charged < step_bytes + TOLERANCE_BYTES,
        "refused with {} MiB left for a step of {} MiB",
        (limit_bytes - charged) / MIB,
        step_bytes / MIB
    );
    let unattributed = if kind == Kind::Unattributed { taken_bytes } else { 0 };
    assert_close("at the limit", charged, gpu.process_bytes + unattributed);
    let processes = if kind == Kind::Shared { 2 } else { 1 };
    let contexts = if name == "context" { steps } else { 0 };
    let undone = if matches!(kind, Kind::Measured | Kind::Kept) { step_bytes } else { 0 };
    let most = limit_bytes + (processes + contexts) * UNATTRIBUTED_BYTES + undone;
    assert!(gpu.peak_bytes <= most, "the GPU's peak is {} KiB over", (gpu.peak_bytes - limit_bytes) >> 10);

    running.go_on().wait_for("empty");
    assert_eq!(running.number("released"), SUCCESS);
    assert_close("after release", container.charged_bytes(0), container.gpu(0).process_bytes);

    let outcome = running.go_on().finish().clean();
    assert_eq!(outcome.number("again_refused"), refused);
    match kind {
        Kind::Kept => assert!(outcome.number("again_steps") <= outcome.number("steps"), "{outcome:#?}"),
        _ => assert_eq!(outcome.number("again_steps"), outcome.number("steps"), "{outcome:#?}"),
    }
    let peak = container.gpu(0).peak_bytes;
    assert!(peak <= most, "the GPU's peak is {} KiB over", (peak - limit_bytes) >> 10);
}

#[track_caller]
fn assert_close(when: &str, charged: u64, taken: u64) {
    let difference = charged.abs_diff(taken);
    assert!(
        difference <= TOLERANCE_BYTES,
        "{when}: {} KiB are charged, {} KiB are taken",
        charged >> 10,
        taken >> 10
    );
}

macro_rules! paths {
    ($($test:ident $kind:ident $name:literal;)*) => {
        $(
            #[test]
            fn $test() {
                path($name, Kind::$kind);
            }
        )*

        /// All paths but those that have tests of their own below.
        const TESTED: &[&str] = &[$($name),*];
    };
}

paths! {
    linear Usual "linear";
    linear_in_small_pieces Usual "small";
    linear_in_odd_pieces Usual "odd";
    pitched Usual "pitched";
    managed Unattributed "managed";
    stream_ordered Usual "async_default";
    stream_ordered_on_per_thread_streams Kept "async_per_thread";
    stream_ordered_from_a_pool Usual "async_pool";
    memory_kept_by_our_own_pool Usual "async_kept";
    virtual_memory Usual "vmm";
    virtual_memory_released_while_mapped Usual "vmm_released";
    virtual_memory_never_mapped Usual "vmm_unmapped";
    virtual_memory_imported Usual "vmm_imported";
    array_of_one_dimension Usual "array_1d";
    array_of_two_dimensions Usual "array_2d";
    small_arrays Usual "array_small";
    array_of_three_dimensions Usual "array_3d";
    layered_array Usual "array_layered";
    cubemap Usual "array_cubemap";
    mipmapped_array Usual "mipmap";
    graph_node Usual "graph_node";
    graph_node_by_the_general_call Usual "graph_any_node";
    captured_allocation Usual "graph_capture";
    uploaded_graph Reclaimed "graph_upload";
    contexts Usual "context";
    stack_limit Usual "stack_limit";
    streams Kept "streams";
    modules Measured "module";
    green_contexts Kept "green_context";
    memory_shared_between_processes Shared "ipc";
}

#[test]
fn pinned_host_memory_is_not_charged() {
    let container = Container::new();
    let outcome = memory_paths(&container, World::Limited, "pinned_host").finish().clean();
    assert_eq!(outcome.number("refused"), SUCCESS);
    assert!(outcome.float("got_mib") >= LIMIT_MIB);
    assert_eq!(outcome.float("taken_mib"), 0.0);
}

#[test]
fn every_path_of_the_program_is_tested() {
    let container = Container::new();
    let outcome = container.run(World::Bare, program("memory_paths")).arg("list").finish().clean();
    let missing: Vec<_> =
        outcome.stdout.lines().filter(|name| *name != "pinned_host" && !TESTED.contains(name)).collect();
    assert_eq!(missing, Vec::<&str>::new());
}
