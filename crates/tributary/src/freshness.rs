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

use crate::changes::{ChangePosition, LogIdentity, LogPosition};
use crate::horizon::horizon_at;
use crate::model::{PostId, PostKey, UserId};

/// Longer texts are rejected before they are decoded. A token of a hundred logs has 2,135
/// characters.
pub(crate) const FRESHNESS_TEXT_MAX: usize = 8_192;

/// The first byte of an encoded token: without and with positions between changes, and with a
/// horizon.
const VERSION: u8 = 1;
const VERSION_WITH_CHANGES: u8 = 2;
const VERSION_WITH_HORIZON: u8 = 3;
/// A number that is more than any number of changes. The begin of a log is encoded with it if the
/// log has gone on. Without it, the begin means that it is not known which changes are reflected,
/// as in tokens of earlier releases. For a log that has not gone on, it is the other way round.
const BEGIN: u64 = 1 << 32;

/// A set of log positions, at most one for each log identity. The default has none.
///
/// An answer that was read while its log went on reflects all changes up to one position, and
/// perhaps some up to a later one. A page that requires the token reflects the later one; the
/// changes since the token begin at the earlier one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Freshness {
    positions: Vec<(LogIdentity, LogPosition)>,
    /// The position up to which all changes are reflected, for the logs where that is not exactly
    /// the one in `positions`. `None` if it is not known, so that the changes since are a gap.
    earlier: Vec<(LogIdentity, Option<ChangePosition>)>,
    /// Posts up to this key are reflected, and later ones are hidden. `None` if none are hidden.
    horizon: Option<PostKey>,
}

/// The text is not a freshness token that this server made.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("not a freshness token of this server; omit it")]
pub struct BadFreshness;

impl Freshness {
    /// Adds a position that is reflected; of two positions with the same identity the later one is
    /// kept. O(positions).
    pub fn add(&mut self, identity: LogIdentity, at: LogPosition) {
        let Some((_, position)) = self.positions.iter_mut().find(|(known, _)| *known == identity)
        else {
            return self.positions.push((identity, at));
        };
        *position = at.max(*position);
        let (position, at) = (*position, Some(ChangePosition::after(at)));
        if !self.earlier.is_empty() {
            self.earlier.retain_mut(|(known, earlier)| {
                *earlier = if *known == identity { at.max(*earlier) } else { *earlier };
                *known != identity || *earlier != Some(ChangePosition::after(position))
            });
        }
    }

    /// Adds that changes up to `at` may be reflected, beyond those that are known to be.
    pub(crate) fn widen(&mut self, identity: LogIdentity, at: LogPosition) {
        let at = self.position(identity).map_or(at, |own| own.max(at));
        let seen = self.changes_seen(identity);
        if seen < Some(ChangePosition::after(at)) {
            self.set(identity, seen, at);
        }
    }

    /// Sets that all changes up to `seen` are reflected, and perhaps others up to `at`. Without
    /// `seen` it is not known which are.
    pub(crate) fn set(
        &mut self,
        identity: LogIdentity,
        seen: Option<ChangePosition>,
        at: LogPosition,
    ) {
        match self.positions.iter_mut().find(|(known, _)| *known == identity) {
            Some((_, position)) => *position = at,
            None => self.positions.push((identity, at)),
        }
        self.earlier.retain(|(known, _)| *known != identity);
        if seen != Some(ChangePosition::after(at)) {
            self.earlier.push((identity, seen));
            // Equal tokens are equal, in whatever order they were made.
            self.earlier.sort_unstable_by_key(|(identity, _)| identity.0);
        }
    }

    /// The position in this log up to which all changes are reflected. `None` if the token has no
    /// position in the log, or if it is not known.
    pub(crate) fn changes_seen(&self, identity: LogIdentity) -> Option<ChangePosition> {
        match self.earlier.iter().find(|(known, _)| *known == identity) {
            Some((_, seen)) => *seen,
            None => self.position(identity).map(ChangePosition::after),
        }
    }

    /// The last key that is shown, if later ones are hidden.
    pub(crate) fn horizon(&self) -> Option<PostKey> {
        self.horizon
    }

    pub(crate) fn set_horizon(&mut self, horizon: Option<PostKey>) {
        self.horizon = horizon;
    }

    /// The positions in these logs alone, without a horizon.
    pub(crate) fn only(&self, logs: impl Iterator<Item = LogIdentity>) -> Self {
        let mut only = Self::default();
        let known = logs.filter_map(|identity| Some((identity, self.position(identity)?)));
        known.for_each(|(identity, at)| only.add(identity, at));
        only
    }

