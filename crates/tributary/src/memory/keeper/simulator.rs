//! Long random runs of a keeper against a simulated server with every fault. A seed decides
//! everything. After each step every readable value is compared with the rows that the server
//! held.
//!
//! `TRIBUTARY_SIM_SEEDS=100000` runs that many seeds from `TRIBUTARY_SEED` on, as `./dev soak`
//! does. `TRIBUTARY_SIM_SEED=7` runs one seed and prints its steps.

mod count;
mod server;

use std::env;
use std::fmt::{self, Debug};

use super::bits::Bits;
use super::weakness::{TestKeeper, Weakness};
use super::{BUFFERED_MAX, Installed, Ticket, Tracked};
use crate::changes::{Bounds, LogPosition};
use count::{ALL, COUNTS, Count};
use server::{Chance, GAP, Server, SimLog};

/// Few authors, so that each of them sees many events.
const AUTHORS: usize = 6;
const READERS: usize = 4;
/// Maximum number of reads in flight.
const FILLS_MAX: usize = 12;
const STEPS: usize = 1_000;
/// Number of seeds in a normal test run.
const SEEDS: u64 = 4_000;
/// All seeds together must reach each fault and each branch at least this often.
const OFTEN: u64 = 100;

/// The kinds of steps.
#[derive(Clone, Copy, Debug)]
enum Step {
    Write,
    Burst,
    Show,
    Stall,
    Deliver,
    CutLink,
    Relink,
    Crash,
    TakeOver,
    Start,
    Advance,
    Evict,
    Read,
}

/// The relative frequency of each kind of step; the sum is about 1,000.
const WEIGHTS: [(Step, usize); 13] = [
    (Step::Write, 160),
    (Step::Burst, 2),
    (Step::Show, 200),
    (Step::Stall, 8),
    (Step::Deliver, 160),
    (Step::CutLink, 4),
    (Step::Relink, 40),
    (Step::Crash, 1),
    (Step::TakeOver, 1),
    (Step::Start, 120),
    (Step::Advance, 240),
    (Step::Evict, 25),
    (Step::Read, 80),
];

/// A read of one author, in flight.
#[derive(Clone, Debug)]
struct Fill {
    author: u8,
    ticket: Ticket,
    exact: bool,
    identity: u64,
    stage: Stage,
}

#[derive(Clone, Debug)]
enum Stage {
    Requested,
    Low(LogPosition),
    Rows { low: LogPosition, tail: Bits },
    Read { low: LogPosition, high: LogPosition, tail: Bits },
}

/// A reader that must never see an earlier state than before.
#[derive(Clone, Copy, Debug, Default)]
struct Reader {
    epoch: u64,
    seen: LogPosition,
}

struct Run {
    chance: Chance,
    weights: [(Step, usize); 13],
    depth: u8,
    weakness: Option<Weakness>,
    server: Server,
    /// The log of the previous server, until the failover is noticed.
    old: Option<SimLog>,
    followed: u64,
    linked: bool,
    /// Number of transactions that were delivered.
    delivered: usize,
    keeper: TestKeeper<u8>,
    fills: Vec<Fill>,
    readers: [Reader; READERS],
    /// The values that the keeper reported.
    shown: [Option<Bits>; AUTHORS],
    counts: [u64; COUNTS],
    trace: u64,
    verbose: bool,
}

/// The result of a run.
#[derive(Debug, PartialEq, Eq)]
struct RunResult {
    counts: [u64; COUNTS],
    /// A hash of every step and its result.
    trace: u64,
    /// The step that failed, and the failure.
    wrong: Option<(usize, String)>,
}

impl Run {
    fn new(seed: u64, weakness: Option<Weakness>) -> Self {
        let mut chance = Chance(seed);
        // Each run has frequencies of its own, so that some runs are full of otherwise rare
        // events.
        let weights = WEIGHTS.map(|(step, weight)| (step, weight * [1, 2, 6][chance.below(3)]));
        let mut keeper = TestKeeper::new(weakness);
        keeper.begin(LogPosition(0));
        Self {
            depth: [1, 2, 4, 64][chance.below(4)],
            chance,
            weights,
            weakness,
            server: Server::new(),
            old: None,
            followed: 1,
            linked: true,
            delivered: 0,
            keeper,
            fills: Vec::new(),
            readers: [Reader::default(); READERS],
            shown: [None; AUTHORS],
            counts: [0; COUNTS],
            trace: 0,
            verbose: false,
        }
    }

