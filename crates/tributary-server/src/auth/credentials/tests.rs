//! Credentials in files that change while the server runs.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;
use tokio::time::sleep;
use tributary::{Config, UserId};

use super::super::Scope;
use super::super::test_signers::{Signer, jwks};
use super::*;

/// The time within which a revocation takes effect.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);

struct Place {
    dir: TempDir,
    signer: Signer,
    credentials: Credentials,
}

impl Place {
    fn new() -> Self {
        let (dir, signer) = (tempfile::tempdir().unwrap(), Signer::ed());
        KeyFile::edit(&dir.path().join("keys.toml"), |_| Ok(())).unwrap();
        fs::write(dir.path().join("jwks.json"), jwks(&[("k", &signer)])).unwrap();
        let credentials = Credentials::open(&auth(dir.path())).unwrap().unwrap();
        Self { dir, signer, credentials }
    }

    fn edit<T>(&self, change: impl FnOnce(&mut KeyFile) -> T) -> T {
        KeyFile::edit(&self.dir.path().join("keys.toml"), |keys| Ok(change(keys))).unwrap()
    }

    fn token(&self, user: u32) -> String {
        let claims = json!({"iss": "backend", "aud": "feeds", "sub": user.to_string(),
            "iat": now(), "exp": now() + 600});
        self.signer.token("k", &claims)
    }

    fn principal(&self, credential: &str) -> Option<Principal> {
        principal(&self.credentials, &[&format!("Bearer {credential}")])
    }

