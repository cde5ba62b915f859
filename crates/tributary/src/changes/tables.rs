//! The served tables of a log: how the log announces them, and how their rows are decoded. Pure.
//!
//! The log announces a table under a number. A server assigns a new number whenever it opens the
//! definition of a table again, and thus after each ALTER, even if the log does not contain the
//! ALTER. So the definition is queried again when a new number appears.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::LogPosition;
use super::binlog::Query;
use super::columns::{table_map, table_name};
use super::reach::{Effect, Reach};
use super::rows::{ServedTable, TablePlan, Unfollowable};
use super::statement::Statement;
use crate::mapping::Tables;
use crate::model::ShardId;

/// Announced tables that are remembered by number. Beyond this all are forgotten; the log
/// announces a table again with each of its transactions.
const MAPS_MAX: usize = 4_096;

/// The served tables, and how to recognize them in the log.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) tables: Arc<Tables>,
    pub(crate) served: Vec<ServedTable>,
    /// Table names are compared without regard to case (`lower_case_table_names` is not 0).
    pub(crate) ignore_case: bool,
    /// The objects of the server through which the tables can be changed.
    pub(crate) reach: Reach,
}

/// The served tables, with what the log has announced of them.
#[derive(Debug)]
pub(super) struct ServedTables {
    layout: Layout,
    maps: HashMap<u64, AnnouncedTable>,
    /// By index in the layout.
    states: Vec<TableState>,
    /// The tables whose definitions must be queried again, by index in the layout.
    stale: BTreeMap<usize, StaleReason>,
    /// The reach must be queried again.
    reach_is_stale: bool,
    /// The reach may have been another one for statements up to this position.
    reach_doubted_until: LogPosition,
}

/// A table that the log has announced.
#[derive(Debug)]
struct AnnouncedTable {
    /// The bytes of the announcement (table map event).
    map: Box<[u8]>,
    /// The index of the table in the layout, if it is served.
    table: Option<usize>,
    /// How to decode its rows. `None` if its columns differ from those of the layout.
    plan: Option<TablePlan>,
}

#[derive(Clone, Debug, Default)]
struct TableState {
    /// The number under which the log announced the table last.
    number: Option<u64>,
    /// The definition of the table in events up to this position may be an older one.
    doubted_until: LogPosition,
    /// The log has other columns than the server shows.
    has_other_columns: bool,
}

/// Why the definition of a table must be queried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StaleReason {
    /// The log contains a definition statement, which already makes the shard unknown.
    Statement,
    /// The server may have opened another definition.
    Doubt,
}

/// How to decode the rows of an announced table.
pub(super) enum Rows<'a> {
    NotServed,
    Plan(&'a TablePlan),
    /// The rows cannot be decoded. They make this shard unknown.
    Unknown(ShardId),
}

/// A table that memory cannot follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exclusion {
    pub(crate) shard: ShardId,
    pub(crate) why: Unfollowable,
}

impl ServedTables {
    pub(super) fn new(layout: Layout) -> Self {
        let states = vec![TableState::default(); layout.served.len()];
        Self {
            layout,
            maps: HashMap::new(),
            states,
            stale: BTreeMap::new(),
            reach_is_stale: false,
            reach_doubted_until: LogPosition(0),
        }
    }

    pub(super) fn served(&self) -> &[ServedTable] {
        &self.layout.served
    }

    /// Handles the announcement of a table. `None` if it cannot be decoded.
    pub(super) fn announce(&mut self, data: &[u8]) -> Option<()> {
        let (number, database, table) = table_name(data)?;
        if self.maps.get(&number).is_some_and(|known| *known.map == *data) {
            return Some(());
        }
        let same = |known: &str, logged: &[u8]| match self.layout.ignore_case {
            true => known.as_bytes().eq_ignore_ascii_case(logged),
            false => known.as_bytes() == logged,
        };
        let is =
            |served: &ServedTable| same(&served.database, database) && same(&served.table, table);
        let index = self.layout.served.iter().position(is);
        if self.maps.len() >= MAPS_MAX {
            self.maps.clear();
        }
        self.maps.insert(number, AnnouncedTable { map: data.into(), table: index, plan: None });
        if let Some(index) = index {
            if self.states[index].number.replace(number) != Some(number) {
                self.stale.entry(index).or_insert(StaleReason::Doubt);
            }
            self.plan(index);
        }
        Some(())
    }

