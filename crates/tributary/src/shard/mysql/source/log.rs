//! The queries that precede following a server's log: the identity of the log, its end, the
//! settings of the server, and the definitions of the served tables.

use std::collections::BTreeMap;
use std::sync::Arc;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row};

use super::definitions::show_generated_keys;
use super::identity::ServerId;
use super::reach::reach;
use super::{MySqlSource, is_mariadb};
use crate::changes::LogPosition;
use crate::changes::gtid::{GtidSet, MariaDbGtid};
use crate::changes::rows::{Role, ServedTable};
use crate::changes::tables::Layout;
use crate::mapping::Tables;
use crate::shard::ShardError;
use crate::shard::mysql::check::account;
use crate::shard::mysql::log_check::log_status;

/// Required settings: the variable, its value, and how to set it.
const REQUIRED_SETTINGS: [(&str, &str, &str); 4] = [
    ("log_bin", "ON", "set log_bin in the server's configuration and restart it"),
    ("binlog_format", "ROW", "SET GLOBAL binlog_format = ROW, and the same in its configuration"),
    (
        "binlog_row_image",
        "FULL",
        "SET GLOBAL binlog_row_image = FULL, and the same in its configuration",
    ),
    (
        "gtid_mode",
        "ON",
        "set gtid_mode = ON and enforce_gtid_consistency = ON in the server's configuration and \
         restart it",
    ),
];

/// The state of a server before its log is followed.
#[derive(Debug)]
pub(super) struct ServerFacts {
    pub(super) server: ServerId,
    /// The name of the log file of `end`.
    pub(super) file: String,
    /// The end of the log when it was queried.
    pub(super) end: LogPosition,
    pub(super) executed: Executed,
    pub(super) layout: Layout,
}

/// The transactions before a position of the log, in the form that the server resumes by.
#[derive(Clone, Debug)]
pub(super) enum Executed {
    MySql(GtidSet),
    /// The last transaction, or `None` if there is none.
    MariaDb(Option<MariaDbGtid>),
}

/// The reason why a log cannot be followed now.
#[derive(Debug)]
pub(crate) enum FeedError {
    /// An operator must act, as the text says. The feed retries every 3 s.
    NeedsOperator(String),
    /// The address refuses to send a log. An operator must act, as the text says.
    LogRefused(String),
    /// A retry may succeed.
    Temporary(String),
    /// The server no longer has the log from the position where the feed stopped.
    PositionLost(String),
    /// The open transaction is too large to receive.
    TooLarge,
    /// Such a transaction was skipped. The feed continues after it on a new connection.
    Skipped,
}

impl From<ShardError> for FeedError {
    fn from(error: ShardError) -> Self {
        match error {
            ShardError::Faulty(reason) => Self::NeedsOperator(reason),
            other => Self::Temporary(other.to_string()),
        }
    }
}

impl From<Error> for FeedError {
    fn from(error: Error) -> Self {
        ShardError::from(error).into()
    }
}

impl MySqlSource {
    /// Queries all facts about the server, and checks its settings.
    pub(super) async fn facts(&self, connection: &mut Conn) -> Result<ServerFacts, FeedError> {
        let variables = check_settings(connection).await?;
        let server = ServerId::query(connection).await?;
        let (file, end, executed) = log_end(connection).await?;
        let ignore_case = variables.get("lower_case_table_names").is_some_and(|mode| mode != "0");
        let layout = self.layout(connection, ignore_case).await?;
        Ok(ServerFacts { server, file, end, executed, layout })
    }

    /// Queries the columns of all served tables.
    pub(super) async fn layout(
        &self,
        connection: &mut Conn,
        ignore_case: bool,
    ) -> Result<Layout, FeedError> {
        show_generated_keys(connection).await?;
        let mut served = Vec::new();
        for (shard, database) in &self.shards {
            let tables = database.tables();
            let single = database.statements().is_ok_and(|sql| sql.loadable.is_ok());
            for (role, table) in served_tables(tables) {
                let database = database.name().to_owned();
                let table = ServedTable::undefined(*shard, (database, table), role, single);
                table.wait_defined(connection).await?;
                served.push(table.defined(connection, tables).await?);
            }
        }
        let reach = reach(connection, &served).await?;
        Ok(Layout { tables: self.tables(), served, ignore_case, reach })
    }

    /// The mapping of the tables, which all shards share.
    pub(super) fn tables(&self) -> Arc<Tables> {
        let first = self.shards.first();
        first.map(|(_, database)| Arc::clone(database.tables())).unwrap_or_default()
    }
}

