//! What the tests run: built once per run, since `cargo test` builds no cdylib that nothing links.

use crate::file_lock::lock;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Set by cargo-nextest to the same value in all processes of one run.
const RUN_ID_VARIABLE: &str = "NEXTEST_RUN_ID";

/// The built files.
pub struct Artefacts {
    /// The repository.
    pub root: PathBuf,
    /// `libvcuda.so`.
    pub library: PathBuf,
    /// The `vcuda` command.
    pub vcuda: PathBuf,
    /// The `vcuda-node` daemon.
    pub node: PathBuf,
    /// Holds the simulated `libcuda.so.1` and `libnvidia-ml.so.1`.
    pub driver: PathBuf,
    /// Holds NVIDIA's headers.
    pub headers: PathBuf,
    /// Where compiled test programs go.
    pub programs: PathBuf,
}

/// The built files, building them on first use.
pub fn artefacts() -> &'static Artefacts {
    static ARTEFACTS: OnceLock<Artefacts> = OnceLock::new();
    ARTEFACTS.get_or_init(build)
}

/// Where cargo puts what it builds in the profile of this test: `target/debug` or `target/release`.
fn profile_directory() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let directory = test.parent().and_then(Path::parent).expect("target/PROFILE/deps");
    directory.to_path_buf()
}

fn build() -> Artefacts {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace around tests/").to_path_buf();
    let directory = profile_directory();
    let programs = directory.join("test-programs");
    fs::create_dir_all(&programs).expect("a directory for test programs");

    let _lock = lock(&programs.join("build.lock"));
    let stamp = programs.join("build.run");
    let run = std::env::var(RUN_ID_VARIABLE).ok();
    let recorded = fs::read_to_string(&stamp).ok().filter(|_| run.is_some());
    let staged = match recorded.as_deref().and_then(|text| text.split_once('\n')) {
        Some((built_by, staged)) if Some(built_by) == run.as_deref() => staged.to_owned(),
        _ => {
            let staged = build_all(&root, &directory);
            if let Some(run) = run {
                fs::write(&stamp, format!("{run}\n{staged}")).expect("a stamp beside the test programs");
            }
            staged
        }
    };
    let (driver, headers) = staged.split_once('\n').expect("two directories");
    Artefacts {
        library: directory.join("libvcuda.so"),
        vcuda: directory.join("vcuda"),
        node: directory.join("vcuda-node"),
        driver: driver.into(),
        headers: headers.into(),
        root,
        programs,
    }
}

/// Builds everything; gives the directories of the simulated driver and of NVIDIA's headers, one a line.
fn build_all(root: &Path, directory: &Path) -> String {
    let is_release = directory.ends_with("release");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "-p", "vcuda-shim", "-p", "vcuda-cli", "-p", "vcuda-node"]);
    cargo.args(is_release.then_some("--release"));
    output_of(cargo.current_dir(root));
    let mut stage = Command::new(root.join("scripts/fake-driver"));
    stage.args(is_release.then_some("--release"));
    let driver = output_of(stage.current_dir(root));
    let headers = output_of(Command::new(root.join("scripts/gen-driver-table")).arg("--headers-only"));
    format!("{driver}\n{headers}")
}

/// The last line that `command` prints; panics with all of it if it fails.
fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{command:?} failed:\n{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text.trim_end().lines().last().unwrap_or_default().to_owned()
}
