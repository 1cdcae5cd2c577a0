//! Limits from environment variables: our own names, and HAMi's where ours are absent.

use super::amount::parse_or_zero;
use super::error::quoted;
use super::{
    Amount, CONTROL_FILE_VARIABLE, CORE_LIMIT_VARIABLE, Entry, Environment, Limits, LimitsError,
    MEMORY_LIMIT_VARIABLE, Selector, Source, control_path, push_entry,
};

pub(super) const HAMI_MEMORY_LIMIT_VARIABLE: &str = "CUDA_DEVICE_MEMORY_LIMIT";
const HAMI_SM_LIMIT_VARIABLE: &str = "CUDA_DEVICE_SM_LIMIT";
const HAMI_CONTROL_FILE_VARIABLE: &str = "CUDA_DEVICE_MEMORY_SHARED_CACHE";

/// Keeps our control file apart from the one HAMi's own library would make of the same variable.
const CONTROL_FILE_SUFFIX: &str = ".vcuda";

/// GPUs that HAMi's indexed variables are looked up for: as many as its own library knows.
const HAMI_INDICES: u32 = 16;

/// Less than this can't hold a CUDA context, so a number this small was meant in another unit.
const SMALLEST_USEFUL_BYTES: u64 = 1 << 20;

pub(super) fn load(environment: Environment) -> Result<Limits, LimitsError> {
    if environment(CORE_LIMIT_VARIABLE).is_some() {
        return Err(LimitsError::new(
            CORE_LIMIT_VARIABLE,
            "compute limits are not supported by this version",
            "unset the variable; memory limits work without it",
        ));
    }
    let mut limits = match environment(MEMORY_LIMIT_VARIABLE) {
        Some(text) => Limits::from_text(MEMORY_LIMIT_VARIABLE, &text)?,
        None => hami(environment)?,
    };
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

/// Reads `4GiB`, or `0=4GiB,GPU-8932f937=50%`.
pub(super) fn parse_list(place: &str, text: &str) -> Result<Vec<Entry>, LimitsError> {
    let mut entries = Vec::new();
    if !text.contains(['=', ',']) {
        let amount = Amount::parse(place, text)?;
        entries.push(Entry { selector: Selector::Every, amount, place: place.to_owned() });
        return Ok(entries);
    }
    for item in text.split(',') {
        let Some((gpu, amount)) = item.split_once('=') else {
            return Err(LimitsError::new(
                place,
                format!("{} does not say which GPU it is for", quoted(item.trim())),
                "write one amount for every GPU (4GiB), or a GPU with each amount (0=4GiB,1=50%)",
            ));
        };
        let selector = Selector::parse(place, gpu)?;
        let amount = Amount::parse(place, amount)?;
        push_entry(&mut entries, Entry { selector, amount, place: place.to_owned() })?;
    }
    Ok(entries)
}

/// Says so where an amount looks like a forgotten unit.
pub(super) fn small_amount_warning(entry: &Entry) -> Option<String> {
    match entry.amount {
        Amount::Bytes(bytes) if bytes < SMALLEST_USEFUL_BYTES => Some(format!(
            "{}: {bytes} bytes can't hold a CUDA context; did you mean {bytes}GiB or {bytes}MiB?",
            entry.place
        )),
        _ => None,
    }
}

/// Reads HAMi's variables as HAMi does: zero means "not set here", an index outranks the general limit.
fn hami(environment: Environment) -> Result<Limits, LimitsError> {
    let mut limits = Limits::none(Source::Nothing);
    let indexed = (0..HAMI_INDICES)
        .map(|index| (Selector::Index(index), format!("{HAMI_MEMORY_LIMIT_VARIABLE}_{index}")));
    let general = (Selector::Every, HAMI_MEMORY_LIMIT_VARIABLE.to_owned());
    for (selector, place) in std::iter::once(general).chain(indexed) {
        let Some(text) = environment(&place) else { continue };
        if let Some(amount) = parse_or_zero(&place, &text)? {
            limits.source = Source::Hami;
            let entry = Entry { selector, amount, place };
            limits.warnings.extend(small_amount_warning(&entry));
            push_entry(&mut limits.entries, entry)?;
        }
    }
    let indexed = (0..HAMI_INDICES).map(|index| format!("{HAMI_SM_LIMIT_VARIABLE}_{index}"));
    for name in std::iter::once(HAMI_SM_LIMIT_VARIABLE.to_owned()).chain(indexed) {
        let value = environment(&name).unwrap_or_default();
        if !matches!(value.trim(), "" | "0" | "100") {
            limits.warnings.push(format!(
                "{name}={}: compute limits are not supported by this version; only memory is limited",
                value.trim().escape_debug()
            ));
        }
    }
    Ok(limits)
}
