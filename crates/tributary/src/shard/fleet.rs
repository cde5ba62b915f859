//! The fleet: all shards together, with placement, scatter-gather and health.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex as SyncMutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::{join_all, ready};
use thiserror::Error;
use tracing::debug;

use super::cold_pages::ColdPages;
use super::gate::Gate;
use super::logins::NextLogins;
#[cfg(feature = "mysql")]
use super::mysql::{Database, MySqlSource, Server};
use super::queue::{ConnectionStats, Permit, QueueStats, Turn};
#[cfg(feature = "sqlite")]
use super::sqlite::{Folder, SqliteShard, SqliteSource};
use super::{Access, CostLog, Deadline, Shard, ShardError, Source, Store};
use crate::clock::now_ms;
#[cfg(feature = "sqlite")]
use crate::config::Embedded;
use crate::config::{Config, ConfigError, FleetConfig, Future as PostsOfTheFuture};
use crate::horizon::Horizon;
use crate::model::{Post, PostId, ShardId, UserId, UserList};
use crate::moment::PostTimes;
use crate::placement::Placement;
use crate::tasks::{Tasks, blocking};

/// Minimum age at which an idempotency key is deleted: one day. Clients repeat a request within
/// minutes.
const KEY_RETENTION_MS: i64 = 24 * 60 * 60 * 1_000;
/// Idempotency keys deleted per statement, so that no lock is held for long.
const EXPIRE_BATCH: u32 = 1_000;
/// Pause between two rounds of deleting old keys.
const EXPIRE_PAUSE: Duration = Duration::from_secs(5);
/// Time limit of one such statement. No request waits for it.
const EXPIRE_DEADLINE: Duration = Duration::from_secs(10);

/// Shards of a server that one statement reads at most. Each set of shards needs another prepared
/// statement, and four have eleven sets.
pub(super) const JOINT_SHARDS_MAX: usize = 4;

/// Pause between two looks at the files of SQLite shards.
#[cfg(feature = "sqlite")]
const WATCH_PAUSE: Duration = Duration::from_millis(500);

/// The error for a kind of database that the features of this build exclude.
#[cfg(not(all(feature = "mysql", feature = "sqlite")))]
const NOT_BUILT: &str = "this build has no support for this kind of database; enable the features \
                         `mysql` and `sqlite` of the crate tributary";

/// The shards and the rule that says which of them owns a user.
#[derive(Debug)]
pub struct Fleet {
    placement: Placement,
    shards: Vec<Arc<Shard>>,
    read_deadline: Duration,
    times: PostTimes,
    horizon: Horizon,
    stores_names: bool,
    /// The lists whose tables the shards have.
    lists: Vec<UserList>,
    sources: Vec<Arc<Source>>,
    cold_pages: ColdPages,
    /// The background tasks of the fleet and of its memory.
    tasks: Arc<Tasks>,
}

/// Why a fleet does not start. An unreachable server does not prevent the start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The configuration, the schema or a right is wrong. The text contains the cure.
    #[error("{0}")]
    Prerequisite(String),
}

/// The answers of a scatter-gather call.
#[derive(Debug)]
pub struct Gathered<T> {
    /// One answer per shard that answered, by shard id.
    pub answers: Vec<T>,
    /// The queried shards that did not answer.
    pub missing: BTreeSet<ShardId>,
}

/// Why a follow list cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FolloweesError {
    /// The list is longer than the caller's limit.
    TooMany,
    /// The reader's shard did not answer.
    Missing(ShardId),
}

/// The state of one shard, for health checks.
#[derive(Debug)]
#[non_exhaustive]
pub struct ShardHealth<'a> {
    /// The configured name.
    pub name: &'a str,
    /// The configured name of its server; `None` for a SQLite file.
    pub server: Option<&'a str>,
    /// `Ok` if the shard is in service, else the reason.
    pub state: Result<(), String>,
    /// Why the last write to the SQLite file failed, or why its folder cannot be written.
    pub write_fault: Option<String>,
    /// How many times another program was found to have written to the SQLite file, which only
    /// this process may write. 0 for other databases.
    pub foreign_writes: u64,
}

impl Fleet {
    /// Opens the shards without a memory above them, to load rows. A folder is created if it does
    /// not exist, and owned.
    ///
    /// # Errors
    /// As [`crate::Tributary::open`].
    pub async fn open_to_load(config: &Config) -> Result<Self, OpenError> {
        Self::open(config, Access::Own).await
    }

