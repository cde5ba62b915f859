//! Long random runs of the delivery of news against simulated servers. Memory, its writers, pages,
//! news and subscriptions are the real ones; a seed decides the whole run. After each step, what
//! each client has (a page and the events after it) is compared with the rows of the servers.
//!
//! The servers reset their logs and lose rows without a transaction. The nodes restart, lag, drop
//! news, evict, and have clocks that differ. The clients are cut, and continue from any earlier
//! token on any node.
//!
//! `TRIBUTARY_SIM_SEEDS=100000` runs a hundredth of that many seeds from `TRIBUTARY_SEED` on, as
//! `./dev soak` does. `TRIBUTARY_SIM_SEED=7` runs one seed and prints its steps.

mod client;
mod node;
mod world;

use std::env;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

use self::client::{Client, Counts};
use self::node::Node;
use self::world::Server;
use crate::Tributary;
use crate::clock;
use crate::config::Config;
use crate::model::ShardId;
use crate::shard::Fleet;

/// Authors 0 to 5 and the readers: even ids on the first server, odd ids on the second.
const AUTHORS: u64 = 6;
const READERS: [u64; 2] = [100, 101];
const STEPS: usize = 400;
/// Number of seeds in a normal test run, and for each weakness at most.
const SEEDS: u64 = 12;
/// The first day of the simulations. Each of them has a day of its own, because the horizon of a
/// node never goes back.
const START_MS: i64 = 1_700_000_000_000;
const DAY_MS: i64 = 86_400_000;

/// A part of the rule of delivery that is removed, to prove that the checks notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weakness {
    /// A token that ends within a transaction is rounded up to its end.
    WholeTransactions,
    /// The changes since a page begin at the later of its two positions.
    LaterPosition,
    /// A client that continues has the horizon of that moment in its token.
    NoHorizon,
    /// An answer moves the positions of the token and not its horizon.
    PositionsFirst,
    /// A stream does not wait for the time of hidden posts.
    NoDueTime,
    /// All posts count as posts of the past.
    AllPlain,
    /// A client does not read a page after a gap.
    NoGap,
    /// A client does not read a page after a follow.
    NoFollowPage,
    /// A log that is reset has the identity of the old one.
    SameIdentity,
    /// Unknown changes are ignored.
    NoUnknown,
}

struct Simulation<'a> {
    chance: StdRng,
    fleets: &'a [Tributary],
    servers: Vec<Server>,
    nodes: Vec<Node<'a>>,
    clients: Vec<Client>,
    now_ms: i64,
    /// How far the clock of each node is ahead, and the bytes of its news.
    settings: Vec<(i64, usize)>,
    weakness: Option<Weakness>,
    verbose: bool,
}

impl<'a> Simulation<'a> {
    fn new((seed, day): (u64, i64), fleets: &'a [Tributary], weakness: Option<Weakness>) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        let now_ms = START_MS + day * DAY_MS;
        let mut servers: Vec<Server> = (0..world::SERVERS).map(Server::new).collect();
        for _ in 0..10 {
            servers.iter_mut().for_each(|server| server.write(&mut chance, now_ms));
        }
        let skews = [0, 0, 5_000, -5_000, 90_000];
        let sizes = [2_000, 20_000, 1 << 20];
        let settings: Vec<(i64, usize)> = fleets
            .iter()
            .map(|_| (skews[chance.random_range(0..5)], sizes[chance.random_range(0..3)]))
            .collect();
        let clients = (0..4).map(|number| Client::new(READERS[number % 2], weakness)).collect();
        let mut simulation = Self {
            chance,
            fleets,
            servers,
            nodes: Vec::new(),
            clients,
            now_ms,
            settings,
            weakness,
            verbose: false,
        };
        for number in 0..fleets.len() {
            let node = simulation.start_node(number);
            simulation.nodes.push(node);
        }
        let Self { nodes, servers, clients, chance, .. } = &mut simulation;
        for client in clients {
            nodes[0].set_clock(now_ms);
            client.begin(&mut nodes[0], servers, chance);
        }
        simulation
    }

