//! The values in the templates: names, posts, times, avatars and notices. Pure.

use axum::http::HeaderMap;
use tributary::graph::UserNames;
use tributary::internal::{PostTimes, rfc3339_ms};
use tributary::posts::{PostAddress, References};
use tributary::{Post, PostId, UserId};

use super::assets;
use super::referred::Referred;
use crate::auth::{Access, cookie};

/// The colours of a page: those of the system, unless the reader has chosen others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Theme {
    #[default]
    System,
    Light,
    Dark,
}

impl Theme {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        match cookie::value(headers, cookie::THEME) {
            Some("light") => Self::Light,
            Some("dark") => Self::Dark,
            _ => Self::System,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }
}

/// The parts around the content of every page.
pub(super) struct Frame {
    pub(super) version: &'static str,
    pub(super) theme: &'static str,
    pub(super) reader: Option<Person>,
    /// Whether the reader has signed in and can sign out.
    pub(super) signed_in: bool,
    /// Whether the client may read as any user.
    pub(super) chooses: bool,
    /// Whether the page offers to write.
    pub(super) writes: bool,
    /// Largest text of a post, in bytes.
    pub(super) bytes_max: usize,
    /// Whether users can be found by their handles.
    pub(super) has_handles: bool,
    /// Whether the page offers replies and reposts.
    pub(super) replies: bool,
    /// Whether the page moves the reader's marker.
    pub(super) marks: bool,
    /// Whether the page offers to edit posts.
    pub(super) edits: bool,
    /// Whether the page for operators is on the same address.
    pub(super) has_shards: bool,
    /// The entry of the navigation that is this page.
    pub(super) section: &'static str,
}

impl Frame {
    /// Of a page without a reader. A client that has the cookie can sign out there.
    pub(super) fn of_visitor(headers: &HeaderMap, access: &Access) -> Self {
        let cookie = access.session_cookie();
        Self {
            version: assets::version(),
            theme: Theme::of(headers).name(),
            reader: None,
            signed_in: cookie.is_some_and(|cookie| cookie.credential(headers).is_some()),
            chooses: false,
            writes: false,
            bytes_max: 0,
            has_handles: false,
            replies: false,
            marks: false,
            edits: false,
            has_shards: false,
            section: "",
        }
    }
}

/// A user as pages show it.
pub(super) struct Person {
    pub(super) id: UserId,
    /// The display name; else the handle, else the id.
    pub(super) name: String,
    /// The handle, if it is not the name.
    pub(super) handle: Option<String>,
    pub(super) avatar: Avatar,
}

impl Person {
    /// A user with these names.
    pub(super) fn new(id: UserId, names: Option<&UserNames>) -> Self {
        let handle = names.map(|names| format!("@{}", names.handle()));
        let (name, handle) = match (names.and_then(UserNames::name), handle) {
            (Some(name), handle) => (name.to_owned(), handle),
            (None, Some(handle)) => (handle, None),
            (None, None) => (format!("User {id}"), None),
        };
        Self { id, name, handle, avatar: Avatar::of(id) }
    }

    /// The handle, which no other user has; else the id.
    pub(super) fn unique_name(&self) -> &str {
        self.handle.as_deref().unwrap_or(&self.name)
    }
}

/// A picture that follows from the id: a symmetric pattern of five by five squares.
pub(super) struct Avatar {
    pub(super) hue: u64,
    /// The squares as the data of an SVG path.
    pub(super) squares: String,
}

impl Avatar {
    fn of(id: UserId) -> Self {
        // The steps of splitmix64: near ids must not have similar pictures.
        let mut bits = id.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        let (mut squares, pattern) = (String::new(), bits | 0b100_0000);
        for index in (0..15).filter(|index| pattern >> index & 1 == 1) {
            let (column, row) = (index / 5, index % 5);
            for x in if column == 2 { vec![2] } else { vec![column, 4 - column] } {
                squares.push_str(&format!("M{x} {row}h1v1h-1z"));
            }
        }
        Self { hue: (bits >> 32) % 360, squares }
    }
}

/// A post as pages show it.
pub(super) struct PostView {
    pub(super) id: String,
    pub(super) author: Person,
    pub(super) content: String,
    pub(super) when: When,
    /// The time of the last edit in UTC, if there was one.
    pub(super) edited: Option<String>,
    /// Whether the reader has written it.
    pub(super) is_own: bool,
    /// The post that this one answers.
    pub(super) reply_to: Option<Reference>,
    /// The post that this one shows again.
    pub(super) repost_of: Option<Reference>,
    /// The post that a reply or a repost of this one refers to: of a repost without words, the one
    /// that it shows again.
    pub(super) target: PostAddress,
}

