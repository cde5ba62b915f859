//! Goes through everything that can happen to one author in a small world: a server that shows its
//! tables later than its log tells, reads under way, links that are lost, a server that takes over
//! without the end of the log. The keeper itself is a part of each state.
//!
//! What makes the number of states small without leaving anything out:
//! - Readers change nothing, so instead of every choice of reads the greatest position that any
//!   reader can have seen goes along (`State::seen`), and no further than it can matter.
//! - With exact reads nothing but the feed and the snapshots sees the log, so a transaction is
//!   written when the first of the two comes to it. Only while a new server's history begins, and
//!   where a read asks for the end of the log, there is more in the log than was seen.
//! - States are told apart by what can still matter (`State::encode`): reads under way are a set,
//!   tickets are valid or not, a fence behind the high water is none, and what both the feed and
//!   the tables have left behind is a set of rows, once nothing can lead back there.

use std::hash::{Hash, Hasher};
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::bits::{Bits, Change};
use super::weakness::Weakness;
use super::{Installed, Keeper, Ticket, Tracked};
use crate::changes::{Bounds, LogPosition};

/// The author's posts.
const IDS: u8 = 3;
/// Reads under way.
const FILLS: usize = 2;
/// The longest log.
const LOG: usize = 4;

/// How far a world goes.
#[derive(Clone, Copy, Debug)]
struct World {
    /// The posts in the tail.
    depth: u8,
    /// Transactions may be of several rows.
    rows: bool,
    /// A transaction is written when it is seen.
    lazy: bool,
    /// How reads say where they stand.
    exact: bool,
    /// Transactions.
    events: u8,
    /// Lost links after which the log is told again from an earlier place.
    rewinds: u8,
    /// Servers that take over.
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

/// How far the log ran ahead matters to these.
const WINDOW: World = World { exact: false, lazy: false, ..EXACT };

/// Transactions: each is the posts, as bits, that it writes if they are not there, and deletes if
/// they are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Log {
    len: u8,
    transactions: [u8; LOG],
}

impl Log {
    fn push(&mut self, posts: u8) {
        self.transactions[usize::from(self.len)] = posts;
        self.len += 1;
    }

    /// The posts there are after so many transactions.
    fn rows(&self, at: u8) -> u64 {
        let before = &self.transactions[..usize::from(at.min(self.len))];
        u64::from(before.iter().fold(0, |rows, posts| rows ^ posts))
    }

