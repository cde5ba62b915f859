//! Connections that break during COMMIT: whether the request or the reply is lost, a post is
//! stored once.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tributary::posts::PostAddress;
use tributary::{Config, IdempotencyKey, Limit, PageRequest, Tributary, UserId, WriteError};

use crate::edits::configure_edits;
use crate::graph::{configure_hides, execute};
use crate::markers::configure_markers;
use crate::support::database::{Database, mariadb, mysql};
use crate::support::fleet::TestFleet;
use crate::support::http::TestServer;
use crate::support::proxy::{FATES, Fate, Proxy};
use crate::support::{run, user_id};

const AUTHOR: UserId = user_id(8);

fn key(text: &str) -> Option<IdempotencyKey> {
    Some(IdempotencyKey::new(text).unwrap())
}

/// A fleet of empty databases on one server, reached through a proxy.
async fn behind_proxy(server: &Arc<Database>, deadline_ms: u64) -> (Proxy, Tributary, TestFleet) {
    let proxy = Proxy::start(server.port).await;
    let fleet = TestFleet::on(&[Arc::clone(server)]);
    for (server, database) in &fleet.databases {
        server.execute(&[format!("CREATE DATABASE {database}")]).await;
    }
    let file = fleet.config_file.clone().unwrap();
    let text = fs::read_to_string(&file).unwrap();
    let address = format!("127.0.0.1:{}", proxy.port);
    fs::write(&file, text.replace(&server.address(), &address)).unwrap();
    configure_edits(&fleet);
    configure_hides(&fleet);
    configure_markers(&fleet);
    let mut config = fleet.config_for_writing().await;
    config.request.deadline_ms = deadline_ms;
    let tributary = Tributary::open(&config).await.unwrap();
    (proxy, tributary, fleet)
}

fn servers() -> Vec<&'static Arc<Database>> {
    mariadb().iter().take(1).chain(mysql()).collect()
}

async fn contents(tributary: &Tributary) -> Vec<String> {
    let page = tributary.author_timeline(AUTHOR, &PageRequest::default()).await.unwrap();
    assert!(page.is_complete());
    page.posts.into_iter().map(|post| post.content).collect()
}

#[test]
fn a_post_whose_commit_is_interrupted_is_stored_once() {
    run(async {
        for server in servers() {
            let (proxy, tributary, _fleet) = behind_proxy(server, 5_000).await;
            let mut expected = Vec::new();
            for fate in FATES {
                for keyed in [true, false] {
                    let content = format!("{fate:?} {keyed} 🎉");
                    proxy.commits();
                    proxy.fail_next_commit(fate);
                    let key = keyed.then(|| IdempotencyKey::new(&format!("{fate:?}")).unwrap());
                    let posted = tributary.publish(AUTHOR, &content, key.clone()).await;
                    let posted = posted.unwrap_or_else(|error| panic!("{fate:?}: {error}"));
                    assert!(!posted.replayed, "{fate:?}");
                    let rolled_back = matches!(fate, Fate::CutBefore | Fate::CutThenLost);
                    let case = format!("{:?} {fate:?} {keyed}", server.kind);
                    assert_eq!(proxy.commits(), 1 + usize::from(rolled_back), "{case}");
                    if keyed {
                        let again = tributary.publish(AUTHOR, &content, key).await.unwrap();
                        assert_eq!((again.replayed, again.post), (true, posted.post), "{case}");
                    }
                    expected.insert(0, content);
                    assert_eq!(contents(&tributary).await, expected, "{case}");
                }
            }
        }
    });
}

/// The fates that break the connection. `Silence` takes as long as an attempt may; the next test
/// has it.
fn cuts() -> impl Iterator<Item = Fate> {
    FATES.into_iter().filter(|fate| *fate != Fate::Silence)
}

