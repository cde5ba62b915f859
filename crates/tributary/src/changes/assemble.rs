//! Assembles the events of a row log into whole transactions. Pure.

use std::collections::HashMap;

use super::binlog::{self, ARTIFICIAL, Event, STANDALONE, Xid, kind};
use super::gtid::{MariaDbGtid, Origin};
use super::pending::Pending;
use super::reach::Reach;
use super::rows::ServedTable;
use super::tables::{Exclusion, Layout, Rows, ServedTables};
use super::{Change, Commit, LogPosition};
use crate::model::ShardId;
use crate::problems::ProblemCause;

mod statements;

/// The problem of rows that do not name their author or reader.
const PARTIAL_ROWS: &str = "rows are logged without the column of their author or reader; SET \
     GLOBAL binlog_row_image = FULL, and set no other value in any session";

/// The global id of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Gtid {
    MySql(Origin, u64),
    MariaDb(MariaDbGtid),
}

/// The meaning of an event for the feed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A transaction begins at or slightly after this position. It was not delivered before.
    Begins(LogPosition),
    /// A transaction was committed.
    Commit { commit: Commit, gtid: Option<Gtid> },
    /// A heartbeat: the server has sent everything up to this position.
    Idle(LogPosition),
    /// No further transaction ends at or before this position.
    Passed(LogPosition),
}

/// The reason why the log cannot be followed any further. An operator must act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) String);

/// Decodes one log, event by event. Holds the state between two events.
#[derive(Debug)]
pub(crate) struct Assembler {
    tables: ServedTables,
    file: u32,
    /// No later event of the current file ends before this offset.
    offset: u64,
    open: Option<OpenTransaction>,
    prepared: HashMap<Xid, Pending>,
    problem: Option<(ProblemCause, String)>,
}

/// A transaction whose end has not been read yet.
#[derive(Debug, Default)]
struct OpenTransaction {
    gtid: Option<Gtid>,
    pending: Pending,
    /// An event of its own ends the transaction. Otherwise it ends with its first statement.
    multi_statement: bool,
    /// The end of its GTID event.
    begun_at: LogPosition,
    /// Its events come out of one compressed event, which ends at this offset.
    payload_end: Option<u32>,
}

impl Assembler {
    pub(crate) fn new(layout: Layout) -> Self {
        Self {
            tables: ServedTables::new(layout),
            file: 0,
            offset: 0,
            open: None,
            prepared: HashMap::new(),
            problem: None,
        }
    }

    /// Prepares for a new connection. The open transaction is dropped, because the server sends it
    /// again. No further event of the file of `floor` ends before `floor`.
    pub(crate) fn restart(&mut self, floor: LogPosition) {
        (self.file, self.offset) = floor.file_and_offset();
        self.open = None;
        self.tables.forget_numbers();
    }

    /// The served tables, in the order of the layout.
    pub(crate) fn served(&self) -> &[ServedTable] {
        self.tables.served()
    }

    /// The tables whose definitions must be queried before the next event, by index.
    pub(crate) fn stale(&self) -> Vec<usize> {
        self.tables.stale()
    }

    /// Whether the objects through which the tables can be changed must be queried again.
    pub(crate) fn is_reach_stale(&self) -> bool {
        self.tables.is_reach_stale()
    }

    /// Replaces these objects. `end` is the end of the log after they were queried.
    pub(crate) fn set_reach(&mut self, reach: Reach, end: LogPosition) {
        self.tables.set_reach(reach, end);
    }

    /// Whether there are such tables.
    pub(crate) fn is_stale(&self) -> bool {
        self.tables.is_stale()
    }

    /// Demands that the definitions of the tables of a shard are queried again.
    pub(crate) fn doubt(&mut self, shard: ShardId) {
        self.tables.doubt(shard);
    }

    /// Replaces the definition of a table: see [`ServedTables::redefine`].
    pub(crate) fn redefine(
        &mut self,
        index: usize,
        table: ServedTable,
        end: LogPosition,
    ) -> Option<ShardId> {
        self.tables.redefine(index, table, end)
    }

