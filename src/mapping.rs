//! How a team's tables are called and what their columns hold: `[tables]` in the configuration.
//! Existing tables are served as they are. Pure.

use serde::Deserialize;

use crate::moment::{PostTimes, TimeUnit, Zone};

/// The tables of every shard on servers.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Tables {
    /// Who follows whom.
    pub follows: FollowsTable,
    /// Who posted what, when.
    pub posts: PostsTable,
    /// How users are called, if the shards know it.
    pub users: Option<UsersTable>,
}

/// `[tables.follows]`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct FollowsTable {
    /// The table.
    pub name: String,
    /// The column of who reads.
    pub follower: String,
    /// The column of who is read.
    pub followed: String,
}

/// `[tables.posts]`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct PostsTable {
    /// The table.
    pub name: String,
    /// The column of the post's id.
    pub id: String,
    /// The column of the author's id.
    pub author: String,
    /// The column of the text.
    pub content: String,
    /// The column of the time.
    pub time: String,
    /// What the time column holds.
    pub unit: TimeUnit,
    /// Where the dates of a `DATETIME` column belong.
    pub zone: Zone,
    /// Which posts may be seen, where posts are deleted by marking them.
    pub visible: Option<Visible>,
}

/// `[tables.users]`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct UsersTable {
    /// The table, on the shard that owns the user.
    pub name: String,
    /// The column of the user's id.
    pub id: String,
    /// The column of the name that people know the user by.
    pub handle: String,
}

/// A post may be seen when `column` holds `value`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Visible {
    /// The column.
    pub column: String,
    /// What it holds for a post that may be seen.
    pub value: Mark,
    /// What it is set to when a post is deleted; needed where it does not follow from `value`.
    #[serde(default)]
    pub hidden: Option<Mark>,
}

/// What a column holds to mark a post: a number, a text, or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// SQL's NULL; written as the text `NULL`.
    Null,
    /// The time of the change; written as the text `NOW`.
    Now,
    /// A number, or a truth as 1 or 0.
    Number(i64),
    /// Any other text.
    Text(String),
}

impl PostsTable {
    /// The time column.
    pub fn times(&self) -> PostTimes {
        PostTimes { unit: self.unit, zone: self.zone.clone() }
    }
}

impl Visible {
    /// Marks that can be told apart, the visible one fixed.
    pub fn check(&self) -> Result<(), &'static str> {
        match (&self.value, self.hidden()) {
            (Mark::Now, _) => Err("value cannot be NOW: no post would ever be visible"),
            (value, Some(hidden)) if *value == hidden => {
                Err("value and hidden are the same: a deleted post would stay visible")
            }
            _ => Ok(()),
        }
    }

    /// What the column is set to when a post is deleted, if that is known.
    pub fn hidden(&self) -> Option<Mark> {
        match (&self.hidden, &self.value) {
            (Some(hidden), _) => Some(hidden.clone()),
            (None, Mark::Null) => Some(Mark::Now),
            (None, Mark::Number(0)) => Some(Mark::Number(1)),
            (None, Mark::Number(1)) => Some(Mark::Number(0)),
            (None, _) => None,
        }
    }
}

impl Default for FollowsTable {
    fn default() -> Self {
        Self {
            name: "followers".into(),
            follower: "follower_user_id".into(),
            followed: "followed_user_id".into(),
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
            visible: None,
        }
    }
}

impl Default for UsersTable {
    fn default() -> Self {
        Self { name: "users".into(), id: "user_id".into(), handle: "handle".into() }
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
            Written::Text(text) => Self::Text(text),
        })
    }
}
