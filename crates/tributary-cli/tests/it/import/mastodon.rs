//! A Mastodon export: public posts and follows are loaded, and no other post becomes public.

use std::fs;

use serde_json::{Value, json};
use tributary::posts::PostAddress;
use tributary::{Limit, Post, Tributary, UserId};

use super::{AUTHOR, Imported, stored};
use crate::commands::{output, tributary};
use crate::support::fleet::{Backend, Tables, TestFleet};
use crate::support::{post_id, run, user_id};

const PUBLIC: &str = "https://www.w3.org/ns/activitystreams#Public";
const SERVER: &str = "https://example.social/users/alice";

/// A `Create` activity as Mastodon writes it. `to` and `cc` are those of the object too.
fn create(id: u64, html: &str, to: &[&str], cc: &[&str]) -> Value {
    let published = format!("2024-05-01T10:00:{:02}Z", id % 10);
    json!({
        "id": format!("{SERVER}/statuses/{id}/activity"), "type": "Create", "actor": SERVER,
        "published": published, "to": to, "cc": cc,
        "object": {
            "id": format!("{SERVER}/statuses/{id}"), "type": "Note", "summary": null,
            "inReplyTo": null, "published": published, "attributedTo": SERVER, "to": to, "cc": cc,
            "content": html, "contentMap": {"en": html}, "attachment": [], "tag": []
        }
    })
}

fn outbox() -> Value {
    let followers = format!("{SERVER}/followers");
    let mut warned = create(112_000_000_000_000_003, "<p>spoiler</p>", &[PUBLIC], &[]);
    warned["object"]["summary"] = "a film".into();
    let mut reply = create(112_000_000_000_000_004, "<p>@bob yes</p>", &[PUBLIC], &[]);
    reply["object"]["inReplyTo"] = "https://other.example/users/bob/statuses/5".into();
    // A thread: the reply was edited later.
    let mut thread = create(112_000_000_000_000_010, "<p>more</p>", &[PUBLIC], &[]);
    thread["object"]["inReplyTo"] = format!("{SERVER}/statuses/112000000000000002").into();
    thread["object"]["updated"] = "2024-05-02T08:00:00Z".into();
    let mut without_time = create(112_000_000_000_000_008, "<p>when</p>", &[PUBLIC], &[]);
    without_time["object"]["published"] = Value::Null;
    without_time["published"] = Value::Null;
    json!({
        "@context": "https://www.w3.org/ns/activitystreams", "id": "outbox.json",
        "type": "OrderedCollection", "totalItems": 12,
        "orderedItems": [
            create(112_000_000_000_000_001, "<p>Hi &amp; bye<br>two</p><p>three</p>", &[PUBLIC], &[&followers]),
            create(112_000_000_000_000_002, "<p>unlisted</p>", &[&followers], &[PUBLIC]),
            warned, reply,
            create(112_000_000_000_000_005, "<p>for followers</p>", &[&followers], &[]),
            create(112_000_000_000_000_006, "<p>a direct message</p>", &["https://a/users/bob"], &[]),
            create(112_000_000_000_000_007, "", &[PUBLIC], &[]),
            without_time,
            {"id": format!("{SERVER}/statuses/112000000000000009/activity"), "type": "Announce",
             "published": "2024-05-01T10:00:59Z", "to": [PUBLIC], "cc": [],
             "object": "https://other.example/users/bob/statuses/5"},
            thread,
            {"id": format!("{SERVER}/statuses/112000000000000011/activity"), "type": "Announce",
             "actor": SERVER, "published": "2024-05-01T11:00:00Z", "to": [PUBLIC], "cc": [],
             "object": format!("{SERVER}/statuses/112000000000000001")},
            {"id": "x", "type": "Delete", "object": "y", "to": [PUBLIC]},
        ]
    })
}

fn import(fleet: &TestFleet, user: &str) -> Imported {
    let mut command = tributary(&["import", "--mastodon"]);
    command.arg(fleet.dir.path().join("export")).args(["--user", user]);
    let (code, text, error) = output(command.args(fleet.source_args()));
    Imported { code, text, error }
}

fn followees(fleet: &TestFleet) -> Vec<UserId> {
    run(async {
        let tributary = Tributary::open(&fleet.config()).await.unwrap();
        let page = tributary.following(user_id(AUTHOR), user_id(0), Limit::DEFAULT).await.unwrap();
        tributary.close().await;
        page.followees
    })
}

