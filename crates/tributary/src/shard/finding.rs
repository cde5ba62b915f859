//! Problems of a fleet, each with a text and a cure for the operator.

use std::fmt;

use thiserror::Error;

/// The shards have no table, no columns or no index for this request.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the shards do not store this; create it on every shard: {statement}{then}")]
pub struct NotStored {
    /// The statement that adds it to one shard.
    pub statement: String,
    /// A further step after it.
    pub(crate) then: &'static str,
}

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The fleet can be served, with the disadvantage that the text names.
    Warning,
    /// The fleet cannot be served, or its pages would be wrong.
    Error,
}

/// One problem of a fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The severity.
    pub level: Level,
    /// A stable code for programs.
    pub code: &'static str,
    /// The problem, in words.
    pub text: String,
    /// The statement or the setting that fixes the problem.
    pub cure: Option<String>,
}

impl Finding {
    /// A finding of `error`, without a cure.
    pub fn error(code: &'static str, text: impl Into<String>) -> Self {
        Self { level: Level::Error, code, text: text.into(), cure: None }
    }

    /// A finding of `warning`, without a cure.
    pub fn warning(code: &'static str, text: impl Into<String>) -> Self {
        Self { level: Level::Warning, ..Self::error(code, text) }
    }

    /// Whether it prevents the fleet from being served.
    pub fn is_error(&self) -> bool {
        self.level >= Level::Error
    }

    /// Adds what an operator can do about it.
    pub fn cure(self, cure: impl Into<String>) -> Self {
        Self { cure: Some(cure.into()), ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cure {
            Some(cure) => write!(f, "{}; fix: {cure}", self.text),
            None => f.write_str(&self.text),
        }
    }
}
