//! Long random runs of the writers of two logs that share one memory, without databases. The
//! simulator does what the writer's event loop does: it passes on events, misses and finished
//! fills. After each step, everything that readers see is compared with the rows of the servers.
//!
//! `memory/keeper/simulator.rs` tests the protocol of one log in more detail. Here the decisions
//! above it are tested: retries, deeper tails, evictions, heads, and slots that get other users.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::fills::{FinishedFill, RequestedFills};
use super::{Applier, CacheKey};
use crate::Tributary;
use crate::changes::{Bounds, Change, Commit, FeedEvent, LogIdentity, LogPosition};
use crate::config::Config;
use crate::memory::{FillReservation, LogName, Memory, Miss, NO_POSTS, Slot};
use crate::model::{Follow, Hide, Post, PostId, PostKey, ShardId, UserId, UserList};
use crate::moment::PostTimes;
use crate::placement::Placement;
use crate::shard::{FillAnswer, FillBatch, FillRequest, FillTarget, ShardError, Source, UserLists};

/// Users with even ids are on the first log, the others on the second.
const LOGS: u64 = 2;
/// Users that post and read.
const USERS: u64 = 16;
/// Users that never post. Readers follow and unfollow them.
const STRANGERS: u64 = 160;
const STEPS: usize = 2_500;
/// Number of seeds in a normal test run. A soak run has a thousandth of the seeds of the keeper's
/// simulator, which is faster.
const SEEDS: u64 = 4;
/// The tails of some authors fit into this budget.
const BUDGET: usize = 128 << 10;

/// The rows of one server.
#[derive(Clone, Debug, Default)]
struct Rows {
    posts: BTreeMap<u64, BTreeSet<(i64, u64)>>,
    follows: BTreeMap<u64, BTreeSet<u64>>,
    /// Mutes and blocks.
    hides: BTreeMap<u64, BTreeSet<(UserList, u64)>>,
}

impl Rows {
    /// The users on a list of mutes or blocks.
    fn hidden(&self, owner: u64, list: UserList) -> Vec<UserId> {
        let all = self.hides.get(&owner).into_iter().flatten();
        all.filter(|(of, _)| *of == list).map(|(_, user)| UserId(*user)).collect()
    }
}

/// A fill that is being read.
struct Flight {
    requested: RequestedFills,
    reserved: FillReservation,
    /// Number of transactions that were visible before the snapshot.
    low: usize,
    identity: LogIdentity,
}

/// A server, its log, and the writer that follows it.
struct Server {
    shard: ShardId,
    applier: Applier,
    /// The changes of each transaction.
    log: Vec<Vec<Change>>,
    /// The rows after each number of transactions.
    rows: Vec<Rows>,
    /// Number of transactions that the tables show, and that were delivered.
    visible: usize,
    delivered: usize,
    identity: LogIdentity,
    flights: Vec<Flight>,
}

fn position(transactions: usize) -> LogPosition {
    LogPosition(10 * transactions as u64)
}

impl Server {
    fn new(index: usize, memory: &Arc<Memory>, source: &Arc<Source>) -> Self {
        let applier = Applier::new(Arc::clone(memory), index, Arc::clone(source), None);
        let shard = ShardId(u16::try_from(index).unwrap());
        let mut server = Self {
            shard,
            applier,
            log: Vec::new(),
            rows: vec![Rows::default()],
            visible: 0,
            delivered: 0,
            identity: LogIdentity(0),
            flights: Vec::new(),
        };
        server.begin();
        server
    }

    /// The log gets another identity. Its next transactions are delivered.
    fn begin(&mut self) {
        self.identity = LogIdentity(self.identity.0 + 1);
        self.delivered = self.log.len();
        let at = position(self.delivered);
        self.applier.take(vec![FeedEvent::Began { identity: self.identity, at }]);
        self.load_heads();
    }

    /// Loads the heads, if the tables show the whole log, and all of it was delivered.
    fn load_heads(&mut self) {
        if self.visible < self.log.len() || self.delivered < self.log.len() {
            return;
        }
        let memory = Arc::clone(&self.applier.memory);
        let authors = self.rows[self.visible].posts.iter();
        let newest = authors.filter_map(|(author, posts)| Some((*author, posts.last()?.0)));
        let heads: Option<Vec<(Slot, i64)>> = newest
            .map(|(user, time)| Some((memory.register_author(UserId(user))?, time)))
            .collect();
        self.applier.install_heads(heads.expect("authors have room"));
    }

