//! Page cache hits: home timeline pages that are answered from the page cache, if nothing on them
//! has changed since. This runs before the router, because routing and its middleware cost more
//! than such an answer.

use axum::http::{Method, Request};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::Body;
use tributary::UserId;
use tributary::internal::SentPage;

use super::App;
use super::auth::{Action, Object, authorize};
use super::frame;
use super::query::freshness_of;
use super::timeline::page_response;

/// Longest user id in digits, apart from leading zeros.
const ID_DIGITS_MAX: usize = 20;

/// The cached page, if the request is authorized to read a home timeline and the page cache has a
/// current page for it. Else `None`: the routes answer, and they also report all errors.
pub(super) fn cached_feed<B: Body>(
    App { tributary, access, cursor_keys }: &App,
    request: &Request<B>,
) -> Option<Response<Bytes>> {
    let reader = reader_of(request)?;
    let principal = access.admit(request).ok()?;
    authorize(&principal, Action::ReadHome, Object::Of(reader)).ok()?;
    let at_least = freshness_of(request.headers(), cursor_keys).ok()?;
    let query = request.uri().query().unwrap_or_default();
    let (page, freshness) = SentPage::cached(tributary, reader, query, &at_least)?;
    let mut response = page_response(page, (&freshness, cursor_keys), true);
    frame::set_common_headers(response.headers_mut());
    Some(response)
}

/// The reader, if the request is a `GET` of a home timeline without a body.
fn reader_of<B: Body>(request: &Request<B>) -> Option<UserId> {
    if request.method() != Method::GET || !request.body().is_end_stream() {
        return None;
    }
    let id = request.uri().path().strip_prefix("/v1/users/")?.strip_suffix("/feed")?;
    // The routes report an address that is too long.
    Some(id).filter(|id| id.len() <= ID_DIGITS_MAX).and_then(|id| id.parse().ok())
}

#[cfg(test)]
mod tests {
    use http_body_util::{Empty, Full};

    use super::*;

    #[test]
    fn only_home_timelines_can_be_cached_pages() {
        let reader = |uri: &str| {
            reader_of(&Request::get(uri).body(Empty::<Bytes>::new()).unwrap())
                .map(|user| user.get())
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
