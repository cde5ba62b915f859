//! Home timeline pages that memory answers: from the page cache, or built from the posts in memory.
//! This runs before the router, because routing and its middleware cost more than such an answer.

use std::net::IpAddr;
use std::time::Instant;

use axum::http::{HeaderValue, Method, Request, header};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::Body;
use tributary::internal::{Draft, SentPage};
use tributary::{Cursor, Freshness, Limit, PageRequest, Tributary, UserId};

use super::App;
use super::auth::{Action, CursorKeys, Object, Purpose, authorize};
use super::conditional::Tag;
use super::frame::{self, SERVER_TIMING, URI_BYTES_MAX, uri_bytes};
use super::limits::{Cost, CurrentLimiter};
use super::observe::PageKind;
use super::query::{INCLUDE_SELF, freshness_of};
use super::timeline::{known_response, page_response, render_home};

/// Longest user id in digits, apart from leading zeros.
const ID_DIGITS_MAX: usize = 20;
/// Parameters of a query that are compared with each other; the routes check longer queries.
const PARAMETERS_MAX: usize = 8;

/// The page and its kind, if the request is authorized to read a home timeline, its client has not
/// reached a limit, and memory has all of the page. A page from the page cache has no kind. Else
/// `None`: the routes answer, and they also report all errors.
pub(super) fn feed_from_memory<B: Body>(
    App { tributary, access, cursor_keys: keys, limiter, .. }: &App,
    request: &Request<B>,
    (peer, arrived): (IpAddr, Instant),
) -> Option<(Response<Bytes>, Option<PageKind>)> {
    let reader = reader_of(request)?;
    let FeedQuery { cursor: sealed, limit: posts, include_self } =
        query_of(request.uri().query().unwrap_or_default())?;
    let query = (sealed, posts, include_self);
    let principal = access.admit(request).ok()?;
    authorize(&principal, Action::ReadHome, Object::Of(reader)).ok()?;
    let at_least = freshness_of(request.headers(), keys).ok()?;
    let limiter = limiter.as_ref().map(CurrentLimiter::get);
    let clients = limiter
        .as_deref()
        .map(|limiter| (limiter, limiter.clients(&principal, Some(peer), request.headers())));
    let mut kind = None;
    let is_spent = || clients.is_some_and(|(limiter, of)| limiter.is_spent(of, arrived));
    let cached = SentPage::cached(tributary, reader, query, (&at_least, arrived));
    let (mut response, cost) = match cached {
        Some((page, freshness)) => {
            let response = respond(request, page.tag, (&freshness, keys), || page.clone());
            (response, Cost::default())
        }
        None if is_spent() => return None,
        None => {
            let has_token = !at_least.is_empty();
            let (page, sent) = built(tributary, keys, (reader, query), at_least)?;
            kind = Some(PageKind::of(&page, has_token));
            let response = respond(request, sent.tag, (&page.freshness, keys), || sent);
            (response, Cost::of_page(&page))
        }
    };
    if let Some((limiter, clients)) = clients
        && !limiter.pass((clients, arrived), cost, response.headers_mut())
    {
        return None;
    }
    frame::set_common_headers(response.headers_mut());
    let source = if kind.is_some() { "memory" } else { "page_cache" };
    response.headers_mut().insert(SERVER_TIMING, HeaderValue::from_static(source));
    Some((response, kind))
}

/// The page, built from the posts in memory, and as it is sent. `None` if a part is not in memory.
fn built(
    tributary: &Tributary,
    keys: &CursorKeys,
    (reader, query): (UserId, (&str, usize, bool)),
    at_least: Freshness,
) -> Option<(Draft, SentPage)> {
    let (sealed, posts, include_self) = query;
    let limit = Limit::new(u8::try_from(posts).ok()?)?;
    let cursor = match sealed {
        "" => Cursor::newest(),
        sealed => keys.open(Purpose::Home(reader), sealed).ok()?.parse().ok()?,
    };
    // Readers request these two pages repeatedly: the newest page, and the empty page above it.
    let (is_newest, is_newer) = (cursor == Cursor::newest(), cursor.is_newer());
    let wanted = PageRequest::default().from(cursor).limit(limit).at_least(at_least);
    let wanted = if include_self { wanted.include_self() } else { wanted };
    let page = Draft::home_from_memory(tributary, reader, &wanted)?;
    if !page.is_whole() {
        return None;
    }
    let lasting = if include_self { INCLUDE_SELF } else { "" };
    let sent = render_home(&page, tributary, keys, (reader, (limit, lasting))).ok()?;
    if is_newest || (is_newer && page.posts.is_empty()) {
        sent.cache(tributary, reader, query, &page);
    }
    Some((page, sent))
}

