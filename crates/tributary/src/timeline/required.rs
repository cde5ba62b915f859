//! The positions that the token of a request requires, and the waits until they are reached.
//!
//! A position is *lost* if it can never be reached: no followed log has its identity, or it is
//! after the end that the server itself reports after the request arrived. It also counts as lost
//! if it is not reached in time, or if the rows were read from another server than the one of the
//! log. The progress of this node alone never makes a position lost.

use std::time::Duration;

use futures_util::future::{join_all, select_all};

use super::view::Trust;
use crate::backoff::Backoff;
use crate::changes::{LogIdentity, LogPosition};
use crate::freshness::Freshness;
use crate::memory::{FollowedLog, Memory};
use crate::shard::{Deadline, ReadCheck, Source};

/// Memory normally reaches a position within this time. Only after it, the server is asked whether
/// its log has the position at all.
const USUAL_LAG: Duration = Duration::from_millis(20);
/// First and longest pause between two questions whether a database shows a position.
const VISIBLE_PAUSE: Duration = Duration::from_millis(2);
const VISIBLE_PAUSE_MAX: Duration = Duration::from_millis(500);

/// The positions of one request.
#[derive(Debug, Default)]
pub(super) struct Required {
    positions: Vec<RequiredPosition>,
}

#[derive(Debug)]
struct RequiredPosition {
    identity: LogIdentity,
    at: LogPosition,
    lost: bool,
    /// The server itself has reported an earlier end of its log.
    beyond_end: bool,
    /// Set as soon as the databases may be queried.
    read_check: Option<ReadCheck>,
}

impl Required {
    pub(super) fn new(token: &Freshness) -> Self {
        let position = |(identity, at): &(LogIdentity, LogPosition)| RequiredPosition {
            identity: *identity,
            at: *at,
            lost: false,
            beyond_end: false,
            read_check: None,
        };
        let positions = token.positions().iter().map(position).collect();
        Self { positions }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// Whether memory has reached all positions.
    pub(super) fn is_reached(&self, memory: &Memory) -> bool {
        self.positions.iter().all(|position| position.find_reached(memory.logs()))
    }

    /// The positions that are not lost.
    pub(super) fn reached(&self) -> impl Iterator<Item = (LogIdentity, LogPosition)> {
        let kept = self.positions.iter().filter(|position| !position.lost);
        kept.map(|position| (position.identity, position.at))
    }

    pub(super) fn is_any_lost(&self) -> bool {
        self.positions.iter().any(|position| position.lost)
    }

    /// Whether the log with this identity ends before its position.
    pub(super) fn is_beyond_end(&self, identity: LogIdentity) -> bool {
        self.positions.iter().any(|position| position.identity == identity && position.beyond_end)
    }

    /// Marks positions as lost whose log has another identity by now, or whose rows were read from
    /// another server.
    pub(super) fn check_after_reads(&mut self, memory: &Memory) {
        for position in &mut self.positions {
            let is_followed = memory.logs().iter().any(|log| position.is_in(log));
            position.lost |= !is_followed || position.is_read_elsewhere();
        }
    }

    /// Marks the positions of this log as lost that memory has not reached.
    pub(super) fn lose_unreached(&mut self, log: &FollowedLog) {
        for position in self.positions.iter_mut().filter(|position| position.is_in(log)) {
            position.lost |= !log.has_reached(position.identity, position.at);
        }
    }

    /// Waits for memory, for all positions at the same time. `logs` has every followed log, in the
    /// order of the shards' log indexes.
    /// Returns the indexes of those whose memory does not reach its position.
    pub(super) async fn wait(
        &mut self,
        logs: &[(&FollowedLog, &Source, Trust)],
        patience: Deadline,
    ) -> Vec<usize> {
        let waits = self.positions.iter_mut().map(|position| async {
            match position.wait(logs, patience).await {
                Waited::Reached => None,
                Waited::Lagging(index) => Some(index),
                Waited::Lost => {
                    position.lost = true;
                    None
                }
                Waited::BeyondEnd => {
                    (position.lost, position.beyond_end) = (true, true);
                    None
                }
            }
        });
        join_all(waits).await.into_iter().flatten().collect()
    }

    /// Waits until the databases show all positions. From now on it is checked which servers are
    /// read.
    pub(super) async fn wait_until_visible(
        &mut self,
        logs: &[(&FollowedLog, &Source)],
        patience: Deadline,
    ) {
        let open = self.positions.iter_mut().filter(|position| !position.lost);
        let waits = open.map(|position| async {
            let log = logs.iter().find(|(log, _)| position.is_in(log));
            position.lost = match log {
                Some((log, source)) => {
                    position.read_check = source.check_reads();
                    !position.becomes_visible(log, source, patience).await
                }
                None => true,
            };
        });
        join_all(waits).await;
    }
}

/// The result of a wait for memory to reach a position.
enum Waited {
    Reached,
    /// The index of the log whose memory does not reach it.
    Lagging(usize),
    Lost,
    /// The log ends before it.
    BeyondEnd,
}

impl Waited {
    fn reached(reached: bool) -> Self {
        if reached { Self::Reached } else { Self::Lost }
    }
}

impl RequiredPosition {
    fn is_in(&self, log: &FollowedLog) -> bool {
        log.position().is_some_and(|(identity, _)| identity == self.identity)
    }

