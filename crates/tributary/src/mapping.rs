//! Names and contents of a team's own tables: `[tables]` in the configuration. Existing tables are
//! served as they are. Pure.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use crate::model::{REFERENCE_COLUMNS, UserList};
use crate::moment::{PostTimes, TimeUnit, Zone};

/// The most conditions of a table.
pub(crate) const CONDITIONS_MAX: usize = 8;

/// The name that we give to the column of the time of an edit.
pub(crate) const EDITED_AT: &str = "edited_at";

/// The tables that every shard on servers has.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Tables {
    /// The table of follows.
    pub follows: FollowsTable,
    /// The table of posts.
    pub posts: PostsTable,
    /// The table of user handles, if the shards have one.
    pub users: Option<UsersTable>,
    /// The table of mutes, if the shards have one.
    pub mutes: Option<MutesTable>,
    /// The table of blocks, if the shards have one.
    pub blocks: Option<BlocksTable>,
    /// The table of read markers, if the shards have one.
    pub read_markers: Option<ReadMarkersTable>,
}

/// `[tables.follows]`: one row for each follow.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct FollowsTable {
    /// The name of the table.
    pub name: String,
    /// The column of the follower's user id.
    pub follower: String,
    /// The column of the followee's user id.
    pub followed: String,
    /// The conditions of a row that is a follow. `None` if the configuration does not state
    /// whether other rows exist; all rows are read then.
    #[serde(deserialize_with = "one_or_many")]
    pub visible: Option<Vec<Condition>>,
}

/// `[tables.posts]`: one row for each post.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct PostsTable {
    /// The name of the table.
    pub name: String,
    /// The column of the post's id.
    pub id: String,
    /// The column of the author's id.
    pub author: String,
    /// The column of the text.
    pub content: String,
    /// The column of the time.
    pub time: String,
    /// The type and unit of the time column.
    pub unit: TimeUnit,
    /// The zone of the dates in a `DATETIME` column.
    pub zone: Zone,
    /// The columns of the posts that a post refers to, if the table has them.
    pub references: Option<ReferenceColumns>,
    /// The column of the time of the last edit, in milliseconds since 1970, if the table has it. It
    /// is NULL in a post that was not edited.
    pub edited_at: Option<String>,
    /// The conditions of a visible post. `None` if the configuration does not state whether other
    /// rows exist; all rows are read then.
    #[serde(deserialize_with = "one_or_many")]
    pub visible: Option<Vec<Condition>>,
}

/// `[tables.posts.references]`: four columns of the posts table. They are NULL without a reference.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct ReferenceColumns {
    /// The column of the author of the post that this one replies to.
    pub reply_author: String,
    /// The column of the id of the post that this one replies to.
    pub reply_post: String,
    /// The column of the author of the post that this one shows again.
    pub repost_author: String,
    /// The column of the id of the post that this one shows again.
    pub repost_post: String,
}

impl ReferenceColumns {
    /// The columns in the order of `References::ids`.
    pub(crate) fn columns(&self) -> [&String; REFERENCE_COLUMNS] {
        [&self.reply_author, &self.reply_post, &self.repost_author, &self.repost_post]
    }
}

impl Default for ReferenceColumns {
    fn default() -> Self {
        let [reply_author, reply_post, repost_author, repost_post] =
            ["reply_to_user_id", "reply_to_tweet_id", "repost_of_user_id", "repost_of_tweet_id"]
                .map(str::to_owned);
        Self { reply_author, reply_post, repost_author, repost_post }
    }
}

/// `[tables.users]`: one row for each user.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct UsersTable {
    /// The name of the table, which is on the shard that owns the user.
    pub name: String,
    /// The column of the user's id.
    pub id: String,
    /// The column of the user's handle.
    pub handle: String,
    /// The column of the user's display name, if there is one. NULL and an empty text are none.
    pub display_name: Option<String>,
}

/// `[tables.mutes]`: one row for each muted user, on the shard of the user who mutes.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct MutesTable {
    /// The name of the table. It has a unique key of both columns, in this order.
    pub name: String,
    /// The column of the id of the user who mutes.
    pub muter: String,
    /// The column of the muted user's id.
    pub muted: String,
}

/// `[tables.blocks]`: one row for each blocked user, on the shard of the user who blocks.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct BlocksTable {
    /// The name of the table. It has a unique key of both columns, in this order.
    pub name: String,
    /// The column of the id of the user who blocks.
    pub blocker: String,
    /// The column of the blocked user's id.
    pub blocked: String,
}

