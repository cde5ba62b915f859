//! Splits a file into records with fields, and finds the records that are not what they seem.
//!
//! The library `csv-core` parses CSV. It accepts everything, so this module compares its fields
//! with the record: text after a closing quote, and a quote that never closes, are faults. A
//! record is bounded while it is read.

use std::fmt;
use std::io::Result;

use super::CONTENT_BYTES_MAX;
use super::input::{Input, LineEnd};
use super::mysql::MySqlSplitter;

/// The longest record that is read, in bytes: the longest text with every byte doubled, and the
/// other columns.
const RECORD_BYTES_MAX: usize = 2 * CONTENT_BYTES_MAX + (64 << 10);

/// The first and the last line of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lines {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { first, last } if first == last => write!(f, "line {first}"),
            Self { first, last } => write!(f, "lines {first} to {last}"),
        }
    }
}

/// The fields of a record.
#[derive(Debug, Default)]
pub(super) struct Fields {
    /// All fields without anything in between.
    text: Vec<u8>,
    /// Where each field ends in `text`.
    ends: Vec<usize>,
    /// The indexes of fields that are NULL, rising.
    nulls: Vec<usize>,
}

impl Fields {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The fields in order; NULL is `None`.
    pub(super) fn iter(&self) -> impl Iterator<Item = Option<&[u8]>> {
        (0..self.len()).map(|index| self.get(index))
    }

    pub(super) fn get(&self, index: usize) -> Option<&[u8]> {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        let text = &self.text[start..*self.ends.get(index)?];
        self.nulls.binary_search(&index).is_err().then_some(text)
    }

    pub(super) fn push(&mut self, byte: u8) {
        self.text.push(byte);
    }

    pub(super) fn pop(&mut self) {
        self.text.pop();
    }

    pub(super) fn text_len(&self) -> usize {
        self.text.len()
    }

    pub(super) fn text_from(&self, start: usize) -> &[u8] {
        &self.text[start..]
    }

    /// Ends a field after the text that was pushed.
    pub(super) fn end(&mut self, null: bool) {
        if null {
            self.nulls.push(self.ends.len());
        }
        self.ends.push(self.text.len());
    }

    fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
        self.nulls.clear();
    }
}

/// Reads the records of one file.
pub(super) struct Records {
    input: Input,
    splitter: Splitter,
    pub(super) delimiter: u8,
    pub(super) quote: u8,
    /// The bytes of the record, with its line end.
    raw: Vec<u8>,
    fields: Fields,
    /// Takes the fields of a record that is too long.
    discarded: Fields,
}

#[derive(Debug)]
enum Splitter {
    Csv(Box<csv_core::Reader>),
    MySql(MySqlSplitter),
}

/// A record of a file.
pub(super) struct Record<'a> {
    pub(super) lines: Lines,
    pub(super) raw: &'a [u8],
    pub(super) fields: &'a Fields,
    /// Why the record cannot be used.
    pub(super) fault: Option<String>,
    /// Whether the record ends with a line end. If not, the file may be cut off.
    pub(super) has_line_end: bool,
}

/// How the reading of a record ended.
struct Reading {
    lines: Lines,
    /// The record has more than [`RECORD_BYTES_MAX`] bytes.
    too_long: bool,
    stop: Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Line,
    /// A carriage return within a line ended the record; the rest of the line was skipped.
    CarriageReturn,
    File,
    /// The file ended within quotes.
    OpenQuote,
}

impl Records {
    pub(super) fn csv(input: Input, delimiter: u8, quote: u8) -> Self {
        let reader = csv_core::ReaderBuilder::new().delimiter(delimiter).quote(quote).build();
        Self::new(input, Splitter::Csv(Box::new(reader)), delimiter, quote)
    }

    /// Records as MySQL writes them; `quote` is `None` if fields are never quoted.
    pub(super) fn mysql(input: Input, delimiter: u8, quote: Option<u8>) -> Self {
        let splitter = MySqlSplitter::new(delimiter, quote, input.line_end());
        Self::new(input, Splitter::MySql(splitter), delimiter, quote.unwrap_or(b'"'))
    }

