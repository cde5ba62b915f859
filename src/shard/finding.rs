//! What is not as it should be in a fleet, in words that an operator can act on.

use std::fmt;

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// It can be served; something that is named is less than it could be.
    Warning,
    /// It cannot be served, or not rightly.
    Error,
}

/// One thing to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// A stable name for programs.
    pub code: &'static str,
    /// What is wrong.
    pub text: String,
    /// The statement or the setting that mends it.
    pub cure: Option<String>,
}

impl Finding {
    /// A fault that keeps a shard from being served.
    pub(crate) fn error(code: &'static str, text: impl Into<String>) -> Self {
        Self { level: Level::Error, code, text: text.into(), cure: None }
    }

    /// A thing that is worse than it could be.
    pub(crate) fn warning(code: &'static str, text: impl Into<String>) -> Self {
        Self { level: Level::Warning, ..Self::error(code, text) }
    }

    pub(crate) fn cure(self, cure: impl Into<String>) -> Self {
        Self { cure: Some(cure.into()), ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cure {
            Some(cure) => write!(f, "{}; mend it with: {cure}", self.text),
            None => f.write_str(&self.text),
        }
    }
}
