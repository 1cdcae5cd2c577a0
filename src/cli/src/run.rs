//! `vcuda run`: starts a command under limits and waits for it.
//!
//! The command keeps its terminal, its signals and its exit status: 128 plus the signal if one ended it, as
//! shells say it. Errors of our own exit with 125, 126 (can't be executed) or 127 (not found).

mod child;
mod library;

pub use library::find as find_library;

use crate::sharing::SharingOptions;
use anyhow::{Context, Result, bail};
use clap::Args;
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use vcuda_core::control::Control;
use vcuda_core::limits::{
    CONTROL_FILE_VARIABLE, LIMIT_VARIABLES, LIMITS_FILE_VARIABLE, Limits, Overrides, SHARES_DIRECTORY,
    SYSTEM_FILE, Source, list_directory, parse_span, read_file,
};
use vcuda_slices::RunFiles;
use vcuda_slices::limits_file::is_limits_file;

/// Exit status for what goes wrong before the command starts.
pub const EXIT_OWN_ERROR: u8 = 125;
const EXIT_NOT_EXECUTABLE: u8 = 126;
const EXIT_NOT_FOUND: u8 = 127;

const PRELOAD_VARIABLE: &str = "LD_PRELOAD";

/// Arguments of `vcuda run`.
#[derive(Args)]
pub struct Run {
    /// GPU memory limit: 4GiB or 50% for every GPU, or 0=4GiB,GPU-8932f937=50% for single ones
    #[arg(short, long, value_name = "LIMIT")]
    memory: Option<String>,
    /// GPU time limit in percent: 30 for every GPU, or 0=30,GPU-8932f937=12.5 for single ones
    #[arg(long, value_name = "LIMIT")]
    cores: Option<String>,
    #[command(flatten)]
    sharing: SharingOptions,
    /// Let the programs be put aside once they have been idle for so long and others need the memory: 60s, 5m
    #[arg(long, value_name = "TIME", conflicts_with = "limits_file")]
    idle_release: Option<String>,
    /// Take the limits from this JSON file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["memory", "cores", "elastic", "weight", "priority"])]
    limits_file: Option<PathBuf>,
    /// Share the limits with everything else that uses this control file [default: a new one for this run]
    #[arg(long, value_name = "FILE")]
    control_file: Option<PathBuf>,
    /// Name the slice, for vcuda set and the others [default: run- and the process id of this command]
    #[arg(long, value_name = "NAME", conflicts_with = "control_file")]
    name: Option<String>,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

impl Run {
    /// Runs the command to its end and passes on how it ended.
    pub fn execute(&self) -> Result<ExitCode> {
        let Some((program, arguments)) = self.command.split_first() else { bail!("no command given") };
        let library = find_library()?;
        let mut limits = self.limits()?;
        if let Some(text) = &self.idle_release {
            limits.idle_release = Some(parse_span("--idle-release", text)?);
        }
        for warning in &limits.warnings {
            eprintln!("vcuda: {warning}");
        }
        let preload = preload(&library, std::env::var_os(PRELOAD_VARIABLE).as_deref())?;
        let files = self.files(&mut limits)?;

        let mut command = Command::new(program);
        command.args(arguments);
        command.env(PRELOAD_VARIABLE, preload);
        if let Some(files) = &files {
            pass_on(&limits, files, &mut command);
        }

        let ended = child::run_to_end(command);
        if let Some(files) = files {
            files.retire();
        }
        match ended {
            Ok(status) => {
                let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
                Ok(ExitCode::from(code as u8))
            }
            Err(error) => {
                eprintln!("vcuda: can't run {}: {error}", program.display());
                let not_found = error.kind() == ErrorKind::NotFound;
                Ok(ExitCode::from(if not_found { EXIT_NOT_FOUND } else { EXIT_NOT_EXECUTABLE }))
            }
        }
    }

    fn has_limit_options(&self) -> bool {
        self.memory.is_some() || self.cores.is_some() || self.sharing.is_given()
    }

