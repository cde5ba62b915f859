//! The survey of `tributary check`: the tables of each shard, samples of their users, and the
//! settings of each server. It writes nothing and reads only samples of rows.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use rand::RngExt;

use super::dial::dial;
use super::settings;
use super::source::labels;
use super::statements::time_value;
use super::{check, log_check, proxy_check, visibility, write_check};
use crate::clock::now_ms;
use crate::config::{Config, ConfigError, ServerConfig, Servers, ShardConfig, Write};
use crate::fit::strays;
use crate::mapping::{Condition, Tables};
use crate::model::{ID_MAX, UserId};
use crate::moment::{TimeUnit, Zone};
use crate::shard::infer::{ColumnShape, TableShape, infer};
use crate::shard::schema::quoted;
use crate::shard::{Deadline, Finding, ShardError};

/// Time limit for one shard or server. Each statement has a quarter of it, after which the server
/// ends the statement.
const SURVEY_DEADLINE: Duration = Duration::from_secs(20);
/// Time limit for sampling the users of one table, because a server may be distant.
const SAMPLE_TIME: Duration = Duration::from_secs(4);
/// Maximum users that are sampled per table, not counting the largest.
const PROBES: usize = 300;
/// Columns read per database, at most.
const COLUMNS_MAX: usize = 20_000;
/// Values from which the unit of an integer time is inferred.
const TIMES: usize = 100;
/// Smaller integers are taken as seconds. As seconds this is the year 5138, as milliseconds 1973.
const SECONDS_END: i64 = 100_000_000_000;
/// Smaller integers are taken as milliseconds. As milliseconds this is the year 5138, as
/// microseconds 1973.
const MILLISECONDS_END: i64 = 100_000_000_000_000;
/// Posts further in the future than this indicate a wrong zone, not a clock difference.
const FUTURE_MS: i64 = 5 * 60_000;
/// Clock changes of a zone that are further in the past than this (ten years) are not reported.
const CLOCK_CHANGES_MS: i64 = 3_653 * 86_400_000;

/// The result of a survey of a fleet.
#[derive(Debug, Default)]
pub struct Survey {
    /// The problems, each with the server or shard that has it, as `server NAME` or `shard NAME`.
    pub findings: Vec<(String, Finding)>,
    /// For each shard, in configured order: some users with rows on it, by rising id.
    pub samples: Vec<Vec<UserId>>,
}

/// Infers the tables of a fleet, which must be the same on all shards. `zone` is the zone of its
/// DATETIME values; `None` assumes UTC and reports a warning.
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
                        let text = format!("its tables differ from those of {other}");
                        let finding = Finding::error("different_tables", text)
                            .cure(format!("create the same tables as on {other}"));
                        findings.push((subject, finding));
                    }
                }
            },
        }
    }
    if let Some((subject, found)) = &first
        && found.unit.is_none()
    {
        let text = "there are no posts, so the unit of their time is unknown; \
             milliseconds are assumed";
        let finding = Finding::warning("unit_assumed", text).cure("set unit under [tables.posts]");
        findings.push((subject.clone(), finding));
    }
    (first.map(|(_, found)| found.tables), findings)
}

/// The inferred tables of a shard.
struct FoundTables {
    tables: Tables,
    /// The unit of the time column; `None` if there is no value to infer it from.
    unit: Option<TimeUnit>,
    notes: Vec<Finding>,
}

impl FoundTables {
    /// Merges the tables of another shard. Returns false if they differ. The users table is
    /// dropped unless all shards have it.
    fn join(&mut self, tables: &Tables, unit: Option<TimeUnit>) -> bool {
        if self.unit.is_none() {
            self.unit = unit;
            self.tables.posts.unit = unit.unwrap_or(self.tables.posts.unit);
        }
        if self.tables.users != tables.users {
            self.tables.users = None;
        }
        let same_conditions =
            join_conditions(&mut self.tables.follows.visible, tables.follows.visible.as_deref())
                && join_conditions(&mut self.tables.posts.visible, tables.posts.visible.as_deref());
        let mut other = tables.clone();
        other.follows.visible.clone_from(&self.tables.follows.visible);
        other.posts.visible.clone_from(&self.tables.posts.visible);
        other.users.clone_from(&self.tables.users);
        other.posts.unit = unit.unwrap_or(self.tables.posts.unit);
        same_conditions && other == self.tables
    }
}

