//! One connection of a run: sends requests when they are due, and checks the replies.

use std::cell::RefCell;
use std::fmt::Write;
use std::rc::Rc;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tributary::Cursor;

use super::check::{CheckedRequest, check};
use super::client::{Client, Reply, Request};
use super::drive::LoadRun;
use super::known::{Deletable, Deletion, KnownRows, WrittenPost};
use super::mix::RequestKind;
use super::page::{cursor, read_page, read_post};
use super::probe::Probe;
use super::schedule::Schedule;
use super::words;
use super::world::CHURN_EVERY;

/// Characters of the seal at the end of a cursor (decision 14). The check of a page reads the text
/// before it.
const SEAL_CHARACTERS: usize = 24;

/// Authors drawn at most to find one that the reader can newly follow.
const FOLLOW_TRIES: u32 = 8;

/// A connection with a random stream of its own.
pub(super) struct Worker {
    run: Rc<LoadRun>,
    client: Client,
    random: StdRng,
    /// The next request, if it is fixed already; otherwise the mix draws one.
    next: Option<PlannedRequest>,
    path: String,
}

/// A page to read.
struct PlannedRequest {
    kind: RequestKind,
    reader: u32,
    /// The requested page size, in posts.
    limit: usize,
    /// Empty for the newest page.
    cursor: String,
    /// Whether the page is always checked, whatever `check_every` says.
    checked: bool,
}

impl Worker {
    pub(super) fn new(run: Rc<LoadRun>, number: usize) -> Self {
        let client = Client::new(run.target.clone());
        let random = StdRng::seed_from_u64(run.plan.seed ^ ((number as u64 + 1) << 32));
        Self { run, client, random, next: None, path: String::new() }
    }

    /// Sends requests of the mix until the schedule ends or the run is void.
    pub(super) async fn work(mut self, schedule: Rc<Schedule>) {
        while let Some(due) = schedule.due().await {
            self.send_next(due).await;
            if self.run.is_void() {
                return;
            }
        }
    }

    /// Posts as the storm author until the schedule ends or the run is void.
    pub(super) async fn storm(mut self, schedule: Rc<Schedule>) {
        let run = Rc::clone(&self.run);
        let Some(known) = &run.known else { return };
        let author = known.borrow().world.size.storm_author();
        while let Some(due) = schedule.due().await {
            self.post(RequestKind::Storm, author, None, due).await;
            if run.is_void() {
                return;
            }
        }
    }

    async fn send_next(&mut self, due: Instant) {
        if let Some(planned) = self.next.take() {
            return self.read(planned, due).await;
        }
        let reader = self.run.readers.choose(&mut self.random);
        let kind = self.run.plan.mix.choose(&mut self.random);
        let run = Rc::clone(&self.run);
        let Some(known) = &run.known else { return self.read_first(kind, reader, due).await };
        match kind {
            RequestKind::Post => {
                let author = {
                    let known = known.borrow();
                    let followees = known.world.followees(reader);
                    let index = self.random.random_range(0..followees.len().max(1));
                    followees.get(index).copied()
                };
                let (author, follower) = author.map_or((reader, None), |a| (a, Some(reader)));
                self.post(kind, author, follower, due).await;
            }
            RequestKind::Delete => self.delete(known, due).await,
            RequestKind::Follow => self.follow_or_unfollow(known, reader, due).await,
            _ => self.read_first(kind, reader, due).await,
        }
    }

    /// Reads a page. A poll becomes a newest page if the reader has no `prev` cursor yet.
    async fn read_first(&mut self, kind: RequestKind, reader: u32, due: Instant) {
        let polls = if kind == RequestKind::Poll {
            self.run.polls.borrow().get(reader as usize).cloned().unwrap_or_default()
        } else {
            String::new()
        };
        let kind =
            if kind == RequestKind::Poll && polls.is_empty() { RequestKind::Newest } else { kind };
        let limit = kind.limit(self.run.take_turn(reader));
        self.read(PlannedRequest { kind, reader, limit, cursor: polls, checked: false }, due).await;
    }

