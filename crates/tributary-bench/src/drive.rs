//! A run: many connections on one thread send the requests of a mix and check the replies.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::future::try_join_all;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::sleep_until;

use super::client::{Client, Request, Target};
use super::freshness::Tokens;
use super::known::{KnownRows, RunMicros};
use super::mix::{Mix, Readers, RequestKind, STORM_RATE};
use super::page::cursor;
use super::probe::{Probe, probe};
use super::process::{Usage, usage};
use super::record::{Record, micros};
use super::report::{Report, RunUsage};
use super::schedule::Schedule;
use super::tokens::UserTokens;
use super::worker::Worker;
use super::world::World;

/// Connections that post as the storm author.
const STORM_CONNECTIONS: usize = 8;

/// The load of one run.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// The server's address: `http://host:port`.
    pub url: String,
    /// The server's address for operators, which has its metrics; none if empty.
    pub admin_url: String,
    /// Which requests are sent, and how often each.
    pub mix: Mix,
    /// Requests per second; `None` means as many as the connections can send.
    pub rate: Option<f64>,
    /// Connections that are kept open.
    pub connections: usize,
    /// Length of the measured part, in seconds.
    pub seconds: f64,
    /// Seconds of load before the measured part.
    pub warmup: f64,
    /// The seed of the requests.
    pub seed: u64,
    /// One page in `check_every` is checked; none if it is 0.
    pub check_every: u64,
    /// The process ids of the server, on this machine.
    pub server_pids: Vec<u32>,
    /// Whether all pages are answered 304, as if the client had them.
    pub known: bool,
    /// The tokens of the users; without them all requests have one credential, or none.
    pub tokens: Option<UserTokens>,
    /// Parameters that each page has in addition; empty if none.
    pub query: String,
}

/// The state that all connections of a run share.
pub(super) struct LoadRun {
    pub(super) plan: LoadPlan,
    pub(super) target: Target,
    pub(super) readers: Readers,
    pub(super) record: RefCell<Record>,
    pub(super) known: Option<RefCell<KnownRows>>,
    pub(super) tokens: RefCell<Tokens>,
    /// By reader, the `prev` cursor of its last page, for the next poll; empty if there is none.
    pub(super) polls: RefCell<Vec<String>>,
    /// By reader, the number of its requests so far.
    turns: RefCell<Vec<usize>>,
    /// Pages requested so far.
    pub(super) pages: Cell<u64>,
    /// Texts generated so far.
    pub(super) texts: Cell<u64>,
    /// Sends new posts to the probe, which measures when they become visible.
    pub(super) probes: RefCell<Option<mpsc::Sender<Probe>>>,
    /// Why the run is void. The connections stop as soon as it is set.
    void_reason: RefCell<Option<String>>,
    began: Instant,
}

impl LoadRun {
    pub(super) fn now(&self) -> RunMicros {
        micros(self.began.elapsed())
    }

    /// Counts a request of this reader. Returns the number of requests before it.
    pub(super) fn take_turn(&self, reader: u32) -> usize {
        let mut turns = self.turns.borrow_mut();
        turns.get_mut(reader as usize).map_or(0, |turn| std::mem::replace(turn, *turn + 1))
    }

    /// Ends the run because a reply was wrong. The first reason is kept.
    pub(super) fn void(&self, why: String) {
        self.void_reason.borrow_mut().get_or_insert(why);
    }

    pub(super) fn is_void(&self) -> bool {
        self.void_reason.borrow().is_some()
    }
}

/// Sends the load to the server and returns the measurements. Replies are checked only if `world`
/// is given.
///
/// # Errors
/// If a reply is wrong, which voids the run; if the server cannot be reached, or if no request
/// succeeds.
pub fn drive(plan: LoadPlan, world: Option<World>, users: u32) -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, run(plan, world, users))
}