    /// What the transaction that ends there changed.
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
    /// The log of the server that answers.
    log: Log,
    /// How much of it can be seen in its tables.
    visible: u8,
    /// The log of the server that answered before, until it is noticed that it is another one.
    old: Option<Log>,
    /// How far the followed log was handed over; less than before after a lost link.
    cursor: u8,
    keeper: Keeper<(), Bits>,
    fills: [Option<Fill>; FILLS],
    /// The greatest position that a reader of the memory saw, in this history.
    seen: u8,
    /// The high water went back.
    sank: bool,
    /// Which server answers, and which one's log is followed.
    server: u8,
    followed: u8,
    written: u8,
    rewinds: u8,
    failovers: u8,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Fill {
    ticket: Ticket,
    /// Who was asked.
    server: u8,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Asked,
    /// The low bound is known.
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

/// Who sees a transaction first.
#[derive(Clone, Copy, Debug, PartialEq)]
enum First {
    Feed,
    Table,
    Nobody,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Write(u8, First),
    /// The next transaction can be seen in the tables.
    Show,
    /// The next transaction is handed over.
    Deliver,
    /// The link was lost, and the log is told again from here on.
    Rewind(u8),
    /// A server takes over that has only so much of the log.
    TakeOver(u8),
    /// That is noticed.
    Notice,
    Start,
    /// The read goes on by a step.
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
        self.keeper.weaknesses.has(weakness)
    }

    /// What a reader gets from memory, and as of where.
    fn readable(&self) -> Option<(Bits, u8)> {
        self.keeper.get(()).map(|(tail, at)| (*tail, number(at)))
    }

    /// As of where a reader gets it from the database, if it may.
    fn fallback(&self) -> Option<u8> {
        let may = self.visible >= self.seen || self.has(Weakness::NoToken);
        (may && self.server == self.followed).then_some(self.visible)
    }

    /// The log that the keeper is told.
    fn told(&self) -> &Log {
        self.old.as_ref().unwrap_or(&self.log)
    }

    fn deliver(&mut self) {
        self.cursor += 1;
        let log = *self.told();
        self.keeper.commit(position(self.cursor), log.changes(self.cursor), |(), _| ());
    }

    fn take_over(&mut self, len: u8) {
        self.failovers -= 1;
        self.server += 1;
        self.old = Some(self.log);
        self.log.len = len;
        self.visible = len;
        for place in 0..FILLS {
            // Whoever was in the middle of a read lost its connection.
            if let Some(Fill { stage: Stage::Low(_) | Stage::Rows { .. }, .. }) = self.fills[place]
            {
                self.give_up(place);
            }
        }
    }

    fn notice(&mut self) {
        self.followed = self.server;
        self.old = None;
        if self.has(Weakness::NoFailover) {
            // Positions go on as if nothing had happened.
            return;
        }
        self.cursor = self.log.len;
        self.seen = 0;
        self.keeper.begin(position(self.cursor));
    }

    fn start(&mut self) {
        let ticket = self.keeper.register(()).unwrap();
        let free = self.fills.iter().position(Option::is_none).unwrap();
        self.fills[free] = Some(Fill { ticket, server: self.server, stage: Stage::Asked });
    }

    fn read(&mut self, place: usize, world: &World) {
        let floored = !self.has(Weakness::NoFloor);
        let tail = Bits::read(self.log.rows(self.visible), world.depth, floored);
        let before = self.has(Weakness::EndAsSnapshot);
        let (visible, end, server) = (self.visible, self.log.len, self.server);
        let fill = self.fills[place].as_mut().unwrap();
        fill.stage = match fill.stage {
            Stage::Asked if before => Stage::Low(end),
            Stage::Asked if !world.exact => Stage::Low(visible),
            Stage::Asked => Stage::Read { low: visible, high: visible, tail },
            Stage::Low(low) if world.exact => Stage::Read { low, high: low, tail },
            Stage::Low(low) => Stage::Rows { low, tail },
            Stage::Rows { low, tail } => Stage::Read { low, high: end, tail },
            Stage::Read { .. } => unreachable!("nothing is read twice"),
        };
        fill.server = server;
    }

    fn install(&mut self, place: usize, exact: bool) {
        let fill = self.fills[place].unwrap();
        let Stage::Read { low, high, tail } = fill.stage else { unreachable!("it was read") };
        let trusts = self.has(Weakness::NoServerCheck) || self.has(Weakness::NoTickets);
        if fill.server != self.followed && !trusts {
            return self.give_up(place);
        }
        let (low, high) = (position(low), position(high));
        let bounds = if exact { Bounds::Exact(low) } else { Bounds::Window { low, high } };
        self.fills[place] = match self.keeper.install((), fill.ticket, bounds, tail) {
            Installed::Retry => Some(Fill { stage: Stage::Asked, ..fill }),
            Installed::Ready | Installed::Held | Installed::Void => None,
        };
    }

    fn give_up(&mut self, place: usize) {
        let fill = self.fills[place].take().unwrap();
        self.keeper.give_up((), fill.ticket);
    }
}

/// A state as bytes: equal for states that nothing can tell apart from now on.
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

    fn put_log(&mut self, log: &Log, from: u8) {
        self.put(&[log.len, u8::try_from(log.rows(from)).unwrap()]);
        self.put(&log.transactions[usize::from(from)..usize::from(log.len)]);
    }
}

