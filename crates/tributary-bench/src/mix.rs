//! The mix of requests: which kinds, how often, and for which readers. Pure.

use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_distr::Zipf;

/// The share of users that read at all, and the Zipf exponent of their activity.
const ACTIVE_SHARE: f64 = 0.7;
const READERS_EXPONENT: f64 = 0.8;
/// The probability that a reader requests the next page after a newest page.
const NEXT_PAGE_SHARE: f64 = 0.3;
/// Posts per second of the storm author, which a quarter of all users follow.
pub(super) const STORM_RATE: f64 = 100.0;

/// A mix of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mix {
    /// Newest pages only
    Newest,
    /// Newest pages that no page cache has: each reader requests 10 to 30 posts in turn
    Rebuilt,
    /// Half polls for new posts, half newest pages; 30 % of these are followed by the next page
    Read,
    /// Polls that find nothing, from the `prev` of each reader's newest page, which is read before
    Poll,
    /// 86.1 % polls, 8.6 % follows and unfollows, 4.3 % pages of 100, 0.86 % posts, 0.1 % deletes
    Twip,
    /// Like twip, while an author that a quarter of all users follow posts 100 times a second
    Storm,
}

/// The kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    Newest,
    Rebuilt,
    Next,
    Poll,
    Full,
    Follow,
    Post,
    Delete,
    Storm,
}

impl RequestKind {
    pub(super) const ALL: [Self; 9] = [
        Self::Newest,
        Self::Rebuilt,
        Self::Next,
        Self::Poll,
        Self::Full,
        Self::Follow,
        Self::Post,
        Self::Delete,
        Self::Storm,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Newest => "newest page",
            Self::Rebuilt => "rebuilt page",
            Self::Next => "next page",
            Self::Poll => "poll",
            Self::Full => "page of 100",
            Self::Follow => "follow or unfollow",
            Self::Post => "post",
            Self::Delete => "delete",
            Self::Storm => "post in the storm",
        }
    }

    /// The requested page size, in posts. `turn` counts the requests of a reader.
    pub(super) fn limit(self, turn: usize) -> usize {
        match self {
            Self::Full => 100,
            // 20 on average. No cache has the page, because it was last requested 20 pages ago.
            Self::Rebuilt => 10 + turn % 21,
            _ => 20,
        }
    }
}

impl Mix {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::Rebuilt => "rebuilt",
            Self::Read => "read",
            Self::Poll => "poll",
            Self::Twip => "twip",
            Self::Storm => "storm",
        }
    }

    /// Whether the mix contains writes.
    pub fn writes(self) -> bool {
        matches!(self, Self::Twip | Self::Storm)
    }

    /// Draws the kind of the next request.
    pub(super) fn choose(self, random: &mut StdRng) -> RequestKind {
        let share = random.random::<f64>();
        match self {
            Self::Newest => RequestKind::Newest,
            Self::Rebuilt => RequestKind::Rebuilt,
            Self::Poll => RequestKind::Poll,
            Self::Read if share < 0.5 => RequestKind::Poll,
            Self::Read => RequestKind::Newest,
            Self::Twip | Self::Storm => match share {
                ..0.861_4 => RequestKind::Poll,
                ..0.947_4 => RequestKind::Follow,
                ..0.990_4 => RequestKind::Full,
                ..0.999 => RequestKind::Post,
                _ => RequestKind::Delete,
            },
        }
    }

    /// Draws whether the reader of a newest page requests the next one.
    pub(super) fn reads_next_page(self, random: &mut StdRng) -> bool {
        self == Self::Read && random.random_bool(NEXT_PAGE_SHARE)
    }
}

/// The readers: a few read often, most rarely, and 30 % of the users never.
#[derive(Debug)]
pub(super) struct Readers {
    by_activity: Vec<u32>,
    activity: Zipf<f64>,
}

impl Readers {
    pub(super) fn new(users: u32, seed: u64) -> Self {
        let mut all: Vec<u32> = (1..=users).collect();
        // Shuffled, so that activity depends neither on the id nor on the number of followers.
        all.shuffle(&mut StdRng::seed_from_u64(seed ^ 0x5ead));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below users")]
        all.truncate((f64::from(users) * ACTIVE_SHARE).ceil() as usize);
        let activity = Zipf::new(all.len().max(1) as f64, READERS_EXPONENT);
        Self { by_activity: all, activity: activity.expect("there is at least one reader") }
    }

    /// All readers, the most active first.
    pub(super) fn all(&self) -> &[u32] {
        &self.by_activity
    }

    /// Draws a reader.
    pub(super) fn choose(&self, random: &mut StdRng) -> u32 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to readers")]
        let rank = random.sample(self.activity) as usize;
        self.by_activity.get(rank.saturating_sub(1)).copied().unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mixes_have_the_documented_shares() {
        let mut random = StdRng::seed_from_u64(1);
        let mut count = |mix: Mix, kind: RequestKind| {
            (0..100_000).filter(|_| mix.choose(&mut random) == kind).count()
        };
        assert!((49_000..51_000).contains(&count(Mix::Read, RequestKind::Poll)));
        assert!((85_500..86_700).contains(&count(Mix::Twip, RequestKind::Poll)));
        assert!((8_300..8_900).contains(&count(Mix::Twip, RequestKind::Follow)));
        assert!((4_050..4_550).contains(&count(Mix::Storm, RequestKind::Full)));
        assert!((760..960).contains(&count(Mix::Storm, RequestKind::Post)));
        assert!((60..140).contains(&count(Mix::Twip, RequestKind::Delete)));
    }

    #[test]
    fn reading_is_skewed_and_30_percent_of_users_never_read() {
        let readers = Readers::new(1_000, 1);
        let mut random = StdRng::seed_from_u64(1);
        let mut counts = vec![0usize; 1_001];
        (0..100_000).for_each(|_| counts[readers.choose(&mut random) as usize] += 1);
        assert_eq!(counts[0], 0);
        counts.sort_unstable_by(|a, b| b.cmp(a));
        // 1 / sum of k^-0.8 over 700 readers is 6.6 %.
        assert!((6_000..7_200).contains(&counts[0]), "{}", counts[0]);
        assert!(counts[690] > 0 && counts[700] == 0);
    }
}
