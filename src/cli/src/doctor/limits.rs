//! The limits that a program started here would have.

use super::finding::Finding;
use crate::size;
use vcuda_core::limits::{Amount, Gpu, Limits, MEMORY_LIMIT_VARIABLE};

/// Findings about the configuration, resolved against `gpus` where there are any.
pub fn examine(gpus: &[Gpu]) -> Vec<Finding> {
    match Limits::of_this_process() {
        Ok(limits) => findings(&limits, gpus),
        Err(error) => vec![Finding::problem(
            error.to_string(),
            "until this is right, CUDA programs under vcuda fail to start rather than run without a limit",
        )],
    }
}

fn findings(limits: &Limits, gpus: &[Gpu]) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        limits.warnings.iter().map(|warning| Finding::warning(warning, "remove what is not meant")).collect();
    if limits.is_unlimited() {
        findings.push(Finding::note(format!(
            "none set here; vcuda run --memory 4GiB, {MEMORY_LIMIT_VARIABLE} or a limits file sets one"
        )));
        return findings;
    }
    if gpus.is_empty() {
        for entry in limits.entries() {
            findings
                .push(Finding::note(format!("{} for {} ({})", entry.amount, entry.selector, entry.place)));
        }
        return findings;
    }
    // CUDA's figure for a GPU's memory, which shares are of, is not asked here: that would start CUDA.
    let has_shares = limits.entries().iter().any(|entry| matches!(entry.amount, Amount::Share(_)));
    let about = if has_shares { "about " } else { "" };
    match limits.resolve(gpus) {
        Err(error) => findings.push(Finding::problem(error.to_string(), "correct it there")),
        Ok(resolved) => findings.extend(gpus.iter().zip(resolved).map(|(gpu, limit)| {
            let limit = limit.map_or("no limit".to_owned(), |limit| format!("{about}{}", size::text(limit)));
            Finding::good(format!("GPU {}: {limit} ({})", gpu.index, limits.source()))
        })),
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;
    use vcuda_core::device::Uuid;

    fn gpus() -> Vec<Gpu> {
        vec![Gpu { index: 0, uuid: Uuid::gpu([1; 16]), physical_bytes: 8 << 30 }]
    }

    #[test]
    fn limits_are_shown_per_gpu() {
        let limits = Limits::from_text("VCUDA_MEMORY_LIMIT", "50%").unwrap();
        assert_eq!(findings(&limits, &gpus()), [Finding::good("GPU 0: about 4.00 GiB (VCUDA_MEMORY_LIMIT)")]);
        let unresolved = findings(&limits, &[]);
        assert_eq!(unresolved[0].what, "50% for every GPU (VCUDA_MEMORY_LIMIT)");
    }

    #[test]
    fn a_limit_for_a_missing_gpu_is_a_problem() {
        let limits = Limits::from_text("VCUDA_MEMORY_LIMIT", "3=1GiB").unwrap();
        assert_eq!(findings(&limits, &gpus())[0].level, Level::Problem);
    }
}
