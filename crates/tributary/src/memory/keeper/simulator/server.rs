//! A simulated server: its log runs ahead of its tables, and it remembers all states it ever
//! held.

use super::AUTHORS;
use crate::changes::LogPosition;
use crate::memory::keeper::bits::Change;

/// Minimum distance between the ends of two transactions. A snapshot may name any position
/// between.
pub(super) const GAP: u64 = 8;

/// All rows: the posts of each author.
pub(super) type Rows = [u64; AUTHORS];

/// Random numbers from a seed alone (SplitMix64). A seed always gives the same sequence.
#[derive(Clone, Debug)]
pub(super) struct Chance(pub(super) u64);

impl Chance {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    /// True in this percentage of calls.
    pub(super) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

#[derive(Clone, Debug)]
pub(super) struct Transaction {
    pub(super) end: u64,
    pub(super) changes: Vec<(u8, Change)>,
}

/// The log of one identity.
#[derive(Clone, Debug)]
pub(super) struct SimLog {
    pub(super) transactions: Vec<Transaction>,
    /// The rows before the first transaction, and after each.
    rows: Vec<Rows>,
}

impl SimLog {
    pub(super) fn new() -> Self {
        Self { transactions: Vec::new(), rows: vec![[0; AUTHORS]] }
    }

    pub(super) fn len(&self) -> usize {
        self.transactions.len()
    }

    /// The position at which the first `count` transactions end.
    pub(super) fn end_of(&self, count: usize) -> u64 {
        count.checked_sub(1).map_or(0, |last| self.transactions[last].end)
    }

    pub(super) fn rows_after(&self, count: usize) -> &Rows {
        &self.rows[count]
    }

    /// Number of transactions that end at this position or before it.
    pub(super) fn count_at(&self, at: LogPosition) -> usize {
        self.transactions.partition_point(|transaction| transaction.end <= at.0)
    }

    pub(super) fn rows_at(&self, at: LogPosition) -> &Rows {
        self.rows_after(self.count_at(at))
    }

    fn push(&mut self, end: u64, changes: Vec<(u8, Change)>, rows: Rows) {
        self.transactions.push(Transaction { end, changes });
        self.rows.push(rows);
    }

    fn cut(&mut self, len: usize) {
        self.transactions.truncate(len);
        self.rows.truncate(len + 1);
    }
}

/// The server that currently answers at the address.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) identity: u64,
    pub(super) log: SimLog,
    /// Number of transactions that the tables show.
    pub(super) visible: usize,
    /// Commits wait for a replica that does not answer: they are in the log and in no table.
    pub(super) stalled: bool,
}

impl Server {
    pub(super) fn new() -> Self {
        Self { identity: 1, log: SimLog::new(), visible: 0, stalled: false }
    }

    fn commit(&mut self, chance: &mut Chance, changes: Vec<(u8, Change)>, rows: Rows) {
        let gap = GAP + u64::try_from(chance.below(4)).unwrap();
        self.log.push(self.log.end_of(self.log.len()) + gap, changes, rows);
    }

    /// A transaction of some rows, or of none of the simulated authors. With a probability of 4%
    /// it contains a change without content; returns whether it does.
    pub(super) fn write(&mut self, chance: &mut Chance) -> bool {
        let mut rows = *self.log.rows_after(self.log.len());
        let mut changes = Vec::new();
        for _ in 0..chance.below(5) {
            // The lower an author's number, the more it changes.
            let author = chance.below(AUTHORS).min(chance.below(AUTHORS));
            changes.push((u8::try_from(author).unwrap(), change(chance, &mut rows[author])));
        }
        let unknown = chance.percent(4);
        if unknown {
            let author = chance.below(AUTHORS);
            rows[author] = chance.next() & chance.next() & chance.next();
            changes.push((u8::try_from(author).unwrap(), Change::Unknown));
        }
        self.commit(chance, changes, rows);
        unknown
    }

    /// A transaction that changes one author `count` times, which can exceed the buffer.
    pub(super) fn write_many(&mut self, chance: &mut Chance, author: u8, count: usize) {
        let mut rows = *self.log.rows_after(self.log.len());
        let row = &mut rows[usize::from(author)];
        let changes = (0..count).map(|_| (author, change(chance, row))).collect();
        self.commit(chance, changes, rows);
    }

    /// Makes up to `count` committed transactions visible in the tables, in order.
    pub(super) fn show(&mut self, count: usize) {
        if !self.stalled {
            self.visible = self.log.len().min(self.visible + count);
        }
    }

    /// Stops and starts the server: the tables then show everything in the log.
    pub(super) fn restart(&mut self) {
        self.visible = self.log.len();
        self.stalled = false;
    }

    /// Another server takes over. It has only the first `len` transactions.
    pub(super) fn take_over(&mut self, len: usize) {
        self.identity += 1;
        self.log.cut(len);
        self.restart();
    }

    /// The end of the log.
    pub(super) fn end(&self) -> LogPosition {
        LogPosition(self.log.end_of(self.log.len()))
    }

    /// A position with every visible transaction at or before it, and no other transaction.
    pub(super) fn snapshot(&self, chance: &mut Chance) -> LogPosition {
        let beyond = u64::try_from(chance.below(4)).unwrap().saturating_sub(1);
        LogPosition(self.log.end_of(self.visible) + beyond)
    }

    pub(super) fn visible_rows(&self) -> &Rows {
        self.log.rows_after(self.visible)
    }
}

/// A change to one post. Sometimes it repeats the present state.
fn change(chance: &mut Chance, row: &mut u64) -> Change {
    let post = u8::try_from(chance.below(24)).unwrap();
    let there = *row & (1 << post) != 0;
    if there != chance.percent(10) {
        *row &= !(1 << post);
        return Change::Gone(post);
    }
    *row |= 1 << post;
    Change::Written(post)
}
