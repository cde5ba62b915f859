//! The picture of a scatter-gather: the reader, a row for each shard, and the merge. The table
//! beside it has the same figures. Pure.

use super::view::{grouped, milliseconds, plural};
use crate::explain::{Explained, ExplainedShard};

/// Rows of the picture. If there are more shards, those that the page did not need come last, and
/// one row stands for the rest.
const ROWS_MAX: usize = 16;
/// The height of a row with the space below it, in units of the picture.
const PITCH: usize = 54;
/// The top of the first row.
const TOP: usize = 60;
/// Half the height of a row.
const HALF: usize = 22;
/// Longest name of a shard that fits, in characters.
const NAME_MAX: usize = 18;

/// The picture.
pub(super) struct Scatter {
    pub(super) reader: String,
    pub(super) rows: Vec<Row>,
    /// The place of the merge, and its posts.
    pub(super) merge_top: usize,
    pub(super) merge: String,
    pub(super) height: usize,
}

/// A shard, or those that have no row of their own.
pub(super) struct Row {
    /// `queried`, `memory`, `unused`, `stale` or `missing`; the style has a colour for each.
    pub(super) kind: &'static str,
    pub(super) name: String,
    /// How it was read.
    pub(super) label: String,
    /// Its followees and posts.
    pub(super) detail: String,
    /// The time of its queries.
    pub(super) time: String,
    /// The middle of the row.
    pub(super) y: usize,
    /// Whether posts lead from it to the merge.
    pub(super) gives: bool,
}

impl Scatter {
    pub(super) fn new(explained: &Explained<'_>) -> Self {
        let mut parts: Vec<&ExplainedShard<'_>> = explained.shards.iter().collect();
        let is_full = parts.len() > ROWS_MAX;
        if is_full {
            parts.sort_by_key(|part| kind_of(part) == "unused");
        }
        let shown = if is_full { ROWS_MAX - 1 } else { parts.len() };
        let mut rows: Vec<Row> = parts.iter().take(shown).map(|part| Row::new(part)).collect();
        rows.extend(is_full.then(|| Row::rest(&parts[shown..])));
        for (index, row) in rows.iter_mut().enumerate() {
            row.y = TOP + HALF + index * PITCH;
        }
        let merge_top = TOP + rows.len() * PITCH + 4;
        let posts = explained.merge.posts;
        Self {
            reader: shortened(&format!("User {}", explained.reader)),
            rows,
            merge_top,
            merge: format!("{posts} {}", plural(posts, "post", "posts")),
            height: merge_top + 2 * HALF + 2,
        }
    }
}

impl Row {
    fn new(part: &ExplainedShard<'_>) -> Self {
        let kind = kind_of(part);
        let label = match kind {
            "missing" => "does not answer".to_owned(),
            "stale" => "from memory, stale".to_owned(),
            "queried" => {
                let rows = usize::try_from(part.rows).unwrap_or(usize::MAX);
                format!("{} {}", grouped(part.rows), plural(rows, "row", "rows"))
            }
            "memory" => "from memory".to_owned(),
            _ => "not needed".to_owned(),
        };
        Self {
            kind,
            name: shortened(part.shard),
            label,
            detail: detail(part),
            time: if part.queried { milliseconds(part.us) } else { String::new() },
            y: 0,
            gives: part.posts > 0,
        }
    }

    fn rest(parts: &[&ExplainedShard<'_>]) -> Self {
        let used = parts.iter().filter(|part| kind_of(part) != "unused").count();
        Self {
            kind: if used > 0 { "memory" } else { "unused" },
            name: format!("{} more shards", parts.len()),
            label: if used > 0 { "see the table".to_owned() } else { "not needed".to_owned() },
            detail: String::new(),
            time: String::new(),
            y: 0,
            gives: parts.iter().any(|part| part.posts > 0),
        }
    }
}

fn kind_of(part: &ExplainedShard<'_>) -> &'static str {
    match (part.state, part.queried) {
        ("missing", _) => "missing",
        ("stale", _) => "stale",
        (_, true) => "queried",
        _ if part.in_memory > 0 => "memory",
        _ => "unused",
    }
}

fn detail(part: &ExplainedShard<'_>) -> String {
    let (followees, posts) = (part.followees, part.posts);
    let of =
        format!("{} {}", grouped(followees as u64), plural(followees, "followee", "followees"));
    let has = format!("{posts} {}", plural(posts, "post", "posts"));
    match part.posts_from_memory {
        _ if followees == 0 => "no followees".to_owned(),
        some if part.queried && some > 0 => format!("{of}, {has}, {some} from memory"),
        _ => format!("{of}, {has}"),
    }
}

fn shortened(name: &str) -> String {
    match name.char_indices().nth(NAME_MAX) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_shortened_at_a_character() {
        assert_eq!(shortened("shard-1"), "shard-1");
        assert_eq!(shortened(&"é".repeat(30)), format!("{}…", "é".repeat(NAME_MAX)));
    }
}