    fn run(mut self) -> RunResult {
        let mut wrong = None;
        for number in 0..STEPS {
            if let Err(what) = self.step().and_then(|()| self.check()) {
                wrong = Some((number, what));
                break;
            }
        }
        if wrong.is_none() {
            wrong = self.check_end().err().map(|what| (STEPS, what));
        }
        RunResult { counts: self.counts, trace: self.trace, wrong }
    }

    fn has(&self, weakness: Weakness) -> bool {
        self.weakness == Some(weakness)
    }

    fn count(&mut self, count: Count) {
        self.counts[count as usize] += 1;
        self.note(&count);
    }

    /// Adds to the trace.
    fn note(&mut self, what: &dyn Debug) {
        let mut trace = Trace(self.trace);
        fmt::write(&mut trace, format_args!("{what:?}")).unwrap();
        self.trace = trace.0;
        if self.verbose {
            println!("    {what:?}");
        }
    }

    fn step(&mut self) -> Result<(), String> {
        let all = self.weights.iter().map(|(_, weight)| weight).sum();
        let mut pick = self.chance.below(all);
        let mut chosen = Step::Write;
        for (step, weight) in self.weights {
            chosen = step;
            if pick < weight {
                break;
            }
            pick -= weight;
        }
        self.note(&chosen);
        match chosen {
            Step::Write => {
                if self.server.write(&mut self.chance) {
                    self.count(Count::Unknown);
                }
            }
            Step::Burst => self.burst(),
            Step::Show => self.server.show(1 + self.chance.below(3)),
            Step::Stall => {
                self.server.stalled = !self.server.stalled && self.chance.percent(50);
                if self.server.stalled {
                    self.count(Count::Stall);
                }
            }
            Step::Deliver => self.deliver()?,
            Step::CutLink => self.cut_link(),
            Step::Relink => self.relink(),
            Step::Crash => self.crash(),
            Step::TakeOver => self.take_over(),
            Step::Start => self.start(),
            Step::Advance => self.advance(),
            Step::Evict => self.evict(),
            Step::Read => self.read()?,
        }
        Ok(())
    }

    /// Changes one author so often that a read of it in flight is given up.
    fn burst(&mut self) {
        let author = u8::try_from(self.chance.below(AUTHORS)).unwrap();
        for _ in 0..3 {
            self.server.write_many(&mut self.chance, author, BUFFERED_MAX / 2);
        }
        self.count(Count::Burst);
    }

    fn followed_log(&self) -> &SimLog {
        self.old.as_ref().unwrap_or(&self.server.log)
    }

    /// Delivers up to five transactions.
    fn deliver(&mut self) -> Result<(), String> {
        for _ in 0..=self.chance.below(4) {
            if !self.linked || self.delivered >= self.followed_log().len() {
                return Ok(());
            }
            self.deliver_one()?;
        }
        Ok(())
    }

    fn deliver_one(&mut self) -> Result<(), String> {
        let transaction = self.followed_log().transactions[self.delivered].clone();
        self.delivered += 1;
        let at = LogPosition(transaction.end);
        if at <= self.keeper.high_water() {
            self.count(Count::Redelivered);
        }
        if self.old.is_some() {
            self.count(Count::DeliveredByOldServer);
        }
        let (held, pending) = (self.keeper.held.len(), self.keeper.pending());
        let many = transaction.changes.len() > 8;
        let before = self.keeper.high_water();
        let mut shown = Vec::new();
        self.keeper.commit(at, transaction.changes, |key, tail| shown.push((*key, tail.copied())));
        if self.keeper.high_water() < before {
            return Err("the high-water mark fell".into());
        }
        if !shown.is_sorted_by(|one, two| one.0 < two.0) {
            return Err(format!("reported twice or out of order: {shown:?}"));
        }
        if many && self.keeper.pending() < pending {
            self.count(Count::Overflow);
        }
        if self.keeper.held.len() < held {
            self.count(Count::Released);
        }
        self.note(&shown);
        for (author, tail) in shown {
            let reported = &mut self.shown[usize::from(author)];
            let gone = reported.is_some() && tail.is_none();
            *reported = tail;
            if gone {
                self.count(Count::UnknownWhileReady);
            }
        }
        Ok(())
    }

