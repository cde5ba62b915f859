//! A client that follows the rules of the documentation: it reads a page and then what is new, by
//! requests or with a subscription, and continues from any of its earlier tokens on any node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use super::server::{PostOf, Rows, Touched, position, server_of};
use super::world::World;
use super::{AUTHORS, READERS, Weakness};
use crate::changes::ChangePosition;
use crate::freshness::Freshness;
use crate::horizon::Horizon;
use crate::model::{Post, PostKey, UserId};
use crate::post_json::decode;
use crate::shard::Deadline;
use crate::timeline::news::{self, News, NewsEvent, NewsRequest, Subscription};
use crate::timeline::{DraftPost, Limit, PageRequest, home_timeline};

/// Attempts at a page that is incomplete.
const PAGES_MAX: usize = 10;
/// Reads of a stream after one wake-up. More are an error, since there are few changes.
const READS_MAX: usize = 200;
/// Earlier states that a client can continue from.
const SAVED_MAX: usize = 6;
/// Horizons advance in steps, and streams are woken one step later.
const STEP_MS: i64 = 20;

/// The timeline of a client, and its token.
#[derive(Clone, Default)]
struct State {
    /// Whether the client has a page.
    has_page: bool,
    posts: BTreeMap<PostOf, (i64, String)>,
    token: Freshness,
    /// The posts that came as events since the last page, with their times.
    came: BTreeSet<(PostOf, i64)>,
    /// The transactions of each log that answers have shown, and the horizon of the pages.
    shown: BTreeMap<u64, usize>,
    horizon: Option<PostKey>,
}

pub(super) struct Client {
    number: usize,
    reader: u64,
    /// The number of its node.
    pub(super) node: usize,
    state: State,
    saved: Vec<State>,
    stream: Option<Subscription>,
    due_ms: Option<i64>,
    /// The last answer was incomplete, so the stream is not complete either.
    is_incomplete: bool,
    /// The horizon of the token waits for tails that memory cannot have now, for a second or until
    /// the next change.
    waits: bool,
    weakness: Option<Weakness>,
    pub(super) counts: Counts,
}

/// Counts of events, to prove that they have happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) events: usize,
    pub(super) due: usize,
    pub(super) gaps: usize,
    pub(super) follows: usize,
    pub(super) resumed: usize,
    pub(super) incomplete: usize,
    pub(super) unanswered: usize,
    /// Pages that databases have answered, and answers whose follow list they have answered.
    pub(super) cold: usize,
    pub(super) queried: usize,
    pub(super) checked: usize,
}

impl Counts {
    pub(super) fn add(&mut self, other: Self) {
        self.events += other.events;
        self.due += other.due;
        self.gaps += other.gaps;
        self.follows += other.follows;
        self.resumed += other.resumed;
        self.incomplete += other.incomplete;
        self.unanswered += other.unanswered;
        self.cold += other.cold;
        self.queried += other.queried;
        self.checked += other.checked;
    }
}

fn author_of((author, _): &PostOf) -> u64 {
    *author
}

impl Client {
    pub(super) fn new(number: usize, weakness: Option<Weakness>) -> Self {
        Self {
            number,
            reader: READERS[number % READERS.len()],
            node: 0,
            state: State::default(),
            saved: Vec::new(),
            stream: None,
            due_ms: None,
            is_incomplete: false,
            waits: false,
            weakness,
            counts: Counts::default(),
        }
    }

    fn has(&self, weakness: Weakness) -> bool {
        self.weakness == Some(weakness)
    }

    /// Begins with a page and its token. If no page can be read now, it begins later.
    fn begin(&mut self, world: &mut World<'_>) {
        self.stream = None;
        self.state = State::default();
        let Some(mut token) = self.read_page(world, &Freshness::default()) else { return };
        if self.has(Weakness::LaterPosition) {
            for (identity, at) in token.positions().to_vec() {
                token.set(identity, Some(ChangePosition::after(at)), at);
            }
        }
        (self.state.token, self.state.has_page) = (token, true);
    }

