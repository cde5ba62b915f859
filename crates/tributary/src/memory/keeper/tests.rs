//! The keeper's answers, case by case. `model.rs` and `simulator.rs` check that they are correct
//! together.

use super::bits::{Bits, Change};
use super::{BUFFERED_MAX, Installed, Keeper, Tracked};
use crate::changes::{Bounds, LogPosition};

const AT: fn(u64) -> LogPosition = LogPosition;

fn exact(at: u64) -> Bounds {
    Bounds::Exact(AT(at))
}

fn window(low: u64, high: u64) -> Bounds {
    Bounds::Window { low: AT(low), high: AT(high) }
}

fn tail(posts: u64) -> Bits {
    Bits::read(posts, 64, true)
}

/// A keeper whose first log identity begins at position 10.
fn keeper() -> Keeper<u8, Bits> {
    let mut keeper = Keeper::new();
    keeper.begin(AT(10));
    keeper
}

/// Applies a transaction. Returns the keys and values that `commit` reported.
fn commit(
    keeper: &mut Keeper<u8, Bits>,
    at: u64,
    changes: &[(u8, Change)],
) -> Vec<(u8, Option<u64>)> {
    let mut shown = Vec::new();
    let all = changes.iter().copied();
    keeper.commit(AT(at), all, |key, tail| shown.push((*key, tail.map(|tail| tail.posts))));
    shown
}

fn got(keeper: &Keeper<u8, Bits>, key: u8) -> Option<(u64, u64)> {
    keeper.get(key).map(|(tail, at)| (tail.posts, at.0))
}

#[test]
fn changes_buffered_during_a_read_are_applied_unless_the_read_has_them() {
    let mut keeper = keeper();
    let ticket = keeper.register(1).unwrap();
    assert_eq!(ticket.registered(), AT(10));
    assert_eq!(keeper.register(1), None);
    assert!(commit(&mut keeper, 11, &[(1, Change::Written(0))]).is_empty());
    assert!(commit(&mut keeper, 12, &[(1, Change::Gone(0)), (2, Change::Written(9))]).is_empty());
    assert!(commit(&mut keeper, 13, &[(1, Change::Written(2))]).is_empty());
    assert_eq!(keeper.install(1, ticket, exact(11), tail(0b1)), Installed::Ready);
    assert_eq!(got(&keeper, 1), Some((0b100, 13)));
    assert_eq!((keeper.ready(), keeper.pending(), got(&keeper, 2)), (1, 0, None));
    assert_eq!(keeper.install(1, ticket, exact(13), tail(0)), Installed::Void);
}

#[test]
fn a_read_older_than_the_registration_is_retried_under_its_ticket() {
    let mut keeper = keeper();
    let ticket = keeper.register(1).unwrap();
    assert_eq!(keeper.install(1, ticket, exact(9), tail(0)), Installed::Retry);
    assert_eq!(keeper.install(1, ticket, window(9, 20), tail(0)), Installed::Retry);
    assert!(commit(&mut keeper, 11, &[(1, Change::Written(0))]).is_empty());
    assert_eq!(keeper.install(1, ticket, exact(10), tail(0)), Installed::Ready);
    assert_eq!(got(&keeper, 1), Some((0b1, 11)));
}

#[test]
fn changes_that_a_read_already_contains_are_skipped() {
    let mut keeper = keeper();
    let ticket = keeper.register(1).unwrap();
    assert_eq!(keeper.install(1, ticket, exact(12), tail(0b10)), Installed::Ready);
    assert_eq!(got(&keeper, 1), Some((0b10, 12)));
    assert!(commit(&mut keeper, 11, &[(1, Change::Written(0))]).is_empty());
    assert!(commit(&mut keeper, 12, &[(1, Change::Gone(0))]).is_empty());
    let both = [(1, Change::Written(3)), (1, Change::Gone(1))];
    assert_eq!(
        commit(&mut keeper, 13, &both),
        [(1, Some(0b1000))],
        "reported once, after both changes"
    );
    assert!(commit(&mut keeper, 13, &[(1, Change::Written(5))]).is_empty(), "delivered again");
    assert_eq!(keeper.high_water(), AT(13));
}

