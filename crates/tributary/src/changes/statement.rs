//! Classifies a statement that is logged as text by its possible effect on served tables. Pure.

use super::binlog::{Query, Xid};

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
    /// Creates, alters or drops objects. The text names each of them.
    Ddl,
    /// May have changed any row: a change that is logged as text, or an unknown statement.
    Unknown,
}

/// First words of statements that create, alter or drop the objects that they name.
const DDL_VERBS: [&str; 7] =
    ["CREATE", "ALTER", "DROP", "TRUNCATE", "RENAME", "OPTIMIZE", "REPAIR"];
/// First words of statements that change no rows.
const HARMLESS_VERBS: [&str; 10] = [
    "SAVEPOINT",
    "RELEASE",
    "GRANT",
    "REVOKE",
    "FLUSH",
    "ANALYZE",
    "CHECK",
    "INSTALL",
    "UNINSTALL",
    "SET",
];

/// The effect of the statement, judged by its first words.
pub(crate) fn classify(query: &Query<'_>) -> Statement {
    let text = without_comments(&query.text);
    let (first, rest) = word(text);
    let (second, rest) = word(rest);
    match (first.as_str(), second.as_str()) {
        ("BEGIN", _) | ("START", "TRANSACTION") => Statement::Begin,
        ("COMMIT", _) => Statement::Commit,
        // `ROLLBACK TO x`, `ROLLBACK WORK TO x`.
        ("ROLLBACK", "TO") => Statement::RollbackTo,
        ("ROLLBACK", "WORK") if word(rest).0 == "TO" => Statement::RollbackTo,
        ("ROLLBACK", _) => Statement::Rollback,
        ("XA", "START" | "BEGIN") => Statement::Begin,
        ("XA", "END" | "PREPARE") => Statement::Harmless,
        ("XA", "COMMIT") => xid(rest).map_or(Statement::Unknown, Statement::XaCommit),
        ("XA", "ROLLBACK") => xid(rest).map_or(Statement::Unknown, Statement::XaRollback),
        // `SET STATEMENT x = y FOR` is followed by another statement.
        ("SET", "STATEMENT") => Statement::Unknown,
        // A MariaDB server sends such a comment in place of an event that the client cannot
        // decode.
        ("", _) if query.text.starts_with(b"#") => Statement::Harmless,
        (first, _) if DDL_VERBS.contains(&first) => Statement::Ddl,
        (first, _) if HARMLESS_VERBS.contains(&first) => Statement::Harmless,
        _ => Statement::Unknown,
    }
}

/// Whether the statement may affect this table, or its whole database.
pub(crate) fn concerns(query: &Query<'_>, database: &str, table: &str) -> bool {
    let text = query.text.to_ascii_lowercase();
    let names = |name: &str| {
        // In a quoted name a backtick is doubled. Non-ASCII letters may be logged in another
        // character set than that of the configured name.
        let quoted = name.to_ascii_lowercase().replace('`', "``");
        !name.is_ascii() || contains(&text, quoted.as_bytes())
    };
    let here = query.database.eq_ignore_ascii_case(database.as_bytes()) || names(database);
    here && (names(table) || matches!(object(query).as_str(), "DATABASE" | "SCHEMA"))
}

/// The kind of object that a definition changes: the second word, or the one after `OR REPLACE`.
fn object(query: &Query<'_>) -> String {
    let (second, rest) = word(word(without_comments(&query.text)).1);
    if second == "OR" { word(word(rest).1).0 } else { second }
}

/// Whether the text contains the name, and not only as part of a longer name.
fn contains(text: &[u8], name: &[u8]) -> bool {
    let is_name_byte = |b: Option<&u8>| {
        b.is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | 128..))
    };
    text.windows(name.len().max(1)).enumerate().any(|(at, window)| {
        let before = at.checked_sub(1).and_then(|at| text.get(at));
        window == name && !is_name_byte(before) && !is_name_byte(text.get(at + name.len()))
    })
}

