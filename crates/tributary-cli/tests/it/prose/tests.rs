//! Each rule of the prose check must be able to fail.

use super::lexer::{Piece, pieces};
use super::{ALLOWED, DIALECT, check, name_parts};

/// Line and problem of each finding, the problem up to its first `;`.
fn found(name: &str, text: &str) -> Vec<(usize, String)> {
    let short = |problem: &str| problem.split(';').next().unwrap().to_owned();
    check(name, text).iter().map(|finding| (finding.line, short(&finding.problem))).collect()
}

fn one(line: usize, problem: &str) -> Vec<(usize, String)> {
    vec![(line, problem.to_owned())]
}

#[test]
fn a_phrase_is_found_in_comments_strings_and_documents() {
    for (phrase, _) in DIALECT {
        let problem = one(2, &format!("\"{phrase}\""));
        assert_eq!(found("a.md", &format!("\nIt x {phrase} y.\n")), problem);
        for marker in ["//", "///", "//!"] {
            assert_eq!(found("a.rs", &format!("\n{marker} It x {phrase} y.\n")), problem);
        }
        assert_eq!(found("a.rs", &format!("\nf(\"x {phrase} y\");")), problem);
        assert_eq!(found("a.rs", &format!("\nf(r#\"x \"{phrase}\" y\"#);")), problem);
        assert_eq!(found("a.rs", &format!("\n/* x {phrase} y */")), problem);
    }
}

#[test]
fn a_phrase_is_found_across_lines_capitals_and_emphasis() {
    assert_eq!(found("a.md", "This is kept for\never.\n"), one(1, "\"for ever\""));
    assert_eq!(found("a.rs", "// kept for\n// ever\n"), one(1, "\"for ever\""));
    assert_eq!(found("a.rs", "f(\"kept\\\n  for \\\n  ever\")"), one(2, "\"for ever\""));
    assert_eq!(found("a.md", "*Meanwhile*, x.\n"), one(1, "\"meanwhile\""));
    assert_eq!(found("a.md", "# The news told\n"), one(1, "\"told\""));
    assert_eq!(found("a.md", "| a | told |\n"), one(1, "\"told\""));
    assert_eq!(found("a.md", "- told\n- b\n"), one(1, "\"told\""));
}

#[test]
fn code_link_targets_and_other_words_are_no_phrases() {
    for text in [
        "It says `told` here, and [here](docs/told.md), and [here](#told).\n",
        "```\ntold\n```\n",
        "`x\ntold` y\n",
        "Kept for, ever since.\n",
        "This is for it. Ever since, x.\n",
        "- kept for\n- ever\n",
    ] {
        assert_eq!(found("a.md", text), []);
        assert_eq!(
            found("a.rs", &text.lines().map(|l| format!("// {l}\n")).collect::<String>()),
            []
        );
    }
    // A string of one word is a value.
    assert_eq!(found("a.rs", "f(\"told\", '\"', \"b\"); // it's 'told"), one(1, "\"told\""));
    assert_eq!(found("a.rs", "f(\"told\", '\"', 'a: loop')"), []);
}

#[test]
fn an_allowed_phrase_covers_only_itself() {
    assert_eq!(found("a.md", "The server is behind a proxy.\n"), []);
    let text = "The server is behind a proxy.\nIt is behind the log.\n";
    assert_eq!(found("a.md", text), one(2, "\"behind\""));
    for allowed in ALLOWED {
        assert!(!allowed.reason.is_empty(), "{}", allowed.phrase);
        assert_eq!(found("a.md", &format!("It x {} y.\n", allowed.phrase)), []);
        let is_needed = DIALECT.iter().any(|(phrase, _)| allowed.phrase.contains(phrase));
        assert!(is_needed, "{} contains no phrase", allowed.phrase);
    }
}

#[test]
fn a_sentence_must_not_start_with_a_relative_clause() {
    let problem = "a sentence starts with \"What\"";
    assert_eq!(found("a.md", "It is.\nWhat is read is read.\n"), one(2, problem));
    assert_eq!(found("a.rs", "/// What the tables look like.\n"), one(1, problem));
    assert_eq!(found("a.md", "What is read? That.\n"), []);
    assert_eq!(found("a.md", "## What it is\n"), []);
    assert_eq!(found("a.md", "**What it costs.** A query.\n"), []);
}