    /// Replaces the timeline by a page that has reached the token. Returns the token of the page.
    /// `None` if there is no complete page, or if a log of the token does not exist any more.
    fn read_page(&mut self, world: &mut World<'_>, token: &Freshness) -> Option<Freshness> {
        let (mut posts, mut first, mut tries) = (BTreeMap::new(), None, 0);
        let (reader, limit) = (UserId(self.reader), Limit::new(7).unwrap());
        let mut request = PageRequest::default().limit(limit).at_least(token.clone());
        loop {
            let page = world.ask(self.node, async |reading| {
                home_timeline(&mut reading.view(), reader, &request).await.unwrap()
            });
            let Some(page) = page.filter(|page| page.missing.is_empty()) else {
                tries += 1;
                if tries == PAGES_MAX {
                    return None;
                }
                continue;
            };
            if !page.fresh_enough {
                return None;
            }
            if world.verbose {
                let keys: Vec<_> = page.posts.iter().map(DraftPost::key).collect();
                let Self { number, node, .. } = self;
                println!("  client {number}, node {node}, page: {:?}, {keys:?}", page.freshness);
            }
            self.counts.cold += usize::from(page.waves > 0);
            posts.extend(page.posts.iter().map(|post| entry(&post_of(post))));
            let first = first.get_or_insert(page.freshness);
            let Some(next) = page.next else { break };
            // An older page must show all changes up to the token of the first one.
            request = request.from(next).at_least(first.clone());
        }
        self.state.posts = posts;
        self.note_shown(world, true);
        let horizon = Some(world.node(self.node).horizon());
        self.state.horizon = self.state.horizon.max(horizon).max(token.horizon());
        first
    }

    /// Notes that the client may have everything that its node has, and that the databases show.
    fn note_shown(&mut self, world: &World<'_>, is_queried: bool) {
        for (server, writer) in world.servers.iter().zip(&world.nodes[self.node].writers) {
            self.show(server.epochs[writer.epoch].identity.0, writer.delivered);
            let epochs = server.epochs.iter().filter(|_| is_queried);
            epochs.for_each(|epoch| self.show(epoch.identity.0, epoch.visible));
        }
    }

    fn show(&mut self, identity: u64, count: usize) {
        let shown = self.state.shown.entry(identity).or_default();
        *shown = count.max(*shown);
    }

    /// Ends the subscription, and perhaps goes back to an earlier state.
    pub(super) fn cut(&mut self, chance: &mut StdRng) {
        self.stream = None;
        if !self.saved.is_empty() && chance.random_bool(0.5) {
            self.state = self.saved[chance.random_range(0..self.saved.len())].clone();
        }
    }

    /// Continues on a node, with a subscription.
    pub(super) fn resume(&mut self, world: &mut World<'_>, number: usize) {
        self.node = number;
        if !self.state.has_page {
            return self.begin(world);
        }
        self.counts.resumed += 1;
        let node = world.node(number);
        if self.has(Weakness::NoHorizon) {
            self.state.token.set_horizon(Some(node.horizon()));
        }
        let since = Some(self.state.token.clone());
        let stream = Subscription::new(Some(&node.memory), UserId(self.reader), since);
        self.stream = Some(stream.expect("streams have room"));
        (self.due_ms, self.is_incomplete) = (None, false);
    }

    pub(super) fn is_live(&self) -> bool {
        self.stream.is_some()
    }

    /// Asks a node once for some events. If the node does not have the token yet, sometimes waits
    /// for it.
    pub(super) async fn poll(
        &mut self,
        world: &mut World<'_>,
        number: usize,
    ) -> Result<(), String> {
        self.node = number;
        if !self.state.has_page {
            self.begin(world);
            return Ok(());
        }
        let (reader, limit) = (UserId(self.reader), world.chance.random_range(1..6));
        let limit = Limit::new(limit).unwrap();
        let request = NewsRequest::since(self.state.token.clone()).limit(limit);
        let before = world.waits;
        let count = world.ask(number, async |reading| {
            news::count(&mut reading.view(), reader, &request).await.unwrap()
        });
        let news = world.ask(number, async |reading| {
            news::news(&mut reading.view(), reader, &request).await.unwrap()
        });
        let is_same_moment = before == world.waits;
        let news = match news {
            // A request whose time is over waits for nothing.
            None if world.chance.random_ratio(1, 8) => {
                let reading = world.node(number).reading();
                let mut view = reading.view().until(Deadline::after(Duration::ZERO));
                Some(news::news(&mut view, reader, &request).await.unwrap())
            }
            news => news,
        };
        let Some(news) = news else {
            self.counts.unanswered += 1;
            return Ok(());
        };
        let is_incomplete = !news.missing.is_empty();
        self.counts.incomplete += usize::from(is_incomplete);
        if let (Some((posts, rest)), true) = (count, is_same_moment && !news.more && !news.gap) {
            check_count(posts, &rest, &news)?;
        }
        match self.take(news, world)? {
            true => self.check_at_token(world, is_incomplete),
            false => Ok(()),
        }
    }

