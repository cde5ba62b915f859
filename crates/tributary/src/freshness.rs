//! Freshness tokens: the log positions that an answer reflects. A request that carries a token
//! gets a page that reflects at least these positions. Pure.
//!
//! A token has one position for each log, together with the identity of the log: positions can be
//! compared within one identity only.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use thiserror::Error;

use crate::changes::{LogIdentity, LogPosition};

/// Longer texts are rejected before they are decoded. A token of a hundred logs has 2,135
/// characters.
pub(crate) const FRESHNESS_TEXT_MAX: usize = 8_192;

/// The first byte of every encoded token.
const VERSION: u8 = 1;

/// A set of log positions, at most one for each log identity. The default has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Freshness(Vec<(LogIdentity, LogPosition)>);

/// The text is not a freshness token that this server made.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("not a freshness token of this server; omit it")]
pub struct BadFreshness;

impl Freshness {
    /// Adds a position; of two positions with the same identity the later one is kept.
    /// O(positions).
    pub fn add(&mut self, identity: LogIdentity, at: LogPosition) {
        match self.0.iter_mut().find(|(known, _)| *known == identity) {
            Some((_, position)) => *position = at.max(*position),
            None => self.0.push((identity, at)),
        }
    }

    /// Adds all positions of `other`.
    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(identity, at)| self.add(*identity, *at));
    }

    /// The positions, one for each log identity.
    pub fn positions(&self) -> &[(LogIdentity, LogPosition)] {
        &self.0
    }

    /// Whether the token requires nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `version`, then identity and position of each log: eight bytes each, big-endian, as unpadded
/// URL-safe base64.
impl fmt::Display for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(1 + 16 * self.0.len());
        bytes.push(VERSION);
        for (identity, at) in &self.0 {
            bytes.extend(identity.0.to_be_bytes());
            bytes.extend(at.0.to_be_bytes());
        }
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

/// Several tokens separated by commas are merged.
impl FromStr for Freshness {
    type Err = BadFreshness;

    fn from_str(text: &str) -> Result<Self, BadFreshness> {
        if text.len() > FRESHNESS_TEXT_MAX {
            return Err(BadFreshness);
        }
        let mut all = Self::default();
        for token in text.split(',') {
            let bytes = URL_SAFE_NO_PAD.decode(token.trim()).map_err(|_| BadFreshness)?;
            let Some((&VERSION, rest)) = bytes.split_first() else { return Err(BadFreshness) };
            let (entries, left) = rest.as_chunks::<16>();
            if !left.is_empty() {
                return Err(BadFreshness);
            }
            for entry in entries {
                let [identity, at] = [&entry[..8], &entry[8..]].map(|half| {
                    half.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte))
                });
                all.add(LogIdentity(identity), LogPosition(at));
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_survives_encoding(entries in prop::collection::btree_map(any::<u64>(), any::<u64>(), 0..9)) {
            let mut token = Freshness::default();
            for (identity, at) in entries {
                token.add(LogIdentity(identity), LogPosition(at));
            }
            prop_assert_eq!(token.to_string().parse(), Ok(token));
        }

        #[test]
        fn any_text_is_a_token_or_refused(text in "[A-Za-z0-9_=,-]{0,80}") {
            let _: Result<Freshness, BadFreshness> = text.parse();
        }
    }

    #[test]
    fn several_tokens_require_the_latest_position_of_each_log() {
        let token = |entries: &[(u64, u64)]| {
            let mut token = Freshness::default();
            entries.iter().for_each(|(h, p)| token.add(LogIdentity(*h), LogPosition(*p)));
            token
        };
        let text = format!("{}, {}", token(&[(1, 5), (2, 7)]), token(&[(2, 6), (3, 1), (1, 9)]));
        assert_eq!(text.parse(), Ok(token(&[(1, 9), (2, 7), (3, 1)])));
        for bad in ["", ",", "AQ,", "AgAA", "AQAA", "x y"] {
            assert_eq!(bad.parse::<Freshness>(), Err(BadFreshness), "{bad:?}");
        }
    }
}
