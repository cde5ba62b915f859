//! Checks the settings of a server that the change feed and the durability of posts depend on.

use std::collections::BTreeMap;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::log_check::{BREAKS_FEED, rights, unlogged_replication};
use crate::clock::now_ms;
use crate::shard::{Finding, ShardError};

/// Largest clock difference without a warning. A larger one orders posts wrongly.
const SKEW_MS: i64 = 1_000;

/// A variable, its required value, and the consequence of another value.
const WANTED: [(&str, &str, &str); 8] = [
    ("log_bin", "ON", BREAKS_FEED),
    ("binlog_format", "ROW", BREAKS_FEED),
    ("binlog_row_image", "FULL", BREAKS_FEED),
    ("binlog_row_metadata", "FULL", BREAKS_FEED),
    // Only MySQL has these two.
    ("gtid_mode", "ON", BREAKS_FEED),
    ("binlog_order_commits", "ON", BREAKS_FEED),
    ("sync_binlog", "1", RISKS_POSTS),
    ("innodb_flush_log_at_trx_commit", "1", RISKS_POSTS),
];
/// Variables that decide whether the log contains replicated changes.
const REPLICATION_VARIABLES: [&str; 4] =
    ["read_only", "wsrep_on", "log_slave_updates", "log_replica_updates"];
const RISKS_POSTS: &str = "a machine failure may lose an acknowledged post";

/// The warnings about this server. None of them prevents serving it.
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
            "log_bin" => "set log_bin in the server's configuration, and restart it".to_owned(),
            "gtid_mode" => "set gtid_mode = ON and enforce_gtid_consistency = ON in the server's \
                 configuration, and restart it"
                .to_owned(),
            _ => format!(
                "SET GLOBAL {name} = {wanted}, and set the same in the server's configuration"
            ),
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
        let seconds = off as f64 / 1_000.0;
        let text = format!("its clock differs from this machine's by {seconds:+.1} s");
        Finding::warning("clock_skew", text).cure("run NTP on both machines")
    }))
}
