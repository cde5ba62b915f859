//! The events of a MySQL or MariaDB row log, as far as they stand alone. Pure.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::ZlibDecoder;

use super::bytes::Bytes;
use super::gtid::{MariaDbGtid, Origin};

/// The kinds of event that mean something here; the servers' own numbers.
pub(crate) mod kind {
    pub(crate) const QUERY: u8 = 2;
    pub(crate) const STOP: u8 = 3;
    pub(crate) const ROTATE: u8 = 4;
    pub(crate) const INTVAR: u8 = 5;
    pub(crate) const APPEND_BLOCK: u8 = 9;
    pub(crate) const RAND: u8 = 13;
    pub(crate) const USER_VAR: u8 = 14;
    pub(crate) const FORMAT: u8 = 15;
    pub(crate) const XID: u8 = 16;
    pub(crate) const BEGIN_LOAD: u8 = 17;
    pub(crate) const TABLE_MAP: u8 = 19;
    pub(crate) const WRITE_V1: u8 = 23;
    pub(crate) const UPDATE_V1: u8 = 24;
    pub(crate) const DELETE_V1: u8 = 25;
    pub(crate) const HEARTBEAT: u8 = 27;
    pub(crate) const IGNORABLE: u8 = 28;
    pub(crate) const ROWS_QUERY: u8 = 29;
    pub(crate) const WRITE: u8 = 30;
    pub(crate) const UPDATE: u8 = 31;
    pub(crate) const DELETE: u8 = 32;
    pub(crate) const GTID: u8 = 33;
    pub(crate) const ANONYMOUS_GTID: u8 = 34;
    pub(crate) const PREVIOUS_GTIDS: u8 = 35;
    pub(crate) const CONTEXT: u8 = 36;
    pub(crate) const VIEW_CHANGE: u8 = 37;
    pub(crate) const XA_PREPARE: u8 = 38;
    pub(crate) const PARTIAL_UPDATE: u8 = 39;
    pub(crate) const PAYLOAD: u8 = 40;
    pub(crate) const HEARTBEAT_V2: u8 = 41;
    pub(crate) const TAGGED_GTID: u8 = 42;
    pub(crate) const ANNOTATE: u8 = 160;
    pub(crate) const CHECKPOINT: u8 = 161;
    pub(crate) const MARIADB_GTID: u8 = 162;
    pub(crate) const GTID_LIST: u8 = 163;
    pub(crate) const ENCRYPTION: u8 = 164;
    pub(crate) const QUERY_COMPRESSED: u8 = 165;
    pub(crate) const WRITE_COMPRESSED_V1: u8 = 166;
    pub(crate) const UPDATE_COMPRESSED_V1: u8 = 167;
    pub(crate) const DELETE_COMPRESSED_V1: u8 = 168;
    pub(crate) const WRITE_COMPRESSED: u8 = 169;
    pub(crate) const UPDATE_COMPRESSED: u8 = 170;
    pub(crate) const DELETE_COMPRESSED: u8 = 171;
}

/// The event is made for this link and stands in no file.
pub(crate) const ARTIFICIAL: u16 = 0x20;
/// Whoever does not know the event may pass over it.
pub(crate) const IGNORABLE: u16 = 0x80;
/// A MariaDB transaction that is one statement, without an event that ends it.
pub(crate) const STANDALONE: u8 = 1;
/// Nothing that is packed is larger: the servers' own limit of an event.
const UNPACKED_MAX: u64 = 1 << 30;

/// An event: its header, and its body without the checksum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event<'a> {
    pub(crate) kind: u8,
    /// Seconds since 1970, when the statement began.
    pub(crate) time: u32,
    /// The server where it began.
    pub(crate) server: u32,
    /// The low half of the place behind it in its file.
    pub(crate) end: u32,
    pub(crate) flags: u16,
    pub(crate) data: &'a [u8],
}

/// A statement as text.
#[derive(Debug)]
pub(crate) struct Query<'a> {
    pub(crate) database: &'a [u8],
    pub(crate) text: Cow<'a, [u8]>,
}

/// The name of a transaction in two steps.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Xid {
    pub(crate) format: u32,
    pub(crate) global: Vec<u8>,
    pub(crate) branch: Vec<u8>,
}