    /// One transaction with up to three changes of this server's users.
    fn write(&mut self, chance: &mut StdRng) {
        let mut rows = self.rows.last().unwrap().clone();
        let mut changes = Vec::new();
        for _ in 0..chance.random_range(1..=3) {
            let user = LOGS * chance.random_range(0..USERS / LOGS) + u64::from(self.shard.0);
            let change = match chance.random_range(0..100) {
                0..3 => Some(hide(&mut rows, user, chance)),
                3..7 => unhide(&mut rows, user, chance),
                7..40 => {
                    changes.extend((0..8).map(|_| post(&mut rows, user, chance)));
                    None
                }
                40..55 => unpost(&mut rows, user, chance),
                55..75 => follow(&mut rows, user, chance),
                75..97 => unfollow(&mut rows, user, chance),
                97 => Some(Change::AuthorUnknown(UserId(user))),
                98 => Some(Change::ReaderUnknown(UserId(user))),
                _ if chance.random_bool(0.1) => Some(Change::ShardUnknown),
                _ => None,
            };
            changes.extend(change);
        }
        self.log.push(changes);
        self.rows.push(rows);
    }

    fn deliver(&mut self, count: usize) {
        let end = self.log.len().min(self.delivered + count);
        let commit = |number: usize| {
            let changes = self.log[number].iter().map(|change| (self.shard, change.clone()));
            FeedEvent::Commit(Commit { at: position(number + 1), changes: changes.collect() })
        };
        let batch = (self.delivered..end).map(commit).collect();
        self.delivered = end;
        self.applier.take(batch);
        self.applier.make_room();
    }

    fn start_fill(&mut self) {
        self.applier.fills.waiting.iter_mut().for_each(|queued| queued.not_before = None);
        let Some(reserved) = self.applier.memory.budget().reserve_fill() else { return };
        let requested = self.applier.take_requests();
        if !requested.is_empty() {
            let (low, identity) = (self.visible, self.identity);
            self.flights.push(Flight { requested, reserved, low, identity });
        }
    }

    fn finish_fill(&mut self, chance: &mut StdRng) {
        if self.flights.is_empty() {
            return;
        }
        let flight = self.flights.swap_remove(chance.random_range(0..self.flights.len()));
        let too_large = flight.requested.len() > 1 && chance.random_bool(0.1);
        let answer = |request: &FillRequest| match too_large {
            true => FillAnswer::TooLarge,
            false => self.answer(request),
        };
        let answers = flight.requested.iter().map(|(_, _, request)| answer(request)).collect();
        // A server cannot always say which transactions were visible.
        let low = if chance.random_bool(0.2) { LogPosition(0) } else { position(flight.low) };
        let bounds = Bounds::Window { low, high: position(self.log.len()) };
        let outcome = match chance.random_bool(0.1) {
            true => Err(ShardError::Unavailable("cut off".into())),
            false => Ok(FillBatch { identity: flight.identity, bounds, answers }),
        };
        let Flight { requested, reserved, .. } = flight;
        self.applier.install(FinishedFill { requested, outcome, reserved });
        self.applier.make_room();
    }

    fn answer(&self, request: &FillRequest) -> FillAnswer {
        let (rows, user) = (&self.rows[self.visible], request.user);
        match request.target {
            FillTarget::Tail { depth } => {
                let all = rows.posts.get(&user.0).into_iter().flatten().rev();
                let mut posts: Vec<Post> = all.map(|key| stored(user.0, *key)).collect();
                let complete = posts.len() <= depth as usize;
                posts.truncate(depth as usize);
                let blocks = rows.hidden(user.0, UserList::Blocks);
                FillAnswer::Tail { posts, complete, names: None, blocks }
            }
            FillTarget::Follows { .. } => {
                let all = rows.follows.get(&user.0).into_iter().flatten();
                let [mutes, blocks] =
                    [UserList::Mutes, UserList::Blocks].map(|list| rows.hidden(user.0, list));
                let follows = all.map(|user| UserId(*user)).collect();
                FillAnswer::Follows(UserLists { follows, mutes, blocks })
            }
        }
    }

