//! Checks that comments, error texts and documents are plain English.
//!
//! Pure functions: a file's name and text in, findings out. `tidy.rs` applies them to every file
//! of the repository. The rules:
//!
//! 1. No phrase of [`DIALECT`] in Rust comments, in Rust string literals of several words, or in
//!    Markdown. Code blocks, inline code and link targets are excluded, and so is a phrase within
//!    a phrase of [`ALLOWED`]. A sentence must not start with a relative clause ([`STARTS`]).
//! 2. No word of [`NAMES`] in a Rust identifier. Each name is reported once per file.
//! 3. No line of a Rust comment or of Markdown is longer than [`COLUMNS_MAX`]. Code blocks, table
//!    rows and link targets are excluded.
//! 4. No Markdown sentence has more than [`WORDS_MAX`] words. Code blocks, tables and headings are
//!    excluded; inline code counts as one word. A colon and a semicolon end a sentence.

mod lexer;
mod tests;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::LazyLock;

use self::lexer::{Piece, pieces};

const COLUMNS_MAX: usize = 100;
const WORDS_MAX: usize = 35;

/// Phrases that a reader with English as a second language does not know from other manuals, or
/// that this project once used in a sense of its own. After each: a plain replacement.
const DIALECT: &[(&str, &str)] = &[
    ("whoever", "a client that, an operator who"),
    ("whomever", "name the actor"),
    ("whom", "name the actor"),
    ("those who", "name the actor"),
    ("one who", "name the actor"),
    ("nobody", "no client, no thread"),
    ("somebody", "another program"),
    ("anybody", "any client"),
    ("told", "delivered, reported, logged"),
    ("tells", "delivers, reports, logs"),
    ("tell of", "mentions"),
    ("is said", "is reported"),
    ("was said", "was reported"),
    ("hear", "receive"),
    ("hears", "receives"),
    ("heard", "received"),
    ("comes to", "reaches"),
    ("came to", "reached"),
    ("has come to", "has reached"),
    ("have come to", "have reached"),
    ("carry out", "apply"),
    ("carries out", "applies"),
    ("carried out", "applied"),
    ("hand over", "apply, deliver"),
    ("hands over", "applies, delivers"),
    ("handed over", "applied, delivered"),
    ("taken up", "read"),
    ("wish", "request"),
    ("wishes", "requests"),
    ("wished", "requested"),
    ("goes without", "skips"),
    ("go without", "skip"),
    ("leave out", "skip, exclude"),
    ("leaves out", "skips, excludes"),
    ("left out", "skipped, excluded"),
    ("stands", "is"),
    ("stand in", "are in"),
    ("stood", "was"),
    ("is met", "is known, registers"),
    ("was met", "was known, registered"),
    ("behind", "after (in an order); lagging (not there yet)"),
    ("kept page", "cached page"),
    ("kept pages", "cached pages"),
    ("sent again", "page cache hit"),
    ("meanwhile", "in the meantime, while ..."),
    ("anew", "rebuild, restart, again"),
    ("mint", "generate"),
    ("mints", "generates"),
    ("minted", "generated"),
    ("minting", "generating"),
    ("gathers", "buffers"),
    ("gathered", "buffered"),
    ("gathering", "buffering"),
    ("ask the database", "query"),
    ("ask the databases", "query"),
    ("asks the database", "queries"),
    ("asks the databases", "queries"),
    ("brings about", "causes"),
    ("so often", "name the number"),
    ("for good", "permanently"),
    ("for ever", "permanently"),
    ("so many", "name the limit"),
    ("so much", "name the limit"),
    ("so long a", "name the limit"),
    ("lets go", "releases"),
    ("knows of", "knows, has"),
    ("at hand", "available"),
    ("surely", "delete it, or give the reason"),
    ("it is over", "it has ended"),
    ("gets lost", "is lost"),
    ("mend", "repair, fix"),
    ("mends", "repairs, fixes"),
    ("mended", "repaired, fixed"),
    ("looks after", "manages"),
    ("goes on", "continues"),
    ("go on", "continue"),
    ("from then on", "after that"),
    ("henceforth", "after that"),
    ("whence", "from which"),
    ("withal", "delete it"),
    ("twice over", "twice"),
    ("what is kept", "name it"),
    ("what was kept", "name it"),
    ("in vain", "without success; or name the timeout"),
    ("by and by", "gradually"),
    ("ere", "before"),
    ("the like", "name them"),
    ("gives out", "returns"),
    ("gave out", "returned"),
    ("no more than that", "name the limit"),
];

/// Sentences must not start with one of these words, unless they are questions.
const STARTS: &[&str] = &["What", "Whatever", "Who", "Whoever", "Whom", "Whose"];

