//! Connections that break during COMMIT: whether the request or the reply is lost, a post is
//! stored once.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tributary::{IdempotencyKey, PageRequest, Tributary, UserId, WriteError};

use crate::edits::configure_edits;
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

#[test]
fn follows_edits_and_deletes_whose_commit_is_interrupted_are_applied() {
    run(async {
        for server in servers() {
            let (proxy, tributary, _fleet) = behind_proxy(server, 5_000).await;
            let follows = async || {
                let limit = tributary::Limit::DEFAULT;
                tributary.following(AUTHOR, user_id(0), limit).await.unwrap().followees
            };
            for fate in FATES {
                proxy.fail_next_commit(fate);
                tributary.follow(AUTHOR, user_id(5)).await.unwrap();
                assert_eq!(follows().await, [user_id(5)], "{fate:?}");
                proxy.fail_next_commit(fate);
                tributary.unfollow(AUTHOR, user_id(5)).await.unwrap();
                assert_eq!(follows().await, [], "{fate:?}");
                let post = tributary.publish(AUTHOR, "x", None).await.unwrap().post;
                proxy.fail_next_commit(fate);
                let edited = tributary.edit(AUTHOR, post.key.post, "y").await.unwrap().unwrap();
                let found = tributary.post(AUTHOR, post.key.post).await.unwrap().post;
                assert_eq!(found, Some(edited.post), "{fate:?}");
                assert_eq!(contents(&tributary).await, ["y"], "{fate:?}");
                proxy.fail_next_commit(fate);
                tributary.delete_post(AUTHOR, post.key.post).await.unwrap();
                assert_eq!(contents(&tributary).await, [""; 0], "{fate:?}");
            }
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