    fn cut_link(&mut self) {
        self.linked = false;
        self.count(Count::LostLink);
    }

    /// Connects again. Continues the followed log if it still exists, else starts another
    /// identity.
    fn relink(&mut self) {
        if self.linked && self.old.is_none() {
            return;
        }
        self.linked = true;
        if self.has(Weakness::NoFailover) {
            self.old = None;
            self.followed = self.server.identity;
            self.delivered = self.server.log.count_at(self.keeper.high_water());
            return;
        }
        let purged = self.chance.percent(15);
        if purged {
            self.count(Count::Purge);
        }
        if purged || self.old.is_some() {
            return self.begin();
        }
        self.delivered -= self.chance.below(10).min(self.delivered);
        self.keeper.set_delivered(LogPosition(self.server.log.end_of(self.delivered)));
    }

    fn begin(&mut self) {
        self.old = None;
        self.followed = self.server.identity;
        self.delivered = self.server.log.len();
        self.shown = [None; AUTHORS];
        self.keeper.begin(self.server.end());
    }

    /// Fails all reads that are in progress.
    fn lose_connections(&mut self) {
        for index in (0..self.fills.len()).rev() {
            if matches!(self.fills[index].stage, Stage::Low(_) | Stage::Rows { .. }) {
                self.fail(index);
            }
        }
    }

    fn fail(&mut self, index: usize) {
        let fill = self.fills.swap_remove(index);
        self.keeper.give_up(fill.author, fill.ticket);
        self.count(Count::FailedRead);
    }

    fn crash(&mut self) {
        self.server.restart();
        self.linked = false;
        self.lose_connections();
        self.count(Count::Crash);
    }

    fn take_over(&mut self) {
        let len = self.server.log.len();
        let kept = len - self.chance.below(8).min(len);
        self.old.get_or_insert_with(|| self.server.log.clone());
        self.server.take_over(kept);
        self.lose_connections();
        self.count(Count::TakenOver);
        if kept < len {
            self.count(Count::LostTail);
        }
    }

    fn start(&mut self) {
        let author = u8::try_from(self.chance.below(AUTHORS)).unwrap();
        if self.fills.len() == FILLS_MAX {
            return;
        }
        let Some(ticket) = self.keeper.register(author) else { return };
        let exact = self.chance.percent(50);
        let identity = self.server.identity;
        self.fills.push(Fill { author, ticket, exact, identity, stage: Stage::Requested });
    }

    /// Advances one read by a step, or makes it fail.
    fn advance(&mut self) {
        if self.fills.is_empty() {
            return;
        }
        let index = self.chance.below(self.fills.len());
        if self.chance.percent(3) {
            return self.fail(index);
        }
        // A protocol without ticket checks assumes that no read goes to another server.
        let elsewhere = self.server.identity != self.followed && self.has(Weakness::NoTickets);
        let read = matches!(self.fills[index].stage, Stage::Read { .. });
        if read || !elsewhere {
            self.advance_one(index);
        }
    }

    fn advance_one(&mut self, index: usize) {
        let fill = self.fills[index].clone();
        let rows = self.server.visible_rows()[usize::from(fill.author)];
        let tail = Bits::read(rows, self.depth, !self.has(Weakness::NoFloor));
        let before = self.has(Weakness::EndAsSnapshot);
        let stage = match fill.stage {
            Stage::Requested if before => Stage::Low(self.server.end()),
            Stage::Requested if fill.exact => {
                let at = self.server.snapshot(&mut self.chance);
                Stage::Read { low: at, high: at, tail }
            }
            Stage::Requested => Stage::Low(self.server.snapshot(&mut self.chance)),
            Stage::Low(low) => Stage::Rows { low, tail },
            Stage::Rows { low, tail } => Stage::Read { low, high: self.server.end(), tail },
            Stage::Read { .. } => return self.install(index),
        };
        self.note(&(&stage, fill.author));
        self.fills[index].stage = stage;
        self.fills[index].identity = self.server.identity;
    }