    /// Removes the position in this log: nothing of it is reflected.
    pub(crate) fn remove(&mut self, identity: LogIdentity) {
        self.positions.retain(|(known, _)| *known != identity);
        self.earlier.retain(|(known, _)| *known != identity);
    }

    /// Adds all positions of `other`. The changes since the result begin where those since the
    /// earlier one of both begin.
    pub fn merge(&mut self, other: &Self) {
        self.horizon = self.horizon.into_iter().chain(other.horizon).min();
        for (identity, at) in &other.positions {
            let seen = other.changes_seen(*identity);
            match self.position(*identity) {
                Some(own) => {
                    let seen = self.changes_seen(*identity).min(seen);
                    self.set(*identity, seen, own.max(*at));
                }
                None => self.set(*identity, seen, *at),
            }
        }
    }

    /// Adds everything that `other` requires of an answer. The changes since the result begin where
    /// they began.
    pub fn require(&mut self, other: &Self) {
        self.horizon = self.horizon.max(other.horizon);
        other.positions.iter().for_each(|(identity, at)| self.widen(*identity, *at));
    }

    /// The position in this log that a page must have reached.
    pub(crate) fn position(&self, identity: LogIdentity) -> Option<LogPosition> {
        let position = self.positions.iter().find(|(known, _)| *known == identity);
        position.map(|(_, at)| *at)
    }

    /// The positions, one for each log identity.
    pub fn positions(&self) -> &[(LogIdentity, LogPosition)] {
        &self.positions
    }

    /// Whether the token requires nothing.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// The positions between changes, as numbers: of each, the index of its log, how far it is
    /// before the log's position, and the changes.
    fn encode_earlier(&self, bytes: &mut Vec<u8>) {
        for (index, (identity, at)) in (0..).zip(&self.positions) {
            let Some((_, seen)) = self.earlier.iter().find(|(known, _)| known == identity) else {
                continue;
            };
            push_number(bytes, index);
            let (after, changes) = match (*seen, at.0 > 0) {
                (Some(ChangePosition { after: LogPosition(0), changes: 0 }), true) => (0, BEGIN),
                (None, false) => (0, BEGIN),
                (None, true) => (0, 0),
                (Some(seen), _) => (seen.after.0, seen.changes.into()),
            };
            push_number(bytes, at.0.saturating_sub(after));
            push_number(bytes, changes);
        }
    }

    /// `None` if these are not bytes of [`Freshness::encode_earlier`].
    fn decode_earlier(&mut self, mut bytes: &[u8]) -> Option<()> {
        while !bytes.is_empty() {
            let index = usize::try_from(take_number(&mut bytes)?).ok()?;
            let (identity, at) = *self.positions.get(index)?;
            let after = LogPosition(at.0.checked_sub(take_number(&mut bytes)?)?);
            let (has_gone_on, changes) = (at.0 > 0, take_number(&mut bytes)?);
            let seen = match (after.0, changes) {
                (0, BEGIN) => has_gone_on.then(ChangePosition::default),
                (0, 0) if has_gone_on => None,
                _ => Some(ChangePosition { after, changes: u32::try_from(changes).ok()? }),
            };
            self.set(identity, seen, at);
        }
        Some(())
    }

    /// The time of the horizon, and the post and its author unless they are the last possible ones.
    fn encode_horizon(horizon: PostKey, bytes: &mut Vec<u8>) {
        let PostKey { time, post, author } = horizon;
        bytes.push(u8::from(horizon != horizon_at(time)));
        bytes.extend(time.to_be_bytes());
        if horizon != horizon_at(time) {
            bytes.extend(post.0.to_be_bytes());
            bytes.extend(author.0.to_be_bytes());
        }
    }

