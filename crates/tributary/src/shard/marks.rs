//! Finds columns that may mark rows which must not be shown: requests, blocks, deleted rows, rows
//! about other things than users. Proposes conditions where the meaning is clear. Pure: the input
//! is the declaration of a table, and the values that a sample of text columns holds.

use super::infer::{ColumnShape, INTEGERS, TableShape};
use crate::mapping::{CONDITIONS_MAX, Condition, Mark};

/// First parts of words for a state in which a row is not shown.
const HIDING: &[&str] = &[
    "archiv",
    "bann",
    "block",
    "cancel",
    "declin",
    "delet",
    "deni",
    "disab",
    "discard",
    "draft",
    "expir",
    "hidden",
    "ignor",
    "inactiv",
    "mute",
    "muting",
    "pending",
    "reject",
    "remov",
    "request",
    "revok",
    "spam",
    "suspend",
    "trash",
    "unfollow",
    "unpublish",
];
/// First parts of words for a state in which a row is shown.
const SHOWING: &[&str] = &["accept", "approv", "confirm", "enabled", "published", "visible"];
/// Words for the same that are also the beginning of other words.
const SHOWING_WORDS: &[&str] = &["active", "live", "ok", "normal"];
/// Words that do not change the meaning of a mark.
const FILLERS: &[&str] = &["at", "date", "flag", "has", "is", "on", "soft", "time", "was"];
/// Words in the name of a column that holds a state.
const STATES: &[&str] =
    &["kind", "private", "relation", "relationship", "state", "status", "type", "visibility"];
/// Last words of columns about a state, such as its author or its reason.
const BESIDE: &[&str] = &["by", "count", "counter", "note", "reason"];
/// Last words of columns that hold a time.
const TIMES: &[&str] = &["at", "on", "time", "date"];
/// Names of the entity that follows and is followed.
const USERS: &[&str] = &["account", "member", "people", "person", "profile", "user", "users"];

/// Types of columns with texts short enough for a state.
const TEXTS: &[&str] = &["char", "varchar", "tinytext"];
const FLAGS: &[&str] = &["bit", "bool", "boolean"];

/// The marks of a table.
#[derive(Debug, Default)]
pub(super) struct Marks<'a> {
    /// Conditions whose meaning is clear.
    pub(super) clear: Vec<Condition>,
    /// Columns whose meaning is not clear.
    pub(super) unclear: Vec<&'a ColumnShape>,
}

impl Marks<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.clear.is_empty() && self.unclear.is_empty()
    }

    /// The columns of all marks.
    pub(super) fn columns(&self) -> Vec<&str> {
        let clear = self.clear.iter().map(|condition| condition.column.as_str());
        clear.chain(self.unclear.iter().map(|column| column.name.as_str())).collect()
    }
}

/// The marks of a table, except the columns `known`, which have another role.
pub(super) fn marks<'a>(shape: &'a TableShape, known: &[&str]) -> Marks<'a> {
    let mut marks = Marks::default();
    for column in shape.columns.iter().filter(|column| !is_known(column, known)) {
        match meaning(column) {
            Meaning::Other => {}
            Meaning::Clear(value) if marks.clear.len() < CONDITIONS_MAX => {
                let column = column.name.clone();
                marks.clear.push(Condition { column, value, hidden: None });
            }
            Meaning::Clear(_) | Meaning::Unclear => marks.unclear.push(column),
        }
    }
    marks
}

/// The text columns whose values decide about their meaning.
pub(super) fn sampled<'a>(shape: &'a TableShape, known: &[&str]) -> Vec<&'a str> {
    let is_sampled = |column: &&ColumnShape| {
        TEXTS.contains(&column.kind.as_str()) && !is_known(column, known) && names_state(column)
    };
    shape.columns.iter().filter(is_sampled).map(|column| column.name.as_str()).collect()
}

fn is_known(column: &ColumnShape, known: &[&str]) -> bool {
    known.iter().any(|known| known.eq_ignore_ascii_case(&column.name))
}

enum Meaning {
    /// The column marks no rows.
    Other,
    /// A row is shown if the column has this value.
    Clear(Mark),
    /// The column may mark rows.
    Unclear,
}