    /// Compares what readers see of this server's users with its rows at the high-water mark.
    fn check(&self, memory: &Memory) {
        let at = usize::try_from(self.applier.keeper.high_water().0 / 10).unwrap();
        let rows = &self.rows[at];
        for user in (u64::from(self.shard.0)..USERS).step_by(2) {
            let posts = rows.posts.get(&user).cloned().unwrap_or_default();
            let newest = posts.last().map_or(NO_POSTS, |key| key.0);
            let slot = memory.find(UserId(user));
            if memory.knows_heads_with(UserId(user)) {
                let head = slot.map_or(NO_POSTS, |slot| memory.head(slot));
                assert!(head >= newest, "user {user}: the head is {head}, and {newest} exists");
            }
            let Some(slot) = slot else { continue };
            if let Some(tail) = memory.tail(slot, 0) {
                let below = |key: &(i64, u64)| tail.floor().is_some_and(|floor| *key < floor);
                let expected: Vec<_> = posts.into_iter().rev().filter(|key| !below(key)).collect();
                let keys: Vec<_> = tail.posts().iter().map(|post| post.key).collect();
                assert_eq!(keys, expected, "user {user}, floor {:?}", tail.floor());
                let mut blocks = rows.hidden(user, UserList::Blocks);
                blocks.retain(|blocked| blocked.0 != user);
                assert_eq!(tail.blocks(), blocks, "author {user}");
            }
            if let Some(list) = memory.follows(UserId(user), 0) {
                let listed: BTreeSet<u64> =
                    list.slots().iter().map(|slot| memory.user(*slot).0).collect();
                let mut expected = rows.follows.get(&user).cloned().unwrap_or_default();
                let hides = rows.hides.get(&user).into_iter().flatten();
                for (_, hidden) in hides {
                    expected.remove(hidden);
                }
                assert_eq!(listed, expected, "reader {user}");
            }
        }
    }
}

fn stored(author: u64, (time, post): (i64, u64)) -> Post {
    let key = PostKey { time, post: PostId(post), author: UserId(author) };
    Post::new(key, "a text of some bytes")
}

fn post(rows: &mut Rows, author: u64, chance: &mut StdRng) -> Change {
    let key = (chance.random_range(0..200), chance.random_range(0..5));
    rows.posts.entry(author).or_default().insert(key);
    Change::Post(stored(author, key))
}

fn unpost(rows: &mut Rows, author: u64, chance: &mut StdRng) -> Option<Change> {
    let posts = rows.posts.get_mut(&author).filter(|posts| !posts.is_empty())?;
    let key = *posts.iter().nth(chance.random_range(0..posts.len())).unwrap();
    posts.remove(&key);
    Some(Change::PostGone(stored(author, key).key))
}

fn follow(rows: &mut Rows, follower: u64, chance: &mut StdRng) -> Option<Change> {
    let followee = chance.random_range(0..USERS + STRANGERS);
    rows.follows.entry(follower).or_default().insert(followee);
    let (follower, followee) = (UserId(follower), UserId(followee));
    Some(Change::Follow(Follow { follower, followee }))
}

fn unfollow(rows: &mut Rows, follower: u64, chance: &mut StdRng) -> Option<Change> {
    let follows = rows.follows.get_mut(&follower).filter(|follows| !follows.is_empty())?;
    let followee = *follows.iter().nth(chance.random_range(0..follows.len())).unwrap();
    follows.remove(&followee);
    let (follower, followee) = (UserId(follower), UserId(followee));
    Some(Change::Unfollow(Follow { follower, followee }))
}

fn hide(rows: &mut Rows, owner: u64, chance: &mut StdRng) -> Change {
    let list = if chance.random_bool(0.5) { UserList::Mutes } else { UserList::Blocks };
    let user = chance.random_range(0..USERS + STRANGERS);
    rows.hides.entry(owner).or_default().insert((list, user));
    Change::Hide(Hide { list, owner: UserId(owner), user: UserId(user) })
}

fn unhide(rows: &mut Rows, owner: u64, chance: &mut StdRng) -> Option<Change> {
    let hides = rows.hides.get_mut(&owner).filter(|hides| !hides.is_empty())?;
    let (list, user) = *hides.iter().nth(chance.random_range(0..hides.len())).unwrap();
    hides.remove(&(list, user));
    Some(Change::Unhide(Hide { list, owner: UserId(owner), user: UserId(user) }))
}