    fn new(input: Input, splitter: Splitter, delimiter: u8, quote: u8) -> Self {
        let (fields, discarded) = (Fields::default(), Fields::default());
        Self { input, splitter, delimiter, quote, raw: Vec::new(), fields, discarded }
    }

    /// The next record that is not a blank line; `None` at the end of the file.
    pub(super) fn next(&mut self) -> Result<Option<Record<'_>>> {
        self.raw.clear();
        self.fields.clear();
        if let Splitter::MySql(splitter) = &mut self.splitter {
            splitter.begin_record();
        }
        let Some(reading) = self.read()? else { return Ok(None) };
        Ok(Some(Record {
            lines: reading.lines,
            fault: self.fault(&reading),
            raw: &self.raw,
            fields: &self.fields,
            has_line_end: self.raw.ends_with(b"\n") || self.raw.ends_with(b"\r"),
        }))
    }

    fn read(&mut self) -> Result<Option<Reading>> {
        let mut first = None;
        let mut too_long = false;
        while let Some(part) = self.input.next()? {
            if first.is_none() && part.iter().all(|byte| [b'\r', b'\n'].contains(byte)) {
                continue;
            }
            too_long |= self.raw.len() + part.len() > RECORD_BYTES_MAX;
            if !too_long {
                self.raw.extend(part);
            }
            let fields = if too_long { &mut self.discarded } else { &mut self.fields };
            let split = self.splitter.split(part, fields);
            self.discarded.clear();
            let rest = split.map(|used| part[used..].to_vec());
            let line = self.input.line();
            let lines = Lines { first: *first.get_or_insert(line), last: line };
            if let Some(rest) = rest {
                let within = !rest.is_empty() && rest != b"\n";
                let stop = if within { Stop::CarriageReturn } else { Stop::Line };
                while within && !self.input.line_ended() && self.input.next()?.is_some() {}
                return Ok(Some(Reading { lines, too_long, stop }));
            }
        }
        let Some(first) = first else { return Ok(None) };
        let fields = if too_long { &mut self.discarded } else { &mut self.fields };
        let end_of_line: &[u8] = match self.input.line_end() {
            LineEnd::CrLf => b"\r\n",
            LineEnd::Lf => b"\n",
            LineEnd::Cr => b"\r",
        };
        let complete = self.splitter.split(end_of_line, fields).is_some();
        let stop = if complete { Stop::File } else { Stop::OpenQuote };
        Ok(Some(Reading { lines: Lines { first, last: self.input.line() }, too_long, stop }))
    }

    fn fault(&self, reading: &Reading) -> Option<String> {
        let quotes = self.quotes();
        let opened = reading.lines.first + self.line_ends(quotes.offset());
        let text = match (reading.stop, quotes) {
            (Stop::OpenQuote, _) => format!(
                "a quote opens in line {opened} and does not close; remove it, or quote the text \
                 and double each quote in it"
            ),
            (_, at) if reading.too_long && self.raw.get(at.offset()) == Some(&self.quote) => {
                format!(
                    "the row has more than {RECORD_BYTES_MAX} bytes; shorten it, or correct the \
                     quote that opens in line {opened}"
                )
            }
            _ if reading.too_long => {
                format!("the row has more than {RECORD_BYTES_MAX} bytes; shorten it")
            }
            (Stop::CarriageReturn, _) => {
                "a carriage return is within the line; quote the text that contains it".to_owned()
            }
            (_, Quotes::Wrong(_)) => format!(
                "a quote opens in line {opened}, and text follows the quote that closes it; quote \
                 the text and double each quote in it"
            ),
            (_, Quotes::Right(_)) => return None,
        };
        let hint = match &self.splitter {
            Splitter::Csv(_) if self.raw.contains(&b'\\') => {
                ", or add --dialect mysql if backslashes escape quotes in this file"
            }
            _ => "",
        };
        Some(text + hint)
    }

    fn line_ends(&self, before: usize) -> u64 {
        let end = if self.input.line_end() == LineEnd::Cr { b'\r' } else { b'\n' };
        let ends = self.raw.iter().take(before).filter(|byte| **byte == end).count();
        ends.try_into().unwrap_or(u64::MAX)
    }

    fn quotes(&self) -> Quotes {
        match &self.splitter {
            Splitter::Csv(_) => csv_quotes(&self.raw, &self.fields, self.delimiter, self.quote),
            Splitter::MySql(splitter) if splitter.junk => Quotes::Wrong(splitter.opened_at),
            Splitter::MySql(splitter) => Quotes::Right(splitter.opened_at),
        }
    }
}

