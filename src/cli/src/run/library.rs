//! Finds the library to preload.

use anyhow::{Result, bail};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use vcuda_shares::LIBRARY_IN_CONTAINER;

/// Names the library where it is in none of the usual places.
const VARIABLE: &str = "VCUDA_LIBRARY";
const FILE: &str = "libvcuda.so";

/// The library: `VCUDA_LIBRARY`, or beside this command, or in `../lib` from there, or where containers have it.
pub fn find() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(VARIABLE) {
        let path = std::path::absolute(path)?;
        if !is_library(&path) {
            bail!("{VARIABLE}: {} is no 64-bit ELF library; name {FILE}", path.display());
        }
        return Ok(path);
    }
    let command = std::env::current_exe()?;
    let directory = command.parent().unwrap_or(Path::new("/"));
    let places = [
        directory.join(FILE),
        directory.join("../lib").join(FILE),
        directory.join("../lib/vcuda").join(FILE),
        // What containers are given.
        PathBuf::from(LIBRARY_IN_CONTAINER),
    ];
    match places.iter().find(|path| is_library(path)) {
        Some(path) => Ok(path.canonicalize()?),
        None => {
            let tried: Vec<_> = places.iter().map(|path| path.display().to_string()).collect();
            bail!("{FILE} is in none of {}; install it there or name it in {VARIABLE}", tried.join(", "))
        }
    }
}

/// Whether the loader could take it: it starts as a 64-bit ELF file does. With anything else the loader
/// prints a line and starts the program without it, that is, without a limit.
fn is_library(path: &Path) -> bool {
    let mut start = [0; 5];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *b"\x7fELF\x02"
}
