//! A simulated server: a log that runs ahead of what its tables show, and all that it ever held.

use super::AUTHORS;
use crate::changes::LogPosition;
use crate::memory::keeper::bits::Change;

/// Places between the ends of two transactions, at the least. A snapshot may name any of them.
pub(super) const GAP: u64 = 8;

/// All rows: the posts of each author.
pub(super) type Rows = [u64; AUTHORS];

/// Chance that comes from a seed alone (SplitMix64), so that a seed means the same for ever.
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

    /// True this often in a hundred times.
    pub(super) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

#[derive(Clone, Debug)]
pub(super) struct Transaction {
    pub(super) end: u64,
    pub(super) changes: Vec<(u8, Change)>,
}

/// One history of one log.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub(super) transactions: Vec<Transaction>,
    /// The rows before the first transaction, and after each.
    rows: Vec<Rows>,
}

impl Log {
    pub(super) fn new() -> Self {
        Self { transactions: Vec::new(), rows: vec![[0; AUTHORS]] }
    }

    pub(super) fn len(&self) -> usize {
        self.transactions.len()
    }

    /// Where so many transactions end.
    pub(super) fn end_of(&self, count: usize) -> u64 {
        count.checked_sub(1).map_or(0, |last| self.transactions[last].end)
    }

    pub(super) fn rows_after(&self, count: usize) -> &Rows {
        &self.rows[count]
    }

    /// How many transactions end there or before.
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

/// Whoever answers at the address at the moment.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) history: u64,
    pub(super) log: Log,
    /// How many transactions can be seen in the tables.
    pub(super) visible: usize,
    /// Commits wait for a replica that does not answer: they are in the log and in no table.
    pub(super) stalled: bool,
}

impl Server {
    pub(super) fn new() -> Self {
        Self { history: 1, log: Log::new(), visible: 0, stalled: false }
    }

    fn commit(&mut self, chance: &mut Chance, changes: Vec<(u8, Change)>, rows: Rows) {
        let gap = GAP + u64::try_from(chance.below(4)).unwrap();
        self.log.push(self.log.end_of(self.log.len()) + gap, changes, rows);
    }

    /// A transaction of some rows, or of none that matter; some are told without their content.
    /// Returns whether that is so.
    pub(super) fn write(&mut self, chance: &mut Chance) -> bool {
        let mut rows = *self.log.rows_after(self.log.len());
        let mut changes = Vec::new();
        for _ in 0..chance.below(5) {
            // The lower an author, the busier.
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

    /// A transaction of more rows of one author than are buffered.
    pub(super) fn write_many(&mut self, chance: &mut Chance, author: u8, count: usize) {
        let mut rows = *self.log.rows_after(self.log.len());
        let row = &mut rows[usize::from(author)];
        let changes = (0..count).map(|_| (author, change(chance, row))).collect();
        self.commit(chance, changes, rows);
    }

    /// What was committed shows in the tables, in order.
    pub(super) fn show(&mut self, count: usize) {
        if !self.stalled {
            self.visible = self.log.len().min(self.visible + count);
        }
    }

    /// It stopped and came back: what is in the log is in the tables then.
    pub(super) fn restart(&mut self) {
        self.visible = self.log.len();
        self.stalled = false;
    }

    /// Another one takes over, which has only so much of the log.
    pub(super) fn take_over(&mut self, len: usize) {
        self.history += 1;
        self.log.cut(len);
        self.restart();
    }

    /// The end of the log.
    pub(super) fn end(&self) -> LogPosition {
        LogPosition(self.log.end_of(self.log.len()))
    }

    /// A place up to which all can be seen and nothing behind.
    pub(super) fn snapshot(&self, chance: &mut Chance) -> LogPosition {
        let behind = u64::try_from(chance.below(4)).unwrap().saturating_sub(1);
        LogPosition(self.log.end_of(self.visible) + behind)
    }

    pub(super) fn visible_rows(&self) -> &Rows {
        self.log.rows_after(self.visible)
    }
}

/// Something happens to one post; now and then it is only told again.
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
