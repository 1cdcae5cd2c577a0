//! How much the preloaded library may write to standard error.

use super::{Environment, LOG_VARIABLE, error::quoted};

/// From silent to everything; each level includes those before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum LogLevel {
    /// Not a line.
    Off = 0,
    /// What stops CUDA from working here.
    Error = 1,
    /// What may not be as the user thinks.
    #[default]
    Warn = 2,
    /// What was found and decided at the start, and refusals.
    Info = 3,
    /// Single calls.
    Debug = 4,
}

impl LogLevel {
    /// The level that `VCUDA_LOG` asks for, and a warning if that is no level (then it is the default's).
    pub fn from_environment(environment: Environment) -> (LogLevel, Option<String>) {
        let Some(text) = environment(LOG_VARIABLE) else { return (LogLevel::default(), None) };
        match text.trim().to_ascii_lowercase().as_str() {
            "off" => (LogLevel::Off, None),
            "error" => (LogLevel::Error, None),
            "warn" => (LogLevel::Warn, None),
            "info" => (LogLevel::Info, None),
            "debug" => (LogLevel::Debug, None),
            _ => {
                let shown = quoted(&text);
                let warning =
                    format!("{LOG_VARIABLE}: {shown} is no level; write off, error, warn, info or debug");
                (LogLevel::default(), Some(warning))
            }
        }
    }
}
