//! Every problem that an answer can report: its status, its code and its cause. The description of
//! the interface has this list; a test compares it with the errors and with `docs/problems.md`.

/// Status, code and cause.
pub(super) type ProblemKind = (u16, &'static str, &'static str);

/// Sorted by status.
pub(super) const PROBLEMS: [ProblemKind; 40] = [
    (400, "invalid_user_id", "not a decimal number from 0 to 2^63-1"),
    (400, "invalid_limit", "not from 1 to 100"),
    (
        400,
        "invalid_cursor",
        "not a cursor of this server, or one of another list or reader; start at the newest page",
    ),
    (
        400,
        "invalid_freshness",
        "a Tributary-Freshness or Last-Event-ID header, or a since, that is not a token of this server",
    ),
    (
        400,
        "invalid_query",
        "a repeated parameter, an unknown value of require, explain or memory, or memory without explain",
    ),
    (400, "invalid_post_id", "as for users"),
    (400, "invalid_idempotency_key", "not 1 to 255 visible ASCII characters, or two keys"),
    (
        400,
        "invalid_body",
        "not the expected JSON object, an unknown field, not UTF-8, or nested more than eight levels deep",
    ),
    (400, "broken_body", "the body ended early, or its chunks are malformed"),
    (401, "unauthenticated", "no valid credential"),
    (401, "sign_in_refused", "the credential of the form is not valid, or too long for a cookie"),
    (
        403,
        "cross_site",
        "the credential is in a cookie, or the request is a form, and no page of this server has sent it",
    ),
    (403, "missing_scope", "the credential is not allowed to do this; the detail names the scope"),
    (
        403,
        "local_only",
        "no credentials are configured, and the request has passed a proxy or comes from a page of another site",
    ),
    (403, "read_only", "writes are not enabled"),
    (404, "not_found", "no such address, no such post, or an object of another user"),
    (405, "method_not_allowed", "see the Allow header"),
    (408, "body_too_slow", "the body took longer than ten seconds"),
    (409, "idempotency_key_reused", "the key belongs to a post with another text or reference"),
    (413, "body_too_large", "more than 64 KiB, or more than six times the longest text"),
    (414, "uri_too_long", "more than 8 KiB"),
    (415, "unsupported_media_type", "the body is not application/json"),
    (
        421,
        "unknown_host",
        "no credentials are configured, and the Host header does not name this machine; see http.hosts",
    ),
    (422, "invalid_content", "too short, too long, or not storable without changes"),
    (422, "too_many_follows", "more than 1,000 in one request"),
    (
        422,
        "refused",
        "a rule of the database, such as a foreign key, forbids it; or a row of the same users exists that is not visible, such as a follow request",
    ),
    (
        422,
        "too_many_followees",
        "the user follows more than 100,000 users, or would with this request; nothing was stored",
    ),
    (
        422,
        "future_post",
        "the post is dated more than 60 s ahead, so the read marker cannot move to it",
    ),
    (429, "too_many_requests", "the client has used its units; wait for Retry-After"),
    (429, "too_many_in_flight", "too many requests of this client are being worked on"),
    (431, "too_many_headers", "more than 100"),
    (500, "internal", "a bug; the log has details under the trace id"),
    (501, "no_streams", "the server has no memory that follows the logs; use pages"),
    (
        501,
        "not_stored",
        "the shards have no table or index for this; the detail has the statement that creates it",
    ),
    (
        503,
        "incomplete",
        "the request had require=complete, and shards are missing or stale, or the page is less fresh than its token",
    ),
    (503, "in_doubt", "it is unknown whether the write was stored; repeat it"),
    (
        503,
        "overloaded",
        "answers or bodies of other clients take too many bytes at the moment; nothing was stored",
    ),
    (503, "shard_unavailable", "the user's shard does not accept the write; nothing was stored"),
    (
        503,
        "too_many_streams",
        "the node has as many streams as it may have, or it stops; try again, perhaps on another node",
    ),
    (507, "storage_full", "the user's shard has no room; nothing was stored"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::http::StatusCode;

    use super::*;

    /// The pairs of status and code in the text of `error.rs`: `(StatusCode::NOT_FOUND, "code")`.
    fn errors() -> BTreeSet<(u16, String)> {
        let text = include_str!("error.rs");
        let parts = text.split("(StatusCode::").skip(1).filter_map(|part| part.split_once(", \""));
        parts
            .map(|(name, rest)| {
                let known = (100..600).filter_map(|code| StatusCode::from_u16(code).ok());
                let named = |status: &StatusCode| {
                    let reason = status.canonical_reason().unwrap_or_default();
                    reason.to_uppercase().replace([' ', '-'], "_") == name
                };
                let status = known.into_iter().find(named).map_or(0, |status| status.as_u16());
                (status, rest.split('"').next().unwrap().to_owned())
            })
            .collect()
    }

    #[test]
    fn every_error_is_in_the_list_of_problems() {
        let list = PROBLEMS.iter().map(|(status, code, _)| (*status, (*code).to_owned()));
        assert_eq!(list.collect::<BTreeSet<_>>(), errors());
        assert!(PROBLEMS.is_sorted_by_key(|(status, ..)| *status));
    }
}
