//! How a server is set: what the change feed and the safety of posts need of it.

use std::collections::BTreeMap;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::log_check::{BREAKS_FEED, rights, unlogged_replication};
use crate::clock::now_ms;
use crate::shard::{Finding, ShardError};

/// Clocks that differ by more put posts into a wrong order.
const SKEW_MS: i64 = 1_000;

/// A variable, what it must be, and what it is good for.
const WANTED: [(&str, &str, &str); 8] = [
    ("log_bin", "ON", BREAKS_FEED),
    ("binlog_format", "ROW", BREAKS_FEED),
    ("binlog_row_image", "FULL", BREAKS_FEED),
    ("binlog_row_metadata", "FULL", BREAKS_FEED),
    // MySQL alone has these two.
    ("gtid_mode", "ON", BREAKS_FEED),
    ("binlog_order_commits", "ON", BREAKS_FEED),
    ("sync_binlog", "1", RISKS_POSTS),
    ("innodb_flush_log_at_trx_commit", "1", RISKS_POSTS),
];
/// What tells whether the log holds all that others wrote.
const REPLICATION_VARIABLES: [&str; 4] =
    ["read_only", "wsrep_on", "log_slave_updates", "log_replica_updates"];
const RISKS_POSTS: &str = "a post that was acknowledged may be lost when the machine fails";

/// What is not as it should be on this server. All of it can be lived with.
pub(super) async fn check(connection: &mut Conn) -> Result<Vec<Finding>, ShardError> {
    let mut findings = Vec::new();
    findings.extend(skew(connection).await?);
    let names = WANTED.iter().map(|(name, ..)| name).chain(&REPLICATION_VARIABLES);
    let names: Vec<String> = names.map(|name| format!("'{name}'")).collect();
    let sql = format!("SHOW GLOBAL VARIABLES WHERE variable_name IN ({})", names.join(", "));
    let found: Vec<(String, String)> = connection.query(sql).await?;
    let found: BTreeMap<String, String> = found.into_iter().collect();
    for (name, wanted, what_for) in WANTED {
        let Some(value) = found.get(name).filter(|value| !value.eq_ignore_ascii_case(wanted))
        else {
            continue;
        };
        let text = format!("{name} is {value}, not {wanted}: {what_for}");
        let cure = match name {
            "log_bin" => "log_bin in the server's configuration, and a restart".to_owned(),
            "gtid_mode" => "gtid_mode = ON and enforce_gtid_consistency = ON in the server's \
                 configuration, and a restart"
                .to_owned(),
            _ => format!("SET GLOBAL {name} = {wanted}, and the same in its configuration"),
        };
        findings.push(Finding::warning("server_setting", text).cure(cure));
    }
    findings.extend(unlogged_replication(&found));
    findings.extend(rights(connection).await?);
    Ok(findings)
}

async fn skew(connection: &mut Conn) -> Result<Option<Finding>, ShardError> {
    let before = now_ms();
    let server: Option<i64> =
        connection.query_first("SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000 AS SIGNED)").await?;
    let after = now_ms();
    let Some(server) = server else { return Ok(None) };
    let off = if server < before { server - before } else { (server - after).max(0) };
    Ok((off.abs() > SKEW_MS).then(|| {
        let way = if off < 0 { "behind" } else { "ahead of" };
        let seconds = off.abs() as f64 / 1_000.0;
        let text = format!("its clock is {seconds:.1} s {way} this machine's");
        Finding::warning("clock_skew", text).cure("NTP on both machines")
    }))
}
