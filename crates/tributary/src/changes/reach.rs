//! The objects of a server through which a statement can change served tables without naming them:
//! tables with triggers, parents of foreign keys, views and routines. Pure.

use std::collections::BTreeSet;

use super::binlog::Query;
use super::rows::ServedTable;
use super::statement::{DEFINITION_KINDS, Statement, Target};
use super::tables::Layout;
use super::tokens::{Name, Token, Tokens, Words};
use crate::model::ShardId;

/// Words without which a routine or a trigger changes no row.
const WRITE_VERBS: [&str; 7] =
    ["insert", "replace", "update", "delete", "load", "call", "truncate"];
/// Words before a parenthesis that begin no call of a stored function.
const NO_CALLS: [&str; 7] =
    ["values", "value", "now", "utc_timestamp", "unix_timestamp", "current_timestamp", "sysdate"];
/// The database of the server's own tables, which can have no triggers.
const SYSTEM_DATABASE: &str = "mysql";

/// An object of the server, with the text that defines it.
#[derive(Clone, Debug)]
pub(crate) struct Definition {
    pub(crate) kind: DefinitionKind,
    pub(crate) database: String,
    pub(crate) name: String,
    /// `None` if the text cannot be read or is too long. Such an object can reach every table.
    pub(crate) text: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DefinitionKind {
    /// A trigger; the name is that of its table.
    Trigger,
    Routine,
    View,
    /// The parent of a foreign key that changes the rows of its child. The text is the quoted name
    /// of the child.
    Parent,
}

/// An object through which rows of these shards can be changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Reaching {
    database: String,
    name: String,
    shards: BTreeSet<ShardId>,
}

/// All objects of a server through which served tables can be changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Tables and views: a change of their rows can change served rows.
    tables: Vec<Reaching>,
    /// Routines, and views that call them: each use can change served rows.
    routines: Vec<Reaching>,
    /// The account can read the definitions of all objects.
    complete: bool,
}

/// The effect of a statement.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Effect {
    /// Shards of which any row may have changed.
    pub(crate) shards: BTreeSet<ShardId>,
    /// Served tables, by index, whose definitions may have changed.
    pub(crate) tables: Vec<usize>,
    /// The reach may have changed.
    pub(crate) reach: bool,
    /// The shards are affected only because the definitions cannot be read.
    pub(crate) unseen: bool,
}

impl Reach {
    pub(crate) fn new(served: &[ServedTable], definitions: Vec<Definition>) -> Self {
        let mut reach = Self { complete: true, ..Self::default() };
        let mut open: Vec<(Definition, Option<Words>)> = definitions
            .into_iter()
            .map(|mut definition| {
                let words = definition.text.take().map(|text| Words::new(&text));
                (definition, words)
            })
            .collect();
        // Each round finds the objects that use those of the round before.
        loop {
            let before = reach.size();
            open.iter_mut().for_each(|(definition, words)| {
                reach.add(served, definition, words.as_ref());
            });
            if reach.size() == before {
                // In any order they are the same reach.
                reach.tables.sort_unstable();
                reach.routines.sort_unstable();
                return reach;
            }
        }
    }

    fn size(&self) -> usize {
        let shards =
            |objects: &[Reaching]| objects.iter().map(|o| 1 + o.shards.len()).sum::<usize>();
        shards(&self.tables) + shards(&self.routines)
    }

