//! The fastest server there can be on our HTTP library: one body, whatever is asked, and none of our
//! layers. What a real server reaches of it is the ratio that counts.

use std::net::SocketAddr;

use axum::Router;
use axum::body::Bytes;
use axum::http::header;
use axum::serve::{Listener, ListenerExt};
use serde_json::json;
use tokio::net::TcpListener;

/// A page below this size has no posts.
const EMPTY_BELOW: usize = 2_500;

/// A page of so many bytes, about: twenty posts, as ours are written, or none.
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

/// What a poll finds when there is nothing new.
fn empty_page(bytes: usize) -> Bytes {
    let build = |next: &str| {
        json!({ "posts": [], "next": next, "prev": "y".repeat(38), "complete": true,
                "missing_shards": [], "stale_shards": [] })
        .to_string()
    };
    Bytes::from(build(&"x".repeat(bytes.saturating_sub(build("").len()))))
}

/// A constant page at every address of `listener`, until the process ends.
pub(crate) async fn serve(listener: TcpListener, bytes: usize) -> std::io::Result<()> {
    let body = page(bytes);
    let answer = async move || ([(header::CONTENT_TYPE, "application/json")], body.clone());
    let router = Router::new().fallback(answer);
    // A connection that cannot be told so is as good, only slower.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    axum::serve(listener, router).await
}

/// Where it listens.
pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let address = Listener::local_addr(&listener)?;
    Ok((listener, address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::page::{cursor, read_page};

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
