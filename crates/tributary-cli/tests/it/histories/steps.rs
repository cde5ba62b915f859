//! The steps of a history, by a node or by another program.

use mysql_async::prelude::Queryable;
use rand::RngExt;
use tributary::internal::Follow;
use tributary::posts::{PostAddress, References};
use tributary::{Freshness, Post, PostKey, UserId};

use super::{History, USERS};
use crate::collapse::address;
use crate::graph::execute;
use crate::support::fleet::SHARDS;
use crate::support::{post_id, user_id};

/// With more posts, the next step deletes one.
const POSTS_MAX: usize = 60;

#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    Follows,
    Mutes,
    Blocks,
}

impl History<'_> {
    pub(super) async fn step(&mut self) {
        self.steps += 1;
        let by_others = self.chance.random_bool(0.4);
        let done = match self.chance.random_range(0..20) {
            _ if self.world.posts.len() > POSTS_MAX => self.delete(by_others).await,
            0..7 => self.change_list(by_others).await,
            7..12 if by_others => self.insert().await,
            7..12 => self.publish().await,
            12..16 => self.edit(by_others).await,
            16..18 => self.delete(by_others).await,
            _ => self.change_row().await,
        };
        self.token.merge(&done);
    }

    /// Adds a user to a list, or removes it.
    async fn change_list(&mut self, by_others: bool) -> Freshness {
        let (a, b) = (self.user(), self.user());
        let (owner, user) = (user_id(a), user_id(b));
        let (list, added) = match self.chance.random_range(0..8) {
            0..4 => (List::Follows, 0.8),
            4..6 => (List::Mutes, 0.5),
            _ => (List::Blocks, 0.4),
        };
        let is_added = self.chance.random_bool(added);
        self.note_list(list, (owner, user), is_added);
        if !by_others {
            return self.change_list_by_node(list, (owner, user), is_added).await;
        }
        let (table, of, other) = match list {
            List::Follows => ("followers", "follower_user_id", "followed_user_id"),
            List::Mutes => ("mutes", "muter_user_id", "muted_user_id"),
            List::Blocks => ("blocks", "blocker_user_id", "blocked_user_id"),
        };
        let ignore = if self.fleet.config_file.is_some() { "IGNORE" } else { "OR IGNORE" };
        let sql = match is_added {
            true => format!("INSERT {ignore} INTO D.{table} ({of}, {other}) VALUES ({a}, {b})"),
            false => format!("DELETE FROM D.{table} WHERE {of} = {a} AND {other} = {b}"),
        };
        self.sql(a, &sql).await
    }

    fn note_list(&mut self, list: List, pair: (UserId, UserId), is_added: bool) {
        let listed = match list {
            List::Follows => {
                let follow = Follow { follower: pair.0, followee: pair.1 };
                self.world.follows.retain(|known| *known != follow);
                self.world.follows.extend(is_added.then_some(follow));
                return;
            }
            List::Mutes => &mut self.world.mutes,
            List::Blocks => &mut self.world.blocks,
        };
        if is_added {
            listed.insert(pair);
        } else {
            listed.remove(&pair);
        }
        if list == List::Blocks {
            self.blocked.insert(pair, self.steps);
        }
    }

    async fn change_list_by_node(
        &mut self,
        list: List,
        (owner, user): (UserId, UserId),
        is_added: bool,
    ) -> Freshness {
        let node = self.node();
        match (list, is_added) {
            (List::Follows, true) => node.follow(owner, user).await.unwrap().freshness,
            (List::Follows, false) => node.unfollow(owner, user).await.unwrap(),
            (List::Mutes, true) => node.mute(owner, user).await.unwrap(),
            (List::Mutes, false) => node.unmute(owner, user).await.unwrap(),
            (List::Blocks, true) => node.block(owner, user).await.unwrap(),
            (List::Blocks, false) => node.unblock(owner, user).await.unwrap(),
        }
    }

    /// Few posts are reposted often. A post may refer to one that does not exist.
    fn references(&mut self) -> References {
        let few = self.world.posts.len().min(5);
        let other = match self.chance.random_range(0..8) {
            0 => Some(PostAddress { author: user_id(2), post: post_id(77_777) }),
            1..5 if few > 0 => Some(address(&self.world.posts[self.chance.random_range(0..few)])),
            _ => self.any_post().map(|post| address(&post)),
        };
        match self.chance.random_range(0..5) {
            0 => References { reply_to: other, repost_of: None },
            1..4 => References { reply_to: None, repost_of: other },
            _ => References::default(),
        }
    }

    fn text(&mut self, references: References) -> String {
        let is_plain = references.repost_of.is_some() && self.chance.random_bool(0.7);
        if is_plain { String::new() } else { format!("text {}", self.steps) }
    }

    async fn publish(&mut self) -> Freshness {
        let (node, author, references) = (self.node(), self.user(), self.references());
        let text = self.text(references);
        let done = node.publish_with(user_id(author), &text, references, None).await.unwrap();
        self.world.posts.push(done.post);
        done.freshness
    }

    /// Another program stores a post, often at the time of another one.
    async fn insert(&mut self) -> Freshness {
        let (author, references) = (self.user(), self.references());
        let content = self.text(references);
        let time = self.time();
        let id = 1 + self.chance.random_range(0..200);
        let is_taken = |post: &Post| {
            post.key.post.get() == id && post.key.author.get() % SHARDS == author % SHARDS
        };
        if self.world.posts.iter().chain(&self.hidden).any(is_taken) {
            return Freshness::default();
        }
        let key = PostKey { time, post: post_id(id), author: user_id(author) };
        let mut post = Post::new(key, content);
        post.references = references;
        let [reply_author, reply, repost_author, repost] = reference_values(references);
        let (names, values) = match references.is_empty() {
            true => ("", String::new()),
            false => (
                ", reply_to_user_id, reply_to_tweet_id, repost_of_user_id, repost_of_tweet_id",
                format!(", {reply_author}, {reply}, {repost_author}, {repost}"),
            ),
        };
        let sql = format!(
            "INSERT INTO D.tweets (tweet_id, user_id, content, timestamp{names}) \
             VALUES ({id}, {author}, '{}', {time}{values})",
            post.content
        );
        self.world.posts.push(post);
        self.sql(author, &sql).await
    }

    fn time(&mut self) -> i64 {
        let any = self.any_post().filter(|_| self.chance.random()).map(|post| post.key.time);
        any.unwrap_or_else(|| self.began + self.chance.random_range(-20..200))
    }

    async fn edit(&mut self, by_others: bool) -> Freshness {
        let Some(mut post) = self.any_post() else { return Freshness::default() };
        let (at, text) = (address(&post), format!("edited {}", self.steps));
        if !by_others {
            let edited = self.node().edit(at.author, at.post, &text).await.unwrap().unwrap();
            assert_eq!((edited.post.key, &edited.post.content), (post.key, &text));
            assert_eq!(edited.post.references, post.references);
            self.replace(at, edited.post);
            return edited.freshness;
        }
        let edited_at = self.chance.random_bool(0.5).then_some(self.began + 5);
        let edited = edited_at.map_or_else(|| "NULL".to_owned(), |at| at.to_string());
        (post.content, post.edited_at) = (text, edited_at);
        let set = format!("content = '{}', edited_at = {edited}", post.content);
        self.replace(at, post);
        self.update(at, &set).await
    }

    async fn delete(&mut self, by_others: bool) -> Freshness {
        let Some(post) = self.any_post() else { return Freshness::default() };
        let at = address(&post);
        self.world.posts.retain(|other| address(other) != at);
        if !by_others {
            return self.node().delete_post(at.author, at.post).await.unwrap();
        }
        let sql = format!("DELETE FROM D.tweets WHERE tweet_id = {}", at.post);
        self.sql(at.author.get(), &sql).await
    }

    /// Another program changes the time, the author or the references of a post, or hides it.
    async fn change_row(&mut self) -> Freshness {
        if self.hides_posts && self.chance.random() {
            return self.hide_or_show().await;
        }
        let Some(mut post) = self.any_post() else { return Freshness::default() };
        let at = address(&post);
        let set = match self.chance.random_range(0..3) {
            0 => {
                post.key.time = self.time();
                format!("timestamp = {}", post.key.time)
            }
            1 => {
                post.key.author = user_id((post.key.author.get() + SHARDS) % USERS);
                format!("user_id = {}", post.key.author)
            }
            _ => {
                post.references = self.references();
                let [reply_author, reply, repost_author, repost] =
                    reference_values(post.references);
                format!(
                    "reply_to_user_id = {reply_author}, reply_to_tweet_id = {reply}, \
                     repost_of_user_id = {repost_author}, repost_of_tweet_id = {repost}"
                )
            }
        };
        self.replace(at, post);
        self.update(at, &set).await
    }

    /// Another program hides a post, edits a hidden one, or shows it again.
    async fn hide_or_show(&mut self) -> Freshness {
        let visible = self.any_post().filter(|_| self.hidden.len() < 6);
        if let Some(post) = visible.filter(|_| self.chance.random()) {
            let at = address(&post);
            self.world.posts.retain(|other| address(other) != at);
            self.hidden.push(post);
            return self.update(at, "hidden = 1").await;
        }
        let Some(mut post) = self.hidden.pop() else { return Freshness::default() };
        let at = address(&post);
        let node = self.node();
        assert_eq!(node.edit(at.author, at.post, "never").await, Ok(None));
        post.content = format!("hidden {}", self.steps);
        let set = format!("content = '{}'", post.content);
        let edited = self.update(at, &set).await;
        self.token.merge(&edited);
        self.world.posts.push(post);
        self.update(at, "hidden = 0").await
    }

    fn replace(&mut self, at: PostAddress, by: Post) {
        let post = self.world.posts.iter_mut().find(|post| address(post) == at);
        *post.unwrap() = by;
    }

    async fn update(&mut self, at: PostAddress, set: &str) -> Freshness {
        let sql = format!("UPDATE D.tweets SET {set} WHERE tweet_id = {}", at.post);
        self.sql(at.author.get(), &sql).await
    }

    /// Executes a statement as another program would. On servers, some programs log no whole rows.
    async fn sql(&mut self, user: u64, sql: &str) -> Freshness {
        let image = match self.chance.random_range(0..10) {
            0..2 => Some("binlog_row_image = 'MINIMAL'"),
            2 => Some("binlog_format = 'STATEMENT'"),
            _ => None,
        };
        let shard = usize::try_from(user % SHARDS).unwrap();
        match (self.fleet.databases.get(shard), image) {
            (Some((server, database)), Some(image)) => {
                let mut connection = server.connect().await;
                connection.query_drop(format!("SET SESSION {image}")).await.unwrap();
                let sql = sql.replace("D.", &format!("{database}."));
                connection.query_drop(sql).await.unwrap();
                connection.disconnect().await.unwrap();
                self.unlogged += 1;
            }
            _ => execute(self.fleet, user, sql).await,
        }
        self.node().freshness(user_id(user)).await
    }
}

/// The values of the reference columns as SQL.
fn reference_values(references: References) -> [String; 4] {
    let [reply, repost] = [references.reply_to, references.repost_of];
    let author = |at: Option<PostAddress>| at.map(|at| at.author.to_string());
    let post = |at: Option<PostAddress>| at.map(|at| at.post.to_string());
    [author(reply), post(reply), author(repost), post(repost)]
        .map(|value| value.unwrap_or_else(|| "NULL".to_owned()))
}
