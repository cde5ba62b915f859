//! `tributary export`: the files of a user can be imported into an empty fleet of another kind, and
//! every text comes back unchanged.

use std::fs;

use tributary::internal::{Fleet, Follow, now_ms};
use tributary::posts::PostAddress;
use tributary::{Limit, PageRequest, Post, PostKey, Tributary};

use crate::commands::{output, tributary};
use crate::support::fleet::{Backend, Tables, TestFleet, every_backend, load_into};
use crate::support::world::World;
use crate::support::{post_id, run, user_id};

const USER: u64 = 6;

/// Texts that some program reads differently.
fn odd_texts() -> Vec<String> {
    let texts = [
        "",
        " ",
        "\"",
        "\"\"",
        "a \"quoted\" text, with commas; semicolons\tand tabs",
        "line\nline\r\nline\rline\n",
        "\\N",
        "NULL",
        "C:\\Users\\new ¯\\_(ツ)_/¯ \\\" \\",
        "=1+1",
        "\u{feff}mark",
        "nul \u{0} and \u{1b}[31m",
        "\u{2028}\u{202e}right",
        "🎉 e\u{301} \u{1f468}\u{200d}\u{1f469}",
        "{\"content\": \"json\"}\n[]",
        "</script><b>&amp;",
        "# comment",
    ];
    let long = "long \"\n,".repeat(8_000);
    texts.iter().map(|text| (*text).to_owned()).chain([long]).collect()
}

/// The user's posts with the odd texts, more than one page of others, and follows.
fn world(now_ms: i64) -> World {
    let mut world = World::default();
    let others = (0..150).map(|n| format!("text {n}"));
    for (n, content) in (1i64..).zip(odd_texts().into_iter().chain(others)) {
        let time = now_ms - 1_000_000 + n / 3;
        let key = PostKey {
            time,
            post: post_id(u64::try_from(1_000 + n * 7 % 1_009).unwrap()),
            author: user_id(USER),
        };
        let mut post = Post::new(key, content);
        let other = PostAddress { author: user_id(8), post: post_id(n.unsigned_abs()) };
        post.references.reply_to = (n % 3 == 0).then_some(other);
        post.references.repost_of = (n % 5 == 0).then_some(other);
        post.edited_at = (n % 7 == 0).then_some(time + 9);
        world.posts.push(post);
    }
    let follow = |n| Follow { follower: user_id(USER), followee: user_id(10 + n * 3) };
    world.follows = (0..250u64).map(follow).collect();
    world.follow(7, USER);
    world
}

/// All posts and follows of the user.
async fn stored(fleet: &TestFleet) -> (Vec<Post>, usize) {
    let tributary = Tributary::open(&fleet.config()).await.unwrap();
    let limit = Limit::new(Limit::MAX).unwrap();
    let (mut posts, mut request) = (Vec::new(), PageRequest::default().limit(limit));
    loop {
        let page = tributary.author_timeline(user_id(USER), &request).await.unwrap();
        posts.extend(page.posts);
        let Some(next) = page.next else { break };
        request = request.from(next);
    }
    let (mut follows, mut from) = (0, Some(user_id(0)));
    while let Some(start) = from {
        let page = tributary.following(user_id(USER), start, limit).await.unwrap();
        follows += page.followees.len();
        from = page.next;
    }
    tributary.close().await;
    (posts, follows)
}

/// A post is not stored without its references.
#[test]
fn rows_with_columns_that_the_shards_do_not_have_are_refused() {
    let Some(fleet) = run(TestFleet::new(Backend::MariaDb, Tables::Ours)) else { return };
    let file = fleet.dir.path().join("posts.csv");
    let header = "tweet_id,user_id,timestamp,reply_to_user_id,reply_to_tweet_id,edited_at,content";
    let time = "2025-11-24T16:00:00Z";
    let rows = [
        format!("1,6,{time},,,,\"plain\""),
        format!("2,6,{time},7,8,,\"reply\""),
        format!("3,6,{time},,,{time},\"edited\""),
        format!("4,6,{time},7,,,\"half\""),
    ];
    fs::write(&file, format!("{header}\n{}\n", rows.join("\n"))).unwrap();
    let mut import = tributary(&["import"]);
    import.args(fleet.source_args()).arg("--posts").arg(&file);
    let (code, text, error) = output(&mut import);
    assert_eq!(code, 4, "{text}{error}");
    assert!(text.contains("1 added, 0 already there, 3 refused"), "{text}");
    assert!(error.contains("add [tables.posts.references]"), "{error}");
    assert!(error.contains("add edited_at under [tables.posts]"), "{error}");
    assert!(error.contains("give both or none"), "{error}");
}

#[test]
fn an_export_can_be_imported_with_every_odd_text() {
    for (backend, fleet) in run(every_backend()) {
        let now = now_ms();
        if let Some(file) = &fleet.config_file {
            let columns =
                "\n[tables.posts]\nedited_at = \"edited_at\"\n[tables.posts.references]\n";
            let text = fs::read_to_string(file).unwrap();
            fs::write(file, text + columns).unwrap();
        }
        run(async {
            drop(fleet.config_for_writing().await);
            let loading = Fleet::open_to_load(&fleet.config()).await.unwrap();
            load_into(&loading, &world(now)).await;
        });
        let expected = run(stored(&fleet));
        assert_eq!((expected.0.len(), expected.1), (odd_texts().len() + 150, 250));
        for (format, options) in [("ndjson", &[][..]), ("csv", &["--dialect", "csv"])] {
            let dir = fleet.dir.path().join(format);
            let mut export = tributary(&["export", &USER.to_string()]);
            export.arg(&dir).args(fleet.source_args()).args(["--format", format]);
            let (code, text, error) = output(&mut export);
            assert_eq!(code, 0, "{backend:?}: {error}");
            assert!(text.contains("168 posts and 250 follows"), "{text}");
            let (code, _, error) = output(&mut export);
            assert!(code == 3 && error.contains("exists already"), "{error}");

            let copy = run(TestFleet::new(Backend::Sqlite, Tables::Ours)).unwrap();
            let file = |name: &str| dir.join(format!("{name}.{format}"));
            let mut import = tributary(&["import"]);
            import.args(copy.source_args()).args(options);
            import.arg("--posts").arg(file("posts")).arg("--follows").arg(file("follows"));
            let (code, text, error) = output(&mut import);
            assert_eq!(code, 0, "{backend:?} {format}: {text}{error}");
            assert_eq!(run(stored(&copy)), expected, "{backend:?} {format}");
            if format == "ndjson" {
                let first = fs::read_to_string(file("follows")).unwrap();
                let line = "{\"follower_user_id\":\"6\",\"followed_user_id\":\"10\"}";
                assert_eq!(first.lines().next(), Some(line), "the form is stable");
            }
        }
    }
}
