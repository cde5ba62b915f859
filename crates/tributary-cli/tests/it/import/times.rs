//! The times of a file are stored in the unit and zone of the fleet, or refused.

use std::fmt::Write;
use std::fs;
use std::sync::Arc;

use super::{import, posts_csv, stored};
use crate::support::database::{Database, mariadb, mysql};
use crate::support::fleet::{Backend, Tables, TestFleet};
use crate::support::{run, shared_cases};

/// The SQL type of the time column, and its unit and zone in our configuration.
const COLUMNS: [(&str, &str, &str); 6] = [
    ("BIGINT", "s", "UTC"),
    ("BIGINT", "ms", "UTC"),
    ("BIGINT", "us", "UTC"),
    ("DATETIME(3)", "datetime(3)", "Europe/Berlin"),
    ("DATETIME", "datetime", "+02:00"),
    ("TIMESTAMP(6) NULL", "datetime(6)", "UTC"),
];

/// A fleet on one server whose posts have such a column.
async fn fleet_with(server: &Arc<Database>, (column, unit, zone): (&str, &str, &str)) -> TestFleet {
    let fleet = TestFleet::on(&[Arc::clone(server)]);
    for (server, database) in &fleet.databases {
        let posts = format!(
            "CREATE TABLE {database}.tweets (tweet_id BIGINT NOT NULL, user_id BIGINT NOT NULL, \
             content TEXT NOT NULL, timestamp {column}, UNIQUE KEY (tweet_id), \
             KEY tail (user_id, timestamp, tweet_id)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
        );
        let follows = format!(
            "CREATE TABLE {database}.followers (follower_user_id BIGINT NOT NULL, \
             followed_user_id BIGINT NOT NULL, PRIMARY KEY (follower_user_id, followed_user_id), \
             KEY (followed_user_id, follower_user_id)) ENGINE=InnoDB"
        );
        server.execute(&[format!("CREATE DATABASE {database}"), posts, follows]).await;
    }
    let file = fleet.config_file.as_ref().unwrap();
    let mut config = fs::read_to_string(file).unwrap();
    write!(config, "\n[tables.posts]\nunit = \"{unit}\"\nzone = \"{zone}\"\n").unwrap();
    fs::write(file, config).unwrap();
    fleet
}

/// A folder, and servers of both kinds with each column.
fn every_fleet() -> Vec<(String, TestFleet)> {
    let folder = run(TestFleet::new(Backend::Sqlite, Tables::Ours)).unwrap();
    let mut fleets = vec![("folder".to_owned(), folder)];
    for server in [Some(&mariadb()[0]), mysql()].into_iter().flatten() {
        for column in COLUMNS {
            let name = format!("{:?} {column:?}", server.kind);
            fleets.push((name, run(fleet_with(server, column))));
        }
    }
    fleets
}

/// Files of three posts each, at 16:00:00, 16:00:01 and 16:00:02 on one day.
const FILES: [(&str, [&str; 3]); 4] = [
    ("seconds", ["1764000000", "1764000001", "1764000002"]),
    ("milliseconds", ["1764000000000", "1764000001000", "1764000002999"]),
    ("microseconds", ["1764000000000000", "1764000001000001", "1764000002999999"]),
    (
        "dates",
        ["2025-11-24T16:00:00Z", "2025-11-24 17:00:01.250+01:00", "2025-11-24T11:30:02.9999-0430"],
    ),
];

/// Each form of time is stored as the same second in every fleet, and a second run finds each post.
#[test]
fn every_form_of_time_is_stored_right_in_every_fleet_and_found_again() {
    for (fleet_name, fleet) in every_fleet() {
        let dates = fleet_name.contains("datetime");
        for (offset, (name, times)) in FILES.iter().enumerate() {
            let what = format!("{fleet_name}, {name}");
            let rows = times.iter().zip(1..).map(|(time, post)| {
                let id = offset * 10 + post;
                format!("{id},4,{name},{time}\n")
            });
            let file = posts_csv(&rows.collect::<String>());
            import(&fleet, "posts.csv", &file, &[]).check(
                &what,
                0,
                "posts: 3 added, 0 already there, 0 refused",
                &[],
            );
            import(&fleet, "posts.csv", &file, &[]).check(
                &what,
                0,
                "posts: 0 added, 3 already there, 0 refused",
                &[],
            );
        }
        let local = posts_csv("91,4,local,2025-11-24 16:00:00.5\n");
        let imported = import(&fleet, "local.csv", &local, &[]);
        if dates {
            imported.check(&fleet_name, 0, "posts: 1 added", &[]);
        } else {
            imported.check(
                &fleet_name,
                4,
                "0 added",
                &["local.csv: line 2:", "add Z, or an offset"],
            );
        }
        for (id, time, content) in stored(&fleet) {
            let second = id % 10 - 1;
            let day = if content == "local" { "2025-11-24T" } else { "2025-11-24T16:00:0" };
            assert!(time.starts_with(day), "{fleet_name}: {id} {content} {time}");
            if content != "local" {
                assert!(time.starts_with(&format!("{day}{second}")), "{fleet_name}: {id} {time}");
            }
        }
    }
}

