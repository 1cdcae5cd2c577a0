//! Limits from environment variables: our own names, and HAMi's where ours are absent; and from what a
//! command line puts in their place.

use super::amount::parse_or_zero;
use super::entry::{parse_list, push, share_mistake};
use super::error::quoted;
use super::{
    Amount, CONTROL_FILE_VARIABLE, CORE_LIMIT_VARIABLE, ELASTIC_VARIABLE, Entry, Environment,
    IDLE_RELEASE_VARIABLE, Limits, LimitsError, MEMORY_LIMIT_VARIABLE, Overrides, PRIORITY_VARIABLE,
    Selector, Source, WEIGHT_VARIABLE, control_path, parse_span,
};
use crate::share::{Share, ShareError};
use crate::sharing::Priority;

const HAMI_MEMORY_LIMIT_VARIABLE: &str = "CUDA_DEVICE_MEMORY_LIMIT";
const HAMI_CORE_LIMIT_VARIABLE: &str = "CUDA_DEVICE_SM_LIMIT";
const HAMI_CORE_POLICY_VARIABLE: &str = "GPU_CORE_UTILIZATION_POLICY";
const HAMI_PRIORITY_VARIABLE: &str = "CUDA_TASK_PRIORITY";
const HAMI_CONTROL_FILE_VARIABLE: &str = "CUDA_DEVICE_MEMORY_SHARED_CACHE";

/// Keeps our control file apart from the one HAMi's own library would make of the same variable.
const CONTROL_FILE_SUFFIX: &str = ".vcuda";

/// GPUs that HAMi's indexed variables are looked up for: as many as its own library knows.
const HAMI_INDICES: u32 = 16;

/// Less than this can't hold a CUDA context, so a number this small was meant in another unit.
const SMALLEST_USEFUL_BYTES: u64 = 1 << 20;

/// The limits that the variables set, and the control file they name.
pub(super) fn load(environment: Environment) -> Result<Limits, LimitsError> {
    let mut limits = load_over(&Overrides::default(), environment)?;
    limits.control_file = match (environment(CONTROL_FILE_VARIABLE), environment(HAMI_CONTROL_FILE_VARIABLE))
    {
        (Some(path), _) => Some(control_path(CONTROL_FILE_VARIABLE, &path)?),
        (None, Some(path)) => {
            Some(control_path(HAMI_CONTROL_FILE_VARIABLE, &format!("{path}{CONTROL_FILE_SUFFIX}"))?)
        }
        (None, None) => None,
    };
    Ok(limits)
}

/// The limits of `overrides`, and of the variables for what those leave open.
pub(super) fn load_over(overrides: &Overrides, environment: Environment) -> Result<Limits, LimitsError> {
    let mut limits = Limits::none(Source::Environment);
    let own = |given: Option<(&str, &str)>, variable: &str| match given {
        Some((place, text)) => Some((place.to_owned(), text.to_owned())),
        None => environment(variable).map(|text| (variable.to_owned(), text)),
    };
    limits.memory = match own(overrides.memory, MEMORY_LIMIT_VARIABLE) {
        Some((place, text)) => parse_list(&place, &text)?,
        None => hami_memory(environment)?,
    };
    limits.cores = match own(overrides.cores, CORE_LIMIT_VARIABLE) {
        Some((place, text)) => parse_list(&place, &text)?,
        None => hami_cores(environment, &mut limits)?,
    };
    if let Some((place, text)) = own(overrides.elastic, ELASTIC_VARIABLE) {
        limits.elastic = parse_list(&place, &text)?;
    }
    if let Some((place, text)) = own(overrides.weight, WEIGHT_VARIABLE) {
        limits.weights = parse_list(&place, &text)?;
    }
    limits.priorities = match own(overrides.priority, PRIORITY_VARIABLE) {
        Some((place, text)) => parse_list(&place, &text)?,
        None => hami_priority(environment),
    };
    limits.idle_release = environment(IDLE_RELEASE_VARIABLE)
        .map(|text| parse_span(IDLE_RELEASE_VARIABLE, &text))
        .transpose()?;
    if limits.is_empty() {
        limits.source = Source::Nothing;
    }
    limits.warnings.extend(limits.memory.iter().filter_map(small_amount_warning));
    Ok(limits)
}

