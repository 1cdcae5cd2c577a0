//! The limits that a program started here would have.

use super::finding::Finding;
use crate::size;
use vcuda_core::limits::{
    Amount, CORE_LIMIT_VARIABLE, DeviceEntries, Entry, Gpu, Limits, MEMORY_LIMIT_VARIABLE, SHARES_DIRECTORY,
};
use vcuda_core::share::Share;
use vcuda_core::sharing::{Priority, Weight};

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
    findings.extend(limits.notes.iter().map(Finding::note));
    if limits.is_empty() {
        findings.push(Finding::note(format!(
            "none set here; vcuda run --memory 4GiB --cores 30, {MEMORY_LIMIT_VARIABLE}, {CORE_LIMIT_VARIABLE} or a \
             limits file sets them"
        )));
        return findings;
    }
    if gpus.is_empty() {
        findings.extend(limits.parts().iter().flat_map(unresolved));
        return findings;
    }
    match limits.entries_of(gpus) {
        Err(error) => findings.push(Finding::problem(error.to_string(), "correct it there")),
        Ok(resolved) => findings.extend(gpus.iter().zip(resolved).map(|(gpu, entries)| {
            if !limits.parts().iter().any(|part| part.is_of(gpu.uuid)) {
                return Finding::problem(
                    format!("GPU {}: no share of it in {SHARES_DIRECTORY}", gpu.index),
                    "CUDA is refused to programs that see it: start the container with a share of each GPU that it has",
                );
            }
            Finding::good(format!(
                "GPU {}: {}; {}",
                gpu.index,
                memory(entries.memory, gpu),
                compute(&entries)
            ))
        })),
    }
    findings
}

/// What is written, where it is not known of which GPUs.
fn unresolved(limits: &Limits) -> Vec<Finding> {
    let memory = limits.memory().iter().map(|entry| (entry.value.to_string(), &entry.selector, &entry.place));
    let cores = limits.cores().iter().map(|entry| (of_time(entry.value), &entry.selector, &entry.place));
    let elastic = limits.elastic().iter().map(|entry| (elastic(entry.value), &entry.selector, &entry.place));
    let weights = limits.weights().iter().map(|entry| (weight(entry.value), &entry.selector, &entry.place));
    let priorities =
        limits.priorities().iter().map(|entry| (priority(entry.value), &entry.selector, &entry.place));
    let all = memory.chain(cores).chain(elastic).chain(weights).chain(priorities);
    all.map(|(limit, gpu, place)| Finding::note(format!("{limit} for {gpu} ({place})"))).collect()
}

/// `4.00 GiB (VCUDA_MEMORY_LIMIT)`.
fn memory(entry: Option<&Entry<Amount>>, gpu: &Gpu) -> String {
    let Some(Entry { value, place, .. }) = entry else { return "no memory limit".to_owned() };
    // CUDA's figure for a GPU's memory, which shares are of, is not asked here: that would start CUDA.
    let about = if matches!(value, Amount::Share(_)) { "about " } else { "" };
    format!("{about}{} ({place})", size::text(value.of(gpu.physical_bytes)))
}

/// `30 % of its time (VCUDA_CORE_LIMIT)`, `no compute limit, weight 60 (VCUDA_WEIGHT)`.
fn compute(entries: &DeviceEntries) -> String {
    let said = [
        entries.cores.map(|entry| (of_time(entry.value), &entry.place)),
        entries.elastic.map(|entry| (elastic(entry.value), &entry.place)),
        entries.weight.map(|entry| (weight(entry.value), &entry.place)),
        entries.priority.map(|entry| (priority(entry.value), &entry.place)),
    ];
    let said = said.into_iter().flatten().map(|(what, place)| format!("{what} ({place})"));
    let no_limit = entries.cores.is_none().then(|| "no compute limit".to_owned());
    no_limit.into_iter().chain(said).collect::<Vec<_>>().join(", ")
}

fn elastic(is_elastic: bool) -> String {
    if is_elastic { "elastic".to_owned() } else { "not elastic".to_owned() }
}

