//! A page of a home timeline, answered as it was sent last while nothing has changed. It stands before
//! the routes: what they do around every request costs more than this answer.

use axum::http::{Method, Request};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::Body;

use super::frame::{self, Hosts};
use super::query::freshness_of;
use super::timeline::answer;
use crate::Tributary;
use crate::model::{UserId, parse_id};

/// No id has more, but for zeros in front.
const ID_DIGITS_MAX: usize = 20;

/// The answer, if this is a request for such a page and there is one. All others, wrong ones too,
/// are for the routes.
pub(super) fn kept_feed<B: Body>(
    tributary: &Tributary,
    hosts: &Hosts,
    request: &Request<B>,
) -> Option<Response<Bytes>> {
    let reader = reader_of(request)?;
    if !hosts.include(request) {
        return None;
    }
    let at_least = freshness_of(request.headers()).ok()?;
    let query = request.uri().query().unwrap_or_default();
    let (page, freshness) = tributary.cached_page(reader, query, &at_least)?;
    let mut response = answer(page.sent.clone(), &freshness, true);
    frame::seal(response.headers_mut());
    Some(response)
}

/// Whose home timeline is asked for, if one is.
fn reader_of<B: Body>(request: &Request<B>) -> Option<UserId> {
    if request.method() != Method::GET || !request.body().is_end_stream() {
        return None;
    }
    let id = request.uri().path().strip_prefix("/v1/users/")?.strip_suffix("/feed")?;
    // Whether an address is too long is for the routes to say.
    Some(id).filter(|id| id.len() <= ID_DIGITS_MAX).and_then(parse_id).map(UserId)
}

#[cfg(test)]
mod tests {
    use http_body_util::{Empty, Full};

    use super::*;

    #[test]
    fn only_home_timelines_are_answered_before_the_routes() {
        let reader = |uri: &str| {
            reader_of(&Request::get(uri).body(Empty::<Bytes>::new()).unwrap()).map(|user| user.0)
        };
        assert_eq!(reader("/v1/users/7/feed"), Some(7));
        assert_eq!(reader("/v1/users/7/feed?limit=50"), Some(7));
        for other in [
            "/v1/users/7/feed/",
            "/v1/users/000000000000000000007/feed",
            "/v1/users/7/posts",
            "/v1/users//feed",
            "/v1/users/7/8/feed",
            "/v1/users/%37/feed",
            "/user/feed/7",
        ] {
            assert_eq!(reader(other), None, "{other}");
        }
        let with_body = Request::get("/v1/users/7/feed").body(Full::new(Bytes::from("x"))).unwrap();
        assert_eq!(reader_of(&with_body), None);
        let post = Request::post("/v1/users/7/feed").body(Empty::<Bytes>::new()).unwrap();
        assert_eq!(reader_of(&post), None);
    }
}
