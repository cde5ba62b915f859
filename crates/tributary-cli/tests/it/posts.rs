//! Posts that are read by their addresses, on every backend.

use serde_json::json;
use tributary::posts::{POSTS_MAX, PostAddress};
use tributary::{Limit, PageRequest, Post, PostId, Tributary, UserId};

use crate::support::fleet::every_backend;
use crate::support::http::TestServer;
use crate::support::{post_id, run, user_id};

fn address(author: UserId, post: PostId) -> PostAddress {
    PostAddress { author, post }
}

#[test]
fn posts_are_read_by_their_addresses() {
    run(async {
        for (backend, fleet) in every_backend().await {
            let node = fleet.open_for_writing().await;
            let mut posts: Vec<Post> = Vec::new();
            for author in [3, 1, 2, 1].map(user_id) {
                posts.push(node.publish(author, "text", None).await.unwrap().post);
            }
            let mut asked: Vec<PostAddress> =
                posts.iter().map(|post| address(post.key.author, post.key.post)).collect();
            // Absent: an id of another author, and a deleted post. Repeated: the first.
            asked.insert(1, address(user_id(3), posts[1].key.post));
            node.delete_post(user_id(2), posts[2].key.post).await.unwrap();
            posts.remove(2);
            asked.push(asked[0]);
            let found = node.posts(&asked).await.unwrap();
            assert_eq!((found.posts, found.rest), (posts, vec![]), "{backend:?}");
            assert!(found.missing.is_empty(), "{backend:?}");

            let many: Vec<PostAddress> =
                (0..110).map(|post| address(user_id(4), post_id(post))).collect();
            let found = node.posts(&many).await.unwrap();
            assert_eq!((found.posts, found.rest.as_slice()), (vec![], &many[POSTS_MAX..]));
            let long = "x".repeat(10_000);
            let mut asked = Vec::new();
            for _ in 0..4 {
                let key = node.publish(user_id(5), &long, None).await.unwrap().post.key;
                asked.push(address(key.author, key.post));
            }
            assert_eq!(node.posts(&asked).await.unwrap().posts.len(), 4, "{backend:?}");
        }
    });
}

/// The timeline from the page around a post on, up and down, is the whole timeline.
#[test]
fn a_page_around_a_post_leads_on_in_both_directions() {
    run(async {
        for (backend, fleet) in every_backend().await {
            drop(fleet.config_for_writing().await);
            let mut config = fleet.config_with_memory(32 << 20);
            config.write.enabled = true;
            let node = Tributary::open(&config).await.unwrap();
            let (reader, authors) = (user_id(1), [2, 3, 4, 6].map(user_id));
            let mut token = node.follow_all(reader, &authors[..3]).await.unwrap().freshness;
            let mut posts: Vec<Post> = Vec::new();
            for number in 0..24 {
                let published = node.publish(authors[number % 4], "text", None).await.unwrap();
                token.merge(&published.freshness);
                posts.push(published.post);
            }
            posts.sort_by_key(|post| std::cmp::Reverse(post.key));
            let feed: Vec<&Post> =
                posts.iter().filter(|post| post.key.author != authors[3]).collect();
            for limit in [1, 2, 5, 100] {
                let request = PageRequest::default().at_least(token.clone());
                let request = request.limit(Limit::new(limit).unwrap());
                for post in &posts {
                    let place = address(post.key.author, post.key.post);
                    let context = format!("{backend:?}, limit {limit}, {place}");
                    let page = node.home_timeline_around(reader, place, &request).await.unwrap();
                    let page = page.unwrap();
                    let above = feed.iter().filter(|other| other.key > post.key).count();
                    let limit = usize::from(limit);
                    let start = above - above.min(limit / 2);
                    let end = feed.len().min(above + limit - limit / 2);
                    assert!(page.posts.iter().eq(feed[start..end].iter().copied()), "{context}");
                    assert_eq!(page.next.is_none(), end == feed.len(), "{context}");
                    let older = match page.next {
                        None => Vec::new(),
                        Some(next) => {
                            let request = request.clone().from(next);
                            node.home_timeline(reader, &request).await.unwrap().posts
                        }
                    };
                    let expected = &feed[end..feed.len().min(end + limit)];
                    assert!(older.iter().eq(expected.iter().copied()), "{context}");
                    let above = request.clone().from(page.prev);
                    let newer = node.home_timeline(reader, &above).await.unwrap().posts;
                    let expected = &feed[start.saturating_sub(limit)..start];
                    assert!(newer.iter().eq(expected.iter().copied()), "{context}");
                }
            }
            let absent = address(authors[0], post_id(5));
            let request = PageRequest::default();
            let page = node.home_timeline_around(reader, absent, &request).await.unwrap();
            assert_eq!(page, None, "{backend:?}");
        }
    });
}

#[test]
fn the_route_of_posts_answers() {
    run(async {
        let (_, fleet) = every_backend().await.remove(0);
        let node = fleet.open_for_writing().await;
        let mut path = String::from("/v1/posts?posts=1:99");
        for author in [1, 2].map(user_id) {
            let key = node.publish(author, "text", None).await.unwrap().post.key;
            path += &format!(",{}", address(author, key.post));
        }
        let server = TestServer::start(node).await;
        let found = server.get(&path).await.json();
        let authors: Vec<_> =
            found["posts"].as_array().unwrap().iter().map(|post| &post["author_id"]).collect();
        assert_eq!(authors, ["1", "2"]);
        assert_eq!((&found["rest"], &found["complete"]), (&json!([]), &json!(true)));
        let around = server.get("/v1/users/9/feed?around=1:99").await;
        assert_eq!(around.problem(), (404, "not_found".to_owned()));
        for query in ["around=1", "around=1:2&explain=1", "around=1:2&cursor=AAAA"] {
            let answer = server.get(&format!("/v1/users/9/feed?{query}")).await;
            assert_eq!(answer.problem(), (400, "invalid_query".to_owned()), "{query}");
        }
        let many = vec!["1:1"; 101].join(",");
        for posts in ["", "1", "1:", "1:2,", "1:2:3", "-1:2", &many] {
            let answer = server.get(&format!("/v1/posts?posts={posts}")).await;
            assert_eq!(answer.problem(), (400, "invalid_query".to_owned()), "{posts}");
        }
    });
}
