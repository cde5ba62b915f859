//! The bytes of a file: decompressed, converted to UTF-8, and cut at the ends of lines.

use std::fs::File;
use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result};

use flate2::read::MultiGzDecoder;
use indicatif::ProgressBar;

/// A longer line is returned in parts of this size. This bounds memory.
const PART_BYTES: u64 = 64 << 10;
/// Bytes that are read at a time.
const BUFFER_BYTES: usize = 64 << 10;

/// The lines of a file.
pub(super) struct Input {
    reader: Box<dyn BufRead>,
    line_end: LineEnd,
    part: Vec<u8>,
    /// The number of the line that `part` belongs to, from 1.
    line: u64,
    /// Whether `part` is the last part of its line.
    ended: bool,
}

/// How the first line of a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineEnd {
    Lf,
    CrLf,
    Cr,
}

impl Input {
    pub(super) fn open(file: File, bar: &ProgressBar) -> Result<Self> {
        Self::new(bar.wrap_read(file))
    }

    pub(super) fn new(file: impl Read + 'static) -> Result<Self> {
        let mut reader = in_utf8(decompressed(file)?)?;
        let line_end = first_line_end(reader.fill_buf()?);
        Ok(Self { reader, line_end, part: Vec::new(), line: 1, ended: false })
    }

    pub(super) fn line_end(&self) -> LineEnd {
        self.line_end
    }

    #[cfg(test)]
    pub(super) fn set_line_end(&mut self, line_end: LineEnd) {
        self.line_end = line_end;
    }

    /// The next part of the file: a line with its end, or at most [`PART_BYTES`] of it. `None` at
    /// the end of the file.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>> {
        let end = if self.line_end == LineEnd::Cr { b'\r' } else { b'\n' };
        self.part.clear();
        self.reader.as_mut().take(PART_BYTES).read_until(end, &mut self.part)?;
        if self.part.is_empty() {
            return Ok(None);
        }
        self.line += u64::from(self.ended);
        self.ended = self.part.last() == Some(&end);
        Ok(Some(&self.part))
    }

    /// The number of the line that the last part belongs to.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// Whether the last part was the last one of its line, with the line end.
    pub(super) fn line_ended(&self) -> bool {
        self.ended
    }

    /// The first line, as far as it has been read into the buffer.
    pub(super) fn peek_line(&mut self) -> Result<&[u8]> {
        let buffer = self.reader.fill_buf()?;
        Ok(buffer.split(|byte| [b'\r', b'\n'].contains(byte)).next().unwrap_or_default())
    }
}

/// The content of a file, decompressed if it is gzipped.
pub(super) fn decompressed(file: impl Read + 'static) -> Result<Box<dyn BufRead>> {
    const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
    let mut file = BufReader::with_capacity(BUFFER_BYTES, file);
    if file.fill_buf()?.starts_with(&GZIP_MAGIC) {
        let decoder = MultiGzDecoder::new(file);
        return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder)));
    }
    Ok(Box::new(file))
}

/// Removes a byte-order mark, and converts UTF-16 to UTF-8 if the mark says so.
fn in_utf8(mut file: Box<dyn BufRead>) -> Result<Box<dyn BufRead>> {
    let start = file.fill_buf()?;
    let (mark_bytes, unit): (usize, Option<UnitOf>) = match start {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => {
            return Err(invalid("the file is in UTF-32; convert it to UTF-8"));
        }
        [0xff, 0xfe, ..] => (2, Some(u16::from_le_bytes)),
        [0xfe, 0xff, ..] => (2, Some(u16::from_be_bytes)),
        [0xef, 0xbb, 0xbf, ..] => (3, None),
        _ => (0, None),
    };
    file.consume(mark_bytes);
    Ok(match unit {
        Some(unit) => {
            let utf8 = Utf16 { file, unit, high: None, text: Vec::new(), used: 0 };
            Box::new(BufReader::with_capacity(BUFFER_BYTES, utf8))
        }
        None => file,
    })
}

/// Makes a unit of UTF-16 from its two bytes.
type UnitOf = fn([u8; 2]) -> u16;

/// Converts UTF-16 to UTF-8. Unlike the usual converters it replaces nothing: a damaged character
/// is an error.
struct Utf16 {
    file: Box<dyn BufRead>,
    unit: UnitOf,
    /// The first half of a character whose second half is not read yet.
    high: Option<u16>,
    text: Vec<u8>,
    used: usize,
}