    fn add(&mut self, served: &[ServedTable], definition: &Definition, words: Option<&Words>) {
        let Definition { kind, database, name, .. } = definition;
        let Some(words) = words else {
            let all: BTreeSet<ShardId> = served.iter().map(|table| table.shard).collect();
            insert(&mut self.tables, database, name, &all);
            return insert(&mut self.routines, database, name, &all);
        };
        let calls = named(&self.routines, words, database);
        let mut writes = named(&self.tables, words, database);
        writes.extend(
            served
                .iter()
                .filter(|t| is_named(words, database, &t.database, &t.table))
                .map(|t| t.shard),
        );
        let may_write = WRITE_VERBS.iter().any(|verb| words.contain(verb));
        match kind {
            DefinitionKind::Trigger | DefinitionKind::Routine => {
                let mut shards = calls;
                shards.extend(writes.into_iter().filter(|_| may_write));
                match kind {
                    DefinitionKind::Trigger => insert(&mut self.tables, database, name, &shards),
                    _ => insert(&mut self.routines, database, name, &shards),
                }
            }
            DefinitionKind::View => {
                insert(&mut self.tables, database, name, &writes);
                insert(&mut self.routines, database, name, &calls);
            }
            DefinitionKind::Parent => insert(&mut self.tables, database, name, &writes),
        }
    }
}

fn insert(objects: &mut Vec<Reaching>, database: &str, name: &str, shards: &BTreeSet<ShardId>) {
    if shards.is_empty() {
        return;
    }
    match objects.iter_mut().find(|object| object.database == database && object.name == name) {
        Some(object) => object.shards.extend(shards),
        None => objects.push(Reaching {
            database: database.to_owned(),
            name: name.to_owned(),
            shards: shards.clone(),
        }),
    }
}

/// Whether a text whose default database is `default` may name this object.
fn is_named(words: &Words, default: &str, database: &str, name: &str) -> bool {
    words.contain(name) && (default.eq_ignore_ascii_case(database) || words.contain(database))
}

fn named(objects: &[Reaching], words: &Words, default: &str) -> BTreeSet<ShardId> {
    let named = objects.iter().filter(|o| is_named(words, default, &o.database, &o.name));
    named.flat_map(|object| object.shards.iter().copied()).collect()
}

/// Whether a target is this object.
fn is_target(target: &Name, default: &str, database: &str, name: &str) -> bool {
    let own = target.database.as_deref().unwrap_or(default.as_bytes());
    // Letters outside ASCII may be logged in another character set.
    let same = |a: &[u8], b: &str| a.eq_ignore_ascii_case(b.as_bytes()) || !b.is_ascii();
    same(own, database) && same(&target.name, name)
}

impl Layout {
    /// The effect of a statement that changes rows, tables or definitions. `doubtful` means that
    /// the reach may not be the one at the time of the statement.
    pub(crate) fn effect(
        &self,
        query: &Query<'_>,
        statement: &Statement,
        doubtful: bool,
    ) -> Effect {
        let default = String::from_utf8_lossy(query.database);
        let words = Words::new(&query.text);
        let mut effect = Effect::default();
        match statement {
            Statement::Rows(target) => {
                effect.shards = self.written(&words, &default, target);
                let blind = doubtful || !self.reach.complete;
                if blind && effect.shards.is_empty() && !is_plain(query, target, &default) {
                    effect.shards = self.served.iter().map(|table| table.shard).collect();
                    effect.unseen = true;
                }
            }
            Statement::Tables(target) => {
                effect.tables = self.targets(&words, &default, target);
                effect.shards = self.shards_of(&effect.tables);
                // `CREATE /*!50003 TRIGGER x ... */` is not recognized as a definition.
                let defines = !Tokens::new(&query.text).is_certain()
                    && DEFINITION_KINDS.iter().any(|kind| words.contain(kind));
                effect.reach = defines
                    || !effect.tables.is_empty()
                    || !named(&self.reach.tables, &words, &default).is_empty();
                // A table that is created from a query runs the functions of the query.
                effect.shards.extend(named(&self.reach.routines, &words, &default));
            }
            Statement::Database { default: of_default } => {
                let is = |database: &str| {
                    let here = *of_default && default.eq_ignore_ascii_case(database);
                    here || words.contain(database)
                };
                let served = self.served.iter().enumerate();
                let named = served.filter(|(_, table)| is(&table.database));
                effect.tables = named.map(|(index, _)| index).collect();
                effect.shards = self.shards_of(&effect.tables);
                effect.reach = !effect.tables.is_empty();
            }
            Statement::Definition => effect.reach = true,
            Statement::Unknown => {
                effect.shards = self.served.iter().map(|table| table.shard).collect();
            }
            // The others change no row and no table by themselves.
            _ => {}
        }
        effect
    }

