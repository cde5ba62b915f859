//! Names of the faults and branches that a simulation must reach.

/// An event that is counted, to prove that it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    Stall,
    Crash,
    LostTail,
    TakenOver,
    Purge,
    LostLink,
    Redelivered,
    DeliveredByOldServer,
    Burst,
    Unknown,
    FailedRead,
    Ready,
    ReadAhead,
    Held,
    Released,
    Retry,
    OtherServer,
    OldEpoch,
    OldGeneration,
    Overflow,
    UnknownWhileRead,
    UnknownWhileReady,
    EvictedReady,
    EvictedPending,
    EvictedHeld,
    FromMemory,
    FromDatabase,
    Waited,
    TokenLost,
    Filled,
}

pub(super) const COUNTS: usize = Count::Filled as usize + 1;

/// Every event.
pub(super) const ALL: [Count; COUNTS] = {
    use Count::*;
    [
        Stall,
        Crash,
        LostTail,
        TakenOver,
        Purge,
        LostLink,
        Redelivered,
        DeliveredByOldServer,
        Burst,
        Unknown,
        FailedRead,
        Ready,
        ReadAhead,
        Held,
        Released,
        Retry,
        OtherServer,
        OldEpoch,
        OldGeneration,
        Overflow,
        UnknownWhileRead,
        UnknownWhileReady,
        EvictedReady,
        EvictedPending,
        EvictedHeld,
        FromMemory,
        FromDatabase,
        Waited,
        TokenLost,
        Filled,
    ]
};
