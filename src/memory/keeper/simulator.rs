//! Long random lives of a keeper beside a simulated server with all its faults. A seed decides
//! everything; after every step all that can be read is compared with what the server held.
//!
//! `TRIBUTARY_SIM_SEEDS=100000` runs so many seeds, `TRIBUTARY_SIM_SEED=7` that one, and prints its
//! steps.

mod count;
mod server;

use std::env;
use std::fmt::{self, Debug};

use super::bits::Bits;
use super::weakness::Weakness;
use super::{BUFFERED_MAX, Installed, Keeper, Ticket, Tracked};
use crate::changes::{Bounds, LogPosition};
use count::{ALL, COUNTS, Count};
use server::{Chance, GAP, Log, Server};

/// Few, so that much happens to each.
const AUTHORS: usize = 6;
const READERS: usize = 4;
/// Reads under way at once.
const FILLS_MAX: usize = 12;
const STEPS: usize = 1_000;
/// Seeds of one run of the tests.
const SEEDS: u64 = 4_000;
/// How often all of them together must have come to each fault and each branch.
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

/// How often each kind of step comes, of a thousand or so.
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

/// A read of one author, under way.
#[derive(Clone, Debug)]
struct Fill {
    author: u8,
    ticket: Ticket,
    exact: bool,
    history: u64,
    stage: Stage,
}

#[derive(Clone, Debug)]
enum Stage {
    Asked,
    Low(LogPosition),
    Rows { low: LogPosition, tail: Bits },
    Read { low: LogPosition, high: LogPosition, tail: Bits },
}

/// Someone who never wants to see less than before.
#[derive(Clone, Copy, Debug, Default)]
struct Reader {
    epoch: u64,
    seen: LogPosition,
}

struct Life {
    chance: Chance,
    weights: [(Step, usize); 13],
    depth: u8,
    weakness: Option<Weakness>,
    server: Server,
    /// The log that is followed, until it is noticed that another server took over.
    old: Option<Log>,
    followed: u64,
    linked: bool,
    /// Transactions that were handed over.
    cursor: usize,
    keeper: Keeper<u8, Bits>,
    fills: Vec<Fill>,
    readers: [Reader; READERS],
    /// What the keeper showed.
    shown: [Option<Bits>; AUTHORS],
    counts: [u64; COUNTS],
    trace: u64,
    loud: bool,
}

/// What became of a life.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    counts: [u64; COUNTS],
    /// Stands for every step and its outcome.
    trace: u64,
    /// What went wrong, and in which step.
    wrong: Option<(usize, String)>,
}

