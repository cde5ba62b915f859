//! The clients that a request counts for, and the headers that they get.

use std::time::Instant;

use tributary::UserId;
use tributary::config::Http;

use super::*;

fn limiter(keys: u32, users: u32, addresses: u32) -> Arc<Limiter> {
    let mut limits = Limits::default();
    limits.keys = ClientLimit::new(1, keys, 1);
    limits.users = ClientLimit::new(1, users, 1);
    limits.addresses = ClientLimit::new(1, addresses, 10);
    Arc::new(Limiter::new(&limits, &Http::default().trusted_proxies))
}

fn key(id: &str) -> Principal {
    Principal::Service { id: id.into(), scopes: [].into() }
}

fn user(id: u32) -> Principal {
    Principal::User(UserId::from(id))
}

fn peer(last: u8) -> Option<IpAddr> {
    Some(IpAddr::from([203, 0, 113, last]))
}

/// How many of ten requests are admitted.
fn admitted(limiter: &Arc<Limiter>, principal: &Principal, peer: Option<IpAddr>) -> usize {
    let free = Cost::by_default(false, false);
    let enter = |_: &i32| {
        let admission = limiter.enter(principal, peer, &HeaderMap::new());
        admission.map(|admission| admission.finish(free, &mut HeaderMap::new())).is_ok()
    };
    (0..10).filter(enter).count()
}

/// A client that cancels its requests pays for what the databases may have done for it.
#[test]
fn a_request_that_its_client_cancels_is_charged() {
    let limiter = limiter(25, 25, 25);
    drop(limiter.enter(&key("a"), None, &HeaderMap::new()).unwrap());
    assert_eq!(admitted(&limiter, &key("a"), None), 4);
}

#[test]
fn keys_users_and_addresses_have_limits_of_their_own() {
    let limiter = limiter(3, 2, 5);
    assert_eq!(admitted(&limiter, &key("a"), peer(1)), 3);
    assert_eq!(admitted(&limiter, &key("b"), peer(1)), 3, "the address does not count");
    assert_eq!(admitted(&limiter, &user(1), peer(1)), 2);
    assert_eq!(admitted(&limiter, &user(1), peer(2)), 0, "a user has one limit everywhere");
    assert_eq!(admitted(&limiter, &user(2), peer(3)), 2);
    assert_eq!(admitted(&limiter, &Principal::Anonymous, peer(4)), 5);
    assert_eq!(admitted(&limiter, &Principal::Open, peer(4)), 0);
    assert_eq!(admitted(&limiter, &user(3), peer(4)), 0, "the address has no units");
    assert_eq!(admitted(&limiter, &Principal::Open, Some(IpAddr::from([127, 0, 0, 1]))), 10);
    assert_eq!(admitted(&limiter, &Principal::Anonymous, None), 10);
}

#[test]
fn requests_are_in_flight_until_their_admission_is_dropped() {
    let limiter = limiter(100, 100, 100);
    let enter = || limiter.enter(&key("a"), None, &HeaderMap::new());
    let first = enter().unwrap();
    let refused = enter().unwrap_err();
    assert!(matches!(refused.error, ApiError::TooManyInFlight { limit: "key", max: 1 }));
    drop(first);
    enter().unwrap().finish(Cost::QUERY, &mut HeaderMap::new());
    // A request that the second limit refuses leaves the first one.
    let of_user = limiter.enter(&user(1), peer(1), &HeaderMap::new()).unwrap();
    for _ in 0..20 {
        assert!(limiter.enter(&user(1), peer(1), &HeaderMap::new()).is_err());
    }
    drop(of_user);
    assert!(limiter.enter(&user(1), peer(1), &HeaderMap::new()).is_ok());
}

#[test]
fn answers_state_the_limit_and_what_is_left_of_it() {
    let limiter = limiter(100, 30, 1_000);
    let mut headers = HeaderMap::new();
    limiter.enter(&user(1), peer(1), &headers.clone()).unwrap().finish(Cost::QUERY, &mut headers);
    let text = |headers: &HeaderMap, name| headers[name].to_str().unwrap().to_owned();
    assert_eq!(text(&headers, POLICY), r#""user";q=30;w=30"#);
    assert_eq!(text(&headers, RATE_LIMIT), r#""user";r=9;t=21"#);
    let older = [X_LIMIT, X_REMAINING, X_RESET].map(|name| text(&headers, name));
    assert_eq!(older, ["30", "9", "21"]);
    let peer = peer(1);
    let clients = limiter.clients(&user(1), peer, &HeaderMap::new());
    for left in (0..9).rev() {
        assert!(!limiter.is_spent(clients, Instant::now()));
        assert!(limiter.pass((clients, Instant::now()), Cost::default(), &mut headers));
        assert_eq!(text(&headers, X_REMAINING), left.to_string());
    }
    assert!(limiter.is_spent(clients, Instant::now()));
    assert!(!limiter.pass((clients, Instant::now()), Cost::default(), &mut headers));
    let refused = limiter.enter(&user(1), peer, &HeaderMap::new()).unwrap_err();
    let ApiError::TooManyRequests { limit: "user", retry_after_s } = refused.error else {
        panic!()
    };
    assert_eq!(retry_after_s, 1);
    refused.set_headers(&mut headers);
    assert_eq!(text(&headers, X_REMAINING), "0");
}
