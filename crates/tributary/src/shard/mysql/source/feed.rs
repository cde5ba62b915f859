//! Follows a server's row binlog: connects, starts or resumes, delivers events, and reconnects.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use mysql_async::binlog::events::Event as RawEvent;
use rand::RngExt;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::log::{Executed, FeedError, ServerFacts};
use super::wire::{StartAt, Stream, checked};
use super::{Delivered, MySqlSource};
use crate::changes::assemble::{Assembler, Gtid, Step};
use crate::changes::{Change, Commit, FeedEvent, LogIdentity, LogPosition};
use crate::clock::now_ms;
use crate::shard::Deadline;

/// Limit on querying the server's state, on starting the stream, and on querying columns.
const FACTS_DEADLINE: Duration = Duration::from_secs(10);
/// Back-off between two attempts: doubled after each, up to the maximum, with a jitter of 25%.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Pause between two attempts while an operator must act.
const OPERATOR_PAUSE: Duration = Duration::from_secs(3);
/// Limits of a batch: events, and bytes of post text.
pub(crate) const BATCH_EVENTS: usize = 512;
pub(crate) const BATCH_BYTES: usize = 1 << 20;
/// Largest age of a transaction, in microseconds, that proves that the feed is near the end of the
/// log. It is half a second more than the promised second, because event times are whole seconds.
const FRESH_US: i64 = 1_500_000;
/// Least time between two [`FeedEvent::Alive`] while transactions arrive.
const ALIVE_PAUSE: Duration = Duration::from_millis(250);
/// The first event may precede the queried end of the log by at most this many bytes. Event
/// headers hold only the low 32 bits of an offset; this limit determines the other bits.
const START_DISTANCE_MAX: u64 = 1 << 31;

/// The position where the feed stopped, with all that is needed to resume.
#[derive(Debug)]
struct ResumePoint {
    identity: LogIdentity,
    position: LogPosition,
    executed: Executed,
    /// [`FeedEvent::Began`] was sent for this log.
    began_sent: bool,
}