impl State {
    fn encode(&self) -> Code {
        let mut code = Code { len: 0, bytes: [0; 96] };
        let high_water = number(self.keeper.high_water);
        // Until a link is lost or a server takes over, any earlier place may come back.
        let settled = self.rewinds == 0 && self.failovers == 0;
        let behind = if settled { self.visible.min(self.cursor).min(self.log.len) } else { 0 };
        code.put(&[behind, self.visible, self.cursor, high_water, self.written]);
        code.put(&[self.rewinds, self.failovers, u8::from(self.sank)]);
        code.put(&[u8::from(self.server == self.followed), u8::from(self.old.is_some())]);
        // Neither memory nor the database can be behind a position that both have passed.
        let matters = self.seen > high_water.min(self.visible);
        code.put(&[if matters { self.seen } else { 0 }]);
        code.put_log(&self.log, behind);
        if let Some(old) = &self.old {
            code.put_log(old, 0);
        }
        self.encode_entry(&mut code);
        let mut fills = [[0; 9]; FILLS];
        for (place, fill) in fills.iter_mut().zip(self.fills.iter().flatten()) {
            *place = self.encode_fill(fill);
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
            Stage::Asked => [1, 0, 0, 0, 0],
            Stage::Low(low) => [2, low, 0, 0, 0],
            Stage::Rows { low, tail } => [3, low, 0, bits(&tail), tail.floor],
            Stage::Read { low, high, tail } => [4, low, high, bits(&tail), tail.floor],
        };
        let epoch = fill.ticket.epoch == self.keeper.epoch;
        let answers = fill.stage == Stage::Asked || fill.server == self.server;
        let followed = fill.stage == Stage::Asked || fill.server == self.followed;
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
                actions.push(Action::Write(posts, First::Nobody));
                continue;
            }
            if state.visible == end {
                actions.push(Action::Write(posts, First::Table));
            }
            if state.cursor == end {
                actions.push(Action::Write(posts, First::Feed));
            }
        }
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut keeper = Keeper::new();
        keeper.weaknesses.weakness = self.weakness;
        keeper.begin(position(0));
        vec![State {
            log: Log::default(),
            visible: 0,
            old: None,
            cursor: 0,
            keeper,
            fills: [None; FILLS],
            seen: 0,
            sank: false,
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
        if state.cursor < state.told().len {
            actions.push(Action::Deliver);
        }
        if state.rewinds > 0 && state.old.is_none() {
            actions.extend((0..state.cursor).map(Action::Rewind));
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
        for (place, fill) in state.fills.iter().enumerate() {
            let Some(fill) = fill else { continue };
            actions.push(Action::GiveUp(place));
            // Whoever relies on nobody reading from another server than the one that is followed.
            let elsewhere = state.server != state.followed && state.has(Weakness::NoTickets);
            match fill.stage {
                Stage::Read { .. } => actions.push(Action::Install(place)),
                _ if elsewhere => {}
                _ => actions.push(Action::Read(place)),
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
                    First::Nobody => {}
                }
            }
            Action::Show => state.visible += 1,
            Action::Deliver => state.deliver(),
            Action::Rewind(to) => {
                state.rewinds -= 1;
                state.cursor = to;
                state.keeper.weaknesses.told(position(to));
            }
            Action::TakeOver(len) => state.take_over(len),
            Action::Notice => state.notice(),
            Action::Start => state.start(),
            Action::Read(place) => state.read(place, self),
            Action::Install(place) => state.install(place, self.exact),
            Action::GiveUp(place) => state.give_up(place),
            Action::Evict => assert!(state.keeper.evict(())),
        }
        let (before, after) = (&last.keeper, &state.keeper);
        state.sank |= before.epoch == after.epoch && before.high_water > after.high_water;
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("memory is what the log says at its position", |_, state: &State| {
                state.readable().is_none_or(|(tail, at)| {
                    at <= state.told().len && tail.is_of(state.told().rows(at))
                })
            }),
            Property::always("reads never go back", |_, state: &State| {
                let behind = |at: u8| at < state.seen;
                !state.sank
                    && !state.readable().is_some_and(|(_, at)| behind(at))
                    && !state.fallback().is_some_and(behind)
            }),
            Property::always("at rest memory is the database", |_, state: &State| {
                let end = state.log.len;
                let rest = state.old.is_none() && state.cursor == end && state.visible == end;
                let right = |(tail, _): (Bits, u8)| tail.is_of(state.log.rows(state.visible));
                !rest || state.readable().is_none_or(right)
            }),
            Property::always("a deleted post never comes back", |_, state: &State| {
                let Some((tail, at)) = state.readable() else { return true };
                let written = |rows, at| rows | state.told().rows(at);
                let since = (state.seen.min(at)..=at).fold(0, written);
                tail.posts & !since == 0
            }),
        ]
    }
}

/// Goes through the whole world; nothing may be wrong in it.
fn holds(world: World) {
    let began = Instant::now();
    let checker = world.checker().threads(2).spawn_bfs().join();
    println!("{world:?}: {} states in {:.1?}", checker.unique_state_count(), began.elapsed());
    checker.assert_properties();
    assert!(checker.unique_state_count() > 10_000, "the world is too small to show anything");
}

#[test]
fn exact_reads_hold_with_four_transactions_and_a_lost_link() {
    holds(World { events: 4, rewinds: 1, ..EXACT });
    holds(World { events: 3, rewinds: 1, lazy: false, ..EXACT });
}

#[test]
fn exact_reads_hold_with_three_transactions_and_a_server_that_takes_over() {
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
fn reads_between_two_places_hold_with_three_transactions_and_a_lost_link() {
    holds(World { events: 3, rewinds: 1, ..WINDOW });
}

#[test]
fn reads_between_two_places_hold_with_two_transactions_and_both() {
    holds(World { events: 2, rewinds: 1, failovers: 1, ..WINDOW });
}

#[test]
fn reads_between_two_places_hold_with_transactions_of_several_rows() {
    holds(World { events: 2, rewinds: 1, rows: true, ..WINDOW });
}

/// How many steps it takes until something is wrong, and what; and the steps.
fn breaks(world: World) -> (usize, &'static str, String) {
    let failures = HasDiscoveries::AnyFailures;
    let checker = world.checker().finish_when(failures).spawn_bfs().join();
    let found = checker.discoveries();
    let shortest = found.into_iter().min_by_key(|(_, path)| path.clone().into_actions().len());
    let Some((what, path)) = shortest else {
        panic!("nothing is wrong with {world:?}");
    };
    let steps = path.into_actions();
    (steps.len(), what, format!("{steps:?}"))
}

#[test]
fn whatever_is_taken_away_something_goes_wrong() {
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
        println!("without {:?}: not so in {steps} steps: {what}: {path}", world.weakness);
        assert!((3..=14).contains(&steps), "{steps} steps without {:?}", world.weakness);
    }
}
