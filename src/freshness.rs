//! Freshness tokens: how far the logs had been read when an answer was made. A request that brings
//! one back sees at least that. Pure.
//!
//! A token has a position for each log, and the log's history beside it: a position means nothing in
//! another history.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use thiserror::Error;

use crate::changes::{History, LogPosition};

/// Longer texts are refused before they are decoded; a token of a hundred servers has 2,135
/// characters.
pub const FRESHNESS_TEXT_MAX: usize = 8_192;

/// The first byte of every encoded token.
const VERSION: u8 = 1;

/// A position in each of some logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Freshness(Vec<(History, LogPosition)>);

/// A text that is no freshness token of ours.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("not a freshness token of this server; leave it out")]
pub struct BadFreshness;

impl Freshness {
    /// At least this position in this history too.
    pub fn add(&mut self, history: History, at: LogPosition) {
        match self.0.iter_mut().find(|(known, _)| *known == history) {
            Some((_, position)) => *position = at.max(*position),
            None => self.0.push((history, at)),
        }
    }

    /// All that either one asks for.
    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(history, at)| self.add(*history, *at));
    }

    /// The positions, one of each history.
    pub fn positions(&self) -> &[(History, LogPosition)] {
        &self.0
    }

    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `version`, then history and position of each log, eight bytes each, big-endian, as unpadded
/// URL-safe base64.
impl fmt::Display for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(1 + 16 * self.0.len());
        bytes.push(VERSION);
        for (history, at) in &self.0 {
            bytes.extend(history.0.to_be_bytes());
            bytes.extend(at.0.to_be_bytes());
        }
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

/// Several tokens, with commas between them, ask for all of them.
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
                let [history, at] = [&entry[..8], &entry[8..]].map(|half| {
                    half.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte))
                });
                all.add(History(history), LogPosition(at));
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
            for (history, at) in entries {
                token.add(History(history), LogPosition(at));
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
            entries.iter().for_each(|(h, p)| token.add(History(*h), LogPosition(*p)));
            token
        };
        let text = format!("{}, {}", token(&[(1, 5), (2, 7)]), token(&[(2, 6), (3, 1), (1, 9)]));
        assert_eq!(text.parse(), Ok(token(&[(1, 9), (2, 7), (3, 1)])));
        for bad in ["", ",", "AQ,", "AgAA", "AQAA", "x y"] {
            assert_eq!(bad.parse::<Freshness>(), Err(BadFreshness), "{bad:?}");
        }
    }
}
