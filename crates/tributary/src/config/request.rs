//! `[request]`, and its old name `[read]`.

use serde::Deserialize;

use super::source::optional_number;
use super::{ConfigError, DEADLINE_MS_DEFAULT, Request, fail};

/// The keys of `[request]`, and of the obsolete `[read]`, which has the same key.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RequestKeys {
    #[serde(deserialize_with = "optional_number")]
    deadline_ms: Option<u64>,
}

impl RequestKeys {
    pub(super) fn check(
        self,
        read: Self,
        warnings: &mut Vec<String>,
    ) -> Result<Request, ConfigError> {
        let (key, deadline_ms) = match (self.deadline_ms, read.deadline_ms) {
            (Some(_), Some(_)) => {
                return fail(
                    "request.deadline_ms and read.deadline_ms are both given; remove \
                     read.deadline_ms, which is the old name of the same limit",
                );
            }
            (None, Some(old)) => {
                warnings.push(
                    "Configuration key read.deadline_ms is obsolete but still applied; rename it \
                     to request.deadline_ms"
                        .to_owned(),
                );
                ("read.deadline_ms", old)
            }
            (new, None) => ("request.deadline_ms", new.unwrap_or(DEADLINE_MS_DEFAULT)),
        };
        if deadline_ms == 0 {
            return fail(format!("{key} must be at least 1"));
        }
        Ok(Request { deadline_ms })
    }
}
