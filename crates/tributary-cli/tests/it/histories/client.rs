//! A client that keeps a timeline as `docs/api.md` says: it reads the pages once, and then applies
//! the news.

use std::collections::BTreeMap;

use tributary::news::{NewsEvent, NewsRequest};
use tributary::posts::PostAddress;
use tributary::{Freshness, Limit, PageRequest, Post, Tributary, UserId};

use super::Blocked;
use crate::collapse::address;
use crate::support::watch::until_followed;

pub(super) struct Client {
    pub(super) reader: UserId,
    since: Freshness,
    posts: BTreeMap<PostAddress, Post>,
    /// The step after which the pages were read.
    read_at: usize,
    /// The step after which the client last asked, and the steps until then whose rows no log
    /// contains as a whole.
    asked_at: usize,
    unlogged: usize,
}

impl Client {
    pub(super) async fn begin(node: &Tributary, reader: UserId, token: &Freshness) -> Self {
        let since = until_followed(node, reader, token).await;
        let (posts, [read_at, asked_at, unlogged]) = (BTreeMap::new(), [0; 3]);
        let mut client = Self { reader, since, posts, read_at, asked_at, unlogged };
        client.read(node, token.clone(), 0).await;
        client
    }

    /// Reads all pages, at least as of this token.
    async fn read(&mut self, node: &Tributary, token: Freshness, step: usize) {
        let mut request = PageRequest::default().at_least(token);
        request.limit = Limit::new(100).unwrap();
        self.posts.clear();
        self.read_at = step;
        loop {
            let page = node.home_timeline(self.reader, &request).await.unwrap();
            assert!(page.is_complete() && page.fresh_enough, "{page:?}");
            self.posts.extend(page.posts.into_iter().map(|post| (address(&post), post)));
            let Some(next) = page.next else { return };
            request.cursor = next;
        }
    }

    /// Applies the news up to this token. Returns whether there was a gap.
    pub(super) async fn ask(
        &mut self,
        node: &Tributary,
        token: &Freshness,
        (step, unlogged): (usize, usize),
        blocked: &Blocked,
    ) -> bool {
        let mut had_gap = false;
        // The end of a block by a followee is a gap, too.
        let is_new = |((_, reader), at): (&(UserId, UserId), &usize)| {
            *reader == self.reader && *at > self.asked_at
        };
        let may_have_gap = unlogged > self.unlogged || blocked.iter().any(is_new);
        loop {
            let request = NewsRequest::since(self.since.clone()).at_least(token.clone());
            let news = node.news(self.reader, &request).await.unwrap();
            assert!(news.is_complete() && !news.freshness_lost, "step {step}: {news:?}");
            self.since = news.freshness.clone();
            if news.gap {
                // Every other change of a row that the log contains is an event.
                assert!(may_have_gap, "step {step}, reader {}: gap", self.reader);
                had_gap = true;
                self.read(node, with(&news.freshness, token), step).await;
            }
            for event in &news.events {
                self.apply(event, node, (token, step)).await;
            }
            if !news.more {
                (self.asked_at, self.unlogged) = (step, unlogged);
                return had_gap;
            }
        }
    }

    async fn apply(
        &mut self,
        event: &NewsEvent,
        node: &Tributary,
        (token, step): (&Freshness, usize),
    ) {
        match event {
            NewsEvent::Post(post) | NewsEvent::Update(post) => {
                let post = post.to_post();
                self.posts.insert(address(&post), post);
            }
            NewsEvent::Delete { author, post } => {
                self.posts.remove(&PostAddress { author: *author, post: *post });
            }
            NewsEvent::Unfollow { user, .. }
            | NewsEvent::Mute { user, .. }
            | NewsEvent::Block { user, .. } => self.posts.retain(|at, _| at.author != *user),
            NewsEvent::Follow { freshness, .. }
            | NewsEvent::Unmute { freshness, .. }
            | NewsEvent::Unblock { freshness, .. } => {
                self.read(node, with(freshness, token), step).await;
            }
        }
    }

    /// Compares the posts with the whole timeline. A new block by an author is no event for the
    /// reader, so an author whose block has changed since the pages were read is skipped.
    pub(super) fn check(&self, feed: &[Post], blocked: &Blocked, step: usize) {
        let is_known = |post: &&Post| {
            let changed = blocked.get(&(post.key.author, self.reader));
            changed.is_none_or(|changed| *changed <= self.read_at)
        };
        let mut posts: Vec<&Post> = self.posts.values().filter(is_known).collect();
        posts.sort_by_key(|post| std::cmp::Reverse(post.key));
        let feed: Vec<&Post> = feed.iter().filter(is_known).collect();
        assert_eq!(posts, feed, "step {step}, reader {}", self.reader);
    }
}

fn with(token: &Freshness, other: &Freshness) -> Freshness {
    let mut both = token.clone();
    both.merge(other);
    both
}