/// Says so where an amount looks like a forgotten unit.
pub(super) fn small_amount_warning(entry: &Entry<Amount>) -> Option<String> {
    match entry.value {
        Amount::Bytes(bytes) if bytes < SMALLEST_USEFUL_BYTES => Some(format!(
            "{}: {bytes} bytes can't hold a CUDA context; did you mean {bytes}GiB or {bytes}MiB?",
            entry.place
        )),
        _ => None,
    }
}

/// Reads HAMi's memory limits as HAMi does: zero means "not set here".
fn hami_memory(environment: Environment) -> Result<Vec<Entry<Amount>>, LimitsError> {
    hami(environment, HAMI_MEMORY_LIMIT_VARIABLE, parse_or_zero)
}

/// Reads HAMi's compute limits as HAMi does: whole percentages, of which zero means "no limit", and a policy
/// that can switch them off.
fn hami_cores(environment: Environment, limits: &mut Limits) -> Result<Vec<Entry<Share>>, LimitsError> {
    let cores = hami(environment, HAMI_CORE_LIMIT_VARIABLE, |place, text| match text.parse::<Share>() {
        Ok(share) if share.is_whole_percentage() => Ok(Some(share)),
        Ok(_) => Err(LimitsError::new(
            place,
            format!("{} is no whole percentage, as HAMi's variables are", quoted(text.trim())),
            format!("write 1 to 100, such as 30; {CORE_LIMIT_VARIABLE} takes decimals"),
        )),
        Err(ShareError::Zero | ShareError::Empty) => {
            limits.notes.push(format!("{place}={}: no compute limit there, as HAMi reads it", text.trim()));
            Ok(None)
        }
        Err(error) => Err(share_mistake(place, text, error)),
    })?;
    let policy = environment(HAMI_CORE_POLICY_VARIABLE).unwrap_or_default();
    let is_limited = cores.iter().any(|entry| !entry.value.is_whole());
    if is_limited && policy.trim().eq_ignore_ascii_case("disable") {
        limits.warnings.push(format!(
            "{HAMI_CORE_POLICY_VARIABLE}=disable: {HAMI_CORE_LIMIT_VARIABLE} is not put into force, as HAMi \
             would not; {CORE_LIMIT_VARIABLE} is, whatever the policy"
        ));
        return Ok(Vec::new());
    }
    Ok(cores)
}

/// Reads HAMi's priority as HAMi does: 0 is high. Anything else is what holds anyway.
fn hami_priority(environment: Environment) -> Vec<Entry<Priority>> {
    let is_high = environment(HAMI_PRIORITY_VARIABLE).is_some_and(|text| text.trim() == "0");
    let high = || Entry {
        selector: Selector::Every,
        value: Priority::High,
        place: HAMI_PRIORITY_VARIABLE.to_owned(),
    };
    is_high.then(high).into_iter().collect()
}

/// Reads `variable` for every GPU, and with an index for single ones, which outrank it.
fn hami<T>(
    environment: Environment,
    variable: &str,
    mut parse: impl FnMut(&str, &str) -> Result<Option<T>, LimitsError>,
) -> Result<Vec<Entry<T>>, LimitsError> {
    let mut entries = Vec::new();
    let indexed = (0..HAMI_INDICES).map(|index| (Selector::Index(index), format!("{variable}_{index}")));
    for (selector, place) in std::iter::once((Selector::Every, variable.to_owned())).chain(indexed) {
        let Some(text) = environment(&place) else { continue };
        if let Some(value) = parse(&place, &text)? {
            push(&mut entries, Entry { selector, value, place })?;
        }
    }
    Ok(entries)
}
