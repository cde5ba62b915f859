//! Generates the texts of the benchmark's posts. Pure.
//!
//! A text depends only on the seed and the post's id, so it can be checked without being stored.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_distr::LogNormal;

/// Text lengths are lognormal: 140 bytes in the mean, 560 at the 99th percentile.
const LOG_MEAN: f64 = 4.696;
const LOG_SIGMA: f64 = 0.702;
/// A text of this length gets no further word.
const BYTES_MAX: f64 = 2_000.0;
/// The share of texts with non-ASCII characters or characters that JSON must escape.
const ODD_SHARE: f64 = 0.1;

const WORDS: [&str; 32] = [
    "the",
    "river",
    "runs",
    "past",
    "our",
    "window",
    "and",
    "nobody",
    "minds",
    "today",
    "a",
    "train",
    "late",
    "again",
    "coffee",
    "first",
    "then",
    "rain",
    "later",
    "sun",
    "over",
    "mountains",
    "I",
    "read",
    "that",
    "book",
    "twice",
    "in",
    "one",
    "quiet",
    "afternoon",
    "still",
];
const ODD: [&str; 8] = [
    "Zürich",
    "東京",
    "\u{1f389}",
    "\"so\"",
    "back\\slash",
    "line\nbreak",
    "São Paulo",
    "naïve\tété",
];

/// The text of the post with this id.
pub(super) fn text(seed: u64, post: u64) -> String {
    // The product with an odd constant spreads neighbouring ids over all seeds.
    let mut random = StdRng::seed_from_u64(seed ^ post.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let bytes = LogNormal::new(LOG_MEAN, LOG_SIGMA).expect("the constants are finite");
    let bytes = random.sample(bytes).clamp(1.0, BYTES_MAX);
    let mut text = String::with_capacity(256);
    if random.random_bool(ODD_SHARE) {
        text.push_str(ODD.choose(&mut random).copied().unwrap_or_default());
    }
    while (text.len() as f64) < bytes {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(WORDS.choose(&mut random).copied().unwrap_or_default());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_the_documented_lengths_and_depend_on_seed_and_id() {
        assert_eq!(text(1, 7), text(1, 7));
        assert_ne!(text(1, 7), text(1, 8));
        assert_ne!(text(1, 7), text(2, 7));
        let mut lengths: Vec<usize> = (0..20_000).map(|post| text(1, post).len()).collect();
        lengths.sort_unstable();
        let mean = lengths.iter().sum::<usize>() / lengths.len();
        assert!((132..150).contains(&mean), "{mean} bytes of the mean text");
        assert!((520..610).contains(&lengths[19_800]), "{} at p99", lengths[19_800]);
        let odd = (0..20_000).map(|post| text(1, post));
        let odd = odd.filter(|text| ODD.iter().any(|odd| text.contains(odd))).count();
        assert!((1_700..2_300).contains(&odd), "{odd} of 20,000 texts are odd");
    }
}