    fn is_read_elsewhere(&self) -> bool {
        self.read_check.as_ref().is_some_and(ReadCheck::found_elsewhere)
    }

    fn find_reached(&self, logs: &[FollowedLog]) -> bool {
        logs.iter().any(|log| log.has_reached(self.identity, self.at))
    }

    /// Waits until memory has reached the position.
    async fn wait(&self, logs: &[(&FollowedLog, &Source, Trust)], patience: Deadline) -> Waited {
        let Some(Some(index)) = patience.limit(self.find(logs)).await else {
            return Waited::Lost;
        };
        let (log, source, trust) = logs[index];
        if log.has_reached(self.identity, self.at) {
            return Waited::Reached;
        }
        match trust {
            Trust::Nothing => return Waited::Lagging(index),
            // The server does not answer, so memory does not advance.
            Trust::Stale(_) => return Waited::Lost,
            Trust::Fresh => {}
        }
        let reached = || log.wait_for(self.identity, self.at);
        let soon = Deadline::after(USUAL_LAG).min(patience);
        if let Some(reached) = soon.limit(reached()).await {
            return Waited::reached(reached);
        }
        let late = async {
            let is_impossible = async {
                if !self.is_beyond_end(source, patience).await {
                    std::future::pending().await
                }
            };
            tokio::select! {
                reached = reached() => Waited::reached(reached),
                () = is_impossible => Waited::BeyondEnd,
            }
        };
        patience.limit(late).await.unwrap_or(Waited::Lagging(index))
    }

    /// The index of the log with the identity. Waits for logs that have no identity yet, shortly
    /// after the start of this node. `None` if all logs have other identities.
    async fn find(&self, logs: &[(&FollowedLog, &Source, Trust)]) -> Option<usize> {
        loop {
            if let Some(index) = logs.iter().position(|(log, ..)| self.is_in(log)) {
                return Some(index);
            }
            let unknown = logs.iter().filter(|(log, ..)| log.position().is_none());
            let begin: Vec<_> = unknown.map(|(log, ..)| Box::pin(log.begun())).collect();
            if begin.is_empty() {
                return None;
            }
            select_all(begin).await;
        }
    }

    /// Whether the position is after the end of the log.
    async fn is_beyond_end(&self, source: &Source, until: Deadline) -> bool {
        let end = source.log_end(until).await;
        end.is_ok_and(|end| end.identity == self.identity && end.end < self.at)
    }

    /// Waits until the database shows the position. Returns whether it does.
    async fn becomes_visible(
        &self,
        log: &FollowedLog,
        source: &Source,
        patience: Deadline,
    ) -> bool {
        let mut backoff = Backoff::new(VISIBLE_PAUSE, VISIBLE_PAUSE_MAX);
        while log.visible() < self.at {
            let answer = source.log_end(patience).await;
            let Some(end) = answer.ok().filter(|end| end.identity == self.identity) else {
                return false;
            };
            log.note_visible(end.identity, end.visible);
            if end.visible >= self.at {
                return true;
            }
            if end.end < self.at || patience.is_over() {
                return false;
            }
            patience.limit(tokio::time::sleep(backoff.pause())).await;
        }
        true
    }
}
