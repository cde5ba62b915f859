//! The checks of a server without credentials: it answers programs of this machine only.
//!
//! A listener on a loopback address is not enough. A web page of another site can send requests to
//! this machine from a local browser, and read the answers if its name resolves to this machine
//! (DNS rebinding). A reverse proxy on this machine passes on the requests of other machines.

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::{HeaderMap, Request, header};

use crate::error::ApiError;

/// Headers that proxies add to the requests that they pass on, beside `X-Forwarded-...`.
const FORWARDING: [&str; 3] = ["forwarded", "via", "x-real-ip"];

/// Host names that are accepted in addition to those of this machine: `http.hosts`.
#[derive(Clone, Debug, Default)]
pub(super) struct LocalOnly {
    hosts: Arc<[String]>,
}

impl LocalOnly {
    pub(super) fn new(hosts: &[String]) -> Self {
        Self { hosts: hosts.into() }
    }

    /// Whether a program of this machine has sent this request.
    ///
    /// # Errors
    /// The reason why this is doubtful.
    pub(super) fn check<B>(&self, request: &Request<B>) -> Result<(), ApiError> {
        let headers = request.headers();
        let host = host_of(request).ok_or(ApiError::UnknownHost)?;
        if !self.includes(host) {
            return Err(ApiError::UnknownHost);
        }
        let forwards = |name: &header::HeaderName| {
            FORWARDING.contains(&name.as_str()) || name.as_str().starts_with("x-forwarded-")
        };
        if headers.keys().any(forwards) {
            return Err(ApiError::LocalOnly("a proxy has passed the request on"));
        }
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let own = |origin: &header::HeaderValue| {
            let authority = origin.to_str().ok().and_then(|origin| {
                origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"))
            });
            authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
        };
        if origins.all(own) {
            Ok(())
        } else {
            Err(ApiError::LocalOnly("a page of another web site has sent the request"))
        }
    }

    /// Whether `host`, with or without a port, is a name of this machine or a configured name.
    fn includes(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        let bracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        let address = bracketed.unwrap_or(name).parse::<IpAddr>();
        address.is_ok_and(|address| address.is_loopback())
            || name.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
    }
}

/// The host that the request names: exactly one, in the address or in the `Host` header.
fn host_of<B>(request: &Request<B>) -> Option<&str> {
    let in_address = request.uri().authority().map(|authority| authority.as_str());
    let headers: &HeaderMap = request.headers();
    let mut in_header = headers.get_all(header::HOST).iter();
    match (in_header.next(), in_header.next()) {
        (Some(host), None) => in_address.or_else(|| host.to_str().ok()),
        (None, None) => in_address,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&str, &str)]) -> Result<(), ApiError> {
        let mut request = Request::get("/livez");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        LocalOnly::new(&["feeds.example".to_owned()]).check(&request.body(()).unwrap())
    }

    #[test]
    fn only_names_of_this_machine_are_hosts() {
        for own in [
            "localhost",
            "LocalHost:7878",
            "127.0.0.1",
            "127.0.0.1:80",
            "[::1]",
            "[::1]:80",
            "feeds.example:1",
        ] {
            assert!(check(&[("host", own)]).is_ok(), "{own}");
        }
        for other in [
            "",
            "evil.example",
            "localhost.evil.example:7878",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "192.168.1.7:7878",
            "[fe80::1]",
            "0.0.0.0",
            "user@localhost",
        ] {
            let refused = matches!(check(&[("host", other)]), Err(ApiError::UnknownHost));
            assert!(refused, "{other}");
        }
        assert!(matches!(check(&[]), Err(ApiError::UnknownHost)));
        let two = check(&[("host", "localhost"), ("host", "evil.example")]);
        assert!(matches!(two, Err(ApiError::UnknownHost)));
    }

    #[test]
    fn requests_that_a_proxy_passed_on_are_refused() {
        for name in ["Forwarded", "x-forwarded-for", "X-Forwarded-Proto", "Via", "X-Real-IP"] {
            let refused = check(&[("host", "localhost"), (name, "")]);
            assert!(matches!(refused, Err(ApiError::LocalOnly(_))), "{name}");
        }
    }

    #[test]
    fn requests_of_other_web_sites_are_refused() {
        let host = ("host", "localhost:7878");
        for own in ["http://localhost:7878", "https://LOCALHOST:7878"] {
            assert!(check(&[host, ("origin", own)]).is_ok(), "{own}");
        }
        for foreign in [
            "null",
            "",
            "http://evil.example",
            "http://localhost:3000",
            "localhost:7878",
            "file://",
        ] {
            let refused = check(&[host, ("origin", foreign)]);
            assert!(matches!(refused, Err(ApiError::LocalOnly(_))), "{foreign}");
        }
    }
}
