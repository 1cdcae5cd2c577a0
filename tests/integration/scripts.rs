//! What can be checked of the scripts that need a GPU where there is none: their planning and their arithmetic.

use vcuda_tests::{Container, World, artefacts};

#[track_caller]
fn check(script: &str, least: usize) {
    let container = Container::new();
    let run = container.run(World::Bare, artefacts().root.join("scripts").join(script)).arg("--self-test");
    let told = run.finish().clean().stdout;
    let checked = told.lines().filter(|line| line.starts_with("ok  ")).count();
    assert!(checked >= least && checked == told.lines().count(), "{told}");
}

#[test]
fn shares_are_reckoned_rightly() {
    check("gpu-compute", 10);
}

#[test]
fn sharing_is_reckoned_rightly() {
    check("gpu-sharing", 12);
}