/// Whether the quotes of a record are as RFC 4180 requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quotes {
    /// They are, up to this byte: the start of the last field that is not complete.
    Right(usize),
    /// They are not, in the field that starts at this byte.
    Wrong(usize),
}

impl Quotes {
    fn offset(self) -> usize {
        match self {
            Self::Right(at) | Self::Wrong(at) => at,
        }
    }
}

/// Compares a record with its parsed fields. A field is either equal to its part of the record, or
/// the part is the field in quotes with each quote doubled.
fn csv_quotes(raw: &[u8], fields: &Fields, delimiter: u8, quote: u8) -> Quotes {
    let mut at = 0;
    for (index, field) in fields.iter().flatten().enumerate() {
        let rest = raw.get(at..).unwrap_or_default();
        let len = if rest.first() == Some(&quote) {
            let doubled = field.iter().filter(|byte| **byte == quote).count();
            let len = field.len() + doubled + 2;
            if rest.get(len - 1) != Some(&quote) {
                return Quotes::Wrong(at);
            }
            len
        } else {
            field.len()
        };
        match rest.get(len) {
            None | Some(b'\r' | b'\n') if index + 1 == fields.len() => return Quotes::Right(at),
            Some(byte) if *byte == delimiter => at += len + 1,
            _ => return Quotes::Wrong(at),
        }
    }
    Quotes::Right(at)
}

impl Splitter {
    /// Splits the next part of a record. Returns the number of bytes up to the end of the record,
    /// or `None` if it continues.
    fn split(&mut self, part: &[u8], fields: &mut Fields) -> Option<usize> {
        match self {
            Self::Csv(reader) => split_csv(reader, part, fields),
            Self::MySql(splitter) => splitter.split(part, fields),
        }
    }
}

fn split_csv(reader: &mut csv_core::Reader, part: &[u8], fields: &mut Fields) -> Option<usize> {
    let (mut used, mut written) = (0, fields.text.len());
    // The fields are never longer than the record.
    fields.text.resize(written + part.len(), 0);
    let ended = loop {
        let mut ends = [0; 32];
        let (result, read, wrote, count) =
            reader.read_record(&part[used..], &mut fields.text[written..], &mut ends);
        used += read;
        written += wrote;
        fields.ends.extend(&ends[..count]);
        match result {
            csv_core::ReadRecordResult::OutputEndsFull if used < part.len() => {}
            csv_core::ReadRecordResult::Record => break true,
            _ => break false,
        }
    };
    fields.text.truncate(written);
    ended.then_some(used)
}