/// The served tables of a mapping.
pub(in crate::shard::mysql) fn served_tables(tables: &Tables) -> Vec<(Role, String)> {
    let mut served = vec![(Role::Posts, tables.posts.name.clone())];
    served.extend(tables.lists().map(|(list, table)| (Role::List(list), table.name.clone())));
    served.extend(tables.users.iter().map(|users| (Role::Users, users.name.clone())));
    served
}

/// Checks the required settings, and returns the queried variables.
async fn check_settings(connection: &mut Conn) -> Result<BTreeMap<String, String>, FeedError> {
    let names: Vec<String> =
        REQUIRED_SETTINGS.iter().map(|(name, ..)| format!("'{name}'")).collect();
    let sql = format!(
        "SHOW GLOBAL VARIABLES WHERE variable_name IN ({}, 'lower_case_table_names', \
         'gtid_binlog_pos')",
        names.join(", ")
    );
    let found: Vec<(String, String)> = connection.query(sql).await?;
    let found: BTreeMap<String, String> = found.into_iter().collect();
    for (name, wanted, cure) in REQUIRED_SETTINGS {
        if let Some(value) = found.get(name).filter(|value| !value.eq_ignore_ascii_case(wanted)) {
            return Err(FeedError::NeedsOperator(format!(
                "{name} is {value}, not {wanted}; {cure}"
            )));
        }
    }
    if let Some(position) = found.get("gtid_binlog_pos").filter(|position| position.contains(',')) {
        return Err(FeedError::NeedsOperator(format!(
            "the log has several domains ({position}), which have no common order; write with one \
             gtid_domain_id, and FLUSH BINARY LOGS DELETE_DOMAIN_ID = (...) for the others"
        )));
    }
    Ok(found)
}

/// The file and the position of the end of the log, and the transactions before it.
pub(super) async fn log_end(
    connection: &mut Conn,
) -> Result<(String, LogPosition, Executed), FeedError> {
    match is_mariadb(connection).await? {
        true => mariadb_end(connection).await,
        false => mysql_end(connection).await,
    }
}

/// The end of the last transaction that is visible to all sessions. The query needs no privilege.
async fn mariadb_end(connection: &mut Conn) -> Result<(String, LogPosition, Executed), FeedError> {
    let sql =
        "SHOW STATUS WHERE variable_name IN ('binlog_snapshot_file', 'binlog_snapshot_position')";
    let found: Vec<(String, String)> = connection.query(sql).await?;
    let of = |ending: &str| {
        let found = found.iter().find(|(name, _)| name.to_lowercase().ends_with(ending));
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    let (file, offset) = (of("_file"), of("_position"));
    let (number, offset_number) =
        LogPosition::file_number(&file).zip(offset.parse::<u64>().ok()).ok_or_else(|| {
            FeedError::Temporary("the server does not report where its log ends".into())
        })?;
    let gtid: Option<Option<String>> =
        connection.exec_first("SELECT BINLOG_GTID_POS(?, ?)", (&file, offset_number)).await?;
    let gtid = gtid.flatten().and_then(|text| text.parse().ok());
    Ok((file, LogPosition::in_file(number, offset_number), Executed::MariaDb(gtid)))
}

async fn mysql_end(connection: &mut Conn) -> Result<(String, LogPosition, Executed), FeedError> {
    let executed: Option<String> = connection.query_first("SELECT @@GLOBAL.gtid_executed").await?;
    let executed: GtidSet = executed.unwrap_or_default().parse().map_err(FeedError::Temporary)?;
    let statement = log_status(connection).await?;
    let status: Option<Row> = match connection.query_first(statement).await {
        Err(Error::Server(error)) if error.code == 1227 => {
            return Err(may_not_read(connection, "REPLICATION SLAVE, REPLICATION CLIENT").await);
        }
        status => status?,
    };
    let (file, offset) =
        status.and_then(|row| Some((row.get::<String, _>(0)?, row.get::<u64, _>(1)?))).ok_or_else(
            || FeedError::Temporary("the server does not report where its log ends".into()),
        )?;
    let number = LogPosition::file_number(&file)
        .ok_or_else(|| FeedError::Temporary(format!("`{file}` is not the name of a log file")))?;
    Ok((file, LogPosition::in_file(number, offset), Executed::MySql(executed)))
}

/// The error for a missing privilege, with the GRANT statement for the account of the connection.
pub(super) async fn may_not_read(connection: &mut Conn, rights: &str) -> FeedError {
    match account(connection).await {
        Ok(account) => missing_right(rights, &account),
        Err(error) => error.into(),
    }
}

pub(super) fn missing_right(rights: &str, account: &str) -> FeedError {
    FeedError::NeedsOperator(format!(
        "the account has no privilege to read the server's log; GRANT {rights} ON *.* TO {account}"
    ))
}