    /// Plans how to decode the rows of a table, under each number that it has.
    fn plan(&mut self, index: usize) {
        let (tables, served) = (&self.layout.tables, &self.layout.served[index]);
        let state = &mut self.states[index];
        for (number, known) in self.maps.iter_mut().filter(|(_, map)| map.table == Some(index)) {
            known.plan = table_map(&known.map).and_then(|map| TablePlan::new(tables, served, map));
            if state.number == Some(*number) {
                state.has_other_columns = known.plan.is_none();
            }
        }
    }

    /// How to decode the rows of an event that ends at `at`. `None` if the log has not announced
    /// the table.
    pub(super) fn rows(&self, number: u64, at: LogPosition) -> Option<Rows<'_>> {
        let known = self.maps.get(&number)?;
        let Some(index) = known.table else { return Some(Rows::NotServed) };
        let served = &self.layout.served[index];
        let trusted = at > self.states[index].doubted_until && served.unfollowable.is_none();
        Some(match &known.plan {
            Some(plan) if trusted => Rows::Plan(plan),
            _ => Rows::Unknown(served.shard),
        })
    }

    /// The effect of a statement that ends at `at` and changes rows, tables or definitions. Notes
    /// which definitions must be queried again.
    pub(super) fn effect(
        &mut self,
        query: &Query<'_>,
        statement: &Statement,
        at: LogPosition,
    ) -> Effect {
        let doubtful = self.reach_is_stale || at <= self.reach_doubted_until;
        let effect = self.layout.effect(query, statement, doubtful);
        self.stale.extend(effect.tables.iter().map(|index| (*index, StaleReason::Statement)));
        self.reach_is_stale |= effect.reach;
        effect
    }

    pub(super) fn is_reach_stale(&self) -> bool {
        self.reach_is_stale
    }

    /// Replaces the reach. `end` is the end of the log after it was queried.
    pub(super) fn set_reach(&mut self, reach: Reach, end: LogPosition) {
        if self.reach_is_stale || reach != self.layout.reach {
            self.reach_doubted_until = end;
        }
        self.layout.reach = reach;
        self.reach_is_stale = false;
    }

    /// Forgets the announcements, because another log file begins. The server may have restarted
    /// and may assign the same numbers again.
    pub(super) fn forget_numbers(&mut self) {
        self.maps.clear();
        self.states.iter_mut().for_each(|state| state.number = None);
    }

    /// Whether the definition of a table must be queried again before the next event is decoded.
    pub(super) fn is_stale(&self) -> bool {
        !self.stale.is_empty()
    }

    /// The tables whose definitions must be queried again, by index in the layout.
    pub(super) fn stale(&self) -> Vec<usize> {
        self.stale.keys().copied().collect()
    }

    /// Demands that the definitions of the tables of a shard are queried again.
    pub(super) fn doubt(&mut self, shard: ShardId) {
        for (index, served) in self.layout.served.iter().enumerate() {
            if served.shard == shard {
                self.stale.entry(index).or_insert(StaleReason::Doubt);
            }
        }
    }

    /// Replaces the definition of a table. `end` is the end of the log after it was queried. If
    /// the log does not contain the cause of a difference, the events up to there may have the
    /// rows of any definition: then this returns the shard, which must be forgotten.
    pub(super) fn redefine(
        &mut self,
        index: usize,
        table: ServedTable,
        end: LogPosition,
    ) -> Option<ShardId> {
        let reason = self.stale.remove(&index).unwrap_or(StaleReason::Doubt);
        let (shard, same) = (table.shard, self.layout.served[index].is_defined_as(&table));
        self.layout.served[index] = table;
        if reason == StaleReason::Statement {
            // The log announces the table again before its next row.
            self.maps.retain(|_, map| map.table != Some(index));
            self.states[index].number = None;
            self.states[index].has_other_columns = false;
        }
        self.plan(index);
        if same || reason == StaleReason::Statement {
            return None;
        }
        self.states[index].doubted_until = end;
        Some(shard)
    }

    /// The tables that memory cannot follow.
    pub(super) fn exclusions(&self) -> Vec<Exclusion> {
        let exclusion = |(served, state): (&ServedTable, &TableState)| {
            let of_log = || state.has_other_columns.then(|| served.with_hidden_columns());
            let why = served.unfollowable.clone().or_else(of_log)?;
            Some(Exclusion { shard: served.shard, why })
        };
        self.layout.served.iter().zip(&self.states).filter_map(exclusion).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::changes::rows::{DeclaredColumn, Role};

    const SHARD: ShardId = ShardId(0);

    fn table(names: &[&str], altered: &str) -> ServedTable {
        let name = ("d".to_owned(), "tweets".to_owned());
        let column =
            |name: &&str| DeclaredColumn { name: (*name).into(), ..DeclaredColumn::default() };
        ServedTable {
            columns: names.iter().map(column).collect(),
            altered: altered.into(),
            ..ServedTable::undefined(SHARD, name, Role::Posts, true)
        }
    }

    /// The announcement of four BIGINT columns.
    fn map(number: u8) -> Vec<u8> {
        let head = [&[number, 0, 0, 0, 0, 0, 1, 0, 1, b'd', 0, 6][..], b"tweets", &[0]].concat();
        [&head[..], &[4, 8, 8, 8, 8, 0, 0]].concat()
    }

    fn plans(tables: &ServedTables, number: u64, at: u64) -> bool {
        matches!(tables.rows(number, LogPosition(at)), Some(Rows::Plan(_)))
    }

    #[test]
    fn a_definition_that_changed_without_the_log_is_trusted_after_it_was_queried() {
        let names = ["tweet_id", "user_id", "content", "timestamp"];
        let swapped = ["user_id", "tweet_id", "content", "timestamp"];
        let layout = Layout {
            tables: Arc::default(),
            served: vec![table(&names, "1")],
            ignore_case: false,
            reach: Reach::default(),
        };
        let mut tables = ServedTables::new(layout);
        tables.announce(&map(5)).unwrap();
        assert_eq!(tables.stale(), [0], "the number is new");
        assert_eq!(tables.redefine(0, table(&names, "1"), LogPosition(50)), None);
        assert!(plans(&tables, 5, 40) && !tables.is_stale());
        tables.announce(&map(5)).unwrap();
        assert!(!tables.is_stale(), "the number is known");
        tables.announce(&map(6)).unwrap();
        assert!(tables.is_stale());
        assert_eq!(tables.redefine(0, table(&swapped, "2"), LogPosition(90)), Some(SHARD));
        assert!(!plans(&tables, 6, 90), "it may have had any definition then");
        assert!(plans(&tables, 6, 91));
        // Altered forth and back.
        tables.doubt(SHARD);
        assert_eq!(tables.redefine(0, table(&swapped, "3"), LogPosition(99)), Some(SHARD));
        tables.forget_numbers();
        tables.announce(&map(6)).unwrap();
        assert!(tables.is_stale(), "the server may have restarted");
    }

    #[test]
    fn a_table_with_hidden_columns_is_excluded_while_the_log_has_them() {
        let names = ["tweet_id", "user_id", "content", "timestamp"];
        let layout = Layout {
            tables: Arc::default(),
            served: vec![table(&names[1..], "1")],
            ignore_case: false,
            reach: Reach::default(),
        };
        let mut tables = ServedTables::new(layout);
        assert_eq!(tables.exclusions(), []);
        tables.announce(&map(5)).unwrap();
        assert_eq!(tables.exclusions().len(), 1);
        assert!(!plans(&tables, 5, 40));
        tables.redefine(0, table(&names, "2"), LogPosition(0));
        assert_eq!(tables.exclusions(), []);
        assert!(plans(&tables, 5, 40));
    }
}
