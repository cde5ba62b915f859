//! The tables: their names, their columns, and the statements that make them.

/// All tables there are, in the order they are made.
pub(super) const OUR_TABLES: [&str; 3] = ["followers", "tweets", WRITES_TABLE];
/// The table that is ours alone, beside any team's.
pub(super) const WRITES_TABLE: &str = "tributary_writes";

/// The tables of an embedded shard, as in [`mysql_tables`].
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
";

/// The tables of a shard in MySQL or MariaDB, as we would make them. Posts are clustered by author
/// and time, so that an author's newest posts lie side by side.
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

/// Our own table beside them: which post was stored under which idempotency key. Keys are compared
/// byte by byte.
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

/// An identifier in backticks, whatever it contains.
pub(super) fn quoted(identifier: &str) -> String {
    format!("`{}`", identifier.replace('`', "``"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_cannot_break_out_of_their_quotes() {
        assert_eq!(quoted("social_0"), "`social_0`");
        assert_eq!(quoted("a`; DROP TABLE b; -- "), "`a``; DROP TABLE b; -- `");
    }
}
