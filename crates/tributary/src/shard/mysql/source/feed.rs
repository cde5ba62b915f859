//! Follows a server's row binlog: connects, starts or resumes, delivers events, and reconnects.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt};
use mysql_async::binlog::events::Event as RawEvent;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::definitions::DefinitionChecks;
use super::end::EndAnswer;
use super::evidence::Evidence;
use super::identity::{FileCreated, ServerId, file_name};
use super::large::PACKED_BYTES_SAFE;
use super::log::{Executed, FeedError, ServerFacts, log_end};
use super::wire::{StartAt, Stream, checked};
use super::{Delivered, MySqlSource};
use crate::backoff::Backoff;
use crate::changes::assemble::{Assembler, Gtid, Step};
use crate::changes::binlog::{self, kind, transaction_bytes};
use crate::changes::tables::Exclusion;
use crate::changes::{Change, Commit, FeedEvent, LogIdentity, LogPosition};
use crate::shard::mysql::connections::Class;
use crate::shard::{Deadline, ShardError};

/// Limit on querying the server's state, on starting the stream, and on querying columns.
pub(super) const FACTS_DEADLINE: Duration = Duration::from_secs(10);
/// First and longest pause between two attempts, before jitter.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Pause between two attempts while an operator must act, before jitter.
const OPERATOR_PAUSE: Duration = Duration::from_secs(3);
/// Pause after a skipped transaction.
const SKIP_PAUSE: Duration = Duration::from_millis(50);
/// Limits of a batch: events, and bytes of post text.
pub(crate) const BATCH_EVENTS: usize = 512;
pub(crate) const BATCH_BYTES: usize = 1 << 20;
/// After this many answers of another server in a row, the address has probably moved to it. Fewer
/// are normal if the address leads to several servers in turn.
const FOREIGN_ANSWERS_MAX: u32 = 3;
/// Pause between two checks whether the first file of the log was purged.
const FIRST_FILE_PAUSE: Duration = Duration::from_secs(60);
/// Limit on such a check. Events wait for it.
const FIRST_FILE_DEADLINE: Duration = Duration::from_secs(1);
/// The reason why the feed starts again with another log identity.
const WENT_BACK: &str = "the server's log was reset, or the server was restored from a back-up";
/// The first event may precede the queried end of the log by at most this many bytes. Event
/// headers hold only the low 32 bits of an offset; this limit determines the other bits.
const START_DISTANCE_MAX: u64 = 1 << 31;

/// The position where the feed stopped, with all that is needed to resume.
#[derive(Debug)]
pub(super) struct ResumePoint {
    pub(super) server: ServerId,
    pub(super) identity: LogIdentity,
    position: LogPosition,
    executed: Executed,
    /// [`FeedEvent::Began`] was sent for this log.
    pub(super) began_sent: bool,
    /// The name of one of the log's files, if the identity contains the creation of the first one.
    identified_by: Option<String>,
    /// The creation of the file that is read. A file with the same number and another creation is
    /// that of another log.
    created: Option<FileCreated>,
}

/// The state of the feed of one server.
pub(super) struct FeedTask<'a> {
    pub(super) source: &'a MySqlSource,
    events: &'a mpsc::Sender<Vec<FeedEvent>>,
    pub(super) resume: Option<ResumePoint>,
    pub(super) assembler: Option<Assembler>,
    pub(super) batch: Vec<FeedEvent>,
    batch_bytes: usize,
    /// The number of the log file whose events arrive.
    file: u32,
    evidence: Evidence,
    /// [`FeedEvent::Alive`] was sent on this connection.
    alive_sent: bool,
    /// Answers of another server in a row.
    foreign_answers: u32,
    /// An event has arrived on this connection.
    connected: bool,
    /// The name of a file of the log. All names differ only in their number.
    pub(super) file_name: String,
    /// The open transaction, at this position, may be too large to receive.
    pub(super) suspect: Option<LogPosition>,
    /// Every transaction that begins before this position can be received.
    pub(super) small_until: LogPosition,
    /// The tables that memory cannot follow, as logged and sent last.
    pub(super) exclusions: Vec<Exclusion>,
    pub(super) checks: DefinitionChecks,
    /// When it was last checked whether the first file of the log was purged.
    first_file_checked: Instant,
    /// The position that the server has purged from its log. The log is the same.
    purged: Option<ResumePoint>,
    /// The identity of a log that went back. The next identity must be another one.
    ended: Option<LogIdentity>,
}

