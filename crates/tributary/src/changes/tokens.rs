//! Splits the text of a statement into tokens, and finds the names that occur in it. Pure.
//!
//! A name counts wherever it occurs, even in a string or a comment: a statement must never seem to
//! name fewer objects than it does.

use std::collections::HashSet;

/// A token outside of comments.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// An unquoted word: a keyword, a name or a number.
    Word(Vec<u8>),
    /// A name in backticks, or text in double quotes, which may be a name.
    Quoted(Vec<u8>),
    /// Text in single quotes.
    Text,
    /// Any other character.
    Symbol(u8),
}

impl Token {
    pub(crate) fn is_word(&self, word: &str) -> bool {
        matches!(self, Self::Word(own) if own.eq_ignore_ascii_case(word.as_bytes()))
    }
}

/// The name of an object in lower case, with its database if the statement has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) database: Option<Vec<u8>>,
    pub(crate) name: Vec<u8>,
}

/// The tokens of a statement that are left to read. The content of `/*! ... */` counts, because
/// the server may execute it.
#[derive(Clone, Debug)]
pub(crate) struct Tokens<'a>(&'a [u8]);

impl<'a> Tokens<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self(text)
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// Whether the server certainly executes all the tokens that are left. It may skip the content
    /// of `/*!99999 ... */`.
    pub(crate) fn is_certain(&self) -> bool {
        !self.0.windows(3).any(|window| window == b"/*!")
            && !self.0.windows(4).any(|window| window == b"/*M!")
    }

    /// The next token as a word in upper case, or an empty text if it is none.
    pub(crate) fn word(&mut self) -> String {
        match self.next() {
            Some(Token::Word(word)) => {
                let word = word.get(..word.len().min(32)).unwrap_or_default();
                String::from_utf8_lossy(word).to_ascii_uppercase()
            }
            _ => String::new(),
        }
    }

    /// The name after any number of these words.
    pub(crate) fn name_after(&mut self, words: &[&str]) -> Option<Name> {
        let first = loop {
            match self.next()? {
                token if words.iter().any(|word| token.is_word(word)) => {}
                token => break lower(token)?,
            }
        };
        let mut ahead = self.clone();
        if ahead.next() != Some(Token::Symbol(b'.')) {
            return Some(Name { database: None, name: first });
        }
        let name = lower(ahead.next()?)?;
        *self = ahead;
        Some(Name { database: Some(first), name })
    }

    /// Skips the account after `DEFINER`, if there is one: `= user@host`, quoted or not.
    pub(crate) fn skip_account(&mut self) {
        let mut ahead = self.clone();
        if ahead.next() != Some(Token::Symbol(b'=')) {
            return;
        }
        let _user = ahead.next();
        *self = ahead.clone();
        if ahead.next() == Some(Token::Symbol(b'@')) {
            let _host = ahead.next();
            *self = ahead;
        }
    }

    /// Skips white space, comments, and the frame of comments that the server executes.
    fn skip_comments(&mut self) {
        loop {
            self.0 = self.0.trim_ascii_start();
            let end: &[u8] = match self.0 {
                [b'/', b'*', b'!', rest @ ..] | [b'/', b'*', b'M', b'!', rest @ ..] => {
                    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
                    self.0 = &rest[digits..];
                    continue;
                }
                [b'/', b'*', ..] => b"*/",
                [b'#', ..] | [b'-', b'-'] => b"\n",
                // Without white space these are two minus signs.
                [b'-', b'-', next, ..] if *next <= b' ' => b"\n",
                [b'*', b'/', rest @ ..] => {
                    self.0 = rest;
                    continue;
                }
                _ => return,
            };
            let at = self.0.windows(end.len()).position(|window| window == end);
            self.0 = at.map_or(&[][..], |at| &self.0[at + end.len()..]);
        }
    }

    /// The text up to the closing quote. A doubled quote stands for itself, and so does a quote
    /// after a backslash, except in backticks.
    fn quoted(&mut self, quote: u8) -> Vec<u8> {
        let mut text = Vec::new();
        let mut bytes = self.0;
        loop {
            match bytes {
                [] => break,
                [b'\\', next, rest @ ..] if quote != b'`' => {
                    text.push(*next);
                    bytes = rest;
                }
                [a, b, rest @ ..] if *a == quote && *b == quote => {
                    text.push(quote);
                    bytes = rest;
                }
                [a, rest @ ..] if *a == quote => {
                    bytes = rest;
                    break;
                }
                [a, rest @ ..] => {
                    text.push(*a);
                    bytes = rest;
                }
            }
        }
        self.0 = bytes;
        text
    }
}

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        self.skip_comments();
        let (first, rest) = self.0.split_first()?;
        if is_name_byte(*first) {
            let len = self.0.iter().take_while(|byte| is_name_byte(**byte)).count();
            let (word, rest) = self.0.split_at(len);
            self.0 = rest;
            return Some(Token::Word(word.to_vec()));
        }
        self.0 = rest;
        Some(match first {
            b'\'' => {
                self.quoted(b'\'');
                Token::Text
            }
            b'`' | b'"' => Token::Quoted(self.quoted(*first)),
            symbol => Token::Symbol(*symbol),
        })
    }
}

