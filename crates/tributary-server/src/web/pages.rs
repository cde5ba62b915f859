//! The pages for readers: the first page, home timelines and author timelines.

use std::collections::BTreeSet;
use std::convert::Infallible;

use askama::Template;
use axum::extract::{FromRef, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tributary::graph::Count;
use tributary::internal::{Draft, Fleet, fleet, now_ms, rfc3339_ms};
use tributary::{Freshness, Limit, Page, ShardId, Tributary, UserId};

use super::find::choose;
use super::referred::Referred;
use super::view::{Frame, Notice, Person, PostView, Theme, absolute, grouped, listed, plural};
use super::{Web, assets, page};
use crate::auth::{
    Action, Allowed, CursorKeys, Object, Principal, Purpose, ReadHome, authorize, cookie,
};
use crate::error::ApiError;
use crate::limits::Cost;
use crate::observe::PageKind;
use crate::query::Parameters;
use crate::timeline::costing;
use crate::traffic::PageAuthors;
use crate::wire::{Cursors, shard_names};

/// Freshness tokens of one cookie. `api.js` keeps this many.
const TOKENS_MAX: usize = 4;

/// The facts about a request that all pages need.
pub(super) struct Visit {
    web: Web,
    has_handles: bool,
    stores_references: bool,
    stores_edits: bool,
    stores_markers: bool,
    theme: Theme,
    principal: Principal,
    bytes_max: usize,
    /// The freshness tokens of the reader's last writes, separated by `~`.
    written: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Visit
where
    Web: FromRef<S>,
    Tributary: FromRef<S>,
{
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let tributary = Tributary::from_ref(state);
        let fleet = fleet(&tributary);
        Ok(Self {
            web: Web::from_ref(state),
            has_handles: fleet.require_handles().is_ok(),
            stores_references: fleet.stores_references(),
            stores_edits: fleet.require_edits().is_ok(),
            stores_markers: fleet.require_markers().is_ok(),
            theme: Theme::of(&parts.headers),
            principal: parts.extensions.get().cloned().unwrap_or(Principal::Anonymous),
            bytes_max: tributary.content_bytes_max(),
            written: cookie::value(&parts.headers, cookie::FRESHNESS).map(str::to_owned),
        })
    }
}

impl Visit {
    pub(super) fn frame(&self, reader: Option<Person>, section: &'static str) -> Frame {
        Frame {
            version: assets::version(),
            theme: self.theme.name(),
            reader,
            signed_in: self.principal != Principal::Open,
            chooses: self.principal.user().is_none(),
            writes: self.web.writes,
            bytes_max: self.bytes_max,
            has_handles: self.has_handles,
            replies: self.web.writes && self.stores_references,
            edits: self.web.writes && self.stores_edits,
            marks: self.web.writes && self.stores_markers,
            has_shards: self.web.has_shards,
            section,
        }
    }

    /// Whether users can be found by their handles, by this client.
    pub(super) fn may_find(&self) -> Result<bool, ApiError> {
        authorize(&self.principal, Action::FindUsers, Object::Node)?;
        Ok(self.has_handles)
    }

    /// The readers that the first page suggests.
    pub(super) fn examples(&self) -> &[UserId] {
        &self.web.examples
    }

    /// Whether the client may see how the pages of this reader are read.
    fn may_explain(&self, reader: UserId) -> bool {
        authorize(&self.principal, Action::Explain, Object::Of(reader)).is_ok()
    }

    /// Adds the freshness of the reader's last writes, so that a page that a link opens shows
    /// them. A token that does not open is ignored: it may be of an earlier key.
    pub(super) fn require_written(&self, parameters: &mut Parameters) {
        let written = self.written.iter().flat_map(|tokens| tokens.split('~'));
        for sealed in written.take(TOKENS_MAX) {
            let token = parameters.cursor_keys.open(Purpose::Freshness, sealed).ok();
            if let Some(token) = token.and_then(|text| text.parse::<Freshness>().ok()) {
                parameters.at_least.require(&token);
            }
        }
    }
}

/// `GET /`: the reader's home timeline, or the choice of a reader.
pub(super) async fn start(
    State(tributary): State<Tributary>,
    visit: Visit,
) -> Result<Response, ApiError> {
    match &visit.principal {
        Principal::Anonymous => Err(ApiError::Unauthenticated),
        Principal::User(reader) => see_other(&format!("/home/{reader}")),
        Principal::Open | Principal::Service { .. } => Ok(choose(&tributary, &visit).await),
    }
}

/// `GET /` for operators: the page of all shards.
pub(super) async fn to_shards() -> Result<Response, ApiError> {
    see_other("/shards")
}

pub(super) fn see_other(path: &str) -> Result<Response, ApiError> {
    let path = HeaderValue::try_from(path).map_err(|_| ApiError::Internal)?;
    Ok((StatusCode::SEE_OTHER, [(header::LOCATION, path)]).into_response())
}

/// A page of a home timeline or of an author timeline.
#[derive(Template)]
#[template(path = "timeline.html")]
struct TimelinePage {
    frame: Frame,
    reader: UserId,
    /// `None` for a home timeline.
    author: Option<Author>,
    posts: Vec<PostView>,
    notices: Vec<Notice>,
    next: Option<String>,
    prev: String,
    /// Whether newer posts were skipped: the page is not the newest one.
    is_deep: bool,
    /// The freshness token of the page; empty if no logs are followed.
    token: String,
    /// The address of the page that shows how this one was read.
    explain: Option<String>,
}

struct Author {
    person: Person,
    is_reader: bool,
    /// `None` for the reader, and if it is not known.
    relation: Option<Relation>,
    /// The numbers of the reader's followees and followers.
    numbers: Option<[String; 2]>,
}

impl Author {
    /// Whether the relation or the numbers were queried, beside the posts.
    fn has_queried(&self) -> bool {
        self.relation.is_some() || self.numbers.is_some()
    }
}

/// How the reader and an author are related.
struct Relation {
    /// The follow or block of the reader by the author; empty without one.
    about: &'static str,
    controls: Vec<Control>,
}

/// A button that adds the author to a list of the reader, or removes the author.
struct Control {
    list: &'static str,
    is_on: bool,
}

/// `GET /home/{reader}`: the home timeline.
pub(super) async fn home(
    State(tributary): State<Tributary>,
    Allowed { user: reader, .. }: Allowed<ReadHome>,
    visit: Visit,
    mut parameters: Parameters,
) -> Result<Response, ApiError> {
    visit.require_written(&mut parameters);
    let purpose = Purpose::Home(reader);
    let request = parameters.page(purpose)?;
    let draft = Draft::home(&tributary, reader, &request).await?;
    let path = format!("/home/{reader}");
    let explain = visit.may_explain(reader).then(|| format!("{path}/explain"));
    let of = Timeline { reader, author: None, purpose, path, explain };
    Ok(of.show((&visit, "home"), draft, &parameters, &tributary).await)
}

/// `GET /home/{reader}/authors/{author}`: the posts of one author.
pub(super) async fn author(
    State(tributary): State<Tributary>,
    Allowed { user: reader, other: author, viewer, .. }: Allowed<ReadHome, UserId>,
    visit: Visit,
    mut parameters: Parameters,
) -> Result<Response, ApiError> {
    visit.require_written(&mut parameters);
    parameters.refuse_those_of_home()?;
    let purpose = Purpose::Author { author, viewer };
    let draft = Draft::author(&tributary, author, &parameters.page(purpose)?).await;
    let is_reader = author == reader;
    let (relation, numbers) = match (is_reader, parameters.has_cursor()) {
        (true, true) => (None, None),
        (true, false) => (None, numbers(&tributary, reader).await),
        (false, _) => (relation(&tributary, reader, author).await, None),
    };
    let author = Author { person: Person::new(author, None), is_reader, relation, numbers };
    let path = format!("/home/{reader}/authors/{}", author.person.id);
    let of = Timeline { reader, author: Some(author), purpose, path, explain: None };
    let section = if is_reader { "posts" } else { "author" };
    Ok(of.show((&visit, section), draft, &parameters, &tributary).await)
}

/// How the reader and the author are related; `None` if a shard does not answer.
async fn relation(tributary: &Tributary, reader: UserId, author: UserId) -> Option<Relation> {
    let found = tributary.relationships(reader, &[author]).await;
    let of = found.all.first().filter(|_| found.missing.is_empty())?;
    let fleet = fleet(tributary);
    let control = |list, is_on, is_stored: bool| is_stored.then_some(Control { list, is_on });
    let controls = [
        control("following", of.following, true),
        control("mutes", of.muting, fleet.stores_mutes()),
        control("blocks", of.blocking, fleet.stores_blocks()),
    ];
    let about = match (of.blocked_by, of.followed_by) {
        (true, _) => "Blocks you",
        (false, true) => "Follows you",
        (false, false) => "",
    };
    Some(Relation { about, controls: controls.into_iter().flatten().collect() })
}

/// The numbers of followees and followers; `None` if they are not known.
async fn numbers(tributary: &Tributary, reader: UserId) -> Option<[String; 2]> {
    let counts = tributary.follow_counts(reader).await.ok()?;
    let text = |count| match count {
        Count::Exact(number) => grouped(number as u64),
        Count::AtLeast(number) => format!("{}+", grouped(number as u64)),
    };
    counts.missing.is_empty().then(|| [text(counts.following), text(counts.followers)])
}

/// The timeline that a page shows.
struct Timeline {
    reader: UserId,
    author: Option<Author>,
    purpose: Purpose,
    path: String,
    /// The path of the page that shows how this one was read.
    explain: Option<String>,
}

/// The address of the page of `path` with this cursor, for the same parameters; of the newest page
/// without a cursor.
pub(super) fn address(path: &str, parameters: &Parameters, cursor: &str) -> String {
    let limit = Some(parameters.limit).filter(|limit| *limit != Limit::DEFAULT);
    let parts = [
        limit.map(|limit| format!("limit={}", limit.get())),
        parameters.include_self.then(|| "include_self=1".to_owned()),
        parameters.collapse_reposts.then(|| "reposts=collapse".to_owned()),
        Some(format!("cursor={cursor}")).filter(|_| !cursor.is_empty()),
    ];
    let query = parts.into_iter().flatten().collect::<Vec<String>>().join("&");
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

impl Timeline {
    async fn show(
        self,
        (visit, section): (&Visit, &'static str),
        draft: Draft,
        parameters: &Parameters,
        tributary: &Tributary,
    ) -> Response {
        let Self { reader, mut author, purpose, path, explain } = self;
        let keys = &parameters.cursor_keys;
        let cursors = Cursors::sealed(&draft, keys, purpose);
        let link = |cursor: &str| address(&path, parameters, cursor);
        let explain = explain.map(|path| address(&path, parameters, parameters.sealed_cursor()));
        let has_queried = author.as_ref().is_some_and(Author::has_queried);
        let about = if has_queried { Cost::QUERY } else { Cost::default() };
        let cost = Cost::of_page(&draft).plus(about);
        let kind = PageKind::of(&draft, !parameters.at_least.is_empty());
        let (authors, missing_authors) = (PageAuthors::of(&draft), draft.missing_authors);
        let mut page = draft.into_page();
        let further = author.iter().map(|author| author.person.id);
        let mut referred = Referred::read(tributary, reader, &page.posts, further).await;
        referred.names.add(std::mem::take(&mut page.names));
        let names = &referred.names;
        if let Some(author) = &mut author {
            author.person = names.person(author.person.id);
        }
        let fleet = fleet(tributary);
        let mut notices = notices(&page, missing_authors, tributary);
        notices.extend(referred_notice(&(&referred.missing - &page.missing), fleet));
        let times = fleet.times();
        let seen_by = (reader, now_ms());
        let post = |post| PostView::new(post, &referred, times, seen_by);
        let template = TimelinePage {
            frame: visit.frame(Some(names.person(reader)), section),
            reader,
            author,
            posts: page.posts.iter().map(post).collect(),
            notices,
            next: cursors.next.as_deref().map(link),
            prev: link(&cursors.prev),
            is_deep: parameters.has_cursor(),
            token: token(&page.freshness, keys),
            explain,
        };
        let mut response = costing(cost.plus(referred.cost()), self::page(&template));
        response.extensions_mut().insert(kind);
        response.extensions_mut().insert(authors);
        response
    }
}

fn token(freshness: &Freshness, keys: &CursorKeys) -> String {
    if freshness.is_empty() { String::new() } else { keys.seal_freshness(freshness) }
}

/// The notice that a list is not shown, if these shards did not answer.
pub(super) fn missing_notice(missing: &BTreeSet<ShardId>, fleet: &Fleet) -> Option<Notice> {
    partial_notice(missing, fleet, "this is not shown")
}

/// The notice that posts which the posts of a page refer to may be missing from it.
pub(super) fn referred_notice(missing: &BTreeSet<ShardId>, fleet: &Fleet) -> Option<Notice> {
    partial_notice(missing, fleet, "not all posts that others refer to may be shown")
}

fn partial_notice(missing: &BTreeSet<ShardId>, fleet: &Fleet, effect: &str) -> Option<Notice> {
    let names = shard_names(missing, fleet);
    let (shards, verb) = plural(names.len(), ("Shard", "does"), ("Shards", "do"));
    let names_listed = listed(&names);
    let text = format!("{shards} {names_listed} {verb} not answer, so {effect}. Try again.");
    (!names.is_empty()).then_some(Notice { kind: "partial", text })
}

fn notices(page: &Page, missing_authors: usize, tributary: &Tributary) -> Vec<Notice> {
    let fleet = fleet(tributary);
    let mut notices = Vec::new();
    let missing = shard_names(&page.missing, fleet);
    if !missing.is_empty() {
        let (shards, verb) = plural(missing.len(), ("Shard", "does"), ("Shards", "do"));
        let (names, back) = (listed(&missing), plural(missing.len(), "it is", "they are"));
        let authors = match missing_authors {
            0 => "authors there".to_owned(),
            1 => "one author".to_owned(),
            authors => format!("{} authors", grouped(authors as u64)),
        };
        let text = format!(
            "{shards} {names} {verb} not answer: posts by {authors} may be missing. These posts \
             come first once {back} back."
        );
        notices.push(Notice { kind: "partial", text });
    }
    if let Some(as_of) = page.stale.values().min() {
        let names: Vec<&str> = page.stale.keys().map(|shard| fleet.shard_name(*shard)).collect();
        let (shards, verb) = plural(names.len(), ("Shard", "does"), ("Shards", "do"));
        let (names, since) = (listed(&names), absolute(&rfc3339_ms(*as_of)));
        let text = format!(
            "{shards} {names} {verb} not answer: posts by authors there are shown as of {since}."
        );
        notices.push(Notice { kind: "stale", text });
    }
    if !page.fresh_enough {
        let text = "This page does not show your last change yet. Load it again in a moment.";
        notices.push(Notice { kind: "stale", text: text.to_owned() });
    }
    notices
}
