//! `cuGetProcAddress`, stream variants, old drivers, and programs that load code past the preload.

use std::collections::BTreeSet;
use vcuda_driver::cuda::symbols::SYMBOLS;
use vcuda_tests::{Container, MIB, OUT_OF_MEMORY, Outcome, World, program, shared_library};

/// Every name there is to ask for, with and without ABI version, and some that don't exist.
fn names() -> String {
    let mut names: BTreeSet<&str> = SYMBOLS.iter().map(|symbol| symbol.base).collect();
    names.extend([
        "cuMemAlloc_v2",
        "cuMemAllocAsync_ptsz",
        "cuCtxCreate_v4",
        "cuNoSuchFunction",
        "cu",
        "curl_easy_init",
        "",
    ]);
    names.into_iter().collect::<Vec<_>>().join("\n") + "\n"
}

/// Every version at which an answer can change, and the ones around.
fn versions() -> Vec<String> {
    let since: BTreeSet<u32> =
        SYMBOLS.iter().map(|symbol| symbol.since).filter(|&since| since != 0).collect();
    let around = since.iter().flat_map(|&since| [since.saturating_sub(10), since]);
    let all: BTreeSet<u32> = around.chain([0, 1, 13000, 99990]).collect();
    all.into_iter().map(|version| version.to_string()).collect()
}

fn compare(container: &Container, world: World, driver_version: &str) -> Outcome {
    let run = container.run(world, program("get_proc_address")).args(versions()).input(names());
    run.env("VCUDA_FAKE_DRIVER_VERSION", driver_version).finish().clean()
}

#[test]
fn get_proc_address_answers_as_the_driver_does_with_the_hook_of_the_same_symbol() {
    let outcome = compare(&Container::new(), World::Limited, "13000");
    assert_eq!(outcome.number("wrong"), 0, "{}", outcome.stdout);
    assert!(outcome.number("checked") > 50_000);
    assert!(outcome.number("hooked") > 1_000, "{}", outcome.stdout);
    assert!(outcome.number("found") > 2 * outcome.number("hooked"), "most names are not hooked");
}

#[test]
fn get_proc_address_of_an_old_driver_too() {
    let outcome = compare(&Container::new(), World::Limited, "11040");
    assert_eq!(outcome.number("wrong"), 0, "{}", outcome.stdout);
    assert!(outcome.number("hooked") > 500, "{}", outcome.stdout);
}

#[test]
fn the_comparison_itself_is_sound() {
    let outcome = compare(&Container::new(), World::Bare, "13000");
    assert_eq!((outcome.number("wrong"), outcome.number("hooked")), (0, 0));
}

#[test]
fn an_old_driver_still_limits() {
    let container = Container::new();
    let run = container.run(World::Limited, program("memory_paths")).args(["linear", "64", "3072"]);
    let outcome = run.env("VCUDA_FAKE_DRIVER_VERSION", "11040").finish().clean();
    assert_eq!(outcome.number("refused"), OUT_OF_MEMORY);
}

#[test]
fn each_stream_variant_reaches_the_drivers_own() {
    // The driver is told to fail one of the two symbols: only that one may fail.
    let refused = |symbol: &str, path: &str| {
        let container = Container::new();
        let run = container.run(World::Limited, program("memory_paths")).args([path, "64", "128"]);
        let outcome = run.env("VCUDA_FAKE_FAULTS", format!("{symbol}:*=999")).finish().succeeded();
        outcome.find("unsupported").map(str::to_owned)
    };
    let failed = Some("999".to_owned());
    assert_eq!(refused("cuMemAllocAsync", "async_default"), failed);
    assert_eq!(refused("cuMemAllocAsync_ptsz", "async_per_thread"), failed);
    assert_eq!(refused("cuMemAllocAsync_ptsz", "async_default"), None);
    assert_eq!(refused("cuMemAllocAsync", "async_per_thread"), None);
}

#[test]
fn each_abi_version_reaches_the_drivers_own() {
    for (symbol, path) in [
        ("cuMemAlloc_v2", "linear"),
        ("cuMemAllocPitch_v2", "pitched"),
        ("cuArrayCreate_v2", "array_2d"),
        ("cuArray3DCreate_v2", "array_3d"),
        ("cuCtxCreate_v4", "context"),
    ] {
        let container = Container::new();
        let run = container.run(World::Limited, program("memory_paths")).args([path, "64", "128"]);
        let outcome = run.env("VCUDA_FAKE_FAULTS", format!("{symbol}:*=999")).finish().succeeded();
        assert_eq!(outcome.find("unsupported"), Some("999"), "{symbol}");
    }
}

/// A plugin that is loaded past the preload runs as ever; what it takes is found by measuring, so the rest of
/// the program doesn't get it a second time.
fn loads_plugin(how: &str) {
    let driver = format!("-L{}", vcuda_tests::artefacts().driver.display());
    let plugin = shared_library(
        "plugin",
        "libplugin.so",
        &[&driver, "-l:libcuda.so.1", "-Wl,--allow-shlib-undefined"],
    );
    let told = World::BOTH.map(|world| {
        let container = Container::new();
        container.run(world, program("loads_plugin")).arg(how).arg(&plugin).arg("256").finish().clean()
    });
    let [bare, limited] = &told;
    assert_eq!(bare.number("found"), 1, "{bare:#?}");
    assert_eq!(limited.number("found"), 1);
    assert_eq!(limited.number("result"), bare.number("result"), "{limited:#?}");
    assert_eq!((limited.number("small"), bare.number("small")), (0, 0));
}

#[test]
fn a_plugin_loaded_the_usual_way_is_limited() {
    loads_plugin("plain");
    let container = Container::new();
    let driver = format!("-L{}", vcuda_tests::artefacts().driver.display());
    let plugin = shared_library(
        "plugin",
        "libplugin.so",
        &[&driver, "-l:libcuda.so.1", "-Wl,--allow-shlib-undefined"],
    );
    let run = container.run(World::Limited, program("loads_plugin")).arg("plain").arg(plugin).arg("2000");
    assert_eq!(run.finish().clean().number("result"), OUT_OF_MEMORY);
    assert!(container.gpu(0).peak_bytes < 2048 * MIB);
}

#[test]
fn a_plugin_bound_to_itself_first_works() {
    loads_plugin("deepbind");
}

#[test]
fn a_plugin_in_a_namespace_of_its_own_works() {
    loads_plugin("namespace");
}
