//! Cookies of the pages for people. The credential of a browser that has signed in counts like an
//! `Authorization` header, if the request comes from a page of this server.

use axum::http::{HeaderMap, HeaderValue, Request, header};

/// The cookie with the freshness token of the last write, for pages that are opened by a link.
pub(crate) const FRESHNESS: &str = "tributary-freshness";
/// The cookie with the chosen colours: `dark` or `light`.
pub(crate) const THEME: &str = "tributary-theme";
/// Longest credential in a cookie. Browsers keep cookies of 4,096 bytes.
const CREDENTIAL_BYTES_MAX: usize = 3_800;

/// The cookie with the credential of a browser that has signed in. Scripts cannot read it.
///
/// Browsers send a cookie to all ports of a host. So each listener has a name of its own: otherwise
/// an operator who signs in for `/shards` would replace the credential of the timelines. Each
/// listener gets both cookies, and reads its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionCookie {
    /// Of the listener for clients, also if it has the routes for operators.
    Public,
    /// Of a listener for operators only.
    Admin,
}

impl SessionCookie {
    fn name(self) -> &'static str {
        match self {
            Self::Public => "tributary-session",
            Self::Admin => "tributary-admin-session",
        }
    }

    /// The credential in the cookie of a request, if it has one.
    pub(crate) fn credential(self, headers: &HeaderMap) -> Option<&str> {
        value(headers, self.name())
    }

    /// The header that stores a credential for as long as the browser runs. `None` if the
    /// credential cannot be in a cookie.
    pub(crate) fn stored(self, credential: &str, encrypted: bool) -> Option<HeaderValue> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~+/=:".contains(&byte);
        if credential.len() > CREDENTIAL_BYTES_MAX || !credential.bytes().all(plain) {
            return None;
        }
        let (name, secure) = (self.name(), if encrypted { "; Secure" } else { "" });
        let text = format!("{name}={credential}; HttpOnly; SameSite=Strict; Path=/{secure}");
        HeaderValue::try_from(text).ok()
    }

    /// The header that ends the cookie.
    pub(crate) fn ended(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Public => "tributary-session=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0",
            Self::Admin => "tributary-admin-session=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0",
        })
    }
}

/// The value of the first cookie with this name, unless it is empty.
pub(crate) fn value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|all| all.split(';')).filter_map(|pair| pair.split_once('='));
    let found = pairs.find(|(key, _)| key.trim() == name);
    found.map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
}

/// Whether a page of this server has sent the request. Browsers say so in `Sec-Fetch-Site`; older
/// ones only name the origin.
pub(crate) fn is_same_origin<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin";
    }
    let host = request.uri().authority().map(|authority| authority.as_str());
    let host = host.or_else(|| headers.get(header::HOST)?.to_str().ok());
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    let origin = origin.and_then(|origin| origin.split_once("://"));
    matches!((host, origin), (Some(host), Some((_, origin))) if origin.eq_ignore_ascii_case(host))
}

/// Whether the browser has reached this server by TLS, perhaps through a proxy.
pub(crate) fn is_encrypted<B>(request: &Request<B>) -> bool {
    let origin = request.headers().get(header::ORIGIN);
    origin.is_some_and(|origin| origin.as_bytes().starts_with(b"https://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_found_by_their_whole_name() {
        let mut headers = HeaderMap::new();
        let add = |headers: &mut HeaderMap, text| {
            headers.append(header::COOKIE, HeaderValue::from_static(text));
        };
        add(&mut headers, "x-tributary-session=1; tributary-sessions=2");
        assert_eq!(SessionCookie::Public.credential(&headers), None);
        add(&mut headers, "a=b;  tributary-session=c.d=; tributary-session=e");
        assert_eq!(SessionCookie::Public.credential(&headers), Some("c.d="));
        assert_eq!(SessionCookie::Admin.credential(&headers), None);
        assert_eq!(value(&headers, THEME), None);
    }

    #[test]
    fn only_own_pages_are_the_same_origin() {
        let check = |headers: &[(&str, &str)]| {
            let mut request = Request::post("/v1/users/1/posts").header("host", "feeds.example:1");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            is_same_origin(&request.body(()).unwrap())
        };
        assert!(check(&[("origin", "https://feeds.example:1")]));
        assert!(check(&[("sec-fetch-site", "same-origin")]));
        for other in [
            ("origin", "https://feeds.example"),
            ("origin", "null"),
            ("origin", "https://evil.example"),
            ("sec-fetch-site", "same-site"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "none"),
            ("x", "y"),
        ] {
            assert!(!check(&[other]), "{other:?}");
        }
        assert!(!check(&[("sec-fetch-site", "same-site"), ("origin", "https://feeds.example:1")]));
    }

    #[test]
    fn a_credential_cannot_add_attributes() {
        let stored = |text, encrypted| SessionCookie::Admin.stored(text, encrypted);
        assert!(stored("eyJ.a-b_c.d", true).unwrap().to_str().unwrap().ends_with("; Secure"));
        for bad in ["a; Domain=x", "a b", "a\r\nb", "a,b", &"a".repeat(4_000)] {
            assert_eq!(stored(bad, false), None, "{bad}");
        }
    }
}
