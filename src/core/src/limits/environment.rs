//! Limits from environment variables: our own names, and HAMi's where ours are absent; and from what a
//! command line puts in their place.

use super::amount::parse_or_zero;
use super::entry::{add_list, share_mistake};
use super::error::quoted;
use super::{
    ARBITER_FILE_VARIABLE, Amount, CONTROL_FILE_VARIABLE, CORE_LIMIT_VARIABLE, ELASTIC_VARIABLE, Entry,
    Environment, IDLE_RELEASE_VARIABLE, Limits, LimitsError, MEMORY_LIMIT_VARIABLE, Overrides,
    PRIORITY_VARIABLE, Selector, Source, WEIGHT_VARIABLE, control_path, parse_span,
};
use crate::share::{Share, ShareError};
use crate::sharing::Priority;

const HAMI_MEMORY_LIMIT_VARIABLE: &str = "CUDA_DEVICE_MEMORY_LIMIT";
const HAMI_CORE_LIMIT_VARIABLE: &str = "CUDA_DEVICE_SM_LIMIT";
const HAMI_CORE_POLICY_VARIABLE: &str = "GPU_CORE_UTILIZATION_POLICY";
const HAMI_PRIORITY_VARIABLE: &str = "CUDA_TASK_PRIORITY";
const HAMI_CONTROL_FILE_VARIABLE: &str = "CUDA_DEVICE_MEMORY_SHARED_CACHE";
const HAMI_VISIBLE_VARIABLE: &str = "NVIDIA_VISIBLE_DEVICES";

/// Variables of HAMi's that ask for what is not done here, and what to know about it.
const HAMI_UNFOLLOWED: [(&str, &str); 2] = [
    ("CUDA_DISABLE_CONTROL", "limits hold all the same: to lift them is not for the programs under them"),
    ("CUDA_OVERSUBSCRIBE", "a limit above the GPU's memory is that memory; nothing is moved to the host"),
];

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
    limits.arbiter_file = environment(ARBITER_FILE_VARIABLE)
        .map(|path| control_path(ARBITER_FILE_VARIABLE, &path))
        .transpose()?;
    Ok(limits)
}

/// The limits of `overrides`, and of the variables for what those leave open.
pub(super) fn load_over(overrides: &Overrides, environment: Environment) -> Result<Limits, LimitsError> {
    let mut limits = Limits::none(Source::Environment);
    let own = |given, variable, add: Add| add_own(given, variable, environment, add);
    if !own(overrides.memory, MEMORY_LIMIT_VARIABLE, &mut |place, text| {
        add_list(&mut limits.memory, place, text)
    })? {
        limits.memory = hami_memory(environment)?;
    }
    if !own(overrides.cores, CORE_LIMIT_VARIABLE, &mut |place, text| {
        add_list(&mut limits.cores, place, text)
    })? {
        limits.cores = hami_cores(environment, &mut limits)?;
    }
    own(overrides.elastic, ELASTIC_VARIABLE, &mut |place, text| add_list(&mut limits.elastic, place, text))?;
    own(overrides.weight, WEIGHT_VARIABLE, &mut |place, text| add_list(&mut limits.weights, place, text))?;
    if !own(overrides.priority, PRIORITY_VARIABLE, &mut |place, text| {
        add_list(&mut limits.priorities, place, text)
    })? {
        hami_priority(environment, &mut limits)?;
    }
    limits.idle_release = environment(IDLE_RELEASE_VARIABLE)
        .map(|text| parse_span(IDLE_RELEASE_VARIABLE, &text))
        .transpose()?;
    if limits.is_empty() {
        limits.source = Source::Nothing;
    } else {
        limits.warnings.extend(unfollowed(environment));
    }
    warn_of_small_amounts(&mut limits);
    Ok(limits)
}

/// Adds what a text says that was found at a place.
type Add<'a> = &'a mut dyn FnMut(&str, &str) -> Result<(), LimitsError>;

