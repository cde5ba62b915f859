//! Puts the events of a row log together to whole transactions. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use super::binlog::{self, ARTIFICIAL, Event, Query, STANDALONE, Xid, kind};
use super::columns::{table_map, table_name};
use super::gtid::{MariaDbGtid, Origin};
use super::pending::Pending;
use super::rows::{ServedTable, TablePlan};
use super::statement::{Statement, classify, concerns};
use super::{Change, Commit, LogPosition, file_number};
use crate::mapping::Tables;
use crate::model::ShardId;

/// Tables that are known by their numbers; the log announces them again and again.
const MAPS_MAX: usize = 4_096;
/// Transactions that are prepared and neither committed nor undone, and users in all of them.
const PREPARED_MAX: usize = 1_000;
const PREPARED_USERS_MAX: usize = 100_000;

/// The tables that are served, and how they are found in the log.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) tables: Arc<Tables>,
    pub(crate) served: Vec<ServedTable>,
    /// The server keeps names of tables in small letters.
    pub(crate) ignore_case: bool,
}

/// A transaction's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Gtid {
    MySql(Origin, u64),
    MariaDb(MariaDbGtid),
}

/// What an event told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A transaction begins here, which was not told before.
    Begins(LogPosition),
    /// It was committed; microseconds since 1970 when that was, by the server's clock, or earlier.
    Commit { commit: Commit, gtid: Option<Gtid>, time_us: u64 },
    /// The server has nothing more to send up to here.
    Idle(LogPosition),
    /// Up to here there is no further transaction.
    Passed(LogPosition),
}

/// Why the log cannot be followed further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) String);

/// The state between two events.
#[derive(Debug)]
pub(crate) struct Assembler {
    layout: Layout,
    maps: HashMap<u64, AnnouncedTable>,
    file: u32,
    /// No later event of the file ends before it.
    offset: u64,
    open: Option<OpenTransaction>,
    prepared: HashMap<Xid, Pending>,
    stale: bool,
    problem: Option<String>,
}

/// A table that was announced.
#[derive(Debug)]
struct AnnouncedTable {
    /// The announcement, word for word.
    map: Box<[u8]>,
    /// How its rows are read; none if they do not matter.
    rows: Result<Option<TablePlan>, Vec<ShardId>>,
}

/// A transaction whose end was not read yet.
#[derive(Debug, Default)]
struct OpenTransaction {
    gtid: Option<Gtid>,
    pending: Pending,
    /// It goes on until an event ends it; else it is one statement.
    multi_statement: bool,
    time_us: u64,
    /// Its events come out of one compressed event, which ends here.
    payload_end: Option<u32>,
}

impl Assembler {
    pub(crate) fn new(layout: Layout) -> Self {
        Self {
            layout,
            maps: HashMap::new(),
            file: 0,
            offset: 0,
            open: None,
            prepared: HashMap::new(),
            stale: false,
            problem: None,
        }
    }

    /// The link begins anew: what was under way comes again. Nothing further will end before
    /// `floor` in its file.
    pub(crate) fn restart(&mut self, layout: Layout, floor: LogPosition) {
        (self.file, self.offset) = floor.file_and_offset();
        self.open = None;
        self.set_layout(layout);
    }

    /// Columns were read again.
    pub(crate) fn set_layout(&mut self, layout: Layout) {
        self.layout = layout;
        self.maps.clear();
        self.stale = false;
    }

    pub(crate) fn ignores_case(&self) -> bool {
        self.layout.ignore_case
    }

    /// Whether a table was altered since its columns were read.
    pub(crate) fn is_stale(&self) -> bool {
        self.stale
    }

    /// What could not be read of the log, for the operator.
    pub(crate) fn take_problem(&mut self) -> Option<String> {
        self.problem.take()
    }

