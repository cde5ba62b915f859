//! The users that a page names, with their handles.

use std::collections::BTreeMap;
use std::sync::Arc;

use tributary::{Tributary, UserId};

use super::view::Person;
use crate::limits::Cost;

/// The handles of the users on a page.
#[derive(Default)]
pub(super) struct Names {
    handles: BTreeMap<UserId, Arc<str>>,
    queried: bool,
}

impl Names {
    /// The names of these users.
    pub(super) async fn of(tributary: &Tributary, users: &[UserId]) -> Self {
        let found = tributary.handles(users).await;
        Self { handles: found.by_user, queried: found.queried }
    }

    /// Adds handles that are known already.
    pub(super) fn add(&mut self, known: impl IntoIterator<Item = (UserId, String)>) {
        self.handles.extend(known.into_iter().map(|(user, handle)| (user, handle.into())));
    }

    pub(super) fn person(&self, user: UserId) -> Person {
        Person::new(user, self.handles.get(&user).map(AsRef::as_ref))
    }

    /// The cost of finding the names.
    pub(super) fn cost(&self) -> Cost {
        if self.queried { Cost::QUERY } else { Cost::default() }
    }
}