    fn start_node(&self, number: usize) -> Node<'a> {
        let (offset_ms, news) = self.settings[number];
        clock::set_ms(Some(self.now_ms + offset_ms));
        let fleet: &Fleet = &self.fleets[number].0.fleet;
        Node::start(fleet, &self.servers, (offset_ms, news), self.weakness)
    }

    /// One random step of the servers, the nodes or the clients.
    async fn step(&mut self) -> Result<(), String> {
        let number = self.chance.random_range(0..self.nodes.len());
        let index = self.chance.random_range(0..self.servers.len());
        let (server, chance) = (&mut self.servers[index], &mut self.chance);
        self.nodes[number].set_clock(self.now_ms);
        let node = &mut self.nodes[number];
        let step = chance.random_range(0..1_000);
        if self.verbose {
            let delivered = node.writers.iter().map(|writer| (writer.epoch, writer.delivered));
            let delivered: Vec<_> = delivered.collect();
            println!("step {step}, node {number} {delivered:?}, server {index}, {}", self.now_ms);
        }
        match step {
            0..200 => server.write(chance, self.now_ms),
            200..260 => {
                let epoch = server.now_mut();
                epoch.visible = epoch.end().min(epoch.visible + chance.random_range(1..4));
            }
            260..560 => {
                let count = chance.random_range(1..5);
                node.deliver(server, count);
            }
            560..660 => self.now_ms += chance.random_range(0..2_000),
            660..665 => self.now_ms += chance.random_range(0..90_000),
            665..700 => node.evict(chance),
            700..740 => node.load_heads(server),
            740..743 => server.reset(self.weakness == Some(Weakness::SameIdentity)),
            743..746 => {
                self.now_ms += 200_000;
                self.restart(number);
            }
            746..750 => self.lose(index),
            750..790 => {
                let client = chance.random_range(0..self.clients.len());
                self.clients[client].cut(chance);
            }
            790..850 => {
                let client = chance.random_range(0..self.clients.len());
                if !self.clients[client].is_live() {
                    self.clients[client].resume(node, number);
                }
            }
            _ => {
                let client = chance.random_range(0..self.clients.len());
                let client = &mut self.clients[client];
                if !client.is_live() {
                    client.node = number;
                    return client.poll(node, &mut self.servers, chance).await;
                }
            }
        }
        Ok(())
    }

    /// The streams of a node end with it.
    fn restart(&mut self, number: usize) {
        self.nodes[number] = self.start_node(number);
        for client in self.clients.iter_mut().filter(|client| client.node == number) {
            client.cut(&mut self.chance);
        }
    }

    /// Rows change without a transaction. Both nodes have the whole log and notice it. Their clocks
    /// differ by less than the time between two such changes.
    fn lose(&mut self, index: usize) {
        self.now_ms += 200_000;
        let end = self.servers[index].now().end();
        for node in &mut self.nodes {
            node.set_clock(self.now_ms);
            node.deliver(&self.servers[index], end);
            node.deliver(&self.servers[index], end);
        }
        self.servers[index].lose(&mut self.chance, self.now_ms);
        let epoch = self.servers[index].now_mut();
        epoch.visible = epoch.end();
        for node in &mut self.nodes {
            node.set_clock(self.now_ms);
            node.lose(&self.servers[index]);
        }
        // A node that starts later does not know the mark of this change.
        self.servers[index].write(&mut self.chance, self.now_ms);
    }

    async fn run(mut self) -> Result<Counts, (usize, String)> {
        for number in 0..STEPS {
            self.step().await.map_err(|what| (number, what))?;
            for client in &mut self.clients {
                let node = &mut self.nodes[client.node];
                node.set_clock(self.now_ms);
                let context = (&mut self.chance, self.now_ms);
                let read = client.follow_stream(node, &mut self.servers, context);
                read.map_err(|what| (number, what))?;
            }
        }
        let mut counts = Counts::default();
        self.clients.iter().for_each(|client| counts.add(client.counts));
        Ok(counts)
    }
}