fn meaning(column: &ColumnShape) -> Meaning {
    let kind = column.kind.as_str();
    if kind == "enum" || kind == "set" {
        return of_labels(column);
    }
    if !names_state(column) {
        return Meaning::Other;
    }
    let words = words(&column.name);
    let at = words.last().is_some_and(|word| TIMES.contains(&word.as_str()));
    let (hides, shows) =
        (words.iter().any(|word| hides(word)), words.iter().any(|word| shows(word)));
    match kind {
        "date" | "datetime" | "timestamp" if !column.nullable || hides == shows => Meaning::Other,
        _ if TEXTS.contains(&kind) => of_labels(column),
        _ if hides == shows || !is_plain(&words) => Meaning::Unclear,
        "date" | "datetime" | "timestamp" if hides => Meaning::Clear(Mark::Null),
        "date" | "datetime" | "timestamp" => Meaning::Clear(Mark::NotNull),
        _ if !is_flag(column) => Meaning::Unclear,
        _ if hides && at && column.nullable => Meaning::Clear(Mark::Null),
        // A flag that is NULL may count as 0.
        _ if hides && !column.nullable => Meaning::Clear(Mark::Number(0)),
        _ if shows && !at => Meaning::Clear(Mark::Number(1)),
        _ => Meaning::Unclear,
    }
}

/// The meaning of a column with labels, or with the values of a sample.
fn of_labels(column: &ColumnShape) -> Meaning {
    let named = names_state(column);
    let is_type = words(&column.name).last().is_some_and(|word| word == "type");
    let clear = |label: &String| Meaning::Clear(Mark::Text(label.clone()));
    let mut users = column.labels.iter().filter(|label| is_user(label));
    if let (true, Some(user), None) = (is_type, users.next(), users.next()) {
        return clear(user);
    }
    let of = |label: &&String| words(label).iter().any(|word| hides(word));
    let (hiding, others): (Vec<&String>, Vec<&String>) = column.labels.iter().partition(of);
    match others.as_slice() {
        // Two labels may be set at the same time.
        _ if column.kind == "set" => Meaning::Unclear.if_some(named || !hiding.is_empty()),
        [label] if words(label).iter().any(|word| shows(word) || is_follow(word)) => {
            clear(label).if_some(named || !hiding.is_empty())
        }
        _ => Meaning::Unclear.if_some(named || !hiding.is_empty()),
    }
}

impl Meaning {
    fn if_some(self, found: bool) -> Self {
        if found { self } else { Self::Other }
    }
}

/// Whether the name of the column says that it holds a state.
fn names_state(column: &ColumnShape) -> bool {
    let words = words(&column.name);
    let Some(last) = words.last().map(String::as_str) else { return false };
    let is_state = |word: &String| STATES.contains(&word.as_str());
    if BESIDE.contains(&last) || last == "id" && !words.iter().any(is_state) {
        return false;
    }
    let is_mark = |word: &String| hides(word) || shows(word);
    let marked = words.iter().any(is_mark) && is_plain(&words);
    let hides_more = !TEXTS.contains(&column.kind.as_str()) && words.iter().any(|word| hides(word));
    words.iter().any(is_state) || marked || hides_more
}

/// Whether a name is about the mark alone: `is_muted`, but not `notifications_muted`.
fn is_plain(words: &[String]) -> bool {
    words.iter().all(|word| hides(word) || shows(word) || FILLERS.contains(&word.as_str()))
}

fn is_flag(column: &ColumnShape) -> bool {
    INTEGERS.contains(&column.kind.as_str()) || FLAGS.contains(&column.kind.as_str())
}

fn hides(word: &str) -> bool {
    HIDING.iter().any(|start| word.starts_with(start)) || word == "ban" || word == "none"
}

fn shows(word: &str) -> bool {
    SHOWING.iter().any(|start| word.starts_with(start)) || SHOWING_WORDS.contains(&word)
}

/// Whether a label names a follow, as opposed to a block.
fn is_follow(word: &str) -> bool {
    ["follow", "followed", "following", "follows"].contains(&word)
}

/// Whether a label is the name of a user's class, such as `App\Models\User`.
fn is_user(label: &str) -> bool {
    let last = label.rsplit(['\\', ':', '/', '.']).next().unwrap_or(label);
    USERS.contains(&last.to_lowercase().as_str())
}

