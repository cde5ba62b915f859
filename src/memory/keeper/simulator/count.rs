//! The faults and branches that a simulation has to come to, by name.

/// What is counted, to know that it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    Stall,
    Crash,
    LostTail,
    TakenOver,
    Purge,
    LostLink,
    ToldAgain,
    ToldByTheOld,
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
    Brought,
}

pub(super) const COUNTS: usize = Count::Brought as usize + 1;

/// Each of them.
pub(super) const ALL: [Count; COUNTS] = {
    use Count::*;
    [
        Stall,
        Crash,
        LostTail,
        TakenOver,
        Purge,
        LostLink,
        ToldAgain,
        ToldByTheOld,
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
        Brought,
    ]
};
