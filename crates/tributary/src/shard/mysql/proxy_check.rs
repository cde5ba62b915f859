//! Checks what is at an address: the server itself, a proxy, or several servers. Pages can be read
//! through a proxy, but memory needs the log of one server.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::dial::dial;
use super::source::ServerId;
use super::source::log::FeedError;
use super::source::wire::try_stream;
use crate::config::ServerConfig;
use crate::shard::{Deadline, Finding, ShardError};

/// Time limit for each of the two checks that open further connections.
const EXTRA_DEADLINE: Duration = Duration::from_secs(4);
/// Connections that are open at the same time to find several servers. Of two servers that are
/// chosen at random, both are found in 31 of 32 cases.
const CONNECTIONS: usize = 6;

/// A warning if a proxy hides the server, or if it does not send the server's log.
pub(super) async fn proxy(
    connection: &mut Conn,
    config: &ServerConfig,
) -> Result<Option<Finding>, ShardError> {
    let reason = match other_version(connection).await? {
        Some(reason) => Some(reason),
        None => refused_log(config).await,
    };
    Ok(reason.map(|reason| {
        let text = format!(
            "a proxy answers at this address ({reason}); pages can be read through it, but memory \
             follows the server's log, which needs the server's own address"
        );
        let cure = "set address to the host and port of the server itself; or memory.budget = 0";
        Finding::warning("proxy", text).cure(cure)
    }))
}

/// A sentence if the greeting or `VERSION()` shows another version than the server's variable.
async fn other_version(connection: &mut Conn) -> Result<Option<String>, ShardError> {
    let sql = "SHOW GLOBAL VARIABLES LIKE 'version'";
    let variable: Option<(String, String)> = connection.query_first(sql).await?;
    let function: Option<String> = connection.query_first("SELECT VERSION()").await?;
    let server = variable.and_then(|(_, text)| numbers(&text));
    let answered = function.and_then(|text| numbers(&text));
    let greeted = Some(connection.server_version()).filter(|version| *version != (0, 0, 0));
    let Some(server) = server else { return Ok(None) };
    let other = [greeted, answered].into_iter().flatten().find(|version| *version != server);
    let dotted = |(major, minor, patch)| format!("{major}.{minor}.{patch}");
    Ok(other.map(|other| {
        format!("it names version {}, but the server is {}", dotted(other), dotted(server))
    }))
}

/// The three numbers of a version such as `10.11.6-MariaDB-log`.
fn numbers(version: &str) -> Option<(u16, u16, u16)> {
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

/// The reason if the address refuses to send a log. Missing rights and settings are reported by
/// other checks.
async fn refused_log(config: &ServerConfig) -> Option<String> {
    let attempt = async { try_stream(dial(config, EXTRA_DEADLINE).await?).await };
    match Deadline::after(EXTRA_DEADLINE).limit(attempt).await {
        Some(Err(FeedError::LogRefused(reason))) => Some(reason),
        _ => None,
    }
}

/// A warning if the address leads to several servers.
pub(super) async fn several_servers(config: &ServerConfig) -> Option<Finding> {
    let connections = join_all((0..CONNECTIONS).map(|_| dial(config, EXTRA_DEADLINE)));
    let connections = Deadline::after(EXTRA_DEADLINE).limit(connections).await?;
    // A refused connection is no fault here: the account may have a limit.
    let mut connections: Vec<Conn> = connections.into_iter().flatten().collect();
    let servers = Deadline::after(EXTRA_DEADLINE).limit(identities(&mut connections)).await;
    for connection in connections {
        drop(Deadline::after(EXTRA_DEADLINE).limit(connection.disconnect()).await);
    }
    let servers = servers.filter(|servers| *servers > 1)?;
    let text = format!(
        "the address leads to {servers} servers: a write and the next read can use different ones, \
         so freshness tokens are lost, and memory starts again each time its log connection \
         reaches another server"
    );
    let cure = "give the address of one server, the one that is written";
    Some(Finding::warning("several_servers", text).cure(cure))
}

/// The number of servers that these connections lead to.
pub(super) async fn identities(connections: &mut [Conn]) -> usize {
    let found = join_all(connections.iter_mut().map(ServerId::query)).await;
    found.into_iter().flatten().collect::<HashSet<_>>().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for (text, expected) in [
            ("9.7.4", Some((9, 7, 4))),
            ("10.11.6-MariaDB-1:10.11.6+maria~deb12-log", Some((10, 11, 6))),
            ("8.0.11-log", Some((8, 0, 11))),
            ("8.0", None),
            ("", None),
        ] {
            assert_eq!(numbers(text), expected, "{text}");
        }
    }
}