/// Where the log goes on, and the name of the file.
pub(crate) fn rotate(data: &[u8]) -> Option<(u64, &str)> {
    let mut bytes = Bytes(data);
    let position = bytes.u64()?;
    Some((position, std::str::from_utf8(bytes.rest()).ok()?))
}

/// The name of a MySQL transaction, and when it was committed in microseconds since 1970.
pub(crate) fn mysql_gtid(event: &Event<'_>) -> Option<(Origin, u64, u64)> {
    if event.kind == kind::TAGGED_GTID {
        return tagged_gtid(event.data);
    }
    let mut bytes = Bytes(event.data);
    let _flags = bytes.byte()?;
    let uuid = bytes.take(16)?.try_into().ok()?;
    let number = bytes.u64()?;
    // A kind of clock, two of its values, and the time, without the bit that says more follows.
    let time = bytes.byte().filter(|clock| *clock == 2).and_then(|_| {
        bytes.take(16)?;
        Some(bytes.number(7)? & !(1 << 55))
    });
    Some((Origin { uuid, tag: String::new() }, number, time.unwrap_or(0)))
}

/// Numbered fields: 1 is the UUID, 2 the number, 3 the tag, 6 the time.
fn tagged_gtid(data: &[u8]) -> Option<(Origin, u64, u64)> {
    let mut bytes = Bytes(data);
    let (_version, _size, _last) = (bytes.varying()?, bytes.varying()?, bytes.varying()?);
    let mut origin = Origin::default();
    let (mut number, mut time) = (None, 0);
    while !bytes.is_empty() && time == 0 {
        match bytes.varying()? {
            1 => {
                for byte in &mut origin.uuid {
                    *byte = u8::try_from(bytes.varying()?).ok()?;
                }
            }
            // Signed, the sign in the lowest bit.
            2 => number = Some(bytes.varying()? >> 1),
            3 => {
                let len = usize::try_from(bytes.varying()?).ok()?;
                origin.tag = String::from_utf8(bytes.take(len)?.to_vec()).ok()?;
            }
            6 => time = bytes.varying()?,
            0 | 4 | 5 => drop(bytes.varying()?),
            _ => break,
        }
    }
    Some((origin, number?, time))
}

/// The name of a MariaDB transaction, and its flags.
pub(crate) fn mariadb_gtid(event: &Event<'_>) -> Option<(MariaDbGtid, u8)> {
    let mut bytes = Bytes(event.data);
    let (sequence, domain, flags) = (bytes.u64()?, bytes.u32()?, bytes.byte()?);
    Some((MariaDbGtid { domain, server: event.server, sequence }, flags))
}

/// The statement in the event.
pub(crate) fn query<'a>(event: &Event<'a>) -> Option<Query<'a>> {
    let mut bytes = Bytes(event.data);
    let _thread_and_time = bytes.u64()?;
    let database = usize::from(bytes.byte()?);
    let _error = bytes.u16()?;
    let variables = usize::from(bytes.u16()?);
    bytes.take(variables)?;
    let database = bytes.take(database)?;
    let _end = bytes.byte()?;
    let text = match event.kind {
        kind::QUERY_COMPRESSED => Cow::Owned(unpacked(bytes.rest())?),
        _ => Cow::Borrowed(bytes.rest()),
    };
    Some(Query { database, text })
}

/// Whether the transaction is committed by this at once, and its name.
pub(crate) fn xa_prepare(data: &[u8]) -> Option<(bool, Xid)> {
    let mut bytes = Bytes(data);
    let one_phase = bytes.byte()? != 0;
    let (format, global, branch) = (bytes.u32()?, bytes.u32()?, bytes.u32()?);
    let mut part = |len: u32| Some(bytes.take(usize::try_from(len).ok()?)?.to_vec());
    Some((one_phase, Xid { format, global: part(global)?, branch: part(branch)? }))
}

/// What MariaDB packed: a byte whose low three bits say how long the length is, the length with its
/// greatest byte first, and a zlib stream.
pub(crate) fn unpacked(data: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Bytes(data);
    let header = bytes.byte()?;
    let length = bytes.big_endian(usize::from(header & 7))?;
    if length > UNPACKED_MAX {
        return None;
    }
    let mut unpacked = Vec::new();
    ZlibDecoder::new(bytes.rest()).take(length + 1).read_to_end(&mut unpacked).ok()?;
    (u64::try_from(unpacked.len()) == Ok(length)).then_some(unpacked)
}
