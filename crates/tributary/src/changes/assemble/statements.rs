//! The statements of a log.

use super::super::Change;
use super::super::binlog::{self, ARTIFICIAL, Event, Query};
use super::super::pending::Pending;
use super::super::statement::{Statement, classify};
use super::{Assembler, Step};
use crate::problems::ProblemCause;

/// The most XA transactions that may be prepared and neither committed nor rolled back. Beyond
/// this limit, or if they change too many users together, all of them are forgotten. Each one that
/// commits later makes the shards unknown.
const PREPARED_MAX: usize = 1_000;
const PREPARED_USERS_MAX: usize = 100_000;
/// The problem of a change that is logged as a statement.
const LOGGED_AS_TEXT: &str = "a change of a served table is logged as a statement; SET GLOBAL \
     binlog_format = ROW, and set no other format in any session";
/// The problem of a statement whose effect cannot be known.
const UNSEEN: &str = "a change is logged as a statement, and the triggers, routines and views of \
     the server are not known at its time; GRANT SELECT, SHOW VIEW, TRIGGER ON *.* to the account, \
     or set binlog_format = ROW in all sessions";

impl Assembler {
    pub(super) fn query(&mut self, event: &Event<'_>, steps: &mut Vec<Step>) {
        let Some(query) = binlog::query(event) else {
            self.note_problem(ProblemCause::Event, "a statement cannot be decoded");
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
            change => {
                self.change(event, &query, &change);
                self.end_statement(event, steps);
            }
        }
    }

    /// Handles a statement that changes rows, tables or definitions.
    fn change(&mut self, event: &Event<'_>, query: &Query<'_>, statement: &Statement) {
        let at = self.position(self.payload_end().unwrap_or(event.end));
        let effect = self.tables.effect(query, statement, at);
        let of_rows = matches!(statement, Statement::Rows(_) | Statement::Unknown);
        if of_rows && !effect.shards.is_empty() && event.flags & ARTIFICIAL == 0 {
            match effect.unseen {
                true => self.note_problem(ProblemCause::Definitions, UNSEEN),
                false => self.note_problem(ProblemCause::Statement, LOGGED_AS_TEXT),
            }
        }
        let open = self.open.get_or_insert_default();
        effect.shards.iter().for_each(|shard| open.pending.push(*shard, Change::ShardUnknown));
    }

    fn end_statement(&mut self, event: &Event<'_>, steps: &mut Vec<Step>) {
        if !self.open.as_ref().is_some_and(|open| open.multi_statement) {
            self.close(event, steps);
        }
    }

    pub(super) fn prepare(&mut self, event: &Event<'_>, steps: &mut Vec<Step>) {
        match binlog::xa_prepare(event.data) {
            Some((true, _)) => {}
            Some((false, xid)) => {
                let open = self.open.get_or_insert_default();
                let mut pending = std::mem::take(&mut open.pending);
                pending.coarsen();
                let users: usize = self.prepared.values().map(Pending::users).sum();
                // A forgotten transaction makes all shards unknown when it commits.
                if self.prepared.len() >= PREPARED_MAX || users > PREPARED_USERS_MAX {
                    self.prepared.clear();
                }
                self.prepared.insert(xid, pending);
            }
            None => {
                self.note_problem(ProblemCause::Event, "a prepared transaction cannot be decoded");
                self.all_unknown();
            }
        }
        self.close(event, steps);
    }
}
