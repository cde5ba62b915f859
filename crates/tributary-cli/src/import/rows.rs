//! From the fields of a row to a follow or a post.

use std::str::FromStr;

use tributary::internal::{Follow, PostTimes};
use tributary::posts::PostAddress;
use tributary::{Post, PostKey, UserId};

use super::CONTENT_BYTES_MAX;
use super::header::{Column, POST_COLUMNS, short};
use super::time::FileTimes;

/// The wanted fields of a row, in the order of the wanted columns; NULL is `None`.
pub(super) type Row = Vec<Option<String>>;

pub(super) fn follow(row: &Row) -> Result<Follow, String> {
    let [follower, followee] = row.as_slice() else { return Err("not two fields".into()) };
    let follower = id(follower.as_deref(), Column::Follower)?;
    Ok(Follow { follower, followee: id(followee.as_deref(), Column::Followee)? })
}

/// The address of a followed account.
pub(super) fn account(row: Row) -> Result<String, String> {
    let account = row.into_iter().next().flatten();
    account.ok_or_else(|| "the account is NULL; remove the row".to_owned())
}

/// The times of the posts of a file, and of their edits.
pub(super) struct PostTimesOfFile {
    posts: FileTimes,
    edits: FileTimes,
}

impl PostTimesOfFile {
    pub(super) fn new(times: &PostTimes, now_ms: i64) -> Self {
        let edits = FileTimes::new(PostTimes::MILLISECONDS, now_ms);
        Self { posts: FileTimes::new(times.clone(), now_ms), edits }
    }
}

/// The post of a row with the columns [`POST_COLUMNS`], of which it may have the first four only.
pub(super) fn post(mut row: Row, line: u64, times: &mut PostTimesOfFile) -> Result<Post, String> {
    row.resize(POST_COLUMNS.len(), None);
    let Ok(row) = <[Option<String>; POST_COLUMNS.len()]>::try_from(row) else {
        return Err("too many fields".into());
    };
    let [post, author, content, time, optional @ ..] = row;
    // CSV has no other notation for a value that is absent.
    let [reply_author, reply_post, repost_author, repost_post, edited_at] =
        optional.map(|value| value.filter(|text| !text.is_empty()));
    let post = id(post.as_deref(), Column::Post)?;
    let author = id(author.as_deref(), Column::Author)?;
    let content = content.ok_or("content is NULL; remove the row, or give it a text")?;
    if content.len() > CONTENT_BYTES_MAX {
        return Err(format!("content is longer than {CONTENT_BYTES_MAX} bytes; shorten it"));
    }
    let time = time.ok_or("timestamp is NULL; remove the row, or give it a time")?;
    let key = PostKey { time: times.posts.read(&time, line)?, post, author };
    let mut post = Post::new(key, content);
    let reply = (Column::ReplyAuthor, Column::ReplyPost);
    post.references.reply_to = address((reply_author, reply_post), reply)?;
    let repost = (Column::RepostAuthor, Column::RepostPost);
    post.references.repost_of = address((repost_author, repost_post), repost)?;
    let edit = edited_at.map(|time| times.edits.read(&time, line)).transpose();
    post.edited_at = edit.map_err(|reason| format!("edited_at: {reason}"))?;
    Ok(post)
}

/// The address of another post, if there is one.
fn address(
    (author, post): (Option<String>, Option<String>),
    columns: (Column, Column),
) -> Result<Option<PostAddress>, String> {
    match (author, post) {
        (None, None) => Ok(None),
        (Some(author), Some(post)) => {
            let (author, post) = (id(Some(&author), columns.0)?, id(Some(&post), columns.1)?);
            Ok(Some(PostAddress { author, post }))
        }
        _ => {
            let (author, post) = (columns.0.name(), columns.1.name());
            Err(format!("only one of {author} and {post} has a value; give both or none"))
        }
    }
}

fn id<T: FromStr>(text: Option<&str>, column: Column) -> Result<T, String> {
    let column = column.name();
    let text = text.ok_or_else(|| format!("{column} is NULL; remove the row, or give it an id"))?;
    text.parse()
        .map_err(|_| format!("{column} is not an id below 2^63 but {}; correct it", short(text)))
}

/// The end or the start of a line, and the columns that a row has there.
type Edge<'a> = (&'a [u8], &'a [Option<Column>]);

/// Whether a line within a text ends as a row does and the next line starts as a row does: the
/// columns `after` the text are at the end of the first line, and those `before` the text are at
/// the start of the second line.
pub(super) fn is_row_boundary(
    (line, after): Edge<'_>,
    (next, before): Edge<'_>,
    delimiter: u8,
    is_time: &dyn Fn(&str) -> bool,
) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let is = |byte: &u8| *byte == delimiter;
    let last: Vec<&[u8]> = line.rsplitn(after.len() + 1, is).take(after.len()).collect();
    let first: Vec<&[u8]> = next.splitn(before.len() + 1, is).take(before.len()).collect();
    let found = last.iter().zip(after.iter().rev()).chain(first.iter().zip(before));
    let ends_in_field = line.iter().filter(|byte| is(byte)).count() >= after.len();
    let starts_with_fields = next.iter().filter(|byte| is(byte)).count() >= before.len();
    ends_in_field
        && starts_with_fields
        && found.into_iter().all(|(text, column)| fits(text, *column, is_time))
}

/// Whether a field can hold a value of a column.
fn fits(text: &[u8], column: Option<Column>, is_time: &dyn Fn(&str) -> bool) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let text = text.trim_matches(['"', '\'']);
    match column {
        // It may be NULL, which is written in several ways.
        Some(optional) if optional.is_optional() => true,
        Some(Column::Time) => is_time(text),
        Some(Column::Content | Column::Account) | None => true,
        Some(_) => text.parse::<UserId>().is_ok(),
    }
}