    /// Opens the folder of an embedded fleet, or dials all servers at the same time.
    ///
    /// An unreachable server is no error: it is retried every second, and its shards are missing
    /// until it answers.
    ///
    /// # Errors
    /// A wrong password, schema or index. The text contains the cure.
    pub(crate) async fn open(config: &Config, access: Access) -> Result<Self, OpenError> {
        let tasks = Arc::new(Tasks::default());
        let shards = match &config.fleet {
            #[cfg(feature = "sqlite")]
            FleetConfig::Embedded(embedded) => open_folder(embedded, access, &tasks).await?,
            #[cfg(feature = "mysql")]
            FleetConfig::Servers(servers) => {
                let (servers, shards) = Server::connect_all(servers, config).await?;
                for server in servers {
                    let name = server.gate().server().to_owned();
                    tasks.spawn("supervisor", &name, move || Arc::clone(&server).supervise());
                }
                shards
            }
            #[cfg(not(all(feature = "mysql", feature = "sqlite")))]
            _ => return Err(OpenError::Prerequisite(NOT_BUILT.to_owned())),
        };
        let placement = config
            .placement
            .build(&shards.iter().map(Shard::name).collect::<Vec<_>>())
            .map_err(|error| OpenError::Prerequisite(error.to_string()))?;
        let read_deadline = config.request.deadline();
        let (times, stores_names, lists) = match &config.fleet {
            FleetConfig::Embedded(_) => (PostTimes::MILLISECONDS, true, UserList::ALL.to_vec()),
            FleetConfig::Servers(servers) => {
                let tables = &servers.tables;
                let lists = tables.lists().map(|(list, _)| list).collect();
                (tables.posts.times(), tables.users.is_some(), lists)
            }
        };
        let hides_future = config.timeline.future == PostsOfTheFuture::Hide;
        let shards: Vec<Arc<Shard>> = shards.into_iter().map(Arc::new).collect();
        #[cfg(feature = "sqlite")]
        if matches!(config.fleet, FleetConfig::Embedded(_)) && access == Access::Own {
            let files = weak(&shards);
            tasks.spawn("watch_files", "", move || watch_files(files.clone()));
            let files = weak(&shards);
            tasks.spawn("check_files", "", move || check_files(files.clone()));
        }
        if config.write.enabled && access == Access::Own {
            let shards = weak(&shards);
            tasks.spawn("expire_keys", "", move || expire_keys(shards.clone()));
        }
        let sources = sources(&shards);
        Ok(Self {
            placement,
            shards,
            read_deadline,
            horizon: Horizon::new(hides_future, times.clone()),
            times,
            stores_names,
            lists,
            sources,
            cold_pages: ColdPages::default(),
            tasks,
        })
    }

    /// The logins to servers with this configuration. A folder has none.
    ///
    /// # Errors
    /// A password or a file cannot be read, or a server rejects the login.
    pub async fn next_logins(&self, config: &Config) -> Result<NextLogins, ConfigError> {
        #[cfg(feature = "mysql")]
        {
            let mut servers: BTreeMap<&str, &Arc<Server>> = BTreeMap::new();
            for server in self.shards.iter().filter_map(|shard| shard.server()) {
                servers.insert(server.gate().server(), server);
            }
            NextLogins::of(servers.into_values(), config).await
        }
        #[cfg(not(feature = "mysql"))]
        Ok(NextLogins::default())
    }

    /// Ends the background tasks, commits the writes that SQLite shards have queued, and closes the
    /// pooled connections to servers.
    pub(crate) async fn close(&self) {
        self.tasks.close().await;
        join_all(self.shards.iter().map(|shard| shard.close())).await;
    }

    /// The background tasks of the fleet and of its memory.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// The rule that maps users to shards.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The sources of changes: one per server, or one per SQLite file that this process owns.
    pub(crate) fn sources(&self) -> &[Arc<Source>] {
        &self.sources
    }

    /// The unit and the zone of the times in post keys.
    pub fn times(&self) -> &PostTimes {
        &self.times
    }

    /// The key up to which home timelines show posts.
    pub(crate) fn horizon(&self) -> &Horizon {
        &self.horizon
    }

    /// Whether the shards have a table of handles.
    pub fn stores_names(&self) -> bool {
        self.stores_names
    }