    /// The tables that memory cannot follow.
    pub(crate) fn exclusions(&self) -> Vec<Exclusion> {
        self.tables.exclusions()
    }

    /// Takes the first problem since the last call: a part of the log that could not be decoded.
    /// The text is meant for the operator.
    pub(crate) fn take_problem(&mut self) -> Option<(ProblemCause, String)> {
        self.problem.take()
    }

    /// Whether the current events come out of a compressed event. Such events have no checksum.
    pub(crate) fn is_in_payload(&self) -> bool {
        self.payload_end().is_some()
    }

    /// The open transaction, and the end of its GTID event.
    pub(crate) fn open_transaction(&self) -> Option<(Gtid, LogPosition)> {
        let open = self.open.as_ref()?;
        Some((open.gtid.clone()?, open.begun_at))
    }

    /// The low 32 bits of the end of the compressed event that the current events come out of.
    fn payload_end(&self) -> Option<u32> {
        self.open.as_ref().and_then(|open| open.payload_end)
    }

    /// Decodes the next event and appends its steps to `steps`.
    ///
    /// An event that cannot be decoded makes the affected shards unknown; it is never skipped.
    pub(crate) fn take(&mut self, event: &Event<'_>, steps: &mut Vec<Step>) -> Result<(), Broken> {
        self.check_payload(event, steps);
        match event.kind {
            kind::TABLE_MAP => self.announce(event.data),
            kind::WRITE_V1..=kind::DELETE_V1
            | kind::WRITE..=kind::DELETE
            | kind::PARTIAL_UPDATE
            | kind::WRITE_COMPRESSED_V1..=kind::DELETE_COMPRESSED => self.rows(event),
            kind::XID => self.close(event, steps),
            kind::QUERY | kind::EXECUTE_LOAD | kind::QUERY_COMPRESSED => self.query(event, steps),
            kind::GTID | kind::TAGGED_GTID | kind::MARIADB_GTID => self.begin(event, steps)?,
            kind::ROTATE => self.rotate(event)?,
            kind::HEARTBEAT => self.idle(event, steps)?,
            // The server died within a transaction that is still open at the end of a file.
            kind::FORMAT => {
                self.forget_open();
                self.tables.forget_numbers();
                self.pass(event, steps);
            }
            kind::PREVIOUS_GTIDS | kind::GTID_LIST | kind::CHECKPOINT | kind::STOP => {
                self.pass(event, steps);
            }
            kind::XA_PREPARE => self.prepare(event, steps),
            kind::PAYLOAD => {
                let open = self.open.get_or_insert_default();
                open.payload_end = Some(event.end);
            }
            kind::ANONYMOUS_GTID => {
                return Err(Broken(
                    "the log has transactions without GTIDs; SET GLOBAL gtid_mode = \
                     ON step by step, and set it in the server's configuration"
                        .into(),
                ));
            }
            kind::INTVAR
            | kind::RAND
            | kind::USER_VAR
            | kind::IGNORABLE
            | kind::ROWS_QUERY
            | kind::CONTEXT
            | kind::VIEW_CHANGE
            | kind::HEARTBEAT_V2
            | kind::ANNOTATE
            | kind::ENCRYPTION
            | kind::APPEND_BLOCK
            | kind::BEGIN_LOAD => {}
            // The others are files loaded by a statement, incidents, or kinds of newer servers.
            _ if event.flags & binlog::IGNORABLE != 0 => {}
            other => {
                let text = format!("an event of kind {other} cannot be decoded");
                self.note_problem(ProblemCause::Event, text);
                self.all_unknown();
            }
        }
        Ok(())
    }

    /// If an event outside of a compressed transaction arrives before that transaction has ended,
    /// the compressed transaction could not be unpacked. It makes all shards unknown.
    fn check_payload(&mut self, event: &Event<'_>, steps: &mut Vec<Step>) {
        let outside = matches!(
            event.kind,
            kind::GTID
                | kind::TAGGED_GTID
                | kind::ROTATE
                | kind::HEARTBEAT
                | kind::FORMAT
                | kind::PAYLOAD
                | kind::STOP
                | kind::HEARTBEAT_V2
        );
        if outside && self.is_in_payload() {
            self.note_problem(ProblemCause::Event, "a compressed transaction cannot be unpacked");
            self.all_unknown();
            self.close(event, steps);
        }
    }

