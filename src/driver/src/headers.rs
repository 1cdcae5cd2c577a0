//! Compares what this crate declares with NVIDIA's own headers, by compiling C and C++ programs that print
//! the same facts.

mod signatures;

use crate::layout::Layout;
use crate::result::{CUerror, NvmlError};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The headers' folder, or why they can't be had.
static HEADERS: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/gen-driver-table");
    let output = Command::new(&script)
        .arg("--headers-only")
        .output()
        .map_err(|error| format!("{}: {error}", script.display()))?;
    match output.status.success() {
        true => Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
});

/// The headers' folder. Offline and not fetched before, there is none, and the tests have nothing to
/// compare with; a build service has to have them.
fn headers() -> Option<&'static Path> {
    match &*HEADERS {
        Ok(folder) => Some(folder),
        Err(reason) if std::env::var_os("CI").is_some() => panic!("no headers to compare with: {reason}"),
        Err(reason) => {
            std::eprintln!("skipped, no headers to compare with: {reason}");
            None
        }
    }
}

/// What a program prints, compiled from `text` with the headers of `folder`. `name` ends as its language's
/// files do.
fn output_of(folder: &Path, name: &str, text: &str) -> String {
    let scratch = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/header-comparison");
    std::fs::create_dir_all(&scratch).unwrap();
    let source = scratch.join(name);
    let program = source.with_extension("program");
    std::fs::write(&source, text).unwrap();
    let compiled = Command::new(if name.ends_with(".c") { "cc" } else { "c++" })
        .args(["-w", "-o"])
        .args([&program, &source])
        .arg(format!("-I{}", folder.display()))
        .arg(format!("-I{}", folder.join("foreign").display()))
        .output()
        .expect("C and C++ compilers named cc and c++");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let output = Command::new(&program).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The numbers that C finds for the expressions, in their order.
fn ask_c(folder: &Path, name: &str, preamble: &str, expressions: &[String]) -> Vec<i64> {
    let mut text = format!("{preamble}#include <stddef.h>\n#include <stdio.h>\nint main(void) {{\n");
    for expression in expressions {
        writeln!(text, "    printf(\"%lld\\n\", (long long)({expression}));").unwrap();
    }
    text.push_str("    return 0;\n}\n");
    output_of(folder, &format!("{name}.c"), &text).lines().map(|line| line.parse().unwrap()).collect()
}

/// Fails with every difference between C and `ours`, which maps C expressions to their value here.
fn compare(name: &str, preamble: &str, ours: &BTreeMap<String, i64>) {
    let Some(folder) = headers() else { return };
    let expressions: Vec<String> = ours.keys().cloned().collect();
    let theirs = ask_c(folder, name, preamble, &expressions);
    assert_eq!(theirs.len(), ours.len());
    let differences: Vec<String> = ours
        .iter()
        .zip(theirs)
        .filter(|((_, ours), theirs)| **ours != *theirs)
        .map(|((expression, ours), theirs)| format!("{expression}: {ours} here, {theirs} in C"))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

fn expressions(
    layouts: &[&[Layout]],
    constants: &[(&str, i64)],
    codes: impl Iterator<Item = (u32, &'static str)>,
) -> BTreeMap<String, i64> {
    let mut expressions = BTreeMap::new();
    for layout in layouts.iter().copied().flatten() {
        expressions.insert(format!("sizeof({})", layout.name), layout.size_bytes as i64);
        for (field, offset) in layout.fields {
            expressions.insert(format!("offsetof({}, {field})", layout.name), *offset as i64);
        }
    }
    expressions.extend(constants.iter().map(|(name, value)| (name.to_string(), *value)));
    expressions.extend(codes.map(|(code, name)| (name.to_string(), i64::from(code))));
    expressions
}

#[test]
fn driver_types_and_values_are_those_of_the_headers() {
    let codes = CUerror::NAMED.iter().map(|(error, name)| (error.code(), *name));
    let ours = expressions(crate::cuda::types::LAYOUTS, crate::cuda::types::CONSTANTS, codes);
    assert!(ours.len() > 400);
    compare("cuda", "#define __CUDA_API_VERSION_INTERNAL\n#include <cuda.h>\n#include <cudaEGL.h>\n", &ours);
}

#[test]
fn management_types_and_values_are_those_of_the_headers() {
    let codes = NvmlError::NAMED.iter().map(|(error, name)| (error.code(), *name));
    let ours = expressions(crate::nvml::types::LAYOUTS, crate::nvml::types::CONSTANTS, codes);
    assert!(ours.len() > 100);
    compare("nvml", "#define NVML_NO_UNVERSIONED_FUNC_DEFS\n#include <nvml.h>\n", &ours);
}

#[test]
fn every_error_code_of_the_headers_has_a_name() {
    let Some(folder) = headers() else { return };
    let names = |header: &str, prefix: &str| -> Vec<String> {
        let text = std::fs::read_to_string(folder.join(header)).unwrap();
        let lines = text.lines().map(str::trim_start).filter(|line| line.starts_with(prefix));
        lines.filter_map(|line| Some(line.split_once('=')?.0.trim().to_string())).collect()
    };
    let cuda = names("cuda.h", "CUDA_ERROR_");
    let nvml = names("nvml.h", "NVML_ERROR_");
    assert!(cuda.len() > 90 && nvml.len() > 25);
    for name in cuda {
        assert!(CUerror::NAMED.iter().any(|(_, known)| *known == name), "{name} is missing");
    }
    for name in nvml {
        assert!(NvmlError::NAMED.iter().any(|(_, known)| *known == name), "{name} is missing");
    }
}
