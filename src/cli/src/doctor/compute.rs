//! How compute shares are kept here, and how exactly.

use super::finding::Finding;
use super::{driver, hooks};
use std::time::Instant;

/// Calls of the driver that the measuring of GPU time stands on.
const NEEDED: [&str; 6] = [
    "cuEventCreate",
    "cuEventRecord",
    "cuEventQuery",
    "cuEventElapsedTime",
    "cuStreamGetCtx",
    "cuStreamIsCapturing",
];

/// The machine as far as shares depend on it.
struct Surroundings {
    is_mps_running: bool,
    /// Whether the processor's time-stamp counter can stand in for the clock.
    is_counter_invariant: bool,
    /// What reading the monotonic clock takes, in nanoseconds.
    clock_ns: u128,
}

/// Findings about the method; none where there is no driver, which is said elsewhere.
pub fn examine() -> Vec<Finding> {
    let Some(path) = driver::loaded_file("libcuda.so.1") else { return Vec::new() };
    let here = Surroundings {
        is_mps_running: driver::is_mps_running(),
        is_counter_invariant: std::fs::read_to_string("/proc/cpuinfo")
            .map_or(true, |text| has_invariant_counter(&text)),
        clock_ns: clock_ns(),
    };
    match hooks::exports(&path) {
        Ok(exports) => findings(|name| exports.iter().any(|known| known == name), &here),
        // That the file can't be read is said elsewhere; the loader found the calls all the same.
        Err(_) => findings(|_| true, &here),
    }
}

fn findings(is_exported: impl Fn(&str) -> bool, here: &Surroundings) -> Vec<Finding> {
    let missing: Vec<&str> = NEEDED.into_iter().filter(|name| !is_exported(name)).collect();
    if !missing.is_empty() {
        return vec![Finding::problem(
            format!("the driver lacks {}, so GPU time can't be measured", missing.join(", ")),
            "use a driver for CUDA 11.4 or newer (470); memory limits hold without",
        )];
    }
    let mut findings = vec![Finding::good(
        "measured by timing events; exact to one point over any time that holds a hundred of the longest kernels",
    )];
    if here.is_mps_running {
        findings.push(Finding::warning(
            "MPS is running: kernels of several programs overlap, each counts in full, and a share is less exact",
            "where shares matter, end MPS (echo quit | nvidia-cuda-mps-control)",
        ));
    }
    if !here.is_counter_invariant {
        findings.push(Finding::warning(
            format!(
                "the processor's time-stamp counter is not invariant, so each launch under a share reads the clock, \
                 which takes {} ns here",
                here.clock_ns
            ),
            "shares are as exact as ever; in a virtual machine, pass the host's counter on (invtsc)",
        ));
    }
    findings
}

/// Whether the kernel found the counter to run at one rate in all states of the processor.
fn has_invariant_counter(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    flags.split_ascii_whitespace().any(|flag| flag == "nonstop_tsc")
}

/// What reading the monotonic clock takes at best, in nanoseconds.
fn clock_ns() -> u128 {
    const READINGS: u32 = 100;
    let batch = || {
        let start = Instant::now();
        for _ in 0..READINGS {
            std::hint::black_box(Instant::now());
        }
        start.elapsed().as_nanos() / u128::from(READINGS)
    };
    (0..10).map(|_| batch()).min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    #[test]
    fn the_method_and_what_makes_it_worse_are_named() {
        let levels = |findings: &[Finding]| findings.iter().map(|finding| finding.level).collect::<Vec<_>>();
        let plain = Surroundings { is_mps_running: false, is_counter_invariant: true, clock_ns: 25 };
        let usual = findings(|_| true, &plain);
        assert_eq!(levels(&usual), [Level::Good]);
        assert!(usual[0].what.contains("timing events; exact to one point"), "{}", usual[0].what);
        let worse = findings(
            |_| true,
            &Surroundings { is_mps_running: true, is_counter_invariant: false, clock_ns: 800 },
        );
        assert_eq!(levels(&worse), [Level::Good, Level::Warning, Level::Warning]);
        assert!(worse[2].what.contains("takes 800 ns"), "{}", worse[2].what);
        let old = findings(|name| name != "cuEventElapsedTime", &plain);
        assert_eq!(levels(&old), [Level::Problem]);
        assert!(old[0].what.contains("lacks cuEventElapsedTime, so"), "{}", old[0].what);
    }

    #[test]
    fn the_counter_is_judged_by_the_kernels_word_for_it() {
        let with = |flags: &str| format!("processor\t: 0\nflags\t\t: fpu tsc {flags} sse\nbugs\t\t:\n");
        assert!(has_invariant_counter(&with("constant_tsc nonstop_tsc")));
        assert!(!has_invariant_counter(&with("constant_tsc")));
        assert!(!has_invariant_counter(""));
    }

    #[test]
    fn the_clock_is_timed() {
        assert!((1..1_000_000).contains(&clock_ns()));
    }
}
