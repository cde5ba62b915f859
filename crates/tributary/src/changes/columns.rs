//! Decodes the columns of a row in a log: the length of each value, and the values of the needed
//! types. Pure.

use jiff::Timestamp;
use jiff::tz::Offset;

use super::bytes::{Bytes, bit};
use super::metadata::{Class, LoggedColumn, logged_columns};
use crate::moment::CalendarTime;

/// The largest number of columns of a table that is decoded: at least that of any server (4,096).
const COLUMNS_MAX: usize = 4_096;
/// The type number of a JSON column.
const JSON: u8 = 245;

/// How the log stores the values of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ColumnFormat {
    /// An integer of this many bytes. The log does not contain whether it is signed.
    Integer(usize),
    /// Text or bytes that follow their length. The length takes this many bytes.
    Text(usize),
    /// The number of an ENUM label, in this many bytes.
    Label(usize),
    /// The labels of a SET as bits, in this many bytes.
    Set(usize),
    /// Bits in this many bytes, big-endian.
    Bits(usize),
    /// A date and time, with a fraction of this many bytes.
    DateTime(usize),
    /// Seconds since 1970, with a fraction of this many bytes.
    Timestamp(usize),
    /// A value of a type that is not decoded. It takes this many bytes.
    Fixed(usize),
    /// A value of a type that is not decoded. It follows its length, which takes this many bytes.
    Prefixed(usize),
}

/// The value of a column in one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell<'a> {
    /// The row image in the log does not contain the column.
    Absent,
    Null,
    Integer {
        /// The value read as an unsigned number.
        bits: u64,
        bytes: usize,
    },
    Text(&'a [u8]),
    /// The number of an ENUM label, from 1 on. 0 is an invalid value.
    Label(u64),
    /// The labels of a SET: bit 0 is the first label.
    Set(u64),
    Bits(u64),
    /// In the form of post keys: [`CalendarTime::packed`].
    DateTime(i64),
    /// A value of a type that is not decoded.
    Other,
}

/// A table as the log announces it (table map event).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TableMap {
    pub(crate) columns: Vec<ColumnFormat>,
    /// The number of JSON columns.
    pub(crate) json_columns: usize,
    /// The properties of each column that the server logs.
    pub(crate) logged: Vec<LoggedColumn>,
}

/// The number that the log uses for the table, the name of its database, and its own name.
pub(crate) fn table_name(data: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let (number, database, table, _) = table_head(data)?;
    Some((number, database, table))
}

fn table_head(data: &[u8]) -> Option<(u64, &[u8], &[u8], Bytes<'_>)> {
    let mut bytes = Bytes(data);
    let number = bytes.number(6)?;
    let _flags = bytes.u16()?;
    let database = bytes.prefixed(1)?;
    let _end = bytes.byte()?;
    let table = bytes.prefixed(1)?;
    let _end = bytes.byte()?;
    Some((number, database, table, bytes))
}

/// The columns of an announced table, or `None` if one of them has a type of unknown length.
pub(crate) fn table_map(data: &[u8]) -> Option<TableMap> {
    let (_, _, _, mut bytes) = table_head(data)?;
    let count = bytes.length().filter(|count| *count <= COLUMNS_MAX)?;
    let kinds = bytes.take(count)?;
    let details = bytes.length()?;
    let mut details = Bytes(bytes.take(details)?);
    let columns: Option<Vec<ColumnFormat>> =
        kinds.iter().map(|kind| column_format(*kind, &mut details)).collect();
    let columns = columns.filter(|_| details.is_empty())?;
    let _nullable = bytes.take(count.div_ceil(8))?;
    let classes: Vec<Class> = kinds.iter().zip(&columns).map(class).collect();
    let json_columns = kinds.iter().filter(|kind| **kind == JSON).count();
    Some(TableMap { logged: logged_columns(bytes, &classes)?, json_columns, columns })
}