fn weight(weight: Weight) -> String {
    format!("weight {weight}")
}

fn priority(priority: Priority) -> String {
    format!("{priority} priority")
}

fn of_time(share: Share) -> String {
    if share.is_whole() {
        "all of its time, which is no limit".to_owned()
    } else {
        format!("{share} of its time")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;
    use vcuda_core::device::Uuid;

    fn gpus() -> Vec<Gpu> {
        vec![Gpu { index: 0, uuid: Uuid::gpu([1; 16]), physical_bytes: 8 << 30 }]
    }

    fn limits(variables: &[(&str, &str)]) -> Limits {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string())
        };
        Limits::load(&variable, &|_| Ok(None), &|_| Ok(None)).unwrap()
    }

    #[test]
    fn limits_are_shown_per_gpu_and_with_their_place() {
        let memory = limits(&[("VCUDA_MEMORY_LIMIT", "50%")]);
        assert_eq!(
            findings(&memory, &gpus()),
            [Finding::good("GPU 0: about 4.00 GiB (VCUDA_MEMORY_LIMIT); no compute limit")]
        );
        let cores = limits(&[("VCUDA_CORE_LIMIT", "0=12.5")]);
        assert_eq!(
            findings(&cores, &gpus()),
            [Finding::good("GPU 0: no memory limit; 12.5 % of its time (VCUDA_CORE_LIMIT)")]
        );
        let both = limits(&[("VCUDA_MEMORY_LIMIT", "4GiB"), ("CUDA_DEVICE_SM_LIMIT", "30")]);
        let unresolved: Vec<_> = findings(&both, &[]).into_iter().map(|finding| finding.what).collect();
        assert_eq!(
            unresolved,
            [
                "4GiB for every GPU (VCUDA_MEMORY_LIMIT)",
                "30 % of its time for every GPU (CUDA_DEVICE_SM_LIMIT)"
            ]
        );
        let shared = limits(&[
            ("VCUDA_CORE_LIMIT", "30"),
            ("VCUDA_ELASTIC", "true"),
            ("VCUDA_WEIGHT", "0=60"),
            ("CUDA_TASK_PRIORITY", "0"),
        ]);
        assert_eq!(
            findings(&shared, &gpus()),
            [Finding::good(
                "GPU 0: no memory limit; 30 % of its time (VCUDA_CORE_LIMIT), elastic (VCUDA_ELASTIC), weight 60 \
                 (VCUDA_WEIGHT), high priority (CUDA_TASK_PRIORITY)"
            )]
        );
        let weight = limits(&[("VCUDA_WEIGHT", "60")]);
        assert_eq!(
            findings(&weight, &gpus()),
            [Finding::good("GPU 0: no memory limit; no compute limit, weight 60 (VCUDA_WEIGHT)")]
        );
        assert_eq!(findings(&weight, &[])[0].what, "weight 60 for every GPU (VCUDA_WEIGHT)");
        let whole = limits(&[("VCUDA_CORE_LIMIT", "100")]);
        assert!(findings(&whole, &gpus())[0].what.contains("all of its time, which is no limit"));
    }

    #[test]
    fn a_limit_for_a_missing_gpu_is_a_problem() {
        for (variable, text) in [("VCUDA_MEMORY_LIMIT", "3=1GiB"), ("VCUDA_CORE_LIMIT", "3=30")] {
            assert_eq!(findings(&limits(&[(variable, text)]), &gpus())[0].level, Level::Problem);
        }
    }

    #[test]
    fn what_hami_takes_for_no_limit_is_noted() {
        let found = findings(&limits(&[("CUDA_DEVICE_SM_LIMIT", "0")]), &gpus());
        assert_eq!(found[0].level, Level::Note);
        assert!(found[0].what.starts_with("CUDA_DEVICE_SM_LIMIT=0: no compute limit"), "{found:?}");
        assert!(found[1].what.starts_with("none set here; "), "{found:?}");
    }
}