impl MySqlSource {
    pub(in crate::shard) async fn follow(&self, events: mpsc::Sender<Vec<FeedEvent>>) {
        let mut task = FeedTask::new(self, &events);
        // Dropping the receiver cancels the feed, which closes its connection.
        tokio::select! {
            () = events.closed() => {}
            () = task.run() => {}
        }
        self.set_delivered(None);
    }
}

impl<'a> FeedTask<'a> {
    fn new(source: &'a MySqlSource, events: &'a mpsc::Sender<Vec<FeedEvent>>) -> Self {
        Self {
            source,
            events,
            resume: None,
            assembler: None,
            batch: Vec::new(),
            batch_bytes: 0,
            file: 0,
            evidence: Evidence::new(Instant::now()),
            alive_sent: false,
            foreign_answers: 0,
            connected: false,
            file_name: String::new(),
            suspect: None,
            small_until: LogPosition(0),
            exclusions: Vec::new(),
            checks: DefinitionChecks::default(),
            first_file_checked: Instant::now(),
            purged: None,
            ended: None,
        }
    }

    async fn run(&mut self) {
        let mut reported: Option<String> = None;
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        while !self.events.is_closed() {
            // The client library panics at a truncated event.
            let session = AssertUnwindSafe(self.session()).catch_unwind().await;
            let error = match session {
                Ok(Ok(never)) => match never {},
                Ok(Err(error)) => error,
                Err(_) => FeedError::Temporary("an event could not be decoded".into()),
            };
            // The back-off is reset only after a connection that reached the end of the log.
            if std::mem::take(&mut self.connected) && std::mem::take(&mut self.alive_sent) {
                reported = None;
                backoff.reset();
            }
            // Deliver the last batch: the next connection resumes after it.
            if self.flush().await.is_err() {
                return;
            }
            let (reason, pause) = match error {
                FeedError::Skipped => {
                    tokio::time::sleep(SKIP_PAUSE).await;
                    continue;
                }
                FeedError::TooLarge => {
                    ("an answer of the server is too large".into(), backoff.pause())
                }
                FeedError::NeedsOperator(reason) | FeedError::LogRefused(reason) => {
                    (reason, Backoff::steady(OPERATOR_PAUSE).pause())
                }
                FeedError::Temporary(reason) => (reason, backoff.pause()),
                FeedError::PositionLost(reason) => {
                    // Any other reason than a purge means that this is not the log that was read.
                    let is_other = !reason.contains("purged");
                    self.end_log(is_other);
                    (reason, backoff.pause())
                }
            };
            if reported.as_ref() != Some(&reason) {
                if self.events.send(vec![FeedEvent::Lost(reason.clone())]).await.is_err() {
                    return;
                }
                reported = Some(reason);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// One connection, from the login until it breaks.
    async fn session(&mut self) -> Result<std::convert::Infallible, FeedError> {
        let lease = self.source.server.connections().lease(Class::Feed).await?;
        let (mut connection, _place) = lease.into_stream();
        let facts = Deadline::after(FACTS_DEADLINE).limit(self.source.facts(&mut connection)).await;
        let facts = facts.ok_or_else(|| {
            FeedError::Temporary("the server did not report its state within 10 s".into())
        })??;
        self.prepare_resume(&facts).await?;
        let ServerFacts { file, end, layout, .. } = facts;
        (self.suspect, self.small_until) = (None, LogPosition(0));
        self.file_name.clone_from(&file);
        match &mut self.assembler {
            Some(assembler) => {
                let (_, queried_by, _) = log_end(&mut connection).await?;
                let changed = layout.served.into_iter().enumerate();
                let changed = changed
                    .filter_map(|(index, table)| assembler.redefine(index, table, queried_by));
                self.batch.extend(changed.map(FeedEvent::ShardUnknown));
                assembler.set_reach(layout.reach, queried_by);
            }
            None => self.assembler = Some(Assembler::new(layout)),
        }
        let resume = self.resume.as_mut().expect("it was set if there was none");
        let (number, offset) = resume.position.file_and_offset();
        let mut floor = resume.position;
        if !resume.began_sent && matches!(resume.executed, Executed::MySql(_)) {
            floor = LogPosition::in_file(number, offset.saturating_sub(START_DISTANCE_MAX));
        }
        self.assembler.as_mut().expect("it was made above").restart(floor);
        let by_offset = !resume.began_sent
            && matches!(resume.executed, Executed::MariaDb(_))
            && offset <= u64::from(u32::MAX);
        let start = match by_offset {
            true => StartAt::Offset(&file, end),
            false => StartAt::AfterTransactions(&resume.executed),
        };
        let open = Deadline::after(FACTS_DEADLINE).limit(Stream::open(connection, start)).await;
        let stream = open.ok_or_else(|| {
            FeedError::Temporary("the server did not start to send its log within 10 s".into())
        })??;
        let mut stream = stream;
        let error = match self.receive(&mut stream).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        match error {
            FeedError::TooLarge => self.skip_transaction().await,
            error => Err(error),
        }
    }

    /// Sets the position to resume from. If there is none, the feed starts at the end of the log.
    async fn prepare_resume(&mut self, facts: &ServerFacts) -> Result<(), FeedError> {
        if let Some(resume) = &self.resume {
            let is_replaced = self.is_file_replaced(resume, facts).await?;
            if resume.is_usable(facts) && !is_replaced {
                return Ok(());
            }
            let is_shorter = resume.server == facts.server && facts.end < resume.position;
            self.end_log(is_shorter || is_replaced);
        }
        let server = self.source.server.as_ref();
        let purged = self.purged.take().filter(|purged| purged.is_continued(facts));
        let identify = async {
            if let Some(ResumePoint { identity, identified_by, .. }) = purged {
                return Ok((identity, None, identified_by));
            }
            let first = server.first_created(&facts.file).await?;
            let identity = facts.server.log(first, None);
            if self.ended != Some(identity) {
                let identified_by = first.map(|_| facts.file.clone());
                return Ok::<_, FeedError>((identity, first, identified_by));
            }
            let current = server.file_created(&facts.file).await?;
            Ok((facts.server.log(first, current), current, None))
        };
        let identified = Deadline::after(FACTS_DEADLINE).limit(identify).await;
        let late = || FeedError::Temporary("the server did not send its log within 10 s".into());
        let (identity, created, identified_by) = identified.ok_or_else(late)??;
        server.known_log().set_identity(facts.server, identity);
        self.resume = Some(ResumePoint {
            server: facts.server,
            identity,
            position: facts.end,
            executed: facts.executed.clone(),
            began_sent: false,
            identified_by,
            created,
        });
        Ok(())
    }

    /// Whether the file that was read last was replaced by another one of the same name: the log
    /// was reset, or the server was restored from a back-up. The log may have grown beyond the
    /// position since then.
    async fn is_file_replaced(
        &self,
        resume: &ResumePoint,
        facts: &ServerFacts,
    ) -> Result<bool, FeedError> {
        let Some(before) = resume.created.filter(|_| resume.server == facts.server) else {
            return Ok(false);
        };
        let Some(name) = file_name(&facts.file, before.file) else { return Ok(false) };
        let created = self.source.server.file_created(&name);
        let late = || FeedError::Temporary("the server did not send its log within 10 s".into());
        let created = Deadline::after(FACTS_DEADLINE).limit(created).await.ok_or_else(late)??;
        Ok(created.is_some_and(|created| created != before))
    }

    /// Forgets the position to resume from. `is_other` if the next log is not the one that was
    /// read, even if the server is the same.
    fn end_log(&mut self, is_other: bool) {
        match self.resume.take() {
            Some(ended) if is_other => {
                self.ended = Some(ended.identity);
                self.source.server.known_log().note_went_back();
            }
            purged => self.purged = purged,
        }
        self.assembler = None;
        self.source.set_delivered(None);
    }

    /// Delivers events until the connection breaks. Every second it also queries the end of the
    /// log.
    async fn receive(
        &mut self,
        stream: &mut Stream,
    ) -> Result<std::convert::Infallible, FeedError> {
        let source = self.source;
        let mut answers = pin!(source.answers());
        (self.evidence, self.foreign_answers) = (Evidence::new(Instant::now()), 0);
        loop {
            let event = {
                let mut next = pin!(stream.next());
                loop {
                    tokio::select! {
                        event = &mut next => break event?,
                        Some(answer) = answers.next() => self.take_answer(answer).await?,
                    }
                }
            };
            self.mark_connected();
            self.take(&event)?;
            while !self.is_full() && !self.is_stale() && self.suspect.is_none() {
                match stream.ready() {
                    Some(event) => self.take(&event?)?,
                    None => break,
                }
            }
            self.push_alive();
            self.flush().await?;
            self.look_ahead().await?;
            self.check_definitions().await;
            if self.read_definitions().await? {
                self.flush().await?;
            }
            self.read_reach().await?;
        }
    }

    /// If the first file of the log was purged, gives the log the identity that a starting node
    /// would compute. Otherwise the nodes would not accept the tokens of each other.
    async fn check_first_file(&mut self) {
        let Some(resume) = &mut self.resume else { return };
        let Some(file) = resume.identified_by.as_ref().filter(|_| resume.began_sent) else {
            return;
        };
        if self.file <= 1 || self.first_file_checked.elapsed() < FIRST_FILE_PAUSE {
            return;
        }
        self.first_file_checked = Instant::now();
        let server = self.source.server.as_ref();
        let first = Deadline::after(FIRST_FILE_DEADLINE).limit(server.first_created(file)).await;
        if let Some(Ok(None)) = first {
            let identity = resume.server.log(None, None);
            (resume.identity, resume.identified_by) = (identity, None);
            server.known_log().set_identity(resume.server, identity);
            self.batch.push(FeedEvent::Renamed { identity });
        }
    }

    /// Takes an answer to the question for the end of the log.
    async fn take_answer(
        &mut self,
        answer: Result<EndAnswer, ShardError>,
    ) -> Result<(), FeedError> {
        let Some(resume) = &self.resume else { return Ok(()) };
        let problem = match answer {
            Ok(answer) if answer.server != resume.server => {
                self.foreign_answers += 1;
                if self.foreign_answers == FOREIGN_ANSWERS_MAX {
                    return Err(FeedError::Temporary(
                        "the address leads to another server now".into(),
                    ));
                }
                self.source.server.connections().forget(Class::Token);
                "the address leads to several servers; give each server its own address".to_owned()
            }
            Ok(answer) if answer.went_back() => {
                return Err(FeedError::PositionLost(WENT_BACK.into()));
            }
            Ok(answer) => {
                self.check_first_file().await;
                self.foreign_answers = 0;
                self.evidence.note(answer.asked, answer.end);
                "changes arrive more than 3 s after they were written".to_owned()
            }
            Err(error) => format!("the server does not report the end of its log: {error}"),
        };
        self.push_alive();
        if self.evidence.is_late(Instant::now()) {
            self.batch.push(FeedEvent::Late(problem));
        }
        self.flush().await
    }

    /// Notes the first event of a connection: the server accepted the start position.
    fn mark_connected(&mut self) {
        if std::mem::replace(&mut self.connected, true) {
            return;
        }
        if let Some(resume) = &self.resume
            && matches!(resume.executed, Executed::MariaDb(_))
        {
            self.push_began(resume.position);
        }
        let resumes = self.resume.as_ref().is_some_and(|resume| resume.began_sent);
        info!(server = self.source.name(), resumes, "Following the server's log");
    }

    /// Sends [`FeedEvent::Began`], unless it was sent for this log.
    fn push_began(&mut self, at: LogPosition) {
        let Some(resume) = self.resume.as_mut().filter(|resume| !resume.began_sent) else { return };
        (resume.began_sent, resume.position) = (true, at);
        self.batch.push(FeedEvent::Began { identity: resume.identity, at });
    }

    fn take(&mut self, raw: &RawEvent) -> Result<(), FeedError> {
        let assembler = self.assembler.as_mut().expect("it is made before the connection");
        let event = checked(raw, assembler.is_in_payload())?;
        if let (kind::ROTATE, Some((_, name))) = (event.kind, binlog::rotate(event.data)) {
            self.file = LogPosition::file_number(name).unwrap_or(self.file);
        }
        if let (kind::FORMAT, Some(resume)) = (event.kind, &mut self.resume) {
            resume.check_file(FileCreated { file: self.file, seconds: event.time })?;
        }
        let mut steps = Vec::new();
        assembler.take(&event, &mut steps).map_err(|broken| FeedError::NeedsOperator(broken.0))?;
        let is_begin = matches!(event.kind, kind::GTID | kind::TAGGED_GTID);
        let bytes = if is_begin { transaction_bytes(&event) } else { None };
        if bytes.is_some_and(|bytes| bytes > PACKED_BYTES_SAFE) {
            let at = assembler.open_transaction().map(|(_, at)| at);
            self.suspect = at.filter(|at| *at >= self.small_until);
        }
        if let Some((cause, reason)) = assembler.take_problem()
            && self.source.problems().note(cause)
        {
            warn!(
                server = self.source.name(),
                reason,
                "Log contains a change that cannot be decoded; affected copies are read again"
            );
        }
        for step in steps {
            self.step(step)?;
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), FeedError> {
        match step {
            Step::Begins(at) => self.push_began(at),
            Step::Passed(at) => self.pass(at),
            Step::Idle(at) => {
                self.push_began(at);
                self.pass(at);
            }
            Step::Commit { commit, gtid } => self.commit(commit, gtid)?,
        }
        Ok(())
    }

    /// Sends [`FeedEvent::Alive`] if there is new evidence.
    fn push_alive(&mut self) {
        let Some(resume) = self.resume.as_ref().filter(|resume| resume.began_sent) else { return };
        if let Some(since) = self.evidence.reached(resume.position) {
            self.batch.push(FeedEvent::Alive { since });
            self.alive_sent = true;
        }
    }

    /// Advances the position without a transaction.
    fn pass(&mut self, at: LogPosition) {
        if let Some(resume) =
            self.resume.as_mut().filter(|resume| resume.began_sent && resume.position < at)
        {
            resume.position = at;
            self.push(Commit { at, changes: Vec::new() });
        }
    }

    pub(super) fn commit(&mut self, commit: Commit, gtid: Option<Gtid>) -> Result<(), FeedError> {
        let resume = self.resume.as_mut().expect("it is made before the connection");
        match (&mut resume.executed, gtid) {
            (Executed::MySql(gtids), Some(Gtid::MySql(origin, number))) => {
                gtids.insert(&origin, number);
            }
            (Executed::MariaDb(last), Some(Gtid::MariaDb(gtid))) => {
                if last.is_some_and(|last| last.domain != gtid.domain) {
                    return Err(FeedError::NeedsOperator(format!(
                        "transaction {gtid} has another domain than the transactions before it; \
                         write with one gtid_domain_id"
                    )));
                }
                *last = Some(gtid);
            }
            (_, _) => {}
        }
        resume.position = resume.position.max(commit.at);
        self.push(commit);
        Ok(())
    }

    /// Adds a transaction to the batch. Of several successive ones without changes only the last
    /// is kept, for its position.
    fn push(&mut self, commit: Commit) {
        self.batch_bytes += text_bytes(&commit);
        if commit.changes.is_empty()
            && let Some(FeedEvent::Commit(last)) = self.batch.last_mut()
            && last.changes.is_empty()
        {
            *last = commit;
            return;
        }
        self.batch.push(FeedEvent::Commit(commit));
    }

    async fn flush(&mut self) -> Result<(), FeedError> {
        self.push_exclusions();
        if self.batch.is_empty() {
            return Ok(());
        }
        self.batch_bytes = 0;
        let sent = self.events.send(std::mem::take(&mut self.batch)).await;
        sent.map_err(|_| FeedError::Temporary("the receiver of the events is gone".into()))?;
        let delivered =
            self.resume.as_ref().filter(|resume| resume.began_sent).map(|resume| Delivered {
                server: resume.server,
                position: resume.position,
                gtids: match &resume.executed {
                    Executed::MySql(gtids) => gtids.clone(),
                    Executed::MariaDb(_) => Default::default(),
                },
            });
        self.source.set_delivered(delivered);
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.batch.len() >= BATCH_EVENTS || self.batch_bytes >= BATCH_BYTES
    }

    fn is_stale(&self) -> bool {
        self.assembler.as_ref().is_some_and(Assembler::is_stale)
    }
}

impl ResumePoint {
    /// Whether the feed can resume here: the server has the same log, and its end is not before
    /// this position. Only the server knows whether the position was purged.
    fn is_usable(&self, facts: &ServerFacts) -> bool {
        let known = !matches!(self.executed, Executed::MariaDb(None));
        self.began_sent && known && self.server == facts.server && facts.end >= self.position
    }

    /// Whether the server's log continues the one that was read up to this position.
    fn is_continued(&self, facts: &ServerFacts) -> bool {
        let has_all = match (&facts.executed, &self.executed) {
            (Executed::MySql(now), Executed::MySql(before)) => now.contains_set(before),
            (Executed::MariaDb(Some(now)), Executed::MariaDb(Some(before))) => {
                now.domain == before.domain && now.sequence >= before.sequence
            }
            _ => false,
        };
        has_all && self.server == facts.server && facts.end >= self.position
    }

    /// Takes the creation of the file whose events follow. If it differs from that of the file that
    /// was read, the log was reset and has already grown beyond this position.
    fn check_file(&mut self, created: FileCreated) -> Result<(), FeedError> {
        let before = self.created.replace(created);
        if before.is_some_and(|before| before.file == created.file && before != created) {
            return Err(FeedError::PositionLost(WENT_BACK.into()));
        }
        Ok(())
    }
}

/// The bytes of post text in a transaction.
pub(crate) fn text_bytes(commit: &Commit) -> usize {
    let bytes = commit.changes.iter().map(|(_, change)| match change {
        Change::Post(post) | Change::PostEdited(post) => post.content.len(),
        _ => 0,
    });
    bytes.sum()
}
