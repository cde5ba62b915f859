//! The identity of a server's log. It differs after the log was reset, so that positions of before
//! and after are never compared.
//!
//! An identity is a digest of two things. The first is the *server id*: a few variables that name
//! the server whatever the address of the connection. The second is the time when the first file of
//! the log was created, as long as that file exists. A reset removes all files and creates a first
//! one; nothing else that a server keeps differs after it. Every node computes the same identity.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use sha2::{Digest, Sha256};

use super::end::position_of;
use super::log::FeedError;
use super::wire::{StartAt, Stream};
use super::{Delivered, is_mariadb};
use crate::changes::binlog::kind;
use crate::changes::{LogIdentity, LogPosition};
use crate::shard::mysql::connections::Class;
use crate::shard::mysql::log_check::log_status;
use crate::shard::mysql::server::Server;
use crate::shard::mysql::text_of;
use crate::shard::source::{ReadCheck, ReadChecks};
use crate::shard::{Deadline, ShardError};

/// The offset of the first event in a log file.
const FIRST_OFFSET: u64 = 4;
/// Events that are read to find the creation time of a file. It is in the second one.
const EVENTS_MAX: usize = 4;

/// Names a server. It does not depend on the address of the connection, nor on the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::shard::mysql) struct ServerId(u64);

/// The kind of server, which determines the statements that query its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shard::mysql) enum Dialect {
    MariaDb {
        /// Whether the server has the variable `server_uid`.
        has_uid: bool,
    },
    /// With the statement that returns the end of its log.
    MySql { log_status: &'static str },
}

/// When a log file was created, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileCreated {
    pub(super) file: u32,
    pub(super) seconds: u32,
}

/// The log of one server, as its feed knows it. Fills, writes and tokens use it too.
#[derive(Debug, Default)]
pub(in crate::shard::mysql) struct KnownLog {
    state: Mutex<LogState>,
    read_checks: Arc<ReadChecks>,
}

#[derive(Debug, Default)]
struct LogState {
    identity: Option<(ServerId, LogIdentity)>,
    /// The log with this identity went back. The feed is about to set another one.
    went_back: bool,
    delivered: Option<Delivered>,
    dialect: Option<Dialect>,
    /// Memory follows the log, so writes need tokens.
    issues_tokens: bool,
}