/// The answer that carries the page with this tag, or 304 if the client has it.
fn respond<B>(
    request: &Request<B>,
    tag: u64,
    freshness: (&Freshness, &CursorKeys),
    page: impl FnOnce() -> SentPage,
) -> Response<Bytes> {
    let known = request.headers().get_all(header::IF_NONE_MATCH);
    match Tag(tag).is_in(&known) {
        true => known_response(Tag(tag), freshness),
        false => page_response(page(), freshness, true),
    }
}

/// The reader, if the request is a `GET` of a home timeline without a body.
fn reader_of<B: Body>(request: &Request<B>) -> Option<UserId> {
    if request.method() != Method::GET || !request.body().is_end_stream() {
        return None;
    }
    let id = request.uri().path().strip_prefix("/v1/users/")?.strip_suffix("/feed")?;
    // The routes report an address that is too long.
    if uri_bytes(request) > URI_BYTES_MAX {
        return None;
    }
    Some(id).filter(|id| id.len() <= ID_DIGITS_MAX).and_then(|id| id.parse().ok())
}

/// The parameters that select the page.
#[derive(Debug, PartialEq, Eq)]
struct FeedQuery<'a> {
    cursor: &'a str,
    limit: usize,
    include_self: bool,
}

/// The parameters of a query. `None` if the routes must check it: a value is not valid as it is, or
/// a parameter may occur twice.
fn query_of(text: &str) -> Option<FeedQuery<'_>> {
    let (mut cursor, mut limit, mut include_self) = ("", Limit::DEFAULT.get(), false);
    let mut names = [""; PARAMETERS_MAX];
    let parameters = text.split('&').filter(|parameter| !parameter.is_empty());
    for (index, parameter) in parameters.enumerate() {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let is_encoded = |text: &str| text.contains(['%', '+']);
        if is_encoded(name) || names.get(..index)?.contains(&name) {
            return None;
        }
        *names.get_mut(index)? = name;
        match name {
            "cursor" if value.is_empty() || is_encoded(value) => return None,
            "cursor" => cursor = value,
            "limit" if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                limit = value.parse().ok()?;
            }
            "require" if value == "complete" => {}
            "include_self" if value == "1" => include_self = true,
            "limit" | "require" | "include_self" | "reposts" | "around" | "explain" | "memory" => {
                return None;
            }
            // The routes ignore other parameters, too.
            _ => {}
        }
    }
    Some(FeedQuery { cursor, limit, include_self })
}

#[cfg(test)]
mod tests {
    use http_body_util::{Empty, Full};

    use super::*;

    #[test]
    fn only_home_timelines_are_answered_from_memory() {
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

    #[test]
    fn unknown_parameters_select_no_other_page() {
        let parse = |text| query_of(text).map(|query| (query.cursor, query.limit));
        for text in ["", "&", "limit=20", "x=1", "x=%41&y=2&limit=20", "require=complete&x", "="] {
            assert_eq!(parse(text), Some(("", 20)), "{text}");
        }
        assert_eq!(parse("x=1&cursor=AQ-_&limit=7"), Some(("AQ-_", 7)));
        let own = |text| query_of(text).map(|query| query.include_self);
        assert_eq!([own("include_self=1"), own("")], [Some(true), Some(false)]);
        for text in [
            "x=1&x=2",
            "limit=1&limit=1",
            "cursor=",
            "cursor=%41",
            "cursor=a+b",
            "%6cimit=1",
            "limit=",
            "limit=+7",
            "require=all",
            "include_self=0",
            "include_self",
            "reposts=collapse",
            "explain=1",
            "memory=off",
            "a&b&c&d&e&f&g&h&i",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
