//! One thing that the doctor found.

/// What a finding means for limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Good,
    /// Good to know.
    Note,
    /// Something is counted or shown less well.
    Warning,
    /// A limit would not hold.
    Problem,
}

impl Level {
    /// For JSON.
    pub fn name(self) -> &'static str {
        match self {
            Level::Good => "good",
            Level::Note => "note",
            Level::Warning => "warning",
            Level::Problem => "problem",
        }
    }

    /// For people: a mark, and its colour as a terminal takes it.
    pub fn mark(self) -> (&'static str, u8) {
        match self {
            Level::Good => ("✓", 32),
            Level::Note => ("·", 0),
            Level::Warning => ("!", 33),
            Level::Problem => ("✗", 31),
        }
    }
}

/// What was found, and what would be better.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it means for limits.
    pub level: Level,
    /// What was found and where.
    pub what: String,
    /// What would be right, where there is something to do.
    pub remedy: Option<String>,
}

impl Finding {
    /// As it should be.
    pub fn good(what: impl Into<String>) -> Finding {
        Finding { level: Level::Good, what: what.into(), remedy: None }
    }

    /// Good to know.
    pub fn note(what: impl Into<String>) -> Finding {
        Finding { level: Level::Note, what: what.into(), remedy: None }
    }

    /// Something is counted or shown less well.
    pub fn warning(what: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { level: Level::Warning, what: what.into(), remedy: Some(remedy.into()) }
    }

    /// A limit would not hold.
    pub fn problem(what: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { level: Level::Problem, what: what.into(), remedy: Some(remedy.into()) }
    }
}
