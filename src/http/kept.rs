//! The newest page of a home timeline, answered as it was sent last while nothing on it has changed.
//! It stands before the routes: what they do around every request costs more than this answer.

use axum::http::{Method, Request};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::Body;

use super::frame::{self, Hosts};
use super::query::freshness_of;
use super::timeline::answer;
use crate::Tributary;
use crate::model::{UserId, parse_id};
use crate::timeline::Limit;

/// The answer, if this is a request for such a page and there is one. All others, wrong ones too,
/// are for the routes.
pub(super) fn kept_feed<B: Body>(
    tributary: &Tributary,
    hosts: &Hosts,
    request: &Request<B>,
) -> Option<Response<Bytes>> {
    let (reader, limit) = newest_page_of(request)?;
    if !hosts.include(request) {
        return None;
    }
    let at_least = freshness_of(request.headers()).ok()?;
    let (page, freshness) = tributary.kept_page(reader, limit, &at_least)?;
    let mut response = answer(page.sent.clone(), &freshness, true);
    frame::seal(response.headers_mut());
    Some(response)
}

/// Whose newest page is asked for, if one is and nothing else.
fn newest_page_of<B: Body>(request: &Request<B>) -> Option<(UserId, Limit)> {
    if request.method() != Method::GET || !request.body().is_end_stream() {
        return None;
    }
    let id = request.uri().path().strip_prefix("/v1/users/")?.strip_suffix("/feed")?;
    let limit = match request.uri().query() {
        None => Limit::DEFAULT,
        Some(query) => Limit::parse(query.strip_prefix("limit=")?)?,
    };
    Some((UserId(parse_id(id)?), limit))
}

#[cfg(test)]
mod tests {
    use http_body_util::{Empty, Full};

    use super::*;

    #[test]
    fn only_newest_pages_are_answered_before_the_routes() {
        let page = |uri: &str| {
            newest_page_of(&Request::get(uri).body(Empty::<Bytes>::new()).unwrap())
                .map(|(user, limit)| (user.0, limit.get()))
        };
        assert_eq!(page("/v1/users/7/feed"), Some((7, 20)));
        assert_eq!(page("/v1/users/7/feed?limit=50"), Some((7, 50)));
        for other in [
            "/v1/users/7/feed?limit=0",
            "/v1/users/7/feed?limit=20&cursor=x",
            "/v1/users/7/feed?",
            "/v1/users/7/feed/",
            "/v1/users/7/posts",
            "/v1/users//feed",
            "/v1/users/7/8/feed",
            "/v1/users/%37/feed",
            "/user/feed/7",
        ] {
            assert_eq!(page(other), None, "{other}");
        }
        let with_body = Request::get("/v1/users/7/feed").body(Full::new(Bytes::from("x"))).unwrap();
        assert_eq!(newest_page_of(&with_body), None);
        let post = Request::post("/v1/users/7/feed").body(Empty::<Bytes>::new()).unwrap();
        assert_eq!(newest_page_of(&post), None);
    }
}