/// Splits a record as MySQL would have written it. `None` if MySQL cannot have written it.
pub(super) fn as_mysql(
    raw: &[u8],
    delimiter: u8,
    quote: Option<u8>,
    line_end: LineEnd,
) -> Option<Fields> {
    let mut splitter = MySqlSplitter::new(delimiter, quote, line_end);
    let mut fields = Fields::default();
    let whole = raw.ends_with(b"\n") || raw.ends_with(b"\r");
    let end: &[u8] = match line_end {
        _ if whole => b"",
        LineEnd::CrLf => b"\r\n",
        LineEnd::Lf => b"\n",
        LineEnd::Cr => b"\r",
    };
    let used = splitter.split(raw, &mut fields);
    let used = used.or_else(|| splitter.split(end, &mut fields).map(|_| raw.len()))?;
    (used == raw.len() && !splitter.junk && !splitter.foreign).then_some(fields)
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read};

    use proptest::prelude::*;

    use super::*;

    fn records(file: impl Read + 'static) -> Records {
        Records::csv(Input::new(file).unwrap(), b',', b'"')
    }

    /// The memory that a record of any length takes.
    fn memory(records: &Records) -> usize {
        let fields = [&records.fields, &records.discarded];
        let texts: usize = fields.iter().map(|fields| fields.text.capacity()).sum();
        let ends: usize = fields.iter().map(|fields| fields.ends.capacity() * 8).sum();
        records.raw.capacity() + texts + ends
    }

    #[test]
    fn a_record_is_bounded_while_it_is_read() {
        const MIB: u64 = 1 << 20;
        let row = Cursor::new("a,b\n");
        let comma = Cursor::new(b"1,2\n3,".to_vec());
        for (bytes, start, message) in [
            (b'x', &b"1,2\n3,\""[..], "a quote opens in line 2 and does not close"),
            (b'\n', b"1,2\n3,\"", "a quote opens in line 2 and does not close"),
            (b'x', b"1,2\n3,", "the row has more than 2162688 bytes"),
            (b',', b"1,2\n3,", "the row has more than 2162688 bytes"),
        ] {
            let long = std::io::repeat(bytes).take(if bytes == b'x' { 64 } else { 3 } * MIB);
            let mut records = records(Cursor::new(start.to_vec()).chain(long));
            assert!(records.next().unwrap().unwrap().fault.is_none());
            let record = records.next().unwrap().unwrap();
            let fault = record.fault.unwrap();
            assert!(fault.starts_with(message), "{fault}");
            assert_eq!(record.lines.first, 2);
            assert!(memory(&records) < 48 << 20, "{}", memory(&records));
            assert!(records.next().unwrap().is_none());
        }
        // The row after a long one is read again.
        let long = std::io::repeat(b'x').take(8 * MIB).chain(Cursor::new("\n")).chain(row);
        let mut records = records(comma.chain(long));
        let faults: Vec<(Lines, bool)> = std::iter::from_fn(|| {
            let record = records.next().unwrap()?;
            Some((record.lines, record.fault.is_some()))
        })
        .collect();
        let line = |line| Lines { first: line, last: line };
        assert_eq!(faults, [(line(1), false), (line(2), true), (line(3), false)]);
    }

    fn mysql_escaped(text: &str) -> String {
        let mut escaped = String::new();
        for character in text.chars() {
            match character {
                '\0' => escaped.push_str("\\0"),
                '\\' | '\t' | '\n' => escaped.extend(['\\', character]),
                other => escaped.push(other),
            }
        }
        escaped
    }

    proptest! {
        /// Texts of special characters survive each writer.
        #[test]
        fn fields_are_read_as_they_were_written(
            rows in prop::collection::vec([r#"[a,"\\\n\r\t']{0,6}"#, r#"[aN0,"\\\n\t]{0,6}"#], 1..4),
        ) {
            let mut writer = csv::Writer::from_writer(Vec::new());
            let mut mysql = String::new();
            for [first, second] in &rows {
                writer.write_record([first, second, "1"]).unwrap();
                mysql += &format!("{}\t{}\t1\n", mysql_escaped(first), mysql_escaped(second));
            }
            let csv = writer.into_inner().unwrap();
            let input = |bytes: Vec<u8>| {
                let mut input = Input::new(Cursor::new(bytes)).unwrap();
                input.set_line_end(LineEnd::Lf);
                input
            };
            let mut both = [
                Records::csv(input(csv), b',', b'"'),
                Records::mysql(input(mysql.into_bytes()), b'\t', None),
            ];
            for records in &mut both {
                for [first, second] in &rows {
                    let record = records.next().unwrap().unwrap();
                    prop_assert_eq!(record.fault, None);
                    let fields: Vec<_> = record.fields.iter().flatten().collect();
                    prop_assert_eq!(fields, [first.as_bytes(), second.as_bytes(), b"1"]);
                }
                prop_assert!(records.next().unwrap().is_none());
            }
        }
    }
}
