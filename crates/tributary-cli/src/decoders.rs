//! One entry for each decoder of files and arguments that users write. Fuzz targets and a test call
//! them with arbitrary bytes.

use crate::dsn;
pub use crate::import::decoders::{csv, mastodon, ndjson};

/// A DSN.
pub fn dsn(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = dsn::parse(text);
    }
}
