//! Text for people at a terminal: colours, if standard output is one, and aligned columns.

use std::env;
use std::fmt::Write;
use std::io::{self, IsTerminal};

/// How a text looks on a terminal. In a pipe it is plain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Plain,
    Bold,
    /// The name of a person.
    Name,
    Dim,
    Good,
    Warning,
    Bad,
}

impl Look {
    /// The parameters of the escape sequence that starts it.
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "1",
            Self::Name => "1;36",
            Self::Dim => "2",
            Self::Good => "32",
            Self::Warning => "33",
            Self::Bad => "1;31",
        }
    }
}

/// Whether texts have colours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Colours(bool);

impl Colours {
    /// Colours, if standard output is a terminal and `NO_COLOR` is not set.
    pub(crate) fn of_output() -> Self {
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self(io::stdout().is_terminal() && !refused)
    }

    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self(false)
    }

    /// The text with this look.
    pub(crate) fn apply(self, look: Look, text: &str) -> String {
        match (self.0, look.code()) {
            (false, _) | (_, "") => text.to_owned(),
            (true, _) if text.is_empty() => String::new(),
            (true, code) => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
        }
    }

    /// Removes what is on the terminal, before a new picture. Nothing in a pipe.
    pub(crate) fn clear(self) -> &'static str {
        if self.0 { "\u{1b}[H\u{1b}[2J" } else { "" }
    }
}

/// A visible substitute for a control character, which could control the terminal; other
/// characters are unchanged.
pub(crate) fn visible(character: char) -> char {
    match u32::from(character) {
        9 => ' ',
        code @ 0..32 => char::from_u32(0x2400 + code).unwrap_or('?'),
        127..160 => '\u{2421}',
        0x202a..=0x202e | 0x2066..=0x2069 => char::REPLACEMENT_CHARACTER,
        _ => character,
    }
}

/// A cell of a table. A number is aligned at the right.
pub(crate) struct Cell {
    text: String,
    look: Look,
    is_number: bool,
}

impl Cell {
    pub(crate) fn text(look: Look, text: impl Into<String>) -> Self {
        let text = text.into().chars().map(visible).collect();
        Self { text, look, is_number: false }
    }

    pub(crate) fn number(number: u64) -> Self {
        Self::at_right(number.to_string())
    }

    /// A number with a unit.
    pub(crate) fn at_right(text: String) -> Self {
        Self { text, look: Look::Plain, is_number: true }
    }
}

/// A table with columns as wide as their widest cell. Lines have no spaces at their end.
pub(crate) fn table(colours: Colours, head: &[&str], rows: &[Vec<Cell>]) -> String {
    let width = |text: &str| text.chars().count();
    let cells = |column: usize| rows.iter().filter_map(move |row| row.get(column));
    let widest = |(column, name): (usize, &&str)| {
        cells(column).map(|cell| width(&cell.text)).max().unwrap_or(0).max(width(name))
    };
    let widths: Vec<usize> = head.iter().enumerate().map(widest).collect();
    let is_number = |column: usize| cells(column).all(|cell| cell.is_number);
    let mut text = String::new();
    let mut line = |parts: Vec<(String, Look, bool)>| {
        let padded = parts.into_iter().enumerate().map(|(column, (part, look, at_right))| {
            let space = " ".repeat(widths[column].saturating_sub(width(&part)));
            let part = colours.apply(look, &part);
            if at_right { space + &part } else { part + &space }
        });
        let padded: Vec<String> = padded.collect();
        let _ = writeln!(text, "{}", padded.join("  ").trim_end());
    };
    let names = head.iter().enumerate();
    line(names.map(|(column, name)| ((*name).to_owned(), Look::Dim, is_number(column))).collect());
    for row in rows {
        line(row.iter().map(|cell| (cell.text.clone(), cell.look, cell.is_number)).collect());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_coloured_on_a_terminal_only() {
        let rows = [
            vec![Cell::text(Look::Bold, "s0"), Cell::number(7), Cell::text(Look::Good, "ok")],
            vec![
                Cell::text(Look::Bold, "shard-1"),
                Cell::number(1_234),
                Cell::text(Look::Bad, "-"),
            ],
        ];
        let head = ["shard", "waiting", "state"];
        assert_eq!(
            table(Colours(false), &head, &rows),
            "shard    waiting  state\ns0             7  ok\nshard-1     1234  -\n"
        );
        let coloured = table(Colours(true), &head, &rows);
        assert!(coloured.contains("\u{1b}[1ms0\u{1b}[0m       "), "{coloured:?}");
        assert_eq!(Colours(false).clear(), "");
    }
}
