//! The scripts and styles of the pages: embedded in the binary and compressed once. Their address
//! contains a hash of all of them, so browsers may keep them for a year.

use std::io::Write;
use std::sync::LazyLock;

use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use crate::error::ApiError;

const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! embedded {
    ($($name:literal: $kind:expr),* $(,)?) => {
        [$(Source { name: $name, kind: $kind,
            text: include_str!(concat!("../../assets/", $name)) }),*]
    };
}

/// The files. Scripts import each other by relative addresses.
static SOURCES: [Source; 13] = embedded! {
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "app.js": SCRIPT,
    "api.js": SCRIPT,
    "composer.js": SCRIPT,
    "controls.js": SCRIPT,
    "explain.js": SCRIPT,
    "feed.js": SCRIPT,
    "keys.js": SCRIPT,
    "live.js": SCRIPT,
    "page.js": SCRIPT,
    "respond.js": SCRIPT,
    "shards.js": SCRIPT,
};

struct Source {
    name: &'static str,
    kind: &'static str,
    text: &'static str,
}

/// The compressed form of each file, in the same order.
static COMPRESSED: LazyLock<Vec<Bytes>> = LazyLock::new(|| {
    SOURCES
        .iter()
        .map(|source| compressed(source.text).map(Bytes::from).unwrap_or_default())
        .collect()
});

/// The first half of a hash of all files, in hexadecimal digits.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    for source in &SOURCES {
        hash.update((source.text.len() as u64).to_le_bytes());
        hash.update(source.text);
    }
    hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
});

/// The version in the addresses of the files.
pub(super) fn version() -> &'static str {
    &VERSION
}

fn compressed(text: &str) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text.as_bytes())?;
    encoder.finish()
}

/// `GET /assets/{version}/{name}`: a file. A page of another version of the program gets 404 and
/// must be loaded again.
pub(super) async fn asset(
    path: Result<Path<(String, String)>, axum::extract::rejection::PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Path((version, name)) = path.map_err(|_| ApiError::NotFound)?;
    let found = SOURCES.iter().position(|source| source.name == name);
    let index = found.filter(|_| version == *VERSION).ok_or(ApiError::NotFound)?;
    let source = &SOURCES[index];
    let encodings = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    let gzip = encodings.is_some_and(|list| list.split(',').any(|one| one.trim() == "gzip"));
    let compressed = COMPRESSED.get(index).filter(|bytes| gzip && !bytes.is_empty());
    let body = match compressed {
        Some(bytes) => Body::from(bytes.clone()),
        None => Body::from(source.text),
    };
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(source.kind));
    let forever = HeaderValue::from_static("public, max-age=31536000, immutable");
    headers.insert(header::CACHE_CONTROL, forever);
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    if compressed.is_some() {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figure that the first view must stay below, with room for the page itself.
    const BYTES_MAX: usize = 60_000;

    #[test]
    fn all_files_together_are_small() {
        let bytes: usize = COMPRESSED.iter().map(Bytes::len).sum();
        assert!(COMPRESSED.iter().all(|bytes| !bytes.is_empty()));
        assert!(bytes < BYTES_MAX, "{bytes} bytes");
    }
}