impl Utf16 {
    /// Converts the next bytes. Returns false at the end of the file.
    fn refill(&mut self) -> Result<bool> {
        let mut bytes = Vec::new();
        self.file.as_mut().take(BUFFER_BYTES as u64).read_to_end(&mut bytes)?;
        if bytes.is_empty() && self.high.is_none() {
            return Ok(false);
        }
        if bytes.len() % 2 == 1 || bytes.is_empty() {
            return Err(invalid("the file ends within a UTF-16 character, so it is cut off"));
        }
        let mut units: Vec<u16> = self.high.take().into_iter().collect();
        units.extend(bytes.chunks_exact(2).map(|pair| (self.unit)([pair[0], pair[1]])));
        self.high = units.pop_if(|unit| (0xd800..0xdc00).contains(unit));
        let text: String = char::decode_utf16(units)
            .collect::<std::result::Result<_, _>>()
            .map_err(|_| invalid("a character is not valid UTF-16; convert the file to UTF-8"))?;
        self.text = text.into_bytes();
        self.used = 0;
        Ok(true)
    }
}

impl Read for Utf16 {
    fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        while self.used == self.text.len() {
            if !self.refill()? {
                return Ok(0);
            }
        }
        let count = (&self.text[self.used..]).read(out)?;
        self.used += count;
        Ok(count)
    }
}

fn invalid(text: &str) -> Error {
    Error::new(ErrorKind::InvalidData, text)
}

fn first_line_end(start: &[u8]) -> LineEnd {
    match start.iter().position(|byte| [b'\r', b'\n'].contains(byte)) {
        Some(at) if start[at] == b'\r' => match start.get(at + 1) {
            Some(b'\n') | None => LineEnd::CrLf,
            Some(_) => LineEnd::Cr,
        },
        _ => LineEnd::Lf,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn lines(bytes: &[u8]) -> Result<Vec<(u64, String)>> {
        let mut input = Input::new(Cursor::new(bytes.to_vec()))?;
        let mut lines = Vec::new();
        while let Some(part) = input.next()? {
            let text = String::from_utf8_lossy(part).into_owned();
            lines.push((input.line(), text));
        }
        Ok(lines)
    }

    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        format!("\u{feff}{text}").encode_utf16().flat_map(bytes).collect()
    }

    #[test]
    fn lines_end_as_the_first_one_does() {
        let expected = |texts: &[&str]| -> Vec<(u64, String)> {
            (1..).zip(texts.iter().map(|text| (*text).to_owned())).collect()
        };
        for (text, pieces) in [
            ("a\n\nb", ["a\n", "\n", "b"]),
            ("a\r\n\r\nb\r", ["a\r\n", "\r\n", "b\r"]),
            ("a\r\rb", ["a\r", "\r", "b"]),
        ] {
            assert_eq!(lines(text.as_bytes()).unwrap(), expected(&pieces), "{text:?}");
        }
        assert_eq!(lines(b"").unwrap(), []);
    }

    #[test]
    fn a_long_line_is_returned_in_parts_with_one_number() {
        let mut bytes = vec![b'x'; 150_000];
        bytes.extend(b"\nend\n");
        let numbers: Vec<u64> = lines(&bytes).unwrap().iter().map(|(line, _)| *line).collect();
        assert_eq!(numbers, [1, 1, 1, 2]);
    }

    #[test]
    fn a_byte_order_mark_decides_the_encoding() {
        // Long enough that a character of two units lies across two reads.
        let text = format!("é{}\n", "🎉".repeat(40_000));
        for bytes in [
            utf16(&text, u16::to_le_bytes),
            utf16(&text, u16::to_be_bytes),
            format!("\u{feff}{text}").into_bytes(),
            text.clone().into_bytes(),
        ] {
            let read: Vec<u8> = {
                let mut input = Input::new(Cursor::new(bytes)).unwrap();
                let mut read = Vec::new();
                while let Some(part) = input.next().unwrap() {
                    read.extend(part);
                }
                read
            };
            assert_eq!(String::from_utf8(read).unwrap(), text);
        }
    }

    #[test]
    fn damaged_utf16_is_an_error_and_not_replaced() {
        let whole = utf16("a🎉", u16::to_le_bytes);
        for cut in 1..=3 {
            let result = lines(&whole[..whole.len() - cut]);
            assert!(result.unwrap_err().to_string().contains("cut off"), "{cut}");
        }
        let lone: Vec<u8> = [0xfeff, 0xdc00, 0x61].into_iter().flat_map(u16::to_le_bytes).collect();
        assert!(lines(&lone).unwrap_err().to_string().contains("not valid UTF-16"));
        assert!(lines(b"\xff\xfe\0\0a\0\0\0").unwrap_err().to_string().contains("UTF-32"));
    }
}
