//! The columns of a file: which of its fields holds what, and the advice if one is missing.

use std::str::FromStr;

use super::records::Record;

/// A column of a row that is imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Follower,
    Followee,
    Post,
    Author,
    Content,
    Time,
    /// The author and the id of the post that a post replies to.
    ReplyAuthor,
    ReplyPost,
    /// The author and the id of the post that a post shows again.
    RepostAuthor,
    RepostPost,
    /// The time of the last edit.
    EditedAt,
    /// The address of an account in a Mastodon export.
    Account,
}

pub(super) const ACCOUNT_COLUMNS: [Column; 1] = [Column::Account];
pub(super) const FOLLOW_COLUMNS: [Column; 2] = [Column::Follower, Column::Followee];
/// The last ones are optional.
pub(super) const POST_COLUMNS: [Column; 9] = [
    Column::Post,
    Column::Author,
    Column::Content,
    Column::Time,
    Column::ReplyAuthor,
    Column::ReplyPost,
    Column::RepostAuthor,
    Column::RepostPost,
    Column::EditedAt,
];

impl Column {
    /// The name in a header line, unless `--columns` gives another one.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Follower => "follower_user_id",
            Self::Followee => "followed_user_id",
            Self::Post => "tweet_id",
            Self::Author => "user_id",
            Self::Content => "content",
            Self::Time => "timestamp",
            Self::ReplyAuthor => "reply_to_user_id",
            Self::ReplyPost => "reply_to_tweet_id",
            Self::RepostAuthor => "repost_of_user_id",
            Self::RepostPost => "repost_of_tweet_id",
            Self::EditedAt => "edited_at",
            Self::Account => "Account address",
        }
    }

    /// Whether a file need not have the column, nor a row a value in it.
    pub(super) const fn is_optional(self) -> bool {
        matches!(
            self,
            Self::ReplyAuthor
                | Self::ReplyPost
                | Self::RepostAuthor
                | Self::RepostPost
                | Self::EditedAt
        )
    }
}

/// `NAME=COLUMN` of `--columns`: the name that a column has in the file.
#[derive(Clone, Debug)]
pub(super) struct Rename {
    name: String,
    column: Column,
}

impl FromStr for Rename {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, column) = text
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| format!("`{text}` is not NAME=COLUMN, such as id=tweet_id"))?;
        let columns = || FOLLOW_COLUMNS.into_iter().chain(POST_COLUMNS);
        let found = columns().find(|known| known.name() == column);
        let column = found.ok_or_else(|| {
            let known: Vec<_> = columns().map(Column::name).collect();
            format!("`{column}` is not a column; the columns are {}", known.join(", "))
        })?;
        Ok(Self { name: name.to_owned(), column })
    }
}

/// The name of a column in the file.
pub(super) fn name_in_file(column: Column, renames: &[Rename]) -> &str {
    let rename = renames.iter().find(|rename| rename.column == column);
    rename.map_or(column.name(), |rename| &rename.name)
}

/// The index in the file of each wanted column. `None` for an optional one that is absent.
///
/// # Errors
/// A column is missing or not unique. The text is the end of a sentence that starts with the file.
pub(super) fn resolve(
    header: &[String],
    wanted: &[Column],
    renames: &[Rename],
) -> Result<Vec<Option<usize>>, String> {
    let index = |column: &Column| {
        let name = name_in_file(*column, renames);
        let mut found = (0..header.len()).filter(|index| header[*index] == name);
        match (found.next(), found.next()) {
            (Some(index), None) => Ok(Some(index)),
            (None, _) if column.is_optional() && name == column.name() => Ok(None),
            (Some(_), Some(_)) => {
                Err(format!("has two columns `{name}` in its header line; rename one of them"))
            }
            (None, _) => Err(format!(
                "has no column `{name}` in its header line; {}",
                column_advice(header, *column)
            )),
        }
    };
    wanted.iter().map(index).collect()
}

/// How to find a missing column in a header whose fields could be read.
fn column_advice(header: &[String], column: Column) -> String {
    let wanted = column.name();
    if let Some(similar) = header.iter().find(|name| name.trim().eq_ignore_ascii_case(wanted)) {
        return format!("add --columns '{similar}={wanted}'");
    }
    let digits = |text: &&String| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if header.iter().filter(digits).count() >= 2 {
        return "that line looks like a row; if the file has no header line, name its columns with \
                --header, such as --header tweet_id,user_id,content,timestamp"
            .to_owned();
    }
    let names: Vec<String> = header.iter().take(20).map(|name| short(name)).collect();
    format!("its columns are {}; add --columns NAME={wanted}", names.join(", "))
}

/// Why no column was found in the first record, if the whole file is of another kind.
pub(super) fn other_kind(record: &Record<'_>, delimiter: u8) -> Option<String> {
    if record.raw.contains(&0) {
        return Some(
            "is not UTF-8 text; convert it to UTF-8, or to UTF-16 with a byte-order mark".into(),
        );
    }
    if std::str::from_utf8(record.raw).is_err() {
        return Some("is not UTF-8 text; convert it to UTF-8".into());
    }
    if record.raw.starts_with(b"{") || record.raw.starts_with(b"[") {
        return Some(
            "looks like JSON; write one object in each line, and name the file with .ndjson at the \
             end"
                .into(),
        );
    }
    let others = [(b',', "','"), (b';', "';'"), (b'\t', "tab"), (b'|', "'|'")];
    let used = |(byte, _): &&(u8, &str)| *byte != delimiter && record.raw.contains(byte);
    let (_, name) = others.iter().find(used).filter(|_| record.fields.len() == 1)?;
    Some(format!(
        "has one column only; if its fields are separated otherwise, add --delimiter {name}"
    ))
}

/// A text from a file for a message: without control characters, and not too long.
pub(super) fn short(text: &str) -> String {
    const CHARACTERS_MAX: usize = 40;
    let mut short = String::new();
    for character in text.chars().take(CHARACTERS_MAX) {
        match character {
            control if control.is_control() => short.extend(control.escape_default()),
            other => short.push(other),
        }
    }
    let rest = text.chars().nth(CHARACTERS_MAX).map_or("", |_| "...");
    format!("`{short}{rest}`")
}