#[test]
fn a_window_read_waits_for_its_upper_bound() {
    let mut keeper = keeper();
    let ticket = keeper.register(1).unwrap();
    assert_eq!(keeper.install(1, ticket, window(10, 12), tail(0b110)), Installed::Held);
    assert_eq!(got(&keeper, 1), None);
    assert_eq!(keeper.install(1, ticket, window(10, 12), tail(0)), Installed::Void);
    keeper.give_up(1, ticket);
    assert!(commit(&mut keeper, 11, &[(1, Change::Written(1))]).is_empty());
    assert_eq!(commit(&mut keeper, 12, &[(1, Change::Gone(2))]), [(1, Some(0b10))]);
    assert_eq!(got(&keeper, 1), Some((0b10, 12)));
    let late = keeper.register(2).unwrap();
    assert_eq!(keeper.install(2, late, window(12, 12), tail(0b1)), Installed::Ready);
}

#[test]
fn unknown_changes_drop_the_key() {
    let mut keeper = keeper();
    let tickets = [1, 2, 3].map(|key| keeper.register(key).unwrap());
    assert_eq!(keeper.install(1, tickets[0], exact(10), tail(1)), Installed::Ready);
    assert_eq!(keeper.install(3, tickets[2], window(10, 11), tail(1)), Installed::Held);
    let changes = [3, 1, 2, 1].map(|key| (key, Change::Unknown));
    assert_eq!(commit(&mut keeper, 11, &changes), [(1, None), (3, None)]);
    assert_eq!(keeper.install(2, tickets[1], exact(10), tail(1)), Installed::Void);
    assert_eq!((keeper.ready(), keeper.pending()), (0, 0));
    let again = keeper.register(2).unwrap();
    assert_eq!(keeper.install(2, again, exact(11), tail(1)), Installed::Ready);
}

#[test]
fn a_key_with_too_many_buffered_changes_is_given_up() {
    let mut keeper = keeper();
    let (read, held) = (keeper.register(1).unwrap(), keeper.register(2).unwrap());
    assert_eq!(keeper.install(2, held, window(10, 12), tail(0)), Installed::Held);
    let many = vec![(1, Change::Written(1)); BUFFERED_MAX];
    assert!(commit(&mut keeper, 11, &many).is_empty());
    assert_eq!(keeper.pending(), 2);
    let mut more = vec![(2, Change::Written(1)); BUFFERED_MAX + 1];
    more.push((1, Change::Written(1)));
    assert_eq!(commit(&mut keeper, 12, &more), [(2, None)]);
    assert_eq!(keeper.install(1, read, exact(12), tail(0)), Installed::Void);
    assert_eq!((keeper.pending(), keeper.held.len()), (0, 0));
}

#[test]
fn a_ticket_is_void_after_eviction_or_a_new_log_identity() {
    let mut keeper = keeper();
    let first = keeper.register(1).unwrap();
    assert!(keeper.evict(1) && !keeper.evict(1));
    let second = keeper.register(1).unwrap();
    keeper.give_up(1, first);
    assert_eq!(keeper.install(1, first, exact(10), tail(0)), Installed::Void);
    assert_eq!(keeper.install(1, second, window(10, 11), tail(0)), Installed::Held);
    assert!(keeper.evict(1));
    assert!(commit(&mut keeper, 11, &[]).is_empty(), "nothing is held after the eviction");
    let third = keeper.register(1).unwrap();
    let fourth = keeper.register(2).unwrap();
    assert_eq!(keeper.install(2, fourth, exact(11), tail(0)), Installed::Ready);
    keeper.begin(AT(5));
    assert_eq!((keeper.high_water(), keeper.ready(), keeper.pending()), (AT(5), 0, 0));
    assert!(keeper.register(1).is_some());
    assert_eq!(keeper.install(1, third, exact(11), tail(0)), Installed::Void);
}

#[test]
fn a_ready_entry_is_its_value_and_one_position() {
    assert_eq!(size_of::<Tracked<std::sync::Arc<Bits>, Change>>(), 16);
}