/// The numbers of visible values and of freed slots, added up over all steps.
#[derive(Debug, Default)]
struct Seen {
    tails: usize,
    lists: usize,
    deeper: usize,
    frees: u64,
}

struct Simulation {
    chance: StdRng,
    memory: Arc<Memory>,
    servers: Vec<Server>,
}

impl Simulation {
    fn new(seed: u64, source: &Arc<Source>) -> Self {
        let name = |shard| LogName { name: "log".into(), shards: vec![ShardId(shard)] };
        let (unit, zone) = ("ms".parse().unwrap(), "UTC".parse().unwrap());
        let (placement, times) = (Placement::modulo(2).unwrap(), PostTimes { unit, zone });
        let (memory, _queues) = Memory::new(BUDGET, vec![name(0), name(1)], placement, times);
        let servers = (0..2).map(|index| Server::new(index, &memory, source)).collect();
        Self { chance: StdRng::seed_from_u64(seed), memory, servers }
    }

    fn step(&mut self) {
        let (chance, memory) = (&mut self.chance, &self.memory);
        let server = &mut self.servers[chance.random_range(0..2)];
        match chance.random_range(0..1_000) {
            0..200 => server.write(chance),
            200..350 => {
                let end = server.log.len();
                server.visible = end.min(server.visible + chance.random_range(1..4));
            }
            350..550 => server.deliver(chance.random_range(1..5)),
            // The server resends transactions.
            550..560 => server.delivered -= server.delivered.min(chance.random_range(0..6)),
            560..562 => server.begin(),
            562..580 => server.load_heads(),
            580..700 => {
                let user = UserId(LOGS * chance.random_range(0..USERS / LOGS));
                let user = UserId(user.0 + u64::from(server.shard.0));
                server.applier.queue_miss(Miss::Follows { user });
                if let Some(slot) = memory.find(user) {
                    let depth = chance.random_range(1..300);
                    server.applier.queue_miss(Miss::Tail { slot, depth });
                }
            }
            700..800 => server.start_fill(),
            800..950 => server.finish_fill(chance),
            950..975 => {
                let keys = server.applier.visible.residents.keys();
                if !keys.is_empty() {
                    let key = keys[chance.random_range(0..keys.len())];
                    server.applier.evict(key);
                }
            }
            _ => {
                server.applier.free_unused();
            }
        }
    }

    fn run(mut self, seen: &mut Seen) {
        for _ in 0..STEPS {
            self.step();
            for server in &self.servers {
                server.check(&self.memory);
                let keys = server.applier.visible.residents.keys();
                let tails = keys.iter().filter(|key| matches!(key, CacheKey::Tail(_))).count();
                seen.tails += tails;
                seen.lists += keys.len() - tails;
                let deeper = |slot| server.applier.keeper.contains(CacheKey::DeeperTail(slot));
                let shown = |slot| self.memory.tail(slot, 0).is_some();
                seen.deeper += (0..16).filter(|slot| deeper(*slot) && shown(*slot)).count();
            }
            assert!(self.memory.budget().used() <= BUDGET + BUDGET / 4, "over the budget");
        }
        seen.frees += self.memory.frees();
    }
}

#[tokio::test]
async fn readers_see_the_rows_of_the_servers_in_every_run() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::from_folder(dir.path(), []).unwrap();
    let tributary = Tributary::open(&config).await.unwrap();
    let source = &tributary.0.fleet.sources()[0];
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let first = number("TRIBUTARY_SEED").unwrap_or(0);
    let seeds = number("TRIBUTARY_SIM_SEEDS").map_or(SEEDS, |seeds| seeds.div_ceil(1_000));
    let mut seen = Seen::default();
    for seed in first..first + seeds {
        println!("seed {seed}");
        Simulation::new(seed, source).run(&mut seen);
    }
    println!("{seen:?}");
    let steps = STEPS * usize::try_from(seeds).unwrap();
    assert!(seen.tails > steps && seen.lists > steps, "{seen:?}");
    assert!(seen.deeper > steps / 1_000 && seen.frees > 10 * seeds, "{seen:?}");
}