    fn begin(&mut self, event: &Event<'_>, steps: &mut Vec<Step>) -> Result<(), Broken> {
        let mut open = OpenTransaction { multi_statement: true, ..OpenTransaction::default() };
        if let Some(before) = self.open.take().filter(|before| before.gtid.is_none()) {
            open.pending = before.pending;
        }
        let read = if event.kind == kind::MARIADB_GTID {
            binlog::mariadb_gtid(event).map(|(gtid, flags)| {
                open.multi_statement = flags & STANDALONE == 0;
                Gtid::MariaDb(gtid)
            })
        } else {
            // On MySQL a BEGIN statement follows if the transaction has several statements.
            open.multi_statement = false;
            binlog::mysql_gtid(event).map(|(origin, number)| Gtid::MySql(origin, number))
        };
        let gtid = read.ok_or_else(|| Broken("the GTID of a transaction cannot be read".into()))?;
        open.gtid = Some(gtid);
        let end = self.position(event.end);
        open.begun_at = end;
        self.open = Some(open);
        let (file, offset) = end.file_and_offset();
        let length = u64::try_from(event.data.len()).unwrap_or(0);
        // The data lack the header and the checksum. A position that is slightly early is
        // harmless.
        steps.push(Step::Begins(LogPosition::in_file(file, offset.saturating_sub(length + 23))));
        Ok(())
    }

    /// The position where an event ends. The header holds only the low 32 bits of it.
    fn position(&self, end: u32) -> LogPosition {
        let mut offset = (self.offset >> 32 << 32) | u64::from(end);
        if offset < self.offset {
            offset += 1 << 32;
        }
        LogPosition::in_file(self.file, offset)
    }

    fn close(&mut self, event: &Event<'_>, steps: &mut Vec<Step>) {
        let open = self.open.take().unwrap_or_default();
        let at = self.position(open.payload_end.unwrap_or(event.end));
        (_, self.offset) = at.file_and_offset();
        let commit = Commit { at, changes: open.pending.finish() };
        steps.push(Step::Commit { commit, gtid: open.gtid });
    }

    fn rotate(&mut self, event: &Event<'_>) -> Result<(), Broken> {
        let wrong = || Broken("the name of a log file cannot be read".into());
        let (offset, name) = binlog::rotate(event.data).ok_or_else(wrong)?;
        let file = LogPosition::file_number(name).ok_or_else(wrong)?;
        if file != self.file {
            (_, self.offset) = LogPosition::in_file(file, offset).file_and_offset();
            self.file = file;
        }
        self.forget_open();
        Ok(())
    }

    /// Drops an open transaction that will not end. Changes without a GTID stay, and are delivered
    /// with the next transaction.
    fn forget_open(&mut self) {
        self.open = self.open.take().filter(|open| open.gtid.is_none());
    }

    /// Handles an event that belongs to no transaction.
    fn pass(&self, event: &Event<'_>, steps: &mut Vec<Step>) {
        if event.end != 0 && event.flags & ARTIFICIAL == 0 && self.open.is_none() {
            steps.push(Step::Passed(self.reached(self.file, event.end)));
        }
    }

    /// The position of an event that may end before the offset that was already reached.
    fn reached(&self, file: u32, end: u32) -> LogPosition {
        if file != self.file {
            return LogPosition::in_file(file, u64::from(end));
        }
        let offset = (self.offset >> 32 << 32) | u64::from(end);
        LogPosition::in_file(file, offset.max(self.offset))
    }

    fn idle(&mut self, event: &Event<'_>, steps: &mut Vec<Step>) -> Result<(), Broken> {
        let name = std::str::from_utf8(event.data).ok();
        let file = name.and_then(LogPosition::file_number).unwrap_or(self.file);
        steps.push(Step::Idle(self.reached(file, event.end)));
        Ok(())
    }

