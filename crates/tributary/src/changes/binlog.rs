//! Decodes those events of a MySQL or MariaDB row log that need no context. Pure.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::ZlibDecoder;

use super::bytes::Bytes;
use super::gtid::{MariaDbGtid, Origin};

/// Event types, by the numbers that the servers use.
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
    pub(crate) const EXECUTE_LOAD: u8 = 18;
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

/// Header flag: the event was made for this connection and is in no log file.
pub(crate) const ARTIFICIAL: u16 = 0x20;
/// Header flag: a reader that does not know the event type may skip the event.
pub(crate) const IGNORABLE: u16 = 0x80;
/// Flag of a MariaDB GTID: the transaction is one statement, and no event of its own ends it.
pub(crate) const STANDALONE: u8 = 1;
/// Largest size of compressed data after unpacking, in bytes. Larger data is not decoded.
const UNPACKED_MAX: u64 = 64 << 20;

/// An event: its header fields, and its body without the checksum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event<'a> {
    pub(crate) kind: u8,
    /// When the statement began, in seconds since 1970.
    pub(crate) time: u32,
    /// The id of the server where the event originated.
    pub(crate) server: u32,
    /// The low 32 bits of the offset where the event ends in its file.
    pub(crate) end: u32,
    pub(crate) flags: u16,
    pub(crate) data: &'a [u8],
}

/// A statement that is logged as text, and the default database of its session.
#[derive(Debug)]
pub(crate) struct Query<'a> {
    pub(crate) database: &'a [u8],
    pub(crate) text: Cow<'a, [u8]>,
}

/// The id of an XA transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Xid {
    pub(crate) format: u32,
    pub(crate) global: Vec<u8>,
    pub(crate) branch: Vec<u8>,
}

/// Decodes a rotate event: the offset where the log continues, and the name of that file.
pub(crate) fn rotate(data: &[u8]) -> Option<(u64, &str)> {
    let mut bytes = Bytes(data);
    let position = bytes.u64()?;
    Some((position, std::str::from_utf8(bytes.rest()).ok()?))
}

/// Decodes a MySQL GTID: the origin and the number.
pub(crate) fn mysql_gtid(event: &Event<'_>) -> Option<(Origin, u64)> {
    if event.kind == kind::TAGGED_GTID {
        return tagged_gtid(event.data);
    }
    let mut bytes = Bytes(event.data);
    let _flags = bytes.byte()?;
    let uuid = bytes.take(16)?.try_into().ok()?;
    Some((Origin { uuid, tag: String::new() }, bytes.u64()?))
}

/// The logged size of a MySQL transaction in bytes, if its GTID has it. Only servers that can
/// compress a transaction log its size.
pub(crate) fn transaction_bytes(event: &Event<'_>) -> Option<u64> {
    let mut bytes = Bytes(event.data);
    if event.kind == kind::TAGGED_GTID {
        return tagged_transaction_bytes(bytes);
    }
    let _flags_origin_number_clock = bytes.take(1 + 16 + 8 + 1 + 16)?;
    let committed = bytes.number(7)?;
    if committed & (1 << 55) != 0 {
        let _committed_at_origin = bytes.take(7)?;
    }
    u64::try_from(bytes.length()?).ok()
}

/// In a tagged GTID, field 8 is the size. The fields before it are numbers, except the tag.
fn tagged_transaction_bytes(mut bytes: Bytes<'_>) -> Option<u64> {
    let (_version, _size, _last) = (bytes.varying()?, bytes.varying()?, bytes.varying()?);
    loop {
        match bytes.varying()? {
            1 => {
                for _ in 0..16 {
                    bytes.varying()?;
                }
            }
            3 => {
                let len = usize::try_from(bytes.varying()?).ok()?;
                bytes.take(len)?;
            }
            0 | 2 | 4..=7 => drop(bytes.varying()?),
            8 => return bytes.varying(),
            _ => return None,
        }
    }
}

/// Decodes a tagged GTID. Its fields are numbered and rise: 1 is the UUID, 2 the number, 3 the tag.
fn tagged_gtid(data: &[u8]) -> Option<(Origin, u64)> {
    let mut bytes = Bytes(data);
    let (_version, _size, _last) = (bytes.varying()?, bytes.varying()?, bytes.varying()?);
    let mut origin = Origin::default();
    let mut number = None;
    while !bytes.is_empty() {
        match bytes.varying()? {
            1 => {
                for byte in &mut origin.uuid {
                    *byte = u8::try_from(bytes.varying()?).ok()?;
                }
            }
            // A signed number with its sign in the lowest bit.
            2 => number = Some(bytes.varying()? >> 1),
            3 => {
                let len = usize::try_from(bytes.varying()?).ok()?;
                origin.tag = String::from_utf8(bytes.take(len)?.to_vec()).ok()?;
            }
            0 => drop(bytes.varying()?),
            _ => break,
        }
    }
    Some((origin, number?))
}

/// Decodes a MariaDB GTID, and its flags.
pub(crate) fn mariadb_gtid(event: &Event<'_>) -> Option<(MariaDbGtid, u8)> {
    let mut bytes = Bytes(event.data);
    let (sequence, domain, flags) = (bytes.u64()?, bytes.u32()?, bytes.byte()?);
    Some((MariaDbGtid { domain, server: event.server, sequence }, flags))
}

/// Decodes a query event, compressed or not, or that of LOAD DATA.
pub(crate) fn query<'a>(event: &Event<'a>) -> Option<Query<'a>> {
    let mut bytes = Bytes(event.data);
    let _thread_and_time = bytes.u64()?;
    let database = usize::from(bytes.byte()?);
    let _error = bytes.u16()?;
    let variables = usize::from(bytes.u16()?);
    if event.kind == kind::EXECUTE_LOAD {
        // The number of the loaded file, and where its name is in the text.
        bytes.take(13)?;
    }
    bytes.take(variables)?;
    let database = bytes.take(database)?;
    let _end = bytes.byte()?;
    let text = match event.kind {
        kind::QUERY_COMPRESSED => Cow::Owned(unpacked(bytes.rest())?),
        _ => Cow::Borrowed(bytes.rest()),
    };
    Some(Query { database, text })
}

/// Decodes an XA prepare event: whether the event commits the transaction in one phase, and its
/// id.
pub(crate) fn xa_prepare(data: &[u8]) -> Option<(bool, Xid)> {
    let mut bytes = Bytes(data);
    let one_phase = bytes.byte()? != 0;
    let (format, global, branch) = (bytes.u32()?, bytes.u32()?, bytes.u32()?);
    let mut part = |len: u32| Some(bytes.take(usize::try_from(len).ok()?)?.to_vec());
    Some((one_phase, Xid { format, global: part(global)?, branch: part(branch)? }))
}

/// Unpacks data that MariaDB compressed. The low three bits of the first byte are the number of
/// bytes of the length. The big-endian length and a zlib stream follow.
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
