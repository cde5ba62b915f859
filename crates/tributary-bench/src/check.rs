//! Checks a page: its order, that no required post is missing, and that no post is on it wrongly.
//! Pure.
//!
//! Writes run at the same time, so only certain posts are required. A post is certain if it was
//! acknowledged before the request was sent, and if no delete of it was sent. Its author must be
//! one that the reader has certainly followed since the request was sent.

use tributary::internal::{Direction, Edge};
use tributary::{Cursor, PostKey};

use super::known::{Deletion, KnownRows, RunMicros, WrittenPost};
use super::world::END_MS;

/// The request of a checked page.
#[derive(Debug)]
pub(super) struct CheckedRequest {
    pub(super) reader: u32,
    pub(super) cursor: Cursor,
    pub(super) limit: usize,
    /// When the request was sent.
    pub(super) sent: RunMicros,
}

/// A page as it was received.
#[derive(Debug)]
pub(super) struct ReceivedPage {
    pub(super) posts: Vec<(PostKey, String)>,
    /// Whether `next` is not null.
    pub(super) has_next: bool,
}

/// Checks a page that the server calls complete.
///
/// # Errors
/// A text that names the first difference.
pub(super) fn check(
    known: &KnownRows,
    request: &CheckedRequest,
    received: &ReceivedPage,
) -> Result<(), String> {
    if received.posts.len() > request.limit {
        return Err(format!("{} posts on a page of {}", received.posts.len(), request.limit));
    }
    for (first, second) in received.posts.iter().zip(received.posts.iter().skip(1)) {
        if first.0 == second.0 {
            return Err(format!("{} is on the page twice", name(first.0)));
        }
        if first.0 < second.0 {
            return Err(format!("{} is above {}, which is newer", name(first.0), name(second.0)));
        }
    }
    for (key, content) in &received.posts {
        check_post(known, request, *key, content)?;
    }
    check_no_post_missing(known, request, received)
}

/// Checks that this post may be on the page.
fn check_post(
    known: &KnownRows,
    request: &CheckedRequest,
    key: PostKey,
    content: &str,
) -> Result<(), String> {
    if !is_past_cursor(&request.cursor, key) {
        return Err(format!("{} is on the wrong side of the cursor", name(key)));
    }
    let author = u32::try_from(key.author.get()).unwrap_or(0);
    if known.follows(request.reader, author, request.sent) == Some(false) {
        return Err(format!(
            "{} is on the page, but the reader does not follow its author",
            name(key)
        ));
    }
    let same_text = |expected: &str| {
        let wrong = || format!("{} has a different text than was posted", name(key));
        if content == expected { Ok(()) } else { Err(wrong()) }
    };
    if key.time <= END_MS {
        if known.world.posts(author).binary_search(&key).is_err() {
            return Err(format!("{} was never posted", name(key)));
        }
        return same_text(&known.world.text(key.post));
    }
    // An unknown post is allowed: another client wrote it, or its 201 is still under way.
    let written = known.written(author).iter().find(|written| written.key == key);
    match written {
        Some(WrittenPost { deletion: Deletion::Acknowledged(at), .. }) if *at <= request.sent => {
            Err(format!(
                "{} is on the page although its deletion was acknowledged before",
                name(key)
            ))
        }
        Some(written) => same_text(&written.content),
        None => Ok(()),
    }
}

/// Checks that every required post is on the page.
fn check_no_post_missing(
    known: &KnownRows,
    request: &CheckedRequest,
    received: &ReceivedPage,
) -> Result<(), String> {
    let Some(end) = far_end(known, request, received) else { return Ok(()) };
    let belongs = |key: PostKey| {
        is_past_cursor(&request.cursor, key) && is_within_far_end(&request.cursor, key, end)
    };
    let is_on_page = |key: PostKey| received.posts.iter().any(|(shown, _)| *shown == key);
    for author in known.followees(request.reader, request.sent) {
        let base = known.world.posts(author).iter().rev().copied();
        // Newest first: once a post is beyond the page's end, all older ones are too.
        let is_in_reach = |key: &PostKey| match (request.cursor.direction, request.cursor.edge) {
            (Direction::Older, _) => Edge::below(*key) >= end,
            (Direction::Newer, edge) => Edge::below(*key) >= edge,
        };
        let base = base.take_while(is_in_reach);
        let written = known.written(author).iter();
        let certain = written.filter(|w| w.stored <= request.sent && w.deletion == Deletion::None);
        let all = base.chain(certain.map(|written| written.key));
        if let Some(lost) = all.into_iter().find(|key| belongs(*key) && !is_on_page(*key)) {
            return Err(format!("{} is missing although it was stored before", name(lost)));
        }
    }
    Ok(())
}