    fn announce(&mut self, data: &[u8]) {
        if self.tables.announce(data).is_none() {
            self.note_problem(ProblemCause::Event, "the announcement of a table cannot be decoded");
            self.all_unknown();
        }
    }

    fn rows(&mut self, event: &Event<'_>) {
        let at = self.position(self.payload_end().unwrap_or(event.end));
        let number = super::bytes::Bytes(event.data).number(6);
        let Some(rows) = number.and_then(|number| self.tables.rows(number, at)) else {
            self.note_problem(
                ProblemCause::Event,
                "the log has rows of a table that it did not announce",
            );
            return self.all_unknown();
        };
        let pending = &mut self.open.get_or_insert_default().pending;
        match rows {
            Rows::NotServed => {}
            Rows::Plan(plan) => {
                if plan.apply(event.kind, event.data, pending).is_none() {
                    pending.push(plan.shard(), Change::ShardUnknown);
                    self.note_problem(
                        ProblemCause::Event,
                        "the rows of an event cannot be decoded",
                    );
                } else if pending.take_wide() {
                    self.note_problem(ProblemCause::RowImage, PARTIAL_ROWS);
                }
            }
            Rows::Unknown(shard) => pending.push(shard, Change::ShardUnknown),
        }
    }

    fn all_unknown(&mut self) {
        let pending = &mut self.open.get_or_insert_default().pending;
        for served in self.tables.served() {
            pending.push(served.shard, Change::ShardUnknown);
        }
    }

    fn note_problem(&mut self, cause: ProblemCause, text: impl Into<String>) {
        self.problem.get_or_insert_with(|| (cause, text.into()));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;
    use crate::changes::rows::{DeclaredColumn, Role};
    use crate::model::{Post, PostId, PostKey, UserId};

    fn layout() -> Layout {
        let names = ["tweet_id", "user_id", "content", "timestamp"];
        let declared = |name: &&str| DeclaredColumn {
            name: (*name).into(),
            readable: *name == "content",
            ..DeclaredColumn::default()
        };
        let served = ServedTable {
            shard: ShardId(0),
            database: "d".into(),
            table: "tweets".into(),
            role: Role::Posts,
            single: true,
            columns: names.iter().map(declared).collect(),
            altered: String::new(),
            unfollowable: None,
        };
        let served = vec![served];
        let reach = Reach::new(&served, Vec::new());
        Layout { tables: Default::default(), served, ignore_case: false, reach }
    }

    fn event(kind: u8, end: u32, data: &[u8]) -> Event<'_> {
        Event { kind, time: 1, server: 9, end, flags: 0, data }
    }

    fn rotate(number: u32) -> Vec<u8> {
        [&4u64.to_le_bytes()[..], format!("binlog.{number:06}").as_bytes()].concat()
    }

    fn gtid(sequence: u64, flags: u8) -> Vec<u8> {
        [&sequence.to_le_bytes()[..], &[0; 4], &[flags], &[0; 6]].concat()
    }

    /// BIGINT, BIGINT, TEXT, BIGINT.
    fn map(table: &str) -> Vec<u8> {
        let length = u8::try_from(table.len()).unwrap();
        let head = [&[5, 0, 0, 0, 0, 0, 1, 0, 1, b'd', 0, length][..], table.as_bytes(), &[0]];
        [&head.concat()[..], &[4, 8, 8, 252, 8, 1, 2, 0b0100]].concat()
    }

    fn rows(posts: &[(u64, u64, &str, i64)]) -> Vec<u8> {
        let mut data = vec![5, 0, 0, 0, 0, 0, 1, 0, 4, 0b1111];
        for (id, author, text, time) in posts {
            data.push(0);
            data.extend(id.to_le_bytes());
            data.extend(author.to_le_bytes());
            data.extend(u16::try_from(text.len()).unwrap().to_le_bytes());
            data.extend(text.as_bytes());
            data.extend(time.to_le_bytes());
        }
        data
    }