/// The state of the feed of one server.
struct FeedTask<'a> {
    source: &'a MySqlSource,
    events: &'a mpsc::Sender<Vec<FeedEvent>>,
    resume: Option<ResumePoint>,
    assembler: Option<Assembler>,
    batch: Vec<FeedEvent>,
    batch_bytes: usize,
    /// The end of the log when the connection was made.
    end: LogPosition,
    /// Microseconds that the server's clock is ahead of the clock of this process.
    ahead_us: i64,
    /// When the last [`FeedEvent::Alive`] was sent on this connection.
    alive: Option<Instant>,
    /// An event has arrived on this connection.
    connected: bool,
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
            end: LogPosition(0),
            ahead_us: 0,
            alive: None,
            connected: false,
        }
    }

    async fn run(&mut self) {
        let mut reported: Option<String> = None;
        let mut pause = RETRY_MIN;
        while !self.events.is_closed() {
            // The client library panics at a truncated event.
            let session = AssertUnwindSafe(self.session()).catch_unwind().await;
            let error = match session {
                Ok(Ok(never)) => match never {},
                Ok(Err(error)) => error,
                Err(_) => FeedError::Temporary("an event could not be decoded".into()),
            };
            // The back-off is reset only after a connection that reached the end of the log.
            if std::mem::take(&mut self.connected) && self.alive.take().is_some() {
                (reported, pause) = (None, RETRY_MIN);
            }
            // Deliver the last batch: the next connection resumes after it.
            if self.flush().await.is_err() {
                return;
            }
            let (reason, wait) = match error {
                FeedError::NeedsOperator(reason) | FeedError::LogRefused(reason) => {
                    (reason, OPERATOR_PAUSE)
                }
                FeedError::Temporary(reason) => (reason, pause),
                FeedError::PositionLost(reason) => {
                    self.resume = None;
                    self.source.set_delivered(None);
                    (reason, pause)
                }
            };
            if reported.as_ref() != Some(&reason) {
                if self.events.send(vec![FeedEvent::Lost(reason.clone())]).await.is_err() {
                    return;
                }
                reported = Some(reason);
            }
            let percent = rand::rng().random_range(75..=125);
            tokio::time::sleep(wait * percent / 100).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// One connection, from the login until it breaks.
    async fn session(&mut self) -> Result<std::convert::Infallible, FeedError> {
        let mut connection = self.source.server.own_connection().await?;
        let facts = Deadline::after(FACTS_DEADLINE).limit(self.source.facts(&mut connection)).await;
        let facts = facts.ok_or_else(|| {
            FeedError::Temporary("the server did not report its state within 10 s".into())
        })??;
        let resumes = self.resume.as_ref().is_some_and(|resume| resume.is_usable(&facts));
        (self.end, self.ahead_us) = (facts.end, facts.ahead_us);
        let ServerFacts { identity, file, end, executed, layout, .. } = facts;
        if !resumes {
            self.assembler = None;
            self.source.set_delivered(None);
            self.resume =
                Some(ResumePoint { identity, position: end, executed, began_sent: false });
        }
        let resume = self.resume.as_mut().expect("it was set if there was none");
        let (number, offset) = resume.position.file_and_offset();
        let mut floor = resume.position;
        if !resume.began_sent && matches!(resume.executed, Executed::MySql(_)) {
            floor = LogPosition::in_file(number, offset.saturating_sub(START_DISTANCE_MAX));
        }
        let assembler = self.assembler.get_or_insert_with(|| Assembler::new(layout.clone()));
        assembler.restart(layout, floor);
        let by_offset = !resume.began_sent
            && matches!(resume.executed, Executed::MariaDb(_))
            && offset <= u64::from(u32::MAX);
        let start = match by_offset {
            true => StartAt::Offset(&file, end),
            false => StartAt::AfterTransactions(&resume.executed),
        };
        let open = Deadline::after(FACTS_DEADLINE).limit(Stream::open(connection, start)).await;
        let mut stream = open.ok_or_else(|| {
            FeedError::Temporary("the server did not start to send its log within 10 s".into())
        })??;
        loop {
            let event = stream.next().await?;
            self.mark_connected();
            self.take(&event)?;
            while !self.is_full() && !self.is_stale() {
                match stream.ready() {
                    Some(event) => self.take(&event?)?,
                    None => break,
                }
            }
            self.flush().await?;
            self.read_columns().await?;
        }
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
        let mut steps = Vec::new();
        assembler.take(&event, &mut steps).map_err(|broken| FeedError::NeedsOperator(broken.0))?;
        if let Some(problem) = assembler.take_problem() {
            warn!(
                server = self.source.name(),
                reason = problem,
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
                if self.resume.as_ref().is_some_and(|resume| resume.position >= self.end) {
                    self.push_alive();
                }
            }
            Step::Commit { commit, gtid, time_us } => {
                self.commit(commit, gtid)?;
                let now_us = now_ms() * 1_000 + self.ahead_us;
                let age_us = now_us.saturating_sub(i64::try_from(time_us).unwrap_or(0));
                let pause_over = self.alive.is_none_or(|alive| alive.elapsed() >= ALIVE_PAUSE);
                if age_us <= FRESH_US && pause_over {
                    self.push_alive();
                }
            }
        }
        Ok(())
    }

    fn push_alive(&mut self) {
        self.batch.push(FeedEvent::Alive);
        self.alive = Some(Instant::now());
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

    fn commit(&mut self, commit: Commit, gtid: Option<Gtid>) -> Result<(), FeedError> {
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
        if self.batch.is_empty() {
            return Ok(());
        }
        self.batch_bytes = 0;
        let sent = self.events.send(std::mem::take(&mut self.batch)).await;
        sent.map_err(|_| FeedError::Temporary("the receiver of the events is gone".into()))?;
        let delivered =
            self.resume.as_ref().filter(|resume| resume.began_sent).map(|resume| Delivered {
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

    /// Queries the columns again after a served table was altered.
    async fn read_columns(&mut self) -> Result<(), FeedError> {
        let Some(assembler) = self.assembler.as_mut().filter(|assembler| assembler.is_stale())
        else {
            return Ok(());
        };
        let source = self.source;
        let read = async {
            let mut connection = source.server.own_connection().await?;
            let layout = source.layout(&mut connection, assembler.ignores_case()).await?;
            drop(connection.disconnect().await);
            Ok::<_, FeedError>(layout)
        };
        let layout = Deadline::after(FACTS_DEADLINE).limit(read).await;
        let layout = layout.ok_or_else(|| {
            FeedError::Temporary("the server did not return the columns within 10 s".into())
        })??;
        assembler.set_layout(layout);
        Ok(())
    }
}

impl ResumePoint {
    /// Whether the feed can resume here: the server has the same log, and its end is not before
    /// this position. Only the server knows whether the position was purged.
    fn is_usable(&self, facts: &ServerFacts) -> bool {
        let known = !matches!(self.executed, Executed::MariaDb(None));
        self.began_sent && known && self.identity == facts.identity && facts.end >= self.position
    }
}

/// The bytes of post text in a transaction.
pub(crate) fn text_bytes(commit: &Commit) -> usize {
    let bytes = commit.changes.iter().map(|(_, change)| match change {
        Change::Post(post) => post.content.len(),
        _ => 0,
    });
    bytes.sum()
}