#[test]
fn changes_of_lists_whose_commit_is_interrupted_are_applied() {
    run(async {
        for server in servers() {
            let (proxy, node, _fleet) = behind_proxy(server, 5_000).await;
            let [a, b] = [5, 6].map(user_id);
            for fate in cuts() {
                proxy.fail_next_commit(fate);
                node.follow_all(AUTHOR, &[a, b]).await.unwrap();
                assert_eq!(listed(&node).await, [vec![a, b], vec![], vec![]], "{fate:?}");
                proxy.fail_next_commit(fate);
                node.mute(AUTHOR, a).await.unwrap();
                proxy.fail_next_commit(fate);
                node.block(AUTHOR, b).await.unwrap();
                assert_eq!(listed(&node).await, [vec![a, b], vec![a], vec![b]], "{fate:?}");
                proxy.fail_next_commit(fate);
                node.unmute(AUTHOR, a).await.unwrap();
                proxy.fail_next_commit(fate);
                node.unblock(AUTHOR, b).await.unwrap();
                proxy.fail_next_commit(fate);
                node.unfollow_all(AUTHOR, &[a, b]).await.unwrap();
                assert_eq!(listed(&node).await, [const { Vec::new() }; 3], "{fate:?}");
            }
        }
    });
}

#[test]
fn changes_of_posts_whose_commit_is_interrupted_are_applied() {
    run(async {
        for server in servers() {
            let (proxy, node, _fleet) = behind_proxy(server, 5_000).await;
            for fate in cuts() {
                let post = node.publish(AUTHOR, "x", None).await.unwrap().post;
                proxy.fail_next_commit(fate);
                let edited = node.edit(AUTHOR, post.key.post, "y").await.unwrap().unwrap();
                let found = node.post(AUTHOR, post.key.post).await.unwrap().post;
                assert_eq!(found, Some(edited.post), "{fate:?}");
                assert_eq!(contents(&node).await, ["y"], "{fate:?}");
                let at = PostAddress { author: AUTHOR, post: post.key.post };
                proxy.fail_next_commit(fate);
                let moved = node.mark_read(AUTHOR, at).await.unwrap();
                assert_eq!(moved.unwrap().post, Some(at), "{fate:?}");
                assert_eq!(node.read_marker(AUTHOR).await.unwrap().marker, moved, "{fate:?}");
                proxy.fail_next_commit(fate);
                node.delete_post(AUTHOR, post.key.post).await.unwrap();
                assert_eq!(contents(&node).await, [""; 0], "{fate:?}");
            }
        }
    });
}

/// The users that the author follows, mutes and blocks.
async fn listed(node: &Tributary) -> [Vec<UserId>; 3] {
    let (from, limit) = (user_id(0), Limit::DEFAULT);
    [
        node.following(AUTHOR, from, limit).await.unwrap().followees,
        node.mutes(AUTHOR, from, limit).await.unwrap().users,
        node.blocks(AUTHOR, from, limit).await.unwrap().users,
    ]
}

/// A node that reaches the server without the proxy.
async fn beside_proxy(server: &Database, proxy: &Proxy, fleet: &TestFleet) -> Tributary {
    let text = fs::read_to_string(fleet.config_file.as_ref().unwrap()).unwrap();
    let file = fleet.dir.path().join("direct.toml");
    let through = format!("127.0.0.1:{}", proxy.port);
    fs::write(&file, text.replace(&through, &server.address())).unwrap();
    let mut config = Config::from_file(&file, []).unwrap();
    config.write.enabled = true;
    Tributary::open(&config).await.unwrap()
}