/// Words that no identifier may contain.
const NAMES: &[&str] = &[
    "wish",
    "wishes",
    "wished",
    "lack",
    "lacks",
    "lacking",
    "told",
    "tell",
    "tells",
    "whoever",
    "nobody",
    "somebody",
    "anew",
    "meanwhile",
    "mend",
    "mends",
    "mended",
    "minted",
    "mint",
    "mints",
    "hear",
    "hears",
    "heard",
];

/// An ordinary use of a phrase of `DIALECT`.
struct Allowed {
    /// The phrase in the context that makes it ordinary.
    phrase: &'static str,
    /// Why it is ordinary English.
    reason: &'static str,
}

const ALLOWED: &[Allowed] = &[
    Allowed { phrase: "behind a proxy", reason: "network topology" },
    Allowed { phrase: "behind a reverse proxy", reason: "network topology" },
    Allowed { phrase: "behind the proxy", reason: "network topology" },
    Allowed { phrase: "behind proxies", reason: "network topology" },
    Allowed { phrase: "behind a load balancer", reason: "network topology" },
    Allowed { phrase: "behind a firewall", reason: "network topology" },
    Allowed { phrase: "behind a link", reason: "network topology" },
    Allowed { phrase: "behind one address", reason: "network topology" },
    Allowed { phrase: "lag behind", reason: "the usual term of replication" },
    Allowed { phrase: "lags behind", reason: "the usual term of replication" },
    Allowed { phrase: "lagging behind", reason: "the usual term of replication" },
    Allowed { phrase: "falls behind", reason: "the usual term of replication" },
    Allowed { phrase: "so many that", reason: "names the consequence, not a hidden limit" },
    Allowed { phrase: "so much that", reason: "names the consequence, not a hidden limit" },
    Allowed { phrase: "so often that", reason: "names the consequence, not a hidden number" },
    Allowed { phrase: "stands for", reason: "the meaning of an abbreviation" },
    Allowed { phrase: "for good reason", reason: "\"good\" is an adjective" },
    Allowed { phrase: "for good reasons", reason: "\"good\" is an adjective" },
    Allowed { phrase: "condition is met", reason: "a condition, not a user" },
    Allowed { phrase: "deadline is met", reason: "a deadline, not a user" },
];

/// Parts of file names that are not checked, each with the reason.
const EXEMPT: &[(&str, &str)] = &[
    ("tests/it/prose.rs", "the phrases are its data"),
    ("tests/it/prose/", "the phrases are its test cases"),
    ("src/demo/text.rs", "it holds what the demo's users write"),
];

/// A violation of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) line: usize,
    pub(crate) problem: String,
}

/// Checks a file by the ending of its name: `.rs` or `.md`. The findings are in order of lines.
pub(crate) fn check(name: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if EXEMPT.iter().any(|(exempt, _)| name.contains(exempt)) {
        return findings;
    }
    if name.ends_with(".md") {
        let lines: Vec<(usize, &str)> = (1..).zip(text.lines()).collect();
        check_columns(&lines, &lines, &mut findings);
        for paragraph in paragraphs(&lines) {
            check_words(&paragraph, &mut findings);
            check_length(&paragraph, &mut findings);
        }
    } else {
        check_rust(text, &mut findings);
    }
    findings.sort_by_key(|finding| finding.line);
    findings.dedup();
    findings
}

fn check_rust(text: &str, findings: &mut Vec<Finding>) {
    let source: Vec<(usize, &str)> = (1..).zip(text.lines()).collect();
    let (mut comment, mut comment_marker) = (Vec::new(), "");
    let mut names = HashSet::new();
    for piece in pieces(text) {
        match piece {
            Piece::Comment { line, marker, text } => {
                let last = comment.last().map(|(last, _)| *last);
                if last.is_some_and(|last| last + 1 != line) || marker != comment_marker {
                    check_comment(&comment, &source, findings);
                    comment.clear();
                }
                comment.push((line, text));
                comment_marker = marker;
            }
            Piece::Literal { line, text } if text.contains(' ') => {
                let lines: Vec<(usize, &str)> = (line..).zip(text.lines()).collect();
                check_words(&Paragraph { words: words_of(&lines), is_prose: false }, findings);
            }
            Piece::Identifier { line, text } if names.insert(text) => {
                if let Some(word) = bad_word(text) {
                    let problem = format!("\"{word}\" in the name `{text}`");
                    findings.push(Finding { line, problem });
                }
            }
            Piece::Literal { .. } | Piece::Identifier { .. } => {}
        }
    }
    check_comment(&comment, &source, findings);
}

