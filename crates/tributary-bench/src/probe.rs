//! The probe: measures the time from a post's 201 until a follower sees the post.
//!
//! On a connection of its own it polls the follower's newest page, without a freshness token.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::sleep;
use tributary::PostKey;

use super::client::{Client, Request};
use super::drive::LoadRun;
use super::page::{read_page, shows};

/// The pause between two requests.
const PAUSE: Duration = Duration::from_millis(1);
/// A post that is not visible after this time counts as lost and voids the run.
const VISIBLE_WITHIN: Duration = Duration::from_secs(5);

/// A post to wait for.
#[derive(Debug)]
pub(super) struct Probe {
    /// A follower of the author.
    pub(super) reader: u32,
    pub(super) key: PostKey,
    /// When its 201 was received.
    pub(super) stored: Instant,
}

/// Waits for one post after the other until the channel is closed.
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
                // If newer posts fill the page, or a shard is missing, absence proves nothing.
                let page = read_page(reply.body);
                let proves_absence = page.as_ref().is_ok_and(|(seen, complete)| {
                    *complete && seen.posts.last().is_none_or(|(last, _)| *last < post.key)
                });
                if !proves_absence {
                    return;
                }
            }
            // The workers count failures; the probe only skips the post.
            _ => return,
        }
        if post.stored.elapsed() > VISIBLE_WITHIN {
            let seconds = VISIBLE_WITHIN.as_secs();
            let key = post.key;
            return run.void(format!(
                "GET {path}: post {} of user {} is not visible {seconds} s after its 201",
                key.post, key.author
            ));
        }
        sleep(PAUSE).await;
    }
}
