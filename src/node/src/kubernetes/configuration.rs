//! What a claim or its class says of how a share behaves: the opaque parameters for this driver.
//!
//! ```yaml
//! apiVersion: gpu.vcuda.dev/v1
//! kind: ShareConfig
//! elastic: true
//! weight: 30
//! priority: high
//! idleRelease: 60s
//! ```
//!
//! Owns their form and which of several wins. What is not understood must be an error: a share never behaves otherwise
//! than it was asked to.

use std::time::Duration;

use k8s_openapi::api::resource::v1::DeviceAllocationConfiguration;
use serde::Deserialize;
use serde_json::Value;
use vcuda_core::limits::parse_span;
use vcuda_shares::Priority;

use super::DRIVER;

/// What it is called, with its version.
const API_VERSION: &str = "gpu.vcuda.dev/v1";
const KIND: &str = "ShareConfig";
/// The heaviest weight.
const MOST_WEIGHT: u32 = 10_000;

/// How a share behaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Whether it may use time that others leave.
    pub elastic: Option<bool>,
    /// Its weight beside others.
    pub weight: Option<u32>,
    /// Whether it goes before others.
    pub priority: Option<Priority>,
    /// How long its programs must be idle before they may be put aside.
    pub idle_release: Option<Duration>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Parameters {
    api_version: String,
    kind: String,
    elastic: Option<bool>,
    weight: Option<u32>,
    priority: Option<PriorityName>,
    idle_release: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PriorityName {
    Normal,
    High,
}

impl From<PriorityName> for Priority {
    fn from(name: PriorityName) -> Self {
        match name {
            PriorityName::Normal => Self::Normal,
            PriorityName::High => Self::High,
        }
    }
}

impl Configuration {
    /// What `all` say for `request`, which may be `REQUEST/SUBREQUEST`: claims win over their class, and later ones over
    /// earlier ones, each field by itself.
    ///
    /// # Errors
    /// What is wrong, and in which of them.
    pub fn for_request(all: &[DeviceAllocationConfiguration], request: &str) -> Result<Self, String> {
        let mut result = Self::default();
        for source in ["FromClass", "FromClaim"] {
            let place = |number| match source {
                "FromClass" => format!("the device class's config, item {number} of the allocation's"),
                _ => format!("the claim's config, item {number} of the allocation's"),
            };
            for (number, one) in all.iter().enumerate().filter(|(_, one)| one.source == source) {
                let Some(opaque) = one.opaque.as_ref().filter(|opaque| opaque.driver == DRIVER) else {
                    continue;
                };
                let is_meant = one.requests.as_ref().is_none_or(|requests| {
                    requests.is_empty() || requests.iter().any(|meant| covers(meant, request))
                });
                if is_meant {
                    let parsed = Self::parse(&opaque.parameters.0);
                    result.override_with(parsed.map_err(|what| format!("{}: {what}", place(number)))?);
                }
            }
        }
        Ok(result)
    }

    fn parse(parameters: &Value) -> Result<Self, String> {
        let parsed = Parameters::deserialize(parameters).map_err(|error| error.to_string())?;
        if (parsed.api_version.as_str(), parsed.kind.as_str()) != (API_VERSION, KIND) {
            return Err(format!(
                "apiVersion {:?} and kind {:?} are not known here: write {API_VERSION:?} and {KIND:?}",
                parsed.api_version, parsed.kind
            ));
        }
        if let Some(weight) = parsed.weight.filter(|weight| !(1..=MOST_WEIGHT).contains(weight)) {
            return Err(format!("weight {weight}: must be 1 to {MOST_WEIGHT}"));
        }
        let span = |text: String| parse_span("idleRelease", &text).map_err(|error| error.to_string());
        Ok(Self {
            elastic: parsed.elastic,
            weight: parsed.weight,
            priority: parsed.priority.map(Priority::from),
            idle_release: parsed.idle_release.map(span).transpose()?,
        })
    }

    fn override_with(&mut self, other: Self) {
        self.elastic = other.elastic.or(self.elastic);
        self.weight = other.weight.or(self.weight);
        self.priority = other.priority.or(self.priority);
        self.idle_release = other.idle_release.or(self.idle_release);
    }
}

/// Whether a request named `meant` is `request`, or the one that it is a part of.
pub fn covers(meant: &str, request: &str) -> bool {
    request == meant || request.split_once('/').is_some_and(|(main, _)| main == meant)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(source: &str, requests: &[&str], fields: Value) -> DeviceAllocationConfiguration {
        let mut parameters = json!({"apiVersion": API_VERSION, "kind": KIND});
        parameters.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "source": source, "requests": requests, "opaque": {"driver": DRIVER, "parameters": parameters},
        }))
        .unwrap()
    }

    #[test]
    fn the_claim_wins_over_its_class_and_each_request_has_its_own() {
        let all = [
            of("FromClaim", &["a"], json!({"weight": 30, "idleRelease": "60s"})),
            of("FromClass", &[], json!({"weight": 1, "elastic": true, "priority": "normal"})),
            of("FromClaim", &["b"], json!({"elastic": false})),
            of("FromClaim", &["a", "c"], json!({"priority": "high"})),
        ];
        let a = Configuration {
            elastic: Some(true),
            weight: Some(30),
            priority: Some(Priority::High),
            idle_release: Some(Duration::from_secs(60)),
        };
        assert_eq!(Configuration::for_request(&all, "a"), Ok(a.clone()));
        assert_eq!(Configuration::for_request(&all, "a/first"), Ok(a));
        let b = Configuration {
            elastic: Some(false),
            weight: Some(1),
            priority: Some(Priority::Normal),
            idle_release: None,
        };
        assert_eq!(Configuration::for_request(&all, "b"), Ok(b));
        assert_eq!(Configuration::for_request(&[], "a"), Ok(Configuration::default()));
    }

    #[test]
    fn other_drivers_are_left_alone() {
        let mut other = of("FromClaim", &[], json!({"what": "ever"}));
        other.opaque.as_mut().unwrap().driver = "gpu.example.com".to_owned();
        assert_eq!(Configuration::for_request(&[other], "a"), Ok(Configuration::default()));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (fields, expected) in [
            (json!({"wieght": 3}), "unknown field `wieght`, expected one of"),
            (json!({"weight": 0}), "weight 0: must be 1 to 10000"),
            (json!({"weight": -1}), "invalid value: integer `-1`"),
            (json!({"elastic": "yes"}), "invalid type: string \"yes\", expected a boolean"),
            (json!({"priority": "urgent"}), "unknown variant `urgent`, expected `normal` or `high`"),
            (json!({"idleRelease": "soon"}), "idleRelease"),
            (json!({"kind": "GpuConfig"}), "kind \"GpuConfig\" are not known here"),
            (json!({"apiVersion": "gpu.vcuda.dev/v9"}), "write \"gpu.vcuda.dev/v1\" and \"ShareConfig\""),
        ] {
            let error = Configuration::for_request(&[of("FromClaim", &[], fields)], "a").expect_err(expected);
            assert!(error.starts_with("the claim's config, item 0 of the allocation's: "), "{error}");
            assert!(error.contains(expected), "{error}");
        }
        let mut empty = of("FromClass", &[], json!({}));
        empty.opaque.as_mut().unwrap().parameters.0 = json!({});
        let error = Configuration::for_request(&[empty], "a").expect_err("accepted");
        assert!(
            error.starts_with("the device class's config") && error.contains("missing field `apiVersion`"),
            "{error}"
        );
    }
}