/// The other end of the range that the page covers; its first end is the cursor. The page claims
/// to hold every post in the range. `None` if it makes no such claim.
fn far_end(known: &KnownRows, request: &CheckedRequest, received: &ReceivedPage) -> Option<Edge> {
    match request.cursor.direction {
        Direction::Older if !received.has_next => Some(Edge::Bottom),
        Direction::Older => received.posts.last().map(|(key, _)| Edge::below(*key)),
        // A post that is deleted during the read can make a page shorter than its limit.
        Direction::Newer
            if received.posts.len() < request.limit && !known.deleted_since(request.sent) =>
        {
            Some(Edge::Top)
        }
        Direction::Newer => received.posts.first().map(|(key, _)| Edge::above(*key)),
    }
}

/// Whether the key is on the side of the cursor that the page covers.
fn is_past_cursor(cursor: &Cursor, key: PostKey) -> bool {
    match cursor.direction {
        Direction::Older => Edge::above(key) <= cursor.edge,
        Direction::Newer => Edge::below(key) >= cursor.edge,
    }
}

/// Whether the key is between the cursor and the page's far end.
fn is_within_far_end(cursor: &Cursor, key: PostKey, end: Edge) -> bool {
    match cursor.direction {
        Direction::Older => Edge::below(key) >= end,
        Direction::Newer => Edge::above(key) <= end,
    }
}

fn name(key: PostKey) -> String {
    format!("post {} of user {} at {}", key.post, key.author, key.time)
}

#[cfg(test)]
mod tests {
    use super::super::world::{World, WorldSize};
    use super::*;
    use tributary::{PostId, UserId};

    const READER: u32 = 1;

    fn known() -> KnownRows {
        let worlds = (1..).map(|seed| {
            World::make(WorldSize { users: 300, posts: 6_000, mutes: 4, blocks: 4 }, seed)
        });
        let mut fitting = worlds.filter(|world| (20..60).contains(&world.followees(READER).len()));
        KnownRows::new(fitting.next().unwrap())
    }

    /// The correct page, found by fetching everything and sorting it.
    fn page(known: &KnownRows, request: &CheckedRequest) -> ReceivedPage {
        let mut all: Vec<(PostKey, String)> = Vec::new();
        for author in known.followees(READER, RunMicros::MAX) {
            let base = known.world.posts(author).iter();
            all.extend(base.map(|key| (*key, known.world.text(key.post))));
            let written = known.written(author).iter().filter(|w| w.deletion == Deletion::None);
            all.extend(written.map(|w| (w.key, w.content.clone())));
        }
        all.retain(|(key, _)| is_past_cursor(&request.cursor, *key));
        all.sort_by_key(|(key, _)| std::cmp::Reverse(*key));
        let has_next = all.len() > request.limit;
        match request.cursor.direction {
            Direction::Older => all.truncate(request.limit),
            Direction::Newer => drop(all.drain(..all.len().saturating_sub(request.limit))),
        }
        ReceivedPage { posts: all, has_next }
    }

    fn request(cursor: Cursor) -> CheckedRequest {
        CheckedRequest { reader: READER, cursor, limit: 20, sent: 100 }
    }

    fn newer(edge: Edge) -> Cursor {
        Cursor { direction: Direction::Newer, ..Cursor::older(edge) }
    }

    fn post(known: &mut KnownRows, author: u32, time: i64, stored: RunMicros) -> PostKey {
        let id = u64::try_from(time).unwrap();
        let key = PostKey { time, post: PostId::new(id).unwrap(), author: UserId::from(author) };
        let written =
            WrittenPost { key, content: format!("at {time}"), stored, deletion: Deletion::None };
        known.posted(author, written, Some(READER));
        key
    }

    #[test]
    fn correct_pages_pass_in_both_directions() {
        let known = known();
        let mut cursor = Cursor::newest();
        for _ in 0..3 {
            let request = request(cursor);
            let received = page(&known, &request);
            assert_eq!(received.posts.len(), 20);
            assert_eq!(check(&known, &request, &received), Ok(()));
            cursor = Cursor::older(Edge::below(received.posts[19].0));
            let back = super::tests::request(newer(Edge::below(received.posts[9].0)));
            assert_eq!(check(&known, &back, &page(&known, &back)), Ok(()));
        }
    }

