//! Splits Rust source into comments, string literals and identifiers, with their lines.

/// A part of a source file that people read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// One line of a comment, without its marker: `//`, `///`, `//!` or `/*`.
    Comment { line: usize, marker: &'static str, text: &'a str },
    /// A string literal. Escapes are spaces; `line` is its first line.
    Literal { line: usize, text: String },
    /// A name, a keyword or a lifetime.
    Identifier { line: usize, text: &'a str },
}

/// The pieces of a source file, in order. Character literals and numbers are skipped.
pub(super) fn pieces(source: &str) -> Vec<Piece<'_>> {
    let (mut found, mut rest, mut line) = (Vec::new(), source, 1);
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            let end = rest.find('\n').unwrap_or(rest.len());
            let marker = line_marker(rest);
            found.push(Piece::Comment { line, marker, text: &rest[marker.len()..end] });
            end
        } else if rest.starts_with("/*") {
            let end = block_end(rest);
            let lines = (line..).zip(rest[2..end].lines());
            found.extend(lines.map(|(line, text)| Piece::Comment { line, marker: "/*", text }));
            end
        } else if let Some((quote, closing)) = raw_string(rest) {
            let body = &rest[quote + 1..];
            let end = body.find(&closing).unwrap_or(body.len());
            found.push(Piece::Literal { line, text: body[..end].to_owned() });
            rest.len().min(quote + 1 + end + closing.len())
        } else if first == '"' {
            let (text, end) = string(rest);
            found.push(Piece::Literal { line, text });
            end
        } else if first == '\'' {
            character_end(rest)
        } else if first.is_alphanumeric() || first == '_' {
            let is_part = |c: char| c.is_alphanumeric() || c == '_';
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            if !first.is_numeric() {
                found.push(Piece::Identifier { line, text: &rest[..end] });
            }
            end
        } else {
            first.len_utf8()
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    found
}

fn line_marker(rest: &str) -> &'static str {
    match rest {
        _ if rest.starts_with("//!") => "//!",
        _ if rest.starts_with("///") => "///",
        _ => "//",
    }
}

/// The length of a block comment; they nest.
fn block_end(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            open if open.starts_with("/*") => (depth, at) = (depth + 1, at + 2),
            close if close.starts_with("*/") => (depth, at) = (depth - 1, at + 2),
            other => at += other.chars().next().map_or(1, char::len_utf8),
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The opening quote and the end of a raw string literal that starts here.
fn raw_string(rest: &str) -> Option<(usize, String)> {
    let prefix = ["r", "br", "cr"].into_iter().find(|prefix| {
        let after = rest.strip_prefix(prefix);
        after.is_some_and(|after| after.trim_start_matches('#').starts_with('"'))
    })?;
    let quote = rest.find('"')?;
    Some((quote, format!("\"{}", "#".repeat(quote - prefix.len()))))
}

/// The text and the length of a string literal that starts here. Line breaks stay.
fn string(rest: &str) -> (String, usize) {
    let (mut text, mut is_escaped) = (String::new(), false);
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            '\n' => text.push(c),
            _ if is_escaped => text.push(' '),
            '\\' => text.push(' '),
            '"' => return (text, at + 1),
            _ => text.push(c),
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    (text, rest.len())
}

/// The length of a character literal, or 1 for the tick of a lifetime.
fn character_end(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            // The character after the backslash may be a quote itself.
            chars.next();
            chars.find(|(_, c)| *c == '\'').map_or(rest.len(), |(at, _)| at + 1)
        }
        Some(_) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 1,
        },
        None => 1,
    }
}
