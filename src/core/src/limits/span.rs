//! Spans of time as a person writes them: `60s`, `5m`, `1.5h`.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::LimitsError;
use super::error::quoted;
use std::time::Duration;

/// Least and most that idle release may wait: the control file keeps tenths of seconds, up to 19 days.
const LEAST: Duration = Duration::from_millis(100);
const MOST: Duration = Duration::from_secs(19 * 24 * 3600);

/// Reads a span of time; `place` is where it was written.
pub fn parse_span(place: &str, text: &str) -> Result<Duration, LimitsError> {
    let text = text.trim();
    let digits =
        text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits).unwrap_or((text, ""));
    let seconds = match unit.trim() {
        "ms" => 0.001,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => 0.0,
    };
    let span =
        number.parse::<f64>().ok().and_then(|number| Duration::try_from_secs_f64(number * seconds).ok());
    span.filter(|span| (LEAST..=MOST).contains(span)).ok_or_else(|| {
        LimitsError::new(
            place,
            format!("{} is no time from 0.1 s to 19 days", quoted(text)),
            "write a number with its unit, such as 60s, 5m or 1h",
        )
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn spans_are_read() {
        for (text, ms) in
            [("60s", 60_000), (" 1.5m", 90_000), ("2 h", 7_200_000), ("100ms", 100), ("3min", 180_000)]
        {
            assert_eq!(parse_span("x", text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "60", "s", "0s", "1d", "-1s", "1.2.3s", "20000h", "NaNs", "ß"] {
            let error = parse_span("VCUDA_IDLE_RELEASE", text).unwrap_err().to_string();
            assert!(error.starts_with("VCUDA_IDLE_RELEASE: ") && error.contains("60s, 5m or 1h"), "{error}");
        }
    }
}
