//! The metrics: names, meanings, and their text.
//!
//! Base units, ratios of 0 to 1, no process ids. What has no value is left out rather than told as 0. Owns the names; they
//! don't change, as people's dashboards are made of them. Written in OpenMetrics to who asks for it, and in the older text
//! format of Prometheus to all others.

mod classic;
mod families;

use std::sync::Arc;

use hyper::header::{GetAll, HeaderValue};
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;
use tokio::sync::watch::Receiver;

use crate::devices::Devices;
use crate::faults::Known;
use crate::idle_release::Status;
use crate::jobs::Health;
use crate::reading::Reading;

/// All metrics of the agent.
pub struct Exposition {
    registry: Registry,
}

/// Where the numbers come from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The slices.
    pub readings: Receiver<Arc<Reading>>,
    /// The GPUs.
    pub devices: Receiver<Arc<Devices>>,
    /// Faults of GPUs.
    pub faults: Receiver<Arc<Known>>,
    /// Idle release; `None` if that is not done here.
    pub idle_release: Option<Receiver<Status>>,
    /// The agent's own jobs.
    pub health: Arc<Health>,
}

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The text format of Prometheus, version 0.0.4.
    Classic,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The one that a client with these `Accept` headers wants.
    pub fn accepted(headers: GetAll<'_, HeaderValue>) -> Self {
        let wants = |header: &HeaderValue| {
            header.to_str().is_ok_and(|accepted| accepted.contains("application/openmetrics-text"))
        };
        if headers.iter().any(wants) { Self::OpenMetrics } else { Self::Classic }
    }

    /// What to call it in an answer.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl Exposition {
    /// Metrics of what `sources` last published.
    pub fn new(sources: Sources) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(sources));
        Self { registry }
    }

    /// All of them, as text.
    pub fn text(&self, format: Format) -> String {
        let mut text = String::with_capacity(64 << 10);
        // A text takes whatever is written to it.
        let _ = encode_registry(&mut text, &self.registry);
        match format {
            Format::Classic => classic::from_openmetrics(&text),
            Format::OpenMetrics => {
                let _ = encode_eof(&mut text);
                text
            }
        }
    }
}
