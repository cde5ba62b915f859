//! Generates the handles and display names of users from pairs of words.

use tributary::UserId;
use tributary::graph::UserNames;

use super::NetworkSize;

const FIRST: [&str; 40] = [
    "amber", "brave", "bright", "calm", "clever", "coral", "crimson", "curious", "dusty", "early",
    "fancy", "gentle", "golden", "green", "happy", "hazel", "honest", "humble", "indigo", "jolly",
    "kind", "lively", "lucky", "mellow", "merry", "misty", "nimble", "olive", "patient", "plain",
    "polite", "quick", "quiet", "rapid", "silver", "sunny", "tidy", "velvet", "warm", "witty",
];

const SECOND: [&str; 50] = [
    "acorn", "badger", "beacon", "birch", "bramble", "brook", "canal", "cedar", "clover", "comet",
    "cricket", "dune", "ember", "falcon", "fern", "ferry", "finch", "fjord", "garden", "glacier",
    "harbor", "heron", "island", "ivy", "kettle", "lantern", "lark", "maple", "marsh", "meadow",
    "moth", "otter", "pebble", "pine", "piano", "plum", "quarry", "rabbit", "raven", "river",
    "robin", "rocket", "saddle", "spruce", "summit", "thistle", "tram", "valley", "willow", "wren",
];

/// A number without a common factor with the number of pairs, so that neighbours get other words.
const STEP: usize = 789;

/// The names of each user; no two handles are equal. Every eighth user has no display name.
pub fn names(size: NetworkSize) -> Vec<(UserId, UserNames)> {
    let names = |user: u32| {
        let handle = handle(user);
        let name = (!user.is_multiple_of(8)).then(|| display_name(&handle));
        (UserId::from(user), UserNames::new(&handle, name.as_deref()))
    };
    (1..=size.users).map(names).collect()
}

/// The words of a handle with capital letters, without its number.
fn display_name(handle: &str) -> String {
    let words = handle.trim_end_matches(|letter: char| letter.is_ascii_digit()).split('_');
    let capital = |word: &str| {
        let (first, rest) = word.split_at(1);
        first.to_uppercase() + rest
    };
    words.map(capital).collect::<Vec<_>>().join(" ")
}

/// The handle of a user. Users beyond the number of pairs have a number in it.
pub(super) fn handle(user: u32) -> String {
    let pairs = FIRST.len() * SECOND.len();
    let index = usize::try_from(user).unwrap_or(0);
    let (round, pair) = (index / pairs, index * STEP % pairs);
    let (first, second) = (FIRST[pair % FIRST.len()], SECOND[pair / FIRST.len()]);
    match round {
        0 => format!("{first}_{second}"),
        round => format!("{first}_{second}{}", round + 1),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn handles_are_distinct() {
        let size = NetworkSize { users: 10_000, posts: 0, shards: 4 };
        let all = names(size);
        let distinct: HashSet<&str> = all.iter().map(|(_, names)| names.handle()).collect();
        assert_eq!(display_name("polite_spruce3"), "Polite Spruce");
        assert_eq!((all.len(), distinct.len()), (10_000, 10_000));
    }
}