    /// `None` if these do not begin with bytes of [`Freshness::encode_horizon`].
    fn decode_horizon(bytes: &mut &[u8]) -> Option<PostKey> {
        let [is_exact, time @ ..] = *take::<9>(bytes)?;
        let time = i64::from_be_bytes(time);
        match is_exact {
            0 => Some(horizon_at(time)),
            1 => {
                let post = PostId::new(u64::from_be_bytes(*take(bytes)?))?;
                let author = UserId::new(u64::from_be_bytes(*take(bytes)?))?;
                Some(PostKey { time, post, author })
            }
            _ => None,
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, mut rest) = bytes.split_first()?;
        let horizon = match *version {
            VERSION_WITH_HORIZON => Some(Self::decode_horizon(&mut rest)?),
            _ => None,
        };
        let (entries, earlier) = match *version {
            VERSION => (rest, &[][..]),
            VERSION_WITH_CHANGES | VERSION_WITH_HORIZON => {
                let count = take(&mut rest)?;
                rest.split_at_checked(usize::from(u16::from_be_bytes(*count)) * 16)?
            }
            _ => return None,
        };
        let (entries, left) = entries.as_chunks::<16>();
        if !left.is_empty() {
            return None;
        }
        let mut token = Self { horizon, ..Self::default() };
        for entry in entries {
            let [identity, at] = [&entry[..8], &entry[8..]]
                .map(|half| half.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte)));
            token.add(LogIdentity(identity), LogPosition(at));
        }
        token.decode_earlier(earlier)?;
        Some(token)
    }
}

fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(head)
}

