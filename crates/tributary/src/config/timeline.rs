//! `[timeline]`: the posts that home timelines show.

use serde::Deserialize;

/// `[timeline]`.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Timeline {
    /// Posts that are dated more than 60 s ahead.
    pub future: Future,
}

/// Whether home timelines have posts that are dated more than 60 s ahead. The author's own timeline
/// always has them.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Future {
    /// Not before their time.
    #[default]
    Hide,
    /// At once.
    Show,
}

impl Future {
    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hide => "hide",
            Self::Show => "show",
        }
    }
}
