//! Which GPU a limit is for: all of them, one by its index, or one by its UUID.

use super::LimitsError;
use super::error::quoted;
use crate::device::Uuid;
use std::fmt;

/// A GPU that limits are resolved against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Its number in `nvidia-smi` (PCI order), whatever `CUDA_VISIBLE_DEVICES` says.
    pub index: u32,
    /// Its UUID, or a MIG instance's.
    pub uuid: Uuid,
    /// Memory of the whole device, in bytes.
    pub physical_bytes: u64,
}

/// The GPU or GPUs that a limit is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// Every GPU without a limit of its own.
    Every,
    /// The GPU with this number in `nvidia-smi`.
    Index(u32),
    /// The one GPU or MIG instance whose UUID starts so, in lower case and without `GPU-` or `MIG-`.
    Uuid(String),
}

/// Characters of `GPU-` or `MIG-`.
pub(super) const KIND_CHARACTERS: usize = 4;
/// Characters of a UUID after that, with its dashes.
pub(super) const UUID_CHARACTERS: usize = 36;

impl Selector {
    /// Reads an index or a UUID. `place` names the text in errors.
    pub fn parse(place: &str, text: &str) -> Result<Selector, LimitsError> {
        let text = text.trim();
        if text.bytes().all(|byte| byte.is_ascii_digit())
            && let Ok(index) = text.parse()
        {
            return Ok(Selector::Index(index));
        }
        Selector::parse_uuid(text).ok_or_else(|| {
            LimitsError::new(
                place,
                format!("{} names no GPU", quoted(text)),
                "write a GPU's number or its UUID as nvidia-smi -L prints them, such as 0 or GPU-8932f937",
            )
        })
    }

    /// Reads `GPU-` or `MIG-` and the start of a UUID, as `CUDA_VISIBLE_DEVICES` takes it.
    pub(super) fn parse_uuid(text: &str) -> Option<Selector> {
        let (kind, start) = text.trim().split_at_checked(KIND_CHARACTERS)?;
        let known_kind = kind.eq_ignore_ascii_case("GPU-") || kind.eq_ignore_ascii_case("MIG-");
        let well_formed = (1..=UUID_CHARACTERS).contains(&start.len())
            && start.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        (known_kind && well_formed).then(|| Selector::Uuid(start.to_ascii_lowercase()))
    }

    /// Fails if the one found at `place` is the same.
    #[inline(never)]
    pub(super) fn check_other(&self, other: &Selector, place: &str) -> Result<(), LimitsError> {
        if self == other {
            return Err(LimitsError::new(
                place,
                format!("{other} is given twice"),
                "give each GPU one limit",
            ));
        }
        Ok(())
    }

    /// The position in `gpus` of the one that is meant. Fails if none is, or more than one; `place` says in the error
    /// where that was written.
    pub fn find(&self, place: &str, gpus: &[Gpu]) -> Result<usize, LimitsError> {
        let is_meant = |gpu: &Gpu| match self {
            Selector::Every => false,
            Selector::Index(index) => gpu.index == *index,
            Selector::Uuid(start) => {
                gpu.uuid.to_string().get(KIND_CHARACTERS..).is_some_and(|text| text.starts_with(start))
            }
        };
        let mut meant = gpus.iter().enumerate().filter(|(_, gpu)| is_meant(gpu));
        match (meant.next(), meant.next()) {
            (Some((position, _)), None) => Ok(position),
            (None, _) => Err(LimitsError::new(place, format!("there is no {self}"), there_are(gpus))),
            (Some(_), Some(_)) => Err(LimitsError::new(
                place,
                format!("{self} is the start of more than one UUID"),
                format!("write more of it; {}", there_are(gpus)),
            )),
        }
    }
}

fn there_are(gpus: &[Gpu]) -> String {
    const SHOWN: usize = 16;
    if gpus.is_empty() {
        return "there are no GPUs here".to_owned();
    }
    let shown: Vec<String> =
        gpus.iter().take(SHOWN).map(|gpu| format!("{} ({})", gpu.index, gpu.uuid)).collect();
    let more = if gpus.len() > SHOWN { format!(" and {} more", gpus.len() - SHOWN) } else { String::new() };
    format!("the GPUs here are {}{more}", shown.join(", "))
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Selector::Every => f.write_str("every GPU"),
            Selector::Index(index) => write!(f, "GPU {index}"),
            Selector::Uuid(start) => write!(f, "GPU-{start}"),
        }
    }
}