/// A post that another one refers to.
pub(super) struct Reference {
    pub(super) author: Person,
    pub(super) post: PostId,
    /// The text and the time, if they are shown.
    pub(super) text: Option<(String, When)>,
}

/// The time of a post.
pub(super) struct When {
    /// RFC 3339.
    pub(super) time: String,
    /// For people, in UTC. A script replaces it by the local time.
    pub(super) absolute: String,
    pub(super) age: String,
}

impl When {
    fn new(post: &Post, times: &PostTimes, now_ms: i64) -> Self {
        let ms = times.epoch_ms(post.key.time);
        let time = rfc3339_ms(ms);
        let age = age(now_ms.saturating_sub(ms));
        Self { absolute: absolute(&time), time, age }
    }
}

impl PostView {
    pub(super) fn new(
        post: &Post,
        Referred { posts, names, .. }: &Referred,
        times: &PostTimes,
        (reader, now_ms): (UserId, i64),
    ) -> Self {
        let reference = |address: PostAddress| {
            let found = posts.get(&address).filter(|post| !post.content.is_empty());
            Reference {
                author: names.person(address.author),
                post: address.post,
                text: found.map(|post| (post.content.clone(), When::new(post, times, now_ms))),
            }
        };
        let References { reply_to, repost_of } = post.references;
        let is_plain_repost = post.content.is_empty();
        let own = PostAddress::of(&post.key);
        Self {
            id: post.key.post.to_string(),
            author: names.person(post.key.author),
            content: post.content.clone(),
            when: When::new(post, times, now_ms),
            edited: post.edited_at.map(|ms| absolute(&rfc3339_ms(ms))),
            is_own: post.key.author == reader,
            reply_to: reply_to.map(reference),
            repost_of: repost_of.map(reference),
            target: repost_of.filter(|_| is_plain_repost).unwrap_or(own),
        }
    }
}

/// A time of RFC 3339 as people write it: `2026-11-27 12:09 UTC`.
pub(super) fn absolute(time: &str) -> String {
    match (time.get(..10), time.get(11..16)) {
        (Some(day), Some(minute)) => format!("{day} {minute} UTC"),
        _ => time.to_owned(),
    }
}

/// The age of a post in whole units, in the largest unit that is not above the age. `feed.js` has
/// the same rule.
fn age(ms: i64) -> String {
    const UNITS: [(i64, &str); 5] =
        [(31_536_000_000, "y"), (86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s")];
    match UNITS.iter().find(|(unit, _)| ms >= *unit) {
        Some((unit, name)) => format!("{} {name}", ms / unit),
        None => "now".to_owned(),
    }
}

/// Something that readers should know about a page.
pub(super) struct Notice {
    /// `partial` or `stale`; the style has a colour for each.
    pub(super) kind: &'static str,
    pub(super) text: String,
}

/// Names in a sentence: `a`, `a and b`, `a, b and c`.
pub(super) fn listed(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// The text with a capital letter and a full stop.
pub(super) fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str().trim_end_matches('.'))
}

pub(super) fn plural<T>(number: usize, one: T, many: T) -> T {
    if number == 1 { one } else { many }
}

/// A number with commas between its thousands. `page.js` has the same rule.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time in milliseconds with three digits, as people compare them.
pub(super) fn milliseconds(us: u64) -> String {
    let ms = us as f64 / 1_000.0;
    match us {
        0..10_000 => format!("{ms:.2} ms"),
        10_000..100_000 => format!("{ms:.1} ms"),
        _ => format!("{} ms", grouped(us / 1_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_names_are_readable() {
        assert_eq!(absolute("2026-11-27T12:09:10.000Z"), "2026-11-27 12:09 UTC");
        assert_eq!([age(-5), age(61_000), age(90_000_000)], ["now", "1 min", "1 d"]);
        assert_eq!(listed(&["a", "b", "c"]), "a, b and c");
        assert_eq!([grouped(0), grouped(999), grouped(1_234_567)], ["0", "999", "1,234,567"]);
        assert_eq!([120, 12_345, 1_234_567].map(milliseconds), ["0.12 ms", "12.3 ms", "1,234 ms"]);
        assert_eq!(sentence("no answer"), "No answer.");
    }

    #[test]
    fn avatars_are_symmetric_and_differ() {
        let pictures: Vec<String> =
            (1..200_u32).map(|id| Avatar::of(UserId::from(id)).squares).collect();
        let distinct: std::collections::HashSet<&String> = pictures.iter().collect();
        assert!(distinct.len() > 190, "{}", distinct.len());
        assert!(pictures.iter().all(|squares| {
            squares.split('M').skip(1).all(|square| {
                let mirrored = 4 - square.as_bytes()[0].wrapping_sub(b'0');
                squares.contains(&format!("M{mirrored}{}", &square[1..]))
            })
        }));
    }
}
