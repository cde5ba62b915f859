//! The audit log: changes of credentials and administrative acts, as log lines with the target
//! `tributary::audit`. They never contain secrets.

use tracing::info;

use super::auth::{KeyFile, Principal};

/// The target of all lines.
const TARGET: &str = "tributary::audit";
/// Changes of one reload that are logged one by one.
const LINES_MAX: usize = 100;

/// An act of an administrator.
pub(super) fn act(act: &str, principal: &Principal, outcome: &str) {
    match principal {
        Principal::Service { id, .. } => info!(target: TARGET, act, key = %id, outcome, "Audit"),
        _ => info!(target: TARGET, act, outcome, "Audit: no credentials are configured"),
    }
}

/// An act that a signal to the process has requested.
pub(super) fn signal(act: &str, outcome: &str) {
    info!(target: TARGET, act, outcome, "Audit: requested by a signal");
}

/// The differences between the earlier file of keys and the one that takes effect.
pub(super) fn keys_changed(old: &KeyFile, new: &KeyFile) {
    let changes = changes(old, new);
    for change in changes.iter().take(LINES_MAX) {
        info!(target: TARGET, change, "Audit: credentials changed");
    }
    if changes.len() > LINES_MAX {
        let more = changes.len() - LINES_MAX;
        info!(target: TARGET, more, "Audit: further credentials changed");
    }
}

/// The keys that verify user tokens before and after a reload.
pub(super) fn token_keys_changed(old: &[&str], new: &[&str]) {
    info!(target: TARGET, ?old, ?new, "Audit: keys of user tokens changed");
}

/// Another certificate takes effect.
pub(super) fn certificate_changed(file: &str) {
    info!(target: TARGET, file, "Audit: certificate changed");
}

/// The differences as texts.
fn changes(old: &KeyFile, new: &KeyFile) -> Vec<String> {
    let mut changes = Vec::new();
    for (id, key) in new.keys() {
        let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.name()).collect();
        let described = format!("key {id} ({:?}, {})", key.name, scopes.join(" "));
        let Some(before) = old.keys().get(id) else {
            changes.push(format!("{described} was added"));
            continue;
        };
        if (&before.name, &before.scopes, before.expires) != (&key.name, &key.scopes, key.expires) {
            changes.push(format!("{described} has another name, scope or expiry"));
        }
        let secrets = |key: &super::auth::ServiceKey| -> Vec<(u32, Option<i64>)> {
            key.secrets.iter().map(|secret| (secret.id, secret.expires)).collect()
        };
        let (was, is) = (secrets(before), secrets(key));
        for (secret, _) in is.iter().filter(|(id, _)| !was.iter().any(|(old, _)| old == id)) {
            changes.push(format!("key {id}: secret {secret} was added"));
        }
        for (secret, _) in was.iter().filter(|(id, _)| !is.iter().any(|(new, _)| new == id)) {
            changes.push(format!("key {id}: secret {secret} was revoked"));
        }
        for (secret, expires) in &is {
            if was.iter().any(|(id, old)| id == secret && old != expires) {
                changes.push(format!("key {id}: secret {secret} has another expiry"));
            }
        }
    }
    let gone = old.keys().keys().filter(|id| !new.keys().contains_key(*id));
    changes.extend(gone.map(|id| format!("key {id} was revoked")));
    let (before, now) = (old.revoked(), new.revoked());
    changes.extend(now.kids.difference(&before.kids).map(|kid| format!("kid {kid:?} was revoked")));
    let restored = before.kids.difference(&now.kids);
    changes.extend(restored.map(|kid| format!("kid {kid:?} is no longer revoked")));
    let users =
        now.issued_from.iter().filter(|(user, at)| before.issued_from.get(user) != Some(at));
    changes.extend(users.map(|(user, _)| format!("tokens of user {user} were revoked")));
    changes
}

#[cfg(test)]
mod tests {
    use super::super::Scope;
    use super::*;

    #[test]
    fn each_change_of_credentials_is_named_without_secrets() {
        let mut old = KeyFile::default();
        let credential = old.create("web", &[Scope::Admin], None, 7).unwrap();
        let id = credential.split('_').nth(1).unwrap();
        assert_eq!(
            changes(&KeyFile::default(), &old),
            [format!(r#"key {id} ("web", admin) was added"#)]
        );
        let reread = |keys: &KeyFile| KeyFile::parse(&keys.text()).unwrap();
        let mut new = reread(&old);
        new.rotate(id, Some(100), 8).unwrap();
        new.revoke_kid("k");
        new.revoke_user(tributary::UserId::from(4), 9, 0);
        assert_eq!(
            changes(&old, &new),
            [
                format!("key {id}: secret 2 was added"),
                format!("key {id}: secret 1 has another expiry"),
                r#"kid "k" was revoked"#.to_owned(),
                "tokens of user 4 were revoked".to_owned(),
            ]
        );
        assert!(changes(&new, &reread(&new)).is_empty());
        let mut last = reread(&new);
        last.revoke(id, Some(1)).unwrap();
        assert_eq!(changes(&new, &last), [format!("key {id}: secret 1 was revoked")]);
        last.revoke(id, None).unwrap();
        assert_eq!(changes(&new, &last), [format!("key {id} was revoked")]);
    }
}
