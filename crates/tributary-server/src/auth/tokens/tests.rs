//! Valid tokens of each algorithm, and every way to make a token that must be refused.

use serde_json::{Value, json};
use tributary::internal::now_ms;

use super::super::test_signers::{Signer, base64, jwks};
use super::*;

const DAY: i64 = LIFE_MAX_S;

fn now() -> i64 {
    now_ms() / 1_000
}

fn claims() -> Value {
    let now = now();
    json!({"iss": "backend", "aud": "feeds", "sub": "7", "iat": now, "exp": now + 600})
}

/// The claims with one of them set, or removed if the value is null.
fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    claims
}

fn parse(json: &str) -> Result<TokenKeys, String> {
    TokenKeys::parse(json, "backend", "feeds")
}

#[test]
fn each_kid_accepts_its_own_algorithm_only() {
    let signers = [("ed", Signer::ed()), ("ec", Signer::ec()), ("hs", Signer::shared())];
    let named: Vec<(&str, &Signer)> = signers.iter().map(|(kid, key)| (*kid, key)).collect();
    let keys = parse(&jwks(&named)).unwrap();
    let verify = |token: &str| keys.verify(token, &Revoked::default(), now());
    for (kid, signer) in &named {
        let verified = verify(&signer.token(kid, &claims())).unwrap();
        assert_eq!(verified.user, UserId::from(7), "{kid}");
        for (other, _) in named.iter().filter(|(other, _)| other != kid) {
            let header = json!({"alg": signer.alg(), "kid": other});
            assert!(verify(&signer.sign(&header, &claims())).is_err(), "{kid} as {other}");
        }
        for alg in ["none", "None", "HS256", "HS512", "RS256", "ES384", "EdDSA", "ES256"] {
            let header = json!({"alg": alg, "kid": kid});
            let refused = verify(&signer.sign(&header, &claims())).is_err();
            assert_eq!(refused, alg != signer.alg(), "{kid} with the header {alg}");
            let unsigned = signer.sign(&header, &claims());
            let unsigned = unsigned.rsplit_once('.').unwrap().0;
            assert!(verify(&format!("{unsigned}.")).is_err() && verify(unsigned).is_err());
        }
        // The public key of an asymmetric pair as an HMAC secret: the classic confusion.
        let public = signer.verifying_bytes();
        let hmac = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &public);
        let header = json!({"alg": "HS256", "kid": kid}).to_string();
        let signed = format!("{}.{}", base64(header), base64(claims().to_string()));
        let forged = format!("{signed}.{}", base64(ring::hmac::sign(&hmac, signed.as_bytes())));
        assert_eq!(verify(&forged).is_ok(), *kid == "hs", "{kid}");
    }
}

#[test]
fn a_changed_token_is_refused() {
    for signer in [Signer::ed(), Signer::ec(), Signer::shared()] {
        let keys = parse(&jwks(&[("k", &signer)])).unwrap();
        let token = signer.token("k", &claims());
        let verify = |token: &str| keys.verify(token, &Revoked::default(), now());
        assert!(verify(&token).is_ok());
        for at in (0..token.len()).step_by(7) {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'Q' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(verify(&changed).is_err(), "{changed}");
        }
        for other in
            ["", ".", "..", "a.b.c", &token[1..], &format!("{token}.x"), &"A".repeat(5_000)]
        {
            assert!(verify(other).is_err(), "{other}");
        }
        let unknown = signer.token("other", &claims());
        assert!(verify(&unknown).is_err());
        let without = signer.sign(&json!({"alg": signer.alg()}), &claims());
        assert!(verify(&without).is_err(), "no kid");
        let critical = json!({"alg": signer.alg(), "kid": "k", "crit": ["x"], "x": 1});
        assert!(verify(&signer.sign(&critical, &claims())).is_err(), "a critical header");
    }
}