    /// The limits that will hold in the command, read by the same parser as there.
    fn limits(&self) -> Result<Limits> {
        let chosen_here =
            self.has_limit_options() || self.limits_file.is_some() || self.control_file.is_some();
        let above = [SHARES_DIRECTORY, SYSTEM_FILE].into_iter().find(|path| Path::new(path).exists());
        if let Some(path) = above.filter(|_| chosen_here) {
            bail!("{path} sets the limits here and can't be overruled; run without options, or change it");
        }
        let inherited = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        if self.has_limit_options() {
            let overrides = self.sharing.beside(Overrides {
                memory: self.memory.as_deref().map(|text| ("--memory", text)),
                cores: self.cores.as_deref().map(|text| ("--cores", text)),
                ..Overrides::default()
            });
            let mut limits = Limits::from_overrides(&overrides, &inherited)?;
            // That of a run around this one is no choice of the user's.
            let is_chosen = |path: &String| !is_limits_file(OsStr::new(path));
            if inherited(LIMITS_FILE_VARIABLE).is_some_and(|path| is_chosen(&path)) {
                limits.warnings.push(format!(
                    "{LIMITS_FILE_VARIABLE} is ignored: the command line sets the limits here"
                ));
            }
            return Ok(limits);
        }
        let limits_file = self.limits_file.as_deref().map(std::path::absolute).transpose()?;
        let variable = |name: &str| match &limits_file {
            Some(path) if name == LIMITS_FILE_VARIABLE => Some(path.to_string_lossy().into_owned()),
            // What was said on the command line outranks what was in the environment, without a warning.
            Some(_) if LIMIT_VARIABLES.contains(&name) => None,
            _ => inherited(name),
        };
        let limits = Limits::load(&variable, &read_file, &list_directory)?;
        if limits.source() == &Source::Nothing {
            bail!("no limit given: say --memory 4GiB, --cores 30, or --limits-file FILE");
        }
        Ok(limits)
    }

    /// The files of this run: what it counts in, and its limits, in a file of its own even if they were given in other
    /// ways, so that they can be changed while it runs. `None` where the system's file or shares say everything.
    fn files(&self, limits: &mut Limits) -> Result<Option<RunFiles>> {
        if matches!(limits.source(), Source::SystemFile | Source::Shares) {
            return Ok(None);
        }
        let chosen = match &self.control_file {
            Some(path) => {
                let path = std::path::absolute(path).context("--control-file")?;
                if path.to_str().is_none() {
                    bail!("--control-file: {} is not UTF-8, as limits files must be", path.display());
                }
                Control::open_or_create(&path)?;
                Some(path)
            }
            None => limits.control_file.clone(),
        };
        let mut files = RunFiles::make(self.name.as_deref(), chosen.as_deref())?;
        match limits.source() {
            Source::File(path) => files.link_limits(&std::path::absolute(path)?)?,
            _ => {
                limits.set_control_file(files.control().to_owned());
                files.write_limits(&limits.to_text())?;
            }
        }
        Ok(Some(files))
    }
}

/// Tells the command of its limits, and of nothing else that would be taken for limits.
fn pass_on(limits: &Limits, files: &RunFiles, command: &mut Command) {
    let limits_file = match limits.source() {
        Source::File(path) => path.as_path(),
        _ => files.limits(),
    };
    command.env(LIMITS_FILE_VARIABLE, limits_file);
    command.env(CONTROL_FILE_VARIABLE, files.control());
    // Void beside the file, and the command would say so.
    for variable in LIMIT_VARIABLES {
        command.env_remove(variable);
    }
}

/// The value of `LD_PRELOAD` with our library first, which sees a program's calls before any other.
fn preload(library: &Path, before: Option<&OsStr>) -> Result<OsString> {
    let name = library.as_os_str();
    if name.as_encoded_bytes().iter().any(|byte| b": \t\n".contains(byte)) {
        bail!(
            "{}: LD_PRELOAD can't name a path with a space or colon; put the library elsewhere",
            library.display()
        );
    }
    let mut value = name.to_owned();
    if let Some(before) = before {
        for other in before.as_encoded_bytes().split(|byte| b": ".contains(byte)) {
            if !other.is_empty() && other != name.as_encoded_bytes() {
                value.push(":");
                value.push(std::os::unix::ffi::OsStrExt::from_bytes(other) as &OsStr);
            }
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preload_comes_first_and_once() {
        let value = |before: Option<&str>| {
            preload(Path::new("/lib/libvcuda.so"), before.map(OsStr::new)).unwrap().into_string().unwrap()
        };
        assert_eq!(value(None), "/lib/libvcuda.so");
        assert_eq!(value(Some("")), "/lib/libvcuda.so");
        assert_eq!(value(Some("/a.so /b.so")), "/lib/libvcuda.so:/a.so:/b.so");
        assert_eq!(value(Some("/a.so:/lib/libvcuda.so")), "/lib/libvcuda.so:/a.so");
    }

    #[test]
    fn paths_that_the_loader_would_split_are_refused() {
        for path in ["/my lib/libvcuda.so", "/a:b/libvcuda.so"] {
            assert!(preload(Path::new(path), None).unwrap_err().to_string().contains("elsewhere"));
        }
    }
}