/// The text from its first word on. A server executes the content of `/*! ... */`, so it is not
/// skipped.
fn without_comments(mut text: &[u8]) -> &[u8] {
    loop {
        text = text.trim_ascii_start();
        let end: &[u8] = match text {
            [b'/', b'*', b'!', ..] | [b'/', b'*', b'M', b'!', ..] => {
                let start = text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len());
                text = &text[start..];
                continue;
            }
            [b'/', b'*', ..] => b"*/",
            [b'#', ..] | [b'-', b'-', ..] => b"\n",
            [b'(', rest @ ..] => {
                text = rest;
                continue;
            }
            _ => return text,
        };
        let at = text.windows(end.len()).position(|window| window == end);
        text = at.map_or(&[][..], |at| &text[at + end.len()..]);
    }
}

/// The next word in upper case, and the rest of the text.
fn word(text: &[u8]) -> (String, &[u8]) {
    let text = without_comments(text);
    let len = text.iter().position(|b| !b.is_ascii_alphanumeric() && *b != b'_');
    let (word, rest) = text.split_at(len.unwrap_or(text.len()));
    let word = word.get(..word.len().min(32)).unwrap_or_default();
    (String::from_utf8_lossy(word).to_ascii_uppercase(), rest)
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

    fn query<'a>(database: &'a str, text: &'a str) -> Query<'a> {
        Query { database: database.as_bytes(), text: Cow::Borrowed(text.as_bytes()) }
    }

    #[test]
    fn statements_are_classified_by_their_first_words() {
        let kind = |text| classify(&query("d", text));
        assert_eq!(kind("BEGIN"), Statement::Begin);
        assert_eq!(kind(" /* who */ start transaction"), Statement::Begin);
        assert_eq!(kind("COMMIT"), Statement::Commit);
        assert_eq!(kind("ROLLBACK"), Statement::Rollback);
        assert_eq!(kind("rollback to `s`"), Statement::RollbackTo);
        assert_eq!(kind("ROLLBACK WORK TO SAVEPOINT s"), Statement::RollbackTo);
        assert_eq!(kind("SAVEPOINT s"), Statement::Harmless);
        assert_eq!(kind("# Dummy event"), Statement::Harmless);
        assert_eq!(kind("-- a\n/*!40000 ALTER TABLE t DISABLE KEYS */"), Statement::Ddl);
        assert_eq!(kind("TRUNCATE tweets"), Statement::Ddl);
        for text in ["INSERT INTO x VALUES (1)", "SET STATEMENT a=1 FOR DELETE FROM x", "", "(("] {
            assert_eq!(kind(text), Statement::Unknown, "{text}");
        }
    }

    #[test]
    fn xa_ids_are_parsed_in_hexadecimal() {
        let named = Xid { format: 7, global: b"ab".to_vec(), branch: Vec::new() };
        let kind = |text| classify(&query("d", text));
        assert_eq!(kind("XA COMMIT X'6162',X'',7"), Statement::XaCommit(named.clone()));
        assert_eq!(kind("XA ROLLBACK X'6162',X'',7"), Statement::XaRollback(named));
        assert_eq!(kind("XA START X'6162',X'',7"), Statement::Begin);
        assert_eq!(kind("XA COMMIT 'ab'"), Statement::Unknown);
    }

    #[test]
    fn a_definition_concerns_the_tables_that_it_names() {
        let concerned = |d, text| concerns(&query(d, text), "app", "sta`tus");
        assert!(concerned("app", "ALTER TABLE `STA``TUS` ADD x INT"));
        assert!(concerned("", "TRUNCATE app.`sta``tus`"));
        for text in [
            "DROP DATABASE `app`",
            "CREATE OR REPLACE DATABASE app",
            "create /* a */ or replace -- b\n schema `app` CHARACTER SET utf8mb4",
            "/*!40000 CREATE OR REPLACE DATABASE app */",
        ] {
            assert!(concerned("other", text), "{text}");
        }
        assert!(!concerned("other", "CREATE OR REPLACE DATABASE other"));
        assert!(!concerned("app", "ALTER TABLE other ADD x INT"));
        assert!(!concerned("other", "TRUNCATE `sta``tus`"));
        assert!(!concerned("other", "DROP DATABASE other"));
        assert!(!concerned("other", "TRUNCATE app2.`sta``tus`"));
        assert!(!concerned("app", "TRUNCATE `my_sta``tus`"));
        let foreign = query("x", "DROP TABLE y");
        assert!(
            concerns(&foreign, "größe", "größe"),
            "its letters may be logged in another character set"
        );
    }
}
