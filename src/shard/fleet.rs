//! All shards together: placement, scatter-gather, health.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use thiserror::Error;
use tokio::task::JoinSet;
use tracing::debug;

use super::mysql::{Database, MySqlSource, Server};
use super::sqlite::{Folder, SqliteShard, SqliteSource};
use super::{Access, Deadline, Shard, ShardError, Source, Store};
use crate::clock::now_ms;
use crate::config::{Config, FleetConfig};
use crate::model::{Post, PostId, ShardId, UserId};
use crate::moment::PostTimes;
use crate::placement::Placement;

/// How long an idempotency key is kept, at least: clients repeat within minutes.
const KEY_RETENTION_MS: i64 = 24 * 60 * 60 * 1_000;
/// Old keys that are forgotten at once: few enough to hold no lock for long.
const EXPIRE_BATCH: u32 = 1_000;
/// Between two batches of a shard.
const EXPIRE_PAUSE: Duration = Duration::from_secs(5);
/// Nobody waits for it.
const EXPIRE_DEADLINE: Duration = Duration::from_secs(10);

/// The shards and the rule that says which of them owns a user.
#[derive(Debug)]
pub struct Fleet {
    placement: Placement,
    shards: Vec<Arc<Shard>>,
    read_deadline: Duration,
    times: PostTimes,
    sources: Vec<Arc<Source>>,
    /// One supervisor per server, and the one that forgets old keys; they end with the fleet.
    _supervisors: JoinSet<()>,
}

/// Why a fleet does not start. An unreachable server is no such reason.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The configuration, the schema or a right is wrong. The text says what to do.
    #[error("{0}")]
    Prerequisite(String),
}

/// What the shards answered, and which did not.
#[derive(Debug)]
pub struct Gathered<T> {
    /// One answer of each shard that gave one.
    pub answers: Vec<T>,
    /// The others.
    pub missing: BTreeSet<ShardId>,
}

/// Why a follow list cannot be had.
#[derive(Debug, PartialEq, Eq)]
pub enum FolloweesError {
    /// It is longer than the caller takes.
    TooMany,
    /// The reader's shard does not answer.
    Missing(ShardId),
}

/// One shard's state for health checks.
#[derive(Debug)]
pub struct ShardHealth<'a> {
    /// The configured name.
    pub name: &'a str,
    /// Whether requests are sent to it now, else why not.
    pub state: Result<(), String>,
    /// How often another program was found to have written to a file that is ours alone.
    pub foreign_writes: u64,
}

impl Fleet {
    /// Opens the folder or dials all servers at once. A wrong password, schema or index is an
    /// error that says the cure; a server that cannot be reached is tried again every second, and
    /// until then its shards are missing.
    pub async fn open(config: &Config, access: Access) -> Result<Self, OpenError> {
        let mut supervisors = JoinSet::new();
        let shards = match &config.fleet {
            FleetConfig::Embedded(embedded) => open_folder(embedded, access).await?,
            FleetConfig::Servers(servers) => {
                let (servers, shards) = Server::connect_all(servers, config).await?;
                for server in servers {
                    supervisors.spawn(server.supervise());
                }
                shards
            }
        };
        let placement = config
            .placement
            .build(&shards.iter().map(Shard::name).collect::<Vec<_>>())
            .map_err(|error| OpenError::Prerequisite(error.to_string()))?;
        let read_deadline = config.read.deadline();
        let times = match &config.fleet {
            FleetConfig::Embedded(_) => PostTimes::MILLISECONDS,
            FleetConfig::Servers(servers) => servers.tables.posts.times(),
        };
        let shards: Vec<Arc<Shard>> = shards.into_iter().map(Arc::new).collect();
        if config.write.enabled && access == Access::Own {
            supervisors.spawn(expire_keys(shards.iter().map(Arc::downgrade).collect()));
        }
        let sources = sources(&shards);
        Ok(Self { placement, shards, read_deadline, times, sources, _supervisors: supervisors })
    }