    /// Whether the shards have the table of a list.
    pub(crate) fn has_table(&self, list: UserList) -> bool {
        self.lists.contains(&list)
    }

    /// Whether the shards can answer which users follow a user.
    pub fn stores_followers(&self) -> bool {
        self.missing_followers_index().is_none()
    }

    /// Whether the shards have the table of mutes.
    pub fn stores_mutes(&self) -> bool {
        self.has_table(UserList::Mutes)
    }

    /// Whether the shards have the table of blocks.
    pub fn stores_blocks(&self) -> bool {
        self.has_table(UserList::Blocks)
    }

    /// The configured name of a shard.
    pub fn shard_name(&self, shard: ShardId) -> &str {
        self.shards.get(shard.index()).map_or("unknown", |shard| shard.name())
    }

    /// The deadline of a read that starts now.
    pub fn read_deadline(&self) -> Deadline {
        Deadline::after(self.read_deadline)
    }

    /// The time for a read.
    pub(crate) fn read_time(&self) -> Duration {
        self.read_deadline
    }

    /// The deadline of a write that starts now.
    pub(crate) fn write_deadline(&self) -> Deadline {
        Deadline::after(self.read_deadline)
    }

    /// The shard that owns `user`.
    pub(crate) fn owner(&self, user: UserId) -> Arc<Shard> {
        Arc::clone(&self.shards[self.placement.shard_of(user).index()])
    }

