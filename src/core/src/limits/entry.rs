//! One limit of any kind, the list of them that a person writes, and which of them holds for which GPU.

use super::error::quoted;
use super::{Amount, Gpu, LimitsError, Selector};
use crate::share::{Share, ShareError};
use crate::sharing::{Priority, Weight};
use serde_json::Value;

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
    /// What it must be in a limits file.
    const EXPECTED: &str;

    /// Whether a value in a limits file is of the right type.
    fn is_expected(value: &Value) -> bool;

    /// Reads one value. `place` names the text in errors.
    fn parse(place: &str, text: &str) -> Result<Self, LimitsError>;
}

impl Quantity for Amount {
    const LIST_REMEDY: &str =
        "write one amount for every GPU (4GiB), or a GPU with each amount (0=4GiB,1=50%)";
    const EXPECTED: &str = "an amount in quotes, such as \"4GiB\" or \"50%\"";

    fn is_expected(value: &Value) -> bool {
        value.is_string()
    }

    fn parse(place: &str, text: &str) -> Result<Amount, LimitsError> {
        Amount::parse(place, text)
    }
}

impl Quantity for Share {
    const LIST_REMEDY: &str =
        "write one percentage for every GPU (30), or a GPU with each percentage (0=30,1=12.5)";
    const EXPECTED: &str = "a percentage, such as 30 or \"12.5%\"";

    fn is_expected(value: &Value) -> bool {
        value.is_number() || value.is_string()
    }

    fn parse(place: &str, text: &str) -> Result<Share, LimitsError> {
        text.parse().map_err(|error| share_mistake(place, text, error))
    }
}

impl Quantity for bool {
    const LIST_REMEDY: &str =
        "write true or false for every GPU, or a GPU with each of them (0=true,1=false)";
    const EXPECTED: &str = "true or false, without quotes";

    fn is_expected(value: &Value) -> bool {
        value.is_boolean()
    }

    fn parse(place: &str, text: &str) -> Result<bool, LimitsError> {
        match text.trim() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(mistake(place, text, "is neither true nor false", "write true or false")),
        }
    }
}

impl Quantity for Weight {
    const LIST_REMEDY: &str = "write one weight for every GPU (30), or a GPU with each weight (0=30,1=60)";
    const EXPECTED: &str = "a whole number from 1 to 10000, such as 30";

    fn is_expected(value: &Value) -> bool {
        value.is_number()
    }

    fn parse(place: &str, text: &str) -> Result<Weight, LimitsError> {
        Weight::parse(text).ok_or_else(|| mistake(place, text, "is no weight", Weight::REMEDY))
    }
}

impl Quantity for Priority {
    const LIST_REMEDY: &str =
        "write normal or high for every GPU, or a GPU with each of them (0=high,1=normal)";
    const EXPECTED: &str = "\"normal\" or \"high\"";

    fn is_expected(value: &Value) -> bool {
        value.is_string()
    }

    fn parse(place: &str, text: &str) -> Result<Priority, LimitsError> {
        Priority::parse(text).ok_or_else(|| mistake(place, text, "is no priority", Priority::REMEDY))
    }
}

/// `error` about `text`, found at `place`.
pub(super) fn share_mistake(place: &str, text: &str, error: ShareError) -> LimitsError {
    mistake(place, text, error.problem(), ShareError::REMEDY)
}

fn mistake(place: &str, text: &str, problem: &str, remedy: &str) -> LimitsError {
    LimitsError::new(place, format!("{} {problem}", quoted(text.trim())), remedy)
}

/// Adds what `text`, found at `place`, says of the GPUs that are selected, unless something is said of them already.
#[inline(never)]
pub(super) fn add<T: Quantity>(
    entries: &mut Vec<Entry<T>>,
    selector: &Selector,
    place: &str,
    text: &str,
) -> Result<(), LimitsError> {
    for other in entries.iter() {
        other.selector.check_other(selector, place)?;
    }
    let value = T::parse(place, text)?;
    let (selector, place) = owned(selector, place);
    entries.push(Entry { selector, value, place });
    Ok(())
}

/// Reads one value for every GPU, such as `4GiB`, or one for each, such as `0=4GiB,GPU-8932f937=50%`.
pub(super) fn add_list<T: Quantity>(
    entries: &mut Vec<Entry<T>>,
    place: &str,
    text: &str,
) -> Result<(), LimitsError> {
    split_list(place, text, T::LIST_REMEDY, &mut |selector, text| add(entries, selector, place, text))
}

/// What is the same for all kinds of limits is here and in [`positions`] once for all of them: a copy for each would be a
/// large part of the library.
#[inline(never)]
fn split_list(
    place: &str,
    text: &str,
    remedy: &str,
    add: &mut dyn FnMut(&Selector, &str) -> Result<(), LimitsError>,
) -> Result<(), LimitsError> {
    if !text.contains(['=', ',']) {
        return add(&Selector::Every, text);
    }
    for item in text.split(',') {
        let Some((gpu, value)) = item.split_once('=') else {
            return Err(mistake(place, item, "does not say which GPU it is for", remedy));
        };
        add(&Selector::parse(place, gpu)?, value)?;
    }
    Ok(())
}

#[inline(never)]
fn owned(selector: &Selector, place: &str) -> (Selector, String) {
    (selector.clone(), place.to_owned())
}

/// Puts the entry that holds for each of `gpus` into its `field` of `all`, in their order; where none does, it stays as it
/// is, as other shares' may hold there. Fails if one names a GPU that
/// is not there, or two name one.
pub(super) fn choose<'e, T, A>(
    entries: &'e [Entry<T>],
    gpus: &[Gpu],
    all: &mut [A],
    field: fn(&mut A) -> &mut Option<&'e Entry<T>>,
) -> Result<(), LimitsError> {
    let name = |position: usize| entries.get(position).map(|entry| (&entry.selector, entry.place.as_str()));
    for (one, position) in all.iter_mut().zip(positions(&name, gpus)?) {
        if let Some(entry) = position.and_then(|position| entries.get(position)) {
            *field(one) = Some(entry);
        }
    }
    Ok(())
}

/// Of entries whose selectors and places `name` tells, the position of the one that holds for each of `gpus`.
#[inline(never)]
fn positions<'e>(
    name: &dyn Fn(usize) -> Option<(&'e Selector, &'e str)>,
    gpus: &[Gpu],
) -> Result<Vec<Option<usize>>, LimitsError> {
    let mut every = None;
    let mut chosen: Vec<Option<usize>> = vec![None; gpus.len()];
    for position in 0.. {
        let Some((selector, place)) = name(position) else { break };
        if *selector == Selector::Every {
            every = Some(position);
            continue;
        }
        let gpu = selector.find(place, gpus)?;
        let Some(slot) = chosen.get_mut(gpu) else { continue };
        if let Some((other, _)) = slot.and_then(name) {
            return Err(LimitsError::new(
                place,
                format!("{other} and {selector} are the same GPU"),
                "give each GPU one limit",
            ));
        }
        *slot = Some(position);
    }
    chosen.iter_mut().for_each(|position| *position = position.or(every));
    Ok(chosen)
}
