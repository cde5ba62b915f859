//! Classifies a statement that is logged as text by the objects that it may change. Pure.

use super::binlog::{Query, Xid};
use super::tokens::{Name, Token, Tokens};

/// The effect of a statement.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Statement {
    /// Begins a transaction.
    Begin,
    /// Commits a transaction.
    Commit,
    /// Ends a transaction. Its logged changes may be rolled back.
    Rollback,
    /// Rolls back a part of a transaction.
    RollbackTo,
    /// Changes neither rows nor tables.
    Harmless,
    /// Commits a prepared XA transaction.
    XaCommit(Xid),
    /// Rolls back a prepared XA transaction.
    XaRollback(Xid),
    /// Changes rows: a change that is logged as text.
    Rows(Target),
    /// Creates, alters or drops tables.
    Tables(Target),
    /// Creates, alters or drops a database.
    Database {
        /// The statement may apply to the default database without naming it.
        default: bool,
    },
    /// Creates, alters or drops triggers, routines or views.
    Definition,
    /// May have changed any row.
    Unknown,
}

/// The tables that a statement may change directly.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// No table; only the functions that it calls may change rows.
    None,
    /// This table or view. The statement only reads the others that it names.
    One(Name),
    /// Any table or view that the text names.
    Any,
}

/// First words of statements that change no rows.
const HARMLESS_VERBS: [&str; 9] =
    ["SAVEPOINT", "RELEASE", "GRANT", "REVOKE", "FLUSH", "CHECK", "INSTALL", "UNINSTALL", "SET"];
/// Words between the verb of a change and its table. All of them are reserved.
const MODIFIERS: [&str; 5] = ["LOW_PRIORITY", "HIGH_PRIORITY", "DELAYED", "IGNORE", "INTO"];
/// The kinds of object of CREATE, ALTER and DROP.
const TABLE_KINDS: [&str; 6] = ["TABLE", "TABLES", "INDEX", "UNIQUE", "FULLTEXT", "SPATIAL"];
const DATABASE_KINDS: [&str; 2] = ["DATABASE", "SCHEMA"];
/// The kinds of object whose change [`super::reach::Reach`] depends on.
pub(crate) const DEFINITION_KINDS: [&str; 5] =
    ["TRIGGER", "FUNCTION", "PROCEDURE", "PACKAGE", "VIEW"];
const HARMLESS_KINDS: [&str; 6] = ["USER", "ROLE", "EVENT", "SERVER", "SEQUENCE", "COMPONENT"];

/// The effect of the statement, judged by its first words.
pub(crate) fn classify(query: &Query<'_>) -> Statement {
    // A MariaDB server sends such a comment in place of an event that the client cannot decode.
    if query.text.starts_with(b"#") && Tokens::new(&query.text).next().is_none() {
        return Statement::Harmless;
    }
    // Within `/*!99999 ... */` may be a statement that the server does not execute.
    let certain = Tokens::new(&query.text).is_certain();
    classify_text(&query.text, certain, true)
}