/// Adds conditions that another shard has. A shard without rows has fewer, because it has no
/// sampled values. Returns false if the shards have different conditions for one column.
fn join_conditions(joined: &mut Option<Vec<Condition>>, others: Option<&[Condition]>) -> bool {
    for other in others.unwrap_or_default() {
        let all = joined.get_or_insert_default();
        match all.iter().find(|condition| check::same(&condition.column, &other.column)) {
            Some(condition) if condition != other => return false,
            Some(_) => {}
            None => all.push(other.clone()),
        }
    }
    true
}

/// Surveys all servers and shards of a configured fleet. An unreachable server becomes a finding
/// of its shards.
pub async fn survey(servers: &Servers, write: &Write) -> Survey {
    let tables = &servers.tables;
    let of_servers = join_all(
        servers.servers.iter().map(async |(name, server)| (name, survey_server(server).await)),
    );
    let of_shards = on_each_shard(servers, async |connection, database| {
        survey_shard(connection, database, tables, write).await
    });
    let mut survey = Survey::default();
    survey.findings.extend(clock_changes(tables).map(|finding| ("the fleet".into(), finding)));
    let of_servers = of_servers.await;
    for (subject, outcome) in of_shards.await {
        let (findings, sample) = outcome.unwrap_or_else(|finding| (vec![finding], Vec::new()));
        survey.findings.extend(findings.into_iter().map(|finding| (subject.clone(), finding)));
        survey.samples.push(sample);
    }
    for (name, found) in of_servers {
        let found = found.unwrap_or_else(|finding| {
            // A server that is out of order is already reported by its shards.
            let shards = servers.shards.iter().filter(|shard| shard.server == *name);
            let subjects: Vec<String> = shards.map(|s| format!("shard {}", s.name)).collect();
            let is_known = survey
                .findings
                .iter()
                .any(|(subject, other)| other.code == finding.code && subjects.contains(subject));
            if is_known { Vec::new() } else { vec![unchecked(&finding)] }
        });
        survey.findings.extend(found.into_iter().map(|f| (format!("server {name}"), f)));
    }
    survey
}

/// Checks the settings of a server, and what is at its address. All findings are warnings.
async fn survey_server(server: &ServerConfig) -> Result<Vec<Finding>, Finding> {
    let found = with_server(server, async |connection| {
        let proxy = proxy_check::proxy(connection, server).await?;
        let mut findings = settings::check(connection).await?;
        findings.extend(proxy);
        Ok(findings)
    });
    let mut findings = found.await?;
    findings.extend(proxy_check::several_servers(server).await);
    Ok(findings)
}

/// The warning about a server whose settings cannot be checked. Its shards are served all the same.
fn unchecked(finding: &Finding) -> Finding {
    let text = format!("the settings of the server cannot be checked: {}", finding.text);
    Finding { cure: finding.cure.clone(), ..Finding::warning("unchecked", text) }
}

/// Calls `look` for every shard, each on a new connection. Servers are called at the same time,
/// the shards of a server one after the other. Returns the answers in configured order.
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
        let mut connection =
            dial(server, SURVEY_DEADLINE / 4).await.map_err(|error| match error {
                ShardError::Unavailable(text) => Finding::error("unreachable", text).cure(format!(
                    "start the server at {}, or correct its address",
                    server.address
                )),
                error => finding(error),
            })?;
        let outcome = look(&mut connection).await;
        drop(connection.disconnect().await);
        outcome.map_err(finding)
    };
    let outcome = Deadline::after(SURVEY_DEADLINE).limit(looking).await;
    outcome.unwrap_or_else(|| {
        let text = format!("no answer within {} s", SURVEY_DEADLINE.as_secs());
        Err(Finding::error("unreachable", text))
    })
}

