//! `tributary bench`: generates data, sends load to a server, and checks its answers. It measures
//! how fast the server is and whether its pages are right.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use tributary::config::{FleetConfig, TimeUnit};
use tributary::internal::{Fleet, Loaded};
use tributary::{Config, OpenError};
use tributary_bench::{
    EnginePlan, LoadPlan, Mix, UserTokens, World, WorldSize, ceiling, drive, engine, plot, ratio,
};

use crate::{DataSource, Outcome, progress, say};

/// The default folder of `tributary bench make`.
const BENCH_FOLDER: &str = "tributary-bench";
/// Rows loaded in one round.
const BATCH_ROWS: usize = 10_000;
/// The time limit of a shard for its part of a round.
const BATCH_DEADLINE: Duration = Duration::from_secs(60);

#[derive(Args, Debug)]
#[command(
    after_help = "The environment variable TRIBUTARY_CREDENTIAL holds the credential of all \
    requests, if the servers need one. docs/benchmarks.md describes the method and lists the \
    results."
)]
pub(crate) struct Bench {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Generate the data of the benchmark and load it
    Make(Make),
    /// Send load to a server with this data, and check its answers
    Run(Run),
    /// Serve one constant page, to measure the upper bound for any server
    Ceiling(Ceiling),
    /// Send load to two servers in turn and compare them
    Ratio(Ratio),
    /// Measure memory alone, without servers, databases or network
    Engine(Engine),
}

