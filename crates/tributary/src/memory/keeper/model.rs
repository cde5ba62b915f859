//! An exhaustive model: every possible run for one author in a small world. In this world the
//! tables lag behind the log, reads are in flight, and links break. A failover can lose the end
//! of the log. Each state contains the real keeper.
//!
//! Three reductions keep the number of states small without excluding any behaviour:
//!
//! - Readers change nothing. Instead of the individual reads, a state holds the greatest position
//!   that any reader can have seen (`State::seen`), as far as it still matters.
//! - With exact reads only the feed and the snapshots observe the log. A transaction is therefore
//!   written when the first of the two reaches it. The log holds unobserved transactions in two
//!   cases only: during a failover, and where a read queries the end of the log.
//! - States are equal if no later step can distinguish them (`State::encode`). Reads in flight
//!   are a set. A ticket is valid or not. A fence at or before the high-water mark counts as
//!   none. The part of the log that both feed and tables have passed is a set of rows, once
//!   nothing can return there.

use std::hash::{Hash, Hasher};
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::bits::{Bits, Change};
use super::weakness::{TestKeeper, Weakness};
use super::{Installed, Ticket, Tracked};
use crate::changes::{Bounds, LogPosition};

/// Number of posts of the author.
const IDS: u8 = 3;
/// Maximum number of reads in flight.
const FILLS: usize = 2;
/// Maximum number of transactions in the log.
const LOG: usize = 4;

/// The limits of a model world.
#[derive(Clone, Copy, Debug)]
struct World {
    /// Number of posts in the tail.
    depth: u8,
    /// Whether one transaction may change several rows.
    rows: bool,
    /// Whether a transaction is written only when it is first observed.
    lazy: bool,
    /// Whether reads report EXACT bounds; otherwise WINDOW.
    exact: bool,
    /// Number of transactions.
    events: u8,
    /// Number of lost links after which the server resends from an earlier position.
    rewinds: u8,
    /// Number of failovers.
    failovers: u8,
    weakness: Option<Weakness>,
}

const EXACT: World = World {
    depth: 1,
    rows: false,
    lazy: true,
    exact: true,
    events: 0,
    rewinds: 0,
    failovers: 0,
    weakness: None,
};

/// Not lazy: it matters here how far the log is ahead of the tables.
const WINDOW: World = World { exact: false, lazy: false, ..EXACT };

/// The transactions. Each is a set of posts, as bits: it writes those that are absent and deletes
/// those that are present.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct ModelLog {
    len: u8,
    transactions: [u8; LOG],
}

impl ModelLog {
    fn push(&mut self, posts: u8) {
        self.transactions[usize::from(self.len)] = posts;
        self.len += 1;
    }

    /// The posts that exist after the first `at` transactions.
    fn rows(&self, at: u8) -> u64 {
        let before = &self.transactions[..usize::from(at.min(self.len))];
        u64::from(before.iter().fold(0, |rows, posts| rows ^ posts))
    }

    /// The changes of the transaction that ends at `at`.
    fn changes(&self, at: u8) -> impl Iterator<Item = ((), Change)> {
        let (posts, rows) = (self.transactions[usize::from(at) - 1], self.rows(at));
        (0..IDS).filter(move |post| posts & (1 << post) != 0).map(move |post| {
            let there = rows & (1 << post) != 0;
            ((), if there { Change::Written(post) } else { Change::Gone(post) })
        })
    }
}