/// `[tables.read_markers]`: the place down to which a user has read, on the shard of the user. The
/// columns are those that `tributary migrate` makes.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct ReadMarkersTable {
    /// The name of the table.
    pub name: String,
}

/// A condition of a visible row: `column` holds `value`. A row is read if it meets all conditions
/// of its table.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// The column.
    pub column: String,
    /// The value of a visible row.
    pub value: Mark,
    /// The value that a delete or an unfollow sets. At most one condition of a table has it.
    #[serde(default)]
    pub hidden: Option<Mark>,
}

/// A value of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// SQL's NULL; written as the text `NULL`.
    Null,
    /// Any value except SQL's NULL; written as the text `NOT NULL`.
    NotNull,
    /// The time of the change; written as the text `NOW`. For hidden rows only.
    Now,
    /// The row is deleted; written as the text `DELETE`. For hidden rows only.
    Delete,
    /// A number, or true and false as 1 and 0.
    Number(i64),
    /// Any other text.
    Text(String),
}

/// How a visible row is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Removal<'a> {
    /// The row is deleted.
    Delete,
    /// The column of the condition gets the mark.
    Hide(&'a Condition, Mark),
    /// The configuration does not state it.
    Unknown,
}

impl Tables {
    /// The tables of an embedded shard: those that this project creates, with the optional ones and
    /// the optional columns of posts.
    pub(crate) fn with_all() -> Self {
        let (mutes, blocks) = (Some(MutesTable::default()), Some(BlocksTable::default()));
        let references = Some(ReferenceColumns::default());
        let edited_at = Some(EDITED_AT.to_owned());
        let posts = PostsTable { references, edited_at, ..PostsTable::default() };
        let users = Some(UsersTable::default());
        let read_markers = Some(ReadMarkersTable::default());
        Self { posts, users, mutes, blocks, read_markers, ..Self::default() }
    }

    /// Whether these are the tables that this project creates. They hold no other rows than
    /// follows and posts, so an empty list of conditions makes no difference.
    pub(crate) fn are_ours(&self) -> bool {
        let mut tables = self.clone();
        for visible in [&mut tables.follows.visible, &mut tables.posts.visible] {
            if visible.as_ref().is_some_and(Vec::is_empty) {
                *visible = None;
            }
        }
        // These are optional.
        tables.mutes.take_if(|mutes| *mutes == MutesTable::default());
        tables.blocks.take_if(|blocks| *blocks == BlocksTable::default());
        tables.read_markers.take_if(|markers| *markers == ReadMarkersTable::default());
        let references = &mut tables.posts.references;
        references.take_if(|references| *references == ReferenceColumns::default());
        tables.posts.edited_at.take_if(|column| column == EDITED_AT);
        tables == Self::default()
    }

    /// The table of a list, in the form of a table of follows. `None` if the shards have none.
    pub(crate) fn list(&self, list: UserList) -> Option<Cow<'_, FollowsTable>> {
        let table = |name: &str, owner: &str, user: &str| {
            let [name, follower, followed] = [name, owner, user].map(str::to_owned);
            Cow::Owned(FollowsTable { name, follower, followed, visible: None })
        };
        match list {
            UserList::Follows => Some(Cow::Borrowed(&self.follows)),
            UserList::Mutes => {
                self.mutes.as_ref().map(|mutes| table(&mutes.name, &mutes.muter, &mutes.muted))
            }
            UserList::Blocks => self
                .blocks
                .as_ref()
                .map(|blocks| table(&blocks.name, &blocks.blocker, &blocks.blocked)),
        }
    }

    /// The tables of all lists that the shards have.
    pub(crate) fn lists(&self) -> impl Iterator<Item = (UserList, Cow<'_, FollowsTable>)> {
        UserList::ALL.into_iter().filter_map(|list| Some((list, self.list(list)?)))
    }

    /// Checks the conditions of both tables. The error names the key.
    pub(crate) fn check(&self) -> Result<(), String> {
        let (follows, posts) = (&self.follows, &self.posts);
        let of_follows = [&follows.follower, &follows.followed];
        check_conditions(follows.conditions(), &of_follows)
            .map_err(|error| format!("tables.follows.visible: {error}"))?;
        let mut of_posts = vec![&posts.id, &posts.author, &posts.content, &posts.time];
        of_posts.extend(posts.optional_columns());
        check_roles(&of_posts).map_err(|error| format!("tables.posts: {error}"))?;
        check_conditions(posts.conditions(), &of_posts)
            .map_err(|error| format!("tables.posts.visible: {error}"))
    }
}

