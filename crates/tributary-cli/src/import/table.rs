//! The rows of a delimited file. A row that could mean something else is refused, never guessed.

use std::io::Result;

use clap::{Args, ValueEnum};

use super::header::{Column, Rename, other_kind, resolve};
use super::input::{Input, LineEnd};
use super::records::{Fields, Lines, Record, Records, as_mysql};
use super::rows::{Row, is_row_boundary};
use super::time::Plausible;
use tributary::internal::PostTimes;

/// The form of the files, where it is not CSV with the usual names.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Format {
    /// How special characters in a text are written; without this option, a row whose text depends
    /// on it is refused
    #[arg(long, value_enum)]
    dialect: Option<Dialect>,
    /// Character between fields, or "tab"
    #[arg(long, value_name = "CHAR", value_parser = character)]
    delimiter: Option<u8>,
    /// Character around fields
    #[arg(long, value_name = "CHAR", value_parser = character)]
    quote: Option<u8>,
    /// Other names of columns, such as id=tweet_id,author_id=user_id
    #[arg(long, value_name = "NAME=COLUMN,...", value_delimiter = ',')]
    pub(super) columns: Vec<Rename>,
    /// Names of the columns, for a file without a header line
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    header: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Dialect {
    /// RFC 4180: quotes are doubled, a backslash is an ordinary character
    Csv,
    /// As MySQL writes files: a backslash escapes the next character, \N is NULL
    Mysql,
}

/// Parses a delimiter or a quote.
fn character(text: &str) -> std::result::Result<u8, String> {
    match text.as_bytes() {
        _ if text == "tab" || text == "\\t" => Ok(b'\t'),
        [byte] if byte.is_ascii_punctuation() && *byte != b'\\' => Ok(*byte),
        [b'\t'] => Ok(b'\t'),
        _ => Err("use one punctuation character, or `tab`".to_owned()),
    }
}

impl Format {
    /// Whether an option was given that has no meaning for NDJSON.
    pub(super) fn is_for_csv(&self) -> bool {
        let options = [self.dialect.is_some(), self.delimiter.is_some(), self.quote.is_some()];
        options.contains(&true) || self.has_header_option()
    }

    /// Whether the columns of the file are given by `--header`.
    pub(super) fn has_header_option(&self) -> bool {
        !self.header.is_empty()
    }

    fn records(&self, mut input: Input) -> Result<Records> {
        let quote = self.quote.unwrap_or(b'"');
        if self.dialect != Some(Dialect::Mysql) {
            return Ok(Records::csv(input, self.delimiter.unwrap_or(b','), quote));
        }
        let first_has_tab = input.peek_line()?.contains(&b'\t');
        let default = if first_has_tab { b'\t' } else { b',' };
        let delimiter = self.delimiter.unwrap_or(default);
        Ok(Records::mysql(input, delimiter, self.mysql_quote(delimiter)))
    }

    /// MySQL does not quote fields that it separates by tabs.
    fn mysql_quote(&self, delimiter: u8) -> Option<u8> {
        self.quote.or((delimiter != b'\t').then_some(b'"'))
    }
}

/// The rows of one file.
pub(super) struct Table {
    records: Records,
    format: Format,
    wanted: &'static [Column],
    /// The index in the file of each wanted column that it has.
    found: Vec<Option<usize>>,
    /// The column that each field of a record holds, if it is a wanted one.
    layout: Vec<Option<Column>>,
    line_end: LineEnd,
    times: PostTimes,
    plausible: Plausible,
}

impl Table {
    /// Reads the header line.
    ///
    /// # Errors
    /// The inner one if a column is missing: the end of a sentence that starts with the file.
    pub(super) fn open(
        input: Input,
        wanted: &'static [Column],
        format: &Format,
        (times, plausible): (&PostTimes, Plausible),
    ) -> Result<std::result::Result<Self, String>> {
        let line_end = input.line_end();
        let mut records = format.records(input)?;
        if records.delimiter == records.quote {
            return Ok(Err("cannot be read with a delimiter that is also the quote".into()));
        }
        let header = match header(&mut records, format)? {
            Ok(header) => header,
            Err(reason) => return Ok(Err(reason)),
        };
        Ok(resolve(&header, wanted, &format.columns).map(|found| {
            let mut layout = vec![None; header.len()];
            for (column, index) in wanted.iter().zip(&found) {
                if let Some(index) = index {
                    layout[*index] = Some(*column);
                }
            }
            let (times, format) = (times.clone(), format.clone());
            Self { records, format, wanted, found, layout, line_end, times, plausible }
        }))
    }

    /// The next row, or the reason why it is refused; `None` at the end of the file.
    pub(super) fn next(&mut self) -> Result<Option<(Lines, std::result::Result<Row, String>)>> {
        let (delimiter, quote) = (self.records.delimiter, self.records.quote);
        let Some(mut record) = self.records.next()? else { return Ok(None) };
        let lines = record.lines;
        if let Some(fault) = record.fault.take() {
            return Ok(Some((lines, Err(fault))));
        }
        let checks = Checks {
            format: &self.format,
            found: &self.found,
            layout: &self.layout,
            delimiter,
            quote,
            line_end: self.line_end,
            is_time: &|text| self.plausible.is_time(text, &self.times),
        };
        let row = checks.all(&record).and_then(|()| row(record.fields, &self.found, self.wanted));
        Ok(Some((lines, row)))
    }
}

