//! Posts that are read by their addresses, on every backend.

use serde_json::json;
use tributary::posts::{POSTS_MAX, PostAddress};
use tributary::{Post, PostId, UserId};

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
            let found = node.posts(&asked).await;
            assert_eq!((found.posts, found.rest), (posts, vec![]), "{backend:?}");
            assert!(found.missing.is_empty(), "{backend:?}");

            let many: Vec<PostAddress> =
                (0..110).map(|post| address(user_id(4), post_id(post))).collect();
            let found = node.posts(&many).await;
            assert_eq!((found.posts, found.rest.as_slice()), (vec![], &many[POSTS_MAX..]));
            let long = "x".repeat(10_000);
            let mut asked = Vec::new();
            for _ in 0..4 {
                let key = node.publish(user_id(5), &long, None).await.unwrap().post.key;
                asked.push(address(key.author, key.post));
            }
            assert_eq!(node.posts(&asked).await.posts.len(), 4, "{backend:?}");
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
        let many = vec!["1:1"; 101].join(",");
        for posts in ["", "1", "1:", "1:2,", "1:2:3", "-1:2", &many] {
            let answer = server.get(&format!("/v1/posts?posts={posts}")).await;
            assert_eq!(answer.problem(), (400, "invalid_query".to_owned()), "{posts}");
        }
    });
}
