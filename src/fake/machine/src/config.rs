//! Which GPUs a new machine has: the text of `VCUDA_FAKE_GPUS`, and what each named model is like.

use crate::layout::MAX_GPUS;
use thiserror::Error;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
const MODEL: &str = "Simulated GPU";
/// What the machine has when nothing is asked for.
pub const DEFAULT_GPUS: &str = "2";

/// One GPU to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuSpec {
    pub name: String,
    pub total_bytes: u64,
    pub multiprocessors: u32,
    pub compute: (u32, u32),
}

/// A list of GPUs that can't be read.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("VCUDA_FAKE_GPUS: '{part}': {reason}; write for example 2, 2x24GiB or H200:141GiB,T4:15GiB")]
pub struct ConfigError {
    part: String,
    reason: &'static str,
}

struct Model {
    name: &'static str,
    gib: u64,
    multiprocessors: u32,
    compute: (u32, u32),
}

const MODELS: &[Model] = &[
    Model { name: "H200", gib: 141, multiprocessors: 132, compute: (9, 0) },
    Model { name: "H100", gib: 80, multiprocessors: 132, compute: (9, 0) },
    Model { name: "A100", gib: 40, multiprocessors: 108, compute: (8, 0) },
    Model { name: "L4", gib: 24, multiprocessors: 58, compute: (8, 9) },
    Model { name: "A10", gib: 24, multiprocessors: 72, compute: (8, 6) },
    Model { name: "T4", gib: 15, multiprocessors: 40, compute: (7, 5) },
];

/// Reads a comma-separated list of `COUNT`, `SIZE`, `COUNTxSIZE`, `NAME`, `NAME:SIZE`, `COUNTxNAME:SIZE`.
pub fn parse(text: &str) -> Result<Vec<GpuSpec>, ConfigError> {
    let mut gpus = Vec::new();
    for part in text.split(',').map(str::trim) {
        let bad = |reason| ConfigError { part: part.to_owned(), reason };
        let (count, rest) = split_count(part);
        let spec = parse_one(rest).map_err(bad)?;
        gpus.extend(std::iter::repeat_n(spec, count));
        if gpus.len() > MAX_GPUS {
            return Err(bad("more than 16 GPUs"));
        }
    }
    Ok(gpus)
}

/// Splits off a leading `COUNTx`; a bare number is a count of the default GPU.
fn split_count(part: &str) -> (usize, &str) {
    if let Ok(count) = part.parse() {
        return (count, "");
    }
    match part.split_once('x') {
        Some((count, rest)) => count.parse().map_or((1, part), |count| (count, rest)),
        None => (1, part),
    }
}

fn parse_one(text: &str) -> Result<GpuSpec, &'static str> {
    let (name, size) = match text.split_once(':') {
        Some((name, size)) => (name, Some(size)),
        None if text.starts_with(|first: char| first.is_ascii_digit()) => ("", Some(text)),
        None => (text, None),
    };
    let model = MODELS.iter().find(|model| model.name.eq_ignore_ascii_case(name));
    let total_bytes = match size {
        Some(size) => parse_size(size)?,
        None => model.map_or(24, |model| model.gib) * GIB,
    };
    Ok(GpuSpec {
        name: match (name, model) {
            ("", _) => MODEL.to_owned(),
            (_, Some(model)) => format!("Simulated {}", model.name),
            (name, None) if name.len() < 90 => name.to_owned(),
            _ => return Err("the name is longer than 89 bytes"),
        },
        total_bytes,
        multiprocessors: model.map_or(132, |model| model.multiprocessors),
        compute: model.map_or((9, 0), |model| model.compute),
    })
}

fn parse_size(text: &str) -> Result<u64, &'static str> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "the size is no whole number")?;
    let unit = match unit.trim() {
        "GiB" | "G" | "g" => GIB,
        "MiB" | "M" | "m" => MIB,
        _ => return Err("the size's unit is neither GiB nor MiB"),
    };
    match number.checked_mul(unit) {
        Some(bytes) if (1024 * MIB..=1024 * GIB).contains(&bytes) => Ok(bytes),
        _ => Err("the size is not between 1 GiB and 1 TiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_gpus_are_read() {
        let names_and_gib = |text| {
            let gpus = parse(text).unwrap();
            gpus.into_iter().map(|gpu| (gpu.name, gpu.total_bytes / GIB)).collect::<Vec<_>>()
        };
        let plain = |gib| ("Simulated GPU".to_owned(), gib);
        assert_eq!(names_and_gib("2"), [plain(24), plain(24)]);
        assert_eq!(names_and_gib("2x80GiB"), [plain(80), plain(80)]);
        assert_eq!(names_and_gib("8192MiB"), [plain(8)]);
        assert_eq!(
            names_and_gib("H200:100GiB, 1xT4,Mine:2GiB"),
            [("Simulated H200".to_owned(), 100), ("Simulated T4".to_owned(), 15), ("Mine".to_owned(), 2)]
        );
        assert_eq!(names_and_gib("0"), []);
    }

    #[test]
    fn a_bad_list_says_what_is_wrong() {
        assert_eq!(
            parse("2x5TB").unwrap_err().to_string(),
            "VCUDA_FAKE_GPUS: '2x5TB': the size's unit is neither GiB nor MiB; write for example 2, 2x24GiB or H200:141GiB,T4:15GiB"
        );
        assert!(parse("17").unwrap_err().to_string().contains("more than 16 GPUs"));
        assert!(parse("1x10MiB").is_err());
        assert!(parse("A:B").is_err());
    }
}
