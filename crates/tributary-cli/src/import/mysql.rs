//! Splits records that MySQL and MariaDB write with `INTO OUTFILE`, `mysqldump --tab` or `mysql
//! --batch`. CSV libraries cannot read them: a backslash escapes outside quotes too, and `\N` is
//! NULL.

use super::input::LineEnd;
use super::records::Fields;

/// Splits one record after another.
#[derive(Debug)]
pub(super) struct MySqlSplitter {
    delimiter: u8,
    /// `None` if fields are never quoted, so that a quote belongs to the text.
    quote: Option<u8>,
    line_end: LineEnd,
    state: State,
    /// The next byte is escaped.
    escaped: bool,
    /// The last byte of the field is a carriage return that was not escaped.
    after_cr: bool,
    /// Whether the current field was exactly `\N` so far.
    null: bool,
    /// Where the current field starts in the text of the record.
    start: usize,
    /// Bytes of the record so far, and of those before its last opening quote.
    bytes: usize,
    pub(super) opened_at: usize,
    /// Text follows a closing quote.
    pub(super) junk: bool,
    /// A backslash is before a byte that these programs do not escape.
    pub(super) foreign: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    Plain,
    Quoted,
    /// After a quote within a quoted field: it closes the field, or it is doubled.
    Closing,
}

impl MySqlSplitter {
    pub(super) fn new(delimiter: u8, quote: Option<u8>, line_end: LineEnd) -> Self {
        Self {
            delimiter,
            quote,
            line_end,
            state: State::Start,
            escaped: false,
            after_cr: false,
            null: false,
            start: 0,
            bytes: 0,
            opened_at: 0,
            junk: false,
            foreign: false,
        }
    }

    /// Forgets the record that was split last.
    pub(super) fn begin_record(&mut self) {
        *self = Self::new(self.delimiter, self.quote, self.line_end);
    }

    /// Splits the next part of a record. Returns the number of bytes up to the end of the record,
    /// or `None` if it continues.
    pub(super) fn split(&mut self, part: &[u8], fields: &mut Fields) -> Option<usize> {
        for (index, byte) in part.iter().enumerate() {
            self.bytes += 1;
            if self.take(*byte, fields) {
                return Some(index + 1);
            }
        }
        None
    }

    /// Takes one byte. Returns true if it ends the record.
    fn take(&mut self, byte: u8, fields: &mut Fields) -> bool {
        if self.escaped {
            self.take_escaped(byte, fields);
            return false;
        }
        let after_cr = std::mem::take(&mut self.after_cr);
        match self.state {
            State::Start if self.quote == Some(byte) => {
                self.state = State::Quoted;
                self.opened_at = self.bytes - 1;
            }
            State::Quoted if self.quote == Some(byte) => self.state = State::Closing,
            State::Closing if self.quote == Some(byte) => {
                self.state = State::Quoted;
                fields.push(byte);
            }
            State::Start | State::Plain | State::Closing if byte == self.delimiter => {
                self.junk |= self.state == State::Closing && after_cr;
                self.end_field(fields);
            }
            State::Start | State::Plain | State::Closing if self.ends_line(byte, after_cr) => {
                if after_cr {
                    fields.pop();
                }
                self.end_field(fields);
                return true;
            }
            State::Start | State::Plain | State::Quoted => {
                if self.state == State::Start {
                    self.state = State::Plain;
                }
                self.escaped = byte == b'\\';
                self.null = false;
                if !self.escaped {
                    self.after_cr = byte == b'\r' && self.state == State::Plain;
                    fields.push(byte);
                }
            }
            State::Closing => {
                self.after_cr = byte == b'\r' && self.line_end == LineEnd::CrLf;
                self.junk |= !self.after_cr || after_cr;
                fields.push(byte);
            }
        }
        false
    }

    fn ends_line(&self, byte: u8, after_cr: bool) -> bool {
        match self.line_end {
            LineEnd::Lf => byte == b'\n',
            LineEnd::CrLf => byte == b'\n' && after_cr,
            LineEnd::Cr => byte == b'\r',
        }
    }

    fn take_escaped(&mut self, byte: u8, fields: &mut Fields) {
        self.escaped = false;
        let meant = match byte {
            b'0' => 0,
            b'b' => 8,
            b't' => b'\t',
            b'n' => b'\n',
            b'r' => b'\r',
            b'Z' => 26,
            b'N' => {
                self.null = self.state == State::Plain && fields.text_len() == self.start;
                b'N'
            }
            b'\\' | b'"' | b'\'' | b'\t' | b'\r' | b'\n' => byte,
            _ => {
                self.foreign |= byte != self.delimiter && self.quote != Some(byte);
                byte
            }
        };
        fields.push(meant);
    }

    fn end_field(&mut self, fields: &mut Fields) {
        let quoted = self.state == State::Closing;
        let null = self.null || (!quoted && fields.text_from(self.start) == b"NULL");
        fields.end(null);
        self.start = fields.text_len();
        self.state = State::Start;
        self.null = false;
    }
}