    /// Reads everything that the stream has been woken for.
    pub(super) fn follow_stream(&mut self, world: &mut World<'_>) -> Result<(), String> {
        let Some(mut stream) = self.stream.take() else { return Ok(()) };
        if self.is_incomplete {
            stream.read_next();
        }
        for reads in 0.. {
            if reads == READS_MAX {
                return Err("a stream reads without end".into());
            }
            let clock_ms = world.nodes[self.node].clock_ms(world.now_ms);
            let is_due = self.due_ms.is_some_and(|due_ms| clock_ms >= due_ms);
            if is_due && !self.has(Weakness::NoDueTime) {
                stream.read_next();
            }
            if !stream.is_woken() {
                break;
            }
            let news =
                world.ask(self.node, async |reading| stream.read(reading.view()).await.unwrap());
            let Some(news) = news else {
                self.counts.unanswered += 1;
                self.is_incomplete = true;
                self.stream = Some(stream);
                return Ok(());
            };
            self.is_incomplete = !news.missing.is_empty();
            self.counts.incomplete += usize::from(self.is_incomplete);
            if !self.take(news, world)? {
                return Ok(());
            }
        }
        self.stream = Some(stream);
        if self.is_incomplete { Ok(()) } else { self.check_live(world) }
    }

    /// Takes an answer. False if the client has begun again.
    fn take(&mut self, news: News, world: &mut World<'_>) -> Result<bool, String> {
        if world.verbose {
            println!("  client {}, node {}: {news:?}", self.number, self.node);
        }
        self.counts.queried += usize::from(news.queried);
        self.due_ms = news.next_due_ms;
        // Posts come as they are on this node. Databases that were queried can be newer.
        self.note_shown(world, world.has_waited);
        let is_behind = news.freshness.horizon() < Some(world.node(self.node).horizon());
        let tries_again = news.next_due_ms == Some(Horizon::soon_ms());
        self.waits = (!news.more && is_behind) || tries_again;
        if news.gap {
            self.counts.gaps += 1;
            let ignores = self.has(Weakness::NoGap);
            if !ignores && self.read_page(world, &news.freshness).is_none() {
                self.begin(world);
                return Ok(false);
            }
        }
        let before = self.state.token.horizon();
        for (event, token) in news.events.into_iter().zip(news.tokens) {
            self.counts.events += 1;
            self.counts.due += usize::from(token.horizon() > self.state.token.horizon());
            if !self.event(event, world)? {
                self.begin(world);
                return Ok(false);
            }
            self.state.token = token;
            if world.chance.random_ratio(1, 10) {
                self.save();
            }
        }
        self.state.token = news.freshness;
        self.weaken(before);
        // The client keeps it as text.
        self.state.token = self.state.token.to_string().parse().unwrap();
        Ok(true)
    }

    /// Changes the token as the weakness does.
    fn weaken(&mut self, horizon_before: Option<PostKey>) {
        match self.weakness {
            Some(Weakness::WholeTransactions) => {
                for (identity, at) in self.state.token.positions().to_vec() {
                    self.state.token.set(identity, Some(ChangePosition::after(at)), at);
                }
            }
            Some(Weakness::PositionsFirst) => self.state.token.set_horizon(horizon_before),
            _ => {}
        }
    }

    /// False if the page of a follow cannot be read, because a log does not exist any more.
    fn event(&mut self, event: NewsEvent, world: &mut World<'_>) -> Result<bool, String> {
        match event {
            NewsEvent::Post(post) => {
                let post = post.to_post();
                let (of, (time, _)) = entry(&post);
                let is_new = self.state.came.insert((of, time));
                let server = &world.servers[server_of(of.0)];
                if !is_new && server.changes.get(&of) == Some(&1) {
                    return Err(format!("{:?} comes twice", post.key));
                }
                self.state.posts.extend([entry(&post)]);
            }
            NewsEvent::Update(post) => self.state.posts.extend([entry(&post.to_post())]),
            NewsEvent::Delete { author, post } => {
                self.state.posts.remove(&(author.0, post.0));
            }
            NewsEvent::Follow { freshness, .. }
            | NewsEvent::Unmute { freshness, .. }
            | NewsEvent::Unblock { freshness, .. } => {
                self.counts.follows += 1;
                if !self.has(Weakness::NoFollowPage) {
                    return Ok(self.read_page(world, &freshness).is_some());
                }
            }
            NewsEvent::Unfollow { user, .. }
            | NewsEvent::Mute { user, .. }
            | NewsEvent::Block { user, .. } => {
                self.state.posts.retain(|of, _| author_of(of) != user.0);
            }
        }
        Ok(true)
    }

    fn save(&mut self) {
        if self.saved.len() == SAVED_MAX {
            self.saved.remove(0);
        }
        self.saved.push(self.state.clone());
    }

    /// Compares the timeline with that of the databases at the token. The token of an incomplete
    /// answer can be before a loss that the answer did not reach.
    fn check_at_token(&mut self, world: &World<'_>, is_incomplete: bool) -> Result<(), String> {
        let mut from = Vec::new();
        for (server, writer) in world.servers.iter().zip(&world.nodes[self.node].writers) {
            let epoch = &server.epochs[writer.epoch];
            // The token has lost a log, or belongs to a node that is ahead.
            let Some(seen) = self.state.token.changes_seen(epoch.identity) else { return Ok(()) };
            if is_incomplete && epoch.is_before_loss(seen) {
                return Ok(());
            }
            from.push(seen);
        }
        self.check(world, (&from, self.state.token.horizon()))
    }