#[derive(Clone, Debug)]
struct State {
    /// The log of the server that answers now.
    log: ModelLog,
    /// Number of its transactions that its tables show.
    visible: u8,
    /// The log of the previous server, until the failover is noticed.
    old: Option<ModelLog>,
    /// Number of transactions of the followed log that were delivered. Falls after a lost link.
    delivered: u8,
    keeper: TestKeeper<()>,
    fills: [Option<Fill>; FILLS],
    /// The greatest position that a reader of memory saw under this log identity.
    seen: u8,
    /// Whether the high-water mark ever fell.
    high_water_fell: bool,
    /// The server that answers now, and the server whose log is followed.
    server: u8,
    followed: u8,
    written: u8,
    rewinds: u8,
    failovers: u8,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Fill {
    ticket: Ticket,
    /// The server that was queried.
    server: u8,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Requested,
    /// The lower bound is known.
    Low(u8),
    Rows {
        low: u8,
        tail: Bits,
    },
    Read {
        low: u8,
        high: u8,
        tail: Bits,
    },
}

/// The component that observes a transaction first.
#[derive(Clone, Copy, Debug, PartialEq)]
enum First {
    Feed,
    Table,
    Neither,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Write(u8, First),
    /// The tables show the next transaction.
    Show,
    /// The feed delivers the next transaction.
    Deliver,
    /// The link was lost; the server resends from this position on.
    Rewind(u8),
    /// Another server takes over. It has only the first transactions of the log, this many.
    TakeOver(u8),
    /// The feed notices the failover.
    Notice,
    Start,
    /// The read advances by one step.
    Read(usize),
    Install(usize),
    GiveUp(usize),
    Evict,
}

fn position(at: u8) -> LogPosition {
    LogPosition(u64::from(at))
}

fn number(at: LogPosition) -> u8 {
    u8::try_from(at.0).unwrap()
}

fn bits(tail: &Bits) -> u8 {
    u8::try_from(tail.posts).unwrap()
}

impl State {
    fn has(&self, weakness: Weakness) -> bool {
        self.keeper.has(weakness)
    }

    /// The tail that a reader gets from memory, and its position.
    fn readable(&self) -> Option<(Bits, u8)> {
        self.keeper.get(()).map(|(tail, at)| (*tail, number(at)))
    }

    /// The position of a read from the database, if the reader may read there.
    fn fallback(&self) -> Option<u8> {
        let may = self.visible >= self.seen || self.has(Weakness::NoToken);
        (may && self.server == self.followed).then_some(self.visible)
    }

    /// The log whose transactions the keeper receives.
    fn followed_log(&self) -> &ModelLog {
        self.old.as_ref().unwrap_or(&self.log)
    }

    fn deliver(&mut self) {
        self.delivered += 1;
        let log = *self.followed_log();
        self.keeper.commit(position(self.delivered), log.changes(self.delivered), |(), _| ());
    }

    fn take_over(&mut self, len: u8) {
        self.failovers -= 1;
        self.server += 1;
        self.old = Some(self.log);
        self.log.len = len;
        self.visible = len;
        for index in 0..FILLS {
            // A read in progress loses its connection.
            if let Some(Fill { stage: Stage::Low(_) | Stage::Rows { .. }, .. }) = self.fills[index]
            {
                self.give_up(index);
            }
        }
    }

    fn notice(&mut self) {
        self.followed = self.server;
        self.old = None;
        if self.has(Weakness::NoFailover) {
            // Positions continue as if nothing had happened.
            return;
        }
        self.delivered = self.log.len;
        self.seen = 0;
        self.keeper.begin(position(self.delivered));
    }

    fn start(&mut self) {
        let ticket = self.keeper.register(()).unwrap();
        let free = self.fills.iter().position(Option::is_none).unwrap();
        self.fills[free] = Some(Fill { ticket, server: self.server, stage: Stage::Requested });
    }

    fn read(&mut self, index: usize, world: &World) {
        let floored = !self.has(Weakness::NoFloor);
        let tail = Bits::read(self.log.rows(self.visible), world.depth, floored);
        let before = self.has(Weakness::EndAsSnapshot);
        let (visible, end, server) = (self.visible, self.log.len, self.server);
        let fill = self.fills[index].as_mut().unwrap();
        fill.stage = match fill.stage {
            Stage::Requested if before => Stage::Low(end),
            Stage::Requested if !world.exact => Stage::Low(visible),
            Stage::Requested => Stage::Read { low: visible, high: visible, tail },
            Stage::Low(low) if world.exact => Stage::Read { low, high: low, tail },
            Stage::Low(low) => Stage::Rows { low, tail },
            Stage::Rows { low, tail } => Stage::Read { low, high: end, tail },
            Stage::Read { .. } => unreachable!("a finished read does not advance"),
        };
        fill.server = server;
    }

