//! A server that answers every request with one constant body, on axum and without our layers. A
//! request with `If-None-Match` is answered 304.
//!
//! Its throughput is the upper bound of any server on this HTTP library. `bench ratio` compares a
//! real server with it.

use std::net::SocketAddr;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::serve::{Listener, ListenerExt};
use serde_json::json;
use tokio::net::TcpListener;

/// A smaller page, in bytes, has no posts.
const EMPTY_BELOW: usize = 2_500;

/// A page of 20 posts in the server's JSON format, up to 40 bytes shorter than `bytes`. Below
/// [`EMPTY_BELOW`] it has no posts.
fn page(bytes: usize) -> Bytes {
    if bytes < EMPTY_BELOW {
        return empty_page(bytes);
    }
    let build = |text: &str| {
        let post = |id: u32| {
            let time = "2025-01-01T00:00:00.000Z";
            json!({ "post_id": format!("{:019}", id), "author_id": "12345", "content": text,
                    "created_at": time })
        };
        let posts: Vec<_> = (0..20).map(post).collect();
        let page = json!({ "posts": posts, "next": "x".repeat(38), "prev": "y".repeat(38),
                           "complete": true, "missing_shards": [], "stale_shards": [] });
        page.to_string()
    };
    let text = "t".repeat(bytes.saturating_sub(build("").len()) / 20);
    Bytes::from(build(&text))
}

/// The page of a poll that finds nothing, of exactly `bytes` bytes.
fn empty_page(bytes: usize) -> Bytes {
    let build = |next: &str| {
        json!({ "posts": [], "next": next, "prev": "y".repeat(38), "complete": true,
                "missing_shards": [], "stale_shards": [] })
        .to_string()
    };
    Bytes::from(build(&"x".repeat(bytes.saturating_sub(build("").len()))))
}

/// Serves a constant page at every path, until the process ends.
///
/// # Errors
/// If the listener fails.
pub async fn serve(listener: TcpListener, bytes: usize) -> std::io::Result<()> {
    let body = page(bytes);
    let respond = async move |headers: HeaderMap| match headers.contains_key(header::IF_NONE_MATCH)
    {
        true => (StatusCode::NOT_MODIFIED, [(header::ETAG, "W/\"0\"")]).into_response(),
        false => ([(header::CONTENT_TYPE, "application/json")], body.clone()).into_response(),
    };
    let router = Router::new().fallback(respond);
    // If TCP_NODELAY cannot be set, the connection works, only slower.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    axum::serve(listener, router).await
}

/// Binds the address; also returns the actual address, with its port.
///
/// # Errors
/// If the address cannot be bound.
pub async fn bind(address: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let address = Listener::local_addr(&listener)?;
    Ok((listener, address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::cursor;
    use crate::page::read_page;

    #[test]
    fn the_constant_page_has_the_requested_size_and_parses() {
        let body = page(4_600);
        assert!((4_560..=4_600).contains(&body.len()), "{}", body.len());
        assert_eq!(read_page(&body).unwrap().0.posts.len(), 20);
        assert!(cursor(&body, "prev").is_some());
        let empty = page(200);
        assert_eq!((empty.len(), read_page(&empty).unwrap().0.posts.len()), (200, 0));
        assert!(cursor(&empty, "prev").is_some());
    }
}