    /// The state of every shard, in configured order.
    pub fn health(&self) -> Vec<ShardHealth<'_>> {
        self.shards
            .iter()
            .map(|shard| ShardHealth {
                name: shard.name(),
                server: shard.gate().map(Gate::server),
                state: shard.health(),
                write_fault: shard.write_fault(),
                foreign_writes: shard.foreign_writes(),
            })
            .collect()
    }

    /// The queue of each server. Empty for SQLite files.
    pub fn queues(&self) -> Vec<QueueStats<'_>> {
        let mut gates: Vec<&Gate> = Vec::new();
        for gate in self.shards.iter().filter_map(|shard| shard.gate()) {
            if !gates.iter().any(|known| std::ptr::eq(*known, gate)) {
                gates.push(gate);
            }
        }
        gates.into_iter().map(Gate::stats).collect()
    }

    /// The cost of all pages for the databases so far.
    pub fn cold_pages(&self) -> &ColdPages {
        &self.cold_pages
    }

    /// The connections to each server, by class. Empty for SQLite files.
    pub fn connections(&self) -> impl Iterator<Item = (&str, ConnectionStats)> {
        let sources = self.sources.iter();
        sources.flat_map(|source| source.connections().into_iter().map(|of| (source.name(), of)))
    }

    /// `Ok` if rows can be bulk-loaded into every shard.
    ///
    /// # Errors
    /// The first shard that cannot take them, with the reason.
    pub fn loadable(&self) -> Result<(), OpenError> {
        self.shards.iter().try_for_each(|shard| {
            let wrong = |why| OpenError::Prerequisite(format!("shard {}: {why}", shard.name()));
            shard.loadable().map_err(wrong)
        })
    }

    /// One post, or `None` if it does not exist.
    ///
    /// # Errors
    /// The author's shard, if it does not answer.
    pub async fn post(
        &self,
        author: UserId,
        post: PostId,
        deadline: Deadline,
    ) -> Result<Option<Post>, ShardId> {
        self.query_owner(author, deadline, None, |shard, until| async move {
            shard.post(author, post, until).await
        })
        .await
    }

    /// Queries the shard that owns `user`. The error is that shard, if it does not answer.
    pub(super) async fn query_owner<T, F>(
        &self,
        user: UserId,
        deadline: Deadline,
        costs: Option<&CostLog>,
        call: impl Fn(Arc<Shard>, Deadline) -> F,
    ) -> Result<T, ShardId>
    where
        F: Future<Output = Result<T, ShardError>>,
    {
        let own = self.placement.shard_of(user);
        let work = BTreeMap::from([(own, ())]);
        let call = |shard, (), _, until| call(shard, until);
        let calls = (read_alone, call);
        let gathered = self.scatter_measured(work, (Turn::First, costs), deadline, calls).await;
        gathered.answers.into_iter().next().ok_or(own)
    }

    /// Calls every shard in `work` at the same time and waits for all of them (one *wave*). A shard
    /// that fails or is late is missing.
    ///
    /// A wave waits in each server's queue for at most `Turn::patience`, and then for the answers
    /// for at most half of the rest.
    pub async fn scatter<A, T, F>(
        &self,
        work: BTreeMap<ShardId, A>,
        turn: Turn,
        deadline: Deadline,
        call: impl Fn(Arc<Shard>, A, Deadline) -> F,
    ) -> Gathered<T>
    where
        A: Clone,
        F: Future<Output = Result<T, ShardError>>,
    {
        let call = |shard, request, _, until| call(shard, request, until);
        self.scatter_measured(work, (turn, None), deadline, (read_alone, call)).await
    }

    /// [`Fleet::scatter`], which logs what the wave costs on each shard if there is a log.
    ///
    /// If several shards of a server are in `work`, `joint` may read something of all of them at
    /// once. `call` gets this part, or `None` if `joint` does nothing or fails.
    pub(crate) async fn scatter_measured<A, P, T, F, J>(
        &self,
        work: BTreeMap<ShardId, A>,
        (turn, costs): (Turn, Option<&CostLog>),
        deadline: Deadline,
        (joint, call): (
            impl Fn(Vec<(Arc<Shard>, A)>, Deadline) -> J,
            impl Fn(Arc<Shard>, A, Option<P>, Deadline) -> F,
        ),
    ) -> Gathered<T>
    where
        A: Clone,
        F: Future<Output = Result<T, ShardError>>,
        J: Future<Output = Option<Vec<P>>>,
    {
        let groups = self.by_gate(work);
        let joint = |work: &[(ShardId, A)], until| {
            let part = |(id, request): &(ShardId, A)| {
                (Arc::clone(&self.shards[id.index()]), request.clone())
            };
            joint(work.iter().map(part).collect(), until)
        };
        let call = |id: ShardId, request, part, until| {
            let (shard, measured) = (&self.shards[id.index()], costs.map(|costs| costs.begin(id)));
            let shard = match &measured {
                Some(measured) => Arc::new(shard.measured(&measured.meter)),
                None => Arc::clone(shard),
            };
            let answer = call(shard, request, part, until);
            async move {
                let outcome = answer.await;
                if let Some(measured) = measured {
                    measured.end(outcome.as_ref().err());
                }
                outcome
            }
        };
        // A log needs the cost of each shard alone.
        let joint = costs.is_none().then_some(&joint);
        let calls = (joint, &call);
        let waves = groups.into_iter().map(|(gate, work)| wave(gate, work, turn, deadline, calls));
        let mut gathered = Gathered { answers: Vec::new(), missing: BTreeSet::new() };
        for (id, outcome) in join_all(waves).await.into_iter().flatten() {
            match outcome {
                Ok(answer) => gathered.answers.push(answer),
                Err(error) => {
                    // The server's gate logs its state changes; this is the detail per request.
                    debug!(shard = self.shard_name(id), %error, "Shard is missing from an answer");
                    gathered.missing.insert(id);
                    if let Some(costs) = costs {
                        costs.note_missing(id, error);
                    }
                }
            }
        }
        gathered
    }

    /// Groups work by the gates that it must pass. A SQLite file has none and is a group alone.
    fn by_gate<A>(&self, work: BTreeMap<ShardId, A>) -> Vec<Group<'_, A>> {
        let mut groups: Vec<Group<'_, A>> = Vec::new();
        for (id, request) in work {
            let gate = self.shards[id.index()].gate();
            let is_same = |known: Option<&Gate>| {
                known.zip(gate).is_some_and(|(known, gate)| std::ptr::eq(known, gate))
            };
            match groups.iter_mut().find(|(known, _)| is_same(*known)) {
                Some((_, requests)) => requests.push((id, request)),
                None => groups.push((gate, vec![(id, request)])),
            }
        }
        groups
    }

    /// All shards, in configured order.
    pub(super) fn shards(&self) -> &[Arc<Shard>] {
        &self.shards
    }

    /// All shards with their ids.
    pub(super) fn all(&self) -> impl Iterator<Item = (ShardId, &Arc<Shard>)> {
        (0..).map(ShardId).zip(&self.shards)
    }

    /// The ids of all shards, in configured order.
    pub(crate) fn shard_ids(&self) -> impl Iterator<Item = ShardId> {
        self.all().map(|(id, _)| id)
    }

    /// A shard by id.
    pub(crate) fn shard(&self, id: ShardId) -> &Shard {
        &self.shards[id.index()]
    }
}

