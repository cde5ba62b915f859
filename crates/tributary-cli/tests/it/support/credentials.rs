//! Service keys and user tokens for tests, in a folder of their own.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::json;
use tempfile::TempDir;
use tributary::Config;
use tributary::internal::now_ms;
use tributary_server::{Access, Credentials, KeyFile, Scope};

use super::scratch;

/// A file of service keys, and a key that signs user tokens.
pub(crate) struct TestCredentials {
    dir: TempDir,
    signer: Ed25519KeyPair,
}

impl TestCredentials {
    pub(crate) fn new() -> Self {
        let signer = Ed25519KeyPair::from_seed_unchecked(&rand::random::<[u8; 32]>()).unwrap();
        let dir = scratch();
        let jwk = json!({"kid": "k", "kty": "OKP", "crv": "Ed25519",
            "x": URL_SAFE_NO_PAD.encode(signer.public_key())});
        fs::write(dir.path().join("jwks.json"), json!({"keys": [jwk]}).to_string()).unwrap();
        let credentials = Self { dir, signer };
        KeyFile::edit(&credentials.keys_file(), |_| Ok(())).unwrap();
        credentials
    }

    pub(crate) fn folder(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn keys_file(&self) -> PathBuf {
        self.dir.path().join("keys.toml")
    }

    /// The section of the configuration.
    pub(crate) fn section(&self) -> String {
        let dir = self.dir.path().display();
        format!(
            "[auth]\nkeys_file = \"{dir}/keys.toml\"\ntoken_keys_file = \"{dir}/jwks.json\"\n\
             issuer = \"backend\"\naudience = \"feeds\"\n"
        )
    }

    /// The access that these files allow. The files are watched on the current runtime.
    pub(crate) fn access(&self) -> Access {
        let text = format!("[embedded]\ndir = \"unused\"\n{}", self.section());
        let auth = Config::from_text(&text, []).unwrap().auth;
        Access::credentials(Credentials::open(&auth).unwrap().unwrap())
    }

    /// The credential of a new service key.
    pub(crate) fn key(&self, scopes: &[Scope]) -> String {
        KeyFile::edit(&self.keys_file(), |keys| keys.create("test", scopes, None, now())).unwrap()
    }

    /// The token of a user.
    pub(crate) fn token(&self, user: u64) -> String {
        self.token_until(user, now() + 3_600)
    }

    /// The token of a user that expires at this time, in seconds since 1970.
    pub(crate) fn token_until(&self, user: u64, expires: i64) -> String {
        let claims = json!({"iss": "backend", "aud": "feeds", "sub": user.to_string(),
            "iat": now() - 100, "exp": expires});
        let parts = [json!({"alg": "EdDSA", "kid": "k"}), claims];
        let [header, claims] = parts.map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = format!("{header}.{claims}");
        let signature = URL_SAFE_NO_PAD.encode(self.signer.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

fn now() -> i64 {
    now_ms() / 1_000
}