/// Checks that each column has one role. The error names the column.
fn check_roles(columns: &[&String]) -> Result<(), String> {
    for (index, column) in columns.iter().enumerate() {
        if columns[..index].iter().any(|other| other.eq_ignore_ascii_case(column)) {
            return Err(format!("column `{column}` has two roles; name another column"));
        }
    }
    Ok(())
}

fn check_conditions(conditions: &[Condition], mapped: &[&String]) -> Result<(), String> {
    if conditions.len() > CONDITIONS_MAX {
        return Err(format!("at most {CONDITIONS_MAX} conditions are allowed"));
    }
    for (index, condition) in conditions.iter().enumerate() {
        let column = &condition.column;
        let same = |other: &String| other.eq_ignore_ascii_case(column);
        if mapped.iter().any(|other| same(other)) {
            return Err(format!("column `{column}` already has another role in this table"));
        }
        if conditions[..index].iter().any(|other| same(&other.column)) {
            return Err(format!("column `{column}` has two conditions; keep one of them"));
        }
        condition.check().map_err(|error| format!("column `{column}`: {error}"))?;
    }
    if conditions.iter().filter(|condition| condition.hidden.is_some()).count() > 1 {
        return Err("only one condition may have `hidden`, the value that a removal sets".into());
    }
    Ok(())
}

impl FollowsTable {
    /// The conditions of a row that is a follow.
    pub fn conditions(&self) -> &[Condition] {
        self.visible.as_deref().unwrap_or_default()
    }

    /// How an unfollow removes a row. A flag is never reversed without `hidden`: a follow that is
    /// no longer accepted could be taken for a request.
    pub(crate) fn removal(&self) -> Removal<'_> {
        match marked_removal(self.conditions()) {
            Some(removal) => removal,
            None => Removal::Delete,
        }
    }
}

impl PostsTable {
    /// Unit and zone of the time column.
    pub fn times(&self) -> PostTimes {
        PostTimes { unit: self.unit, zone: self.zone.clone() }
    }

    /// The optional columns that the table has: those of references, then that of edits.
    pub(crate) fn optional_columns(&self) -> impl Iterator<Item = &String> {
        self.references.iter().flat_map(ReferenceColumns::columns).chain(&self.edited_at)
    }

    /// The conditions of a visible post.
    pub fn conditions(&self) -> &[Condition] {
        self.visible.as_deref().unwrap_or_default()
    }

    /// How a delete removes a post. A flag that is the only condition is reversed. Otherwise a
    /// table with conditions must state it: rows of a team that hides posts are not deleted.
    pub(crate) fn removal(&self) -> Removal<'_> {
        let conditions = self.conditions();
        match (marked_removal(conditions), conditions) {
            (Some(removal), _) => removal,
            (None, []) => Removal::Delete,
            (None, [only]) => match only.value {
                Mark::Number(flag @ (0 | 1)) => Removal::Hide(only, Mark::Number(1 - flag)),
                _ => Removal::Unknown,
            },
            (None, _) => Removal::Unknown,
        }
    }
}

/// How a row is removed according to `hidden`, or to the only condition with the value NULL, which
/// gets the time. `None` if there is neither.
fn marked_removal(conditions: &[Condition]) -> Option<Removal<'_>> {
    let marked =
        conditions.iter().find_map(|condition| Some((condition, condition.hidden.as_ref()?)));
    match marked {
        Some((_, Mark::Delete)) => return Some(Removal::Delete),
        Some((condition, hidden)) => return Some(Removal::Hide(condition, hidden.clone())),
        None => {}
    }
    let mut nulls = conditions.iter().filter(|condition| condition.value == Mark::Null);
    match (nulls.next(), nulls.next()) {
        (Some(condition), None) => Some(Removal::Hide(condition, Mark::Now)),
        (Some(_), Some(_)) => Some(Removal::Unknown),
        (None, _) => None,
    }
}

impl Condition {
    /// Whether the column states what an id of the row refers to, as in `followable_type = 'User'`.
    /// The ids of other types may be equal to ids of users.
    pub(crate) fn is_type(&self) -> bool {
        let name = self.column.to_lowercase();
        matches!(self.value, Mark::Text(_)) && name.ends_with("type")
    }

    /// Checks that a row can meet the condition, and that a hidden row does not.
    fn check(&self) -> Result<(), &'static str> {
        let stays_visible = match (&self.value, &self.hidden) {
            (Mark::Now | Mark::Delete, _) => {
                return Err("value cannot be NOW or DELETE: no row would ever be visible");
            }
            (_, Some(Mark::NotNull)) => return Err("hidden must be one value, not NOT NULL"),
            (_, None | Some(Mark::Delete)) => false,
            (Mark::NotNull, Some(hidden)) => *hidden != Mark::Null,
            (Mark::Text(value), Some(Mark::Text(hidden))) => value.eq_ignore_ascii_case(hidden),
            (value, Some(hidden)) => value == hidden,
        };
        if stays_visible {
            return Err("value and hidden are the same: a removed row would stay visible");
        }
        Ok(())
    }
}

