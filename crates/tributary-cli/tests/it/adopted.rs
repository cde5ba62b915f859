//! Existing tables of teams, served unchanged: other names, time units and zones, posts deleted by
//! a mark in a column, users with handles.

use std::fs;
use std::sync::Arc;

use mysql_async::Value as Sql;
use mysql_async::prelude::Queryable;
use tributary::config::TimeUnit;
use tributary::internal::{CalendarTime, PostTimes};
use tributary::{Limit, PageRequest, Tributary};

use crate::support::database::{Database, mariadb, mysql};
use crate::support::fleet::{SHARDS, TestFleet};
use crate::support::http::TestServer;
use crate::support::world::{Oracle, Walk, World, check_walk};
use crate::support::{run, user_id};

/// The time column of a team's posts table: its SQL type, and the unit and zone in our
/// configuration.
pub(crate) struct Team {
    column: &'static str,
    pub(crate) unit: &'static str,
    zone: &'static str,
}

pub(crate) const TEAMS: [Team; 6] = [
    Team { column: "INT UNSIGNED NOT NULL", unit: "s", zone: "UTC" },
    Team { column: "BIGINT", unit: "us", zone: "UTC" },
    Team { column: "DATETIME NOT NULL", unit: "datetime", zone: "+02:00" },
    Team { column: "DATETIME(3)", unit: "datetime(3)", zone: "Europe/Berlin" },
    Team { column: "TIMESTAMP(6) NULL", unit: "datetime(6)", zone: "UTC" },
    Team { column: "TIMESTAMP NULL", unit: "datetime", zone: "UTC" },
];

impl Team {
    pub(crate) fn times(&self) -> PostTimes {
        PostTimes { unit: self.unit.parse().unwrap(), zone: self.zone.parse().unwrap() }
    }

    fn tables(&self) -> String {
        format!(
            "[tables.follows]\nname = \"my graph\"\nfollower = \"from\"\nfollowed = \"to\"\n\
             [tables.posts]\nname = \"status`es\"\nid = \"id\"\nauthor = \"account\"\n\
             content = \"select\"\ntime = \"when\"\nunit = \"{}\"\nzone = \"{}\"\n\
             visible = {{ column = \"state\", value = \"it's public\", hidden = \"gone\" }}\n\
             [tables.users]\nname = \"accounts\"\nid = \"id\"\nhandle = \"name\"\n\
             display_name = \"shown\"\n",
            self.unit, self.zone
        )
    }

    fn create(&self, database: &str) -> [String; 4] {
        let column = self.column;
        [
            format!("CREATE DATABASE {database}"),
            format!(
                "CREATE TABLE {database}.`my graph` (`from` INT NOT NULL, `to` INT NOT NULL, \
                 since DATETIME, PRIMARY KEY (`from`, `to`))"
            ),
            format!(
                "CREATE TABLE {database}.`status``es` (id BIGINT NOT NULL, account INT, \
                 `select` TEXT, `when` {column}, state VARCHAR(20) CHARACTER SET utf8mb4, \
                 PRIMARY KEY (id), KEY tail (account, `when`))"
            ),
            // No handle has a letter outside latin1, and an index of full texts has no order.
            format!(
                "CREATE TABLE {database}.accounts (ID INT PRIMARY KEY, \
                 Name VARCHAR(50) CHARACTER SET latin1, Shown TEXT, \
                 FULLTEXT KEY by_words (Name))"
            ),
        ]
    }
}

/// A stored time as an SQL literal of the column's type.
fn literal(unit: TimeUnit, stored: i64) -> String {
    match unit {
        TimeUnit::DateTime { .. } => {
            let CalendarTime { year, month, day, hour, minute, second, micros } =
                CalendarTime::unpacked(stored);
            Sql::Date(year, month, day, hour, minute, second, micros).as_sql(false)
        }
        _ => stored.to_string(),
    }
}

/// Posts at millisecond times around the end of summer time in Berlin, with ties, and with more
/// digits than some of the columns hold. 12 authors with 15 posts each, and 4 readers.
pub(crate) fn world(times: &PostTimes) -> World {
    let mut world = World::default();
    for author in 0..12 {
        (0..4).for_each(|reader| world.follow(reader, (author * (reader + 1)) % 12));
        for n in 0..15 {
            let n = i64::from(n);
            let ms =
                1_698_540_000_000 + (i64::try_from(author).unwrap() * 7 + n * 11) % 40 * 127_250;
            let stored = times.stored(ms);
            world.post(author, stored, author * 100 + n.unsigned_abs());
        }
    }
    world.follows.sort_unstable();
    world.follows.dedup();
    world
}

