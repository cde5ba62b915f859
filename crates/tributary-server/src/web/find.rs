//! The choice of a user, and the search for one: by id, or by the beginning of a handle.

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use serde::Deserialize;
use tributary::graph::{FoundUsers, NamedUser, USERS_FOUND_MAX};
use tributary::internal::fleet;
use tributary::{Tributary, UserId};

use super::names::Names;
use super::page;
use super::pages::{Visit, missing_notice, see_other};
use super::view::{Frame, Notice, Person};
use crate::auth::{Allowed, ReadHome};
use crate::error::ApiError;
use crate::graph::checked_prefix;
use crate::limits::Cost;
use crate::timeline::costing;

/// The choice of a reader or of an author.
#[derive(Template)]
#[template(path = "find.html")]
struct FindPage {
    frame: Frame,
    /// The address that the form requests.
    action: String,
    /// The beginning of a handle; empty if nothing was searched.
    query: String,
    /// The users that were found, with the addresses of their pages.
    found: Vec<(Person, String)>,
    /// Whether there may be more.
    is_cut: bool,
    examples: Vec<Person>,
    notices: Vec<Notice>,
}

#[derive(Deserialize)]
pub(super) struct Chosen {
    user: String,
}

type ChosenQuery = Result<Query<Chosen>, QueryRejection>;

/// The user that the form names.
enum Entered {
    Id(UserId),
    Prefix(String),
}

impl Entered {
    /// A number is an id, except after the sign of a handle.
    fn parse(query: ChosenQuery, visit: &Visit) -> Result<Self, ApiError> {
        let Query(Chosen { user }) = query.map_err(|_| ApiError::BadUserId)?;
        let text = user.trim();
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        if !visit.may_find()? {
            return Err(ApiError::BadUserId);
        }
        let prefix = text.strip_prefix('@').unwrap_or(text);
        Ok(Self::Prefix(checked_prefix(prefix)?.to_owned()))
    }
}

/// The page on which a client that may read as any user chooses one.
pub(super) async fn choose(tributary: &Tributary, visit: &Visit) -> Response {
    let names = Names::of(tributary, visit.examples()).await;
    let template = FindPage {
        examples: visit.examples().iter().map(|id| names.person(*id)).collect(),
        ..FindPage::empty(visit.frame(None, ""), "/open".to_owned())
    };
    costing(names.cost(), page(&template))
}

/// `GET /open?user=TEXT`: the home timeline of that user, or the users whose handles begin so.
pub(super) async fn open(
    State(tributary): State<Tributary>,
    visit: Visit,
    query: ChosenQuery,
) -> Result<Response, ApiError> {
    match Entered::parse(query, &visit)? {
        Entered::Id(id) => see_other(&format!("/home/{id}")),
        Entered::Prefix(prefix) => {
            let empty = FindPage::empty(visit.frame(None, ""), "/open".to_owned());
            let found = tributary.find_users(&prefix).await?;
            let shown = empty.show(&tributary, prefix, found, |id| format!("/home/{id}"))?;
            Ok(costing(Cost::QUERY, shown))
        }
    }
}

/// `GET /home/{reader}/open?user=TEXT`: the timeline of that author, or the users whose handles
/// begin so.
pub(super) async fn open_author(
    State(tributary): State<Tributary>,
    Allowed { user: reader, .. }: Allowed<ReadHome>,
    visit: Visit,
    query: ChosenQuery,
) -> Result<Response, ApiError> {
    let path = |id: UserId| format!("/home/{reader}/authors/{id}");
    match Entered::parse(query, &visit)? {
        Entered::Id(id) => see_other(&path(id)),
        Entered::Prefix(prefix) => {
            let readers = [reader];
            let (names, found) =
                tokio::join!(Names::of(&tributary, &readers), tributary.find_users(&prefix));
            let frame = visit.frame(Some(names.person(reader)), "find");
            let empty = FindPage::empty(frame, format!("/home/{reader}/open"));
            let shown = empty.show(&tributary, prefix, found?, path)?;
            Ok(costing(Cost::QUERY.plus(names.cost()), shown))
        }
    }
}

impl FindPage {
    fn empty(frame: Frame, action: String) -> Self {
        let (found, examples, notices) = (Vec::new(), Vec::new(), Vec::new());
        Self { frame, action, query: String::new(), found, is_cut: false, examples, notices }
    }

    /// The users that were found. If the text is the whole handle of one, that user's page.
    fn show(
        self,
        tributary: &Tributary,
        prefix: String,
        found: FoundUsers,
        path: impl Fn(UserId) -> String,
    ) -> Result<Response, ApiError> {
        let lower = prefix.to_lowercase();
        let mut whole =
            found.users.iter().filter(|user| user.names.handle().to_lowercase() == lower);
        if let (Some(user), None, true) = (whole.next(), whole.next(), found.missing.is_empty()) {
            return see_other(&path(user.id));
        }
        let person = |user: &NamedUser| (Person::new(user.id, Some(&user.names)), path(user.id));
        let template = Self {
            query: prefix,
            found: found.users.iter().map(person).collect(),
            is_cut: found.users.len() == USERS_FOUND_MAX,
            notices: missing_notice(&found.missing, fleet(tributary)).into_iter().collect(),
            ..self
        };
        Ok(page(&template))
    }
}