    async fn read(&mut self, read: PlannedRequest, due: Instant) {
        let Self { run, client, random, next, path } = self;
        path.clear();
        let _ = write!(path, "/v1/users/{}/feed?limit={}", read.reader, read.limit);
        if !run.plan.query.is_empty() {
            let _ = write!(path, "&{}", run.plan.query);
        }
        if !read.cursor.is_empty() {
            let _ = write!(path, "&cursor={}", read.cursor);
        }
        run.pages.set(run.pages.get() + 1);
        let drawn = run.pages.get().is_multiple_of(run.plan.check_every.max(1));
        let chosen = run.known.is_some() && (drawn || read.checked);
        let tokens = if chosen { run.tokens.borrow().header() } else { None };
        let sent = run.now();
        let request = Request { freshness: tokens.as_deref().unwrap_or(""), ..Request::get(path) };
        let Some(reply) = exchange_ok(run, client, request, (read.kind, due)).await else {
            return;
        };
        if let Some(prev) = cursor(reply.body, "prev")
            && let Some(poll) = run.polls.borrow_mut().get_mut(read.reader as usize)
            // A next page's `prev` would lead back to posts that the reader has seen.
            && read.kind != RequestKind::Next
        {
            poll.clear();
            poll.push_str(prev);
        }
        if read.kind == RequestKind::Newest && run.plan.mix.reads_next_page(random) {
            let next_page = |next: &str| PlannedRequest {
                kind: RequestKind::Next,
                reader: read.reader,
                limit: read.limit,
                cursor: next.to_owned(),
                checked: false,
            };
            *next = cursor(reply.body, "next").map(next_page);
        }
        if let (Some(known), Some(_)) = (&run.known, tokens) {
            let wrong = check_page(run, known, &read, sent, reply.body);
            if let Err(wrong) = wrong {
                run.void(format!("GET {path}: {wrong}"));
            }
        }
    }

    async fn post(&mut self, kind: RequestKind, author: u32, follower: Option<u32>, due: Instant) {
        let Self { run, client, path, .. } = self;
        run.texts.set(run.texts.get() + 1);
        let content = words::text(run.plan.seed ^ run.texts.get(), run.texts.get());
        let body = json!({ "content": content }).to_string();
        path.clear();
        let _ = write!(path, "/v1/users/{author}/posts");
        let sent = run.now();
        let request = Request { method: "POST", path, freshness: "", body: &body };
        let Some(reply) = exchange_ok(run, client, request, (kind, due)).await else { return };
        let (stored, now) = (Instant::now(), run.now());
        let Some((key, text)) = read_post(reply.body) else {
            return run.void(format!("POST {path}: the reply is not a post"));
        };
        if text != content || key.author.get() != u64::from(author) {
            return run.void(format!("POST {path}: the reply is a different post than was sent"));
        }
        if let Some(token) = reply.freshness {
            run.tokens.borrow_mut().add(author, sent, now, token);
        }
        // A post that the probe waits for must not be deleted, so it gets every other one.
        let watched = follower.filter(|_| run.texts.get() % 2 == 0).is_some_and(|reader| {
            let probes = run.probes.borrow();
            probes.as_ref().is_some_and(|p| p.try_send(Probe { reader, key, stored }).is_ok())
        });
        if let Some(known) = &run.known {
            let written = WrittenPost { key, content, stored: now, deletion: Deletion::None };
            known.borrow_mut().posted(author, written, follower.filter(|_| !watched));
        }
    }

    async fn delete(&mut self, known: &RefCell<KnownRows>, due: Instant) {
        let any = self.random.random_range(0..usize::MAX);
        let chosen = known.borrow_mut().begin_delete(any);
        // If no post may be deleted yet, a poll is sent instead.
        let Some(Deletable { author, post, reader }) = chosen else {
            let reader = self.run.readers.choose(&mut self.random);
            return self.read_first(RequestKind::Poll, reader, due).await;
        };
        let path = format!("/v1/users/{author}/posts/{post}");
        let done =
            self.write_without_body("DELETE", &path, author, (RequestKind::Delete, due)).await;
        known.borrow_mut().end_delete(author, post, self.run.now(), done);
        // Deletes are rare, so each is checked: a follower of the author reads its newest page.
        let (kind, cursor) = (RequestKind::Newest, String::new());
        let limit = kind.limit(0);
        self.next = Some(PlannedRequest { kind, reader, limit, cursor, checked: true });
    }