    /// The shards whose rows a change of rows may have changed.
    fn written(&self, words: &Words, default: &str, target: &Target) -> BTreeSet<ShardId> {
        let mut shards = self.shards_of(&self.targets(words, default, target));
        shards.extend(named(&self.reach.routines, words, default));
        match target {
            Target::None => {}
            Target::Any => shards.extend(named(&self.reach.tables, words, default)),
            Target::One(name) => {
                let tables = self.reach.tables.iter();
                let tables = tables.filter(|o| is_target(name, default, &o.database, &o.name));
                shards.extend(tables.flat_map(|object| object.shards.iter().copied()));
            }
        }
        shards
    }

    /// The served tables, by index, that the statement names as its target.
    fn targets(&self, words: &Words, default: &str, target: &Target) -> Vec<usize> {
        let is = |table: &ServedTable| match target {
            Target::None => false,
            Target::One(name) => is_target(name, default, &table.database, &table.table),
            Target::Any => is_named(words, default, &table.database, &table.table),
        };
        let served = self.served.iter().enumerate().filter(|(_, table)| is(table));
        served.map(|(index, _)| index).collect()
    }

    fn shards_of(&self, tables: &[usize]) -> BTreeSet<ShardId> {
        tables.iter().map(|index| self.served[*index].shard).collect()
    }
}

/// Whether a statement changes a table of the server itself and calls no stored function. Then it
/// changes no served row, whatever triggers and routines there are.
fn is_plain(query: &Query<'_>, target: &Target, default: &str) -> bool {
    let Target::One(name) = target else { return false };
    let database = name.database.as_deref().unwrap_or(default.as_bytes());
    database.eq_ignore_ascii_case(SYSTEM_DATABASE.as_bytes()) && !may_call(&query.text, name)
}