fn classify_text(text: &[u8], certain: bool, outermost: bool) -> Statement {
    let mut tokens = Tokens::new(text);
    let first = tokens.word();
    let rest = tokens.clone();
    match first.as_str() {
        "CREATE" | "ALTER" | "DROP" => definition(&first, rest, certain),
        "TRUNCATE" | "OPTIMIZE" | "REPAIR" => Statement::Tables(Target::Any),
        "RENAME" if !certain || tokens.word() != "USER" => Statement::Tables(Target::Any),
        "RENAME" => Statement::Harmless,
        "" => Statement::Unknown,
        _ if !certain => Statement::Rows(Target::Any),
        "BEGIN" => Statement::Begin,
        "START" if tokens.word() == "TRANSACTION" => Statement::Begin,
        "COMMIT" => Statement::Commit,
        "ROLLBACK" => rollback(tokens),
        "XA" => xa(tokens),
        "SET" => match tokens.word().as_str() {
            // Another statement follows `SET STATEMENT x = y FOR`.
            "STATEMENT" if outermost => set_statement(tokens),
            "STATEMENT" => Statement::Unknown,
            _ => Statement::Harmless,
        },
        "INSERT" | "REPLACE" | "UPDATE" | "DELETE" => Statement::Rows(target(&first, rest)),
        "LOAD" | "WITH" => Statement::Rows(Target::Any),
        "SELECT" | "DO" | "CALL" => Statement::Rows(Target::None),
        // MariaDB's `ANALYZE UPDATE` runs the update.
        "ANALYZE" => match tokens.word().as_str() {
            "TABLE" | "TABLES" | "LOCAL" | "NO_WRITE_TO_BINLOG" => Statement::Harmless,
            _ => Statement::Rows(Target::Any),
        },
        first if HARMLESS_VERBS.contains(&first) => Statement::Harmless,
        _ => Statement::Unknown,
    }
}

/// `ROLLBACK TO x` and `ROLLBACK WORK TO x` roll back a part.
fn rollback(mut tokens: Tokens<'_>) -> Statement {
    let second = tokens.word();
    match second == "TO" || second == "WORK" && tokens.word() == "TO" {
        true => Statement::RollbackTo,
        false => Statement::Rollback,
    }
}

fn xa(mut tokens: Tokens<'_>) -> Statement {
    match tokens.word().as_str() {
        "START" | "BEGIN" => Statement::Begin,
        "END" | "PREPARE" => Statement::Harmless,
        "COMMIT" => xid(tokens.rest()).map_or(Statement::Unknown, Statement::XaCommit),
        "ROLLBACK" => xid(tokens.rest()).map_or(Statement::Unknown, Statement::XaRollback),
        _ => Statement::Unknown,
    }
}

/// The statement after `SET STATEMENT variable = value, ... FOR`.
fn set_statement(mut tokens: Tokens<'_>) -> Statement {
    if tokens.rest().contains(&b'\\') {
        return Statement::Unknown;
    }
    while let Some(token) = tokens.next() {
        if token.is_word("FOR") {
            return classify_text(tokens.rest(), true, false);
        }
    }
    Statement::Unknown
}

/// The table that the change after `verb` names as its target.
fn target(verb: &str, mut tokens: Tokens<'_>) -> Target {
    // DELETE with several tables names them before or after FROM.
    if verb == "DELETE" && !skip_from(&mut tokens) {
        return Target::Any;
    }
    let Some(name) = tokens.name_after(&MODIFIERS) else { return Target::Any };
    let next = tokens.next();
    let ends = |words: &[&str]| {
        next.as_ref().is_some_and(|next| words.iter().any(|word| next.is_word(word)))
    };
    let single = match verb {
        // Any others are read.
        "INSERT" | "REPLACE" => true,
        "UPDATE" => ends(&["SET"]),
        _ => next.is_none() || ends(&["WHERE", "ORDER", "LIMIT", "RETURNING"]),
    };
    if single { Target::One(name) } else { Target::Any }
}

/// Skips the words up to FROM. Returns false if a name comes before it.
fn skip_from(tokens: &mut Tokens<'_>) -> bool {
    loop {
        match tokens.word().as_str() {
            "FROM" => return true,
            "LOW_PRIORITY" | "QUICK" | "IGNORE" | "HISTORY" => {}
            _ => return false,
        }
    }
}

