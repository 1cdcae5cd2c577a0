//! The driver's exports against the table of symbols: does this version know every way to take
//! memory and to give work?

use super::driver::loaded_file;
use super::finding::Finding;
use anyhow::{Context, Result};
use object::read::elf::ElfFile64;
use object::{Object, ObjectSymbol, ReadCache};
use std::fs::File;
use std::path::Path;
use vcuda_driver::table::{Class, Symbol};

/// A library of the driver and what this version knows of it.
struct Library {
    file: &'static str,
    /// What the names of its functions start with; others are internals of the driver.
    prefix: &'static str,
    find: fn(&str) -> Option<&'static Symbol>,
}

const LIBRARIES: [Library; 2] = [
    Library { file: "libcuda.so.1", prefix: "cu", find: vcuda_driver::cuda::resolve::find },
    Library { file: "libnvidia-ml.so.1", prefix: "nvml", find: vcuda_driver::nvml::find },
];

/// Parts of names of functions that take memory or start work, so that not knowing one matters.
const TELLING: [&str; 9] = [
    "Alloc",
    "Launch",
    "MemCreate",
    "ArrayCreate",
    "PoolCreate",
    "Instantiate",
    "Memcpy",
    "Memset",
    "BatchMemOp",
];

/// How the exports of one library stand to the table.
#[derive(Debug, Default, PartialEq, Eq)]
struct Census {
    hooked: usize,
    watched: usize,
    passed: usize,
    unknown: Vec<String>,
}

/// Findings about every library of the driver that is here.
pub fn examine() -> Vec<Finding> {
    let here = LIBRARIES.iter().filter_map(|library| Some((library, loaded_file(library.file)?)));
    here.flat_map(|(library, path)| match exports(&path) {
        Ok(names) => judge(library, &census(library, names.iter().map(String::as_str))),
        Err(error) => vec![Finding::warning(
            format!("{}: its exports can't be read: {error:#}", path.display()),
            "make the file readable to compare it with what this version knows",
        )],
    })
    .collect()
}

fn census<'a>(library: &Library, names: impl Iterator<Item = &'a str>) -> Census {
    let mut census = Census::default();
    for name in names {
        // `cuda.h` names go on in upper case; `cudbg` and the like are for NVIDIA's debugger.
        let rest = name.strip_prefix(library.prefix).unwrap_or_default();
        if !rest.starts_with(|first: char| first.is_ascii_uppercase()) {
            continue;
        }
        match (library.find)(name).map(|symbol| symbol.class) {
            Some(Class::Hook | Class::Deny) => census.hooked += 1,
            Some(Class::Watch) => census.watched += 1,
            Some(Class::Pass) => census.passed += 1,
            None => census.unknown.push(name.to_owned()),
        }
    }
    census
}

fn judge(library: &Library, census: &Census) -> Vec<Finding> {
    let Census { hooked, watched, passed, unknown } = census;
    let total = hooked + watched + passed + unknown.len();
    let text = format!(
        "{} exports {total} functions: {hooked} hooked, {watched} watched, {passed} passed, {} unknown",
        library.file,
        unknown.len()
    );
    if unknown.is_empty() {
        return vec![Finding::good(text)];
    }
    const UPDATE: &str = "update vcuda to a version made for this driver";
    let (telling, others): (Vec<_>, Vec<_>) =
        unknown.iter().partition(|name| TELLING.iter().any(|part| name.contains(part)));
    let mut findings = vec![Finding::note(text)];
    if !telling.is_empty() {
        let names = telling.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        findings.push(Finding::problem(
            format!("memory or work that goes through these would not be counted: {names}"),
            UPDATE,
        ));
    }
    if !others.is_empty() {
        let names = others.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        findings.push(Finding::note(format!("unknown, and harmless by their names: {names}")));
    }
    findings
}

/// Names of the functions that the library at `path` defines for others.
pub fn exports(path: &Path) -> Result<Vec<String>> {
    // A driver library has a hundred megabytes, of which this needs a hundred kilobytes.
    let cache = ReadCache::new(File::open(path)?);
    let file = ElfFile64::<object::Endianness, _>::parse(&cache).context("not a 64-bit ELF file")?;
    let mut names: Vec<String> = file
        .dynamic_symbols()
        .filter(|symbol| !symbol.is_undefined() && symbol.is_global())
        .filter_map(|symbol| symbol.name().ok().map(str::to_owned))
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    #[test]
    fn known_functions_are_counted_by_class() {
        let names = ["cuMemAlloc_v2", "cuDriverGetVersion", "cudbgApiInit", "cuda", "_init"];
        let census = census(&LIBRARIES[0], names.into_iter());
        assert_eq!((census.hooked, census.hooked + census.passed + census.watched), (1, 2));
        assert_eq!(census.unknown, Vec::<String>::new());
        assert_eq!(judge(&LIBRARIES[0], &census)[0].level, Level::Good);
    }

    #[test]
    fn an_unknown_way_to_take_memory_is_a_problem() {
        let census = census(&LIBRARIES[0], ["cuMemAllocQuantum", "cuQuantumGetName"].into_iter());
        let findings = judge(&LIBRARIES[0], &census);
        let levels: Vec<_> = findings.iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Note, Level::Problem, Level::Note]);
        assert!(findings[1].what.ends_with(": cuMemAllocQuantum"), "{}", findings[1].what);
        assert!(findings[2].what.ends_with(": cuQuantumGetName"), "{}", findings[2].what);
    }

    #[test]
    fn exports_are_read_from_real_libraries() {
        let names = exports(&loaded_file("libm.so.6").unwrap()).unwrap();
        assert!(names.contains(&"cos".to_owned()));
        assert!(exports(Path::new("/etc/passwd")).is_err());
    }
}
