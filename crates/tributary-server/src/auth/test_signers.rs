//! Keys of all three kinds for tests, and tokens that they sign.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use serde_json::{Value, json};

/// A key that signs tokens.
pub(super) enum Signer {
    Ed(Ed25519KeyPair),
    Ec(EcdsaKeyPair),
    Shared([u8; 32]),
}

pub(super) fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    pub(super) fn ed() -> Self {
        Self::Ed(Ed25519KeyPair::from_seed_unchecked(&rand::random::<[u8; 32]>()).unwrap())
    }

    pub(super) fn ec() -> Self {
        let (kind, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        Self::Ec(EcdsaKeyPair::from_pkcs8(kind, pkcs8.as_ref(), &random).unwrap())
    }

    pub(super) fn shared() -> Self {
        Self::Shared(rand::random())
    }

    /// The name of its algorithm.
    pub(super) fn alg(&self) -> &'static str {
        match self {
            Self::Ed(_) => "EdDSA",
            Self::Ec(_) => "ES256",
            Self::Shared(_) => "HS256",
        }
    }

    /// The public key, or the secret, as bytes.
    pub(super) fn verifying_bytes(&self) -> Vec<u8> {
        match self {
            Self::Ed(pair) => pair.public_key().as_ref().to_vec(),
            Self::Ec(pair) => pair.public_key().as_ref().to_vec(),
            Self::Shared(secret) => secret.to_vec(),
        }
    }

    /// The entry of a JWKS file.
    pub(super) fn jwk(&self, kid: &str) -> Value {
        let bytes = self.verifying_bytes();
        match self {
            Self::Ed(_) => {
                json!({"kid": kid, "kty": "OKP", "crv": "Ed25519", "x": base64(bytes)})
            }
            Self::Ec(_) => json!({
                "kid": kid, "kty": "EC", "crv": "P-256", "alg": "ES256",
                "x": base64(&bytes[1..33]), "y": base64(&bytes[33..]),
            }),
            Self::Shared(_) => {
                json!({"kid": kid, "kty": "oct", "alg": "HS256", "k": base64(bytes)})
            }
        }
    }

    /// A token with its usual header.
    pub(super) fn token(&self, kid: &str, claims: &Value) -> String {
        self.sign(&json!({"alg": self.alg(), "kid": kid, "typ": "JWT"}), claims)
    }

    /// A token with any header.
    pub(super) fn sign(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", base64(header.to_string()), base64(claims.to_string()));
        let signature = match self {
            Self::Ed(pair) => pair.sign(signed.as_bytes()).as_ref().to_vec(),
            Self::Ec(pair) => {
                pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap().as_ref().to_vec()
            }
            Self::Shared(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
                hmac::sign(&key, signed.as_bytes()).as_ref().to_vec()
            }
        };
        format!("{signed}.{}", base64(signature))
    }
}

/// A JWKS file with these keys.
pub(super) fn jwks(keys: &[(&str, &Signer)]) -> String {
    let keys: Vec<Value> = keys.iter().map(|(kid, key)| key.jwk(kid)).collect();
    json!({"keys": keys}).to_string()
}