impl Life {
    fn new(seed: u64, weakness: Option<Weakness>) -> Self {
        let mut chance = Chance(seed);
        // Each life has its own mixture, so that some are full of what is rare in others.
        let weights = WEIGHTS.map(|(step, weight)| (step, weight * [1, 2, 6][chance.below(3)]));
        let mut keeper = Keeper::new();
        keeper.weaknesses.weakness = weakness;
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
            cursor: 0,
            keeper,
            fills: Vec::new(),
            readers: [Reader::default(); READERS],
            shown: [None; AUTHORS],
            counts: [0; COUNTS],
            trace: 0,
            loud: false,
        }
    }

    fn run(mut self) -> Ended {
        let mut wrong = None;
        for number in 0..STEPS {
            if let Err(what) = self.step().and_then(|()| self.check()) {
                wrong = Some((number, what));
                break;
            }
        }
        if wrong.is_none() {
            wrong = self.rest().err().map(|what| (STEPS, what));
        }
        Ended { counts: self.counts, trace: self.trace, wrong }
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
        if self.loud {
            println!("    {what:?}");
        }
    }

    fn step(&mut self) -> Result<(), String> {
        let all = self.weights.iter().map(|(_, weight)| weight).sum();
        let mut place = self.chance.below(all);
        let mut chosen = Step::Write;
        for (step, weight) in self.weights {
            chosen = step;
            if place < weight {
                break;
            }
            place -= weight;
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

    /// So much of one author that a read of it under way is given up.
    fn burst(&mut self) {
        let author = u8::try_from(self.chance.below(AUTHORS)).unwrap();
        for _ in 0..3 {
            self.server.write_many(&mut self.chance, author, BUFFERED_MAX / 2);
        }
        self.count(Count::Burst);
    }

    fn told(&self) -> &Log {
        self.old.as_ref().unwrap_or(&self.server.log)
    }

    /// Some transactions are handed over.
    fn deliver(&mut self) -> Result<(), String> {
        for _ in 0..=self.chance.below(4) {
            if !self.linked || self.cursor >= self.told().len() {
                return Ok(());
            }
            self.deliver_one()?;
        }
        Ok(())
    }

    fn deliver_one(&mut self) -> Result<(), String> {
        let transaction = self.told().transactions[self.cursor].clone();
        self.cursor += 1;
        let at = LogPosition(transaction.end);
        if at <= self.keeper.high_water() {
            self.count(Count::ToldAgain);
        }
        if self.old.is_some() {
            self.count(Count::ToldByTheOld);
        }
        let (held, pending) = (self.keeper.held.len(), self.keeper.pending());
        let many = transaction.changes.len() > 8;
        let before = self.keeper.high_water();
        let mut shown = Vec::new();
        self.keeper.commit(at, transaction.changes, |key, tail| shown.push((*key, tail.copied())));
        if self.keeper.high_water() < before {
            return Err("the high water went back".into());
        }
        if !shown.is_sorted_by(|one, two| one.0 < two.0) {
            return Err(format!("shown twice or out of order: {shown:?}"));
        }
        if many && self.keeper.pending() < pending {
            self.count(Count::Overflow);
        }
        if self.keeper.held.len() < held {
            self.count(Count::Released);
        }
        self.note(&shown);
        for (author, tail) in shown {
            let place = &mut self.shown[usize::from(author)];
            let gone = place.is_some() && tail.is_none();
            *place = tail;
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

    /// The link is made anew, as far as the log that was followed is there.
    fn relink(&mut self) {
        if self.linked && self.old.is_none() {
            return;
        }
        self.linked = true;
        if self.has(Weakness::NoFailover) {
            self.old = None;
            self.followed = self.server.history;
            self.cursor = self.server.log.count_at(self.keeper.high_water());
            return;
        }
        let purged = self.chance.percent(15);
        if purged {
            self.count(Count::Purge);
        }
        if purged || self.old.is_some() {
            return self.begin();
        }
        self.cursor -= self.chance.below(10).min(self.cursor);
        self.keeper.weaknesses.told(LogPosition(self.server.log.end_of(self.cursor)));
    }

    fn begin(&mut self) {
        self.old = None;
        self.followed = self.server.history;
        self.cursor = self.server.log.len();
        self.shown = [None; AUTHORS];
        self.keeper.begin(self.server.end());
    }

    /// Reads that are at it lose their connections.
    fn lose_connections(&mut self) {
        for place in (0..self.fills.len()).rev() {
            if matches!(self.fills[place].stage, Stage::Low(_) | Stage::Rows { .. }) {
                self.fail(place);
            }
        }
    }

    fn fail(&mut self, place: usize) {
        let fill = self.fills.swap_remove(place);
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
        let history = self.server.history;
        self.fills.push(Fill { author, ticket, exact, history, stage: Stage::Asked });
    }

    /// A read goes on by a step, or fails.
    fn advance(&mut self) {
        if self.fills.is_empty() {
            return;
        }
        let place = self.chance.below(self.fills.len());
        if self.chance.percent(3) {
            return self.fail(place);
        }
        // Whoever relies on nobody reading from another server than the one that is followed.
        let elsewhere = self.server.history != self.followed && self.has(Weakness::NoTickets);
        let read = matches!(self.fills[place].stage, Stage::Read { .. });
        if read || !elsewhere {
            self.advance_one(place);
        }
    }

    fn advance_one(&mut self, place: usize) {
        let fill = self.fills[place].clone();
        let rows = self.server.visible_rows()[usize::from(fill.author)];
        let tail = Bits::read(rows, self.depth, !self.has(Weakness::NoFloor));
        let before = self.has(Weakness::EndAsSnapshot);
        let stage = match fill.stage {
            Stage::Asked if before => Stage::Low(self.server.end()),
            Stage::Asked if fill.exact => {
                let at = self.server.snapshot(&mut self.chance);
                Stage::Read { low: at, high: at, tail }
            }
            Stage::Asked => Stage::Low(self.server.snapshot(&mut self.chance)),
            Stage::Low(low) => Stage::Rows { low, tail },
            Stage::Rows { low, tail } => Stage::Read { low, high: self.server.end(), tail },
            Stage::Read { .. } => return self.install(place),
        };
        self.note(&(&stage, fill.author));
        self.fills[place].stage = stage;
        self.fills[place].history = self.server.history;
    }

    fn install(&mut self, place: usize) {
        let fill = self.fills[place].clone();
        let Stage::Read { low, high, tail } = fill.stage else { unreachable!("it was read") };
        let trusts = self.has(Weakness::NoServerCheck) || self.has(Weakness::NoTickets);
        if fill.history != self.followed && !trusts {
            self.count(Count::OtherServer);
            return self.fail(place);
        }
        let bounds = if fill.exact { Bounds::Exact(low) } else { Bounds::Window { low, high } };
        let waited = self.keeper.waiting(fill.author, fill.ticket).is_some();
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
                self.fills[place].stage = Stage::Asked;
                return self.count(Count::Retry);
            }
            Installed::Void if waited => self.count(Count::UnknownWhileRead),
            Installed::Void if fill.ticket.epoch != self.keeper.epoch() => {
                self.count(Count::OldEpoch);
            }
            Installed::Void => self.count(Count::OldGeneration),
        }
        self.fills.swap_remove(place);
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

    /// A reader asks for an author: memory if it is there and new enough, else the database.
    fn read(&mut self) -> Result<(), String> {
        let (place, author) = (self.chance.below(READERS), self.chance.below(AUTHORS));
        let mut reader = self.readers[place];
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
                if refused || self.server.history != self.followed {
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
        self.readers[place] = Reader { seen: at, ..reader };
        Ok(())
    }

    /// Whether all that can be read is what the server held at that place, to the last bit.
    fn check(&self) -> Result<(), String> {
        let mut ready = 0;
        for author in 0..AUTHORS {
            let key = u8::try_from(author).unwrap();
            let found = self.keeper.get(key);
            if found.map(|(tail, _)| *tail) != self.shown[author] {
                return Err(format!("{:?} was shown of {found:?}", self.shown[author]));
            }
            let Some((tail, at)) = found else { continue };
            ready += 1;
            let rows = self.told().rows_at(at)[author];
            if !tail.is_of(rows) || at.0 >= self.told().end_of(self.told().len()) + GAP {
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
                return Err(format!("{} changes were gathered", pending.buffered.len()));
            }
        }
        held.sort_unstable();
        if !self.keeper.held.iter().eq(&held) {
            return Err(format!("{held:?} are held, not {:?}", self.keeper.held));
        }
        match self.keeper.held.first() {
            Some((high, _)) if *high <= self.keeper.high_water() => Err("held for ever".into()),
            _ => Ok(()),
        }
    }

    /// All faults end: whatever is asked for comes, and is what the database holds.
    fn rest(&mut self) -> Result<(), String> {
        self.server.stalled = false;
        self.server.show(usize::MAX / 2);
        self.relink();
        while self.cursor < self.told().len() {
            self.deliver_one()?;
        }
        // What is under way may be of another server, or void.
        self.finish();
        for author in 0..AUTHORS {
            let author = u8::try_from(author).unwrap();
            if let Some(ticket) = self.keeper.register(author) {
                let exact = self.chance.percent(50);
                let history = self.server.history;
                self.fills.push(Fill { author, ticket, exact, history, stage: Stage::Asked });
            }
        }
        self.finish();
        self.check()?;
        for author in 0..AUTHORS {
            let rows = self.server.visible_rows()[author];
            if !self.shown[author].is_some_and(|tail| tail.is_of(rows)) {
                return Err(format!("author {author} never came: {:?}", self.shown[author]));
            }
            self.count(Count::Brought);
        }
        match self.fills.len() + self.keeper.pending() {
            0 => Ok(()),
            left => Err(format!("{left} reads never end")),
        }
    }

    /// Lets all reads come to their ends.
    fn finish(&mut self) {
        // Three steps for a read, one to install it, and as many if it has to be read again.
        for _ in 0..8 {
            for place in (0..self.fills.len()).rev() {
                self.advance_one(place);
            }
        }
    }
}

/// FNV-1a over what is written.
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
fn memory_is_what_the_server_held_in_every_life() {
    if let Some(seed) = number("TRIBUTARY_SIM_SEED") {
        let mut life = Life::new(seed, None);
        println!("seed {seed}: depth {}, {:?}", life.depth, life.weights);
        life.loud = true;
        assert_eq!(life.run().wrong, None);
        return;
    }
    let mut counts = [0; COUNTS];
    for seed in 0..number("TRIBUTARY_SIM_SEEDS").unwrap_or(SEEDS) {
        let ended = Life::new(seed, None).run();
        if let Some((step, what)) = ended.wrong {
            panic!(
                "seed {seed}, step {step}: {what}\nagain with: TRIBUTARY_SIM_SEED={seed} cargo \
                 test --lib memory_is_what_the_server_held -- --nocapture"
            );
        }
        for (sum, count) in counts.iter_mut().zip(ended.counts) {
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
fn a_seed_means_the_same_life_each_time() {
    let run = |seed| Life::new(seed, None).run();
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed));
        assert_ne!(run(seed).trace, run(seed + 1).trace);
    }
}

#[test]
fn whatever_is_taken_away_some_life_goes_wrong() {
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
        let wrong = |seed| Life::new(seed, Some(weakness)).run().wrong.map(|wrong| (seed, wrong));
        let found = (0..SEEDS).find_map(wrong);
        let (seed, (step, what)) =
            found.unwrap_or_else(|| panic!("all is well without {weakness:?}"));
        println!("without {weakness:?}: seed {seed}, step {step}: {what}");
    }
}
