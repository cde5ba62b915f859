-- The tables of a shard.

CREATE TABLE `social`.`followers` (
    follower_user_id BIGINT UNSIGNED NOT NULL,
    followed_user_id BIGINT UNSIGNED NOT NULL,
    PRIMARY KEY (follower_user_id, followed_user_id),
    KEY followers_by_followed (followed_user_id, follower_user_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE `social`.`tweets` (
    tweet_id BIGINT UNSIGNED NOT NULL,
    user_id BIGINT UNSIGNED NOT NULL,
    content TEXT NOT NULL,
    timestamp BIGINT NOT NULL,
    PRIMARY KEY (user_id, timestamp, tweet_id),
    UNIQUE KEY tweets_by_id (tweet_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- The image granted all privileges on the database to this account. Serving needs only SELECT.
-- `tributary import` also needs INSERT and UPDATE.

REVOKE ALL PRIVILEGES, GRANT OPTION FROM 'tributary'@'%';

GRANT SELECT, INSERT, UPDATE ON `social`.* TO 'tributary'@'%';

-- Memory needs these privileges to follow the binary log and to query its end. They can be granted
-- only for the whole server.

GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO 'tributary'@'%';