/// Seven bits a byte, the lowest first; the highest bit says that another byte follows.
fn push_number(bytes: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            return bytes.push(low & 0x7f);
        }
        bytes.push(low | 0x80);
    }
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        number |= bits.checked_shl(shift).filter(|shifted| shifted >> shift == bits)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// `version`, then identity and position of each log: eight bytes each, big-endian, as unpadded
/// URL-safe base64. Version 2 has the number of logs in two bytes after the version, and the
/// positions between changes at the end. Version 3 is the same with the horizon after the version.
impl fmt::Display for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(32 + 16 * self.positions.len());
        let is_plain = self.earlier.is_empty() && self.horizon.is_none();
        let count = u16::try_from(self.positions.len()).ok().filter(|_| !is_plain);
        match (self.horizon, count) {
            (_, None) => bytes.push(VERSION),
            (None, Some(_)) => bytes.push(VERSION_WITH_CHANGES),
            (Some(horizon), Some(_)) => {
                bytes.push(VERSION_WITH_HORIZON);
                Self::encode_horizon(horizon, &mut bytes);
            }
        }
        bytes.extend(count.map(u16::to_be_bytes).into_iter().flatten());
        for (identity, at) in &self.positions {
            bytes.extend(identity.0.to_be_bytes());
            bytes.extend(at.0.to_be_bytes());
        }
        if count.is_some() {
            self.encode_earlier(&mut bytes);
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
        let decode = |token: &str| {
            let bytes = URL_SAFE_NO_PAD.decode(token.trim()).ok()?;
            Self::decode(&bytes)
        };
        if !text.contains(',') {
            return decode(text).ok_or(BadFreshness);
        }
        let mut all = Self::default();
        for token in text.split(',') {
            all.merge(&decode(token).ok_or(BadFreshness)?);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::ID_MAX;

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
        fn positions_between_changes_and_a_horizon_survive_encoding(
            entries in prop::collection::btree_map(any::<u64>(), (any::<u64>(), prop::option::of((any::<u64>(), any::<u32>()))), 0..9),
            horizon in prop::option::of((any::<i64>(), prop::option::of((0..ID_MAX, 0..ID_MAX)))),
        ) {
            let mut token = Freshness::default();
            for (identity, (at, seen)) in entries {
                let seen = seen.map(|(after, changes)| {
                    ChangePosition { after: LogPosition(after.min(at)), changes }
                });
                token.set(LogIdentity(identity), seen, LogPosition(at));
            }
            let horizon = horizon.map(|(time, exact)| match exact {
                Some((post, author)) => PostKey { time, post: PostId(post), author: UserId(author) },
                None => horizon_at(time),
            });
            token.set_horizon(horizon);
            prop_assert_eq!(token.to_string().parse(), Ok(token));
        }

        #[test]
        fn any_text_is_a_token_or_refused(text in "[A-Za-z0-9_=,-]{0,80}") {
            let _: Result<Freshness, BadFreshness> = text.parse();
        }
    }

    #[test]
    fn a_token_of_64_logs_has_less_than_2048_characters() {
        let at = LogPosition::in_file(1_000_000, 900_000_000);
        let within = ChangePosition::within(LogPosition(at.0 - 100_000), 1);
        for seen in [within, ChangePosition::after_loss(at, 1_900_000_000)] {
            let mut token = Freshness::default();
            (0..64).for_each(|log| token.set(LogIdentity(u64::MAX - log), Some(seen), at));
            token.set_horizon(Some(PostKey { time: i64::MAX, post: PostId(1), author: UserId(1) }));
            // The seal takes 24 characters more.
            assert!(token.to_string().len() <= 2_048 - 24, "{}", token.to_string().len());
        }
    }

    #[test]
    fn a_token_keeps_what_is_surely_reflected() {
        let (log, after) = (LogIdentity(1), |at| ChangePosition::after(LogPosition(at)));
        let mut token = Freshness::default();
        token.add(log, LogPosition(5));
        token.widen(log, LogPosition(9));
        assert_eq!(token.positions(), [(log, LogPosition(9))]);
        assert_eq!(token.changes_seen(log), Some(after(5)));
        token.add(log, LogPosition(7));
        assert_eq!(token.changes_seen(log), Some(after(7)));
        token.add(log, LogPosition(11));
        assert_eq!((token.changes_seen(log), token.earlier.len()), (Some(after(11)), 0));
        let mut page = Freshness::default();
        page.set(log, Some(after(4)), LogPosition(20));
        token.merge(&page);
        assert_eq!(
            (token.position(log), token.changes_seen(log)),
            (Some(LogPosition(20)), Some(after(4)))
        );
        token.widen(log, LogPosition(15));
        assert_eq!(token.position(log), Some(LogPosition(20)));
        token.remove(log);
        assert!(token.is_empty() && token.earlier.is_empty());
        token.widen(LogIdentity(2), LogPosition(3));
        assert_eq!(token.changes_seen(LogIdentity(2)), None);
        assert_eq!(token.position(LogIdentity(2)), Some(LogPosition(3)));
        let mut known = Freshness::default();
        known.add(LogIdentity(2), LogPosition(9));
        known.merge(&token);
        assert_eq!(known.position(LogIdentity(2)), Some(LogPosition(9)));
        assert_eq!(known.changes_seen(LogIdentity(2)), None);
    }

    #[test]
    fn the_begin_of_a_log_is_not_a_position_that_is_not_known() {
        let log = LogIdentity(1);
        for (seen, at) in [(None, 0), (None, 5), (Some(ChangePosition::default()), 5)] {
            let mut token = Freshness::default();
            token.set(log, seen, LogPosition(at));
            assert_eq!(token.to_string().parse(), Ok(token.clone()));
            assert_eq!(token.changes_seen(log), seen);
        }
    }

    #[test]
    fn a_required_token_moves_no_beginning() {
        let (log, other, after) =
            (LogIdentity(1), LogIdentity(2), |at| ChangePosition::after(LogPosition(at)));
        let token = |identity, at, horizon| {
            let mut token = Freshness::default();
            token.add(identity, LogPosition(at));
            token.set_horizon(Some(horizon_at(horizon)));
            token
        };
        // The first node was ahead, so the page shows posts up to the later horizon.
        let mut required = token(log, 5, 900);
        required.require(&token(log, 9, 800));
        required.require(&token(other, 3, 850));
        assert_eq!(required.horizon(), Some(horizon_at(900)));
        assert_eq!(required.positions(), [(log, LogPosition(9)), (other, LogPosition(3))]);
        assert_eq!(required.changes_seen(log), Some(after(5)));
    }

    #[test]
    fn a_mark_after_the_position_survives_encoding() {
        let (log, at) = (LogIdentity(1), LogPosition(5));
        let marked = ChangePosition::after_loss(at, 1_764_200_000);
        let mut token = Freshness::default();
        token.set(log, Some(marked), at);
        let mut token: Freshness = token.to_string().parse().unwrap();
        assert_eq!((token.position(log), token.changes_seen(log)), (Some(at), Some(marked)));
        token.add(log, at);
        assert_eq!(token.changes_seen(log), Some(marked));
        token.add(log, LogPosition(9));
        assert_eq!(token.changes_seen(log), Some(ChangePosition::after(LogPosition(9))));
    }

    #[test]
    fn several_tokens_require_the_latest_position_of_each_log() {
        let token = |entries: &[(u64, u64)]| {
            let mut token = Freshness::default();
            entries.iter().for_each(|(h, p)| token.add(LogIdentity(*h), LogPosition(*p)));
            token
        };
        let text = format!("{}, {}", token(&[(1, 5), (2, 7)]), token(&[(2, 6), (3, 1), (1, 9)]));
        let merged: Freshness = text.parse().unwrap();
        assert_eq!(merged.positions(), token(&[(1, 9), (2, 7), (3, 1)]).positions());
        for bad in ["", ",", "AQ,", "AgABAA", "AwAA", "BAAA", "AQAA", "x y"] {
            assert_eq!(bad.parse::<Freshness>(), Err(BadFreshness), "{bad:?}");
        }
    }
}
