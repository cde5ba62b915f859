//! Looking at servers from outside, for `tributary check`: what tables there are, whose rows lie
//! where, how the server is set. It writes nothing and reads no more than samples.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use rand::RngExt;

use super::server::dial;
use super::settings;
use super::statements::time_value;
use super::{check, log_check, write_check};
use crate::clock::now_ms;
use crate::config::{ServerConfig, Servers, ShardConfig, Write};
use crate::mapping::Tables;
use crate::model::{ID_MAX, UserId};
use crate::moment::{TimeUnit, Zone};
use crate::shard::infer::{ColumnShape, TableShape, infer};
use crate::shard::schema::quoted;
use crate::shard::{Deadline, Finding, ShardError};

/// How long looking at one server may take; its statements end by themselves before that.
const SURVEY_DEADLINE: Duration = Duration::from_secs(20);
/// How long users of one table are looked up: a server may be far away.
const SAMPLE_TIME: Duration = Duration::from_secs(4);
/// Places in a table's ids where users are looked up.
const PROBES: usize = 300;
/// Columns of one database that are looked at.
const COLUMNS_MAX: usize = 20_000;
/// Values by which the unit of an integer time is told.
const TIMES: usize = 100;
/// Below are seconds until the year 5138, and milliseconds until 1973.
const SECONDS_END: i64 = 100_000_000_000;
/// Below are milliseconds until the year 5138, and microseconds until 1973.
const MILLISECONDS_END: i64 = 100_000_000_000_000;
/// Posts so far in the future speak for a wrong zone rather than for clocks that differ.
const FUTURE_MS: i64 = 5 * 60_000;

/// What was seen of a fleet.
#[derive(Debug, Default)]
pub struct Survey {
    /// What is to be mended, each with the server or the shard it is about.
    pub findings: Vec<(String, Finding)>,
    /// Some users with rows on each shard, in configured order.
    pub samples: Vec<Vec<UserId>>,
}

/// Finds the tables of a fleet, which must be the same on all shards; `zone` is where its dates
/// belong, if that was said.
pub async fn find_tables(
    servers: &Servers,
    zone: Option<&Zone>,
) -> (Option<Tables>, Vec<(String, Finding)>) {
    let found = on_each_shard(servers, async |connection, database| {
        find_on(connection, database, zone).await
    });
    let mut first: Option<(String, FoundTables)> = None;
    let mut findings = Vec::new();
    for (subject, outcome) in found.await {
        match outcome {
            Err(finding) => findings.push((subject, finding)),
            Ok(Err(faults)) => findings.extend(faults.into_iter().map(|f| (subject.clone(), f))),
            Ok(Ok(found)) => match &mut first {
                None => {
                    findings.extend(found.notes.iter().map(|note| (subject.clone(), note.clone())));
                    first = Some((subject, found));
                }
                Some((other, same)) => {
                    if !same.join(&found.tables, found.unit) {
                        let text = format!("its tables are not those of {other}");
                        let finding = Finding::error("different_tables", text)
                            .cure(format!("the same tables as on {other}"));
                        findings.push((subject, finding));
                    }
                }
            },
        }
    }
    if let Some((subject, found)) = &first
        && found.unit.is_none()
    {
        let text = "the posts hold no time yet; milliseconds are assumed";
        let finding = Finding::warning("unit_assumed", text).cure("unit under [tables.posts]");
        findings.push((subject.clone(), finding));
    }
    (first.map(|(_, found)| found.tables), findings)
}

/// The tables of a shard, as far as they can be told.
struct FoundTables {
    tables: Tables,
    /// Of the time column, unless there is no time to tell it by.
    unit: Option<TimeUnit>,
    notes: Vec<Finding>,
}

impl FoundTables {
    /// Adds what another shard knows; false if its tables are others. Users that not all shards
    /// know are left out.
    fn join(&mut self, tables: &Tables, unit: Option<TimeUnit>) -> bool {
        if self.unit.is_none() {
            self.unit = unit;
            self.tables.posts.unit = unit.unwrap_or(self.tables.posts.unit);
        }
        if self.tables.users != tables.users {
            self.tables.users = None;
        }
        let mut other = tables.clone();
        other.users.clone_from(&self.tables.users);
        other.posts.unit = unit.unwrap_or(self.tables.posts.unit);
        other == self.tables
    }
}