/// All writes are committed, but no answer arrives. Before they are repeated, others change the
/// same rows. A later edit and a later marker stay. The repeated changes of lists win, because
/// their requests end later.
#[test]
fn a_repeated_edit_or_marker_does_not_undo_a_later_one() {
    run(async {
        for server in servers() {
            let (proxy, node, fleet) = behind_proxy(server, 5_000).await;
            let other = beside_proxy(server, &proxy, &fleet).await;
            let mut posts = Vec::new();
            for text in ["first", "second"] {
                let key = node.publish(AUTHOR, text, None).await.unwrap().post.key;
                posts.push(PostAddress { author: AUTHOR, post: key.post });
            }
            let ([first, second], both) = ([posts[0], posts[1]], [5, 6].map(user_id));
            let [a, b] = both;
            node.block(AUTHOR, b).await.unwrap();
            for _ in 0..5 {
                proxy.fail_next_commit(Fate::Silence);
            }
            let writes = async {
                tokio::join!(
                    node.edit(AUTHOR, first.post, "edited"),
                    node.mark_read(AUTHOR, first),
                    node.follow_all(AUTHOR, &both),
                    node.mute(AUTHOR, a),
                    node.unblock(AUTHOR, b),
                )
            };
            let later = async {
                let committed = [vec![a, b], vec![a], vec![]];
                let is_edited = async || contents(&other).await == ["second", "edited"];
                let is_marked = async || other.read_marker(AUTHOR).await.unwrap().marker.is_some();
                while !is_edited().await || !is_marked().await || listed(&other).await != committed
                {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                // A program that does not store the time of an edit.
                let set = "content = 'later', edited_at = NULL";
                let edit = format!("UPDATE D.tweets SET {set} WHERE tweet_id = {}", first.post);
                execute(&fleet, AUTHOR.get(), &edit).await;
                let edited = other.post(AUTHOR, first.post).await.unwrap().post.unwrap();
                let marked = other.mark_read(AUTHOR, second).await.unwrap();
                other.unfollow(AUTHOR, a).await.unwrap();
                other.unmute(AUTHOR, a).await.unwrap();
                other.block(AUTHOR, b).await.unwrap();
                (edited, marked)
            };
            let ((edit, mark, follow, mute, unblock), (edited, marked)) =
                tokio::join!(writes, later);
            assert_eq!(edit.unwrap().unwrap().post, edited);
            assert_eq!(contents(&node).await, ["second", "later"]);
            assert_eq!(mark.unwrap(), marked);
            assert_eq!(node.read_marker(AUTHOR).await.unwrap().marker, marked);
            assert!(mute.is_ok() && unblock.is_ok());
            assert_eq!(follow.unwrap().added, 1, "only the last attempt is counted");
            assert_eq!(listed(&node).await, [vec![a, b], vec![a], vec![]]);
        }
    });
}

/// Repeats a write until its server is in service again, for 30 s at most.
async fn until_available<T>(
    write: impl AsyncFn() -> Result<T, WriteError>,
) -> Result<T, WriteError> {
    let give_up = Instant::now() + Duration::from_secs(30);
    loop {
        match write().await {
            Err(WriteError::Unavailable) if Instant::now() < give_up => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            outcome => return outcome,
        }
    }
}

/// If the outcome cannot be queried either, the client gets `in_doubt`. Repeating the post with
/// the same key stores it once.
#[test]
fn an_in_doubt_write_is_reported_and_can_be_retried() {
    run(async {
        for server in servers() {
            let (proxy, tributary, _fleet) = behind_proxy(server, 1_000).await;
            let http = TestServer::start(tributary.clone()).await;
            for (n, fate) in [Fate::CutBefore, Fate::CutAfter].into_iter().enumerate() {
                proxy.fail_next_commit_then_refuse(fate);
                let path = format!("/v1/users/{AUTHOR}/posts");
                let (name, body) = (format!("k{n}"), format!("{{\"content\":\"{n}\"}}"));
                let answer = http.post(&path, &body, Some(&name)).await;
                assert_eq!(answer.problem(), (503, "in_doubt".into()));
                assert!(answer.json()["detail"].as_str().unwrap().contains("Idempotency-Key"));
                assert_eq!(answer.header("retry-after"), "1");
                proxy.accept_again();
                let again = until_available(async || {
                    tributary.publish(AUTHOR, &n.to_string(), key(&name)).await
                });
                let again = again.await.unwrap();
                assert_eq!(again.replayed, fate == Fate::CutAfter, "{fate:?}");
                assert_eq!(contents(&tributary).await.len(), n + 1, "{fate:?}");

                proxy.fail_next_commit_then_refuse(fate);
                let followed = tributary.follow(AUTHOR, user_id(9)).await;
                assert_eq!(followed, Err(WriteError::InDoubt));
                // A request that never reached the server is not in doubt.
                let answer = http.post(&path, "{\"content\":\"x\"}", None).await;
                assert_eq!(answer.problem(), (503, "shard_unavailable".into()));
                let found = http.get(&format!("{path}/1")).await;
                assert_eq!(found.problem(), (503, "shard_unavailable".into()));
                proxy.accept_again();
                until_available(async || tributary.unfollow(AUTHOR, user_id(9)).await)
                    .await
                    .unwrap();
            }
        }
    });
}
