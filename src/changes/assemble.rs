//! Puts the events of a row log together to whole transactions. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use super::binlog::{self, ARTIFICIAL, Event, Query, STANDALONE, Xid, kind};
use super::columns::{table_map, table_name};
use super::gtid::{MariaDbGtid, Origin};
use super::pending::Pending;
use super::rows::{Plan, Served};
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
    pub(crate) served: Vec<Served>,
    /// The server keeps names of tables in small letters.
    pub(crate) ignore_case: bool,
}

/// A transaction's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    MySql(Origin, u64),
    MariaDb(MariaDbGtid),
}

/// What an event told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A transaction begins here, which was not told before.
    Begins(LogPosition),
    /// It was committed; microseconds since 1970 when that was, by the server's clock, or earlier.
    Commit { commit: Commit, name: Option<Name>, time_us: u64 },
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
    maps: HashMap<u64, Known>,
    file: u32,
    /// No later event of the file ends before it.
    offset: u64,
    open: Option<Open>,
    prepared: HashMap<Xid, Pending>,
    stale: bool,
    complaint: Option<String>,
}

/// A table that was announced.
#[derive(Debug)]
struct Known {
    /// The announcement, word for word.
    map: Box<[u8]>,
    /// How its rows are read; none if they do not matter.
    plan: Result<Option<Plan>, Vec<ShardId>>,
}

/// A transaction whose end was not read yet.
#[derive(Debug, Default)]
struct Open {
    name: Option<Name>,
    pending: Pending,
    /// It goes on until an event ends it; else it is one statement.
    many: bool,
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
            complaint: None,
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
    pub(crate) fn complaint(&mut self) -> Option<String> {
        self.complaint.take()
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
                self.complain(format!("an event of kind {other} cannot be read"));
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
            self.complain("a compressed transaction cannot be unpacked".into());
            self.all_unknown();
            self.close(event, steps);
        }
    }

    fn begin(&mut self, event: &Event<'_>, steps: &mut Vec<Step>) -> Result<(), Broken> {
        let mut open = Open { many: true, ..Open::default() };
        if let Some(before) = self.open.take().filter(|before| before.name.is_none()) {
            open.pending = before.pending;
        }
        let read = if event.kind == kind::MARIADB_GTID {
            binlog::mariadb_gtid(event).map(|(gtid, flags)| {
                open.many = flags & STANDALONE == 0;
                (Name::MariaDb(gtid), 0)
            })
        } else {
            // A statement opens the transaction, if it is more than one.
            open.many = false;
            binlog::mysql_gtid(event)
                .map(|(origin, number, time_us)| (Name::MySql(origin, number), time_us))
        };
        let (name, time_us) =
            read.ok_or_else(|| Broken("the name of a transaction cannot be read".into()))?;
        open.name = Some(name);
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
        steps.push(Step::Commit { commit, name: open.name, time_us });
    }

    fn rotate(&mut self, event: &Event<'_>) -> Result<(), Broken> {
        let wrong = || Broken("the name of a log file cannot be read".into());
        let (offset, name) = binlog::rotate(event.data).ok_or_else(wrong)?;
        let file = file_number(name).ok_or_else(wrong)?;
        if file != self.file {
            (self.file, self.offset) = (file, offset);
        }
        self.forget_open();
        Ok(())
    }

    /// A transaction that has no end; what was lost without a name is told with the next one.
    fn forget_open(&mut self) {
        self.open = self.open.take().filter(|open| open.name.is_none());
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
            self.complain("the announcement of a table cannot be read".into());
            return self.all_unknown();
        };
        if self.maps.get(&number).is_some_and(|known| *known.map == *data) {
            return;
        }
        let same = |known: &str, logged: &[u8]| match self.layout.ignore_case {
            true => known.as_bytes().eq_ignore_ascii_case(logged),
            false => known.as_bytes() == logged,
        };
        let is = |served: &&Served| same(&served.database, database) && same(&served.table, table);
        let plan = match self.layout.served.iter().find(is) {
            None => Ok(None),
            Some(served) => table_map(data)
                .and_then(|map| Plan::new(&self.layout.tables, served, map))
                .map(Some)
                .ok_or_else(|| vec![served.shard]),
        };
        if plan.is_err() {
            let name = String::from_utf8_lossy(table).into_owned();
            self.complain(format!(
                "the columns of table {name} in the log are not those that it has; \
                 SET GLOBAL binlog_row_metadata = FULL"
            ));
        }
        if self.maps.len() >= MAPS_MAX {
            self.maps.clear();
        }
        self.maps.insert(number, Known { map: data.into(), plan });
    }

    fn rows(&mut self, event: &Event<'_>) {
        let number = super::bytes::Bytes(event.data).number(6);
        let Some(known) = number.and_then(|number| self.maps.get(&number)) else {
            self.complain("rows of a table that was not announced".into());
            return self.all_unknown();
        };
        let pending = &mut self.open.get_or_insert_default().pending;
        match &known.plan {
            Ok(None) => {}
            Ok(Some(plan)) => {
                if plan.apply(event.kind, event.data, pending).is_none() {
                    pending.push(plan.shard(), Change::ShardUnknown);
                    self.complain("rows cannot be read".into());
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
        let shard = match known.map(|known| &known.plan) {
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
            self.complain("a statement cannot be read".into());
            self.all_unknown();
            return self.end_statement(event, steps);
        };
        match classify(&query) {
            Statement::Begin => self.open.get_or_insert_default().many = true,
            Statement::Commit => self.close(event, steps),
            Statement::Rollback => {
                self.open.get_or_insert_default().pending.coarsen();
                self.close(event, steps);
            }
            Statement::RollbackTo => self.open.get_or_insert_default().pending.coarsen(),
            Statement::Nothing => self.end_statement(event, steps),
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
            Statement::Definition => {
                self.define(&query);
                self.end_statement(event, steps);
            }
            Statement::Anything => {
                if event.flags & ARTIFICIAL == 0 {
                    self.complain(
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

    fn define(&mut self, query: &Query<'_>) {
        for served in &self.layout.served {
            if concerns(query, &served.database, &served.table) {
                let open = self.open.get_or_insert_default();
                open.pending.push(served.shard, Change::ShardUnknown);
                self.stale = true;
            }
        }
    }

    fn end_statement(&mut self, event: &Event<'_>, steps: &mut Vec<Step>) {
        if !self.open.as_ref().is_some_and(|open| open.many) {
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
                self.complain("a prepared transaction cannot be read".into());
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

    fn complain(&mut self, what: String) {
        self.complaint.get_or_insert(what);
    }
}
