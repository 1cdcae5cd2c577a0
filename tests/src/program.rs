//! Test programs: compiled once and again only when a source is newer.

use crate::artefacts::artefacts;
use crate::file_lock::lock;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// How a source is compiled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Language {
    C,
    Cpp,
}

/// The program of `tests/programs/NAME.c`, `NAME.cpp` or all of `NAME/*.c`, linked to the driver libraries.
pub fn program(name: &str) -> PathBuf {
    let (language, sources) = sources_of(name);
    let driver = artefacts().driver.display().to_string();
    let flags = [
        format!("-L{driver}"),
        "-l:libcuda.so.1".to_owned(),
        "-l:libnvidia-ml.so.1".to_owned(),
        "-pthread".to_owned(),
        "-ldl".to_owned(),
        // What the driver's libraries need is found where they are found.
        "-Wl,--allow-shlib-undefined".to_owned(),
    ];
    compiled(name, language, &sources, &flags)
}

/// The shared library of `tests/programs/NAME.c`, named `file`, with further flags for the compiler.
pub fn shared_library(name: &str, file: &str, flags: &[&str]) -> PathBuf {
    let (language, sources) = sources_of(name);
    let all: Vec<String> = ["-shared", "-fPIC"].iter().chain(flags).map(|flag| (*flag).to_owned()).collect();
    compiled(file, language, &sources, &all)
}

fn sources_of(name: &str) -> (Language, Vec<PathBuf>) {
    let directory = artefacts().root.join("tests/programs");
    for (extension, language) in [("c", Language::C), ("cpp", Language::Cpp)] {
        let source = directory.join(format!("{name}.{extension}"));
        if source.exists() {
            return (language, vec![source]);
        }
    }
    let sources = files_of(&directory.join(name), "c");
    assert!(!sources.is_empty(), "no test program {name}");
    (Language::C, sources)
}

/// Compiles `sources` to `file` in the directory of test programs, unless it is newer than they are.
pub fn compiled(file: &str, language: Language, sources: &[PathBuf], flags: &[String]) -> PathBuf {
    let artefacts = artefacts();
    let target = artefacts.programs.join(file);
    let _lock = lock(&artefacts.programs.join(format!("{file}.lock")));
    let mut inputs = sources.to_vec();
    inputs.extend(
        ["tests/programs", "include"].iter().flat_map(|path| files_of(&artefacts.root.join(path), "h")),
    );
    inputs
        .extend(sources.iter().filter_map(|source| source.parent()).flat_map(|parent| files_of(parent, "h")));
    let newest = inputs.iter().map(|path| modified(path)).max();
    if target.exists() && Some(modified(&target)) > newest {
        return target;
    }
    let (compiler, standard) = match language {
        Language::C => ("cc", "-std=c11"),
        Language::Cpp => ("c++", "-std=c++17"),
    };
    let unfinished = artefacts.programs.join(format!("{file}.unfinished"));
    let mut command = Command::new(compiler);
    command.args([standard, "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&unfinished);
    command.arg(format!("-I{}", artefacts.headers.display())).args(sources).args(flags);
    let output = command.output().unwrap_or_else(|error| panic!("{compiler}: {error}"));
    assert!(output.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&unfinished, &target).expect("the program in its place");
    target
}

fn files_of(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    files.sort();
    files
}

fn modified(path: &Path) -> SystemTime {
    fs::metadata(path).and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}