/// The finding for an error of a server that accepted the connection.
fn finding(error: ShardError) -> Finding {
    match error {
        ShardError::Unavailable(text) => Finding::error(
            "failed_query",
            format!("the server answers, but a query failed: {text}"),
        )
        .cure("repeat the check; if a proxy is at the address, check the server itself"),
        ShardError::Slow(text) => Finding::error("too_slow", text),
        ShardError::Faulty(text) => Finding::error("refused", text),
        other => Finding::error("unreadable", other.to_string()),
    }
}

async fn find_on(
    connection: &mut Conn,
    database: &str,
    zone: Option<&Zone>,
) -> Result<Result<FoundTables, Vec<Finding>>, ShardError> {
    let shapes = shapes(connection, database).await?;
    if shapes.is_empty() {
        let account = check::account(connection).await?;
        let text = "the database does not exist, or has no table that this account may read";
        let cure = format!(
            "GRANT SELECT ON {}.* TO {account}; or, for a new fleet, write a configuration and run \
             `tributary migrate`",
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
                    "`{}` is a DATETIME, which has no time zone; UTC is assumed",
                    tables.posts.time
                );
                let finding = Finding::warning("zone_assumed", text);
                notes.push(
                    finding.cure("give --zone with the time zone of the programs that write it"),
                );
            }
            Some(tables.posts.unit)
        }
        "timestamp" => Some(tables.posts.unit),
        _ => unit(connection, database, &tables).await?,
    };
    tables.posts.unit = unit.unwrap_or(tables.posts.unit);
    notes.extend(visibility::propose(connection, database, &shapes, &mut tables).await?);
    Ok(Ok(FoundTables { tables, unit, notes }))
}

async fn shapes(connection: &mut Conn, database: &str) -> Result<Vec<TableShape>, ShardError> {
    let sql = "SELECT CAST(table_name AS CHAR), CAST(column_name AS CHAR),
                LOWER(CAST(data_type AS CHAR)), datetime_precision, is_nullable = 'YES',
                CAST(column_type AS CHAR)
         FROM information_schema.columns WHERE table_schema = ?
         ORDER BY table_name, ordinal_position LIMIT ?";
    type ColumnRow = (String, String, String, Option<u8>, bool, String);
    let columns: Vec<ColumnRow> = connection.exec(sql, (database, COLUMNS_MAX)).await?;
    let mut shapes: Vec<TableShape> = Vec::new();
    for (table, name, kind, digits, nullable, column_type) in columns {
        let labels = labels(&kind, &column_type);
        let column = ColumnShape { name, kind, digits, nullable, labels };
        match shapes.last_mut().filter(|shape| shape.name == table) {
            Some(shape) => shape.columns.push(column),
            None => shapes.push(TableShape { name: table, columns: vec![column] }),
        }
    }
    Ok(shapes)
}

/// The unit of an integer time column, inferred from the median of some values. `None` if there
/// are no integer values.
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

/// Surveys one shard: its problems, and some of its users.
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
    let shapes = shapes(connection, database).await?;
    findings.extend(visibility::unmapped(connection, database, &shapes, tables).await?);
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
            let cure = format!("set unit = \"{unit}\" under [tables.posts]");
            findings.push(Finding::error("wrong_unit", text).cure(cure));
        }
        _ => findings.extend(in_the_future(connection, database, tables).await?),
    }
    Ok((findings, sample))
}

/// Samples users with rows in the table: the smallest and largest ids, and random ones between.
/// Costs one index lookup per user, and at most [`SAMPLE_TIME`].
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
    // A missing table or index is reported by other checks.
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
        // First the 50 smallest ids in sequence, then pairs of neighbours at random places.
        from = match probe {
            _ if user >= max => rand::rng().random_range(0..=max),
            ..50 => user + 1,
            probe if probe % 2 == 0 => user + 1,
            _ => rand::rng().random_range(0..=max),
        };
    }
    Ok(users)
}

