//! What the agent was asked to do: options, each of which can also be set in the environment.

use clap::{Parser, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use vcuda_core::location::SHARES_ON_HOST;
use vcuda_faults::xid::Ignored;

use crate::faults;
use crate::kubernetes::options::KubernetesOptions;

/// Serves metrics of the GPU slices of this machine, and takes back what ended programs left behind
///
/// Each option can be set by the variable named beside it, as in the file /etc/default/vcuda-node of the service.
#[derive(Clone, Debug, Parser)]
#[command(name = "vcuda-node", version, max_term_width = 100)]
pub struct Options {
    /// Where to serve /metrics and /healthz. Whoever reaches it sees everybody's slices
    #[arg(long, env = "VCUDA_NODE_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9478")]
    pub listen: SocketAddr,
    /// Where the shares of this machine are, if it has any
    #[arg(long, env = vcuda_slices::SHARES_VARIABLE, value_name = "DIR", default_value = SHARES_ON_HOST)]
    pub shares: PathBuf,
    /// Also read the control files DIR/NAME and DIR/NAME/control, as of other tools' containers; may be given more than once
    #[arg(long, env = "VCUDA_NODE_DIRECTORIES", value_name = "DIR", value_delimiter = ':')]
    pub directory: Vec<PathBuf>,
    /// Where users' own directories vcuda-UID are; may be given more than once
    #[arg(
        long,
        env = "VCUDA_NODE_USERS_UNDER",
        value_name = "DIR",
        value_delimiter = ':',
        default_values = vcuda_slices::USER_DIRECTORY_PARENTS
    )]
    pub users_under: Vec<PathBuf>,
    /// How often slices are read, such as 500ms or 5s
    #[arg(long, env = "VCUDA_NODE_INTERVAL", value_name = "TIME", default_value = "1s", value_parser = interval)]
    pub interval: Duration,
    /// Remember in this file what was counted, so that counters go on after a restart
    #[arg(long, env = "VCUDA_NODE_STATE_FILE", value_name = "FILE")]
    pub state_file: Option<PathBuf>,
    /// Whether to remove control files of ended runs that nobody needs
    #[arg(long, env = "VCUDA_NODE_REMOVE_ENDED", value_name = "WHEN", default_value = "auto")]
    pub remove_ended: RemoveEnded,
    /// Whether to put idle programs aside for those that need their memory, where slices have idle release.
    /// The first such slice is found within an interval
    #[arg(long, env = "VCUDA_NODE_IDLE_RELEASE", value_name = "SWITCH", default_value = "on")]
    pub idle_release: Switch,
    /// Where faults of GPUs are remembered until they are mended. Without it, in "faults" beside the shares
    #[arg(long, env = "VCUDA_NODE_FAULTS", value_name = "DIR")]
    pub faults: Option<PathBuf>,
    /// Errors of the driver (XIDs) that take no GPU out of service, as they are programs' own doing; or none, or all.
    /// A double-bit ECC error is XID 48
    #[arg(long, env = "VCUDA_NODE_IGNORE_XIDS", value_name = "XID,XID…", default_value = Ignored::DEFAULT)]
    pub ignore_xids: Ignored,
    /// Do nothing else than to declare a GPU or MIG instance well whose fault is mended, or all of them; agents that
    /// run take it into service within a second
    #[arg(long, value_name = "UUID")]
    pub declare_well: Option<String>,
    /// How much is written to standard error
    #[arg(long, env = "VCUDA_NODE_LOG", value_name = "LEVEL", default_value = "info")]
    pub log: LogLevel,
    #[command(flatten)]
    #[expect(missing_docs, reason = "said where they are")]
    pub kubernetes: KubernetesOptions,
}

impl Options {
    /// What is a fault of a GPU, and where it is remembered.
    pub fn faults(&self) -> faults::Setup {
        let beside = || self.shares.with_file_name("faults");
        faults::Setup {
            directory: self.faults.clone().unwrap_or_else(beside),
            ignored: self.ignore_xids.clone(),
        }
    }
}

/// When control files of ended runs are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RemoveEnded {
    /// Where this agent sees all processes of the machine
    Auto,
    /// Even if there may be processes that it does not see
    Always,
    /// Not at all
    Never,
}

impl RemoveEnded {
    /// Whether to do it here.
    pub fn applies(self) -> bool {
        match self {
            Self::Auto => vcuda_slices::environments::are_all_visible(),
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// Whether something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Done
    On,
    /// Not done, or left to somebody else
    Off,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "said by their names")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

impl From<LogLevel> for tracing::Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
        }
    }
}

/// Between ten looks a second, which is as often as anything changes, and one in five minutes.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a number and a unit, such as 500ms or 5s"))?;
    if (Duration::from_millis(100)..=Duration::from_secs(300)).contains(&interval) {
        Ok(interval)
    } else {
        Err("must be between 100ms and 5min".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_options_are_consistent() {
        Options::command().debug_assert();
        let options = Options::parse_from(["vcuda-node"]);
        assert!(options.listen.ip().is_loopback(), "nobody else is told unless asked for");
        assert_eq!(options.users_under, ["/dev/shm", "/tmp"].map(PathBuf::from));
    }

    #[test]
    fn intervals_are_bounded() {
        assert_eq!(interval("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(interval("250ms"), Ok(Duration::from_millis(250)));
        for wrong in ["0s", "99ms", "1h", "5", "soon", ""] {
            interval(wrong).expect_err(wrong);
        }
    }
}