/// Whether the text may call a function that is not built in.
fn may_call(text: &[u8], target: &Name) -> bool {
    // Without `NO_BACKSLASH_ESCAPES` it is a part of the text.
    if text.contains(&b'\\') {
        return true;
    }
    let tokens: Vec<Token> = Tokens::new(text).collect();
    // The first parenthesis after the table is its list of columns.
    let mut columns = true;
    tokens.windows(3).any(|three| {
        let [before, name, Token::Symbol(b'(')] = three else { return false };
        let (Token::Word(name) | Token::Quoted(name)) = name else { return false };
        let name = name.to_ascii_lowercase();
        if name == target.name && std::mem::take(&mut columns) {
            return false;
        }
        let built_in = NO_CALLS.iter().any(|known| known.as_bytes() == name);
        !built_in || *before == Token::Symbol(b'.')
    })
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::sync::Arc;

    use super::*;
    use crate::changes::rows::Role;
    use crate::changes::statement::classify;
    use crate::model::UserList;

    fn served() -> Vec<ServedTable> {
        let table = |shard, table: &str, role| ServedTable {
            shard: ShardId(shard),
            database: format!("s{shard}"),
            table: table.into(),
            role,
            single: true,
            columns: Vec::new(),
            altered: String::new(),
            unfollowable: None,
        };
        (0..2)
            .flat_map(|shard| {
                [
                    table(shard, "tweets", Role::Posts),
                    table(shard, "sta`tus", Role::List(UserList::Follows)),
                ]
            })
            .collect()
    }

    fn layout(definitions: &[(DefinitionKind, &str, &str, Option<&str>)]) -> Layout {
        let definition =
            |(kind, database, name, text): &(DefinitionKind, &str, &str, Option<&str>)| {
                let text = text.map(|text| text.as_bytes().to_vec());
                Definition { kind: *kind, database: (*database).into(), name: (*name).into(), text }
            };
        let reach = Reach::new(&served(), definitions.iter().map(definition).collect());
        Layout { tables: Arc::default(), served: served(), ignore_case: false, reach }
    }

    fn effect(layout: &Layout, default: &str, text: &str) -> Effect {
        let query = Query { database: default.as_bytes(), text: Cow::Borrowed(text.as_bytes()) };
        layout.effect(&query, &classify(&query), false)
    }

    /// The numbers of the affected shards.
    fn shards(layout: &Layout, default: &str, text: &str) -> Vec<u32> {
        effect(layout, default, text).shards.into_iter().map(|shard| u32::from(shard.0)).collect()
    }

    const TRIGGER: DefinitionKind = DefinitionKind::Trigger;
    const ROUTINE: DefinitionKind = DefinitionKind::Routine;
    const VIEW: DefinitionKind = DefinitionKind::View;
    const PARENT: DefinitionKind = DefinitionKind::Parent;

    /// Every spelling of a statement that alters, empties or replaces a served table or its
    /// database. `{t}` is the table and `{d}` its database.
    const SPELLINGS: &[&str] = &[
        "TRUNCATE {t}",
        "TRUNCATE TABLE {t}",
        "truncate table {t}",
        "TRUNCATE/**/{t}",
        "/*a*/TRUNCATE TABLE {t}",
        "/*!40000 TRUNCATE TABLE {t} */",
        "/*M!100000 TRUNCATE TABLE {t} */",
        "/*M! TRUNCATE TABLE {t} */",
        "TRUNCATE /*!50000 TABLE */ {t}",
        "-- c\nTRUNCATE {t}",
        "# c\nTRUNCATE {t}",
        "TRUNCATE -- c\n {t}",
        "\tTRUNCATE\nTABLE\r\n{t}",
        "TRUNCATE TABLE {t} WAIT 5",
        "TRUNCATE TABLE {t} NOWAIT",
        "SET STATEMENT max_statement_time=5 FOR TRUNCATE {t}",
        "set statement lock_wait_timeout=5, sql_mode='for' for truncate {t}",
        "DROP TABLE {t}",
        "DROP TABLE IF EXISTS {t}",
        "DROP TABLE IF EXISTS ops.a, {t}",
        "DROP TABLES {t}, ops.b",
        "DROP TEMPORARY TABLE {t}",
        "DROP TABLE {t} CASCADE",
        "DROP TABLE {t} /* generated by server */",
        "DROP /*!40005 TEMPORARY */ TABLE IF EXISTS {t}",
        "RENAME TABLE {t} TO ops.x",
        "RENAME TABLE ops.x TO {t}",
        "RENAME TABLES ops.x TO ops.y, {t} TO ops.x, ops.y TO {t}",
        "RENAME TABLE IF EXISTS {t} WAIT 3 TO ops.x",
        "ALTER TABLE {t} RENAME TO ops.x",
        "ALTER TABLE ops.x RENAME AS {t}",
        "ALTER TABLE {t} RENAME ops.x",
        "ALTER TABLE {t} ADD COLUMN a INT FIRST",
        "ALTER TABLE {t} DROP COLUMN a",
        "ALTER TABLE {t} RENAME COLUMN a TO b, RENAME COLUMN b TO a",
        "ALTER TABLE {t} MODIFY a INT AFTER b",
        "ALTER TABLE {t} CHANGE a b INT",
        "ALTER TABLE {t} ALTER COLUMN a SET DEFAULT 1",
        "ALTER ONLINE TABLE {t} ADD a INT",
        "ALTER IGNORE TABLE {t} ADD UNIQUE (a)",
        "ALTER ONLINE IGNORE TABLE IF EXISTS {t} FORCE",
        "ALTER TABLE {t} ENGINE=InnoDB",
        "ALTER TABLE {t} CONVERT TO CHARACTER SET latin1",
        "ALTER TABLE {t} DROP PARTITION p",
        "ALTER TABLE {t} TRUNCATE PARTITION p",
        "ALTER TABLE {t} EXCHANGE PARTITION p WITH TABLE ops.x",
        "ALTER TABLE ops.x EXCHANGE PARTITION p WITH TABLE {t}",
        "ALTER TABLE ops.x CONVERT PARTITION p TO TABLE {t}",
        "ALTER TABLE {t} CONVERT TABLE ops.x TO PARTITION p VALUES LESS THAN (1)",
        "ALTER TABLE {t} REORGANIZE PARTITION p INTO (PARTITION q VALUES LESS THAN (1))",
        "ALTER TABLE {t} DISCARD TABLESPACE",
        "ALTER TABLE {t} IMPORT TABLESPACE",
        "ALTER TABLE {t} ADD SYSTEM VERSIONING",
        "ALTER TABLE {t} ADD FOREIGN KEY (a) REFERENCES ops.x (a) ON DELETE CASCADE",
        "/*!50100 ALTER TABLE {t} PARTITION BY HASH (a) */",
        "CREATE TABLE {t} (a INT)",
        "CREATE TABLE IF NOT EXISTS {t} (a INT)",
        "CREATE TEMPORARY TABLE {t} (a INT)",
        "CREATE OR REPLACE TABLE {t} (a INT)",
        "CREATE OR REPLACE TABLE {t} LIKE ops.x",
        "CREATE OR REPLACE TABLE {t} AS SELECT * FROM ops.x",
        "CREATE TABLE {t} LIKE ops.x",
        "CREATE TABLE {t} SELECT 1 AS a",
        "CREATE /*!99999 x */ TABLE {t} (a INT)",
        "CREATE INDEX a ON {t} (a)",
        "CREATE UNIQUE INDEX view ON {t} (a)",
        "CREATE OR REPLACE FULLTEXT INDEX a ON {t} (a)",
        "DROP INDEX a ON {t}",
        "OPTIMIZE TABLE {t}",
        "REPAIR LOCAL TABLE {t}",
        "DROP DATABASE {d}",
        "DROP SCHEMA {d}",
        "drop database if exists {d}",
        "DROP DATABASE/**/{d}",
        "DROP /*!50000 DATABASE */ {d}",
        "/*!40000 DROP DATABASE IF EXISTS {d}*/",
        "CREATE DATABASE {d}",
        "CREATE SCHEMA {d}",
        "CREATE DATABASE IF NOT EXISTS {d}",
        "CREATE DATABASE /*!32312 IF NOT EXISTS*/ {d} /*!40100 DEFAULT CHARACTER SET latin1 */",
        "CREATE OR REPLACE DATABASE {d}",
        "create or replace schema {d}",
        "CREATE /*a*/ OR /*b*/ REPLACE /*c*/ DATABASE {d}",
        "CREATE OR REPLACE SCHEMA {d} CHARACTER SET utf8mb4",
        "ALTER DATABASE {d} CHARACTER SET latin1",
        "ALTER SCHEMA {d} READ ONLY = 1",
    ];

    #[test]
    fn every_spelling_that_names_a_served_table_or_database_affects_its_shard() {
        let layout = layout(&[]);
        for spelling in SPELLINGS {
            let names =
                [("s1", "s1.tweets"), ("`S1`", "`s1` . `tweets`"), ("\"s1\"", "s1.`sta``tus`")];
            for (database, table) in names {
                let text = spelling.replace("{t}", table).replace("{d}", database);
                for default in ["", "ops", "s0"] {
                    let effect = effect(&layout, default, &text);
                    let found: Vec<_> = effect.shards.iter().map(|shard| shard.0).collect();
                    // A name without a database may be one of the default database.
                    let may_be_more = default == "s0" && found == [0, 1];
                    assert!(found == [1] || may_be_more, "{default}: {text}: {found:?}");
                    assert!(effect.reach && !effect.tables.is_empty(), "{text}");
                }
            }
        }
        assert_eq!(shards(&layout, "s1", "TRUNCATE tweets"), [1]);
        assert_eq!(shards(&layout, "s1", "ALTER DATABASE CHARACTER SET latin1"), [1]);
    }

    #[test]
    fn statements_about_other_objects_leave_memory_untouched() {
        let layout =
            layout(&[(TRIGGER, "ops", "quiet", Some("SET NEW.a = (SELECT 1 FROM s0.tweets)"))]);
        for (default, text) in [
            (
                "mysql",
                "INSERT INTO mysql.rds_heartbeat2 (id, value) VALUES (1, 1) ON DUPLICATE KEY UPDATE value = value + 1",
            ),
            (
                "",
                "INSERT INTO mysql.rds_heartbeat2(id, value) values (1,1700000000000) ON DUPLICATE KEY UPDATE value = 1700000000000",
            ),
            (
                "ops",
                "REPLACE INTO heartbeat (ts, server_id, file, position) VALUES ('2025-11-24T16:00:00.000', 1, 'b.000001', 4)",
            ),
            ("ops", "UPDATE `ops`.`heartbeat` SET ts='x', file='s0.tweets' WHERE server_id='1'"),
            (
                "ops",
                "REPLACE INTO ops.sums (db, tbl, this_cnt) SELECT 's0', 'tweets', COUNT(*) FROM `s0`.`tweets` FORCE INDEX(`PRIMARY`) WHERE `tweet_id` >= 1 /*checksum chunk*/",
            ),
            ("s0", "INSERT INTO other VALUES (1)"),
            ("s0", "CREATE TEMPORARY TABLE tmp AS SELECT * FROM tweets"),
            ("s0", "INSERT INTO tmp SELECT * FROM tweets"),
            ("s0", "DELETE FROM tmp WHERE id IN (SELECT tweet_id FROM tweets)"),
            ("s0", "SET STATEMENT max_statement_time=1 FOR INSERT INTO tmp VALUES (1)"),
            ("ops", "UPDATE quiet SET a = 1"),
            ("ops", "LOAD DATA INFILE 'x' INTO TABLE quiet"),
            ("s0", "SELECT 1"),
            ("s0", "CREATE VIEW v AS SELECT * FROM tweets"),
            ("s0", "CREATE USER tweets"),
            ("s0", "CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO DELETE FROM tweets"),
            ("s0", "CREATE DATABASE other"),
            ("other", "TRUNCATE tweets"),
            ("other", "TRUNCATE app.tweets"),
            ("s0", "TRUNCATE my_tweets"),
            ("s0", "ANALYZE TABLE tweets"),
            ("s0", "FLUSH TABLES tweets"),
            ("ops", "FLUSH /*!40101 LOCAL */ TABLES"),
        ] {
            assert_eq!(shards(&layout, default, text), [0u32; 0], "{text}");
        }
    }

    #[test]
    fn a_served_table_is_reached_directly_or_through_other_objects() {
        let layout = layout(&[
            (TRIGGER, "ops", "sums", Some("BEGIN UPDATE s0.tweets SET content = 'x'; END")),
            (TRIGGER, "ops", "deep", Some("INSERT INTO ops.sums VALUES (1)")),
            (TRIGGER, "ops", "calls", Some("SET NEW.a = s0.f()")),
            (ROUTINE, "s0", "f", Some("BEGIN DELETE FROM tweets; RETURN 1; END")),
            (ROUTINE, "ops", "g", Some("RETURN s0.f() + 1")),
            (ROUTINE, "ops", "p", Some("INSERT INTO s1.tweets VALUES (1)")),
            (ROUTINE, "ops", "h", Some("BEGIN CALL p(); RETURN 1; END")),
            (ROUTINE, "ops", "hidden", None),
            (VIEW, "ops", "posts", Some("select * from `s1`.`tweets`")),
            (VIEW, "ops", "worse", Some("select `ops`.`g`() AS `a`")),
            (PARENT, "s1", "users", Some("`s1`.`tweets`")),
            (PARENT, "s1", "tenants", Some("`s1`.`users`")),
        ]);
        for (text, expected) in [
            ("UPDATE s0.tweets SET content = 'x' WHERE tweet_id = 45", &[0][..]),
            ("UPDATE ops.a JOIN s0.tweets SET tweets.a = 1", &[0]),
            ("REPLACE INTO ops.sums VALUES ('s0', 3, 'a1b2c3d4')", &[0]),
            ("REPLACE INTO sums VALUES (1)", &[0]),
            ("INSERT INTO deep VALUES (1)", &[0]),
            ("INSERT INTO calls VALUES (1)", &[0]),
            ("INSERT INTO ops.a SELECT s0.f()", &[0]),
            ("INSERT INTO ops.a VALUES (`s0`.`f`())", &[0]),
            ("SELECT s0.f()", &[0]),
            ("SELECT `s0`.`f`()", &[0]),
            ("SELECT g()", &[0]),
            ("INSERT INTO a SELECT * FROM worse", &[0]),
            ("CREATE TABLE a AS SELECT g()", &[0]),
            ("SELECT ops.h()", &[1]),
            ("SELECT hidden()", &[0, 1]),
            ("DELETE FROM posts", &[1]),
            ("DELETE FROM s1.users WHERE id = 1", &[1]),
            ("DELETE FROM s1.tenants", &[1]),
            ("ANALYZE DELETE FROM s1.tweets", &[1]),
            ("LOAD DATA INFILE 'x' INTO TABLE s1.tweets", &[1]),
            ("WITH c AS (SELECT 1) DELETE FROM s1.tweets", &[1]),
            ("INSERT INTO a SELECT * FROM posts", &[]),
            ("SELECT s1.f2()", &[]),
            ("/*!99999 BEGIN */ UPDATE s0.tweets SET a = 1", &[0]),
            ("/*!99999 INSERT INTO x VALUES (1) */ UPDATE s0.tweets SET a = 1", &[0]),
            ("FROBNICATE", &[0, 1]),
        ] {
            assert_eq!(shards(&layout, "ops", text), expected, "{text}");
        }
        for text in [
            "CREATE TRIGGER a AFTER INSERT ON b FOR EACH ROW SET @a = 1",
            "RENAME TABLE ops.sums TO ops.x",
        ] {
            let effect = effect(&layout, "ops", text);
            assert!(effect.reach && effect.shards.is_empty(), "{text}");
        }
    }

    #[test]
    fn without_the_definitions_only_plain_changes_of_system_tables_are_harmless() {
        let mut layout = layout(&[]);
        layout.reach.complete = false;
        for text in [
            "INSERT INTO mysql.rds_heartbeat2(id, value) values (1,17) ON DUPLICATE KEY UPDATE value = 17",
            "REPLACE INTO mysql.heartbeat (a) VALUES (NOW())",
        ] {
            assert_eq!(effect(&layout, "", text), Effect::default(), "{text}");
        }
        for text in [
            "INSERT INTO ops.heartbeat VALUES (1)",
            "INSERT INTO mysql.heartbeat VALUES (f())",
            "INSERT INTO mysql.heartbeat VALUES (ops.now())",
            "INSERT INTO mysql.heartbeat VALUES ('\\', f(), '')",
            "UPDATE mysql.a, mysql.b SET a.c = 1",
            "SELECT f()",
        ] {
            let effect = effect(&layout, "", text);
            assert!(effect.unseen && effect.shards.len() == 2, "{text}: {effect:?}");
        }
        assert_eq!(shards(&layout, "", "CREATE TABLE ops.x AS SELECT * FROM ops.y"), [0u32; 0]);
    }
}
