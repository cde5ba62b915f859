//! The servers, the nodes, and what happens to them, also while a request is on its way.

use std::sync::Arc;

use futures_util::FutureExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

use super::node::{Node, Reading};
use super::server::{LOSS_PAUSE_MS, SERVERS, Server};
use super::{DAY_MS, START_MS, Weakness};
use crate::Tributary;
use crate::clock;
use crate::config::Config;
use crate::model::ShardId;
use crate::shard::HeldReads;

/// Attempts at a request that waits for something which does not come.
const TRIES_MAX: usize = 8;
/// Things that happen while a request waits, at most.
const WAITS_MAX: usize = 60;

/// The fleet of a node. The simulated servers answer its reads.
pub(super) struct SimulatedFleet {
    tributary: Tributary,
    held: Vec<Arc<HeldReads>>,
    _dir: TempDir,
}

impl SimulatedFleet {
    pub(super) async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let shards = ("TRIBUTARY_EMBEDDED__SHARDS".to_owned(), SERVERS.to_string());
        let mut config = Config::from_folder(dir.path(), [shards]).unwrap();
        config.memory.budget = Some(0);
        // No request reaches its deadline, except those that have no time.
        config.request.deadline_ms = 600_000;
        let tributary = Tributary::open(&config).await.unwrap();
        let held: Vec<Arc<HeldReads>> = (0..SERVERS).map(|_| Arc::default()).collect();
        for (number, held) in held.iter().enumerate() {
            let shard = ShardId(u16::try_from(number).unwrap());
            tributary.0.fleet.shard(shard).hold_reads(held);
        }
        Self { tributary, held, _dir: dir }
    }
}

pub(super) struct World<'a> {
    pub(super) chance: StdRng,
    fleets: &'a [SimulatedFleet],
    pub(super) servers: Vec<Server>,
    pub(super) nodes: Vec<Node<'a>>,
    pub(super) now_ms: i64,
    /// How far the clock of each node is ahead, and the bytes of its news.
    pub(super) settings: Vec<(i64, usize)>,
    /// The number of waits of requests, and whether the last request has waited.
    pub(super) waits: u64,
    pub(super) has_waited: bool,
    weakness: Option<Weakness>,
    pub(super) verbose: bool,
}

