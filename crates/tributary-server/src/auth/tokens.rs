//! User tokens: short-lived JWTs that the operator's own backend issues for one user, verified with
//! keys from a JWKS file.
//!
//! The algorithm belongs to the key: each `kid` accepts exactly one, whatever the header says.

use std::collections::HashMap;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use tributary::UserId;

use super::keys::Revoked;
use super::signature;

/// Longest token in characters; a token with the claims below has about 350.
pub(super) const CHARACTERS_MAX: usize = 4_096;
/// Tolerated difference between the clocks of the backend and of this machine, in seconds.
pub(crate) const LEEWAY_S: i64 = 60;
/// Longest life of a token, in seconds: a day. A stolen token ends by then.
pub(crate) const LIFE_MAX_S: i64 = 24 * 60 * 60;
/// Most keys in a file.
const KEYS_MAX: usize = 100;
/// Shortest secret for HS256 in bytes: as long as its hash.
const SECRET_BYTES_MIN: usize = 32;

/// The keys that verify user tokens.
#[derive(Default)]
pub(crate) struct TokenKeys {
    keys: HashMap<String, TokenKey>,
    /// Whether the file has a secret, so that only its owner may read it.
    pub(crate) secret: bool,
}

struct TokenKey {
    key: DecodingKey,
    /// The one algorithm of this key, and the rules for the claims.
    validation: Validation,
}

/// A verified token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verified {
    pub(crate) user: UserId,
    /// When the token ends, in seconds since 1970.
    pub(crate) expires: i64,
}

/// The claims that are read beside those that `Validation` checks.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    iat: Option<f64>,
    nbf: Option<f64>,
}

impl TokenKeys {
    /// Parses a JWKS file. Every key needs a `kid`; its algorithm is EdDSA, ES256 or HS256.
    pub(crate) fn parse(json: &str, issuer: &str, audience: &str) -> Result<Self, String> {
        signature::install();
        let set: JwkSet = serde_json::from_str(json)
            .map_err(|error| format!("not a JSON Web Key Set: line {}", error.line()))?;
        if set.keys.len() > KEYS_MAX {
            return Err(format!("the file has more than {KEYS_MAX} keys"));
        }
        let mut keys = Self::default();
        for jwk in &set.keys {
            let kid = jwk.common.key_id.clone().filter(|kid| !kid.is_empty());
            let kid = kid.ok_or("each key must have a `kid`")?;
            let algorithm = algorithm_of(jwk).map_err(|text| format!("key `{kid}`: {text}"))?;
            let key = DecodingKey::from_jwk(jwk);
            let key = key.map_err(|_| format!("key `{kid}`: its value is not valid base64url"))?;
            check_length(algorithm, &key).map_err(|text| format!("key `{kid}`: {text}"))?;
            keys.secret |= algorithm == Algorithm::HS256;
            let validation = validation(algorithm, issuer, audience);
            if keys.keys.insert(kid.clone(), TokenKey { key, validation }).is_some() {
                return Err(format!("two keys have the kid `{kid}`"));
            }
        }
        Ok(keys)
    }

    /// The ids of the keys, in order.
    pub(crate) fn kids(&self) -> Vec<&str> {
        let mut kids: Vec<&str> = self.keys.keys().map(String::as_str).collect();
        kids.sort_unstable();
        kids
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Verifies a token at this time, in seconds since 1970.
    ///
    /// # Errors
    /// The reason, for the log only: the client must not learn which check failed.
    pub(crate) fn verify(
        &self,
        token: &str,
        revoked: &Revoked,
        now: i64,
    ) -> Result<Verified, &'static str> {
        if token.len() > CHARACTERS_MAX {
            return Err("too long");
        }
        let header = decode_header(token).map_err(|_| "no JWT, or an unknown algorithm")?;
        if header.crit.is_some() {
            return Err("a critical header that is not known here");
        }
        let kid = header.kid.ok_or("no kid")?;
        let known = self.keys.get(&kid).ok_or("unknown kid")?;
        if revoked.kids.contains(&kid) {
            return Err("revoked kid");
        }
        let claims = decode::<Claims>(token, &known.key, &known.validation);
        let claims = claims.map_err(|_| "a wrong signature, algorithm or claim")?.claims;
        let user: UserId = claims.sub.parse().map_err(|_| "sub is not a user id")?;
        if user.to_string() != claims.sub {
            return Err("sub is not the canonical form of a user id");
        }
        let (expires, issued) = (whole(claims.exp), claims.issued());
        if expires > now + LIFE_MAX_S + LEEWAY_S || expires > issued + LIFE_MAX_S + LEEWAY_S {
            return Err("a life of more than 24 hours");
        }
        if issued > now + LEEWAY_S {
            return Err("issued in the future");
        }
        if revoked.issued_from.get(&user).is_some_and(|from| issued < *from) {
            return Err("issued before the user's tokens were revoked");
        }
        Ok(Verified { user, expires })
    }
}

impl Claims {
    /// The earliest time at which the token can have been issued.
    fn issued(&self) -> i64 {
        let stated = self.iat.or(self.nbf).map(whole);
        stated.unwrap_or_else(|| whole(self.exp) - LIFE_MAX_S)
    }
}

/// Whole seconds; a number that is too large saturates.
#[expect(clippy::cast_possible_truncation, reason = "the conversion saturates, as it should")]
fn whole(seconds: f64) -> i64 {
    (seconds.floor() as i64).clamp(0, 1 << 40)
}

/// The algorithm of a key, from its type. `alg` may confirm it; for a secret it must.
fn algorithm_of(jwk: &Jwk) -> Result<Algorithm, String> {
    let (algorithm, name) = match &jwk.algorithm {
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKey(_) if jwk.common.key_algorithm.is_none() => {
            return Err("a symmetric key must say `\"alg\": \"HS256\"`".to_owned());
        }
        AlgorithmParameters::OctetKey(_) => (Algorithm::HS256, KeyAlgorithm::HS256),
        _ => {
            return Err("its type is not one of OKP with Ed25519, EC with P-256, and oct with \
                        `\"alg\": \"HS256\"`"
                .to_owned());
        }
    };
    match jwk.common.key_algorithm {
        Some(stated) if stated != name => {
            Err(format!("its `alg` is not {name}, the only algorithm of such a key"))
        }
        _ => Ok(algorithm),
    }
}

/// Checks the length of a key, so that a wrong file is refused at the start.
fn check_length(algorithm: Algorithm, key: &DecodingKey) -> Result<(), String> {
    let bytes = key.try_get_as_bytes().map_or(0, <[u8]>::len);
    match algorithm {
        Algorithm::HS256 if bytes < SECRET_BYTES_MIN => {
            Err(format!("its secret must have at least {SECRET_BYTES_MIN} bytes"))
        }
        Algorithm::EdDSA if bytes != 32 => Err("`x` must have 32 bytes".to_owned()),
        Algorithm::ES256 if bytes != 65 => Err("`x` and `y` must have 32 bytes each".to_owned()),
        _ => Ok(()),
    }
}

fn validation(algorithm: Algorithm, issuer: &str, audience: &str) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.leeway = LEEWAY_S.unsigned_abs();
    validation.validate_nbf = true;
    validation.set_issuer(&[issuer]);
    validation.set_audience(&[audience]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    validation
}

#[cfg(test)]
mod tests;