    async fn follow_or_unfollow(&mut self, known: &RefCell<KnownRows>, reader: u32, due: Instant) {
        let unfollow =
            self.random.random_bool(0.5).then(|| self.random.random_range(0..usize::MAX));
        let ended = unfollow.and_then(|any| known.borrow_mut().begin_unfollow(any));
        let (method, pair) = match ended {
            Some(pair) => ("DELETE", pair),
            None => match self.choose_new_followee(known, reader) {
                Some(author) => ("PUT", (reader, author)),
                None => return self.read_first(RequestKind::Poll, reader, due).await,
            },
        };
        let path = format!("/v1/users/{}/following/{}", pair.0, pair.1);
        let done = self.write_without_body(method, &path, pair.0, (RequestKind::Follow, due)).await;
        known.borrow_mut().end_follow_change(pair, self.run.now(), done);
    }

    /// Draws an author that the reader does not follow yet, and reserves the follow.
    fn choose_new_followee(&mut self, known: &RefCell<KnownRows>, reader: u32) -> Option<u32> {
        let mut known = known.borrow_mut();
        let groups = known.world.size.users / CHURN_EVERY;
        let author = |random: &mut StdRng| random.random_range(1..=groups.max(1)) * CHURN_EVERY;
        let mut tries = (0..FOLLOW_TRIES).map(|_| author(&mut self.random));
        tries.find(|author| known.begin_follow(reader, *author))
    }

    /// Sends a write without a body. True if it was acknowledged.
    async fn write_without_body(
        &mut self,
        method: &str,
        path: &str,
        user: u32,
        of: (RequestKind, Instant),
    ) -> bool {
        let Self { run, client, .. } = self;
        let sent = run.now();
        let request = Request { method, ..Request::get(path) };
        let Some(reply) = exchange_ok(run, client, request, of).await else { return false };
        if let Some(token) = reply.freshness {
            run.tokens.borrow_mut().add(user, sent, run.now(), token);
        }
        true
    }
}

/// Sends a request and returns the reply if its status is 2xx or 304. Other outcomes are recorded
/// as failures. The latency is recorded before the reply is checked.
async fn exchange_ok<'a>(
    run: &LoadRun,
    client: &'a mut Client,
    request: Request<'_>,
    (kind, due): (RequestKind, Instant),
) -> Option<Reply<'a>> {
    let reply = client.exchange(request).await;
    let mut record = run.record.borrow_mut();
    match reply {
        Ok(reply) if (200..300).contains(&reply.status) || reply.status == 304 => {
            record.answered(kind, due, reply.body.len());
            Some(reply)
        }
        Ok(reply) => {
            record.failed(kind, due, &format!("status {}", reply.status));
            None
        }
        Err(error) => {
            record.failed(kind, due, &format!("{error:#}"));
            None
        }
    }
}

/// Compares a page with the known rows. Incomplete pages are only counted.
fn check_page(
    run: &LoadRun,
    known: &RefCell<KnownRows>,
    read: &PlannedRequest,
    sent: u64,
    body: &[u8],
) -> Result<(), String> {
    let cursor = match read.cursor.as_str() {
        "" => Cursor::newest(),
        sealed => {
            let end = sealed.len().saturating_sub(SEAL_CHARACTERS);
            let text = sealed.get(..end).unwrap_or_default();
            text.parse().map_err(|_| "its cursor cannot be parsed".to_owned())?
        }
    };
    let (seen, complete) = read_page(body)?;
    let mut record = run.record.borrow_mut();
    if !complete || !cursor.shard_edges.is_empty() {
        record.incomplete += 1;
        return Ok(());
    }
    record.checked += 1;
    let request = CheckedRequest { reader: read.reader, cursor, limit: read.limit, sent };
    check(&known.borrow(), &request, &seen)
}
