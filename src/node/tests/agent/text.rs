//! The text of metrics, read by other rules than it was written by.

use std::collections::{BTreeMap, HashSet};

/// Metrics as a scraper takes them.
#[derive(Debug, Default)]
pub struct Metrics {
    samples: BTreeMap<String, f64>,
}

impl Metrics {
    /// Reads the classic format, and panics at whatever a scraper would stumble over.
    #[track_caller]
    pub fn parse(text: &str) -> Metrics {
        assert!(text.ends_with('\n'), "{text:?}");
        let mut metrics = Metrics::default();
        let (mut helped, mut typed, mut family) = (HashSet::new(), HashSet::new(), "");
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(help.ends_with('.') && helped.insert(name), "{line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(helped.contains(name) && typed.insert(name), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(["counter", "gauge"].contains(&kind), "{line}");
                family = name;
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
                check_series(series, family);
                let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line:?}"));
                assert!(value.is_finite() && value >= 0.0, "{line}");
                assert_eq!(metrics.samples.insert(series.to_owned(), value), None, "twice: {line}");
            }
        }
        metrics
    }

    /// The value of the only series of `name` whose labels contain all of `labels`; `None` if there is none.
    #[track_caller]
    pub fn find(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let is_it = |series: &str| {
            let rest = series.strip_prefix(name).unwrap_or("-");
            (rest.is_empty() || rest.starts_with('{')) && labels.iter().all(|label| rest.contains(label))
        };
        let found: Vec<_> = self.samples.iter().filter(|(series, _)| is_it(series)).collect();
        assert!(found.len() < 2, "{found:?}");
        found.first().map(|(_, value)| **value)
    }

    /// As [`find`](Self::find), of a series that must be there.
    #[track_caller]
    pub fn get(&self, name: &str, labels: &[&str]) -> f64 {
        self.find(name, labels).unwrap_or_else(|| panic!("no {name} {labels:?} in {self:#?}"))
    }

    /// The value of every series.
    pub fn all(&self) -> &BTreeMap<String, f64> {
        &self.samples
    }
}

/// `name` or `name{label="value",...}`, with `name` the family's.
#[track_caller]
fn check_series(series: &str, family: &str) {
    let name = series.split('{').next().unwrap();
    assert_eq!(name, family, "{series} stands under the wrong heading");
    let Some(labels) = series.strip_prefix(name).filter(|labels| !labels.is_empty()) else { return };
    let mut rest = labels.strip_prefix('{').and_then(|labels| labels.strip_suffix('}')).unwrap();
    loop {
        let (label, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("{series}"));
        assert!(label.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{series}");
        let mut escaped = false;
        let end = value.find(|character| {
            let is_end = character == '"' && !escaped;
            escaped = character == '\\' && !escaped;
            is_end
        });
        let end = end.unwrap_or_else(|| panic!("{series}: no end of {label}"));
        rest = &value[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => break assert_eq!(rest, "", "{series}"),
        }
    }
}

#[test]
fn a_scraper_stumbles_over_what_is_wrong() {
    let heading = "# HELP a About a.\n# TYPE a gauge\n";
    for wrong in
        ["a 1\na 2\n", "b 1\n", "a{b=\"c} 1\n", "a{b=\"c\"d\"} 1\n", "a x\n", "a NaN\n", "a{B=\"c\"} 1\n"]
    {
        let text = format!("{heading}{wrong}");
        assert!(std::panic::catch_unwind(|| Metrics::parse(&text)).is_err(), "{text}");
    }
    let good = format!("{heading}a{{b=\"x\\\"y\\\\\",c=\"\"}} 1.5\na 2\n");
    assert_eq!(Metrics::parse(&good).get("a", &["c=\"\""]), 1.5);
}
