//! `tributary shards`: prints the state of every server and shard of a running server, once or
//! again and again.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde::Deserialize;
use tokio::time::sleep;
use tributary::config::ADMIN_LISTEN_DEFAULT;

use crate::terminal::{Cell, Colours, Look, table};
use crate::{Outcome, say};

/// The pause between two pictures.
const PAUSE: Duration = Duration::from_secs(2);

#[derive(Args, Debug)]
#[command(
    after_help = "The environment variable TRIBUTARY_CREDENTIAL holds a service key with the \
    scope admin, if the server needs one. Exit code 4 if a shard is not in service."
)]
pub(crate) struct Shards {
    /// The server's address for operators: http://HOST:PORT [default: http://127.0.0.1:7979]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Print the state every two seconds until Ctrl-C
    #[arg(long)]
    watch: bool,
}

/// The parts of `GET /shards` that are printed. Others are ignored.
#[derive(Deserialize)]
struct State {
    servers: Vec<Server>,
    shards: Vec<Shard>,
    memory: Vec<Log>,
}

#[derive(Deserialize)]
struct Server {
    name: String,
    connections: u64,
    waiting: u64,
    rejected: u64,
}

#[derive(Deserialize)]
struct Shard {
    name: String,
    server: Option<String>,
    status: String,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct Log {
    log: String,
    followed: bool,
}

impl Shards {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let url = self.url.unwrap_or_else(|| format!("http://{ADMIN_LISTEN_DEFAULT}"));
        let colours = Colours::of_output();
        loop {
            let state = read(&url).await;
            if !self.watch {
                let state = state?;
                say(picture(&state, colours).trim_end());
                let complete = state.shards.iter().all(|shard| shard.status == "ok");
                return Ok(if complete { Outcome::Done } else { Outcome::Partial });
            }
            let text = match state {
                Ok(state) => picture(&state, colours),
                // The server may come back, so the watch continues.
                Err(error) => colours.apply(Look::Bad, &format!("{url}: {error:#}")) + "\n",
            };
            say(format_args!("{}{}", colours.clear(), text));
            sleep(PAUSE).await;
        }
    }
}

async fn read(url: &str) -> Result<State> {
    let body = tributary_bench::get(url, "/shards").await?;
    serde_json::from_slice(&body).with_context(|| format!("{url}/shards is no state of shards"))
}

/// The state as text: shards, then servers, then logs.
fn picture(state: &State, colours: Colours) -> String {
    let shard = |shard: &Shard| {
        let look = match shard.status.as_str() {
            "ok" => Look::Good,
            "missing" => Look::Bad,
            _ => Look::Warning,
        };
        vec![
            Cell::text(Look::Bold, &shard.name),
            Cell::text(look, &shard.status),
            Cell::text(Look::Plain, shard.server.as_deref().unwrap_or("-")),
            Cell::text(Look::Dim, shard.reason.as_deref().unwrap_or("")),
        ]
    };
    let shards: Vec<Vec<Cell>> = state.shards.iter().map(shard).collect();
    let mut text = table(colours, &["shard", "state", "server", "reason"], &shards);
    if !state.servers.is_empty() {
        let server = |server: &Server| {
            vec![
                Cell::text(Look::Bold, &server.name),
                Cell::number(server.connections),
                Cell::number(server.waiting),
                Cell::number(server.rejected),
            ]
        };
        let servers: Vec<Vec<Cell>> = state.servers.iter().map(server).collect();
        text.push('\n');
        text.push_str(&table(colours, &["server", "connections", "waiting", "rejected"], &servers));
    }
    if !state.memory.is_empty() {
        let log = |log: &Log| {
            let (look, state) = match log.followed {
                true => (Look::Good, "up to date"),
                false => (Look::Warning, "not followed"),
            };
            vec![Cell::text(Look::Bold, &log.log), Cell::text(look, state)]
        };
        let logs: Vec<Vec<Cell>> = state.memory.iter().map(log).collect();
        text.push('\n');
        text.push_str(&table(colours, &["log", "memory"], &logs));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_printed_as_tables() {
        let state = serde_json::json!({
            "servers": [{"name": "db0", "connections": 16, "waiting": 0, "rejected": 2}],
            "shards": [
                {"name": "s0", "server": "db0", "status": "ok", "reason": null, "foreign_writes": 0},
                {"name": "s1", "server": null, "status": "missing", "reason": "refused"},
            ],
            "memory": [{"log": "db0", "followed": false}],
        });
        let state: State = serde_json::from_value(state).unwrap();
        assert_eq!(
            picture(&state, Colours::none()),
            "shard  state    server  reason\ns0     ok       db0\ns1     missing  -       refused\n\n\
             server  connections  waiting  rejected\ndb0              16        0         2\n\n\
             log  memory\ndb0  not followed\n"
        );
    }
}