/// Selects the data of the benchmark.
#[derive(Args, Clone, Copy, Debug)]
struct Data {
    /// Amount of data
    #[arg(long, value_enum, default_value = "s")]
    size: Size,
    /// Seed of the generator; another seed gives other data of the same kind
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Users that each user mutes; half of them are followees
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    mutes: u16,
    /// Users that each user blocks; half of them are followees
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    blocks: u16,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Size {
    /// 1,000 users, 20,000 posts: for a first try
    Xs,
    /// 20,000 users, 1.9 million follows, 500,000 posts
    S,
    /// 1 million users, 100 million follows, 8 million posts
    M,
}

impl Data {
    fn world(self) -> WorldSize {
        let Self { mutes, blocks, .. } = self;
        let (users, posts) = match self.size {
            Size::Xs => (1_000, 20_000),
            Size::S => (20_000, 500_000),
            Size::M => (1_000_000, 8_000_000),
        };
        WorldSize { users, posts, mutes, blocks }
    }
}

impl Bench {
    pub(crate) async fn run(self) -> Result<Outcome> {
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
    after_help = "The rows are loaded into the folder tributary-bench, or into the shards that \
    --config or --data names. The same size and seed always give the same rows. Running the \
    command again adds no rows."
)]
struct Make {
    #[command(flatten)]
    source: DataSource,
    #[command(flatten)]
    data: Data,
}

impl Make {
    async fn run(self) -> Result<Outcome> {
        let mut config = self.source.load(BENCH_FOLDER)?;
        // Servers abort a statement after this time. A batch may take longer than a usual read.
        config.request.deadline_ms = u64::try_from(BATCH_DEADLINE.as_millis())?;
        // Loading does not use the write path, so the tables need not fulfil its requirements.
        config.write.enabled = false;
        let fleet = Fleet::open_to_load(&config).await?;
        if !matches!(fleet.times().unit, TimeUnit::Milliseconds) {
            let text = "the times of the benchmark's posts are in milliseconds; load them into \
                        tables whose tables.posts.unit is \"ms\"";
            return Err(OpenError::Prerequisite(text.to_owned()).into());
        }
        for shard in fleet.health() {
            if let Err(why) = shard.state {
                bail!("shard {} cannot be reached ({why}); no rows were loaded", shard.name);
            }
        }
        fleet.loadable()?;
        let world = make_world(self.data).await?;
        let follows = world.all_follows();
        let store = async |rows| fleet.load_follows(rows, BATCH_DEADLINE).await;
        load(follows, "follows", store).await?;
        let store = async |rows| fleet.load_mutes(rows, BATCH_DEADLINE).await;
        load(world.all_mutes(), "mutes", store).await?;
        let store = async |rows| fleet.load_blocks(rows, BATCH_DEADLINE).await;
        load(world.all_blocks(), "blocks", store).await?;
        let store = async |rows| fleet.load_posts(rows, BATCH_DEADLINE).await;
        load(world.all_posts(), "posts", store).await?;
        Ok(Outcome::Done)
    }
}

async fn make_world(data: Data) -> Result<World> {
    let make = move || World::make(data.world(), data.seed);
    tokio::task::spawn_blocking(make).await.context("the data could not be generated")
}

/// Loads all rows, in rounds of [`BATCH_ROWS`].
async fn load<T>(
    mut rows: impl ExactSizeIterator<Item = T>,
    what: &'static str,
    store: impl AsyncFn(Vec<T>) -> Result<Loaded, tributary::internal::ShardError>,
) -> Result<()> {
    if rows.len() == 0 {
        return Ok(());
    }
    let bar = progress(rows.len() as u64, "rows", what);
    let (mut added, mut present) = (0, 0);
    loop {
        let batch: Vec<T> = rows.by_ref().take(BATCH_ROWS).collect();
        if batch.is_empty() {
            break;
        }
        let count = batch.len();
        let loaded = store(batch).await.with_context(|| {
            format!("stopped after {} {what}; run the command again to continue", added + present)
        })?;
        if let Some(refused) = loaded.refused.first() {
            bail!(
                "the tables contain conflicting rows: {}; load into empty tables",
                refused.reason
            );
        }
        added += loaded.added;
        present += loaded.present;
        bar.inc(count as u64);
    }
    bar.finish_and_clear();
    say(format_args!("{what}: {added} added, {present} already there"));
    Ok(())
}

/// The load that is sent to a server.
#[derive(Args, Debug)]
struct Load {
    /// Mix of requests [default: read; for `ratio`: newest]
    #[arg(long, value_enum)]
    mix: Option<Mix>,
    /// Open connections
    #[arg(long, value_name = "NUMBER", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=8_000))]
    connections: u16,
    /// Duration of the measurement
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    seconds: f64,
    /// Duration of the load before the measurement
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    warmup: f64,
    /// JWKS file with an HS256 key: each request has a token of its user, signed with this key
    #[arg(long, value_name = "FILE", requires = "issuer", requires = "audience")]
    token_keys: Option<PathBuf>,
    /// Issuer of the tokens
    #[arg(long, value_name = "TEXT")]
    issuer: Option<String>,
    /// Audience of the tokens
    #[arg(long, value_name = "TEXT")]
    audience: Option<String>,
    #[command(flatten)]
    data: Data,
}

#[derive(Args, Debug)]
#[command(
    after_help = "The server must serve the data that `tributary bench make` loaded with the same \
    size and seed. At a fixed rate, requests are due at random times that do not depend on the \
    server, and each latency is measured from the time a request was due. Exit code 1: an answer \
    was wrong, or there was none. Exit code 4: some requests failed or were never sent."
)]
struct Run {
    /// Address of the server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7878")]
    url: String,
    /// Address of the server for operators; its metrics are added to the report
    #[arg(long, value_name = "URL", default_value = "")]
    admin_url: String,
    #[command(flatten)]
    load: Load,
    /// Requests per second, or `max`: each connection sends the next request after each answer
    #[arg(long, value_name = "RATE", default_value = "max", value_parser = rate)]
    rate: Rate,
    /// Check one of this many pages; 0 checks none
    #[arg(long, value_name = "NUMBER", default_value_t = 200)]
    check_every: u64,
    /// Process of the server on this machine; its CPU time and memory are measured
    #[arg(long = "server-pid", value_name = "PID")]
    server_pids: Vec<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Write a chart of the latencies to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

impl Run {
    async fn run(self) -> Result<Outcome> {
        let Self { url, admin_url, load, rate, check_every, server_pids, .. } = self;
        let plan = load.plan(&url, Mix::Read, server_pids)?;
        let plan = LoadPlan { rate: rate.0, check_every, admin_url, ..plan };
        let users = load.data.world().users;
        if check_every == 0 && plan.mix.writes() {
            bail!(
                "the mix {} writes, so it needs the generated data; --check-every must be above 0",
                name(plan.mix)
            );
        }
        let world = if check_every > 0 { Some(make_world(load.data).await?) } else { None };
        let seed = load.data.seed;
        let report = tokio::task::spawn_blocking(move || drive(plan, world, users)).await?;
        let report = report.with_context(|| {
            format!("answers were compared with the data of `tributary bench make`, seed {seed}")
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
    /// A plan for load at the highest possible rate, without checks.
    fn plan(&self, url: &str, mix: Mix, server_pids: Vec<u32>) -> Result<LoadPlan> {
        for pid in &server_pids {
            if fs::metadata(format!("/proc/{pid}")).is_err() {
                bail!("process {pid} does not exist on this machine");
            }
        }
        let tokens = match (&self.token_keys, &self.issuer, &self.audience) {
            (Some(file), Some(issuer), Some(audience)) => {
                let users = self.data.world().users;
                Some(UserTokens::sign(file, issuer, audience, users)?)
            }
            _ => None,
        };
        Ok(LoadPlan {
            url: url.to_owned(),
            admin_url: String::new(),
            mix: self.mix.unwrap_or(mix),
            rate: None,
            connections: self.connections.into(),
            seconds: self.seconds,
            warmup: self.warmup,
            seed: self.data.seed,
            check_every: 0,
            server_pids,
            known: false,
            tokens,
            query: String::new(),
        })
    }
}

/// Requests per second; `None` is the highest possible rate.
#[derive(Clone, Copy, Debug)]
struct Rate(Option<f64>);

fn rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate(None));
    }
    let rate = text.parse().ok().filter(|rate| (0.1..=1e7).contains(rate));
    rate.map(|rate| Rate(Some(rate)))
        .ok_or_else(|| "expected a number from 0.1 to 10000000, or `max`".to_owned())
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=86_400.0).contains(seconds));
    seconds.ok_or_else(|| "expected a number of seconds, at most 86400 (a day)".to_owned())
}