/// The single number that a query returns; `None` if there is no row, or no value in range.
async fn number(
    connection: &mut Conn,
    sql: &str,
    value: impl Into<mysql_async::Value>,
) -> Result<Option<u64>, ShardError> {
    let row: Option<Row> = connection.exec_first(sql, vec![value.into()]).await?;
    Ok(row.and_then(|row| row.get_opt(0)?.ok()))
}

/// A warning if the zone of the posts sets its clocks, so that an hour repeats or is skipped.
fn clock_changes(tables: &Tables) -> Option<Finding> {
    let posts = &tables.posts;
    let local = matches!(posts.unit, TimeUnit::DateTime { .. });
    (local && posts.zone.sets_clocks_after(now_ms() - CLOCK_CHANGES_MS)).then(|| {
        let text = format!(
            "clocks in the zone {} are set back and forth, so the times of `{}` are ambiguous in \
             one hour a year: posts of that hour can be in the wrong order, and a client that \
             polls can miss posts that other programs write",
            posts.zone, posts.name
        );
        let cure = "store UTC in this column, and set zone = \"UTC\" under [tables.posts]";
        Finding::warning("zone_changes", text).cure(cure)
    })
}

/// A warning if posts have times in the future, which indicates a wrong unit or zone.
async fn in_the_future(
    connection: &mut Conn,
    database: &str,
    tables: &Tables,
) -> Result<Option<Finding>, ShardError> {
    let posts = &tables.posts;
    let (table, time, author) = (quoted(&posts.name), quoted(&posts.time), quoted(&posts.author));
    let end = time_value(posts.unit, posts.times().stored(now_ms() + FUTURE_MS));
    // The index starts with the author, so these are posts of a few authors only.
    let sql = format!(
        "SELECT COUNT(*) FROM (SELECT {time} AS t FROM {}.{table} ORDER BY {author} DESC
         LIMIT 1000) AS some WHERE t > ?",
        quoted(database)
    );
    let count = number(connection, &sql, end).await?;
    Ok(count.filter(|count| *count > 0).map(|_| {
        let text = format!("posts of `{}` have times in the future", posts.name);
        let cure = match posts.unit {
            TimeUnit::DateTime { .. } => {
                "set zone under [tables.posts] to the time zone of the programs that write it"
            }
            _ => {
                "correct the clocks of the machines that write it, or set unit under [tables.posts]"
            }
        };
        Finding::warning("future_posts", text).cure(cure)
    }))
}

/// One finding for each shard that has sampled users of other shards; `samples` as in the survey.
/// Rows of such users are not read there.
///
/// # Errors
/// The placement of the configuration is invalid.
pub fn stray_findings(
    config: &Config,
    servers: &Servers,
    samples: &[Vec<UserId>],
) -> Result<Vec<(String, Finding)>, ConfigError> {
    let names: Vec<&str> = servers.shards.iter().map(|shard| shard.name.as_str()).collect();
    let strays = strays(&config.placement.build(&names)?, samples);
    let tables = &servers.tables;
    let of_shard = |(shard, (strays, sample)): (&ShardConfig, (&Vec<UserId>, &Vec<UserId>))| {
        let first: Vec<String> = strays.iter().take(5).map(UserId::to_string).collect();
        let text = format!(
            "{} of {} sampled users belong to other shards, such as {}; \
             their rows here are not read",
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
            "move the rows to the shards that own them; find them with {}; and {}",
            list(&tables.posts.name, &tables.posts.author),
            list(&tables.follows.name, &tables.follows.follower)
        );
        (format!("shard {}", shard.name), Finding::error("wrong_shard", text).cure(cure))
    };
    let shards = servers.shards.iter().zip(strays.iter().zip(samples));
    Ok(shards.filter(|(_, (strays, _))| !strays.is_empty()).map(of_shard).collect())
}