    fn install(&mut self, index: usize) {
        let fill = self.fills[index].clone();
        let Stage::Read { low, high, tail } = fill.stage else {
            unreachable!("only finished reads are installed")
        };
        let trusts = self.has(Weakness::NoServerCheck) || self.has(Weakness::NoTickets);
        if fill.identity != self.followed && !trusts {
            self.count(Count::OtherServer);
            return self.fail(index);
        }
        let bounds = if fill.exact { Bounds::Exact(low) } else { Bounds::Window { low, high } };
        let waited = self.keeper.is_waiting(fill.author, fill.ticket);
        let installed = self.keeper.install(fill.author, fill.ticket, bounds, tail);
        match installed {
            Installed::Ready => {
                if low > self.keeper.high_water() {
                    self.count(Count::ReadAhead);
                }
                self.shown[usize::from(fill.author)] =
                    self.keeper.get(fill.author).map(|(tail, _)| *tail);
                self.count(Count::Ready);
            }
            Installed::Held => self.count(Count::Held),
            Installed::Retry => {
                self.fills[index].stage = Stage::Requested;
                return self.count(Count::Retry);
            }
            Installed::Void if waited => self.count(Count::UnknownWhileRead),
            Installed::Void if fill.ticket.epoch != self.keeper.epoch() => {
                self.count(Count::OldEpoch);
            }
            Installed::Void => self.count(Count::OldGeneration),
        }
        self.fills.swap_remove(index);
    }

    fn evict(&mut self) {
        let author = u8::try_from(self.chance.below(AUTHORS)).unwrap();
        let count = match self.keeper.entries.get(&author) {
            None => return,
            Some(Tracked::Ready { .. }) => Count::EvictedReady,
            Some(Tracked::Pending(pending)) if pending.held.is_some() => Count::EvictedHeld,
            Some(Tracked::Pending(_)) => Count::EvictedPending,
        };
        self.count(count);
        assert!(self.keeper.evict(author));
        self.shown[usize::from(author)] = None;
    }

    /// A reader requests an author: from memory if it is present and new enough, else from the
    /// database.
    fn read(&mut self) -> Result<(), String> {
        let (index, author) = (self.chance.below(READERS), self.chance.below(AUTHORS));
        let mut reader = self.readers[index];
        if reader.epoch != self.keeper.epoch() {
            self.count(Count::TokenLost);
            reader = Reader { epoch: self.keeper.epoch(), seen: LogPosition(0) };
        }
        let key = u8::try_from(author).unwrap();
        let at = match self.keeper.get(key).map(|(_, at)| at) {
            Some(at) if at >= reader.seen => {
                self.count(Count::FromMemory);
                at
            }
            _ => {
                let at = LogPosition(self.server.log.end_of(self.server.visible));
                let refused = at < reader.seen && !self.has(Weakness::NoToken);
                if refused || self.server.identity != self.followed {
                    self.count(Count::Waited);
                    return Ok(());
                }
                self.count(Count::FromDatabase);
                at
            }
        };
        if at < reader.seen {
            return Err(format!("a reader that saw {:?} got {at:?}", reader.seen));
        }
        self.readers[index] = Reader { seen: at, ..reader };
        Ok(())
    }

    /// Checks that every readable value equals the rows of the server at its position, bit for
    /// bit.
    fn check(&self) -> Result<(), String> {
        let mut ready = 0;
        for author in 0..AUTHORS {
            let key = u8::try_from(author).unwrap();
            let found = self.keeper.get(key);
            if found.map(|(tail, _)| *tail) != self.shown[author] {
                return Err(format!(
                    "{:?} was reported, but the keeper holds {found:?}",
                    self.shown[author]
                ));
            }
            let Some((tail, at)) = found else { continue };
            ready += 1;
            let rows = self.followed_log().rows_at(at)[author];
            if !tail.is_of(rows)
                || at.0 >= self.followed_log().end_of(self.followed_log().len()) + GAP
            {
                return Err(format!("author {author} at {at:?}: {tail:?} of {rows:#b}"));
            }
        }
        if ready != self.keeper.ready() {
            return Err(format!("{ready} are ready, not {}", self.keeper.ready()));
        }
        self.check_pending()
    }

    fn check_pending(&self) -> Result<(), String> {
        let mut held = Vec::new();
        for (key, entry) in &self.keeper.entries {
            let Tracked::Pending(pending) = entry else { continue };
            held.extend(pending.held.as_ref().map(|held| (held.high, *key)));
            if pending.buffered.len() > BUFFERED_MAX {
                return Err(format!("{} changes were buffered", pending.buffered.len()));
            }
        }
        held.sort_unstable();
        if !self.keeper.held.iter().eq(&held) {
            return Err(format!("{held:?} are held, not {:?}", self.keeper.held));
        }
        match self.keeper.held.first() {
            Some((high, _)) if *high <= self.keeper.high_water() => {
                Err("held although the log has reached it".into())
            }
            _ => Ok(()),
        }
    }