    fn install(&mut self, index: usize, exact: bool) {
        let fill = self.fills[index].unwrap();
        let Stage::Read { low, high, tail } = fill.stage else {
            unreachable!("only finished reads are installed")
        };
        let trusts = self.has(Weakness::NoServerCheck) || self.has(Weakness::NoTickets);
        if fill.server != self.followed && !trusts {
            return self.give_up(index);
        }
        let (low, high) = (position(low), position(high));
        let bounds = if exact { Bounds::Exact(low) } else { Bounds::Window { low, high } };
        self.fills[index] = match self.keeper.install((), fill.ticket, bounds, tail) {
            Installed::Retry => Some(Fill { stage: Stage::Requested, ..fill }),
            Installed::Ready | Installed::Held | Installed::Void => None,
        };
    }

    fn give_up(&mut self, index: usize) {
        let fill = self.fills[index].take().unwrap();
        self.keeper.give_up((), fill.ticket);
    }
}

/// A state as bytes. States that no later step can distinguish have the same bytes.
struct Code {
    len: usize,
    bytes: [u8; 96],
}

impl Code {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn put_tail(&mut self, tail: &Bits) {
        self.put(&[bits(tail), tail.floor]);
    }

    fn put_log(&mut self, log: &ModelLog, from: u8) {
        self.put(&[log.len, u8::try_from(log.rows(from)).unwrap()]);
        self.put(&log.transactions[usize::from(from)..usize::from(log.len)]);
    }
}

impl State {
    fn encode(&self) -> Code {
        let mut code = Code { len: 0, bytes: [0; 96] };
        let high_water = number(self.keeper.high_water);
        // Until the last possible lost link and failover, any earlier position can be read again.
        let settled = self.rewinds == 0 && self.failovers == 0;
        let passed = if settled { self.visible.min(self.delivered).min(self.log.len) } else { 0 };
        code.put(&[passed, self.visible, self.delivered, high_water, self.written]);
        code.put(&[self.rewinds, self.failovers, u8::from(self.high_water_fell)]);
        code.put(&[u8::from(self.server == self.followed), u8::from(self.old.is_some())]);
        // Neither memory nor the database can return to before a position that both have passed.
        let matters = self.seen > high_water.min(self.visible);
        code.put(&[if matters { self.seen } else { 0 }]);
        code.put_log(&self.log, passed);
        if let Some(old) = &self.old {
            code.put_log(old, 0);
        }
        self.encode_entry(&mut code);
        let mut fills = [[0; 9]; FILLS];
        for (bytes, fill) in fills.iter_mut().zip(self.fills.iter().flatten()) {
            *bytes = self.encode_fill(fill);
        }
        fills.sort_unstable();
        code.put(fills.as_flattened());
        code
    }

    fn encode_entry(&self, code: &mut Code) {
        match self.keeper.entries.get(&()) {
            None => code.put(&[0]),
            Some(Tracked::Ready { fence, value }) => {
                code.put(&[1, number((*fence).max(self.keeper.high_water))]);
                code.put_tail(value);
            }
            Some(Tracked::Pending(pending)) => {
                code.put(&[2, number(pending.ticket.registered)]);
                for (at, change) in &pending.buffered {
                    let post = match *change {
                        Change::Written(post) => post,
                        Change::Gone(post) => post | 64,
                        Change::Unknown => 128,
                    };
                    code.put(&[number(*at) + 1, post]);
                }
                code.put(&[0]);
                if let Some(held) = &pending.held {
                    code.put(&[number(held.low), number(held.high)]);
                    code.put_tail(&held.value);
                }
            }
        }
        code.put(&[255]);
    }