/// Two fleets of empty shards. They answer no reads: they do not have the rows of the simulated
/// servers, and the moment of an answer is not decided by the seed.
async fn fleets() -> (Vec<Tributary>, Vec<TempDir>) {
    let (mut fleets, mut dirs) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let dir = tempfile::tempdir().unwrap();
        let shards = ("TRIBUTARY_EMBEDDED__SHARDS".to_owned(), "2".to_owned());
        let mut config = Config::from_folder(dir.path(), [shards]).unwrap();
        config.memory.budget = Some(0);
        // No request reaches its deadline, except those that have no time.
        config.request.deadline_ms = 600_000;
        let fleet = Tributary::open(&config).await.unwrap();
        for shard in 0..2 {
            fleet.0.fleet.shard(ShardId(shard)).stop_reads().await;
        }
        fleets.push(fleet);
        dirs.push(dir);
    }
    (fleets, dirs)
}

#[tokio::test]
async fn clients_have_what_the_servers_have_in_every_run() {
    let (fleets, _dirs) = fleets().await;
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("TRIBUTARY_SIM_SEED") {
        let mut run = Simulation::new((seed, 0), &fleets, None);
        println!("clocks and news: {:?}", run.settings);
        run.verbose = true;
        run.clients.iter_mut().for_each(|client| client.verbose = true);
        assert_eq!(run.run().await.err(), None);
        return;
    }
    let first = number("TRIBUTARY_SEED").unwrap_or(0);
    let seeds = number("TRIBUTARY_SIM_SEEDS").map_or(SEEDS, |seeds| seeds.div_ceil(100));
    let mut counts = Counts::default();
    for (day, seed) in (0..).zip(first..first + seeds) {
        match Simulation::new((seed, day), &fleets, None).run().await {
            Ok(run) => counts.add(run),
            Err((step, what)) => panic!(
                "seed {seed}, step {step}: {what}\nrepeat with: TRIBUTARY_SIM_SEED={seed} cargo \
                 test --lib clients_have_what -- --nocapture"
            ),
        }
    }
    println!("{counts:?}");
    let often = usize::try_from(seeds).unwrap();
    let Counts { events, due, gaps, follows, resumed, checked, .. } = counts;
    assert!([events, due, gaps, follows, resumed].iter().all(|count| *count > often), "{counts:?}");
    assert!(checked > 100 * often, "{counts:?}");
}

#[tokio::test]
async fn a_seed_decides_the_whole_run() {
    let (fleets, _dirs) = fleets().await;
    for seed in 0..3_u64 {
        let day = 2 * seed.cast_signed();
        let run = |day| Simulation::new((seed, day), &fleets, None).run();
        assert_eq!(run(day).await, run(day + 1).await, "seed {seed}");
    }
}

#[tokio::test]
async fn every_weakness_of_the_delivery_breaks_some_run() {
    use Weakness::{
        AllPlain, LaterPosition, NoDueTime, NoFollowPage, NoGap, NoHorizon, NoUnknown,
        PositionsFirst, SameIdentity, WholeTransactions,
    };
    let (fleets, _dirs) = fleets().await;
    let all = [
        WholeTransactions,
        LaterPosition,
        NoHorizon,
        PositionsFirst,
        NoDueTime,
        AllPlain,
        NoGap,
        NoFollowPage,
        SameIdentity,
        NoUnknown,
    ];
    let mut day = 0;
    for weakness in all {
        let mut broken = None;
        for seed in 0..SEEDS {
            day += 1;
            let run = Simulation::new((seed, day), &fleets, Some(weakness)).run().await;
            broken = run.err().map(|wrong| (seed, wrong));
            if broken.is_some() {
                break;
            }
        }
        let (seed, (step, what)) =
            broken.unwrap_or_else(|| panic!("no run breaks with {weakness:?}"));
        println!("{weakness:?}: seed {seed}, step {step}: {what}");
    }
}
