//! Runs the examples of the library and of the HTTP server as their first comments show.

use std::path::{Path, PathBuf};
use std::process::Command;

use tributary::{Config, Tributary};

use crate::commands::{Serving, output};
use crate::support::database::{PASSWORD, USER};
use crate::support::fleet::{Backend, Tables, TestFleet, load_into};
use crate::support::world::World;
use crate::support::{run, scratch};

/// An example with its arguments. `cargo test --workspace` builds the examples of all crates.
fn example(name: &str, arguments: &[&str]) -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_tributary"));
    let program = program.parent().unwrap().join("examples").join(name);
    let program = program.with_extension(std::env::consts::EXE_EXTENSION);
    assert!(
        program.exists(),
        "{} does not exist; run `cargo build --workspace --examples`",
        program.display()
    );
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// The lines that an example prints; panics if it fails.
fn printed(command: &mut Command) -> Vec<String> {
    let (code, printed, errors) = output(command);
    assert_eq!((code, errors.as_str()), (0, ""), "{command:?}: {printed}");
    printed.lines().map(str::to_owned).collect()
}

/// A world in which user 1 follows user 2, who has 50 posts: three pages.
fn world() -> World {
    let mut world = World::default();
    world.follow(1, 2);
    (1..=50u32).for_each(|n| world.post(2, 1_000 + i64::from(n), u64::from(n)));
    world
}

async fn load(config: &Config) {
    let tributary = Tributary::open(config).await.unwrap();
    load_into(tributary::internal::fleet(&tributary), &world()).await;
    tributary.close().await;
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn read_page_prints_the_whole_timeline_of_a_folder() {
    let dir = scratch();
    let folder: PathBuf = dir.path().join("data");
    run(load(&Config::embedded(&folder)));
    let file = dir.path().join("tributary.toml");
    std::fs::write(&file, format!("[embedded]\ndir = {:?}\n", text(&folder))).unwrap();
    let lines = printed(&mut example("read_page", &[text(&file), "1"]));
    let newest_first = world().posts.into_iter().rev();
    let expected = newest_first.map(|post| format!("{} 2: {:?}", post.key.time, post.content));
    assert_eq!(lines, expected.collect::<Vec<_>>());
}

#[test]
fn read_your_write_prints_the_post_each_time() {
    let dir = scratch();
    let folder = dir.path().join("new");
    for _ in 0..2 {
        let lines = printed(&mut example("read_your_write", &[text(&folder), "7", "42"]));
        assert_eq!(lines, ["hello"]);
    }
}

#[test]
fn config_in_code_reads_a_page_of_two_databases() {
    run(async {
        let fleet = TestFleet::new(Backend::MariaDb, Tables::Ours).await.unwrap();
        // Two databases of one server.
        let (server, database) = &fleet.databases[0];
        let other = format!("{database}_b");
        let mut statements = vec![format!("CREATE DATABASE {other}")];
        statements.extend(tributary::internal::mysql_tables(&other));
        server.execute(&statements).await;
        // User 1 is on the second shard of two, and user 2 is on the first.
        let statements = [
            format!("INSERT INTO {other}.followers VALUES (1, 2)"),
            format!(
                "INSERT INTO {database}.tweets (tweet_id, user_id, content, timestamp) \
                 VALUES (1, 2, 'one', 1), (2, 2, 'two', 2)"
            ),
        ];
        server.execute(&statements).await;
        let address = server.address();
        let arguments = [address.as_str(), USER, database, &other];
        let lines = printed(example("config_in_code", &arguments).env("PASSWORD", PASSWORD));
        assert_eq!(lines, ["2 posts, complete: true"]);
    });
}

#[test]
fn mount_serves_its_own_page_and_the_timelines() {
    let dir = scratch();
    let folder = dir.path().join("data");
    run(load(&Config::embedded(&folder)));
    let serving = Serving::start(&mut example("mount", &[text(&folder), "127.0.0.1:0"]));
    let own = serving.get("/");
    assert!(own.starts_with("HTTP/1.1 200 ") && own.contains("under /timelines"), "{own}");
    let live = serving.get("/timelines/livez");
    assert!(live.starts_with("HTTP/1.1 200 "), "{live}");
    let feed = serving.get("/timelines/v1/users/1/feed");
    assert!(feed.starts_with("HTTP/1.1 200 "), "{feed}");
    assert!(feed.contains("\"complete\":true") && feed.contains("post 50 of 2"), "{feed}");
    // Outside of /timelines, the routes do not exist.
    assert!(serving.get("/livez").starts_with("HTTP/1.1 404 "));
}