async fn run(plan: LoadPlan, world: Option<World>, users: u32) -> Result<Report> {
    let target = Target::find(&plan.url).await?.with_tokens(plan.tokens.clone());
    let shards = shards(&target).await?;
    let readers = Readers::new(users, plan.seed);
    let polls = polls(&plan, &target, &readers, users).await?;
    let target = target.with_known(plan.known);
    let start = Instant::now();
    let from = start + Duration::from_secs_f64(plan.warmup);
    let end = from + Duration::from_secs_f64(plan.seconds);
    let (probes, posts) = mpsc::channel(1);
    let run = Rc::new(LoadRun {
        target,
        readers,
        record: RefCell::new(Record::new(from, end)),
        known: world.map(|world| RefCell::new(KnownRows::new(world))),
        tokens: RefCell::new(Tokens::new(shards)),
        polls: RefCell::new(polls),
        turns: RefCell::new(vec![0; users as usize + 1]),
        pages: Cell::new(0),
        texts: Cell::new(0),
        probes: RefCell::new(plan.mix.writes().then_some(probes)),
        void_reason: RefCell::new(None),
        began: start,
        plan,
    });
    let schedule = Rc::new(Schedule::new(run.plan.rate, start, end, run.plan.seed));
    let mut tasks = JoinSet::new();
    for number in 0..run.plan.connections {
        let worker = Worker::new(Rc::clone(&run), number);
        tasks.spawn_local(worker.work(Rc::clone(&schedule)));
    }
    if run.plan.mix == Mix::Storm {
        let schedule =
            Rc::new(Schedule::new(Some(STORM_RATE), start, end, run.plan.seed.wrapping_add(1)));
        for number in 0..STORM_CONNECTIONS {
            let worker = Worker::new(Rc::clone(&run), run.plan.connections + number);
            tasks.spawn_local(worker.storm(Rc::clone(&schedule)));
        }
    }
    let probe_task = tokio::task::spawn_local(probe(Rc::clone(&run), posts));
    let used = tokio::task::spawn_local(measure(run.plan.server_pids.clone(), from, end));
    while let Some(ended) = tasks.join_next().await {
        ended.context("a connection's task failed")?;
    }
    // The probe ends when its last sender is dropped.
    run.probes.borrow_mut().take();
    probe_task.await.context("the probe task failed")?;
    if let Some(void_reason) = run.void_reason.borrow_mut().take() {
        used.abort();
        bail!("{void_reason}\nThe run is void: an answer was wrong.");
    }
    let used = used.await.context("the task that measures processes failed")?;
    let unsent = schedule.unsent().await;
    let memory = memory(&run.plan.admin_url).await;
    let run = Rc::into_inner(run).context("a task did not end")?;
    let record = run.record.into_inner();
    if record.answers == 0 {
        let failure = record.failures.keys().next().map_or("", String::as_str);
        bail!("no request to {} succeeded, for example: {failure}", run.plan.url);
    }
    Ok(Report { plan: run.plan, record, used, unsent, memory })
}

/// The first `prev` cursor of every reader. For the mix `poll` it is read from the server; for
/// other mixes it is empty.
async fn polls(
    plan: &LoadPlan,
    target: &Target,
    readers: &Readers,
    users: u32,
) -> Result<Vec<String>> {
    let mut polls = vec![String::new(); users as usize + 1];
    if plan.mix != Mix::Poll {
        return Ok(polls);
    }
    let parts = readers.all().chunks(readers.all().len().div_ceil(plan.connections).max(1));
    let read = parts.map(|part| newest_pages(target.clone(), part));
    for (reader, prev) in try_join_all(read).await?.into_iter().flatten() {
        if let Some(poll) = polls.get_mut(reader as usize) {
            *poll = prev;
        }
    }
    Ok(polls)
}

/// Reads the newest pages of these readers and returns their `prev` cursors.
async fn newest_pages(target: Target, readers: &[u32]) -> Result<Vec<(u32, String)>> {
    let mut client = Client::new(target);
    let mut polls = Vec::new();
    for reader in readers {
        let path = format!("/v1/users/{reader}/feed?limit={}", RequestKind::Newest.limit(0));
        let reply = client.exchange(Request::get(&path)).await?;
        let prev = cursor(reply.body, "prev").context("a page has no `prev` cursor")?;
        polls.push((*reader, prev.to_owned()));
    }
    Ok(polls)
}

/// Measures the resources that the server's processes and this one use from `from` to `to`.
async fn measure(processes: Vec<u32>, from: Instant, to: Instant) -> RunUsage {
    let own = [std::process::id()];
    sleep_until(from.into()).await;
    let (server, client) = (usage(&processes), usage(&own));
    sleep_until(to.into()).await;
    let spent = |before: Option<Usage>, after: Option<Usage>| {
        Some(after?.cpu_seconds - before?.cpu_seconds)
    };
    let server_after = usage(&processes);
    RunUsage {
        server_seconds: spent(server, server_after),
        server_bytes: server_after.map(|usage| usage.resident_bytes),
        client_seconds: spent(client, usage(&own)),
    }
}

/// The number of shards that `/readyz` lists; 1 if it has no such list.
async fn shards(target: &Target) -> Result<usize> {
    let mut client = Client::new(target.clone());
    let reply = client.exchange(Request::get("/readyz")).await?;
    let ready: Option<serde_json::Value> = serde_json::from_slice(reply.body).ok();
    let shards = ready.as_ref().and_then(|ready| ready.get("shards")?.as_array());
    Ok(shards.map_or(1, Vec::len))
}

/// The server's memory metrics: the lines of `/metrics` that begin with `tributary_memory_`.
async fn memory(admin_url: &str) -> Vec<(String, f64)> {
    let Ok(target) = Target::find(admin_url).await else { return Vec::new() };
    let mut client = Client::new(target);
    let Ok(reply) = client.exchange(Request::get("/metrics")).await else { return Vec::new() };
    let text = std::str::from_utf8(reply.body).unwrap_or_default();
    let lines = text.lines().filter(|line| line.starts_with("tributary_memory_"));
    let value = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    lines.filter_map(value).collect()
}
