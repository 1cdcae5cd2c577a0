//! The example that a reader runs to watch two tenants share: it ends well and says what it promises to show.

use vcuda_tests::{Container, World, artefacts};

/// The percents of the line that begins so: `While both were there: large 69.4 % and small 28.8 %, …`.
fn percents(line: &str) -> Vec<f64> {
    let words: Vec<&str> = line.split_whitespace().collect();
    words.windows(2).filter(|pair| pair[1].starts_with('%')).filter_map(|pair| pair[0].parse().ok()).collect()
}

#[test]
fn two_tenants_are_watched_as_they_share() {
    let artefacts = artefacts();
    let container = Container::new().no_limit();
    let run = container.run(World::Bare, "python3").arg(artefacts.root.join("examples/sharing/watch.py"));
    let run =
        run.args(["--seconds", "6", "--vcuda"]).arg(&artefacts.vcuda).arg("--driver").arg(&artefacts.driver);
    let told = run.env("VCUDA_LIBRARY", &artefacts.library).finish().clean().stdout;
    for start in
        ["$ vcuda run --cores 70 --elastic --weight 70 ", "$ vcuda run --cores 30 --elastic --weight 30 "]
    {
        assert!(told.contains(start), "{told}");
    }
    assert!(
        told.lines().filter(|line| line.contains(" s  large ") && line.contains('█')).count() >= 12,
        "{told}"
    );

    // How exact shares are is the business of other tests: the machine may be busy.
    let line = told.lines().find(|line| line.starts_with("While both were there: ")).expect("the sum of it");
    let [large, small, together] = percents(line)[..] else { panic!("{line}") };
    assert!((55.0..80.0).contains(&large) && (20.0..42.0).contains(&small) && together > 80.0, "{line}");
    let last = told.lines().rfind(|line| line.contains(" s  large ")).expect("a line of bars");
    let [large, small] = percents(last)[..] else { panic!("{last}") };
    assert!(large < 1.0 && small > 80.0, "{last}");
}