/// Own posts are referred to, those of other accounts are not: they may not be here.
fn check_references(fleet: &TestFleet) {
    let address = |post: u64| PostAddress { author: user_id(AUTHOR), post: post_id(post) };
    let found = run(async {
        let tributary = Tributary::open(&fleet.config()).await.unwrap();
        let posts = [4, 9, 10, 11].map(|n| address(112_000_000_000_000_000 + n));
        let found = tributary.posts(&posts).await.unwrap();
        tributary.close().await;
        found.posts
    });
    let own = |n: u64| Some(address(112_000_000_000_000_000 + n));
    let expected = [(None, None), (None, None), (own(2), None), (None, own(1))];
    let of = |post: &Post| (post.references.reply_to, post.references.repost_of);
    assert_eq!(found.iter().map(of).collect::<Vec<_>>(), expected);
    let edits: Vec<_> = found.iter().map(|post| post.edited_at).collect();
    assert_eq!(edits, [None, None, Some(1_714_636_800_000), None]);
}

#[test]
fn public_posts_and_follows_of_a_mastodon_export_are_loaded_once() {
    let fleet = run(TestFleet::new(Backend::Sqlite, Tables::Ours)).unwrap();
    let export = fleet.dir.path().join("export");
    fs::create_dir(&export).unwrap();
    let nothing = ["has neither following_accounts.csv nor outbox.json"];
    import(&fleet, "4").check("empty", 1, "", &nothing);
    fs::write(export.join("outbox.json"), outbox().to_string()).unwrap();
    let following = "Account address,Show boosts,Notify on new posts,Languages\n\
                     bob@other.example,true,false,\"en, de\"\nCarol@third.example,true,false,\n\
                     nobody,true,false,\n";
    fs::write(export.join("following_accounts.csv"), following).unwrap();
    fs::write(export.join("accounts.csv"), "account,user_id\ncarol@third.example,77\n").unwrap();
    import(&fleet, "alice").check("user", 1, "", &["--user: `alice` is not an account"]);

    for (follows, posts) in
        [("2 added, 0 already", "7 added, 0 already"), ("0 added, 2 already", "0 added, 7 already")]
    {
        let imported = import(&fleet, &AUTHOR.to_string());
        imported.check(
            "export",
            4,
            &format!("follows: {follows} there, 1 refused"),
            &[
                "following_accounts.csv: line 4: `nobody` is not an account",
                "outbox.json: activity 8: the activity has no `published`",
            ],
        );
        imported.check("export", 4, &format!("posts: {posts} there, 1 refused"), &[]);
        imported.check("export", 4, "2 not public, 2 without a text or of another kind", &[]);
    }
    let posts = stored(&fleet);
    let texts: Vec<&str> = posts.iter().map(|(_, _, text)| text.as_str()).collect();
    let expected = [
        "Hi & bye\ntwo\n\nthree",
        "unlisted",
        "a film\n\nspoiler",
        "@bob yes",
        "https://other.example/users/bob/statuses/5",
        "more",
        "",
    ];
    let sorted = |mut texts: Vec<&str>| {
        texts.sort_unstable();
        texts.join("|")
    };
    assert_eq!(sorted(texts), sorted(expected.to_vec()));
    let (id, time, _) = posts.iter().find(|(_, _, text)| text == "unlisted").unwrap();
    assert_eq!((*id, time.as_str()), (112_000_000_000_000_002, "2024-05-01T10:00:02.000Z"));
    check_references(&fleet);
    let accounts = fs::read_to_string(export.join("accounts.csv")).unwrap();
    let bob = accounts.lines().find_map(|line| line.strip_prefix("bob@other.example,")).unwrap();
    assert_eq!(followees(&fleet), [user_id(77), bob.parse().unwrap()]);

    // The archive was cut off: the posts above are loaded, and the rest is reported.
    let whole = outbox().to_string();
    fs::write(export.join("outbox.json"), &whole[..whole.len() - 200]).unwrap();
    fs::remove_file(export.join("following_accounts.csv")).unwrap();
    let cut = ["the file cannot be read from here"];
    import(&fleet, &AUTHOR.to_string()).check("cut", 4, "already there, 2 refused", &cut);
}
