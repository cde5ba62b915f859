//! The tables of a shard: their names, their columns, and the statements that create them.

use crate::mapping::{EDITED_AT, FollowsTable, PostsTable, ReferenceColumns};
use crate::model::REFERENCE_COLUMNS;

/// Our tables in a shard, in the order of creation.
pub(super) const OUR_TABLES: [&str; 6] =
    ["followers", "tweets", WRITES_TABLE, "mutes", "blocks", "read_markers"];
/// The table of idempotency keys. It is ours even if all other tables are adopted.
pub(super) const WRITES_TABLE: &str = "tributary_writes";
/// Longest handle that is read from a table of a team, in characters. The rest is cut off.
pub(super) const HANDLE_CHARS_MAX: usize = 255;
/// Longest display name, in characters. The rest is cut off.
pub(super) const DISPLAY_NAME_CHARS_MAX: usize = 100;
/// The table of handles and names in an embedded shard. On servers it is a table of the team.
pub(super) const SQLITE_USERS: &str = "users";
/// The further tables of an embedded shard: its log, and the identity of this log.
pub(super) const SQLITE_LOG_TABLES: [&str; 2] = ["tributary_log", "tributary_history"];

/// The tables of an embedded shard. The columns are those of [`mysql_tables`].
pub(super) const SQLITE_SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS followers (
    follower_user_id INTEGER NOT NULL,
    followed_user_id INTEGER NOT NULL,
    PRIMARY KEY (follower_user_id, followed_user_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS followers_by_followed ON followers (followed_user_id, follower_user_id);
CREATE TABLE IF NOT EXISTS tweets (
    tweet_id INTEGER NOT NULL,
    user_id INTEGER NOT NULL,
    content TEXT NOT NULL,
    timestamp INTEGER NOT NULL,
    reply_to_user_id INTEGER,
    reply_to_tweet_id INTEGER,
    repost_of_user_id INTEGER,
    repost_of_tweet_id INTEGER,
    edited_at INTEGER,
    PRIMARY KEY (user_id, timestamp, tweet_id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS tweets_by_id ON tweets (tweet_id);
CREATE TABLE IF NOT EXISTS tributary_writes (
    author INTEGER NOT NULL,
    idempotency_key TEXT NOT NULL,
    content_sha256 BLOB NOT NULL,
    post_id INTEGER NOT NULL,
    post_time INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (author, idempotency_key)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tributary_writes_by_age ON tributary_writes (created_ms);
CREATE TABLE IF NOT EXISTS mutes (
    muter_user_id INTEGER NOT NULL,
    muted_user_id INTEGER NOT NULL,
    PRIMARY KEY (muter_user_id, muted_user_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS mutes_by_muted ON mutes (muted_user_id, muter_user_id);
CREATE TABLE IF NOT EXISTS blocks (
    blocker_user_id INTEGER NOT NULL,
    blocked_user_id INTEGER NOT NULL,
    PRIMARY KEY (blocker_user_id, blocked_user_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS blocks_by_blocked ON blocks (blocked_user_id, blocker_user_id);
CREATE TABLE IF NOT EXISTS users (
    user_id INTEGER PRIMARY KEY,
    handle TEXT NOT NULL COLLATE NOCASE CHECK (length(handle) BETWEEN 1 AND 64),
    name TEXT CHECK (length(name) <= 100)
) STRICT;
CREATE INDEX IF NOT EXISTS users_by_handle ON users (handle);
CREATE TABLE IF NOT EXISTS read_markers (
    user_id INTEGER NOT NULL PRIMARY KEY,
    post_time INTEGER NOT NULL,
    post_id INTEGER,
    post_user_id INTEGER,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS read_markers_by_author ON read_markers (post_user_id);
";

/// The columns of the references of a post, in the order of `References::ids`, and that of edits.
/// The table of an older release does not have them.
pub(super) const SQLITE_POST_COLUMNS: [&str; REFERENCE_COLUMNS + 1] =
    ["reply_to_user_id", "reply_to_tweet_id", "repost_of_user_id", "repost_of_tweet_id", EDITED_AT];

/// The column of display names, which the table of an older release does not have.
pub(super) const SQLITE_NAME_COLUMN: &str = "
ALTER TABLE users ADD COLUMN name TEXT CHECK (length(name) <= 100)";

/// The indexes for counting and erasing references. They have no rows of other posts.
pub(super) const SQLITE_REFERENCE_INDEXES: &str = "
CREATE INDEX IF NOT EXISTS tweets_by_reply ON tweets (reply_to_user_id, reply_to_tweet_id)
    WHERE reply_to_user_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS tweets_by_repost ON tweets (repost_of_user_id, repost_of_tweet_id)
    WHERE repost_of_user_id IS NOT NULL;
";

/// The log of an embedded shard. Triggers add rows for every change, in commit order, whatever
/// program makes it. The kinds are:
/// - 1: a post was stored; 2: a post may be gone; 5: a post has another text.
/// - 3: a follow was stored; 4: a follow may be gone.
/// - 6: a mute was stored; 7: a mute may be gone. 8: a block was stored; 9: a block may be gone.
/// - 10: the handle or the name of a user may have changed. The row names the user twice.
///
/// A row replaced by `INSERT OR REPLACE` or `UPDATE OR REPLACE` fires no delete trigger. So a
/// `BEFORE` trigger logs the post that already has the new id. A follow, mute or block can only be
/// replaced by an equal one, so these need no such trigger. An older release had
/// `tributary_post_changed`.
pub(super) const SQLITE_LOG: &str = "
CREATE TABLE IF NOT EXISTS tributary_log (
    seq INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL,
    user_id INTEGER NOT NULL,
    other_id INTEGER NOT NULL,
    timestamp INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS tributary_history (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    history INTEGER NOT NULL
) STRICT;
CREATE TRIGGER IF NOT EXISTS tributary_post_gives_way BEFORE INSERT ON tweets BEGIN
    INSERT INTO tributary_log (kind, user_id, other_id, timestamp)
    SELECT 2, user_id, tweet_id, timestamp FROM tweets WHERE tweet_id = NEW.tweet_id;
END;
CREATE TRIGGER IF NOT EXISTS tributary_post_gives_way_to_update
BEFORE UPDATE OF tweet_id ON tweets WHEN NEW.tweet_id <> OLD.tweet_id BEGIN
    INSERT INTO tributary_log (kind, user_id, other_id, timestamp)
    SELECT 2, user_id, tweet_id, timestamp FROM tweets WHERE tweet_id = NEW.tweet_id;
END;
CREATE TRIGGER IF NOT EXISTS tributary_post_stored AFTER INSERT ON tweets BEGIN
    INSERT INTO tributary_log (kind, user_id, other_id, timestamp)
    VALUES (1, NEW.user_id, NEW.tweet_id, NEW.timestamp);
END;
DROP TRIGGER IF EXISTS tributary_post_changed;
CREATE TRIGGER IF NOT EXISTS tributary_post_edited AFTER UPDATE ON tweets
WHEN (OLD.user_id, OLD.timestamp, OLD.tweet_id) = (NEW.user_id, NEW.timestamp, NEW.tweet_id) BEGIN
    INSERT INTO tributary_log (kind, user_id, other_id, timestamp)
    VALUES (5, NEW.user_id, NEW.tweet_id, NEW.timestamp);
END;
CREATE TRIGGER IF NOT EXISTS tributary_post_moved AFTER UPDATE ON tweets
WHEN (OLD.user_id, OLD.timestamp, OLD.tweet_id) <> (NEW.user_id, NEW.timestamp, NEW.tweet_id) BEGIN
    INSERT INTO tributary_log (kind, user_id, other_id, timestamp)
    VALUES (2, OLD.user_id, OLD.tweet_id, OLD.timestamp),
           (1, NEW.user_id, NEW.tweet_id, NEW.timestamp);
END;
CREATE TRIGGER IF NOT EXISTS tributary_post_deleted AFTER DELETE ON tweets BEGIN
    INSERT INTO tributary_log (kind, user_id, other_id, timestamp)
    VALUES (2, OLD.user_id, OLD.tweet_id, OLD.timestamp);
END;
CREATE TRIGGER IF NOT EXISTS tributary_follow_stored AFTER INSERT ON followers BEGIN
    INSERT INTO tributary_log (kind, user_id, other_id, timestamp)
    VALUES (3, NEW.follower_user_id, NEW.followed_user_id, 0);
END;
CREATE TRIGGER IF NOT EXISTS tributary_follow_changed AFTER UPDATE ON followers BEGIN
    INSERT INTO tributary_log (kind, user_id, other_id, timestamp)
    VALUES (4, OLD.follower_user_id, OLD.followed_user_id, 0),
           (3, NEW.follower_user_id, NEW.followed_user_id, 0);
END;
CREATE TRIGGER IF NOT EXISTS tributary_follow_deleted AFTER DELETE ON followers BEGIN
    INSERT INTO tributary_log (kind, user_id, other_id, timestamp)
    VALUES (4, OLD.follower_user_id, OLD.followed_user_id, 0);
END;
CREATE TRIGGER IF NOT EXISTS tributary_mute_stored AFTER INSERT ON mutes BEGIN
    INSERT INTO tributary_log (kind, user_id, other_id, timestamp)
    VALUES (6, NEW.muter_user_id, NEW.muted_user_id, 0);
END;
CREATE TRIGGER IF NOT EXISTS tributary_mute_changed AFTER UPDATE ON mutes BEGIN
    INSERT INTO tributary_log (kind, user_id, other_id, timestamp)
    VALUES (7, OLD.muter_user_id, OLD.muted_user_id, 0),
           (6, NEW.muter_user_id, NEW.muted_user_id, 0);
END;
CREATE TRIGGER IF NOT EXISTS tributary_mute_deleted AFTER DELETE ON mutes BEGIN
    INSERT INTO tributary_log (kind, user_id, other_id, timestamp)
    VALUES (7, OLD.muter_user_id, OLD.muted_user_id, 0);
END;
CREATE TRIGGER IF NOT EXISTS tributary_block_stored AFTER INSERT ON blocks BEGIN
    INSERT INTO tributary_log (kind, user_id, other_id, timestamp)
    VALUES (8, NEW.blocker_user_id, NEW.blocked_user_id, 0);
END;
CREATE TRIGGER IF NOT EXISTS tributary_block_changed AFTER UPDATE ON blocks BEGIN
    INSERT INTO tributary_log (kind, user_id, other_id, timestamp)
    VALUES (9, OLD.blocker_user_id, OLD.blocked_user_id, 0),
           (8, NEW.blocker_user_id, NEW.blocked_user_id, 0);
END;
CREATE TRIGGER IF NOT EXISTS tributary_block_deleted AFTER DELETE ON blocks BEGIN
    INSERT INTO tributary_log (kind, user_id, other_id, timestamp)
    VALUES (9, OLD.blocker_user_id, OLD.blocked_user_id, 0);
END;
CREATE TRIGGER IF NOT EXISTS tributary_user_stored AFTER INSERT ON users BEGIN
    INSERT INTO tributary_log (kind, user_id, other_id, timestamp)
    VALUES (10, NEW.user_id, NEW.user_id, 0);
END;
CREATE TRIGGER IF NOT EXISTS tributary_user_changed AFTER UPDATE ON users BEGIN
    INSERT INTO tributary_log (kind, user_id, other_id, timestamp)
    VALUES (10, OLD.user_id, OLD.user_id, 0), (10, NEW.user_id, NEW.user_id, 0);
END;
CREATE TRIGGER IF NOT EXISTS tributary_user_deleted AFTER DELETE ON users BEGIN
    INSERT INTO tributary_log (kind, user_id, other_id, timestamp)
    VALUES (10, OLD.user_id, OLD.user_id, 0);
END;
";

/// The statement that creates the table of a list in a MySQL or MariaDB database. An owner's users
/// are adjacent, and each user is on the list once.
pub(crate) fn mysql_list_table(database: Option<&str>, table: &FollowsTable) -> String {
    let [name, owner, user] = [&table.name, &table.follower, &table.followed].map(|n| quoted(n));
    let database = database.map_or(String::new(), |database| quoted(database) + ".");
    format!(
        "CREATE TABLE {database}{name} (
    {owner} BIGINT UNSIGNED NOT NULL,
    {user} BIGINT UNSIGNED NOT NULL,
    PRIMARY KEY ({owner}, {user}),
    KEY ({user}, {owner})
) ENGINE=InnoDB"
    )
}

/// The columns of the table of read markers.
pub(crate) const MARKER_COLUMNS: [&str; 5] =
    ["user_id", "post_time", "post_id", "post_user_id", "updated_at"];

/// The statement that creates the table of read markers in a MySQL or MariaDB database.
pub(crate) fn mysql_markers_table(database: Option<&str>, name: &str) -> String {
    let table = table_in(database, name);
    format!(
        "CREATE TABLE {table} (
    user_id BIGINT UNSIGNED NOT NULL PRIMARY KEY,
    post_time BIGINT NOT NULL,
    post_id BIGINT UNSIGNED NULL,
    post_user_id BIGINT UNSIGNED NULL,
    updated_at BIGINT NOT NULL,
    KEY (post_user_id)
) ENGINE=InnoDB"
    )
}

/// The parts of references that a posts table has.
#[derive(Debug, Default)]
pub(crate) struct PresentReferences {
    /// The columns, in the order of `References::ids`.
    pub(crate) columns: [bool; REFERENCE_COLUMNS],
    /// The indexes for counting and erasing replies, and reposts.
    pub(crate) indexes: [bool; 2],
}

/// The statement that adds the missing columns and indexes of references to a posts table. `None`
/// if it has them all.
pub(crate) fn mysql_references(
    database: Option<&str>,
    posts: &PostsTable,
    references: &ReferenceColumns,
    present: &PresentReferences,
) -> Option<String> {
    let table = table_in(database, &posts.name);
    let columns = references.columns().map(|column| quoted(column));
    let add_columns =
        columns.iter().map(|column| format!("ADD COLUMN {column} BIGINT UNSIGNED NULL"));
    let names = ["tributary_replies", "tributary_reposts"].into_iter();
    let add_indexes = names.zip(columns.chunks(2));
    let add_indexes =
        add_indexes.map(|(name, columns)| format!("ADD KEY {name} ({})", columns.join(", ")));
    let present = present.columns.iter().chain(&present.indexes);
    let parts = add_columns.chain(add_indexes).zip(present);
    let missing: Vec<String> =
        parts.filter(|(_, is_present)| !**is_present).map(|(part, _)| part).collect();
    (!missing.is_empty()).then(|| format!("ALTER TABLE {table} {}", missing.join(", ")))
}

/// The statement that adds the column of edits to a posts table.
pub(crate) fn mysql_edits(database: Option<&str>, posts: &PostsTable, column: &str) -> String {
    let (table, column) = (table_in(database, &posts.name), quoted(column));
    format!("ALTER TABLE {table} ADD COLUMN {column} BIGINT UNSIGNED NULL")
}

/// The quoted name of a table, after that of its database.
fn table_in(database: Option<&str>, table: &str) -> String {
    database.map_or(String::new(), |database| quoted(database) + ".") + &quoted(table)
}

/// The statements that create our follows and posts tables in a MySQL or MariaDB database. Posts
/// are clustered by author and time, so an author's newest posts are adjacent.
pub fn mysql_tables(database: &str) -> [String; 2] {
    let database = quoted(database);
    [
        format!(
            "CREATE TABLE {database}.`followers` (
    follower_user_id BIGINT UNSIGNED NOT NULL,
    followed_user_id BIGINT UNSIGNED NOT NULL,
    PRIMARY KEY (follower_user_id, followed_user_id),
    KEY followers_by_followed (followed_user_id, follower_user_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin"
        ),
        format!(
            "CREATE TABLE {database}.`tweets` (
    tweet_id BIGINT UNSIGNED NOT NULL,
    user_id BIGINT UNSIGNED NOT NULL,
    content TEXT NOT NULL,
    timestamp BIGINT NOT NULL,
    PRIMARY KEY (user_id, timestamp, tweet_id),
    UNIQUE KEY tweets_by_id (tweet_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin"
        ),
    ]
}

/// The statement that creates the table of idempotency keys: which key stored which post. Keys are
/// compared byte by byte.
pub fn mysql_writes_table(database: &str) -> String {
    let database = quoted(database);
    format!(
        "CREATE TABLE {database}.`tributary_writes` (
    author BIGINT UNSIGNED NOT NULL,
    idempotency_key VARBINARY(255) NOT NULL,
    content_sha256 BINARY(32) NOT NULL,
    post_id BIGINT UNSIGNED NOT NULL,
    post_time BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (author, idempotency_key),
    KEY tributary_writes_by_age (created_ms)
) ENGINE=InnoDB"
    )
}

/// An SQL identifier in backticks. Backticks inside it are doubled.
pub(super) fn quoted(identifier: &str) -> String {
    format!("`{}`", identifier.replace('`', "``"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_missing_parts_of_references_are_added() {
        let (posts, references) = (PostsTable::default(), ReferenceColumns::default());
        let add = |columns, indexes| {
            let present = PresentReferences { columns, indexes };
            mysql_references(None, &posts, &references, &present)
        };
        let all = add([false; 4], [false; 2]).unwrap();
        assert_eq!((all.matches("ADD COLUMN").count(), all.matches("ADD KEY").count()), (4, 2));
        let some = "ALTER TABLE `tweets` ADD COLUMN `reply_to_tweet_id` BIGINT UNSIGNED NULL, \
             ADD KEY tributary_reposts (`repost_of_user_id`, `repost_of_tweet_id`)";
        assert_eq!(add([true, false, true, true], [true, false]).as_deref(), Some(some));
        assert_eq!(add([true; 4], [true; 2]), None);
    }

    #[test]
    fn identifiers_cannot_break_out_of_their_quotes() {
        assert_eq!(quoted("social_0"), "`social_0`");
        assert_eq!(quoted("a`; DROP TABLE b; -- "), "`a``; DROP TABLE b; -- `");
    }
}