/// Looks at everything that a fleet of this configuration stands on.
pub async fn survey(servers: &Servers, write: &Write) -> Survey {
    let tables = &servers.tables;
    let of_servers = join_all(servers.servers.iter().map(async |(name, server)| {
        let subject = format!("server {name}");
        let outcome = with_server(server, async |connection| settings::check(connection).await);
        outcome.await.map(|findings| findings.into_iter().map(|f| (subject.clone(), f)).collect())
    }));
    let of_shards = on_each_shard(servers, async |connection, database| {
        survey_shard(connection, database, tables, write).await
    });
    let mut survey = Survey::default();
    // A server that cannot be reached is told for its shards.
    let of_servers: Vec<Vec<_>> = of_servers.await.into_iter().flatten().collect();
    for (subject, outcome) in of_shards.await {
        let (findings, sample) = outcome.unwrap_or_else(|finding| (vec![finding], Vec::new()));
        survey.findings.extend(findings.into_iter().map(|finding| (subject.clone(), finding)));
        survey.samples.push(sample);
    }
    survey.findings.extend(of_servers.into_iter().flatten());
    survey
}

/// Calls `look` for every shard, on a connection of its own, servers at the same time and the
/// shards of a server one after the other. The answers come in configured order.
async fn on_each_shard<T>(
    servers: &Servers,
    look: impl AsyncFn(&mut Conn, &str) -> Result<T, ShardError>,
) -> Vec<(String, Result<T, Finding>)> {
    let look = &look;
    let of_servers = servers.servers.iter().map(async |(name, server)| {
        let mut answers = Vec::new();
        for (index, shard) in servers.shards.iter().enumerate() {
            if shard.server == *name {
                let answer =
                    with_server(server, async |connection| look(connection, &shard.database).await);
                answers.push((index, (format!("shard {}", shard.name), answer.await)));
            }
        }
        answers
    });
    let mut answers: Vec<_> = join_all(of_servers).await.into_iter().flatten().collect();
    answers.sort_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

async fn with_server<T>(
    server: &ServerConfig,
    look: impl AsyncFnOnce(&mut Conn) -> Result<T, ShardError>,
) -> Result<T, Finding> {
    let looking = async {
        let mut connection = dial(server, SURVEY_DEADLINE / 4).await?;
        let outcome = look(&mut connection).await;
        drop(connection.disconnect().await);
        outcome
    };
    let outcome = Deadline::after(SURVEY_DEADLINE).in_time(looking).await;
    outcome.map_err(|error| match error {
        ShardError::Unavailable(text) => Finding::error("unreachable", text)
            .cure(format!("a server that answers at {}, or the right address", server.address)),
        ShardError::Slow(text) => Finding::error("too_slow", text),
        ShardError::Faulty(text) => Finding::error("refused", text),
        other => Finding::error("unreadable", other.to_string()),
    })
}

async fn find_on(
    connection: &mut Conn,
    database: &str,
    zone: Option<&Zone>,
) -> Result<Result<FoundTables, Vec<Finding>>, ShardError> {
    let shapes = shapes(connection, database).await?;
    if shapes.is_empty() {
        let account = check::account(connection).await?;
        let text = "the database is not there, or holds no table that this account may read";
        let cure = format!(
            "GRANT SELECT ON {}.* TO {account}; or, for a new fleet, a configuration written by hand \
             and `tributary migrate`",
            quoted(database)
        );
        return Ok(Err(vec![Finding::error("no_table", text).cure(cure)]));
    }
    let (mut tables, mut notes) = match infer(&shapes) {
        Ok(found) => found,
        Err(faults) => return Ok(Err(faults)),
    };
    let time = shapes
        .iter()
        .find(|shape| shape.name == tables.posts.name)
        .and_then(|shape| shape.columns.iter().find(|column| column.name == tables.posts.time));
    let unit = match time.map_or("", |column| column.kind.as_str()) {
        "datetime" => {
            tables.posts.zone = zone.cloned().unwrap_or_default();
            if zone.is_none() {
                let text = format!(
                    "`{}` is a DATETIME, which does not say its zone; UTC is assumed",
                    tables.posts.time
                );
                let finding = Finding::warning("zone_assumed", text);
                notes.push(finding.cure("--zone with the zone of the programs that write it"));
            }
            Some(tables.posts.unit)
        }
        "timestamp" => Some(tables.posts.unit),
        _ => unit(connection, database, &tables).await?,
    };
    tables.posts.unit = unit.unwrap_or(tables.posts.unit);
    Ok(Ok(FoundTables { tables, unit, notes }))
}

async fn shapes(connection: &mut Conn, database: &str) -> Result<Vec<TableShape>, ShardError> {
    let sql = "SELECT CAST(table_name AS CHAR), CAST(column_name AS CHAR),
                LOWER(CAST(data_type AS CHAR)), datetime_precision, is_nullable = 'YES'
         FROM information_schema.columns WHERE table_schema = ?
         ORDER BY table_name, ordinal_position LIMIT ?";
    type ColumnRow = (String, String, String, Option<u8>, bool);
    let columns: Vec<ColumnRow> = connection.exec(sql, (database, COLUMNS_MAX)).await?;
    let mut shapes: Vec<TableShape> = Vec::new();
    for (table, name, kind, digits, nullable) in columns {
        let column = ColumnShape { name, kind, digits, nullable };
        match shapes.last_mut().filter(|shape| shape.name == table) {
            Some(shape) => shape.columns.push(column),
            None => shapes.push(TableShape { name: table, columns: vec![column] }),
        }
    }
    Ok(shapes)
}

/// The unit that the values of an integer time column speak for, if there are any.
async fn unit(
    connection: &mut Conn,
    database: &str,
    tables: &Tables,
) -> Result<Option<TimeUnit>, ShardError> {
    let posts = &tables.posts;
    let (table, time) = (quoted(&posts.name), quoted(&posts.time));
    let sql = format!(
        "SELECT {time} FROM {}.{table} WHERE {time} IS NOT NULL LIMIT {TIMES}",
        quoted(database)
    );
    let rows: Vec<Row> = connection.exec(sql, ()).await?;
    let mut times: Vec<i64> = rows.iter().filter_map(|row| row.get_opt(0)?.ok()).collect();
    times.sort_unstable();
    Ok(times.get(times.len() / 2).map(|middle| match middle.saturating_abs() {
        ..SECONDS_END => TimeUnit::Seconds,
        SECONDS_END..MILLISECONDS_END => TimeUnit::Milliseconds,
        _ => TimeUnit::Microseconds,
    }))
}

/// What is wrong with one shard, and some of its users.
async fn survey_shard(
    connection: &mut Conn,
    database: &str,
    tables: &Tables,
    write: &Write,
) -> Result<(Vec<Finding>, Vec<UserId>), ShardError> {
    let (follows, posts) = (&tables.follows, &tables.posts);
    let mut sample = sample(connection, database, &follows.name, &follows.follower).await?;
    sample.extend(self::sample(connection, database, &posts.name, &posts.author).await?);
    sample.sort_unstable();
    sample.dedup();
    let statements = match check::tables(connection, database, tables).await? {
        Ok(statements) => statements,
        Err(faults) => return Ok((faults, sample)),
    };
    let mut findings = log_check::unlogged_changes(connection, database, tables).await?;
    if write.enabled {
        let bytes_max = write.content_bytes_max;
        match write_check::tables(connection, database, tables, bytes_max, &statements).await {
            Err(ShardError::Faulty(text)) => findings.push(Finding::error("cannot_write", text)),
            other => other?,
        }
        findings.extend(write_check::side_effects(connection, database, tables).await?);
    } else if let Err(text) = &statements.loadable {
        findings.push(Finding::warning("not_unique", text.clone()));
    }
    let numbers = !matches!(posts.unit, TimeUnit::DateTime { .. });
    match unit(connection, database, tables).await {
        Ok(Some(unit)) if numbers && unit != posts.unit => {
            let text =
                format!("the times of `{}` look like {unit}, not like {}", posts.name, posts.unit);
            let cure = format!("unit = \"{unit}\" under [tables.posts]");
            findings.push(Finding::error("wrong_unit", text).cure(cure));
        }
        _ => findings.extend(in_the_future(connection, database, tables).await?),
    }
    Ok((findings, sample))
}

/// Users with rows in the table: at its ends and at places between them, by one look into an index
/// each.
async fn sample(
    connection: &mut Conn,
    database: &str,
    table: &str,
    column: &str,
) -> Result<Vec<UserId>, ShardError> {
    let (column, from) = (quoted(column), format!("{}.{}", quoted(database), quoted(table)));
    let next = format!("SELECT MIN({column}) FROM {from} WHERE {column} >= ?");
    let last = format!("SELECT MAX({column}) FROM {from} WHERE {column} <= ?");
    let start = Instant::now();
    // Without an index each look may be too slow, and there may be no table: that is told elsewhere.
    let Ok(Some(max)) = number(connection, &last, ID_MAX).await else { return Ok(Vec::new()) };
    let mut users = vec![UserId(max)];
    let mut from = 0;
    for probe in 0..PROBES {
        if start.elapsed() > SAMPLE_TIME {
            break;
        }
        let user = match number(connection, &next, from).await {
            Ok(Some(user)) => user,
            Ok(None) | Err(ShardError::Slow(_)) => break,
            Err(error) => return Err(error),
        };
        users.push(UserId(user));
        // The first users one by one, then pairs of neighbours anywhere.
        from = match probe {
            _ if user >= max => rand::rng().random_range(0..=max),
            ..50 => user + 1,
            probe if probe % 2 == 0 => user + 1,
            _ => rand::rng().random_range(0..=max),
        };
    }
    Ok(users)
}

/// The one number of an answer, if it is there and no id is out of range.
async fn number(
    connection: &mut Conn,
    sql: &str,
    value: impl Into<mysql_async::Value>,
) -> Result<Option<u64>, ShardError> {
    let row: Option<Row> = connection.exec_first(sql, vec![value.into()]).await?;
    Ok(row.and_then(|row| row.get_opt(0)?.ok()))
}

/// Whether there are posts that, by unit and zone, have not been written yet.
async fn in_the_future(
    connection: &mut Conn,
    database: &str,
    tables: &Tables,
) -> Result<Option<Finding>, ShardError> {
    let posts = &tables.posts;
    let (table, time, author) = (quoted(&posts.name), quoted(&posts.time), quoted(&posts.author));
    let end = time_value(posts.unit, posts.times().stored(now_ms() + FUTURE_MS));
    // Over the index that starts with the author, so of some authors only.
    let sql = format!(
        "SELECT COUNT(*) FROM (SELECT {time} AS t FROM {}.{table} ORDER BY {author} DESC
         LIMIT 1000) AS some WHERE t > ?",
        quoted(database)
    );
    let count = number(connection, &sql, end).await?;
    Ok(count.filter(|count| *count > 0).map(|_| {
        let text = format!("posts of `{}` lie in the future", posts.name);
        let cure = match posts.unit {
            TimeUnit::DateTime { .. } => {
                "zone under [tables.posts]: that of the programs that write it"
            }
            _ => "clocks of the programs that write it, or unit under [tables.posts]",
        };
        Finding::warning("future_posts", text).cure(cure)
    }))
}

