//! What the environment asks of the simulated driver, read once by `cuInit` or whoever asks first.

use std::sync::OnceLock;
use vcuda_fake_machine::Times;

/// The version that the driver says it has, unless told otherwise: CUDA 13.0.
const DRIVER_VERSION: u32 = 13_000;
/// The release of that version.
const RELEASE: u32 = 580;
const MIB: u64 = 1 << 20;

/// The environment's wishes.
pub struct Settings {
    /// `1000 * major + 10 * minor`; functions added later are not found by `cuGetProcAddress`.
    pub driver_version: u32,
    /// The major number of the driver's release, as in 580.159.04.
    pub release: u32,
    /// Launches and copies take no time at all.
    pub is_null: bool,
    /// What calls and the GPU's front end take.
    pub times: Times,
    /// Copies, fills and kernels do what they say to memory; if not, they only take their time, and no
    /// memory of the host is needed for what they would have touched.
    pub has_contents: bool,
    /// Memory put down to the process for each context; `None`: by the number of multiprocessors.
    pub context_bytes: Option<u64>,
    /// Value of `CUDA_VISIBLE_DEVICES`.
    pub visible_devices: Option<String>,
}

/// The environment's wishes.
pub fn settings() -> &'static Settings {
    static SETTINGS: OnceLock<Settings> = OnceLock::new();
    SETTINGS.get_or_init(read)
}

fn read() -> Settings {
    let is_null = number("VCUDA_FAKE_NULL").is_some_and(|number| number != 0);
    let times = Times::from_environment();
    Settings {
        driver_version: number("VCUDA_FAKE_DRIVER_VERSION").map_or(DRIVER_VERSION, |version| version as u32),
        release: release(),
        is_null,
        times: if is_null { Times { launch_ns: 0, record_ns: 0, ..times } } else { times },
        has_contents: number("VCUDA_FAKE_CONTENTS").is_none_or(|number| number != 0),
        context_bytes: number("VCUDA_FAKE_CONTEXT_MIB").map(|mib| mib * MIB),
        visible_devices: std::env::var("CUDA_VISIBLE_DEVICES").ok(),
    }
}

fn release() -> u32 {
    let text = std::env::var("VCUDA_FAKE_DRIVER_RELEASE").unwrap_or_default();
    text.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(RELEASE)
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.trim().parse().ok();
    if number.is_none() && !text.is_empty() {
        eprintln!("simulated driver: {name}: '{text}' is no whole number; left out");
    }
    number
}