impl KnownLog {
    fn state(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far the feed has delivered the log, or `None` while there is no feed.
    pub(super) fn delivered(&self) -> Option<Delivered> {
        self.state().delivered.clone()
    }

    pub(super) fn set_delivered(&self, delivered: Option<Delivered>) {
        self.state().delivered = delivered;
    }

    pub(super) fn issue_tokens(&self) {
        self.state().issues_tokens = true;
    }

    pub(super) fn set_identity(&self, server: ServerId, identity: LogIdentity) {
        let mut state = self.state();
        (state.identity, state.went_back) = (Some((server, identity)), false);
    }

    /// The log was reset or restored: positions of now belong to no identity until the next one is
    /// set.
    pub(super) fn note_went_back(&self) {
        self.state().went_back = true;
    }

    /// The identity of the log of `server`, if it is known. An error if another server's log is
    /// followed.
    pub(super) fn identity_of(&self, server: ServerId) -> Result<Option<LogIdentity>, ShardError> {
        let state = self.state();
        match state.identity {
            _ if state.went_back => {
                Err(ShardError::Unavailable("the server's log was reset or restored".into()))
            }
            Some((known, identity)) if known == server => Ok(Some(identity)),
            Some(_) => Err(ShardError::Unavailable(
                "the address leads to another server than the one whose log is followed".into(),
            )),
            None => Ok(None),
        }
    }

    /// The end of the log, queried on a connection that has just committed. No position is returned
    /// if it could not be compared with those of the followed log: the connection leads to another
    /// server, or the log was reset.
    pub(in crate::shard::mysql) async fn end_on(
        &self,
        connection: &mut Conn,
        until: Deadline,
    ) -> Option<(LogIdentity, LogPosition)> {
        let (issues_tokens, delivered) = {
            let state = self.state();
            (state.issues_tokens, state.delivered.as_ref().map(|delivered| delivered.position))
        };
        if !issues_tokens {
            return None;
        }
        let query = async {
            let dialect = self.dialect(connection).await?;
            let sql = format!("{};\n{}", dialect.server_id(), dialect.log_status());
            let mut result = connection.query_iter(sql).await?;
            let id: Vec<Row> = result.collect().await?;
            let end: Vec<Row> = result.collect().await?;
            result.drop_result().await?;
            Ok::<_, ShardError>((ServerId::of(&id), position_of(&end)?))
        };
        let (server, end) = until.limit(query).await?.ok()?;
        let identity = self.identity_of(server).ok().flatten()?;
        (delivered.is_none_or(|delivered| delivered <= end)).then_some((identity, end))
    }

    pub(super) fn check_reads(&self) -> ReadCheck {
        self.read_checks.start()
    }

    /// Must be called before a pooled connection is used for a read. If a request checks its reads,
    /// it records whether the connection leads to another server than the followed one.
    pub(in crate::shard::mysql) async fn check_connection(
        &self,
        connection: &mut Conn,
    ) -> Result<(), ShardError> {
        if !self.read_checks.are_active() {
            return Ok(());
        }
        let dialect = self.dialect(connection).await?;
        let id: Vec<Row> = connection.query(dialect.server_id()).await?;
        if !matches!(self.identity_of(ServerId::of(&id)), Ok(Some(_))) {
            self.read_checks.note_elsewhere();
        }
        Ok(())
    }

    /// The kind of the server. It is queried once.
    async fn dialect(&self, connection: &mut Conn) -> Result<Dialect, ShardError> {
        if let Some(known) = self.state().dialect {
            return Ok(known);
        }
        let dialect = Dialect::query(connection).await?;
        self.state().dialect = Some(dialect);
        Ok(dialect)
    }
}

impl Dialect {
    pub(in crate::shard::mysql) async fn query(connection: &mut Conn) -> Result<Self, ShardError> {
        if !is_mariadb(connection).await? {
            return Ok(Self::MySql { log_status: log_status(connection).await? });
        }
        // Only newer versions have this variable.
        let sql = "SHOW GLOBAL VARIABLES LIKE 'server_uid'";
        let found: Option<Row> = connection.query_first(sql).await?;
        Ok(Self::MariaDb { has_uid: found.is_some() })
    }

    /// The statement that returns the variables of [`ServerId`].
    pub(in crate::shard::mysql) fn server_id(self) -> &'static str {
        match self {
            Self::MySql { .. } => "SELECT @@GLOBAL.server_uuid",
            Self::MariaDb { has_uid: false } => {
                "SELECT @@GLOBAL.hostname, @@GLOBAL.port, @@GLOBAL.server_id, @@GLOBAL.datadir"
            }
            Self::MariaDb { has_uid: true } => {
                "SELECT @@GLOBAL.hostname, @@GLOBAL.port, @@GLOBAL.server_id, @@GLOBAL.datadir, \
                 @@GLOBAL.server_uid"
            }
        }
    }

    /// The statement that returns the end of the log.
    pub(super) fn log_status(self) -> &'static str {
        match self {
            Self::MariaDb { .. } => "SHOW MASTER STATUS",
            Self::MySql { log_status } => log_status,
        }
    }
}

impl ServerId {
    /// The id in the result of [`Dialect::server_id`].
    pub(in crate::shard::mysql) fn of(rows: &[Row]) -> Self {
        let values = rows.first().map_or(0, Row::len);
        let texts = (0..values).map(|column| text_of(&rows[0], column));
        Self(digest(texts))
    }

    pub(in crate::shard::mysql) async fn query(connection: &mut Conn) -> Result<Self, ShardError> {
        let dialect = Dialect::query(connection).await?;
        let rows: Vec<Row> = connection.query(dialect.server_id()).await?;
        Ok(Self::of(&rows))
    }

    /// The identity of this server's log. `first` is the creation of its first file, if the log
    /// still has it. `again` is that of another file, if the log went back and `first` is the same
    /// as before.
    pub(super) fn log(self, first: Option<FileCreated>, again: Option<FileCreated>) -> LogIdentity {
        let file = |created: FileCreated| format!("{} {}", created.file, created.seconds);
        let parts = [Some(self.0.to_string()), first.map(file), again.map(file)];
        LogIdentity(digest(parts.into_iter().flatten()))
    }
}

