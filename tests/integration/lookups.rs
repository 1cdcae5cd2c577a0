//! `dlsym` in all its forms: driver names give hooks, everything else is as if the library weren't there.

use std::path::PathBuf;
use vcuda_tests::{Container, Outcome, World, program, shared_library};

const OURS: &str = "libvcuda.so";

fn interposer(name: &str, is_last: bool) -> PathBuf {
    let mut flags = vec![format!("-DNAME=\"{name}\""), "-ldl".to_owned()];
    if is_last {
        flags.push("-DLAST".to_owned());
    }
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    shared_library("interposer", &format!("libinterposer_{name}.so"), &flags)
}

fn look(world: World) -> Outcome {
    let decoys = shared_library("decoys", "libdecoys.so", &[]);
    // The file name is what makes it a part of the driver.
    let driver_part = shared_library("driver_part", "libcuda.so.test-part", &["-ldl"]);
    let container = Container::new();
    container.run(world, program("lookups")).arg(decoys).arg(driver_part).finish().clean()
}

/// The object that `how` found `name` in.
#[track_caller]
fn object<'outcome>(outcome: &'outcome Outcome, how: &str, name: &str) -> &'outcome str {
    outcome.text(&format!("{how} {name}"))
}

#[test]
fn hooked_names_are_found_in_the_library_however_they_are_looked_up() {
    let (bare, limited) = (look(World::Bare), look(World::Limited));
    for how in ["handle", "default", "next"] {
        for name in [
            "cuMemAlloc_v2",
            "cuMemAllocAsync_ptsz",
            "cuGetProcAddress",
            "cuGetProcAddress_v2",
            "cuGetExportTable",
        ] {
            assert_ne!(object(&bare, how, name), "null", "{how} {name}");
            assert_eq!(object(&limited, how, name), OURS, "{how} {name}");
        }
    }
    assert_eq!(object(&limited, "linked", "cuMemAlloc_v2"), OURS);
    assert_eq!(object(&limited, "handle", "nvmlDeviceGetMemoryInfo"), OURS);
    assert_eq!(limited.find("changed"), None, "the same question has one answer");
}

#[test]
fn other_lookups_have_the_answers_they_have_without_the_library() {
    let (bare, limited) = (look(World::Bare), look(World::Limited));
    let is_hooked = |line: &str| {
        line.ends_with(&format!(" {OURS}")) && !line.starts_with("foreign") && !line.starts_with("by_library")
    };
    assert_eq!(bare.stdout.lines().count(), limited.stdout.lines().count());
    let mut untouched = 0;
    for (bare, limited) in bare.stdout.lines().zip(limited.stdout.lines()) {
        if !is_hooked(limited) {
            assert_eq!(bare, limited);
            untouched += 1;
        }
    }
    assert!(untouched > 20, "{untouched} lookups were left alone");
}

#[test]
fn a_missing_symbol_is_null_and_explained() {
    let limited = look(World::Limited);
    for how in ["handle", "default", "next"] {
        assert_eq!(object(&limited, how, "cuNoSuchFunction"), "null explained");
        assert_eq!(object(&limited, how, "noSuchFunction"), "null explained");
    }
    assert_eq!(object(&limited, "other_handle", "cuMemAlloc_v2"), "null explained");
}

#[test]
fn what_another_library_defines_is_its_own() {
    let limited = look(World::Limited);
    let foreign: Vec<&str> = limited.stdout.lines().filter(|line| line.starts_with("foreign ")).collect();
    assert_eq!(foreign.len(), 13, "{limited:#?}");
    for line in foreign {
        assert!(line.ends_with(" libdecoys.so"), "{line}");
    }
}

#[test]
fn what_the_driver_looks_up_for_itself_is_not_redirected() {
    let (bare, limited) = (look(World::Bare), look(World::Limited));
    assert_ne!(object(&limited, "by_library", "cuMemAlloc_v2"), OURS);
    assert_eq!(object(&limited, "by_library", "cuMemAlloc_v2"), object(&bare, "by_library", "cuMemAlloc_v2"));
}

#[test]
fn chained_interposers_reach_each_other_in_order() {
    let [a, b, last] = [interposer("a", false), interposer("b", false), interposer("last", true)];
    let ours = &vcuda_tests::artefacts().library;
    let trail = |preload: &[&PathBuf]| {
        let preload: Vec<String> = preload.iter().map(|path| path.display().to_string()).collect();
        let container = Container::new();
        let outcome = container
            .run(World::Bare, program("chain"))
            .env("LD_PRELOAD", preload.join(":"))
            .finish()
            .clean();
        (outcome.text("curl_pass_on").to_owned(), outcome.text("cuPassOn").to_owned())
    };
    let expected = ("ablast".to_owned(), "ablast".to_owned());
    assert_eq!(trail(&[&a, &b, &last]), expected, "without the library");
    for preload in
        [[ours, &a, &b, &last], [&a, ours, &b, &last], [&a, &b, ours, &last], [&a, &b, &last, ours]]
    {
        assert_eq!(trail(&preload), expected, "{preload:?}");
    }
}
