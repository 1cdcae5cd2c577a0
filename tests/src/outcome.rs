//! What a program printed and how it ended.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// A finished program.
#[derive(Debug)]
pub struct Outcome {
    pub stdout: String,
    pub stderr: String,
    pub status: ExitStatus,
}

impl Outcome {
    /// This, if the program ended with 0 and printed nothing on standard error.
    #[track_caller]
    pub fn clean(self) -> Outcome {
        assert!(self.status.success(), "{self:#?}");
        assert_eq!(self.stderr, "", "standard error of a program that did nothing wrong; {:?}", self.stdout);
        self
    }

    /// This, if the program ended with 0.
    #[track_caller]
    pub fn succeeded(self) -> Outcome {
        assert!(self.status.success(), "{self:#?}");
        self
    }

    /// The exit status, or 128 and the signal that ended the program.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// What follows `key` on its line.
    #[track_caller]
    pub fn text(&self, key: &str) -> &str {
        self.find(key).unwrap_or_else(|| panic!("no line \"{key} ...\" in {self:#?}"))
    }

    /// What follows `key` on its line, if there is such a line.
    pub fn find(&self, key: &str) -> Option<&str> {
        value(&self.stdout, key)
    }

    /// The first number that follows `key`.
    #[track_caller]
    pub fn number(&self, key: &str) -> i64 {
        self.float(key) as i64
    }

    /// The first number that follows `key`, with its fraction.
    #[track_caller]
    pub fn float(&self, key: &str) -> f64 {
        let text = self.text(key);
        let first = text.split_whitespace().next().unwrap_or_default();
        first.parse().unwrap_or_else(|_| panic!("\"{key} {text}\" has no number in {self:#?}"))
    }

    /// The lines that the preloaded library wrote, all of standard error.
    pub fn complaints(&self) -> Vec<&str> {
        self.stderr.lines().collect()
    }
}

/// What follows `key` on its line of `text`; empty if the key stands alone.
pub(crate) fn value<'text>(text: &'text str, key: &str) -> Option<&'text str> {
    text.lines().find_map(|line| {
        let rest = line.strip_prefix(key)?;
        if rest.is_empty() { Some(rest) } else { rest.strip_prefix(' ') }
    })
}
