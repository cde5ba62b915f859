//! How long a post that was acknowledged takes until a follower sees it: a reader who asks again
//! and again, without a freshness token, on a connection of its own.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::client::{Client, Request};
use super::drive::LoadRun;
use super::page::{read_page, shows};
use crate::model::PostKey;

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(1);
/// A post that is not seen by then is lost.
const VISIBLE_WITHIN: Duration = Duration::from_secs(5);

/// A post to be seen.
#[derive(Debug)]
pub(super) struct Probe {
    /// A follower of the author.
    pub(super) reader: u32,
    pub(super) key: PostKey,
    /// When its 201 came.
    pub(super) stored: Instant,
}

/// Watches one post after the other until no more come.
pub(super) async fn probe(run: Rc<LoadRun>, mut posts: mpsc::Receiver<Probe>) {
    let mut client = Client::new(run.target.clone());
    while let Some(post) = posts.recv().await {
        watch(&run, &mut client, &post).await;
    }
}

async fn watch(run: &LoadRun, client: &mut Client, post: &Probe) {
    let path = format!("/v1/users/{}/feed", post.reader);
    while !run.is_void() {
        match client.exchange(Request::get(&path)).await {
            Ok(reply) if reply.status == 200 => {
                let mut record = run.record.borrow_mut();
                record.probe_answered();
                if shows(reply.body, post.key) {
                    return record.became_visible(post.stored);
                }
                // Newer posts may fill the page, or its shard be gone: then nothing can be said.
                let page = read_page(reply.body);
                let told = page.as_ref().is_ok_and(|(seen, complete)| {
                    *complete && seen.posts.last().is_none_or(|(last, _)| *last < post.key)
                });
                if !told {
                    return;
                }
            }
            // What fails here fails for the others too, who count it.
            _ => return,
        }
        if post.stored.elapsed() > VISIBLE_WITHIN {
            let seconds = VISIBLE_WITHIN.as_secs();
            let key = post.key;
            return run.void(format!(
                "GET {path}: post {} of user {} is not there {seconds} s after its 201",
                key.post, key.author
            ));
        }
        sleep(PAUSE).await;
    }
}