    /// Ends all faults. Every requested author must then be filled and equal the database.
    fn check_end(&mut self) -> Result<(), String> {
        self.server.stalled = false;
        self.server.show(usize::MAX / 2);
        self.relink();
        while self.delivered < self.followed_log().len() {
            self.deliver_one()?;
        }
        // Reads in flight may belong to another server or be void.
        self.finish();
        for author in 0..AUTHORS {
            let author = u8::try_from(author).unwrap();
            if let Some(ticket) = self.keeper.register(author) {
                let exact = self.chance.percent(50);
                let identity = self.server.identity;
                self.fills.push(Fill { author, ticket, exact, identity, stage: Stage::Requested });
            }
        }
        self.finish();
        self.check()?;
        for author in 0..AUTHORS {
            let rows = self.server.visible_rows()[author];
            if !self.shown[author].is_some_and(|tail| tail.is_of(rows)) {
                return Err(format!("author {author} was not filled: {:?}", self.shown[author]));
            }
            self.count(Count::Filled);
        }
        match self.fills.len() + self.keeper.pending() {
            0 => Ok(()),
            left => Err(format!("{left} reads never ended")),
        }
    }

    /// Runs all reads to their end.
    fn finish(&mut self) {
        // Three steps for a read and one to install it; all of them twice if it is retried.
        for _ in 0..8 {
            for index in (0..self.fills.len()).rev() {
                self.advance_one(index);
            }
        }
    }
}

/// FNV-1a over the written text.
struct Trace(u64);

impl fmt::Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn memory_equals_the_server_in_every_run() {
    if let Some(seed) = number("TRIBUTARY_SIM_SEED") {
        let mut run = Run::new(seed, None);
        println!("seed {seed}: depth {}, {:?}", run.depth, run.weights);
        run.verbose = true;
        assert_eq!(run.run().wrong, None);
        return;
    }
    let mut counts = [0; COUNTS];
    let first = number("TRIBUTARY_SEED").unwrap_or(0);
    for seed in first..first + number("TRIBUTARY_SIM_SEEDS").unwrap_or(SEEDS) {
        let result = Run::new(seed, None).run();
        if let Some((step, what)) = result.wrong {
            panic!(
                "seed {seed}, step {step}: {what}\nrepeat with: TRIBUTARY_SIM_SEED={seed} cargo \
                 test --lib memory_equals_the_server -- --nocapture"
            );
        }
        for (sum, count) in counts.iter_mut().zip(result.counts) {
            *sum += count;
        }
    }
    let names = ALL.map(|count| (count, counts[count as usize]));
    println!("{names:?}");
    for (name, count) in names {
        assert!(count >= OFTEN, "{name:?} happened only {count} times");
    }
}

#[test]
fn a_seed_gives_the_same_run_each_time() {
    let run = |seed| Run::new(seed, None).run();
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed));
        assert_ne!(run(seed).trace, run(seed + 1).trace);
    }
}

#[test]
fn every_weakness_breaks_some_run() {
    use Weakness::{
        EndAsSnapshot, NoBuffer, NoFailover, NoFence, NoFloor, NoHighWater, NoHold, NoPositions,
        NoRegistration, NoServerCheck, NoTickets, NoToken, VoidOnChange,
    };
    let all = [
        NoBuffer,
        NoPositions,
        VoidOnChange,
        EndAsSnapshot,
        NoRegistration,
        NoHold,
        NoFence,
        NoHighWater,
        NoFloor,
        NoFailover,
        NoTickets,
        NoServerCheck,
        NoToken,
    ];
    for weakness in all {
        let wrong = |seed| Run::new(seed, Some(weakness)).run().wrong.map(|wrong| (seed, wrong));
        let found = (0..SEEDS).find_map(wrong);
        let (seed, (step, what)) =
            found.unwrap_or_else(|| panic!("no run breaks with {weakness:?}"));
        println!("{weakness:?}: seed {seed}, step {step}: {what}");
    }
}