/// The effect of CREATE, ALTER or DROP. The first word that names a kind of object decides.
fn definition(verb: &str, mut tokens: Tokens<'_>, certain: bool) -> Statement {
    while let Some(token) = tokens.next() {
        let Token::Word(word) = &token else { continue };
        let word = String::from_utf8_lossy(word).to_ascii_uppercase();
        let word = word.as_str();
        if word == "DEFINER" {
            tokens.skip_account();
        } else if DATABASE_KINDS.contains(&word) {
            return Statement::Database { default: verb == "ALTER" };
        } else if DEFINITION_KINDS.contains(&word) && certain {
            return Statement::Definition;
        } else if HARMLESS_KINDS.contains(&word) && certain {
            return Statement::Harmless;
        } else if TABLE_KINDS.contains(&word) {
            let name = tokens.name_after(&["IF", "NOT", "EXISTS"]).filter(|_| certain);
            return Statement::Tables(match name {
                Some(name) if verb == "CREATE" && word == "TABLE" => Target::One(name),
                _ => Target::Any,
            });
        }
    }
    Statement::Tables(Target::Any)
}

/// Parses the id of an XA transaction: `X'6162',X'',1`.
fn xid(text: &[u8]) -> Option<Xid> {
    let text = std::str::from_utf8(text).ok()?;
    let mut parts = text.split(',').map(str::trim);
    let global = hexadecimal(parts.next()?)?;
    let branch = parts.next().map_or(Some(Vec::new()), hexadecimal)?;
    let format = parts
        .next()
        .map_or(Ok(1), |format| format.split_whitespace().next().unwrap_or_default().parse());
    Some(Xid { format: format.ok()?, global, branch })
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix(['X', 'x'])?.strip_prefix('\'')?.strip_suffix('\'')?;
    let digits: Option<Vec<u8>> =
        digits.chars().map(|c| u8::try_from(c.to_digit(16)?).ok()).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn kind(text: &str) -> Statement {
        classify(&Query { database: b"d", text: Cow::Borrowed(text.as_bytes()) })
    }

    fn one(database: Option<&str>, table: &str) -> Target {
        let lower = |name: &str| name.as_bytes().to_ascii_lowercase();
        Target::One(Name { database: database.map(lower), name: lower(table) })
    }

    #[test]
    fn transactions_are_recognized() {
        assert_eq!(kind("BEGIN"), Statement::Begin);
        assert_eq!(kind(" /* who */ start transaction"), Statement::Begin);
        assert_eq!(kind("COMMIT"), Statement::Commit);
        assert_eq!(kind("ROLLBACK"), Statement::Rollback);
        assert_eq!(kind("rollback to `s`"), Statement::RollbackTo);
        assert_eq!(kind("ROLLBACK WORK TO SAVEPOINT s"), Statement::RollbackTo);
        assert_eq!(kind("SAVEPOINT s"), Statement::Harmless);
        assert_eq!(kind("# Dummy event"), Statement::Harmless);
        for text in ["", "((", "FROBNICATE x", "SET STATEMENT a=1", "-- nothing"] {
            assert_eq!(kind(text), Statement::Unknown, "{text}");
        }
    }

    #[test]
    fn the_target_of_a_change_is_the_table_that_it_writes() {
        let rows = |text: &str| match kind(text) {
            Statement::Rows(target) => target,
            other => panic!("{text}: {other:?}"),
        };
        for (text, database, table) in [
            (
                "INSERT INTO mysql.rds_heartbeat2(id, value) VALUES (1, 2)",
                Some("mysql"),
                "rds_heartbeat2",
            ),
            ("insert ignore `Ops`.`a``b` select * from tweets", Some("ops"), "a`b"),
            ("INSERT /* s0.tweets */ INTO x SET a = 1", None, "x"),
            (
                "REPLACE INTO ops.sums SELECT 's0', 'tweets', COUNT(*) FROM s0.tweets",
                Some("ops"),
                "sums",
            ),
            ("REPLACE DELAYED \"t\" VALUES (1)", None, "t"),
            ("UPDATE LOW_PRIORITY x SET a = (SELECT 1 FROM tweets)", None, "x"),
            ("DELETE FROM x", None, "x"),
            ("DELETE QUICK FROM a . b WHERE 1", Some("a"), "b"),
            ("SET STATEMENT max_statement_time = 1 FOR INSERT INTO x VALUES (1)", None, "x"),
        ] {
            assert_eq!(rows(text), one(database, table), "{text}");
        }
        for text in [
            "UPDATE x, tweets SET tweets.a = 1",
            "UPDATE x JOIN tweets USING (a) SET a = 1",
            "UPDATE x AS y SET a = 1",
            "DELETE x FROM x JOIN tweets",
            "DELETE FROM x USING x JOIN tweets",
            "DELETE FROM x, y USING x",
            "INSERT INTO /*!99999 ops.x */ tweets VALUES (1)",
            "WITH c AS (SELECT 1) DELETE FROM tweets",
            "LOAD DATA INFILE 'a' INTO TABLE tweets",
            "ANALYZE UPDATE tweets SET a = 1",
            "ANALYZE FORMAT=JSON DELETE FROM tweets",
        ] {
            assert_eq!(rows(text), Target::Any, "{text}");
        }
        assert_eq!(rows("SELECT s0.f()"), Target::None);
        assert_eq!(kind("SET STATEMENT a='\\' FOR INSERT INTO x VALUES (1)"), Statement::Unknown);
    }

    #[test]
    fn definitions_are_classified_by_the_kind_of_object() {
        let any = || Statement::Tables(Target::Any);
        for (text, expected) in [
            ("CREATE TABLE x AS SELECT * FROM tweets", Statement::Tables(one(None, "x"))),
            (
                "create or replace temporary table if not exists a.x (b int)",
                Statement::Tables(one(Some("a"), "x")),
            ),
            ("CREATE /*!99999 x */ TABLE tweets (a INT)", any()),
            ("-- a\n/*!40000 ALTER TABLE t DISABLE KEYS */", any()),
            ("ALTER ONLINE IGNORE TABLE t ADD x INT", any()),
            ("CREATE UNIQUE INDEX view ON t (a)", any()),
            ("DROP TABLES a, b", any()),
            ("TRUNCATE t", any()),
            ("RENAME TABLE a TO b", any()),
            ("RENAME USER a TO b", Statement::Harmless),
            ("CREATE OR REPLACE DATABASE s0", Statement::Database { default: false }),
            ("DROP SCHEMA IF EXISTS s0", Statement::Database { default: false }),
            ("ALTER DATABASE CHARACTER SET latin1", Statement::Database { default: true }),
            (
                "CREATE DEFINER=`table`@`x` TRIGGER a AFTER INSERT ON b FOR EACH ROW DELETE FROM tweets",
                Statement::Definition,
            ),
            (
                "CREATE ALGORITHM=MERGE SQL SECURITY INVOKER VIEW v AS SELECT 1",
                Statement::Definition,
            ),
            ("CREATE /*!50003 TRIGGER a */ TABLE tweets (b INT)", any()),
            ("CREATE AGGREGATE FUNCTION f(x INT) RETURNS INT RETURN 1", Statement::Definition),
            (
                "CREATE ALGORITHM=UNDEFINED DEFINER=`a`@`b` SQL SECURITY DEFINER VIEW v AS SELECT 1",
                Statement::Definition,
            ),
            ("CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO DELETE FROM tweets", Statement::Harmless),
            ("CREATE USER tweets", Statement::Harmless),
        ] {
            assert_eq!(kind(text), expected, "{text}");
        }
    }

    #[test]
    fn xa_ids_are_parsed_in_hexadecimal() {
        let named = Xid { format: 7, global: b"ab".to_vec(), branch: Vec::new() };
        assert_eq!(kind("XA COMMIT X'6162',X'',7"), Statement::XaCommit(named.clone()));
        assert_eq!(kind("XA ROLLBACK X'6162',X'',7"), Statement::XaRollback(named));
        assert_eq!(kind("XA START X'6162',X'',7"), Statement::Begin);
        assert_eq!(kind("XA COMMIT 'ab'"), Statement::Unknown);
    }
}