fn digest(texts: impl Iterator<Item = String>) -> u64 {
    let mut digest = Sha256::new();
    for text in texts {
        digest.update(text);
        digest.update(b"\n");
    }
    let bytes = digest.finalize();
    u64::from_be_bytes(*bytes.first_chunk::<8>().expect("a digest has 32 bytes"))
}

/// The name of file `number` of the log that has a file with this name.
pub(super) fn file_name(name: &str, number: u32) -> Option<String> {
    LogPosition::file_number(name)?;
    let (base, digits) = name.rsplit_once('.')?;
    Some(format!("{base}.{number:0width$}", width = digits.len()))
}

impl Server {
    /// When the log file with this name was created. `None` if the server does not have the file.
    pub(super) async fn file_created(&self, name: &str) -> Result<Option<FileCreated>, FeedError> {
        let Some(file) = LogPosition::file_number(name) else { return Ok(None) };
        let start = LogPosition::in_file(file, FIRST_OFFSET);
        let (connection, _place) = self.connections().lease(Class::Lookup).await?.into_stream();
        let mut stream = match Stream::open(connection, StartAt::Offset(name, start)).await {
            Err(FeedError::PositionLost(_)) => return Ok(None),
            stream => stream?,
        };
        for _ in 0..EVENTS_MAX {
            match stream.next().await {
                Ok(event) if event.header().event_type_raw() == kind::FORMAT => {
                    return Ok(Some(FileCreated { file, seconds: event.header().timestamp() }));
                }
                Ok(_) => {}
                Err(FeedError::PositionLost(_)) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// When the first file of the log was created, if the log still has it. `file` is the name of
    /// any of its files.
    pub(super) async fn first_created(&self, file: &str) -> Result<Option<FileCreated>, FeedError> {
        match file_name(file, 1) {
            Some(first) => self.file_created(&first).await,
            None => Ok(None),
        }
    }

    /// The identity of the log of `server`, where `file` is one of its files. It is computed if no
    /// feed has set it. An account that may not read the log gets an identity nevertheless.
    pub(super) async fn log_identity(
        &self,
        server: ServerId,
        file: &str,
    ) -> Result<LogIdentity, ShardError> {
        if let Some(known) = self.known_log().identity_of(server)? {
            return Ok(known);
        }
        let first = match self.first_created(file).await {
            Ok(first) => first,
            Err(FeedError::NeedsOperator(_) | FeedError::LogRefused(_)) => None,
            Err(FeedError::Temporary(reason) | FeedError::PositionLost(reason)) => {
                return Err(ShardError::Unavailable(reason));
            }
            Err(FeedError::TooLarge | FeedError::Skipped) => {
                let reason = "the first event of the log cannot be received";
                return Err(ShardError::Unavailable(reason.into()));
            }
        };
        // A feed may have set it in the meantime.
        if let Some(known) = self.known_log().identity_of(server)? {
            return Ok(known);
        }
        let identity = server.log(first, None);
        self.known_log().set_identity(server, identity);
        Ok(identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_log_have_the_same_base_and_as_many_digits() {
        assert_eq!(file_name("binlog.000123", 1).as_deref(), Some("binlog.000001"));
        assert_eq!(file_name("a.b.1234567", 89).as_deref(), Some("a.b.0000089"));
        assert_eq!(file_name("binlog", 1), None);
    }

    #[test]
    fn an_identity_differs_by_server_and_by_creation() {
        let created = |file, seconds| Some(FileCreated { file, seconds });
        let (one, other) = (ServerId(1), ServerId(2));
        let all = [
            one.log(None, None),
            other.log(None, None),
            one.log(created(1, 70), None),
            one.log(created(1, 71), None),
            one.log(created(1, 71), created(4, 90)),
        ];
        for (index, identity) in all.iter().enumerate() {
            assert!(!all[..index].contains(identity), "{index}");
        }
        assert_eq!(one.log(created(1, 70), None), all[2]);
    }
}