/// Times that no post has, and times that are not written as the first one of their file.
#[test]
fn implausible_times_and_a_second_form_in_a_file_are_refused() {
    let server = &mariadb()[1];
    let fleets = [super::folder(), run(fleet_with(server, COLUMNS[3]))];
    for fleet in &fleets {
        let bad = [
            "17640000",
            "-1",
            "0",
            "9223372036854775807",
            "176400000000000000000",
            "946684799",
            "7258118400",
            "1999-12-31T23:59:59Z",
            "2199-01-01T00:00:00Z",
            "0000-00-00 00:00:00",
            "2025-02-30T00:00:00Z",
            "2025-02-30 00:00:00",
            "2025-11-24",
            "1.764e9",
            "1764000000.5",
            " 1764000000000",
            "",
            "now",
            "2025-11-24T25:00:00Z",
        ];
        let rows = bad.iter().zip(1..).map(|(time, id)| format!("{id},4,a,{time}\n"));
        let file = posts_csv(&rows.collect::<String>());
        let imported = import(fleet, "bad.csv", &file, &[]);
        imported.check(
            "bad",
            4,
            "posts: 0 added, 0 already there, 19 refused",
            &[
                "bad.csv: line 2: timestamp `17640000` is not between 2000-01-01T00:00:00.000Z",
                "bad.csv: line 18: timestamp `` is not a time; write seconds",
            ],
        );

        let mixed = posts_csv(
            "1,4,a,1764000000000\n2,4,b,1764000001\n3,4,c,2025-11-24T16:00:00Z\n4,4,d,1764000003000\n",
        );
        import(fleet, "mixed.csv", &mixed, &[]).check("mixed", 4, "2 added", &[
            "mixed.csv: line 3: timestamp `1764000001` is seconds since 1970, but the file's first \
             time, in line 2, is milliseconds since 1970; use one form in a file",
            "mixed.csv: line 4: timestamp `2025-11-24T16:00:00Z` is a date with an offset",
        ]);
        let ids: Vec<u64> = stored(fleet).iter().map(|(id, ..)| *id).collect();
        assert_eq!(ids, [1, 4]);
    }
}

/// The files of shared cases, in every fleet: the same exit code and the same posts everywhere.
#[test]
fn shared_cases_have_the_same_result_in_every_fleet() {
    let Some(dir) = shared_cases() else { return };
    let names = "--columns=id=tweet_id,author_id=user_id,body=content,created_at=timestamp";
    /// File, options, exit code, stored posts, message.
    type Case<'a> = (&'a str, &'a [&'a str], i32, &'a [u64], &'a str);
    let cases: [Case<'_>; 12] = [
        ("posts-seconds.csv", &[], 0, &[1, 2, 3], ""),
        ("posts-iso.csv", &[], 0, &[1, 2, 3], ""),
        ("posts-backslash.csv", &[], 4, &[5], "line 2: a quote opens"),
        ("posts-backslash.csv", &["--dialect", "mysql"], 4, &[1, 3, 4, 5], "content is NULL"),
        ("posts-open-quote.csv", &[], 4, &[1, 2], "a quote opens in line 5 and does not close"),
        ("posts-two-quotes.csv", &[], 4, &[1, 6], "lines 3 to 6"),
        ("posts-semicolon.csv", &[], 1, &[], "add --delimiter ';'"),
        ("posts-semicolon.csv", &["--delimiter", ";"], 0, &[1], ""),
        ("posts-utf16.csv", &[], 0, &[1], ""),
        ("posts-other-names.csv", &[], 1, &[], "add --columns NAME=tweet_id"),
        ("posts-other-names.csv", &[names], 0, &[1], ""),
        ("posts-cut-off.csv", &[], 4, &[1], "line 3: timestamp `17640000`"),
    ];
    for (fleet_name, fleet) in every_fleet() {
        for (file, options, code, ids, message) in cases {
            let what = format!("{fleet_name}: {file} {options:?}");
            let bytes = fs::read(dir.join(file)).unwrap();
            let imported = import(&fleet, file, &bytes, options);
            imported.check(&what, code, "", &[message]);
            let posts = stored(&fleet);
            let found: Vec<u64> = posts.iter().map(|(id, ..)| *id).collect();
            assert_eq!(found, ids, "{what}");
            for (_, time, _) in posts {
                assert!(time.starts_with("2025-11-24T16:00:0"), "{what}: {time}");
            }
            clear(&fleet);
        }
    }
}

/// Deletes all posts.
fn clear(fleet: &TestFleet) {
    if fleet.databases.is_empty() {
        fs::remove_dir_all(fleet.dir.path().join("data")).unwrap();
    }
    let (servers, mut statements) = (&fleet.databases, Vec::new());
    for (_, database) in servers {
        statements.push(format!("DELETE FROM {database}.tweets"));
    }
    if let Some((server, _)) = servers.first() {
        run(server.execute(&statements));
    }
}