/// The names in the header line, or those of `--header`.
fn header(
    records: &mut Records,
    format: &Format,
) -> Result<std::result::Result<Vec<String>, String>> {
    if format.has_header_option() {
        return Ok(Ok(format.header.clone()));
    }
    let delimiter = records.delimiter;
    let Some(record) = records.next()? else {
        return Ok(Err("is empty; it needs a header line at least".into()));
    };
    if let Some(other) = other_kind(&record, delimiter) {
        return Ok(Err(other));
    }
    if let Some(fault) = record.fault {
        return Ok(Err(format!("has a header line that cannot be read: {fault}")));
    }
    let text = |field: Option<&[u8]>| String::from_utf8_lossy(field.unwrap_or_default()).into();
    Ok(Ok(record.fields.iter().map(text).collect()))
}

/// The checks that a record has only one meaning.
struct Checks<'a> {
    format: &'a Format,
    found: &'a [Option<usize>],
    layout: &'a [Option<Column>],
    delimiter: u8,
    quote: u8,
    line_end: LineEnd,
    is_time: &'a dyn Fn(&str) -> bool,
}

impl Checks<'_> {
    fn all(&self, record: &Record<'_>) -> std::result::Result<(), String> {
        let (count, expected) = (record.fields.len(), self.layout.len());
        if count != expected {
            return Err(format!(
                "{count} fields instead of {expected}; quote a text that contains the delimiter"
            ));
        }
        if !record.has_line_end && !self.is_whole(record) {
            return Err(
                "the last row has no line end, so the file may be cut off; add a line end \
                        if the row is complete"
                    .to_owned(),
            );
        }
        if self.format.dialect.is_none() {
            self.has_one_reading(record)?;
        }
        self.contains_no_row(record)
    }

    /// Whether a row without a line end cannot have been cut off within its last field: the field
    /// is quoted, or a time that would not be plausible then.
    fn is_whole(&self, record: &Record<'_>) -> bool {
        let last = self.layout.len().saturating_sub(1);
        let Some(text) = record.fields.get(last) else { return false };
        let doubled = text.iter().filter(|byte| **byte == self.quote).count();
        let start = record.raw.len().checked_sub(text.len() + doubled + 2);
        let quoted = |start: usize| {
            let before = start.checked_sub(1).map(|before| record.raw[before]);
            record.raw[start] == self.quote
                && record.raw.ends_with(&[self.quote])
                && before.is_none_or(|before| before == self.delimiter)
        };
        let time = self.layout[last] == Some(Column::Time)
            && (text.iter().all(u8::is_ascii_digit) || text.ends_with(b"Z"));
        time || start.is_some_and(quoted)
    }

    /// Refuses a row that means something else if MySQL wrote it.
    fn has_one_reading(&self, record: &Record<'_>) -> std::result::Result<(), String> {
        let Record { raw, fields, .. } = record;
        let single_quoted =
            |text: &[u8]| text.len() > 1 && text[0] == b'\'' && text.ends_with(b"'");
        let quotes = self.format.quote.is_none()
            && self
                .found
                .iter()
                .flatten()
                .any(|index| fields.get(*index).is_some_and(single_quoted));
        if quotes {
            return Err(
                "a field is in single quotes; add --quote \"'\" if they enclose fields in \
                        this file, or --dialect csv if they belong to the text"
                    .to_owned(),
            );
        }
        let unusual = raw.contains(&b'\\')
            || fields.iter().any(|field| field == Some(b"NULL"))
            || (self.delimiter == b'\t' && raw.contains(&self.quote));
        if !unusual {
            return Ok(());
        }
        let quote = self.format.mysql_quote(self.delimiter);
        let Some(mysql) = as_mysql(raw, self.delimiter, quote, self.line_end) else {
            return Ok(());
        };
        let differs = |index: &&usize| mysql.get(**index) != fields.get(**index);
        match self.found.iter().flatten().find(differs).filter(|_| mysql.len() == fields.len()) {
            None => Ok(()),
            Some(_) => {
                Err("a field has a backslash, a quote or NULL with another meaning in files \
                            that MySQL writes; add --dialect mysql if this is such a file, or \
                            --dialect csv if it belongs to the text"
                    .to_owned())
            }
        }
    }

    /// Refuses a text over several lines that contains the end of one row and the start of the
    /// next: a stray quote has joined these rows.
    fn contains_no_row(&self, record: &Record<'_>) -> std::result::Result<(), String> {
        let end = if self.line_end == LineEnd::Cr { b'\r' } else { b'\n' };
        for index in 0..record.fields.len() {
            let Some(text) = record.fields.get(index).filter(|text| text.contains(&end)) else {
                continue;
            };
            let lines: Vec<&[u8]> = text.split(|byte| *byte == end).collect();
            let (before, after) = (&self.layout[..index], &self.layout[index + 1..]);
            let joined = lines.windows(2).any(|pair| {
                is_row_boundary((pair[0], after), (pair[1], before), self.delimiter, self.is_time)
            });
            if joined {
                return Err(
                    "a text contains what looks like further rows, so a quote is probably \
                            missing or too much; correct the quotes, or write the row as NDJSON \
                            if the text is right"
                        .to_owned(),
                );
            }
        }
        Ok(())
    }
}

/// The wanted fields as text.
fn row(
    fields: &Fields,
    found: &[Option<usize>],
    wanted: &[Column],
) -> std::result::Result<Row, String> {
    let mut row = Row::new();
    for (index, column) in found.iter().zip(wanted) {
        let field = index.and_then(|index| fields.get(index));
        let text = field
            .map(std::str::from_utf8)
            .transpose()
            .map_err(|error| format!("{}: {error}; convert the file to UTF-8", column.name()))?;
        row.push(text.map(str::to_owned));
    }
    Ok(row)
}
