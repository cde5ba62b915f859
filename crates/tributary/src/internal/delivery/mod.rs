//! Long random runs of the delivery of news against simulated servers. Memory, its writers, pages,
//! news and subscriptions are the real ones; a seed decides the whole run. After each step, what
//! each client has (a page and the events after it) is compared with the rows of the servers.
//!
//! The servers reset their logs, lose rows without a transaction, and answer reads at random
//! moments or not at all. The nodes restart, lag, drop news, evict, and have clocks that differ.
//! The clients are cut, and continue from any earlier token on any node. Everything else continues
//! while a request waits for an answer.
//!
//! `TRIBUTARY_SIM_SEEDS=100000` runs a hundredth of that many seeds from `TRIBUTARY_SEED` on, as
//! `./dev soak` does. `TRIBUTARY_SIM_SEED=7` runs one seed and prints its steps.

mod client;
mod node;
mod server;
mod world;

use std::env;

use rand::RngExt;
use tokio::task::unconstrained;

use self::client::{Client, Counts};
use self::world::{SimulatedFleet, World};

/// Authors 0 to 5 and the readers: even ids on the first server, odd ids on the second.
const AUTHORS: u64 = 6;
const READERS: [u64; 2] = [100, 101];
const STEPS: usize = 400;
/// Number of seeds in a normal test run, and for each weakness at most.
const SEEDS: u64 = 8;
const WEAK_SEEDS_MAX: u64 = 60;
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
    /// A node forgets which authors have posts of the future.
    NoMarks,
    /// A client does not read a page after a gap.
    NoGap,
    /// A client does not read a page after a follow.
    NoFollowPage,
    /// A log that is reset has the identity of the old one.
    SameIdentity,
    /// Unknown changes are ignored.
    NoUnknown,
    /// A fill counts as a snapshot of the moment when it is installed.
    BlindFills,
}

struct Simulation<'a> {
    world: World<'a>,
    clients: Vec<Client>,
}

impl<'a> Simulation<'a> {
    fn new(
        seed_and_day: (u64, i64),
        fleets: &'a [SimulatedFleet],
        weakness: Option<Weakness>,
    ) -> Self {
        let world = World::new(seed_and_day, fleets, weakness);
        let clients = (0..4).map(|number| Client::new(number, weakness)).collect();
        Self { world, clients }
    }

    /// One random step of the servers, the nodes or the clients.
    async fn step(&mut self) -> Result<(), String> {
        let world = &mut self.world;
        let number = world.chance.random_range(0..world.nodes.len());
        let client = world.chance.random_range(0..self.clients.len());
        let client = &mut self.clients[client];
        match world.chance.random_range(0..1_000) {
            0..744 => world.change(),
            step @ 744..750 => {
                let restarts = if step < 747 { world.lose() } else { true };
                if restarts {
                    world.restart(number);
                    // Its streams end with it.
                    let streams = self.clients.iter_mut().filter(|client| client.node == number);
                    streams.for_each(|client| client.cut(&mut world.chance));
                }
            }
            750..790 => client.cut(&mut world.chance),
            790..850 if !client.is_live() => client.resume(world, number),
            _ if !client.is_live() => return client.poll(world, number).await,
            _ => {}
        }
        Ok(())
    }

    async fn run(mut self) -> Result<Counts, (usize, String)> {
        for number in 0..STEPS {
            self.step().await.map_err(|what| (number, what))?;
            for client in &mut self.clients {
                client.follow_stream(&mut self.world).map_err(|what| (number, what))?;
            }
        }
        let mut counts = Counts::default();
        self.clients.iter().for_each(|client| counts.add(client.counts));
        Ok(counts)
    }
}

/// Runs a seed on a day of its own. Without the budget of a task, the requests would wait for the
/// runtime at moments that the seed does not decide.
async fn run(simulation: Simulation<'_>) -> Result<Counts, (usize, String)> {
    unconstrained(simulation.run()).await
}

async fn fleets() -> [SimulatedFleet; 2] {
    [SimulatedFleet::open().await, SimulatedFleet::open().await]
}

#[tokio::test]
async fn clients_have_what_the_servers_have_in_every_run() {
    let fleets = fleets().await;
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("TRIBUTARY_SIM_SEED") {
        let mut simulation = Simulation::new((seed, 0), &fleets, None);
        println!("clocks and news: {:?}", simulation.world.settings);
        simulation.world.verbose = true;
        assert_eq!(run(simulation).await.err(), None);
        return;
    }
    let first = number("TRIBUTARY_SEED").unwrap_or(0);
    let seeds = number("TRIBUTARY_SIM_SEEDS").map_or(SEEDS, |seeds| seeds.div_ceil(100));
    let mut counts = Counts::default();
    for (day, seed) in (0..).zip(first..first + seeds) {
        match run(Simulation::new((seed, day), &fleets, None)).await {
            Ok(run) => counts.add(run),
            Err((step, what)) => panic!(
                "seed {seed}, step {step}: {what}\nrepeat with: TRIBUTARY_SIM_SEED={seed} cargo \
                 test --lib clients_have_what -- --nocapture"
            ),
        }
    }
    println!("{counts:?}");
    let often = usize::try_from(seeds).unwrap();
    let Counts { events, due, gaps, follows, resumed, cold, queried, checked, .. } = counts;
    let all = [events, due, gaps, follows, resumed, cold, queried];
    assert!(all.iter().all(|count| *count > often), "{counts:?}");
    assert!(checked > 100 * often, "{counts:?}");
}

#[tokio::test]
async fn a_seed_decides_the_whole_run() {
    let fleets = fleets().await;
    for seed in 0..2_u64 {
        let day = 2 * seed.cast_signed();
        let run = |day| run(Simulation::new((seed, day), &fleets, None));
        assert_eq!(run(day).await, run(day + 1).await, "seed {seed}");
    }
}

#[tokio::test]
async fn every_weakness_of_the_delivery_breaks_some_run() {
    use Weakness::{
        BlindFills, LaterPosition, NoDueTime, NoFollowPage, NoGap, NoHorizon, NoMarks, NoUnknown,
        PositionsFirst, SameIdentity, WholeTransactions,
    };
    let fleets = fleets().await;
    let all = [
        WholeTransactions,
        LaterPosition,
        NoHorizon,
        PositionsFirst,
        NoDueTime,
        NoMarks,
        NoGap,
        NoFollowPage,
        SameIdentity,
        NoUnknown,
        BlindFills,
    ];
    let mut day = 0;
    for weakness in all {
        let mut broken = None;
        for seed in 0..WEAK_SEEDS_MAX {
            day += 1;
            let run = run(Simulation::new((seed, day), &fleets, Some(weakness))).await;
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