/// Users whose rows lie on a shard that does not own them, as findings of these shards.
pub fn strays(
    servers: &Servers,
    strays: &[Vec<UserId>],
    samples: &[Vec<UserId>],
) -> Vec<(String, Finding)> {
    let tables = &servers.tables;
    let of_shard = |(shard, (strays, sample)): (&ShardConfig, (&Vec<UserId>, &Vec<UserId>))| {
        let first: Vec<String> = strays.iter().take(5).map(UserId::to_string).collect();
        let text = format!(
            "{} of {} users looked at belong on other shards, such as {}: their rows here are not read",
            strays.len(),
            sample.len(),
            first.join(", ")
        );
        let list = |table: &str, column: &str| {
            let (database, table, column) =
                (quoted(&shard.database), quoted(table), quoted(column));
            format!("SELECT * FROM {database}.{table} WHERE {column} IN ({})", first.join(", "))
        };
        let cure = format!(
            "moving them to their own shards; they are among {}; and {}",
            list(&tables.posts.name, &tables.posts.author),
            list(&tables.follows.name, &tables.follows.follower)
        );
        (format!("shard {}", shard.name), Finding::error("wrong_shard", text).cure(cure))
    };
    let shards = servers.shards.iter().zip(strays.iter().zip(samples));
    shards.filter(|(_, (strays, _))| !strays.is_empty()).map(of_shard).collect()
}