    /// Whether the events come out of a compressed one, where they have no checksum.
    pub(crate) fn is_in_payload(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.payload_end.is_some())
    }

    /// Takes the next event. What it tells is added to `steps`.
    pub(crate) fn take(&mut self, event: &Event<'_>, steps: &mut Vec<Step>) -> Result<(), Broken> {
        self.check_payload(event, steps);
        match event.kind {
            kind::TABLE_MAP => self.announce(event.data),
            kind::WRITE_V1..=kind::DELETE_V1
            | kind::WRITE..=kind::DELETE
            | kind::WRITE_COMPRESSED_V1..=kind::DELETE_COMPRESSED => self.rows(event),
            kind::XID => self.close(event, steps),
            kind::QUERY | kind::QUERY_COMPRESSED => self.query(event, steps),
            kind::GTID | kind::TAGGED_GTID | kind::MARIADB_GTID => self.begin(event, steps)?,
            kind::ROTATE => self.rotate(event)?,
            kind::HEARTBEAT => self.idle(event, steps)?,
            // An open transaction at the end of a file was cut off by the server's end.
            kind::FORMAT => {
                self.forget_open();
                self.maps.clear();
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
                    "the log has transactions without names; SET GLOBAL gtid_mode = \
                     ON step by step, and set it in the server's configuration"
                        .into(),
                ));
            }
            kind::PARTIAL_UPDATE => self.partial(event.data),
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
            // A file that was loaded as a statement, an incident, or something new.
            _ if event.flags & binlog::IGNORABLE != 0 => {}
            other => {
                self.note_problem(format!("an event of kind {other} cannot be read"));
                self.all_unknown();
            }
        }
        Ok(())
    }

    /// A compressed transaction that did not come to its end could not be unpacked.
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
            self.note_problem("a compressed transaction cannot be unpacked".into());
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
                (Gtid::MariaDb(gtid), 0)
            })
        } else {
            // A statement opens the transaction, if it is more than one.
            open.multi_statement = false;
            binlog::mysql_gtid(event)
                .map(|(origin, number, time_us)| (Gtid::MySql(origin, number), time_us))
        };
        let (gtid, time_us) =
            read.ok_or_else(|| Broken("the GTID of a transaction cannot be read".into()))?;
        open.gtid = Some(gtid);
        open.time_us = time_us;
        self.open = Some(open);
        let end = self.position(event.end);
        let (file, offset) = end.file_and_offset();
        let length = u64::try_from(event.data.len()).unwrap_or(0);
        // The header and the checksum are not in the data; a little early does no harm.
        steps.push(Step::Begins(LogPosition::in_file(file, offset.saturating_sub(length + 23))));
        Ok(())
    }

    /// The place behind an event, whose header has only the low half of it.
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
        let time_us = open.time_us.max(u64::from(event.time) * 1_000_000);
        steps.push(Step::Commit { commit, gtid: open.gtid, time_us });
    }

    fn rotate(&mut self, event: &Event<'_>) -> Result<(), Broken> {
        let wrong = || Broken("the name of a log file cannot be read".into());
        let (offset, name) = binlog::rotate(event.data).ok_or_else(wrong)?;
        let file = file_number(name).ok_or_else(wrong)?;
        if file != self.file {
            (_, self.offset) = LogPosition::in_file(file, offset).file_and_offset();
            self.file = file;
        }
        self.forget_open();
        Ok(())
    }

    /// A transaction that has no end; what was lost without a name is told with the next one.
    fn forget_open(&mut self) {
        self.open = self.open.take().filter(|open| open.gtid.is_none());
    }

    /// An event that is in no transaction.
    fn pass(&self, event: &Event<'_>, steps: &mut Vec<Step>) {
        if event.end != 0 && event.flags & ARTIFICIAL == 0 && self.open.is_none() {
            steps.push(Step::Passed(self.reached(self.file, event.end)));
        }
    }

    /// A place that may be before the one that was reached.
    fn reached(&self, file: u32, end: u32) -> LogPosition {
        if file != self.file {
            return LogPosition::in_file(file, u64::from(end));
        }
        let offset = (self.offset >> 32 << 32) | u64::from(end);
        LogPosition::in_file(file, offset.max(self.offset))
    }

    fn idle(&mut self, event: &Event<'_>, steps: &mut Vec<Step>) -> Result<(), Broken> {
        let name = std::str::from_utf8(event.data).ok();
        let file = name.and_then(file_number).unwrap_or(self.file);
        steps.push(Step::Idle(self.reached(file, event.end)));
        Ok(())
    }

    fn announce(&mut self, data: &[u8]) {
        let Some((number, database, table)) = table_name(data) else {
            self.note_problem("the announcement of a table cannot be read".into());
            return self.all_unknown();
        };
        if self.maps.get(&number).is_some_and(|known| *known.map == *data) {
            return;
        }
        let same = |known: &str, logged: &[u8]| match self.layout.ignore_case {
            true => known.as_bytes().eq_ignore_ascii_case(logged),
            false => known.as_bytes() == logged,
        };
        let is =
            |served: &&ServedTable| same(&served.database, database) && same(&served.table, table);
        let rows = match self.layout.served.iter().find(is) {
            None => Ok(None),
            Some(served) => table_map(data)
                .and_then(|map| TablePlan::new(&self.layout.tables, served, map))
                .map(Some)
                .ok_or_else(|| vec![served.shard]),
        };
        if rows.is_err() {
            let name = String::from_utf8_lossy(table).into_owned();
            self.note_problem(format!(
                "the columns of table {name} in the log are not those that it has; \
                 SET GLOBAL binlog_row_metadata = FULL"
            ));
        }
        if self.maps.len() >= MAPS_MAX {
            self.maps.clear();
        }
        self.maps.insert(number, AnnouncedTable { map: data.into(), rows });
    }

    fn rows(&mut self, event: &Event<'_>) {
        let number = super::bytes::Bytes(event.data).number(6);
        let Some(known) = number.and_then(|number| self.maps.get(&number)) else {
            self.note_problem("rows of a table that was not announced".into());
            return self.all_unknown();
        };
        let pending = &mut self.open.get_or_insert_default().pending;
        match &known.rows {
            Ok(None) => {}
            Ok(Some(plan)) => {
                if plan.apply(event.kind, event.data, pending).is_none() {
                    pending.push(plan.shard(), Change::ShardUnknown);
                    self.note_problem("rows cannot be read".into());
                }
            }
            Err(shards) => {
                shards.iter().for_each(|shard| pending.push(*shard, Change::ShardUnknown));
            }
        }
    }

    /// Parts of JSON values, which stand in a form of their own.
    fn partial(&mut self, data: &[u8]) {
        let number = super::bytes::Bytes(data).number(6);
        let known = number.and_then(|number| self.maps.get(&number));
        let shard = match known.map(|known| &known.rows) {
            Some(Ok(None)) => return,
            Some(Ok(Some(plan))) => Some(plan.shard()),
            Some(Err(_)) | None => None,
        };
        match shard {
            Some(shard) => {
                self.open.get_or_insert_default().pending.push(shard, Change::ShardUnknown);
            }
            None => self.all_unknown(),
        }
    }

    fn query(&mut self, event: &Event<'_>, steps: &mut Vec<Step>) {
        let Some(query) = binlog::query(event) else {
            self.note_problem("a statement cannot be read".into());
            self.all_unknown();
            return self.end_statement(event, steps);
        };
        match classify(&query) {
            Statement::Begin => self.open.get_or_insert_default().multi_statement = true,
            Statement::Commit => self.close(event, steps),
            Statement::Rollback => {
                self.open.get_or_insert_default().pending.coarsen();
                self.close(event, steps);
            }
            Statement::RollbackTo => self.open.get_or_insert_default().pending.coarsen(),
            Statement::Harmless => self.end_statement(event, steps),
            Statement::XaCommit(xid) => {
                match self.prepared.remove(&xid) {
                    Some(prepared) => self.open.get_or_insert_default().pending.append(prepared),
                    None => self.all_unknown(),
                }
                self.close(event, steps);
            }
            Statement::XaRollback(xid) => {
                self.prepared.remove(&xid);
                self.close(event, steps);
            }
            Statement::Ddl => {
                self.ddl(&query);
                self.end_statement(event, steps);
            }
            Statement::Unknown => {
                if event.flags & ARTIFICIAL == 0 {
                    self.note_problem(
                        "a change is logged as a statement; SET GLOBAL binlog_format = ROW, \
                         and not otherwise in any session"
                            .into(),
                    );
                }
                self.all_unknown();
                self.end_statement(event, steps);
            }
        }
    }

    fn ddl(&mut self, query: &Query<'_>) {
        for served in &self.layout.served {
            if concerns(query, &served.database, &served.table) {
                let open = self.open.get_or_insert_default();
                open.pending.push(served.shard, Change::ShardUnknown);
                self.stale = true;
            }
        }
    }

    fn end_statement(&mut self, event: &Event<'_>, steps: &mut Vec<Step>) {
        if !self.open.as_ref().is_some_and(|open| open.multi_statement) {
            self.close(event, steps);
        }
    }

    fn prepare(&mut self, event: &Event<'_>, steps: &mut Vec<Step>) {
        match binlog::xa_prepare(event.data) {
            Some((true, _)) => {}
            Some((false, xid)) => {
                let open = self.open.get_or_insert_default();
                let mut pending = std::mem::take(&mut open.pending);
                pending.coarsen();
                let users: usize = self.prepared.values().map(Pending::users).sum();
                // What is forgotten is unknown when it is committed.
                if self.prepared.len() >= PREPARED_MAX || users > PREPARED_USERS_MAX {
                    self.prepared.clear();
                }
                self.prepared.insert(xid, pending);
            }
            None => {
                self.note_problem("a prepared transaction cannot be read".into());
                self.all_unknown();
            }
        }
        self.close(event, steps);
    }

    fn all_unknown(&mut self) {
        let pending = &mut self.open.get_or_insert_default().pending;
        for served in &self.layout.served {
            pending.push(served.shard, Change::ShardUnknown);
        }
    }

    fn note_problem(&mut self, what: String) {
        self.problem.get_or_insert(what);
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
        };
        Layout { tables: Arc::default(), served: vec![served], ignore_case: false }
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
        Change::Post(Post { key, content: content.into() })
    }

    #[test]
    fn a_transaction_is_told_at_its_end_and_only_then() {
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
        // The server died here, and what it began never happened.
        let dead = [event(kind::FORMAT, 0, &[]), event(kind::MARIADB_GTID, 600, &first_gtid)];
        let told = run(&[&open[..], &dead, &end].concat());
        assert_eq!(told, [Commit { at, changes: Vec::new() }]);
        let elsewhere = [open[0], open[1], event(kind::TABLE_MAP, 200, &other), open[3], end[0]];
        assert_eq!(run(&elsewhere), [Commit { at, changes: Vec::new() }]);
    }

    #[test]
    fn what_cannot_be_read_is_never_passed_over() {
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
            let told = run(&[&open[..], &strange, &[end]].concat());
            assert_eq!(told, unknown, "{strange:?}");
        }
        // A compressed transaction that brought no end.
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
    fn places_beyond_four_gigabytes_go_on_rising() {
        let (file, one_gtid, text) =
            (rotate(7), gtid(1, STANDALONE), query("CREATE TABLE x (y INT)"));
        let once =
            [event(kind::MARIADB_GTID, 0, &one_gtid), event(kind::QUERY, u32::MAX - 5, &text)];
        let again = [event(kind::MARIADB_GTID, 0, &one_gtid), event(kind::QUERY, 100, &text)];
        let told = run(&[&[event(kind::ROTATE, 0, &file)], &once[..], &again, &again].concat());
        let places: Vec<u64> = told.iter().map(|commit| commit.at.file_and_offset().1).collect();
        assert_eq!(places, [u64::from(u32::MAX) - 5, (1 << 32) + 100, (1 << 32) + 100]);
    }

    /// Prints how fast it was: `cargo test --release --lib one_row -- --nocapture`.
    #[test]
    fn many_one_row_transactions_are_read_one_by_one() {
        let count: u32 = 100_000;
        let (one_gtid, map, text) = (gtid(1, 4), map("tweets"), "x".repeat(80));
        let row = rows(&[(1, 2, &text, 3)]);
        let mut assembler = Assembler::new(layout());
        let (mut told, mut steps) = (0, Vec::new());
        let began = Instant::now();
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
                told += commit.changes.len();
            }
        }
        let rate = f64::from(count) / began.elapsed().as_secs_f64();
        eprintln!("{rate:.0} one-row transactions a second on one core, decoding alone");
        assert_eq!(told, 100_000);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
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
        fn no_change_of_an_event_makes_it_panic(
            place in 0usize..60, byte: u8, cut in 0usize..60, which in 0usize..4, kind in 19u8..33,
        ) {
            let posts = [(1, 2, "text", 3)];
            let mut parts = [gtid(1, 4), map("tweets"), rows(&posts), query("XA COMMIT X'61',X'',1")];
            if let Some(part) = parts.get_mut(which) {
                part.truncate(part.len().saturating_sub(cut / 4));
                if let Some(old) = part.get_mut(place) {
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