    /// Which shard owns a user.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The logs of all shards: one of each server, or of each file.
    pub(crate) fn sources(&self) -> &[Arc<Source>] {
        &self.sources
    }

    /// What the times in the posts' keys mean.
    pub fn times(&self) -> &PostTimes {
        &self.times
    }

    /// A shard's configured name.
    pub fn shard_name(&self, shard: ShardId) -> &str {
        self.shards.get(shard.index()).map_or("unknown", |shard| shard.name())
    }

    /// By when a read that starts now must be answered.
    pub fn read_deadline(&self) -> Deadline {
        Deadline::after(self.read_deadline)
    }

    /// By when a write that starts now must be answered.
    pub(crate) fn write_deadline(&self) -> Deadline {
        Deadline::after(self.read_deadline)
    }

    /// The shard that owns `user`.
    pub(crate) fn owner(&self, user: UserId) -> Arc<Shard> {
        Arc::clone(&self.shards[self.placement.shard_of(user).index()])
    }

    /// Every shard's state, in configured order.
    pub fn health(&self) -> Vec<ShardHealth<'_>> {
        self.shards
            .iter()
            .map(|shard| ShardHealth {
                name: shard.name(),
                state: shard.health(),
                foreign_writes: shard.foreign_writes(),
            })
            .collect()
    }

    /// Whether rows can be loaded into every shard, else which cannot take them, and why.
    pub fn loadable(&self) -> Result<(), OpenError> {
        self.shards.iter().try_for_each(|shard| {
            let wrong = |why| OpenError::Prerequisite(format!("shard {}: {why}", shard.name()));
            shard.loadable().map_err(wrong)
        })
    }

    /// All users that `reader` follows, at most `max`, by rising id.
    pub async fn followees(
        &self,
        reader: UserId,
        max: usize,
        deadline: Deadline,
    ) -> Result<Vec<UserId>, FolloweesError> {
        match self.following(reader, UserId(0), max + 1, deadline).await {
            Ok(followees) if followees.len() > max => Err(FolloweesError::TooMany),
            Ok(followees) => Ok(followees),
            Err(shard) => Err(FolloweesError::Missing(shard)),
        }
    }

    /// At most `max` users that `reader` follows, by rising id, from `from` on; or the reader's
    /// shard, if it does not answer.
    pub async fn following(
        &self,
        reader: UserId,
        from: UserId,
        max: usize,
        deadline: Deadline,
    ) -> Result<Vec<UserId>, ShardId> {
        self.query_owner(reader, deadline, |shard, until| async move {
            shard.followees(reader, from, max, until).await
        })
        .await
    }

    /// One post; or its author's shard, if it does not answer.
    pub async fn post(
        &self,
        author: UserId,
        post: PostId,
        deadline: Deadline,
    ) -> Result<Option<Post>, ShardId> {
        self.query_owner(author, deadline, |shard, until| async move {
            shard.post(author, post, until).await
        })
        .await
    }

    /// Calls the shard that owns `user`.
    async fn query_owner<T, F>(
        &self,
        user: UserId,
        deadline: Deadline,
        call: impl Fn(Arc<Shard>, Deadline) -> F,
    ) -> Result<T, ShardId>
    where
        F: Future<Output = Result<T, ShardError>>,
    {
        let own = self.placement.shard_of(user);
        let work = BTreeMap::from([(own, ())]);
        let gathered = self.scatter(work, deadline, |shard, (), until| call(shard, until)).await;
        gathered.answers.into_iter().next().ok_or(own)
    }

    /// Calls every shard in `work` at the same time and waits for all of them, at most for half of
    /// the time until `deadline`. A shard that fails or is late is missing.
    pub async fn scatter<A, T, F>(
        &self,
        work: BTreeMap<ShardId, A>,
        deadline: Deadline,
        call: impl Fn(Arc<Shard>, A, Deadline) -> F,
    ) -> Gathered<T>
    where
        F: Future<Output = Result<T, ShardError>>,
    {
        let until = deadline.half();
        let calls = work.into_iter().map(|(id, ask)| {
            let answer = call(Arc::clone(&self.shards[id.index()]), ask, until);
            answer.map(move |outcome| (id, outcome))
        });
        let mut gathered = Gathered { answers: Vec::new(), missing: BTreeSet::new() };
        for (id, outcome) in join_all(calls).await {
            match outcome {
                Ok(answer) => gathered.answers.push(answer),
                Err(error) => {
                    // Told once by the server's gate when its state changes; here only the detail.
                    debug!(shard = self.shard_name(id), %error, "shard is missing from an answer");
                    gathered.missing.insert(id);
                }
            }
        }
        gathered
    }

    /// One shard, for writing to it.
    pub(crate) fn shard(&self, id: ShardId) -> &Shard {
        &self.shards[id.index()]
    }
}