/// The words of a name in lower case: `isDeleted` and `is_deleted` have the same.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let (mut begins, mut lower) = (true, false);
    for c in name.chars() {
        if !c.is_alphanumeric() {
            begins = true;
            continue;
        }
        if begins || lower && c.is_uppercase() || words.is_empty() {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.extend(c.to_lowercase());
        }
        (begins, lower) = (false, c.is_lowercase());
    }
    // `isdeleted` is two words.
    for word in &mut words {
        if let Some(rest) = word.strip_prefix("is").filter(|rest| hides(rest) || shows(rest)) {
            *word = rest.to_owned();
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::conditions_text;

    /// A table from `name type, name type`. A type that ends in `?` may be NULL. Labels follow a
    /// type with `=`, and have `/` between them.
    fn table(columns: &str) -> TableShape {
        let column = |text: &str| {
            let (name, kind) = text.trim().rsplit_once(' ').unwrap();
            let (kind, labels) = kind.split_once('=').unwrap_or((kind, ""));
            ColumnShape {
                name: name.into(),
                kind: kind.trim_end_matches('?').into(),
                digits: None,
                nullable: kind.ends_with('?'),
                labels: labels.split('/').filter(|l| !l.is_empty()).map(str::to_owned).collect(),
            }
        };
        TableShape { name: "t".into(), columns: columns.split(',').map(column).collect() }
    }

    #[test]
    fn columns_with_a_clear_meaning_become_conditions() {
        for (column, value) in [
            ("deleted_at datetime?", "\"NULL\""),
            ("deletedAt timestamp?", "\"NULL\""),
            ("removedon bigint?", ""),
            ("removed_on bigint?", "\"NULL\""),
            ("deleted_at bigint", "0"),
            ("accepted_at datetime?", "\"NOT NULL\""),
            ("published_at datetime?", "\"NOT NULL\""),
            ("is_deleted tinyint", "0"),
            ("isdeleted tinyint", "0"),
            ("blocked bit", "0"),
            ("muted tinyint", "0"),
            ("accepted tinyint?", "1"),
            ("is_active int", "1"),
            ("published tinyint", "1"),
            ("status enum=pending/accepted/rejected", "\"accepted\""),
            ("kind enum=follow/block/mute", "\"follow\""),
            ("relation_kind enum=following/blocking/muting", "\"following\""),
            ("anything enum=active/blocked", "\"active\""),
            ("state varchar=accepted/pending", "\"accepted\""),
            ("status varchar?=approved", "\"approved\""),
            ("followable_type varchar=Tag/User", "\"User\""),
            ("follower_type varchar=App\\Models\\User", "\"App\\\\Models\\\\User\""),
            ("target_type enum=user/tag", "\"user\""),
        ] {
            let shape = table(column);
            let marks = marks(&shape, &[]);
            let (name, _) = column.split_once(' ').unwrap();
            if value.is_empty() {
                assert!(marks.clear.is_empty() && !marks.is_empty(), "{column}: {marks:?}");
                continue;
            }
            let text = conditions_text(&marks.clear);
            assert_eq!(text, format!("[{{ column = \"{name}\", value = {value} }}]"), "{column}");
            assert!(marks.unclear.is_empty(), "{column}");
        }
    }

    #[test]
    fn columns_with_an_unclear_meaning_are_reported() {
        for column in [
            "deleted tinyint?",
            "status int",
            "status_id int",
            "type int",
            "state varchar",
            "followable_type varchar",
            "followable_type varchar=Tag",
            "kind enum=follow/subscribe/block",
            "kind varchar=follow/friend",
            "flags set=muted/blocked",
            "accepted_at int",
            "private tinyint",
            "notifications_muted tinyint",
            "visibility tinyint",
        ] {
            let shape = table(column);
            let marks = marks(&shape, &[]);
            assert!(marks.clear.is_empty() && marks.unclear.len() == 1, "{column}: {marks:?}");
        }
    }

    #[test]
    fn other_columns_are_no_marks() {
        let shape = table(
            "id bigint, follower_id bigint, followable_id bigint, following_id bigint, \
             followeduserid bigint, created_at datetime, updated_at datetime?, deleted_by bigint?, \
             blocked_count int, reject_reason varchar, notify tinyint, show_reblogs tinyint, \
             since date, uri varchar, language enum=de/en, mutual tinyint, \
             notifications_enabled tinyint, followed_back tinyint, request_message varchar, weight float, \
             deleted_at datetime, activity varchar, last_seen_at datetime?, following bigint",
        );
        assert_eq!(marks(&shape, &[]).columns(), Vec::<&str>::new());
        let shape = table("status enum=pending/accepted, state varchar, deleted_at datetime?");
        assert_eq!(marks(&shape, &["Status"]).columns(), ["deleted_at", "state"]);
        assert_eq!(sampled(&shape, &[]), ["state"]);
    }
}
