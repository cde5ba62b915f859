//! Names and contents of a team's own tables: `[tables]` in the configuration. Existing tables are
//! served as they are. Pure.

use serde::Deserialize;

use crate::moment::{PostTimes, TimeUnit, Zone};

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
    /// Which posts are visible, if the team deletes posts by marking them.
    pub visible: Option<Visible>,
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
}

/// The rule for soft deletion: a post is visible if `column` holds `value`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Visible {
    /// The column.
    pub column: String,
    /// The value of a visible post.
    pub value: Mark,
    /// The value that a delete sets; required if it does not follow from `value`.
    #[serde(default)]
    pub hidden: Option<Mark>,
}

/// A value that marks a post as visible or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// SQL's NULL; written as the text `NULL`.
    Null,
    /// The time of the change; written as the text `NOW`.
    Now,
    /// A number, or true and false as 1 and 0.
    Number(i64),
    /// Any other text.
    Text(String),
}

impl PostsTable {
    /// Unit and zone of the time column.
    pub fn times(&self) -> PostTimes {
        PostTimes { unit: self.unit, zone: self.zone.clone() }
    }
}

impl Visible {
    /// Checks that visible and deleted posts differ, and that the visible value is constant.
    pub fn check(&self) -> Result<(), &'static str> {
        match (&self.value, self.hidden()) {
            (Mark::Now, _) => Err("value cannot be NOW: no post would ever be visible"),
            (value, Some(hidden)) if *value == hidden => {
                Err("value and hidden are the same: a deleted post would stay visible")
            }
            _ => Ok(()),
        }
    }

    /// The value that a delete sets, if it is configured or follows from `value`: `NOW` for
    /// `NULL`, and 1 and 0 for each other.
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