/// The conditions as TOML, for a configuration.
pub fn conditions_text(conditions: &[Condition]) -> String {
    let conditions: Vec<String> = conditions.iter().map(Condition::to_string).collect();
    format!("[{}]", conditions.join(", "))
}

/// The condition as TOML.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { column, value, hidden } = self;
        write!(f, "{{ column = {}, value = {value}", quoted(column))?;
        if let Some(hidden) = hidden {
            write!(f, ", hidden = {hidden}")?;
        }
        f.write_str(" }")
    }
}

/// The mark as TOML.
impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("\"NULL\""),
            Self::NotNull => f.write_str("\"NOT NULL\""),
            Self::Now => f.write_str("\"NOW\""),
            Self::Delete => f.write_str("\"DELETE\""),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(&quoted(text)),
        }
    }
}

/// A text as TOML, which has the escapes of JSON.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl Default for FollowsTable {
    fn default() -> Self {
        Self {
            name: "followers".into(),
            follower: "follower_user_id".into(),
            followed: "followed_user_id".into(),
            visible: None,
        }
    }
}

impl Default for PostsTable {
    fn default() -> Self {
        Self {
            name: "tweets".into(),
            id: "tweet_id".into(),
            author: "user_id".into(),
            content: "content".into(),
            time: "timestamp".into(),
            unit: TimeUnit::Milliseconds,
            zone: Zone::default(),
            references: None,
            edited_at: None,
            visible: None,
        }
    }
}

impl Default for MutesTable {
    fn default() -> Self {
        Self { name: "mutes".into(), muter: "muter_user_id".into(), muted: "muted_user_id".into() }
    }
}

impl Default for BlocksTable {
    fn default() -> Self {
        Self {
            name: "blocks".into(),
            blocker: "blocker_user_id".into(),
            blocked: "blocked_user_id".into(),
        }
    }
}

impl Default for ReadMarkersTable {
    fn default() -> Self {
        Self { name: "read_markers".into() }
    }
}

impl UsersTable {
    /// The columns that are read.
    pub(crate) fn columns(&self) -> impl Iterator<Item = &String> {
        [&self.id, &self.handle].into_iter().chain(&self.display_name)
    }
}

impl Default for UsersTable {
    fn default() -> Self {
        let [name, id, handle] = ["users", "user_id", "handle"].map(str::to_owned);
        Self { name, id, handle, display_name: None }
    }
}

impl<'de> Deserialize<'de> for Mark {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Truth(bool),
            Number(i64),
            Text(String),
        }
        let wrong = |_| serde::de::Error::custom("not a number, a text, true or false");
        Ok(match Written::deserialize(deserializer).map_err(wrong)? {
            Written::Truth(truth) => Self::Number(truth.into()),
            Written::Number(number) => Self::Number(number),
            Written::Text(text) if text.eq_ignore_ascii_case("null") => Self::Null,
            Written::Text(text) if text.eq_ignore_ascii_case("now") => Self::Now,
            Written::Text(text) if text.eq_ignore_ascii_case("not null") => Self::NotNull,
            // In capital letters only: `delete` is a usual label of an ENUM.
            Written::Text(text) if text == "DELETE" => Self::Delete,
            Written::Text(text) => Self::Text(text),
        })
    }
}