/// Adds what is given, or else what the variable says. False if there is neither.
#[inline(never)]
fn add_own(
    given: Option<(&str, &str)>,
    variable: &str,
    environment: Environment,
    add: Add,
) -> Result<bool, LimitsError> {
    match (given, environment(variable)) {
        (Some((place, text)), _) => add(place, text)?,
        (None, Some(text)) => add(variable, &text)?,
        (None, None) => return Ok(false),
    }
    Ok(true)
}

/// Says so where an amount looks like a forgotten unit.
#[inline(never)]
pub(super) fn warn_of_small_amounts(limits: &mut Limits) {
    for Entry { value, place, .. } in &limits.memory {
        if let Amount::Bytes(bytes) = value
            && *bytes < SMALLEST_USEFUL_BYTES
        {
            limits.warnings.push(format!(
                "{place}: {bytes} bytes can't hold a CUDA context; did you mean {bytes}GiB or {bytes}MiB?"
            ));
        }
    }
}

/// Says so where a variable asks for what is not done.
fn unfollowed(environment: Environment) -> impl Iterator<Item = String> {
    HAMI_UNFOLLOWED.into_iter().filter_map(move |(name, words)| {
        let text = environment(name)?;
        let is_on = ["1", "t", "true"].iter().any(|on| text.trim().eq_ignore_ascii_case(on));
        is_on.then(|| format!("{name}={}: {words}", text.trim()))
    })
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
fn hami_priority(environment: Environment, limits: &mut Limits) -> Result<(), LimitsError> {
    match environment(HAMI_PRIORITY_VARIABLE) {
        Some(text) if text.trim() == "0" => {
            add_list(&mut limits.priorities, HAMI_PRIORITY_VARIABLE, Priority::High.name())
        }
        _ => Ok(()),
    }
}

/// Reads `variable` for every GPU, and with an index for single ones, which outrank it.
fn hami<T>(
    environment: Environment,
    variable: &str,
    mut parse: impl FnMut(&str, &str) -> Result<Option<T>, LimitsError>,
) -> Result<Vec<Entry<T>>, LimitsError> {
    let mut entries = Vec::new();
    hami_texts(environment, variable, &mut |selector, place, text| {
        if let Some(value) = parse(place, text)? {
            entries.push(Entry { selector, value, place: place.to_owned() });
        }
        Ok(())
    })?;
    Ok(entries)
}

#[inline(never)]
fn hami_texts(
    environment: Environment,
    variable: &str,
    add: &mut dyn FnMut(Selector, &str, &str) -> Result<(), LimitsError>,
) -> Result<(), LimitsError> {
    if let Some(text) = environment(variable) {
        add(Selector::Every, variable, &text)?;
    }
    let numbered = hami_numbers(environment);
    for index in 0..HAMI_INDICES {
        let place = format!("{variable}_{index}");
        if let Some(text) = environment(&place) {
            let selector = numbered.get(index as usize).cloned().unwrap_or(Selector::Index(index));
            add(selector, &place, &text)?;
        }
    }
    Ok(())
}

/// The GPUs that HAMi's numbers mean, in their order; empty where they are `nvidia-smi`'s. Its device plugin counts a
/// container's GPUs as it lists them for the container runtime, with a memory limit for each: an order that
/// `nvidia-smi` doesn't follow.
fn hami_numbers(environment: Environment) -> Vec<Selector> {
    let listed: Option<Vec<Selector>> = environment(HAMI_VISIBLE_VARIABLE)
        .and_then(|text| text.split(',').map(Selector::parse_uuid).collect());
    let listed = listed.unwrap_or_default();
    let has_limit = |index: usize| environment(&format!("{HAMI_MEMORY_LIMIT_VARIABLE}_{index}")).is_some();
    let count = (0..HAMI_INDICES as usize).filter(|&index| has_limit(index)).count();
    let is_each = count == listed.len() && (0..count).all(has_limit);
    if is_each { listed } else { Vec::new() }
}