/// Creates the team's tables and fills them with the world, by plain SQL. Adds rows that must never
/// be shown: deleted posts, and posts with a negative id.
pub(crate) async fn adopt(servers: &[Arc<Database>], team: &Team, world: &World) -> TestFleet {
    let fleet = TestFleet::on(servers);
    let file = fleet.config_file.clone().unwrap();
    let config = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{config}\n{}", team.tables())).unwrap();
    let unit = team.times().unit;
    for (shard, (server, database)) in (0u64..).zip(&fleet.databases) {
        // An empty SQL mode allows zero dates, as old servers did.
        let mut statements = vec!["SET sql_mode = '', time_zone = '+00:00'".to_owned()];
        statements.extend(team.create(database));
        for follow in world.follows.iter().filter(|f| f.follower.get() % SHARDS == shard) {
            let (from, to) = (follow.follower, follow.followee);
            statements.push(format!(
                "INSERT INTO {database}.`my graph` (`from`, `to`) VALUES ({from}, {to})"
            ));
        }
        let mut insert = |id: String, account, text: &str, when: String, state: &str| {
            let text = Sql::from(text).as_sql(false);
            statements.push(format!(
                "INSERT INTO {database}.`status``es` VALUES \
                 ({id}, {account}, {text}, {when}, '{state}')"
            ));
        };
        for post in world.posts.iter().filter(|p| p.key.author.get() % SHARDS == shard) {
            let (id, account) = (post.key.post.get(), post.key.author);
            let when = literal(unit, post.key.time);
            insert(id.to_string(), account, &post.content, when.clone(), "it''s public");
            insert((id + 10_000).to_string(), account, "deleted", when.clone(), "deleted");
            insert(format!("-{}", id + 1), account, "no id", when, "it''s public");
        }
        for user in (0..12).filter(|user| user % SHARDS == shard && *user != 5) {
            // Every second user has a display name; an empty one is none.
            let name = match user % 4 {
                0 => "NULL".to_owned(),
                2 => "''".to_owned(),
                _ => format!("'Name {user} ü'"),
            };
            let row = format!("({user}, 'u{user}é', {name})");
            statements.push(format!("INSERT INTO {database}.accounts VALUES {row}"));
        }
        server.execute(&statements).await;
    }
    fleet
}

#[test]
fn tables_of_any_name_unit_and_zone_are_read_as_the_oracle_reads_them() {
    run(async {
        let mysql = mysql().map(|server| vec![Arc::clone(server)]);
        for servers in [Some(mariadb().to_vec()), mysql].into_iter().flatten() {
            for team in &TEAMS {
                let world = world(&team.times());
                let fleet = adopt(&servers, team, &world).await;
                let tributary = fleet.open().await;
                let oracle = Oracle::new(&world);
                for (reader, limit) in oracle.readers().into_iter().flat_map(|r| [(r, 2), (r, 7)]) {
                    let walk = Walk { limit, pages_max: usize::MAX, with_prev: true };
                    check_walk(&tributary, &oracle.feed(reader), reader, walk).await;
                }
                check_json(&tributary, &oracle, team).await;
                if team.unit == "s" {
                    users_are_found_once_there_is_an_index(&fleet, &tributary).await;
                }
                zero_times_come_last(&fleet, &tributary, team).await;
                posts_are_written_as_the_team_writes_them(&fleet, team).await;
            }
        }
    });
}

/// The JSON has times in UTC whatever the column's unit and zone, and the handles of authors.
async fn check_json(tributary: &Tributary, oracle: &Oracle, team: &Team) {
    let server = TestServer::start(tributary.clone()).await;
    let feed = server.get("/v1/users/1/feed?limit=100").await.json();
    let express = server.get("/user/feed/1?limit=100").await.json();
    let times = team.times();
    for (index, post) in oracle.feed(user_id(1)).iter().enumerate() {
        let shown = &feed["posts"][index];
        let when = tributary::internal::rfc3339_ms(times.epoch_ms(post.key.time));
        assert_eq!(shown["created_at"], when, "{}", team.unit);
        match post.key.author.get() {
            5 => assert!(shown.get("author_handle").is_none()),
            author => {
                assert_eq!(shown["author_handle"], format!("u{author}é"));
                let name = (author % 2 == 1).then(|| format!("Name {author} ü").into());
                assert_eq!(shown.get("author_name"), name.as_ref());
            }
        }
        let timestamp = &express["feed"][index]["timestamp"];
        match times.unit {
            TimeUnit::DateTime { .. } => assert_eq!(timestamp, when.as_str()),
            _ => assert_eq!(*timestamp, post.key.time),
        }
    }
}