    #[test]
    fn every_kind_of_wrong_page_is_found() {
        let known = known();
        let request = request(Cursor::newest());
        let wrong = |what: &str, change: &dyn Fn(&mut ReceivedPage)| {
            let mut received = page(&known, &request);
            change(&mut received);
            let found = check(&known, &request, &received).expect_err(what);
            assert!(found.contains(what), "{found}");
        };
        wrong("is missing", &|received| drop(received.posts.remove(0)));
        wrong("is missing", &|received| drop(received.posts.remove(7)));
        wrong("is missing", &|received| {
            received.posts.clear();
            received.has_next = false;
        });
        wrong("is missing", &|received| received.has_next = false);
        wrong("twice", &|received| {
            received.posts[3] = received.posts[2].clone();
        });
        wrong("which is newer", &|received| received.posts.swap(4, 5));
        wrong("a different text", &|received| received.posts[4].1.push('!'));
        wrong("never posted", &|received| {
            let post = &mut received.posts[0].0.post;
            *post = PostId::new(post.get() + 1).unwrap();
        });
        let strangers = (1..300).filter(|author| known.follows(READER, *author, 0) == Some(false));
        let mut theirs = strangers.map(|author| known.world.posts(author));
        let theirs = theirs.find(|posts| !posts.is_empty()).unwrap();
        wrong("does not follow", &|received| {
            received.posts = vec![(theirs[0], known.world.text(theirs[0].post))];
        });
        let next =
            super::tests::request(Cursor::older(Edge::below(page(&known, &request).posts[5].0)));
        let found = check(&known, &next, &page(&known, &request)).unwrap_err();
        assert!(found.contains("wrong side"), "{found}");
        let poll = super::tests::request(newer(Edge::below(page(&known, &request).posts[5].0)));
        let empty = ReceivedPage { posts: Vec::new(), has_next: true };
        assert!(check(&known, &poll, &empty).unwrap_err().contains("missing"));
    }

    #[test]
    fn writes_count_from_their_acknowledgement_on() {
        let mut known = known();
        let author = known.world.followees(READER)[0];
        let before = request(Cursor::newest());
        let old_page = page(&known, &before);
        let key = post(&mut known, author, END_MS + 1, 101);
        assert_eq!(check(&known, &before, &old_page), Ok(()), "the post was not acknowledged yet");
        assert_eq!(
            check(&known, &before, &page(&known, &before)),
            Ok(()),
            "but it may be on the page"
        );
        let after = CheckedRequest { sent: 101, ..request(Cursor::newest()) };
        assert!(check(&known, &after, &old_page).unwrap_err().contains("missing"));

        let with_it = page(&known, &after);
        let chosen = known.begin_delete(5).map(|chosen| (chosen.author, chosen.post));
        assert_eq!(chosen, Some((author, key.post)));
        assert_eq!(check(&known, &after, &with_it), Ok(()));
        assert_eq!(check(&known, &after, &old_page), Ok(()));
        known.end_delete(author, key.post, 120, true);
        assert_eq!(check(&known, &after, &with_it), Ok(()));
        let later = CheckedRequest { sent: 120, ..request(Cursor::newest()) };
        assert!(check(&known, &later, &with_it).unwrap_err().contains("deletion"));
        assert_eq!(check(&known, &later, &old_page), Ok(()));
    }

    #[test]
    fn follows_count_from_their_acknowledgement_on() {
        let mut known = known();
        let churning = [50, 100, 150, 200, 250, 300];
        let stranger =
            churning.into_iter().find(|author| known.follows(READER, *author, 0).is_none());
        let stranger = stranger.unwrap();
        let without = page(&known, &request(Cursor::newest()));
        post(&mut known, stranger, END_MS + 1, 10);
        assert!(known.begin_follow(READER, stranger));
        assert!(!known.begin_follow(READER, stranger), "one at a time");
        assert_eq!(check(&known, &request(Cursor::newest()), &without), Ok(()));
        known.end_follow_change((READER, stranger), 50, true);
        let found = check(&known, &request(Cursor::newest()), &without).unwrap_err();
        assert!(found.contains("missing"), "{found}");
        let with = page(&known, &request(Cursor::newest()));
        assert_eq!(with.posts[0].1, format!("at {}", END_MS + 1));

        assert_eq!(known.begin_unfollow(3), Some((READER, stranger)));
        assert_eq!(check(&known, &request(Cursor::newest()), &with), Ok(()));
        known.end_follow_change((READER, stranger), 60, true);
        let found = check(&known, &request(Cursor::newest()), &with).unwrap_err();
        assert!(found.contains("does not follow"), "{found}");
        assert_eq!(check(&known, &request(Cursor::newest()), &without), Ok(()));
    }
}
