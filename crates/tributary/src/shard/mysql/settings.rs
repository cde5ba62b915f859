//! Checks the settings of a server that the change feed and the durability of posts depend on.

use std::collections::BTreeMap;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::log_check::{BREAKS_FEED, rights, unlogged_replication};
use super::source::EVENT_BYTES_MAX;
use crate::clock::now_ms;
use crate::shard::{Finding, ShardError};

/// Largest clock difference without a warning. A larger one orders posts wrongly.
const SKEW_MS: i64 = 1_000;

/// The consequence of metadata without the names of columns.
const HIDES_COLUMNS: &str = "memory queries the columns of a table whenever the server opens it \
     again, and cannot follow a table with hidden columns";
/// A variable, its required value, and the consequence of another value.
const WANTED: [(&str, &str, &str); 8] = [
    ("log_bin", "ON", BREAKS_FEED),
    ("binlog_format", "ROW", BREAKS_FEED),
    ("binlog_row_image", "FULL", BREAKS_FEED),
    ("binlog_row_metadata", "FULL", HIDES_COLUMNS),
    // Only MySQL has these two.
    ("gtid_mode", "ON", BREAKS_FEED),
    ("binlog_order_commits", "ON", BREAKS_FEED),
    ("sync_binlog", "1", RISKS_POSTS),
    ("innodb_flush_log_at_trx_commit", "1", RISKS_POSTS),
];
/// The variable that limits the size of a row.
const MAX_PACKET: &str = "max_allowed_packet";
/// Variables that decide whether the log contains replicated changes.
const REPLICATION_VARIABLES: [&str; 4] =
    ["read_only", "wsrep_on", "log_slave_updates", "log_replica_updates"];
const RISKS_POSTS: &str = "a machine failure may lose an acknowledged post";

/// The warnings about this server. None of them prevents serving it.
pub(super) async fn check(connection: &mut Conn) -> Result<Vec<Finding>, ShardError> {
    let mut findings = Vec::new();
    findings.extend(skew(connection).await?);
    let names = WANTED.iter().map(|(name, ..)| name).chain(&REPLICATION_VARIABLES);
    let names = names.chain([&MAX_PACKET]);
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
    findings.extend(large_events(&found));
    findings.extend(unlogged_replication(&found));
    findings.extend(rights(connection).await?);
    Ok(findings)
}

/// A warning if the server accepts rows whose events are too large for the feed.
fn large_events(found: &BTreeMap<String, String>) -> Option<Finding> {
    let bytes: usize = found.get(MAX_PACKET)?.parse().ok()?;
    (bytes > EVENT_BYTES_MAX).then(|| {
        let text = format!(
            "{MAX_PACKET} is {bytes}: a row of more than {EVENT_BYTES_MAX} bytes, in any table, is \
             not read from the log, and copies of the shards that its transaction changes are read \
             again"
        );
        Finding::warning("server_setting", text).cure(format!(
            "SET GLOBAL {MAX_PACKET} = {EVENT_BYTES_MAX}, unless rows must be larger"
        ))
    })
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