/// The requests to the shards of one server.
type Group<'a, A> = (Option<&'a Gate>, Vec<(ShardId, A)>);

/// The part of a wave on one server, or on one SQLite file.
///
/// It waits for one permit. It first reads by one statement whatever that can read of all shards.
/// Then it also takes permits while no other request waits, so that an idle server is queried for
/// all shards at the same time. A server in demand is queried for one shard after the other.
async fn wave<A, P, T, F, J>(
    gate: Option<&Gate>,
    work: Vec<(ShardId, A)>,
    turn: Turn,
    deadline: Deadline,
    (joint, call): (
        Option<&impl Fn(&[(ShardId, A)], Deadline) -> J>,
        &impl Fn(ShardId, A, Option<P>, Deadline) -> F,
    ),
) -> Vec<(ShardId, Result<T, ShardError>)>
where
    F: Future<Output = Result<T, ShardError>>,
    J: Future<Output = Option<Vec<P>>>,
{
    let permit = match gate {
        Some(gate) => match gate.enter(turn, turn.patience(deadline)).await {
            Ok(permit) => Some(permit),
            Err(error) => {
                return work.into_iter().map(|(id, _)| (id, Err(error.clone()))).collect();
            }
        },
        None => None,
    };
    let until = deadline.half();
    let work = match joint {
        // One database that hangs must leave time to read the others alone.
        Some(joint) => read_jointly(work, until.half(), joint).await,
        None => work.into_iter().map(|(id, request)| (id, request, None)).collect(),
    };
    let extra: Vec<Permit<'_>> = (1..work.len()).map_while(|_| gate?.queue().try_enter()).collect();
    let work = SyncMutex::new(work.into_iter());
    let next = || {
        let mut work = work.lock().unwrap_or_else(PoisonError::into_inner);
        work.next().map(|(id, request, part)| (id, request, part, work.len() > 0))
    };
    let lane = async |_permit: Option<Permit<'_>>, is_extra: bool| {
        let mut answers = Vec::new();
        while let Some((id, request, part, is_more)) = next() {
            // One database that hangs must not use up the time of the next ones.
            let until = if is_more { until.half() } else { until };
            answers.push((id, call(id, request, part, until).await));
            if is_extra && gate.is_some_and(|gate| gate.queue().is_contended()) {
                break;
            }
        }
        answers
    };
    let extra = extra.into_iter().map(|permit| lane(Some(permit), true));
    let lanes = std::iter::once(lane(permit, false)).chain(extra);
    join_all(lanes).await.into_iter().flatten().collect()
}

/// Reads what statements for several shards can read of `work`.
async fn read_jointly<A, P, J: Future<Output = Option<Vec<P>>>>(
    mut work: Vec<(ShardId, A)>,
    until: Deadline,
    joint: impl Fn(&[(ShardId, A)], Deadline) -> J,
) -> Vec<(ShardId, A, Option<P>)> {
    let mut read = Vec::with_capacity(work.len());
    while !work.is_empty() {
        let rest = work.split_off(work.len().min(JOINT_SHARDS_MAX));
        let parts = if work.len() > 1 { joint(&work, until).await } else { None };
        let mut parts = parts.into_iter().flatten();
        read.extend(work.into_iter().map(|(id, request)| (id, request, parts.next())));
        work = rest;
    }
    read
}

/// For [`Fleet::scatter_measured`]: each shard is read alone.
pub(crate) fn read_alone<A>(
    _: Vec<(Arc<Shard>, A)>,
    _: Deadline,
) -> impl Future<Output = Option<Vec<()>>> {
    ready(None)
}

/// References that do not keep the files of the shards open.
fn weak(shards: &[Arc<Shard>]) -> Vec<Weak<Shard>> {
    shards.iter().map(Arc::downgrade).collect()
}

/// Deletes old idempotency keys in small batches, until the shards are dropped.
async fn expire_keys(shards: Vec<Weak<Shard>>) {
    loop {
        tokio::time::sleep(EXPIRE_PAUSE).await;
        let before_ms = now_ms() - KEY_RETENTION_MS;
        let shards: Option<Vec<Arc<Shard>>> = shards.iter().map(Weak::upgrade).collect();
        let Some(shards) = shards else { return };
        join_all(shards.iter().map(|shard| expire_keys_of(shard, before_ms))).await;
    }
}