#[derive(Args, Debug)]
struct Ceiling {
    /// Address to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7879")]
    listen: SocketAddr,
    /// Size of the page in bytes; below 2,500 it has no posts
    #[arg(long, value_name = "NUMBER", default_value_t = 4_600, value_parser = clap::value_parser!(u32).range(150..=1 << 20))]
    bytes: u32,
}

impl Ceiling {
    async fn run(self) -> Result<Outcome> {
        let (listener, address) = ceiling::bind(self.listen).await.map_err(|error| {
            let address = self.listen;
            let text = format!(
                "cannot listen on {address}: {error}; choose another address with --listen"
            );
            OpenError::Prerequisite(text)
        })?;
        say(format_args!("Serving one constant page on http://{address}"));
        ceiling::serve(listener, usize::try_from(self.bytes)?).await?;
        Ok(Outcome::Done)
    }
}

#[derive(Args, Debug)]
#[command(
    after_help = "Each server gets load at the highest possible rate, in the order A B A B. The \
    answers are not checked."
)]
struct Ratio {
    /// Address of a server; give the option twice, for A and then for B
    #[arg(long = "url", value_name = "URL", num_args = 1, required = true)]
    urls: Vec<String>,
    /// Number of measurements of each server
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    #[command(flatten)]
    load: Load,
    /// Process of a server on this machine; give the option twice, for A and then for B
    #[arg(long = "server-pid", value_name = "PID")]
    server_pids: Vec<u32>,
    /// Parameters of each page of B, for example include_self=1
    #[arg(long, value_name = "QUERY", default_value = "")]
    query: String,
    /// Measure answers 304 to requests whose client has the page
    #[arg(long)]
    known: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Ratio {
    async fn run(self) -> Result<Outcome> {
        let [a, b] = self.urls.as_slice() else {
            bail!("exactly two servers are needed: --url A --url B")
        };
        let pids = |index: usize| self.server_pids.get(index).copied().into_iter().collect();
        let plan = |url: &str, pids| {
            let plan = self.load.plan(url, Mix::Newest, pids)?;
            anyhow::Ok(LoadPlan { known: self.known, ..plan })
        };
        let (a, b) = (plan(a, pids(0))?, plan(b, pids(1))?);
        let b = LoadPlan { query: self.query, ..b };
        if a.mix.writes() {
            bail!(
                "`ratio` supports only the mixes newest, rebuilt, read and poll, which do not write"
            );
        }
        let (rounds, users) = (self.rounds.into(), self.load.data.world().users);
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
    after_help = "Memory is filled with the data of this size and seed. Size m takes minutes and \
    about 7 GB."
)]
struct Engine {
    #[command(flatten)]
    data: Data,
    /// Duration of the measurement for each kind of page
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = seconds)]
    seconds: f64,
    /// Binary log file of a server, to be applied to this memory
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Database in that log; its tables must have our schema and hold all users
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
        // A failure is ignored: the folder holds only an empty shard.
        let _ = fs::remove_dir_all(&dir);
        let report = measured.context("the measurement failed")??;
        if self.json {
            say(format_args!("{:#}", report.json()));
        } else {
            say(&report);
        }
        Ok(Outcome::Done)
    }
}

/// A fleet of one empty shard. The read path requires a fleet, but memory answers all its reads.
async fn empty_fleet(dir: &Path) -> Result<Fleet> {
    let mut config = Config::from_folder(dir, [])?;
    if let FleetConfig::Embedded(embedded) = &mut config.fleet {
        embedded.shards = 1;
    }
    config.write.enabled = false;
    Ok(Fleet::open_to_load(&config).await?)
}
