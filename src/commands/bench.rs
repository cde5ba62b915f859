//! `tributary bench`: data, load and checks, to see how fast a server is and whether it is right.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};

use super::{Outcome, Source, progress, say};
use crate::bench::{
    EnginePlan, LoadPlan, Mix, World, WorldSize, ceiling, drive, engine, plot, ratio,
};
use crate::config::{Config, FleetConfig};
use crate::moment::TimeUnit;
use crate::shard::{Access, Deadline, Fleet, Loaded, OpenError};

/// The folder of `make`, unless told otherwise.
const BENCH_FOLDER: &str = "tributary-bench";
/// Rows of one round while data is loaded.
const BATCH_ROWS: usize = 10_000;
/// What a shard may take for its part of a round.
const BATCH_DEADLINE: Duration = Duration::from_secs(60);

#[derive(Args, Debug)]
#[command(after_help = "How to measure, and what was measured, stands in docs/benchmarks.md.")]
pub(super) struct Bench {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Make the data of the benchmark and load it
    Make(Make),
    /// Drive a server that serves this data, and check its answers
    Run(Run),
    /// Serve one constant page: the most that any server could reach
    Ceiling(Ceiling),
    /// Drive two servers in turn and compare them
    Ratio(Ratio),
    /// Measure memory alone, without servers, databases and network
    Engine(Engine),
}

/// Which data.
#[derive(Args, Clone, Copy, Debug)]
struct Data {
    /// How much data
    #[arg(long, value_enum, default_value = "s")]
    size: Size,
    /// Other data of the same kind
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Size {
    /// 1,000 users, 20,000 posts: to try it
    Xs,
    /// 20,000 users, 1.9 million follows, 500,000 posts
    S,
    /// 1 million users, 100 million follows, 8 million posts
    M,
}

impl Size {
    fn world(self) -> WorldSize {
        match self {
            Self::Xs => WorldSize { users: 1_000, posts: 20_000 },
            Self::S => WorldSize { users: 20_000, posts: 500_000 },
            Self::M => WorldSize { users: 1_000_000, posts: 8_000_000 },
        }
    }
}

impl Bench {
    pub(super) async fn run(self) -> Result<Outcome> {
        match self.command {
            BenchCommand::Make(make) => make.run().await,
            BenchCommand::Run(run) => run.run().await,
            BenchCommand::Ceiling(ceiling) => ceiling.run().await,
            BenchCommand::Ratio(ratio) => ratio.run().await,
            BenchCommand::Engine(engine) => engine.run().await,
        }
    }
}

#[derive(Args, Debug)]
#[command(
    after_help = "Rows go to the folder tributary-bench unless --config or --data says otherwise. The same size and seed make the same rows; running it again adds none."
)]
struct Make {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    data: Data,
}

impl Make {
    async fn run(self) -> Result<Outcome> {
        let mut config = self.source.load(BENCH_FOLDER)?;
        // Servers end a statement that takes longer than a read may; a batch may take this long.
        config.read.deadline_ms = u64::try_from(BATCH_DEADLINE.as_millis())?;
        // Rows are loaded by statements of their own, into tables that need less than posting does.
        config.write.enabled = false;
        let fleet = Fleet::open(&config, Access::Own).await?;
        if !matches!(fleet.times().unit, TimeUnit::Milliseconds) {
            let text = "the benchmark's posts have times in milliseconds; load them into tables \
                        whose tables.posts.unit is \"ms\"";
            return Err(OpenError::Prerequisite(text.to_owned()).into());
        }
        for shard in fleet.health() {
            if let Err(why) = shard.state {
                bail!("shard {} cannot be reached ({why}); nothing was loaded", shard.name);
            }
        }
        fleet.loadable()?;
        let world = make_world(self.data).await?;
        let follows = world.all_follows();
        let store = async |rows| fleet.load_follows(rows, Deadline::after(BATCH_DEADLINE)).await;
        load(follows, "follows", store).await?;
        let store = async |rows| fleet.load_posts(rows, Deadline::after(BATCH_DEADLINE)).await;
        load(world.all_posts(), "posts", store).await?;
        Ok(Outcome::Done)
    }
}

async fn make_world(data: Data) -> Result<World> {
    let make = move || World::make(data.size.world(), data.seed);
    tokio::task::spawn_blocking(make).await.context("the data could not be made")
}