    fn query(text: &str) -> Vec<u8> {
        [&[0; 8][..], &[1, 0, 0, 0, 0, b'd', 0], text.as_bytes()].concat()
    }

    fn run(events: &[Event<'_>]) -> Vec<Commit> {
        let mut assembler = Assembler::new(layout());
        let mut steps = Vec::new();
        events.iter().for_each(|event| assembler.take(event, &mut steps).unwrap());
        let commits = steps.into_iter().filter_map(|step| match step {
            Step::Commit { commit, .. } => Some(commit),
            _ => None,
        });
        commits.collect()
    }

    fn post(id: u64, author: u64, content: &str, time: i64) -> Change {
        let key = PostKey { time, post: PostId(id), author: UserId(author) };
        Change::Post(Post::new(key, content))
    }

    #[test]
    fn a_transaction_is_delivered_only_at_its_end() {
        let (file, first_gtid, map, other) = (rotate(7), gtid(1, 4), map("tweets"), map("other"));
        let (first, second) = (rows(&[(1, 2, "a", -3)]), rows(&[(4, 5, "", 6)]));
        let open = [
            event(kind::ROTATE, 0, &file),
            event(kind::MARIADB_GTID, 100, &first_gtid),
            event(kind::TABLE_MAP, 200, &map),
            event(kind::WRITE_V1, 300, &first),
            event(kind::WRITE_V1, 400, &second),
        ];
        assert_eq!(run(&open), []);
        let changes = vec![(ShardId(0), post(1, 2, "a", -3)), (ShardId(0), post(4, 5, "", 6))];
        let at = LogPosition::in_file(7, 500);
        let end = [event(kind::XID, 500, &[0; 8])];
        assert_eq!(run(&[&open[..], &end].concat()), [Commit { at, changes }]);
        // The server died here, so its open transaction was never committed.
        let dead = [event(kind::FORMAT, 0, &[]), event(kind::MARIADB_GTID, 600, &first_gtid)];
        let commits = run(&[&open[..], &dead, &end].concat());
        assert_eq!(commits, [Commit { at, changes: Vec::new() }]);
        let elsewhere = [open[0], open[1], event(kind::TABLE_MAP, 200, &other), open[3], end[0]];
        assert_eq!(run(&elsewhere), [Commit { at, changes: Vec::new() }]);
    }

    #[test]
    fn events_that_cannot_be_decoded_make_the_shard_unknown() {
        let (file, first_gtid, known, begin) = (rotate(7), gtid(1, 4), map("tweets"), gtid(2, 4));
        let cut = rows(&[(1, 2, "a", 3)]);
        let narrow = rows(&[]).iter().copied().chain([0; 30]).collect::<Vec<u8>>();
        let open = [event(kind::ROTATE, 0, &file), event(kind::MARIADB_GTID, 100, &first_gtid)];
        let announced = event(kind::TABLE_MAP, 200, &known);
        let end = event(kind::XID, 500, &[0; 8]);
        let at = LogPosition::in_file(7, 500);
        let unknown = [Commit { at, changes: vec![(ShardId(0), Change::ShardUnknown)] }];
        for strange in [
            vec![announced, event(kind::WRITE_V1, 300, &cut[..cut.len() - 1])],
            vec![announced, event(kind::WRITE_V1, 300, &narrow)],
            vec![event(kind::WRITE_V1, 300, &cut)],
            vec![event(kind::TABLE_MAP, 200, &known[..9])],
            vec![event(200, 300, &[])],
            vec![event(26, 300, &[1, 0])],
        ] {
            let commits = run(&[&open[..], &strange, &[end]].concat());
            assert_eq!(commits, unknown, "{strange:?}");
        }
        // A compressed transaction whose end does not arrive.
        let payload = [event(kind::PAYLOAD, 500, &[]), event(kind::GTID, 600, &begin)];
        let mut assembler = Assembler::new(layout());
        let mut steps = Vec::new();
        for event in open.iter().chain(&payload[..1]) {
            assembler.take(event, &mut steps).unwrap();
        }
        assert!(assembler.is_in_payload());
        assembler.take(&event(kind::HEARTBEAT, 500, b"binlog.000007"), &mut steps).unwrap();
        let commit = Commit { at, changes: vec![(ShardId(0), Change::ShardUnknown)] };
        assert!(
            steps.iter().any(|step| matches!(step, Step::Commit { commit: c, .. } if *c == commit))
        );
    }

    #[test]
    fn positions_keep_rising_beyond_four_gigabytes() {
        let (file, one_gtid, text) =
            (rotate(7), gtid(1, STANDALONE), query("CREATE TABLE x (y INT)"));
        let once =
            [event(kind::MARIADB_GTID, 0, &one_gtid), event(kind::QUERY, u32::MAX - 5, &text)];
        let again = [event(kind::MARIADB_GTID, 0, &one_gtid), event(kind::QUERY, 100, &text)];
        let commits = run(&[&[event(kind::ROTATE, 0, &file)], &once[..], &again, &again].concat());
        let ends: Vec<u64> = commits.iter().map(|commit| commit.at.file_and_offset().1).collect();
        assert_eq!(ends, [u64::from(u32::MAX) - 5, (1 << 32) + 100, (1 << 32) + 100]);
    }

    /// Prints the rate: `cargo test --release --lib one_row -- --nocapture`.
    #[test]
    fn many_one_row_transactions_are_decoded_one_by_one() {
        let count: u32 = 100_000;
        let (one_gtid, map, text) = (gtid(1, 4), map("tweets"), "x".repeat(80));
        let row = rows(&[(1, 2, &text, 3)]);
        let mut assembler = Assembler::new(layout());
        let (mut changes, mut steps) = (0, Vec::new());
        let start = Instant::now();
        for n in 0..count {
            let end = n * 300;
            for event in [
                event(kind::MARIADB_GTID, end, &one_gtid),
                event(kind::ANNOTATE, end + 1, text.as_bytes()),
                event(kind::TABLE_MAP, end + 2, &map),
                event(kind::WRITE_V1, end + 3, &row),
                event(kind::XID, end + 4, &[0; 8]),
            ] {
                assembler.take(&event, &mut steps).unwrap();
            }
            for step in steps.drain(..) {
                let Step::Commit { commit, .. } = step else { continue };
                changes += commit.changes.len();
            }
        }
        let rate = f64::from(count) / start.elapsed().as_secs_f64();
        eprintln!("{rate:.0} one-row transactions per second decoded on one core");
        assert_eq!(changes, 100_000);
    }

    proptest! {
        #[test]
        fn arbitrary_events_never_panic(
            events in prop::collection::vec(
                (prop_oneof![2u8..43, 160u8..172, any::<u8>()], any::<u32>(), any::<u16>(),
                 prop::collection::vec(any::<u8>(), 0..60)),
                0..20,
            ),
        ) {
            let mut assembler = Assembler::new(layout());
            let mut steps = Vec::new();
            for (kind, end, flags, data) in &events {
                let event = Event { kind: *kind, time: 0, server: 1, end: *end, flags: *flags, data };
                let _ = assembler.take(&event, &mut steps);
            }
        }

        #[test]
        fn corrupted_events_never_panic(
            index in 0usize..60, byte: u8, cut in 0usize..60, which in 0usize..4, kind in 19u8..33,
        ) {
            let posts = [(1, 2, "text", 3)];
            let mut parts = [gtid(1, 4), map("tweets"), rows(&posts), query("XA COMMIT X'61',X'',1")];
            if let Some(part) = parts.get_mut(which) {
                part.truncate(part.len().saturating_sub(cut / 4));
                if let Some(old) = part.get_mut(index) {
                    *old = byte;
                }
            }
            let mut assembler = Assembler::new(layout());
            let mut steps = Vec::new();
            let kinds = [kind::MARIADB_GTID, kind::TABLE_MAP, kind, kind::QUERY];
            for (kind, part) in kinds.into_iter().zip(&parts) {
                let _ = assembler.take(&event(kind, 10, part), &mut steps);
            }
        }
    }
}
