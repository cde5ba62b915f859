//! User tokens for the load: one JWT for each reader, signed with an HS256 key of a JWKS file.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tributary::internal::now_ms;

/// Life of the tokens in seconds, longer than any run.
const LIFE_S: i64 = 12 * 60 * 60;

/// The tokens of all users, as header lines.
#[derive(Clone)]
pub struct UserTokens(Arc<[String]>);

impl std::fmt::Debug for UserTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{} tokens]", self.0.len())
    }
}

impl UserTokens {
    /// Tokens for the users up to this one, signed with the first `oct` key of the file.
    ///
    /// # Errors
    /// The file has no such key.
    pub fn sign(jwks: &Path, issuer: &str, audience: &str, users: u32) -> Result<Self> {
        let text = fs::read(jwks).with_context(|| jwks.display().to_string())?;
        let set: Value = serde_json::from_slice(&text)?;
        let keys = set.get("keys").and_then(Value::as_array);
        let symmetric = |key: &&Value| key.get("kty").is_some_and(|kind| kind == "oct");
        let key = keys.and_then(|keys| keys.iter().find(symmetric));
        let key = key.with_context(|| format!("{} has no key of the type oct", jwks.display()))?;
        let text = |name: &str| key.get(name).and_then(Value::as_str).unwrap_or_default();
        let secret = URL_SAFE_NO_PAD.decode(text("k")).context("its `k` is not base64url")?;
        let signer = Hmac::<Sha256>::new_from_slice(&secret)?;
        let encode = |part: Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let header = encode(json!({"alg": "HS256", "kid": text("kid")}));
        let now = now_ms() / 1_000;
        let token = |user: u32| {
            let claims = encode(json!({"iss": issuer, "aud": audience, "sub": user.to_string(),
                "iat": now, "exp": now + LIFE_S}));
            let signed = format!("{header}.{claims}");
            let mut signer = signer.clone();
            signer.update(signed.as_bytes());
            let signature = URL_SAFE_NO_PAD.encode(signer.finalize().into_bytes());
            format!("authorization: Bearer {signed}.{signature}\r\n")
        };
        Ok(Self((0..=users).map(token).collect()))
    }

    /// The header line for a request to this path, by the user that it names.
    pub(super) fn header_of(&self, path: &str) -> &str {
        let user = path.strip_prefix("/v1/users/").and_then(|rest| rest.split('/').next());
        let user = user.and_then(|user| user.parse::<usize>().ok());
        user.and_then(|user| self.0.get(user)).map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_has_the_token_of_its_user() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let jwk = json!({"kty": "oct", "alg": "HS256", "kid": "k", "k": "AAAA"});
        fs::write(file.path(), json!({"keys": [jwk]}).to_string()).unwrap();
        let tokens = UserTokens::sign(file.path(), "i", "a", 7).unwrap();
        let header = tokens.header_of("/v1/users/7/feed?limit=3");
        let claims = header.split('.').nth(1).unwrap();
        let claims: Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
        assert_eq!(claims["sub"], "7");
        assert_eq!(tokens.header_of("/v1/users/8/feed"), "");
        assert_eq!(tokens.header_of("/readyz"), "");
    }
}