    /// Waits until the credential is valid, or until it is not.
    async fn until(&self, credential: &str, valid: bool) {
        let start = Instant::now();
        while self.principal(credential).is_some() != valid {
            assert!(start.elapsed() < REVOKED_WITHIN, "no effect within five seconds");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

fn auth(dir: &Path) -> Auth {
    let text = format!(
        "[embedded]\ndir = \"x\"\n[auth]\nkeys_file = \"{dir}/keys.toml\"\nissuer = \"backend\"\n\
         token_keys_file = \"{dir}/jwks.json\"\naudience = \"feeds\"",
        dir = dir.display()
    );
    Config::from_text(&text, []).unwrap().auth
}

fn principal(credentials: &Credentials, authorization: &[&str]) -> Option<Principal> {
    let mut headers = HeaderMap::new();
    for value in authorization {
        headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
    }
    credentials.principal(&headers).ok()
}

#[tokio::test]
async fn a_request_has_one_credential_or_none() {
    let place = Place::new();
    let token = place.token(7);
    let user = Some(Principal::User(UserId::from(7)));
    let of = |headers: &[&str]| principal(&place.credentials, headers);
    assert_eq!(of(&[]), Some(Principal::Anonymous));
    assert_eq!(of(&[&format!("Bearer {token}")]), user);
    assert_eq!(of(&[&format!("bearer  {token} ")]), user);
    for wrong in ["", "Bearer", "Bearer ", &token, &format!("Basic {token}"), "Bearer trib_x_y"] {
        assert_eq!(of(&[wrong]), None, "{wrong}");
    }
    let twice = format!("Bearer {token}");
    assert_eq!(of(&[&twice, &twice]), None, "two headers");
    assert_eq!(of(&[&format!("{twice}, {twice}")]), None, "two credentials");
}

#[tokio::test]
async fn revocations_take_effect_also_for_verified_tokens() {
    let place = Place::new();
    let (first, second) = (place.token(7), place.token(8));
    let key = place.edit(|keys| keys.create("x", &[Scope::Admin], None, now()).unwrap());
    place.until(&key, true).await;
    for _ in 0..2 {
        assert!(place.principal(&first).is_some() && place.principal(&second).is_some());
    }
    place.edit(|keys| keys.revoke_user(UserId::from(7), now(), 0));
    place.until(&first, false).await;
    assert!(place.principal(&second).is_some() && place.principal(&key).is_some());
    place.edit(|keys| keys.revoke_kid("k"));
    place.until(&second, false).await;
    let id = place.edit(|keys| {
        let id = keys.keys().keys().next().unwrap().clone();
        keys.revoke(&id, None).unwrap();
        id
    });
    place.until(&key, false).await;
    assert!(!place.edit(|keys| keys.keys().contains_key(&id)));
}

#[tokio::test]
async fn a_new_file_of_token_keys_is_read() {
    let place = Place::new();
    let token = place.token(7);
    assert!(place.principal(&token).is_some());
    let path = place.dir.path().join("jwks.json");
    fs::write(&path, jwks(&[("k", &Signer::ed())])).unwrap();
    place.until(&token, false).await;
    fs::write(&path, jwks(&[("k", &place.signer)])).unwrap();
    place.until(&token, true).await;
}

#[tokio::test]
async fn a_damaged_file_leaves_the_earlier_credentials_in_effect() {
    let place = Place::new();
    let key = place.edit(|keys| keys.create("x", &[Scope::Admin], None, now()).unwrap());
    place.until(&key, true).await;
    let path = place.dir.path().join("keys.toml");
    let text = fs::read_to_string(&path).unwrap();
    for damaged in ["[keys", "[keys.a]\nname = 1\n"] {
        fs::write(&path, damaged).unwrap();
        let _ = place.credentials.0.reload();
        assert!(place.principal(&key).is_some());
        assert!(place.credentials.0.problem().is_some());
    }
    fs::remove_file(&path).unwrap();
    let _ = place.credentials.0.reload();
    assert!(place.principal(&key).is_some());
    files::create_private(&path, &text.replace("admin", "explain")).unwrap();
    let _ = place.credentials.0.reload();
    assert!(place.credentials.0.problem().is_none());
    let scopes: Arc<[Scope]> = [Scope::Explain].into();
    let id: Arc<str> = key.split('_').nth(1).unwrap().into();
    assert_eq!(place.principal(&key), Some(Principal::Service { id, scopes }));
}

#[tokio::test]
async fn unusable_files_refuse_the_start() {
    let place = Place::new();
    let open = || Credentials::open(&auth(place.dir.path())).map(drop).map_err(|e| e.to_string());
    let tokens = place.dir.path().join("jwks.json");
    assert_eq!(open(), Ok(()));
    fs::write(&tokens, jwks(&[("h", &Signer::shared())])).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |mode| fs::set_permissions(&tokens, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        assert!(open().unwrap_err().contains("chmod 600"), "a secret that others can read");
        mode(0o600);
        assert_eq!(open(), Ok(()));
    }
    fs::write(&tokens, json!({"keys": [{"kty": "oct", "kid": "h", "k": "AA"}]}).to_string())
        .unwrap();
    assert!(open().unwrap_err().contains("HS256"));
    fs::remove_file(&tokens).unwrap();
    assert!(open().is_err());
    fs::remove_file(place.dir.path().join("keys.toml")).unwrap();
    assert!(open().unwrap_err().contains("tributary keys create"));
}

#[test]
fn verified_tokens_are_cached_until_they_expire() {
    let cache = VerifiedTokens::new(2);
    let verified = |user: u32, expires| Verified { user: UserId::from(user), expires };
    let digest = |byte: u8| [byte; 32];
    cache.put(digest(2), verified(7, 100));
    assert_eq!(cache.get(&digest(2), 99), Some(verified(7, 100)));
    assert_eq!(cache.get(&digest(2), 100), None, "expired");
    assert_eq!(cache.get(&digest(4), 0), None, "another token in the same cell");
    cache.put(digest(4), verified(8, 100));
    assert_eq!(cache.get(&digest(2), 0), None, "displaced");
    assert_eq!(cache.get(&digest(4), 0), Some(verified(8, 100)));
    let none = VerifiedTokens::new(0);
    none.put(digest(2), verified(7, 100));
    assert_eq!(none.get(&digest(2), 0), None);
}