#[test]
fn names_must_not_contain_dialect() {
    assert_eq!(found("a.rs", "\nlet was_told = 1;\n"), one(2, "\"told\" in the name `was_told`"));
    assert_eq!(found("a.rs", "struct LackList;"), one(1, "\"lack\" in the name `LackList`"));
    assert_eq!(found("a.rs", "const WISH_MAX: u8 = 1;"), one(1, "\"wish\" in the name `WISH_MAX`"));
    assert_eq!(found("a.rs", "let (black, wishlist, intellect, mendel) = x;"), []);
    assert_eq!(name_parts("HTTPServer_fooBar2"), ["httpserver", "foo", "bar2"]);
}

#[test]
fn lines_of_prose_are_at_most_100_columns() {
    let hundred = "ä. ".repeat(33) + "ä";
    assert_eq!(found("a.md", &hundred), []);
    assert_eq!(found("a.md", &format!("{hundred}ä")), one(1, "101 columns"));
    let link = "x".repeat(90);
    assert_eq!(found("a.md", &format!("A [link](https://{link}) and https://{link}")), []);
    assert_eq!(found("a.md", &format!("| {hundred} |\n")), []);
    assert_eq!(found("a.md", &format!("```\n{hundred}x\n```\n")), []);
    let indented = format!("    // {}", "x".repeat(93));
    assert_eq!(found("a.rs", &indented), []);
    assert_eq!(found("a.rs", &format!("\n{indented}x")), one(2, "101 columns"));
    assert_eq!(found("a.rs", &format!("    f(\"{hundred}\");")), []);
}

#[test]
fn markdown_sentences_have_at_most_35_words() {
    let sentence = |words: usize| "word ".repeat(words - 1) + "end";
    assert_eq!(found("a.md", &wrapped(&format!("{}.", sentence(35)))), []);
    let long = wrapped(&format!("It is. {}.", sentence(36)));
    assert_eq!(found("a.md", &long), one(1, "a sentence of 36 words"));
    assert_eq!(found("a.md", &wrapped(&format!("{}; {}.", sentence(30), sentence(30)))), []);
    assert_eq!(found("a.md", &wrapped(&format!("`a b c` {}.", sentence(34)))), []);
    assert_eq!(found("a.md", &format!("| {} |\n", sentence(36))), []);
    let items = format!("- {}\n- {}\n", sentence(18), sentence(18));
    assert_eq!(found("a.md", &items), []);
}

/// Ten words on a line.
fn wrapped(text: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    words.chunks(10).map(|line| line.join(" ") + "\n").collect()
}

#[test]
fn the_lexer_splits_rust_as_the_compiler_does() {
    let source = "fn a<'a>(b: &'a str) -> char { '\\'' } // c\n\
                  /* d /* e */\n f */ const G: &str = \"h\\\"\n i\";\n\
                  br##\"j\"# \\ \"##; b'\"'; r#type; 0xfe_u8; b\"k\\\\\"";
    let comment = |line, marker, text| Piece::Comment { line, marker, text };
    let literal = |line, text: &str| Piece::Literal { line, text: text.to_owned() };
    let (names, others): (Vec<_>, Vec<_>) =
        pieces(source).into_iter().partition(|piece| matches!(piece, Piece::Identifier { .. }));
    assert_eq!(
        others,
        [
            comment(1, "//", " c"),
            comment(2, "/*", " d /* e */"),
            comment(3, "/*", " f */"),
            literal(3, "h  \n i"),
            literal(5, "j\"# \\ "),
            literal(5, "k  "),
        ]
    );
    let names: Vec<_> = names
        .iter()
        .filter_map(|piece| match piece {
            Piece::Identifier { text, .. } => Some(*text),
            _ => None,
        })
        .collect();
    let expected = ["fn", "a", "a", "b", "a", "str", "char", "const", "G", "str", "b", "r", "type"];
    assert_eq!(names[..13], expected);
}