    fn encode_fill(&self, fill: &Fill) -> [u8; 9] {
        let valid = match self.keeper.entries.get(&()) {
            Some(Tracked::Pending(pending)) => pending.ticket == fill.ticket,
            _ => false,
        };
        let stage = match fill.stage {
            Stage::Requested => [1, 0, 0, 0, 0],
            Stage::Low(low) => [2, low, 0, 0, 0],
            Stage::Rows { low, tail } => [3, low, 0, bits(&tail), tail.floor],
            Stage::Read { low, high, tail } => [4, low, high, bits(&tail), tail.floor],
        };
        let epoch = fill.ticket.epoch == self.keeper.epoch;
        let answers = fill.stage == Stage::Requested || fill.server == self.server;
        let followed = fill.stage == Stage::Requested || fill.server == self.followed;
        let mut code = [0; 9];
        code[..4].copy_from_slice(&[valid, epoch, answers, followed].map(u8::from));
        code[4..].copy_from_slice(&stage);
        code
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let code = self.encode();
        state.write(&code.bytes[..code.len]);
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        let (one, two) = (self.encode(), other.encode());
        one.bytes[..one.len] == two.bytes[..two.len]
    }
}

impl World {
    fn writes(&self, state: &State, actions: &mut Vec<Action>) {
        if state.written == self.events {
            return;
        }
        let end = state.log.len;
        let lazy = self.lazy && state.old.is_none();
        for posts in (1..1 << IDS).filter(|posts: &u8| self.rows || posts.is_power_of_two()) {
            if !lazy {
                actions.push(Action::Write(posts, First::Neither));
                continue;
            }
            if state.visible == end {
                actions.push(Action::Write(posts, First::Table));
            }
            if state.delivered == end {
                actions.push(Action::Write(posts, First::Feed));
            }
        }
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut keeper = TestKeeper::new(self.weakness);
        keeper.begin(position(0));
        vec![State {
            log: ModelLog::default(),
            visible: 0,
            old: None,
            delivered: 0,
            keeper,
            fills: [None; FILLS],
            seen: 0,
            high_water_fell: false,
            server: 0,
            followed: 0,
            written: 0,
            rewinds: self.rewinds,
            failovers: self.failovers,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.writes(state, actions);
        if state.visible < state.log.len {
            actions.push(Action::Show);
        }
        if state.delivered < state.followed_log().len {
            actions.push(Action::Deliver);
        }
        if state.rewinds > 0 && state.old.is_none() {
            actions.extend((0..state.delivered).map(Action::Rewind));
        }
        if state.failovers > 0 {
            actions.extend((0..=state.log.len).map(Action::TakeOver));
        }
        if state.old.is_some() {
            actions.push(Action::Notice);
        }
        let absent = state.keeper.entries.is_empty();
        if absent && state.fills.contains(&None) {
            actions.push(Action::Start);
        }
        if !absent {
            actions.push(Action::Evict);
        }
        for (index, fill) in state.fills.iter().enumerate() {
            let Some(fill) = fill else { continue };
            actions.push(Action::GiveUp(index));
            // A protocol without ticket checks assumes that no read goes to another server.
            let elsewhere = state.server != state.followed && state.has(Weakness::NoTickets);
            match fill.stage {
                Stage::Read { .. } => actions.push(Action::Install(index)),
                _ if elsewhere => {}
                _ => actions.push(Action::Read(index)),
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        if let Some((_, at)) = last.readable() {
            state.seen = state.seen.max(at);
        }
        match action {
            Action::Write(posts, first) => {
                state.log.push(posts);
                state.written += 1;
                match first {
                    First::Feed => state.deliver(),
                    First::Table => state.visible += 1,
                    First::Neither => {}
                }
            }
            Action::Show => state.visible += 1,
            Action::Deliver => state.deliver(),
            Action::Rewind(to) => {
                state.rewinds -= 1;
                state.delivered = to;
                state.keeper.set_delivered(position(to));
            }
            Action::TakeOver(len) => state.take_over(len),
            Action::Notice => state.notice(),
            Action::Start => state.start(),
            Action::Read(index) => state.read(index, self),
            Action::Install(index) => state.install(index, self.exact),
            Action::GiveUp(index) => state.give_up(index),
            Action::Evict => assert!(state.keeper.evict(())),
        }
        let (before, after) = (&last.keeper, &state.keeper);
        state.high_water_fell |=
            before.epoch == after.epoch && before.high_water > after.high_water;
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("memory equals the log at its position", |_, state: &State| {
                state.readable().is_none_or(|(tail, at)| {
                    at <= state.followed_log().len && tail.is_of(state.followed_log().rows(at))
                })
            }),
            Property::always("a reader never sees an earlier state", |_, state: &State| {
                let is_older = |at: u8| at < state.seen;
                !state.high_water_fell
                    && !state.readable().is_some_and(|(_, at)| is_older(at))
                    && !state.fallback().is_some_and(is_older)
            }),
            Property::always(
                "when all is delivered and visible, memory equals the database",
                |_, state: &State| {
                    let end = state.log.len;
                    let rest =
                        state.old.is_none() && state.delivered == end && state.visible == end;
                    let right = |(tail, _): (Bits, u8)| tail.is_of(state.log.rows(state.visible));
                    !rest || state.readable().is_none_or(right)
                },
            ),
            Property::always("a deleted post never reappears", |_, state: &State| {
                let Some((tail, at)) = state.readable() else { return true };
                let written = |rows, at| rows | state.followed_log().rows(at);
                let since = (state.seen.min(at)..=at).fold(0, written);
                tail.posts & !since == 0
            }),
        ]
    }
}

/// Checks every state of the world. Panics if any property fails.
fn holds(world: World) {
    let began = Instant::now();
    let checker = world.checker().threads(2).spawn_bfs().join();
    println!("{world:?}: {} states in {:.1?}", checker.unique_state_count(), began.elapsed());
    checker.assert_properties();
    assert!(checker.unique_state_count() > 10_000, "the world is too small to prove anything");
}

#[test]
fn exact_reads_hold_with_four_transactions_and_a_lost_link() {
    holds(World { events: 4, rewinds: 1, ..EXACT });
    holds(World { events: 3, rewinds: 1, lazy: false, ..EXACT });
}

#[test]
fn exact_reads_hold_with_three_transactions_and_a_failover() {
    holds(World { events: 3, failovers: 1, ..EXACT });
    holds(World { events: 3, failovers: 1, lazy: false, ..EXACT });
}

#[test]
fn exact_reads_hold_with_three_transactions_and_both() {
    holds(World { events: 3, rewinds: 1, failovers: 1, ..EXACT });
}

#[test]
fn exact_reads_hold_with_transactions_of_several_rows_and_longer_tails() {
    holds(World { events: 3, rewinds: 1, rows: true, ..EXACT });
    holds(World { events: 3, rewinds: 1, rows: true, depth: 2, ..EXACT });
}

#[test]
fn window_reads_hold_with_three_transactions_and_a_lost_link() {
    holds(World { events: 3, rewinds: 1, ..WINDOW });
}

#[test]
fn window_reads_hold_with_two_transactions_and_both() {
    holds(World { events: 2, rewinds: 1, failovers: 1, ..WINDOW });
}

#[test]
fn window_reads_hold_with_transactions_of_several_rows() {
    holds(World { events: 2, rewinds: 1, rows: true, ..WINDOW });
}

/// The shortest failing run: its number of steps, the property that fails, and the steps.
fn breaks(world: World) -> (usize, &'static str, String) {
    let failures = HasDiscoveries::AnyFailures;
    let checker = world.checker().finish_when(failures).spawn_bfs().join();
    let found = checker.discoveries();
    let shortest = found.into_iter().min_by_key(|(_, path)| path.clone().into_actions().len());
    let Some((what, path)) = shortest else {
        panic!("no property fails in {world:?}");
    };
    let steps = path.into_actions();
    (steps.len(), what, format!("{steps:?}"))
}

#[test]
fn every_weakness_breaks_a_property() {
    use Weakness::{
        EndAsSnapshot, NoBuffer, NoFailover, NoFence, NoFloor, NoHighWater, NoHold, NoPositions,
        NoRegistration, NoServerCheck, NoTickets, NoToken, VoidOnChange,
    };
    let exact = World { events: 3, ..EXACT };
    let worlds =
        [NoBuffer, NoPositions, VoidOnChange, EndAsSnapshot, NoRegistration, NoFloor, NoToken]
            .map(|weakness| World { weakness: Some(weakness), ..exact });
    let rewound = [NoFence, NoHighWater].map(|weakness| World {
        weakness: Some(weakness),
        rewinds: 1,
        ..exact
    });
    let taken_over = [NoFailover, NoTickets, NoServerCheck].map(|weakness| World {
        weakness: Some(weakness),
        failovers: 1,
        ..exact
    });
    let between = [NoHold, NoRegistration, EndAsSnapshot].map(|weakness| World {
        weakness: Some(weakness),
        events: 2,
        ..WINDOW
    });
    for world in worlds.into_iter().chain(rewound).chain(taken_over).chain(between) {
        let (steps, what, path) = breaks(world);
        println!("{:?} breaks in {steps} steps: {what}: {path}", world.weakness);
        assert!((3..=14).contains(&steps), "{steps} steps with {:?}", world.weakness);
    }
}