/// One condition, or a list of them.
fn one_or_many<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<Condition>>, D::Error> {
    struct OneOrMany;

    impl<'de> Visitor<'de> for OneOrMany {
        type Value = Vec<Condition>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(
                "a list of conditions such as [{ column = \"deleted_at\", value = \"NULL\" }]",
            )
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            Ok(vec![Condition::deserialize(MapAccessDeserializer::new(map))?])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(list))
        }
    }

    d.deserialize_any(OneOrMany).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn posts(visible: &str) -> Result<PostsTable, String> {
        toml::from_str(visible).map_err(|error: toml::de::Error| error.message().to_owned())
    }

    #[test]
    fn conditions_are_read_and_written_in_one_notation() {
        for (written, printed) in [
            ("{ column = 'a', value = true }", "[{ column = \"a\", value = 1 }]"),
            ("[]", "[]"),
            (
                "[{ column = 'a', value = 'null', hidden = 'now' }, { column = 'b', value = 'it\"s' }]",
                "[{ column = \"a\", value = \"NULL\", hidden = \"NOW\" }, { column = \"b\", value = \"it\\\"s\" }]",
            ),
            (
                "[{ column = 'a', value = 'NOT NULL', hidden = 'DELETE' }]",
                "[{ column = \"a\", value = \"NOT NULL\", hidden = \"DELETE\" }]",
            ),
        ] {
            let table = posts(&format!("visible = {written}")).unwrap();
            let text = conditions_text(table.conditions());
            assert_eq!(text, printed);
            let again = posts(&format!("visible = {text}")).unwrap();
            assert_eq!(again, table);
        }
        assert_eq!(posts("").unwrap().visible, None);
        let error = posts("visible = [{ column = 'a', valu = 1 }]").unwrap_err();
        assert!(error.contains("unknown field `valu`"), "{error}");
        assert!(posts("visible = 'a'").unwrap_err().contains("a list of conditions"));
        assert!(posts("visible = [{ column = 'a', value = 1.5 }]").is_err());
    }

    #[test]
    fn conditions_that_cannot_work_are_refused() {
        for (visible, expected) in [
            ("[{ column = 'a', value = 'now' }]", "no row would ever be visible"),
            ("[{ column = 'a', value = 'DELETE' }]", "no row would ever be visible"),
            ("[{ column = 'a', value = 'x', hidden = 'X' }]", "would stay visible"),
            ("[{ column = 'a', value = 'NOT NULL', hidden = 1 }]", "would stay visible"),
            ("[{ column = 'a', value = 1, hidden = 'NOT NULL' }]", "must be one value"),
            ("[{ column = 'a', value = 1 }, { column = 'A', value = 2 }]", "two conditions"),
            ("[{ column = 'Content', value = 'x' }]", "another role"),
            (
                "[{ column = 'a', value = 1, hidden = 2 }, { column = 'b', value = 1, hidden = 2 }]",
                "only one condition may have `hidden`",
            ),
        ] {
            let posts = posts(&format!("visible = {visible}")).unwrap();
            let error = Tables { posts, ..Tables::default() }.check().unwrap_err();
            assert!(error.starts_with("tables.posts.visible: "), "{error}");
            assert!(error.contains(expected), "{visible}: {error}");
        }
        for edited_at in ["Content", "timestamp", "reply_to_tweet_id"] {
            let posts: PostsTable =
                toml::from_str(&format!("edited_at = '{edited_at}'\n[references]")).unwrap();
            let error = Tables { posts, ..Tables::default() }.check().unwrap_err();
            assert!(error.contains("two roles"), "{error}");
        }
        let many: Vec<String> =
            (0..9).map(|n| format!("{{ column = 'c{n}', value = 1 }}")).collect();
        let posts = posts(&format!("visible = [{}]", many.join(", "))).unwrap();
        assert!(Tables { posts, ..Tables::default() }.check().is_err());
    }

    #[test]
    fn a_removal_hides_only_as_configured() {
        let null = "{ column = 'gone', value = 'NULL' }";
        let flag = "{ column = 'ok', value = 1 }";
        for (visible, of_post, of_follow) in [
            ("[]".to_owned(), "delete", "delete"),
            (format!("[{null}]"), "gone = \"NOW\"", "gone = \"NOW\""),
            (format!("[{flag}]"), "ok = 0", "delete"),
            (format!("[{flag}, {null}]"), "gone = \"NOW\"", "gone = \"NOW\""),
            (format!("[{null}, {{ column = 'b', value = 'NULL' }}]"), "unknown", "unknown"),
            (format!("[{flag}, {{ column = 'b', value = 0 }}]"), "unknown", "delete"),
            ("[{ column = 'b', value = 'x' }]".into(), "unknown", "delete"),
            ("[{ column = 'b', value = 'x', hidden = 'DELETE' }]".into(), "delete", "delete"),
            ("[{ column = 'b', value = 'x', hidden = 'y' }]".into(), "b = \"y\"", "b = \"y\""),
            (format!("[{null}, {{ column = 'b', value = 1, hidden = 0 }}]"), "b = 0", "b = 0"),
        ] {
            let text = |removal: Removal<'_>| match removal {
                Removal::Delete => "delete".to_owned(),
                Removal::Unknown => "unknown".to_owned(),
                Removal::Hide(condition, mark) => format!("{} = {mark}", condition.column),
            };
            let posts = posts(&format!("visible = {visible}")).unwrap();
            let follows: FollowsTable = toml::from_str(&format!("visible = {visible}")).unwrap();
            assert_eq!(text(posts.removal()), of_post, "{visible}");
            assert_eq!(text(follows.removal()), of_follow, "{visible}");
        }
    }
}