fn check_comment(comment: &[(usize, &str)], source: &[(usize, &str)], findings: &mut Vec<Finding>) {
    check_columns(comment, source, findings);
    for paragraph in paragraphs(comment) {
        check_words(&paragraph, findings);
    }
}

/// Checks the whole source line of each line of prose.
fn check_columns(lines: &[(usize, &str)], source: &[(usize, &str)], findings: &mut Vec<Finding>) {
    for (line, text) in prose_lines(lines) {
        let (_, whole) = source[line - 1];
        let columns = without_targets(whole).trim_end().chars().count();
        if columns > COLUMNS_MAX && !is_table_row(text) {
            let problem = format!("{columns} columns; the limit is {COLUMNS_MAX}");
            findings.push(Finding { line, problem });
        }
    }
}

/// The first part of a name that is in `NAMES`.
fn bad_word(name: &str) -> Option<String> {
    name_parts(name).into_iter().find(|part| NAMES.contains(&part.as_str()))
}

/// The words of an identifier in snake case or camel case, in lower case.
fn name_parts(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut after_lower = false;
    for c in name.chars() {
        if c == '_' || (c.is_uppercase() && after_lower) {
            parts.push(String::new());
        }
        if c != '_' {
            parts.last_mut().into_iter().for_each(|part| part.extend(c.to_lowercase()));
        }
        after_lower = c.is_lowercase();
    }
    parts
}

/// A word and its position in the file.
#[derive(Debug)]
struct Word {
    line: usize,
    /// In lower case, without punctuation around it; inline code is "`".
    plain: String,
    /// As in the file, with punctuation.
    text: String,
    /// Punctuation follows, so a phrase cannot continue with the next word.
    ends_phrase: bool,
}

impl Word {
    fn ends_sentence(&self) -> bool {
        let text = self.text.trim_end_matches(['"', '\'', ')', '*', '_', '”', '’']);
        text.ends_with(['.', '!', '?', ':', ';'])
    }
}

/// Words that belong together: phrases and sentences lie within one paragraph.
#[derive(Debug)]
struct Paragraph {
    words: Vec<Word>,
    /// Not a heading, a table row or a string literal: it consists of sentences.
    is_prose: bool,
}

fn check_words(paragraph: &Paragraph, findings: &mut Vec<Finding>) {
    static BY_FIRST_WORD: LazyLock<HashMap<&str, Vec<(&str, &str)>>> = LazyLock::new(|| {
        let mut phrases: HashMap<&str, Vec<(&str, &str)>> = HashMap::new();
        for &(phrase, instead) in DIALECT {
            let first = phrase.split(' ').next().unwrap_or(phrase);
            phrases.entry(first).or_default().push((phrase, instead));
        }
        phrases
    });
    let words = &paragraph.words;
    for (start, word) in words.iter().enumerate() {
        for (phrase, instead) in BY_FIRST_WORD.get(word.plain.as_str()).into_iter().flatten() {
            let Some(found) = phrase_at(words, start, phrase) else { continue };
            if !is_allowed(words, &found) {
                let problem = format!("\"{phrase}\"; write: {instead}");
                findings.push(Finding { line: word.line, problem });
            }
        }
    }
    if !paragraph.is_prose {
        return;
    }
    for sentence in words.split_inclusive(Word::ends_sentence) {
        let (Some(first), Some(last)) = (sentence.first(), sentence.last()) else { continue };
        // A bold lead-in is a heading within the paragraph.
        let is_heading = first.text.starts_with("**") && last.text.ends_with("**");
        let start = first.text.trim_start_matches(['"', '(', '*', '_', '“']);
        if STARTS.contains(&start) && !is_heading && !last.text.contains('?') {
            let problem = format!("a sentence starts with \"{start}\"; name the subject first");
            findings.push(Finding { line: first.line, problem });
        }
    }
}

fn check_length(paragraph: &Paragraph, findings: &mut Vec<Finding>) {
    if !paragraph.is_prose {
        return;
    }
    for sentence in paragraph.words.split_inclusive(Word::ends_sentence) {
        let Some(first) = sentence.first() else { continue };
        if sentence.len() > WORDS_MAX {
            let problem =
                format!("a sentence of {} words; the limit is {WORDS_MAX}", sentence.len());
            findings.push(Finding { line: first.line, problem });
        }
    }
}

/// The words of the phrase, if it starts at this word.
fn phrase_at(words: &[Word], start: usize, phrase: &str) -> Option<Range<usize>> {
    let range = start..start + phrase.split(' ').count();
    let window = words.get(range.clone())?;
    let (_, all_but_last) = window.split_last()?;
    let is_same = window.iter().zip(phrase.split(' ')).all(|(word, same)| word.plain == same);
    (is_same && !all_but_last.iter().any(|word| word.ends_phrase)).then_some(range)
}

