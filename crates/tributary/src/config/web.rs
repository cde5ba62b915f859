//! `[web]`: the pages for people.

use serde::Deserialize;

use super::source::flag;

/// `[web]`: the pages for people, beside the API.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Web {
    /// Whether the server has pages. `tributary demo` always has them.
    #[serde(deserialize_with = "flag")]
    pub enabled: bool,
}
