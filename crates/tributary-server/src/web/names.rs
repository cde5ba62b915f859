//! The users that a page names, with their handles and display names.

use std::collections::BTreeMap;

use tributary::graph::UserNames;
use tributary::{Tributary, UserId};

use super::view::Person;
use crate::limits::Cost;

/// The names of the users on a page.
#[derive(Default)]
pub(super) struct Names {
    by_user: BTreeMap<UserId, UserNames>,
    queried: bool,
}

impl Names {
    /// The names of these users.
    pub(super) async fn of(tributary: &Tributary, users: &[UserId]) -> Self {
        let found = tributary.names(users).await;
        Self { by_user: found.by_user, queried: found.queried }
    }

    /// Adds names that are known already.
    pub(super) fn add(&mut self, known: impl IntoIterator<Item = (UserId, UserNames)>) {
        self.by_user.extend(known);
    }

    pub(super) fn person(&self, user: UserId) -> Person {
        Person::new(user, self.by_user.get(&user))
    }

    /// The cost of finding the names.
    pub(super) fn cost(&self) -> Cost {
        if self.queried { Cost::QUERY } else { Cost::default() }
    }
}