/// Loads all rows, in rounds.
async fn load<T>(
    mut rows: impl ExactSizeIterator<Item = T>,
    what: &'static str,
    store: impl AsyncFn(Vec<T>) -> Result<Loaded, crate::shard::ShardError>,
) -> Result<()> {
    let bar = progress(rows.len() as u64, "rows", what);
    let (mut added, mut present) = (0, 0);
    loop {
        let batch: Vec<T> = rows.by_ref().take(BATCH_ROWS).collect();
        if batch.is_empty() {
            break;
        }
        let count = batch.len();
        let loaded = store(batch).await.with_context(|| {
            format!("stopped after {} {what}; run it again to go on", added + present)
        })?;
        if let Some(refused) = loaded.refused.first() {
            bail!("other rows are in the way: {}; load into empty tables", refused.reason);
        }
        added += loaded.added;
        present += loaded.present;
        bar.inc(count as u64);
    }
    bar.finish_and_clear();
    say(format_args!("{what}: {added} added, {present} already there"));
    Ok(())
}

/// How a server is driven.
#[derive(Args, Debug)]
struct Load {
    /// What is asked for [default: read; to compare servers: newest]
    #[arg(long, value_enum)]
    mix: Option<Mix>,
    /// Connections that are kept open
    #[arg(long, value_name = "NUMBER", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=8_000))]
    connections: u16,
    /// How long is measured
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    seconds: f64,
    /// How long requests are sent before that
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    warmup: f64,
    #[command(flatten)]
    data: Data,
}

#[derive(Args, Debug)]
#[command(
    after_help = "The server must serve what `tributary bench make` has loaded, of the same size and seed. Requests are due as chance has it at the given rate, whatever the server does, and latencies count from then. Exit code 1: an answer was wrong, or there was none; 4: some requests failed or were never sent."
)]
struct Run {
    /// The server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7878")]
    url: String,
    #[command(flatten)]
    load: Load,
    /// Requests a second, or `max`: each connection asks again when it was answered
    #[arg(long, value_name = "RATE", default_value = "max", value_parser = rate)]
    rate: Rate,
    /// Check one page in so many; 0: none
    #[arg(long, value_name = "NUMBER", default_value_t = 200)]
    check_every: u64,
    /// A process of the server on this machine, for its time on the processor and its memory
    #[arg(long = "server-pid", value_name = "PID")]
    server_pids: Vec<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Draw the latencies into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

impl Run {
    async fn run(self) -> Result<Outcome> {
        let Self { url, load, rate, check_every, server_pids, .. } = self;
        let plan = load.plan(&url, Mix::Read, server_pids)?;
        let plan = LoadPlan { rate: rate.0, check_every, ..plan };
        let users = load.data.size.world().users;
        if check_every == 0 && plan.mix.writes() {
            bail!(
                "the mix {} needs to know what it writes to; --check-every must be above 0",
                name(plan.mix)
            );
        }
        let world = if check_every > 0 { Some(make_world(load.data).await?) } else { None };
        let seed = load.data.seed;
        let report = tokio::task::spawn_blocking(move || drive(plan, world, users)).await?;
        let report = report.with_context(|| {
            format!("measured against the data of `tributary bench make`, seed {seed}")
        })?;
        if let Some(path) = &self.svg {
            plot(&report, path)?;
        }
        if self.json {
            say(format_args!("{:#}", report.json()));
        } else {
            say(&report);
        }
        Ok(if report.is_complete() { Outcome::Done } else { Outcome::Partial })
    }
}

fn name(mix: Mix) -> String {
    mix.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

impl Load {
    /// As fast as it can, with nothing checked.
    fn plan(&self, url: &str, mix: Mix, server_pids: Vec<u32>) -> Result<LoadPlan> {
        for pid in &server_pids {
            if fs::metadata(format!("/proc/{pid}")).is_err() {
                bail!("there is no process {pid} here that could be measured");
            }
        }
        Ok(LoadPlan {
            url: url.to_owned(),
            mix: self.mix.unwrap_or(mix),
            rate: None,
            connections: self.connections.into(),
            seconds: self.seconds,
            warmup: self.warmup,
            seed: self.data.seed,
            check_every: 0,
            server_pids,
        })
    }
}

/// Requests a second; as many as there can be when absent.
#[derive(Clone, Copy, Debug)]
struct Rate(Option<f64>);

fn rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate(None));
    }
    let rate = text.parse().ok().filter(|rate| (0.1..=1e7).contains(rate));
    rate.map(|rate| Rate(Some(rate))).ok_or_else(|| "a number above 0, or `max`".to_owned())
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=86_400.0).contains(seconds));
    seconds.ok_or_else(|| "a number of seconds, a day at most".to_owned())
}

