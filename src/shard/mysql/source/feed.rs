//! Follows a server's row binlog: connects, begins or goes on, tells, and connects again.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use mysql_async::binlog::events::Event as RawEvent;
use rand::RngExt;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::log::{Executed, Facts, Hindrance};
use super::wire::{From, Stream, checked};
use super::{Delivered, MySqlSource};
use crate::changes::assemble::{Assembler, Name, Step};
use crate::changes::{Change, Commit, FeedEvent, LogIdentity, LogPosition};
use crate::clock::now_ms;
use crate::shard::Deadline;

/// How long asking the server everything may take.
const FACTS_DEADLINE: Duration = Duration::from_secs(10);
/// Between two attempts, doubled up to the largest; give or take a quarter.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Where somebody must do something first.
const UNMET_PAUSE: Duration = Duration::from_secs(3);
/// What is told at once, at most: events, and bytes of text.
pub(super) const BATCH_EVENTS: usize = 512;
pub(super) const BATCH_BYTES: usize = 1 << 20;
/// An event that is older does not show that the end of the log is near. Half a second more than
/// what is promised, since events carry whole seconds.
const FRESH_US: i64 = 1_500_000;
/// That all is told is said at most this often while there is something to tell.
const ALIVE_PAUSE: Duration = Duration::from_millis(250);
/// In a file that is larger than what a header can say, reading begins this close to its end.
const NEAR: u64 = 1 << 31;

/// Where a log was left, and all that is needed to go on.
#[derive(Debug)]
struct Place {
    identity: LogIdentity,
    position: LogPosition,
    executed: Executed,
    /// It was said that reading began.
    told: bool,
}

/// Follows one server.
struct Follower<'a> {
    source: &'a MySqlSource,
    events: &'a mpsc::Sender<Vec<FeedEvent>>,
    place: Option<Place>,
    assembler: Option<Assembler>,
    batch: Vec<FeedEvent>,
    batch_bytes: usize,
    /// The end of the log when the link was made.
    end: LogPosition,
    ahead_us: i64,
    alive: Option<Instant>,
    /// The link works.
    linked: bool,
}

impl MySqlSource {
    pub(in crate::shard) async fn follow(&self, events: mpsc::Sender<Vec<FeedEvent>>) {
        let mut follower = Follower::new(self, &events);
        // Whatever is under way ends when nobody listens; the connection is closed.
        tokio::select! {
            () = events.closed() => {}
            () = follower.run() => {}
        }
        self.set_delivered(None);
    }
}

impl<'a> Follower<'a> {
    fn new(source: &'a MySqlSource, events: &'a mpsc::Sender<Vec<FeedEvent>>) -> Self {
        Self {
            source,
            events,
            place: None,
            assembler: None,
            batch: Vec::new(),
            batch_bytes: 0,
            end: LogPosition(0),
            ahead_us: 0,
            alive: None,
            linked: false,
        }
    }

