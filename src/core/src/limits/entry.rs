//! One limit of any kind, the list of them that a person writes, and which of them holds for which GPU.

use super::error::quoted;
use super::{Amount, Gpu, LimitsError, Selector};
use crate::share::{Share, ShareError};

/// One limit, and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<T> {
    /// The GPU or GPUs it holds for.
    pub selector: Selector,
    /// How much.
    pub value: T,
    /// Variable or option, or file with line, column and key: where to look for it.
    pub place: String,
}

/// What a GPU can be limited in.
pub(super) trait Quantity: Sized {
    /// What would be right where a list is wrong.
    const LIST_REMEDY: &str;

    /// Reads one value. `place` names the text in errors.
    fn parse(place: &str, text: &str) -> Result<Self, LimitsError>;
}

impl Quantity for Amount {
    const LIST_REMEDY: &str =
        "write one amount for every GPU (4GiB), or a GPU with each amount (0=4GiB,1=50%)";

    fn parse(place: &str, text: &str) -> Result<Amount, LimitsError> {
        Amount::parse(place, text)
    }
}

impl Quantity for Share {
    const LIST_REMEDY: &str =
        "write one percentage for every GPU (30), or a GPU with each percentage (0=30,1=12.5)";

    fn parse(place: &str, text: &str) -> Result<Share, LimitsError> {
        text.parse().map_err(|error| share_mistake(place, text, error))
    }
}

/// `error` about `text`, found at `place`.
pub(super) fn share_mistake(place: &str, text: &str, error: ShareError) -> LimitsError {
    LimitsError::new(place, format!("{} {}", quoted(text.trim()), error.problem()), ShareError::REMEDY)
}

/// Reads one value for every GPU, such as `4GiB`, or one for each, such as `0=4GiB,GPU-8932f937=50%`.
pub(super) fn parse_list<T: Quantity>(place: &str, text: &str) -> Result<Vec<Entry<T>>, LimitsError> {
    let mut entries = Vec::new();
    if !text.contains(['=', ',']) {
        let value = T::parse(place, text)?;
        entries.push(Entry { selector: Selector::Every, value, place: place.to_owned() });
        return Ok(entries);
    }
    for item in text.split(',') {
        let Some((gpu, value)) = item.split_once('=') else {
            return Err(LimitsError::new(
                place,
                format!("{} does not say which GPU it is for", quoted(item.trim())),
                T::LIST_REMEDY,
            ));
        };
        let selector = Selector::parse(place, gpu)?;
        let value = T::parse(place, value)?;
        push(&mut entries, Entry { selector, value, place: place.to_owned() })?;
    }
    Ok(entries)
}

/// Adds `entry` unless its GPU already has one.
pub(super) fn push<T>(entries: &mut Vec<Entry<T>>, entry: Entry<T>) -> Result<(), LimitsError> {
    if entries.iter().any(|other| other.selector == entry.selector) {
        return Err(LimitsError::new(
            &entry.place,
            format!("{} is given twice", entry.selector),
            "give each GPU one limit",
        ));
    }
    entries.push(entry);
    Ok(())
}

/// The entry that holds for each of `gpus`, in their order. Fails if one names a GPU that is not there, or
/// two name one.
pub(super) fn choose<'e, T>(
    entries: &'e [Entry<T>],
    gpus: &[Gpu],
) -> Result<Vec<Option<&'e Entry<T>>>, LimitsError> {
    let every = entries.iter().find(|entry| entry.selector == Selector::Every);
    let mut chosen: Vec<Option<&Entry<T>>> = vec![None; gpus.len()];
    for entry in entries.iter().filter(|entry| entry.selector != Selector::Every) {
        let position = entry.selector.find(gpus).map_err(|error| error.at(&entry.place))?;
        let Some(slot) = chosen.get_mut(position) else { continue };
        if let Some(other) = slot {
            return Err(LimitsError::new(
                &entry.place,
                format!("{} and {} are the same GPU", other.selector, entry.selector),
                "give each GPU one limit",
            ));
        }
        *slot = Some(entry);
    }
    Ok(chosen.into_iter().map(|entry| entry.or(every)).collect())
}