fn is_allowed(words: &[Word], found: &Range<usize>) -> bool {
    ALLOWED.iter().any(|allowed| {
        let covers = |start| {
            phrase_at(words, start, allowed.phrase).is_some_and(|range| range.end >= found.end)
        };
        (0..=found.start).any(covers)
    })
}

fn is_table_row(line: &str) -> bool {
    line.trim_start().starts_with('|')
}

fn is_fence(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("```") || line.starts_with("~~~")
}

/// The lines outside code blocks, without lines that are HTML alone.
fn prose_lines<'a>(lines: &[(usize, &'a str)]) -> Vec<(usize, &'a str)> {
    let mut in_code = false;
    let mut prose = Vec::new();
    for &(line, text) in lines {
        if is_fence(text) {
            in_code = !in_code;
            prose.push((line, ""));
        } else if !in_code {
            let is_html = text.starts_with('<') && text.trim_end().ends_with('>');
            prose.push((line, if is_html { "" } else { text }));
        }
    }
    prose
}

/// A list item's text, without its marker.
fn list_item(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let digits = line.trim_start_matches(|c: char| c.is_ascii_digit());
    match digits.len() < line.len() {
        true => digits.strip_prefix(". "),
        false => ["- ", "* ", "+ "].iter().find_map(|marker| line.strip_prefix(marker)),
    }
}

/// Paragraphs, list items, headings and table rows.
fn paragraphs(lines: &[(usize, &str)]) -> Vec<Paragraph> {
    let mut found: Vec<(Vec<(usize, &str)>, bool)> = vec![(Vec::new(), true)];
    for (line, text) in prose_lines(lines) {
        let text = text.trim_start().trim_start_matches("> ");
        let text = text.trim_start();
        if text.is_empty() {
            found.push((Vec::new(), true));
        } else if text.starts_with('#') || is_table_row(text) {
            found.push((vec![(line, text)], false));
            found.push((Vec::new(), true));
        } else if let Some(item) = list_item(text) {
            found.push((vec![(line, item)], true));
        } else if let Some((last, _)) = found.last_mut() {
            last.push((line, text));
        }
    }
    let full = found.into_iter().filter(|(lines, _)| !lines.is_empty());
    full.map(|(lines, is_prose)| Paragraph { words: words_of(&lines), is_prose }).collect()
}

/// The words of a paragraph's lines. Inline code may continue on the next line.
fn words_of(lines: &[(usize, &str)]) -> Vec<Word> {
    let mut all = Vec::new();
    let mut in_code = false;
    for &(line, text) in lines {
        let ticks = text.matches('`').count();
        let whole = match in_code {
            true => format!("`{text}"),
            false => text.to_owned(),
        };
        all.extend(words(line, &whole));
        in_code ^= ticks % 2 == 1;
    }
    all
}

/// The words of one line.
fn words(line: usize, text: &str) -> Vec<Word> {
    let text = without_targets(&without_code(text));
    let word = |text: &str| {
        let plain = text.trim_matches(|c: char| !c.is_alphanumeric() && c != '`').to_lowercase();
        let ends_phrase = text.ends_with(['.', ',', ';', ':', '!', '?', ')', '|']);
        Word { line, plain, text: text.to_owned(), ends_phrase }
    };
    // A dash by itself is not a word, but ends a phrase.
    let mut words: Vec<Word> = Vec::new();
    for next in text.split_whitespace().map(word) {
        match words.last_mut() {
            Some(last) if next.plain.is_empty() => last.ends_phrase = true,
            _ => words.push(next),
        }
    }
    words
}

/// Replaces inline code by "`". Code that does not end on this line is cut to the end of the line.
fn without_code(text: &str) -> String {
    let mut plain = String::new();
    for (index, part) in text.split('`').enumerate() {
        plain.push_str(if index % 2 == 0 { part } else { "`" });
    }
    plain
}

/// Removes the targets of Markdown links, and bare addresses.
fn without_targets(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("](") {
        plain.push_str(&rest[..=start]);
        let target = &rest[start + 2..];
        rest = target.find(')').map_or("", |end| &target[end + 1..]);
    }
    plain.push_str(rest);
    let is_address = |word: &&str| word.contains("://");
    let addresses: Vec<String> =
        plain.split_whitespace().filter(is_address).map(str::to_owned).collect();
    for address in addresses {
        plain = plain.replace(&address, "`");
    }
    plain
}