#[derive(Args, Debug)]
struct Ceiling {
    /// The address to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7879")]
    listen: SocketAddr,
    /// Bytes of the page; below 2,500 it has no posts
    #[arg(long, value_name = "NUMBER", default_value_t = 4_600, value_parser = clap::value_parser!(u32).range(150..=1 << 20))]
    bytes: u32,
}

impl Ceiling {
    async fn run(self) -> Result<Outcome> {
        let (listener, address) = ceiling::bind(self.listen).await.map_err(|error| {
            let address = self.listen;
            let text = format!("cannot listen on {address}: {error}; choose another with --listen");
            OpenError::Prerequisite(text)
        })?;
        say(format_args!("Serving one constant page on http://{address}"));
        ceiling::serve(listener, usize::try_from(self.bytes)?).await?;
        Ok(Outcome::Done)
    }
}

#[derive(Args, Debug)]
#[command(
    after_help = "Each server is driven as fast as it can, A B A B, and answers are not checked."
)]
struct Ratio {
    /// The two servers: A, then B
    #[arg(long = "url", value_name = "URL", num_args = 1, required = true)]
    urls: Vec<String>,
    /// How often each is measured
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    #[command(flatten)]
    load: Load,
    /// A process of A on this machine, then one of B
    #[arg(long = "server-pid", value_name = "PID")]
    server_pids: Vec<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Ratio {
    async fn run(self) -> Result<Outcome> {
        let [a, b] = self.urls.as_slice() else { bail!("give two servers: --url A --url B") };
        let pids = |index: usize| self.server_pids.get(index).copied().into_iter().collect();
        let a = self.load.plan(a, Mix::Newest, pids(0))?;
        let b = self.load.plan(b, Mix::Newest, pids(1))?;
        if a.mix.writes() {
            bail!(
                "only the mixes newest, read and poll can be compared: a write is not sent twice"
            );
        }
        let (rounds, users) = (self.rounds.into(), self.load.data.size.world().users);
        let ratio = tokio::task::spawn_blocking(move || ratio(&a, &b, rounds, users)).await??;
        if self.json {
            say(format_args!("{:#}", ratio.json()));
        } else {
            say(&ratio);
        }
        Ok(Outcome::Done)
    }
}

#[derive(Args, Debug)]
#[command(
    after_help = "A memory is filled from the data of this size and seed; size m takes minutes and some 7 GB."
)]
struct Engine {
    #[command(flatten)]
    data: Data,
    /// How long each kind of page is measured
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = seconds)]
    seconds: f64,
    /// A file of a server's row log, to be carried out on this memory
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// The database in that log whose tables, made like ours, hold all users
    #[arg(long, value_name = "NAME", default_value = "tributary")]
    database: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Engine {
    async fn run(self) -> Result<Outcome> {
        let log = match &self.log {
            Some(path) => {
                let bytes = fs::read(path);
                Some((bytes.with_context(|| path.display().to_string())?, self.database))
            }
            None => None,
        };
        let world = make_world(self.data).await?;
        let plan = EnginePlan { seed: self.data.seed, seconds: self.seconds, log };
        let dir = std::env::temp_dir().join(format!("tributary-engine-{}", std::process::id()));
        let fleet = empty_fleet(&dir).await?;
        let measured = tokio::task::spawn_blocking(move || engine(world, &fleet, &plan)).await;
        // What is left behind there is empty.
        let _ = fs::remove_dir_all(&dir);
        let report = measured.context("the measurement ended early")??;
        if self.json {
            say(format_args!("{:#}", report.json()));
        } else {
            say(&report);
        }
        Ok(Outcome::Done)
    }
}

/// One shard without rows, which is there to be asked and never is.
async fn empty_fleet(dir: &Path) -> Result<Fleet> {
    let mut config = Config::from_folder(dir, [])?;
    if let FleetConfig::Embedded(embedded) = &mut config.fleet {
        embedded.shards = 1;
    }
    config.write.enabled = false;
    Ok(Fleet::open(&config, Access::Own).await?)
}