/// Users are found by the beginning of a handle, if every shard has an index for it.
async fn users_are_found_once_there_is_an_index(fleet: &TestFleet, tributary: &Tributary) {
    let missing = tributary.find_users("u1").await.unwrap_err();
    assert_eq!(missing.statement, "CREATE INDEX tributary_handles ON `accounts` (`name`)");
    for (server, database) in &fleet.databases {
        server.execute(&[format!("USE {database}"), missing.statement.clone()]).await;
    }
    let tributary = fleet.open().await;
    let find = async |prefix: &str| -> Vec<u64> {
        let found = tributary.find_users(prefix).await.unwrap();
        assert!(found.missing.is_empty());
        found.users.iter().map(|user| user.id.get()).collect()
    };
    assert_eq!(find("U1").await, [10, 11, 1]);
    assert_eq!(find("u9é").await, [9]);
    for none in ["", "u5", "u_", "%", "u1%", "\u{1f600}", "u\u{3b1}"] {
        assert!(find(none).await.is_empty(), "{none}");
    }
}

/// The zero date, which old servers accepted, sorts as the oldest time and breaks no page.
async fn zero_times_come_last(fleet: &TestFleet, tributary: &Tributary, team: &Team) {
    if !team.column.starts_with("DATETIME") {
        return;
    }
    let (server, database) = &fleet.databases[3];
    let zero = "'0000-00-00 00:00:00'";
    server
        .execute(&[
            "SET sql_mode = ''".into(),
            format!(
                "INSERT INTO {database}.`status``es` VALUES \
                 (50001, 3, 'zero', {zero}, 'it''s public'), (50002, 3, 'zero', {zero}, \
                 'it''s public'), (50003, 3, 'half', '2023-00-00 00:00:00', 'it''s public')"
            ),
        ])
        .await;
    let mut request = PageRequest::default().limit(Limit::new(1).unwrap());
    let mut ids = Vec::new();
    loop {
        let page = tributary.author_timeline(user_id(3), &request).await.unwrap();
        assert!(page.is_complete(), "{}: {:?}", team.unit, page.missing);
        ids.extend(page.posts.iter().map(|post| post.key.post.get()));
        let Some(next) = page.next else { break };
        request.cursor = next;
    }
    assert_eq!(ids.len(), 18, "{}: {ids:?}", team.unit);
    assert_eq!(ids[15..], [50003, 50002, 50001], "{}", team.unit);
}

/// A post is written into the team's columns and can be read again. A delete only sets the mark.
async fn posts_are_written_as_the_team_writes_them(fleet: &TestFleet, team: &Team) {
    let file = fleet.config_file.clone().unwrap();
    let config = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{config}\n[write]\nenabled = true\n")).unwrap();
    let Err(error) = Tributary::open(&fleet.config()).await else { panic!("opened unmigrated") };
    assert!(error.to_string().contains("tributary migrate"), "{error}");
    let mut made = 0;
    tributary::internal::migrate(&fleet.config(), |table| made += u32::from(table.made))
        .await
        .unwrap();
    assert_eq!(made, 4, "one table of ours in every shard, and no other");

    let tributary = fleet.open().await;
    let before = tributary::internal::now_ms();
    let key = || tributary::IdempotencyKey::new("a-key");
    let post = tributary.publish(user_id(7), "written 🎉", key()).await.unwrap().post;
    let (times, id) = (team.times(), post.key.post);
    assert_eq!(tributary.post(user_id(7), id).await.unwrap().post.as_ref(), Some(&post));
    let written = times.epoch_ms(post.key.time);
    let coarse = times.epoch_ms(times.stored(before));
    assert!((coarse..=tributary::internal::now_ms()).contains(&written), "{}", team.unit);
    let newest = PageRequest::default().limit(Limit::new(1).unwrap());
    let page = tributary.author_timeline(user_id(7), &newest).await.unwrap();
    assert_eq!(page.posts, std::slice::from_ref(&post), "{}", team.unit);
    let again = tributary.publish(user_id(7), "written 🎉", key()).await.unwrap();
    assert!(again.replayed && again.post == post);

    tributary.delete_post(user_id(7), id).await.unwrap();
    assert_eq!(tributary.post(user_id(7), id).await.unwrap().post, None);
    let (server, database) = &fleet.databases[3];
    let mut connection = server.connect().await;
    let sql = format!("SELECT state FROM {database}.`status``es` WHERE id = {id}");
    let state: Option<String> = connection.query_first(sql).await.unwrap();
    assert_eq!(state.as_deref(), Some("gone"));

    tributary.follow(user_id(7), user_id(11)).await.unwrap();
    let follows = async || {
        let page =
            tributary.following(user_id(7), user_id(0), Limit::new(100).unwrap()).await.unwrap();
        page.followees.contains(&user_id(11))
    };
    assert!(follows().await);
    tributary.unfollow(user_id(7), user_id(11)).await.unwrap();
    assert!(!follows().await);
}
