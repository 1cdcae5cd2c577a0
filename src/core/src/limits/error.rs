//! What was wrong with a limit, where, and what would be right: one line a person can act on.

use std::fmt;

/// A mistake in the configuration. Displays as one line: `place: problem; remedy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsError {
    place: String,
    problem: String,
    remedy: String,
}

impl LimitsError {
    pub(super) fn new(place: &str, problem: impl Into<String>, remedy: impl Into<String>) -> LimitsError {
        LimitsError { place: place.to_owned(), problem: problem.into(), remedy: remedy.into() }
    }

    /// The variable, or the file with line, column and key.
    pub fn place(&self) -> &str {
        &self.place
    }
}

impl fmt::Display for LimitsError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}; {}", self.place, self.problem, self.remedy)
    }
}

impl std::error::Error for LimitsError {}

/// `text` in quotes, on one line and cut to a readable length.
pub(super) fn quoted(text: &str) -> String {
    const MOST: usize = 80;
    let mut shown: String = text.chars().take(MOST).flat_map(char::escape_debug).collect();
    if text.chars().nth(MOST).is_some() {
        shown.push('…');
    }
    format!("\"{shown}\"")
}