impl<'a> World<'a> {
    pub(super) fn new(
        (seed, day): (u64, i64),
        fleets: &'a [SimulatedFleet],
        weakness: Option<Weakness>,
    ) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        let now_ms = START_MS + day * DAY_MS;
        let mut servers: Vec<Server> = (0..SERVERS).map(Server::new).collect();
        for _ in 0..10 {
            servers.iter_mut().for_each(|server| server.write(&mut chance, now_ms));
        }
        let skews = [0, 0, 5_000, -5_000, 90_000];
        let sizes = [2_000, 20_000, 1 << 20];
        let settings = fleets
            .iter()
            .map(|_| (skews[chance.random_range(0..5)], sizes[chance.random_range(0..3)]))
            .collect();
        let mut world = Self {
            chance,
            fleets,
            servers,
            nodes: Vec::new(),
            now_ms,
            settings,
            waits: 0,
            has_waited: false,
            weakness,
            verbose: false,
        };
        for number in 0..fleets.len() {
            let node = world.start_node(number);
            world.nodes.push(node);
        }
        world
    }

    fn start_node(&self, number: usize) -> Node<'a> {
        let (offset_ms, news) = self.settings[number];
        clock::set_ms(Some(self.now_ms + offset_ms));
        let SimulatedFleet { tributary, held, .. } = &self.fleets[number];
        let fleet = (&tributary.0.fleet, held.as_slice());
        Node::start(fleet, &self.servers, (offset_ms, news), self.weakness)
    }

    pub(super) fn restart(&mut self, number: usize) {
        self.now_ms += LOSS_PAUSE_MS;
        self.nodes[number] = self.start_node(number);
    }

    /// A node whose clock is set.
    pub(super) fn node(&mut self, number: usize) -> &mut Node<'a> {
        self.set_clock(number);
        &mut self.nodes[number]
    }

    /// Everything happens by the clock of this node from now on.
    fn set_clock(&self, number: usize) {
        self.nodes[number].set_clock(self.now_ms);
    }

    /// One random step of the servers or the nodes. It can also happen while requests wait.
    pub(super) fn change(&mut self) {
        let number = self.chance.random_range(0..self.nodes.len());
        let index = self.chance.random_range(0..self.servers.len());
        let step = self.chance.random_range(0..850);
        self.set_clock(number);
        let Self { servers, nodes, chance, .. } = self;
        let (server, node) = (&mut servers[index], &mut nodes[number]);
        if self.verbose {
            let delivered = node.writers.iter().map(|writer| (writer.epoch, writer.delivered));
            let delivered: Vec<_> = delivered.collect();
            println!("step {step}, node {number} {delivered:?}, server {index}, {}", self.now_ms);
        }
        match step {
            0..200 => server.write(chance, self.now_ms),
            200..270 => server.show(chance.random_range(1..4)),
            270..570 => node.deliver(server, chance.random_range(1..5)),
            570..660 => self.now_ms += chance.random_range(0..2_000),
            660..665 => self.now_ms += chance.random_range(0..90_000),
            665..700 => node.evict(chance),
            700..740 => node.load_heads(server),
            740..743 => server.reset(self.weakness == Some(Weakness::SameIdentity)),
            _ => {
                node.answer(servers, chance);
                node.fill();
            }
        }
    }

    /// Rows change without a transaction. The nodes have the whole log and notice it. Their clocks
    /// differ by less than the time between two such changes. Returns whether a node must restart
    /// now, as if it had been away.
    pub(super) fn lose(&mut self) -> bool {
        self.now_ms += LOSS_PAUSE_MS;
        let index = self.chance.random_range(0..self.servers.len());
        let end = self.servers[index].now().end();
        for node in &mut self.nodes {
            node.set_clock(self.now_ms);
            node.deliver(&self.servers[index], end);
            node.deliver(&self.servers[index], end);
        }
        self.servers[index].lose(&mut self.chance, self.now_ms);
        self.servers[index].show(usize::MAX);
        for node in &mut self.nodes {
            node.set_clock(self.now_ms);
            node.lose(&self.servers[index]);
        }
        self.chance.random_bool(0.5)
    }

    /// Makes a request while other things happen. `None` if its client has ended it.
    pub(super) fn ask<T>(
        &mut self,
        number: usize,
        mut ask: impl AsyncFnMut(&Reading<'_>) -> T,
    ) -> Option<T> {
        let reading = self.nodes[number].reading();
        self.has_waited = false;
        for _ in 0..TRIES_MAX {
            let mut request = Box::pin(ask(&reading));
            for _ in 0..WAITS_MAX {
                self.set_clock(number);
                if let Some(answer) = (&mut request).now_or_never() {
                    return Some(answer);
                }
                if !self.go_on(number) {
                    break;
                }
            }
            if self.chance.random_ratio(1, 8) {
                return None;
            }
        }
        None
    }

    /// Something happens while a request to this node waits. False if the request must begin
    /// again: it waits for time to pass, which does not pass for its timers.
    fn go_on(&mut self, number: usize) -> bool {
        (self.waits, self.has_waited) = (self.waits + 1, true);
        self.nodes[number].fill();
        if self.chance.random_ratio(1, 4) {
            self.change();
            return true;
        }
        self.set_clock(number);
        let Self { servers, nodes, chance, .. } = self;
        let node = &mut nodes[number];
        if node.held(chance).is_some() {
            node.answer(servers, chance);
            node.fill();
            return true;
        }
        for server in servers {
            node.deliver(server, chance.random_range(0..3));
            server.show(chance.random_range(0..3));
        }
        false
    }
}