/// Forgets idempotency keys after their time, a few at once, for as long as the shards are there.
async fn expire_keys(shards: Vec<Weak<Shard>>) {
    loop {
        tokio::time::sleep(EXPIRE_PAUSE).await;
        let before_ms = now_ms() - KEY_RETENTION_MS;
        let shards: Option<Vec<Arc<Shard>>> = shards.iter().map(Weak::upgrade).collect();
        let Some(shards) = shards else { return };
        join_all(shards.iter().map(|shard| expire_keys_of(shard, before_ms))).await;
    }
}

/// Goes on while batches are full. What an error leaves is forgotten the next time.
async fn expire_keys_of(shard: &Shard, before_ms: i64) {
    loop {
        let until = Deadline::after(EXPIRE_DEADLINE);
        match shard.expire_keys(before_ms, EXPIRE_BATCH, until).await {
            Ok(keys) if keys >= EXPIRE_BATCH as usize => {}
            Ok(_) => return,
            Err(error) => return debug!(shard = shard.name(), %error, "old keys are kept"),
        }
    }
}

type ShardsOfServer = Vec<(ShardId, Arc<Database>)>;

/// What memory can be filled from: a server once, however many shards it has.
fn sources(shards: &[Arc<Shard>]) -> Vec<Arc<Source>> {
    let mut sources = Vec::new();
    let mut servers: Vec<(Arc<Server>, ShardsOfServer)> = Vec::new();
    for (index, shard) in (0..).zip(shards) {
        match &shard.store {
            // Whoever reads beside the owner is not told when it writes.
            Store::Sqlite(file) if !file.is_owned() => {}
            Store::Sqlite(file) => {
                let source = SqliteSource::new(ShardId(index), shard.name(), Arc::clone(file));
                sources.push(Source::Sqlite(source));
            }
            Store::MySql(one) => {
                let (server, database) = one.parts();
                match servers.iter_mut().find(|(known, _)| Arc::ptr_eq(known, server)) {
                    Some((_, databases)) => databases.push((ShardId(index), Arc::clone(database))),
                    None => {
                        let first = vec![(ShardId(index), Arc::clone(database))];
                        servers.push((Arc::clone(server), first));
                    }
                }
            }
        }
    }
    let servers = servers.into_iter().map(|(server, shards)| MySqlSource::new(server, shards));
    sources.extend(servers.map(Source::MySql));
    sources.into_iter().map(Arc::new).collect()
}

async fn open_folder(
    folder: &crate::config::Embedded,
    access: Access,
) -> Result<Vec<Shard>, OpenError> {
    let folder = Folder::open(&folder.dir, folder.shards, access)?;
    let mut shards = Vec::new();
    for (name, path) in folder.shard_files() {
        let file = SqliteShard::open(&path, access, folder.clone()).await?;
        shards.push(Shard { name, store: Store::Sqlite(Arc::new(file)) });
    }
    Ok(shards)
}
