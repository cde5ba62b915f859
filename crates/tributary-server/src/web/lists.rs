//! The lists of users: followees, followers, and muted and blocked users.

use std::collections::HashSet;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use tributary::internal::{Fleet, FollowingCursor, fleet};
use tributary::{Tributary, UserId};

use super::names::Names;
use super::page;
use super::pages::{Visit, missing_notice};
use super::view::{Frame, Notice, Person};
use crate::auth::{Allowed, Purpose, ReadFollowing};
use crate::error::ApiError;
use crate::limits::Cost;
use crate::query::Parameters;
use crate::timeline::costing;

/// A list of users that belongs to a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum List {
    Following,
    Followers,
    Mutes,
    Blocks,
}

/// The texts of a list.
struct Texts {
    path: &'static str,
    title: &'static str,
    about: &'static str,
    /// The title of an empty list, and what to do then.
    empty: (&'static str, &'static str),
}

#[derive(Template)]
#[template(path = "list.html")]
struct ListPage {
    frame: Frame,
    reader: UserId,
    texts: Texts,
    tabs: Vec<Tab>,
    members: Vec<Member>,
    notices: Vec<Notice>,
    next: Option<String>,
    is_deep: bool,
}

/// A link to another list.
struct Tab {
    path: &'static str,
    title: &'static str,
    is_current: bool,
}

/// A user of the list.
struct Member {
    person: Person,
    /// The list that the button adds the user to, or removes the user from.
    list: &'static str,
    is_on: bool,
}

impl List {
    const ALL: [Self; 4] = [Self::Following, Self::Followers, Self::Mutes, Self::Blocks];

    fn texts(self) -> Texts {
        let (path, title, about, empty) = match self {
            Self::Following => (
                "following",
                "Following",
                "Their posts are on your home timeline",
                ("You follow no users yet", "Find an author, and follow them on their page."),
            ),
            Self::Followers => (
                "followers",
                "Followers",
                "Your posts are on their home timelines",
                ("You have no followers yet", "Users appear here once they follow you."),
            ),
            Self::Mutes => (
                "mutes",
                "Muted",
                "Their posts are not on your home timeline",
                ("You mute no users", "Mute an author on their page to hide their posts."),
            ),
            Self::Blocks => (
                "blocks",
                "Blocked",
                "You and they do not see posts of each other",
                ("You block no users", "Block an author on their page."),
            ),
        };
        Texts { path, title, about, empty }
    }

    /// Whether the shards store this list. Otherwise the API answers 501, and no page leads there.
    fn is_stored(self, fleet: &Fleet) -> bool {
        match self {
            Self::Following => true,
            Self::Followers => fleet.stores_followers(),
            Self::Mutes => fleet.stores_mutes(),
            Self::Blocks => fleet.stores_blocks(),
        }
    }

    fn purpose(self, reader: UserId) -> Purpose {
        match self {
            Self::Following => Purpose::Following(reader),
            Self::Followers => Purpose::Followers(reader),
            Self::Mutes => Purpose::Mutes(reader),
            Self::Blocks => Purpose::Blocks(reader),
        }
    }

    /// The page of this list.
    async fn show(
        self,
        tributary: &Tributary,
        reader: UserId,
        visit: &Visit,
        parameters: &Parameters,
    ) -> Result<Response, ApiError> {
        let (purpose, limit) = (self.purpose(reader), parameters.limit);
        let from =
            parameters.cursor(purpose)?.map_or(UserId::from(0), |FollowingCursor(from)| from);
        let (users, next, missing) = match self {
            Self::Following => {
                let page = tributary.following(reader, from, limit).await?;
                (page.followees, page.next, page.missing)
            }
            list => {
                let page = match list {
                    Self::Followers => tributary.followers(reader, from, limit).await?,
                    Self::Mutes => tributary.mutes(reader, from, limit).await?,
                    _ => tributary.blocks(reader, from, limit).await?,
                };
                (page.users, page.next, page.missing)
            }
        };
        let texts = self.texts();
        let seal = |from| parameters.cursor_keys.seal(purpose, FollowingCursor(from).to_string());
        let next = next.filter(|_| missing.is_empty()).map(seal);
        let fleet = fleet(tributary);
        let stored = Self::ALL.into_iter().filter(|list| list.is_stored(fleet));
        let tab = |list: Self| {
            let Texts { path, title, .. } = list.texts();
            Tab { path, title, is_current: list == self }
        };
        let named: Vec<UserId> = users.iter().copied().chain([reader]).collect();
        let (names, follows) =
            tokio::join!(Names::of(tributary, &named), self.followed_of(tributary, reader, &users));
        let template = ListPage {
            frame: visit.frame(Some(names.person(reader)), "people"),
            reader,
            tabs: stored.map(tab).collect(),
            members: users.iter().map(|user| self.member(names.person(*user), &follows)).collect(),
            notices: missing_notice(&missing, fleet).into_iter().collect(),
            next: next.map(|next| format!("/home/{reader}/{}?cursor={next}", texts.path)),
            is_deep: parameters.has_cursor(),
            texts,
        };
        // Followers take a second wave of queries, for the buttons.
        let cost = if self == Self::Followers { Cost::QUERY } else { Cost::default() };
        Ok(costing(cost.plus(Cost::QUERY).plus(names.cost()), page(&template)))
    }

    /// Those of a page of followers that the reader follows; empty for other lists.
    async fn followed_of(
        self,
        tributary: &Tributary,
        reader: UserId,
        users: &[UserId],
    ) -> HashSet<UserId> {
        if self != Self::Followers || users.is_empty() {
            return HashSet::new();
        }
        let found = tributary.relationships(reader, users).await.all;
        found.iter().filter(|of| of.following).map(|of| of.user).collect()
    }

    /// A user with a button: for followers it follows them, else it ends what the list says.
    fn member(self, person: Person, follows: &HashSet<UserId>) -> Member {
        match self {
            Self::Followers => {
                Member { is_on: follows.contains(&person.id), list: "following", person }
            }
            list => Member { is_on: true, list: list.texts().path, person },
        }
    }
}

type Reading = Allowed<ReadFollowing>;

/// `GET /home/{reader}/following`: the follow list, by rising id.
pub(super) async fn following(
    State(tributary): State<Tributary>,
    Reading { user, .. }: Reading,
    visit: Visit,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    List::Following.show(&tributary, user, &visit, &parameters).await
}

/// `GET /home/{reader}/followers`, by rising id.
pub(super) async fn followers(
    State(tributary): State<Tributary>,
    Reading { user, .. }: Reading,
    visit: Visit,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    List::Followers.show(&tributary, user, &visit, &parameters).await
}

/// `GET /home/{reader}/mutes`: the muted users, by rising id.
pub(super) async fn mutes(
    State(tributary): State<Tributary>,
    Reading { user, .. }: Reading,
    visit: Visit,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    List::Mutes.show(&tributary, user, &visit, &parameters).await
}

/// `GET /home/{reader}/blocks`: the blocked users, by rising id.
pub(super) async fn blocks(
    State(tributary): State<Tributary>,
    Reading { user, .. }: Reading,
    visit: Visit,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    List::Blocks.show(&tributary, user, &visit, &parameters).await
}