    /// Compares the timeline with that of the databases at the position of the node.
    fn check_live(&mut self, world: &mut World<'_>) -> Result<(), String> {
        let node = world.node(self.node);
        let at = |writer: &super::node::Writer| ChangePosition::after(position(writer.delivered));
        let from: Vec<_> = node.writers.iter().map(at).collect();
        let reached = if self.waits { None } else { Some(node.horizon()) };
        let horizon = self.state.token.horizon().max(reached);
        self.check(world, (&from, horizon))
    }

    fn check(
        &mut self,
        world: &World<'_>,
        (from, horizon): (&[ChangePosition], Option<PostKey>),
    ) -> Result<(), String> {
        self.counts.checked += 1;
        let (mut rows, mut touched) = (Vec::new(), Vec::new());
        let writers = &world.nodes[self.node].writers;
        for ((server, writer), from) in world.servers.iter().zip(writers).zip(from) {
            let (epoch, later) = server.epochs[writer.epoch..].split_first().unwrap();
            if later.iter().any(|epoch| self.state.shown.contains_key(&epoch.identity.0)) {
                // The databases have answered from a log that this node does not follow yet.
                return Ok(());
            }
            let shown = self.state.shown.get(&epoch.identity.0).copied().unwrap_or_default();
            rows.push(epoch.rows_at(*from));
            touched.push(epoch.touched(*from, shown.max(writer.delivered)));
        }
        let expected = timeline(self.reader, &rows, horizon);
        let own = &self.state.posts;
        let wrong = expected.keys().chain(own.keys()).find(|of| {
            let (expected, own) = (expected.get(*of), own.get(*of));
            let time = expected.or(own).map_or(0, |(time, _)| *time);
            let server = &world.servers[server_of(of.0)];
            expected != own
                && !server.blocked.contains(&(of.0, self.reader))
                && !self.may_differ(&touched, **of)
                && !self.is_near(horizon, time)
        });
        let Some(of) = wrong else { return Ok(()) };
        Err(format!(
            "{of:?}: expected {:?}, found {:?}; client {}, node {}, horizon {horizon:?}, from {from:?}",
            expected.get(of),
            own.get(of),
            self.number,
            self.node,
        ))
    }

    /// Whether a post has changed after the token, so that the client may have it as it is now.
    fn may_differ(&self, touched: &[Touched], of: PostOf) -> bool {
        let [of_reader, of_author] = [self.reader, of.0].map(|user| &touched[server_of(user)]);
        of_reader.all
            || of_reader.users.contains(&self.reader)
            || of_reader.entries.contains(&(self.reader, of.0))
            || of_author.all
            || of_author.users.contains(&of.0)
            || of_author.posts.contains(&of)
    }

    /// Whether pages have shown posts of this time already, or the horizon reaches it now.
    fn is_near(&self, horizon: Option<PostKey>, time: i64) -> bool {
        let horizon = horizon.map_or(i64::MAX, |key| key.time);
        let shown = self.state.horizon.map_or(i64::MIN, |key| key.time);
        (time > horizon && time <= shown) || (horizon - STEP_MS..=horizon).contains(&time)
    }
}

/// The number of new posts must be that of the events.
fn check_count(posts: usize, rest: &News, news: &News) -> Result<(), String> {
    let is_post = |event: &&NewsEvent| matches!(event, NewsEvent::Post(_));
    let came = news.events.iter().filter(is_post).map(|event| match event {
        NewsEvent::Post(post) => post.key(),
        _ => unreachable!("only posts are left"),
    });
    let came = came.collect::<BTreeSet<_>>().len();
    if came != posts || rest.gap {
        return Err(format!("{posts} posts are counted, and {came} come"));
    }
    Ok(())
}

fn post_of(post: &DraftPost) -> Post {
    match post {
        DraftPost::FromDatabase(post) => post.clone(),
        DraftPost::FromMemory(found) => decode(found.key, found.body()),
    }
}

fn entry(post: &Post) -> (PostOf, (i64, String)) {
    ((post.key.author.0, post.key.post.0), (post.key.time, post.content.clone()))
}

/// The home timeline in these rows, up to a horizon.
fn timeline(
    reader: u64,
    rows: &[Rows],
    horizon: Option<PostKey>,
) -> BTreeMap<PostOf, (i64, String)> {
    let of = |user: u64| &rows[server_of(user)];
    let followed = (0..AUTHORS).filter(|author| of(reader).shows(reader, *author));
    let posts = followed.flat_map(|author| of(author).posts_of(author));
    let shown = posts.filter(|post| horizon.is_none_or(|horizon| post.key <= horizon));
    shown.map(|post| entry(&post)).collect()
}