    async fn run(&mut self) {
        let mut told: Option<String> = None;
        let mut pause = RETRY_MIN;
        while !self.events.is_closed() {
            // The client panics at an event that is cut off.
            let session = AssertUnwindSafe(self.session()).catch_unwind().await;
            let hindrance = match session {
                Ok(Ok(never)) => match never {},
                Ok(Err(hindrance)) => hindrance,
                Err(_) => Hindrance::Failed("an event could not be read at all".into()),
            };
            // A link that never came to the end of the log did not mend what was wrong.
            if std::mem::take(&mut self.linked) && self.alive.take().is_some() {
                (told, pause) = (None, RETRY_MIN);
            }
            // What was taken from the log is told, or it would never be.
            if self.flush().await.is_err() {
                return;
            }
            let (reason, wait) = match hindrance {
                Hindrance::Unmet(reason) => (reason, UNMET_PAUSE),
                Hindrance::Failed(reason) => (reason, pause),
                Hindrance::Gone(reason) => {
                    self.place = None;
                    self.source.set_delivered(None);
                    (reason, pause)
                }
            };
            if told.as_ref() != Some(&reason) {
                if self.events.send(vec![FeedEvent::Lost(reason.clone())]).await.is_err() {
                    return;
                }
                told = Some(reason);
            }
            let percent = rand::rng().random_range(75..=125);
            tokio::time::sleep(wait * percent / 100).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// One link, from the login until it breaks.
    async fn session(&mut self) -> Result<std::convert::Infallible, Hindrance> {
        let mut connection = self.source.server.own_connection().await?;
        let facts = Deadline::after(FACTS_DEADLINE).limit(self.source.facts(&mut connection)).await;
        let facts = facts.ok_or_else(|| Hindrance::Failed("slow to say who it is".into()))??;
        let goes_on = self.place.as_ref().is_some_and(|place| place.can_go_on(&facts));
        (self.end, self.ahead_us) = (facts.end, facts.ahead_us);
        let Facts { identity, file, end, executed, layout, .. } = facts;
        if !goes_on {
            self.assembler = None;
            self.source.set_delivered(None);
            self.place = Some(Place { identity, position: end, executed, told: false });
        }
        let place = self.place.as_mut().expect("it was made if there was none");
        let (number, offset) = place.position.file_and_offset();
        let mut floor = place.position;
        if !place.told && matches!(place.executed, Executed::MySql(_)) {
            floor = LogPosition::in_file(number, offset.saturating_sub(NEAR));
        }
        let assembler = self.assembler.get_or_insert_with(|| Assembler::new(layout.clone()));
        assembler.restart(layout, floor);
        let by_place = !place.told
            && matches!(place.executed, Executed::MariaDb(_))
            && offset <= u64::from(u32::MAX);
        let from = match by_place {
            true => From::Place(&file, end),
            false => From::After(&place.executed),
        };
        let open = Deadline::after(FACTS_DEADLINE).limit(Stream::open(connection, from)).await;
        let mut stream = open.ok_or_else(|| Hindrance::Failed("slow to send its log".into()))??;
        loop {
            let event = stream.next().await?;
            self.link();
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

    /// Something came, so the place was accepted.
    fn link(&mut self) {
        if std::mem::replace(&mut self.linked, true) {
            return;
        }
        if let Some(place) = &self.place
            && matches!(place.executed, Executed::MariaDb(_))
        {
            self.tell_began(place.position);
        }
        let goes_on = self.place.as_ref().is_some_and(|place| place.told);
        info!(server = self.source.name(), goes_on, "log is followed");
    }

    /// Says where reading begins, unless it was said.
    fn tell_began(&mut self, at: LogPosition) {
        let Some(place) = self.place.as_mut().filter(|place| !place.told) else { return };
        (place.told, place.position) = (true, at);
        self.batch.push(FeedEvent::Began { identity: place.identity, at });
    }

    fn take(&mut self, raw: &RawEvent) -> Result<(), Hindrance> {
        let assembler = self.assembler.as_mut().expect("it is made before the link");
        let event = checked(raw, assembler.is_in_payload())?;
        let mut steps = Vec::new();
        assembler.take(&event, &mut steps).map_err(|broken| Hindrance::Unmet(broken.0))?;
        if let Some(complaint) = assembler.complaint() {
            warn!(server = self.source.name(), reason = complaint, "log tells too little");
        }
        for step in steps {
            self.step(step)?;
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), Hindrance> {
        match step {
            Step::Begins(at) => self.tell_began(at),
            Step::Passed(at) => self.pass(at),
            Step::Idle(at) => {
                self.tell_began(at);
                self.pass(at);
                if self.place.as_ref().is_some_and(|place| place.position >= self.end) {
                    self.tell_alive();
                }
            }
            Step::Commit { commit, name, time_us } => {
                self.commit(commit, name)?;
                let now_us = now_ms() * 1_000 + self.ahead_us;
                let age_us = now_us.saturating_sub(i64::try_from(time_us).unwrap_or(0));
                let pause_over = self.alive.is_none_or(|alive| alive.elapsed() >= ALIVE_PAUSE);
                if age_us <= FRESH_US && pause_over {
                    self.tell_alive();
                }
            }
        }
        Ok(())
    }

    fn tell_alive(&mut self) {
        self.batch.push(FeedEvent::Alive);
        self.alive = Some(Instant::now());
    }

    /// Nothing happened up to here.
    fn pass(&mut self, at: LogPosition) {
        if let Some(place) = self.place.as_mut().filter(|place| place.told && place.position < at) {
            place.position = at;
            self.push(Commit { at, changes: Vec::new() });
        }
    }

    fn commit(&mut self, commit: Commit, name: Option<Name>) -> Result<(), Hindrance> {
        let place = self.place.as_mut().expect("it is made before the link");
        match (&mut place.executed, name) {
            (Executed::MySql(gtids), Some(Name::MySql(origin, number))) => {
                gtids.insert(&origin, number);
            }
            (Executed::MariaDb(last), Some(Name::MariaDb(gtid))) => {
                if last.is_some_and(|last| last.domain != gtid.domain) {
                    return Err(Hindrance::Unmet(format!(
                        "transaction {gtid} is of another domain than those before; write with \
                         one gtid_domain_id"
                    )));
                }
                *last = Some(gtid);
            }
            (_, _) => {}
        }
        place.position = place.position.max(commit.at);
        self.push(commit);
        Ok(())
    }

    /// Where nothing happened several times, the last one says it all.
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

    async fn flush(&mut self) -> Result<(), Hindrance> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.batch_bytes = 0;
        let sent = self.events.send(std::mem::take(&mut self.batch)).await;
        sent.map_err(|_| Hindrance::Failed("nobody listens".into()))?;
        let delivered = self.place.as_ref().filter(|place| place.told).map(|place| Delivered {
            position: place.position,
            gtids: match &place.executed {
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

    /// After a table was altered.
    async fn read_columns(&mut self) -> Result<(), Hindrance> {
        let Some(assembler) = self.assembler.as_mut().filter(|assembler| assembler.is_stale())
        else {
            return Ok(());
        };
        let source = self.source;
        let read = async {
            let mut connection = source.server.own_connection().await?;
            let layout = source.layout(&mut connection, assembler.ignores_case()).await?;
            drop(connection.disconnect().await);
            Ok::<_, Hindrance>(layout)
        };
        let layout = Deadline::after(FACTS_DEADLINE).limit(read).await;
        let layout =
            layout.ok_or_else(|| Hindrance::Failed("slow to say its columns".into()))??;
        assembler.set_layout(layout);
        Ok(())
    }
}

impl Place {
    /// Whether the server found has the log that was left, as far as can be seen from here.
    fn can_go_on(&self, facts: &Facts) -> bool {
        let known = !matches!(self.executed, Executed::MariaDb(None));
        self.told && known && self.identity == facts.identity && facts.end >= self.position
    }
}

/// What the texts in it take.
pub(super) fn text_bytes(commit: &Commit) -> usize {
    let bytes = commit.changes.iter().map(|(_, change)| match change {
        Change::Post(post) => post.content.len(),
        _ => 0,
    });
    bytes.sum()
}
