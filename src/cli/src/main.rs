//! The `vcuda` command: starts programs under a limit, shows who holds what, changes limits, and tells what is
//! enforceable here.
//!
//! Works the same inside a slice, where it is itself preloaded. Must never use CUDA: a look must cost no memory.

mod agent;
mod doctor;
mod duration;
mod inspect;
mod manual;
mod neighbours;
mod ps;
mod release;
mod resume;
mod run;
mod set;
mod share;
mod sharing;
mod size;
mod suspend;
mod top;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Run unchanged CUDA programs inside an exact slice of a GPU: of its memory, and of its time
#[derive(Parser)]
#[command(name = "vcuda", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a command, and all it starts, under limits of GPU memory and GPU time
    Run(run::Run),
    /// Show who holds how much GPU memory and uses how much GPU time, and of which limits
    Ps(ps::Ps),
    /// Watch slices, GPUs and processes, full screen
    Top(top::Top),
    /// Show all that is known of one slice
    Inspect(inspect::Inspect),
    /// Change the limits of a slice, also while programs run in it
    Set(set::Set),
    /// Take all programs of a slice off the GPU, their memory into the host's
    Suspend(suspend::Suspend),
    /// Bring a slice's programs back once there is room for them
    Resume(resume::Resume),
    /// Put programs with --idle-release aside while others need their memory; runs until it is ended
    Release(release::Release),
    /// Make, list and remove shares of GPUs for containers
    Share(share::Share),
    /// Add the library to an image's own /etc/ld.so.preload: the hook of shares made with --merge-preload
    #[command(hide = true)]
    MergePreload(share::MergePreload),
    /// Show what was found here, and what can't be enforced and why
    Doctor(doctor::Doctor),
    /// Print completions for a shell
    Completions(manual::Completions),
    /// Write manual pages
    Man(manual::Man),
}

fn main() -> ExitCode {
    let (result, code_for_own_errors) = match Arguments::parse().command {
        Command::Run(run) => (run.execute(), run::EXIT_OWN_ERROR),
        Command::Ps(ps) => (ps.execute(), 1),
        Command::Top(top) => (top.execute(), 1),
        Command::Inspect(inspect) => (inspect.execute(), 1),
        Command::Set(set) => (set.execute(), 1),
        Command::Suspend(suspend) => (suspend.execute(), 1),
        Command::Resume(resume) => (resume.execute(), 1),
        Command::Release(release) => (release.execute(), 1),
        Command::Share(share) => (share.execute(), 1),
        Command::MergePreload(merge) => (merge.execute(), 1),
        Command::Doctor(doctor) => (doctor.execute(), 2),
        Command::Completions(completions) => (completions.execute(), 1),
        Command::Man(man) => (man.execute(), 1),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("vcuda: {error:#}");
            ExitCode::from(code_for_own_errors)
        }
    }
}
