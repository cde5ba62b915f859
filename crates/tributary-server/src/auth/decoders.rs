//! The entries of `crate::decoders` for credentials.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

use super::keys::{KeyFile, Revoked};
use super::tokens::TokenKeys;

const SECRET: [u8; 32] = [7; 32];
/// The time of all checks, in seconds since 1970.
const NOW: i64 = 1_700_000_000;

static KEYS: LazyLock<Option<TokenKeys>> = LazyLock::new(|| {
    let secret = URL_SAFE_NO_PAD.encode(SECRET);
    let json =
        format!(r#"{{"keys": [{{"kty": "oct", "kid": "k", "alg": "HS256", "k": "{secret}"}}]}}"#);
    TokenKeys::parse(&json, "issuer", "audience").ok()
});

/// A user token; and the bytes as the claims of a token with a valid signature.
pub fn user_token(data: &[u8]) {
    let Some(keys) = KEYS.as_ref() else { return };
    let revoked = Revoked::default();
    if let Ok(token) = std::str::from_utf8(data) {
        let _ = keys.verify(token, &revoked, NOW);
    }
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","kid":"k"}"#);
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(data));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &SECRET), message.as_bytes());
    let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag));
    let _ = keys.verify(&token, &revoked, NOW);
}

/// A JWKS file with the keys of user tokens.
pub fn token_keys(data: &[u8]) {
    let _ = TokenKeys::parse(&String::from_utf8_lossy(data), "issuer", "audience");
}

/// A file of service keys; and the bytes as the credential of a service.
pub fn service_keys(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(keys) = KeyFile::parse(&text) {
        keys.find(text.lines().next().unwrap_or_default(), NOW);
    }
    KeyFile::default().find(&text, NOW);
}