/// Deletes old keys until a batch is not full. After an error, the next round deletes the rest.
async fn expire_keys_of(shard: &Shard, before_ms: i64) {
    loop {
        let until = Deadline::after(EXPIRE_DEADLINE);
        match shard.expire_keys(before_ms, EXPIRE_BATCH, until).await {
            Ok(keys) if keys >= EXPIRE_BATCH as usize => {}
            Ok(_) => return,
            Err(error) => {
                return debug!(shard = shard.name(), %error, "Old keys were not deleted; retrying");
            }
        }
    }
}

/// The sources of all shards: one per server, however many shards it has, and one per owned file.
fn sources(shards: &[Arc<Shard>]) -> Vec<Arc<Source>> {
    let mut sources = Vec::new();
    #[cfg(feature = "mysql")]
    sources.extend(servers(shards).map(Box::new).map(Source::MySql));
    #[cfg(feature = "sqlite")]
    sources.extend(files(shards).map(Box::new).map(Source::Sqlite));
    sources.into_iter().map(Arc::new).collect()
}

/// One source for each server, with its shards.
#[cfg(feature = "mysql")]
fn servers(shards: &[Arc<Shard>]) -> impl Iterator<Item = MySqlSource> {
    type ShardsOfServer = Vec<(ShardId, Arc<Database>)>;
    let mut servers: Vec<(Arc<Server>, ShardsOfServer)> = Vec::new();
    for (index, shard) in (0..).zip(shards) {
        let Some((server, database)) = shard.store.on_server() else { continue };
        match servers.iter_mut().find(|(known, _)| Arc::ptr_eq(known, server)) {
            Some((_, databases)) => databases.push((ShardId(index), Arc::clone(database))),
            None => {
                let first = vec![(ShardId(index), Arc::clone(database))];
                servers.push((Arc::clone(server), first));
            }
        }
    }
    servers.into_iter().map(|(server, shards)| MySqlSource::new(server, shards))
}

/// One source for each file that this process owns. It is not notified of commits to others.
#[cfg(feature = "sqlite")]
fn files(shards: &[Arc<Shard>]) -> impl Iterator<Item = SqliteSource> {
    (0..).zip(shards).filter_map(|(index, shard)| match &shard.store {
        #[cfg(feature = "sqlite")]
        Store::Sqlite(file) if file.is_owned() => {
            Some(SqliteSource::new(ShardId(index), shard.name(), Arc::clone(file)))
        }
        #[cfg(feature = "sqlite")]
        Store::Sqlite(_) => None,
        #[cfg(feature = "mysql")]
        Store::MySql(_) => None,
    })
}

#[cfg(feature = "sqlite")]
async fn open_folder(
    folder: &Embedded,
    access: Access,
    tasks: &Arc<Tasks>,
) -> Result<Vec<Shard>, OpenError> {
    let tasks = Arc::clone(tasks);
    let Embedded { dir, shards, .. } = folder.clone();
    let open = move || {
        let folder = Folder::open(&dir, shards, access)?;
        let files = folder.shard_files().into_iter();
        let shards = files.map(|(number, name, path)| {
            let file = SqliteShard::open(number, &path, access, (&folder, &tasks))?;
            Ok(Shard::new(name, Store::Sqlite(Arc::new(file))))
        });
        shards.collect()
    };
    let opened = tokio::task::spawn_blocking(open).await;
    opened.unwrap_or_else(|error| Err(OpenError::Prerequisite(error.to_string())))
}

/// Reads each file once, one after the other, to find damage before a request does.
#[cfg(feature = "sqlite")]
async fn check_files(shards: Vec<Weak<Shard>>) {
    for shard in shards {
        let Some(shard) = shard.upgrade() else { return };
        blocking(move || shard.check_file()).await;
    }
}

/// Looks at the files of the shards until the shards are dropped.
#[cfg(feature = "sqlite")]
async fn watch_files(shards: Vec<Weak<Shard>>) {
    loop {
        tokio::time::sleep(WATCH_PAUSE).await;
        let shards: Option<Vec<Arc<Shard>>> = shards.iter().map(Weak::upgrade).collect();
        let Some(shards) = shards else { return };
        let look = move || shards.iter().for_each(|shard| shard.look_at_file());
        blocking(look).await;
    }
}