/// The class of a column, by its type and its format.
fn class((kind, format): (&u8, &ColumnFormat)) -> Class {
    match (kind, format) {
        // Integers, FLOAT, DOUBLE and DECIMAL.
        (1..=5 | 8 | 9 | 246, _) => Class::Number,
        // YEAR, the compressed types of MariaDB, and GEOMETRY.
        (13 | 140 | 141 | 255, _) => Class::Ambiguous,
        (_, ColumnFormat::Label(_)) => Class::Enum,
        (15 | 249..=254, ColumnFormat::Text(_)) => Class::Text,
        _ => Class::Other,
    }
}

/// The format of a column of type `kind`. Consumes the metadata of the column from `details`.
fn column_format(kind: u8, details: &mut Bytes<'_>) -> Option<ColumnFormat> {
    let fraction = |digits: u8| usize::from(digits.min(6)).div_ceil(2);
    Some(match kind {
        1 => ColumnFormat::Integer(1),
        2 => ColumnFormat::Integer(2),
        9 => ColumnFormat::Integer(3),
        3 => ColumnFormat::Integer(4),
        8 => ColumnFormat::Integer(8),
        // NULL, YEAR, DATE, TIME, and the formats of TIMESTAMP and DATETIME before MySQL 5.6.
        6 => ColumnFormat::Fixed(0),
        13 => ColumnFormat::Fixed(1),
        10 | 11 | 14 => ColumnFormat::Fixed(3),
        7 => ColumnFormat::Fixed(4),
        12 => ColumnFormat::Fixed(8),
        // FLOAT and DOUBLE have their length as metadata.
        4 | 5 => ColumnFormat::Fixed(usize::from(details.byte()?)),
        17 => ColumnFormat::Timestamp(fraction(details.byte()?)),
        18 => ColumnFormat::DateTime(fraction(details.byte()?)),
        19 => ColumnFormat::Fixed(3 + fraction(details.byte()?)),
        15 | 253 => ColumnFormat::Text(varchar_length_bytes(usize::from(details.u16()?))),
        // MariaDB's compressed VARCHAR.
        141 => ColumnFormat::Prefixed(varchar_length_bytes(usize::from(details.u16()?))),
        16 => {
            let (bits, bytes) = (details.byte()?, details.byte()?);
            ColumnFormat::Bits(usize::from(bytes) + usize::from(bits > 0))
        }
        246 => decimal(details.byte()?, details.byte()?)?,
        247 => labels(details.u16()?.to_be_bytes()),
        248 => set(details.u16()? >> 8),
        254 => string(details.byte()?, details.byte()?),
        // TINYBLOB to LONGBLOB. The log uses the type BLOB for all of them.
        249..=252 => ColumnFormat::Text(blob_length_bytes(details.byte()?)?),
        // MariaDB's compressed BLOB, VECTOR, JSON, GEOMETRY.
        140 | 242 | JSON | 255 => ColumnFormat::Prefixed(blob_length_bytes(details.byte()?)?),
        _ => return None,
    })
}

fn blob_length_bytes(length: u8) -> Option<usize> {
    (1..=4).contains(&length).then_some(usize::from(length))
}

fn varchar_length_bytes(length_max: usize) -> usize {
    if length_max < 256 { 1 } else { 2 }
}

fn labels([bytes, _]: [u8; 2]) -> ColumnFormat {
    ColumnFormat::Label(usize::from(bytes.clamp(1, 2)))
}

fn set(bytes: u16) -> ColumnFormat {
    ColumnFormat::Set(usize::from(bytes.clamp(1, 8)))
}

/// The format of CHAR, ENUM or SET. For CHAR, two inverted bits of the first byte are the high
/// bits of the maximum length.
fn string(first: u8, second: u8) -> ColumnFormat {
    match first {
        247 => ColumnFormat::Label(usize::from(second.clamp(1, 2))),
        248 => set(second.into()),
        _ => {
            let high = usize::from((first & 0x30) ^ 0x30) << 4;
            ColumnFormat::Text(varchar_length_bytes(high | usize::from(second)))
        }
    }
}

