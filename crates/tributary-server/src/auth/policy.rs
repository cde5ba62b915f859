//! The rules of access: principals, scopes, actions, and the one function that decides. Pure.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;
use tributary::UserId;

/// A set of actions that a service key may do. `docs/api.md` has the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scope {
    /// Read author timelines and single posts: `timelines:read`.
    ReadTimelines,
    /// Do everything that a user may do, for every user: `act-as-user`.
    ActAsUser,
    /// Read home timelines, and how they were read: `explain`.
    Explain,
    /// Read metrics and the state of shards and keys, reload files: `admin`.
    Admin,
}

/// The text is not the name of a scope.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("not a scope; the scopes are timelines:read, act-as-user, explain and admin")]
pub struct UnknownScope;

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 4] = [Self::ReadTimelines, Self::ActAsUser, Self::Explain, Self::Admin];

    /// The name in files and in commands.
    pub fn name(self) -> &'static str {
        match self {
            Self::ReadTimelines => "timelines:read",
            Self::ActAsUser => "act-as-user",
            Self::Explain => "explain",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        Self::ALL.into_iter().find(|scope| scope.name() == text).ok_or(UnknownScope)
    }
}

/// The client of a request, as its credential shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Principal {
    /// No credentials are configured. The request passed the checks of that case.
    Open,
    /// Credentials are configured, and the request has none.
    Anonymous,
    /// A service with a key.
    Service {
        /// The public id of the key.
        id: Arc<str>,
        /// The scopes of the key.
        scopes: Arc<[Scope]>,
    },
    /// A user with a JWT.
    User(UserId),
}

impl Principal {
    /// The user whose credential this is. A service is not a user, although it may act for one.
    pub(crate) fn user(&self) -> Option<UserId> {
        match self {
            Self::User(user) => Some(*user),
            _ => None,
        }
    }
}

/// The action of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    ReadHome,
    ReadFollowing,
    ReadAuthor,
    ReadPost,
    Publish,
    EditPost,
    DeletePost,
    Follow,
    MarkRead,
    /// Find users by the beginning of their handles.
    FindUsers,
    ReadMetrics,
    ReadState,
    ReadKeys,
    Reload,
    /// Read a home timeline, and how it was read.
    Explain,
}

/// The object of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    /// The timeline, posts or follow list of this user.
    Of(UserId),
    /// This process.
    Node,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The request needs a credential.
    Unauthenticated,
    /// The object belongs to another user. The answer is that of an object that does not exist.
    Hidden,
    /// The credential is valid, but not for this action. A key needs this scope.
    MissingScope(Scope),
}

/// The users and the scopes that an action is open to.
struct Rule {
    users: Users,
    scopes: &'static [Scope],
}

enum Users {
    /// All users, on every object.
    All,
    /// The owner of the object.
    Owner,
    /// No user.
    None,
}

impl Action {
    fn rule(self) -> Rule {
        match self {
            Self::ReadAuthor | Self::ReadPost => {
                Rule { users: Users::All, scopes: &[Scope::ReadTimelines, Scope::ActAsUser] }
            }
            Self::FindUsers => Rule { users: Users::All, scopes: &[Scope::ActAsUser] },
            Self::ReadHome
            | Self::ReadFollowing
            | Self::Publish
            | Self::EditPost
            | Self::DeletePost
            | Self::Follow
            | Self::MarkRead => Rule { users: Users::Owner, scopes: &[Scope::ActAsUser] },
            Self::Explain => Rule { users: Users::Owner, scopes: &[Scope::Explain] },
            Self::ReadMetrics | Self::ReadState | Self::ReadKeys | Self::Reload => {
                Rule { users: Users::None, scopes: &[Scope::Admin] }
            }
        }
    }
}

/// Decides whether the principal may do this to this object. Everything that no rule allows is
/// refused.
///
/// # Errors
/// The reason for the refusal.
pub(crate) fn authorize(
    principal: &Principal,
    action: Action,
    object: Object,
) -> Result<(), Denied> {
    let Rule { users, scopes } = action.rule();
    let missing = Denied::MissingScope(scopes[0]);
    match principal {
        Principal::Open => Ok(()),
        Principal::Anonymous => Err(Denied::Unauthenticated),
        Principal::Service { scopes: held, .. } => {
            held.iter().any(|scope| scopes.contains(scope)).then_some(()).ok_or(missing)
        }
        Principal::User(user) => match users {
            Users::All => Ok(()),
            Users::Owner if object == Object::Of(*user) => Ok(()),
            Users::Owner => Err(Denied::Hidden),
            Users::None => Err(missing),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTIONS: [Action; 15] = [
        Action::ReadHome,
        Action::ReadFollowing,
        Action::ReadAuthor,
        Action::ReadPost,
        Action::Publish,
        Action::EditPost,
        Action::DeletePost,
        Action::Follow,
        Action::MarkRead,
        Action::ReadMetrics,
        Action::ReadState,
        Action::ReadKeys,
        Action::Reload,
        Action::Explain,
        Action::FindUsers,
    ];

    /// One letter for each action, in the order above: `+` allowed, `h` hidden, `s` missing scope,
    /// `u` unauthenticated.
    fn decisions(principal: &Principal, object: Object) -> String {
        let decide = |action| match authorize(principal, action, object) {
            Ok(()) => '+',
            Err(Denied::Hidden) => 'h',
            Err(Denied::MissingScope(_)) => 's',
            Err(Denied::Unauthenticated) => 'u',
        };
        ACTIONS.map(decide).iter().collect()
    }

    #[test]
    fn every_principal_may_do_only_what_its_rule_allows() {
        let (own, other) = (Object::Of(UserId::from(7)), Object::Of(UserId::from(8)));
        let user = Principal::User(UserId::from(7));
        let service =
            |scopes: &[Scope]| Principal::Service { id: "k".into(), scopes: scopes.into() };
        let table = [
            (Principal::Open, own, "+++++++++++++++"),
            (Principal::Anonymous, own, "uuuuuuuuuuuuuuu"),
            (user.clone(), own, "+++++++++ssss++"),
            (user.clone(), other, "hh++hhhhhssssh+"),
            (user, Object::Node, "hh++hhhhhssssh+"),
            (service(&[]), own, "sssssssssssssss"),
            (service(&[Scope::ReadTimelines]), own, "ss++sssssssssss"),
            (service(&[Scope::ActAsUser]), own, "+++++++++sssss+"),
            (service(&[Scope::Explain]), own, "sssssssssssss+s"),
            (service(&[Scope::Admin]), own, "sssssssss++++ss"),
            (service(&[Scope::Admin, Scope::ReadTimelines]), own, "ss++sssss++++ss"),
        ];
        for (principal, object, expected) in table {
            assert_eq!(decisions(&principal, object), expected, "{principal:?} {object:?}");
        }
    }

    #[test]
    fn scopes_have_names() {
        for scope in Scope::ALL {
            assert_eq!(scope.name().parse(), Ok(scope));
        }
        assert_eq!("root".parse::<Scope>(), Err(UnknownScope));
    }
}