fn lower(token: Token) -> Option<Vec<u8>> {
    match token {
        Token::Word(name) | Token::Quoted(name) => Some(name.to_ascii_lowercase()),
        Token::Text | Token::Symbol(_) => None,
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 128..)
}

/// All words of a text in lower case, to find out which names occur in it.
#[derive(Debug)]
pub(crate) struct Words {
    text: Vec<u8>,
    words: HashSet<Vec<u8>>,
}

impl Words {
    pub(crate) fn new(text: &[u8]) -> Self {
        let text = text.to_ascii_lowercase();
        let words = text.split(|byte| !is_name_byte(*byte)).map(<[u8]>::to_vec).collect();
        Self { text, words }
    }

    /// Whether the text may contain this name, and not only as a part of a longer name. Letters
    /// outside ASCII may be logged in another character set than that of `name`.
    pub(crate) fn contain(&self, name: &str) -> bool {
        if !name.is_ascii() {
            return true;
        }
        let name = name.to_ascii_lowercase();
        if name.bytes().all(is_name_byte) {
            return self.words.contains(name.as_bytes());
        }
        // In a quoted name a backtick is doubled.
        [name.replace('`', "``"), name].iter().any(|name| self.find(name.as_bytes()))
    }

    fn find(&self, name: &[u8]) -> bool {
        let ends = |byte: Option<&u8>| !byte.is_some_and(|byte| is_name_byte(*byte));
        self.text.windows(name.len().max(1)).enumerate().any(|(at, window)| {
            let before = at.checked_sub(1).and_then(|at| self.text.get(at));
            window == name && ends(before) && ends(self.text.get(at + name.len()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_quotes_are_skipped_as_the_servers_do() {
        let words = |text: &str| -> Vec<String> {
            let tokens = Tokens::new(text.as_bytes());
            let word = |token| match token {
                Token::Word(word) | Token::Quoted(word) => String::from_utf8(word).ok(),
                Token::Text | Token::Symbol(_) => None,
            };
            tokens.filter_map(word).collect()
        };
        assert_eq!(words("a/* b */c # d\ne -- f\n g--h"), ["a", "c", "e", "g", "h"]);
        assert_eq!(words("a /*!50003 b */ /*M!100000 c */ d"), ["a", "b", "c", "d"]);
        assert_eq!(words("`a``b`.\"c\"\"d\" 'x\\' y' 'a''b' e"), ["a`b", "c\"d", "e"]);
        assert_eq!(words("'never closed a"), [""; 0]);
    }

    #[test]
    fn names_are_found_everywhere_but_not_within_longer_names() {
        let words = Words::new(b"UPDATE `App`.`sta``tus` SET x = 'tweets' /* users */");
        for name in ["app", "sta`tus", "STATUS`", "tweets", "users", "gr\u{f6}\u{df}e"] {
            assert_eq!(words.contain(name), name != "STATUS`", "{name}");
        }
        let words = Words::new(b"TRUNCATE app2.my_tweets");
        assert!(!words.contain("app") && !words.contain("tweets"));
    }
}