#[test]
fn claims_are_checked() {
    let signer = Signer::ed();
    let keys = parse(&jwks(&[("k", &signer)])).unwrap();
    let now = now();
    let verify = |claims: &Value| {
        keys.verify(&signer.token("k", claims), &Revoked::default(), now).map(|found| found.user)
    };
    let (null, user) = (Value::Null, Ok(UserId::from(7)));
    for (name, value) in [
        ("iat", null.clone()),
        ("nbf", json!(now)),
        ("nbf", json!(now + 30)),
        ("exp", json!(now - 30)),
        ("exp", json!(now + DAY)),
        ("aud", json!(["other", "feeds"])),
        ("more", json!({"x": 1})),
    ] {
        assert_eq!(verify(&with(name, value.clone())), user, "{name} {value}");
    }
    for (name, value) in [
        ("iss", null.clone()),
        ("iss", json!("other")),
        ("aud", null.clone()),
        ("aud", json!("other")),
        ("aud", json!([])),
        ("exp", null.clone()),
        ("exp", json!("soon")),
        ("exp", json!(-1)),
        ("exp", json!(now - 90)),
        ("exp", json!(now + DAY + 120)),
        ("exp", json!(1e300)),
        ("iat", json!(now + 120)),
        ("iat", json!(now - 2 * DAY)),
        ("iat", json!("now")),
        ("nbf", json!(now + 120)),
        ("sub", null),
        ("sub", json!(7)),
    ] {
        assert!(verify(&with(name, value.clone())).is_err(), "{name} {value}");
    }
    for sub in ["", " 7", "7 ", "07", "+7", "-7", "7.0", "0x7", "٧", "9223372036854775808", "me"] {
        assert!(verify(&with("sub", json!(sub))).is_err(), "{sub}");
    }
    for (sub, id) in [("0", 0), ("9223372036854775807", (1 << 63) - 1)] {
        assert_eq!(verify(&with("sub", json!(sub))).unwrap().get(), id);
    }
}

#[test]
fn kids_and_users_can_be_revoked() {
    let signer = Signer::ed();
    let keys = parse(&jwks(&[("k", &signer)])).unwrap();
    let now = now();
    let verify = |revoked: &Revoked, claims: &Value| {
        keys.verify(&signer.token("k", claims), revoked, now).is_ok()
    };
    let mut revoked = Revoked::default();
    revoked.kids.insert("k".to_owned());
    assert!(!verify(&revoked, &claims()));

    let mut revoked = Revoked::default();
    revoked.issued_from.insert(UserId::from(7), now + 1);
    assert!(!verify(&revoked, &claims()));
    assert!(verify(&revoked, &with("sub", json!("8"))), "another user");
    assert!(verify(&revoked, &with("iat", json!(now + 1))), "a later token");
    let mut unstated = with("iat", Value::Null);
    assert!(!verify(&revoked, &unstated), "a token that may be older");
    unstated["nbf"] = json!(now + 1);
    assert!(verify(&revoked, &unstated), "nbf says the time instead of iat");
}

#[test]
fn only_files_with_usable_keys_are_accepted() {
    let (ed, ec, shared) = (Signer::ed(), Signer::ec(), Signer::shared());
    let all = parse(&jwks(&[("a", &ed), ("b", &ec), ("c", &shared)])).unwrap();
    assert!(all.len() == 3 && all.secret);
    assert!(!parse(&jwks(&[("a", &ed), ("b", &ec)])).unwrap().secret);
    let changed = |signer: &Signer, name: &str, value: Value| {
        let mut key = signer.jwk("k");
        match value {
            Value::Null => drop(key.as_object_mut().unwrap().remove(name)),
            value => key[name] = value,
        }
        json!({"keys": [key]}).to_string()
    };
    let short = base64([1; 31]);
    for refused in [
        changed(&shared, "alg", Value::Null),
        changed(&shared, "alg", json!("HS512")),
        changed(&shared, "alg", json!("EdDSA")),
        changed(&shared, "k", json!(short)),
        changed(&shared, "k", json!("not base64!")),
        changed(&ed, "alg", json!("HS256")),
        changed(&ed, "x", json!(short)),
        changed(&ed, "crv", json!("P-256")),
        changed(&ed, "kid", Value::Null),
        changed(&ed, "kid", json!("")),
        changed(&ec, "alg", json!("ES384")),
        changed(&ec, "crv", json!("P-384")),
        changed(&ec, "y", json!(short)),
        json!({"keys": [{"kid": "k", "kty": "RSA", "n": "AQAB", "e": "AQAB"}]}).to_string(),
        json!({"keys": [ed.jwk("k"), ec.jwk("k")]}).to_string(),
        "{}".to_owned(),
        "keys".to_owned(),
        String::new(),
    ] {
        assert!(parse(&refused).is_err(), "{refused}");
    }
}
