//! `tributary import`: a row is stored as it is meant in every kind of fleet, or refused with its
//! line and the correction.

mod files;
mod mastodon;
mod times;

use std::fs;

use tributary::internal::{PostTimes, rfc3339_ms};
use tributary::{Limit, PageRequest, Tributary};

use crate::commands::{output, tributary};
use crate::support::fleet::{Backend, Tables, TestFleet};
use crate::support::{run, user_id};

/// The author of all posts in these tests.
const AUTHOR: u64 = 4;

/// One run of the command.
struct Imported {
    code: i32,
    text: String,
    error: String,
}

impl Imported {
    /// Asserts the exit code, the counts, and that these texts are in the messages.
    fn check(&self, name: &str, code: i32, counts: &str, messages: &[&str]) {
        let Self { text, error, .. } = self;
        assert_eq!(self.code, code, "{name}: {text}{error}");
        assert!(text.contains(counts), "{name}: {counts}\n{text}{error}");
        for message in messages {
            assert!(error.contains(message), "{name}: {message}\n{text}{error}");
        }
    }
}

/// Writes a file of posts and imports it.
fn import(fleet: &TestFleet, name: &str, bytes: &[u8], options: &[&str]) -> Imported {
    let path = fleet.dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    let mut command = tributary(&["import"]);
    command.args(fleet.source_args()).arg("--posts").arg(path).args(options);
    let (code, text, error) = output(&mut command);
    Imported { code, text, error }
}

/// The author's posts, oldest first: id, time and text.
fn stored(fleet: &TestFleet) -> Vec<(u64, String, String)> {
    run(async {
        let times = times(fleet);
        let tributary = Tributary::open(&fleet.config()).await.unwrap();
        let request = PageRequest::default().limit(Limit::new(Limit::MAX).unwrap());
        let page = tributary.author_timeline(user_id(AUTHOR), &request).await.unwrap();
        assert!(page.is_complete(), "{page:?}");
        let shown = |time: i64| rfc3339_ms(times.epoch_ms(time));
        let posts = page.posts.iter().rev();
        posts
            .map(|post| (post.key.post.get(), shown(post.key.time), post.content.clone()))
            .collect()
    })
}

fn times(fleet: &TestFleet) -> PostTimes {
    match fleet.config().fleet {
        tributary::config::FleetConfig::Servers(servers) => servers.tables.posts.times(),
        _ => PostTimes::MILLISECONDS,
    }
}

/// An empty folder of embedded shards.
fn folder() -> TestFleet {
    run(TestFleet::new(Backend::Sqlite, Tables::Ours)).unwrap()
}

/// A file of posts with the usual header and these lines.
fn posts_csv(lines: &str) -> Vec<u8> {
    format!("tweet_id,user_id,content,timestamp\n{lines}").into_bytes()
}
