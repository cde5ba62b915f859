//! The most frequent users of a stream, in a small table: the Space-Saving algorithm of Metwally,
//! Agrawal and El Abbadi (2005). Pure.

use tributary::UserId;

/// Users of a table. A user that is more frequent than one in this many is certainly in it.
const USERS_MAX: usize = 128;

/// Counts of the most frequent users.
#[derive(Clone, Debug, Default)]
pub(super) struct SpaceSaving(Vec<Entry>);

#[derive(Clone, Copy, Debug)]
struct Entry {
    user: UserId,
    count: u64,
    /// The most that the count may be too high by: the count of the user that was replaced.
    excess: u64,
}

impl SpaceSaving {
    /// Counts a user. In a full table, a new user takes the place of the least frequent one.
    pub(super) fn add(&mut self, user: UserId, weight: u64) {
        let Self(entries) = self;
        if let Some(entry) = entries.iter_mut().find(|entry| entry.user == user) {
            entry.count += weight;
            return;
        }
        if entries.len() < USERS_MAX {
            entries.push(Entry { user, count: weight, excess: 0 });
        } else if let Some(least) = entries.iter_mut().min_by_key(|entry| entry.count) {
            *least = Entry { user, count: least.count + weight, excess: least.count };
        }
    }

    /// Halves all counts.
    pub(super) fn halve(&mut self) {
        for entry in &mut self.0 {
            entry.count /= 2;
            entry.excess /= 2;
        }
        self.0.retain(|entry| entry.count > 0);
    }

    /// The most frequent users with lower bounds of their counts.
    pub(super) fn top(&self, number: usize) -> Vec<(UserId, u64)> {
        let certain = self.0.iter().map(|entry| (entry.user, entry.count - entry.excess));
        let mut users: Vec<(UserId, u64)> = certain.filter(|(_, count)| *count > 0).collect();
        users.sort_by_key(|(user, count)| (std::cmp::Reverse(*count), *user));
        users.truncate(number);
        users
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_users_survive_a_stream_of_others() {
        let mut table = SpaceSaving::default();
        for n in 0..20_000_u32 {
            table.add(UserId::from(1_000 + n), 1);
            if n.is_multiple_of(10) {
                table.add(UserId::from(7), 2);
            }
            if n.is_multiple_of(20) {
                table.add(UserId::from(8), 2);
            }
        }
        assert_eq!(table.0.len(), USERS_MAX);
        let top = table.top(2);
        assert_eq!([top[0].0, top[1].0], [7, 8].map(UserId::from));
        // Never more than the true counts.
        assert!(top[0].1 <= 4_000 && top[0].1 > 3_600, "{top:?}");
        assert!(top[1].1 <= 2_000, "{top:?}");
        table.halve();
        assert!(table.top(1)[0].1 <= 2_000);
        (0..20).for_each(|_| table.halve());
        assert!(table.top(9).is_empty());
    }
}