/// The format of DECIMAL. Nine digits take four bytes; the remaining digits take up to four.
fn decimal(precision: u8, scale: u8) -> Option<ColumnFormat> {
    const LEFT: [usize; 9] = [0, 1, 1, 2, 2, 3, 3, 4, 4];
    let whole = usize::from(precision.checked_sub(scale)?);
    let scale = usize::from(scale);
    let bytes = |digits: usize| Some(digits / 9 * 4 + LEFT.get(digits % 9)?);
    Some(ColumnFormat::Fixed(bytes(whole)? + bytes(scale)?))
}

impl ColumnFormat {
    /// Reads the next value.
    #[inline]
    pub(crate) fn cell<'a>(self, bytes: &mut Bytes<'a>) -> Option<Cell<'a>> {
        Some(match self {
            Self::Integer(len) => Cell::Integer { bits: bytes.number(len)?, bytes: len },
            Self::Text(len) => Cell::Text(bytes.prefixed(len)?),
            Self::Label(len) => Cell::Label(bytes.number(len)?),
            Self::Set(len) => Cell::Set(bytes.number(len)?),
            Self::Bits(len) => Cell::Bits(bytes.big_endian(len)?),
            Self::DateTime(fraction) => {
                let whole = i64::try_from(bytes.big_endian(5)?).ok()? - 0x80_0000_0000;
                Cell::DateTime((whole << 24) + micros(bytes, fraction)?)
            }
            Self::Timestamp(fraction) => {
                let seconds = i64::try_from(bytes.big_endian(4)?).ok()?;
                Cell::DateTime(calendar(seconds, micros(bytes, fraction)?))
            }
            Self::Fixed(len) => {
                bytes.take(len)?;
                Cell::Other
            }
            Self::Prefixed(len) => {
                bytes.prefixed(len)?;
                Cell::Other
            }
        })
    }
}

fn micros(bytes: &mut Bytes<'_>, len: usize) -> Option<i64> {
    let stored = i64::try_from(bytes.big_endian(len)?).ok()?;
    Some(stored * [0, 10_000, 100, 1].get(len)?)
}

/// A moment as a packed date and time in UTC. The moment 0 becomes `0000-00-00 00:00:00`.
fn calendar(seconds: i64, micros: i64) -> i64 {
    if seconds == 0 && micros == 0 {
        return 0;
    }
    let Ok(moment) = Timestamp::from_second(seconds) else { return 0 };
    let civil = Offset::UTC.to_datetime(moment);
    let part = |value: i8| u8::try_from(value).unwrap_or(0);
    let time = CalendarTime {
        year: u16::try_from(civil.year()).unwrap_or(0),
        month: part(civil.month()),
        day: part(civil.day()),
        hour: part(civil.hour()),
        minute: part(civil.minute()),
        second: part(civil.second()),
        micros: u32::try_from(micros).unwrap_or(0),
    };
    time.packed()
}

impl Cell<'_> {
    /// The value of an integer column, read as unsigned or signed.
    pub(crate) fn integer(self, unsigned: bool) -> Option<i128> {
        let Self::Integer { bits, bytes } = self else { return None };
        let spare = 64 - 8 * u32::try_from(bytes).ok()?;
        if unsigned {
            return Some(i128::from(bits));
        }
        Some(i128::from((bits << spare).cast_signed() >> spare))
    }
}

/// Reads one image of a row. `present` marks the columns that the image contains, `present_count`
/// of them. Calls `keep` with each value and the index of its column.
pub(crate) fn image<'a>(
    bytes: &mut Bytes<'a>,
    columns: &[ColumnFormat],
    present: &[u8],
    present_count: usize,
    mut keep: impl FnMut(usize, Cell<'a>),
) -> Option<()> {
    let nulls = bytes.take(present_count.div_ceil(8))?;
    let mut nth = 0;
    for (index, column) in columns.iter().enumerate() {
        if !bit(present, index) {
            continue;
        }
        let cell = if bit(nulls, nth) { Cell::Null } else { column.cell(bytes)? };
        nth += 1;
        keep(index, cell);
    }
    Some(())
}
