//! Bugs planted on purpose, to prove that the oracles of the simulator and the checkers of histories see them.
//!
//! Each is a mistake that somebody could make, of a few lines at the place where it would be made. Without the feature
//! `planted`, [`is_on`] is `false` before the compiler looks at what depends on it, so nothing of a bug is in the program:
//! no release has the feature. With it, [`switch_on`] lets a bug loose for the rest of the process.
//!
//! It is in this crate because all that run a member can see it, and it holds no state but one number.

use core::fmt;
#[cfg(feature = "planted")]
use core::sync::atomic::{AtomicU64, Ordering};

/// Whether bugs can be switched on at all.
pub const COMPILED_IN: bool = cfg!(feature = "planted");

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// A leader names the index for a linearizable read without asking a quorum whether it still leads.
    UnconfirmedRead,
    /// A voter confirms a leader although it has given its vote to a later one.
    ConfirmedByAll,
    /// A read counts the answer to a question that was asked before it came.
    ConfirmedBefore,
    /// A write that went to the leader is answered before the member that the client talks to has applied it.
    AnsweredBeforeVisible,
    /// The log says that it has synced, and has not.
    UnsyncedLog,
    /// An append is acknowledged once it is written, before its sync.
    EarlyAppendAck,
    /// Votes are not written down, and no restarted member keeps its vote back.
    ForgottenVote,
    /// Voters do not look at how far a candidate's log goes.
    CarelessVoter,
    /// A truncation of the log does not reach its tail in memory, which takes new entries for those that it has.
    StaleTail,
    /// A broken replication stream is not noticed, and no other is opened.
    DeafReplication,
    /// A run of entries reads the last committed version of a key that the run itself has changed.
    RunReadsPastItself,
    /// A transaction's compares are evaluated where it is received, before the log.
    EarlyCompare,
    /// A compaction to a revision that is compacted already moves the compacted revision back.
    CompactedGoesBack,
    /// The purge drops every version up to the compacted revision that has a successor, whenever that came.
    PurgedTooMuch,
    /// The purge drops a tombstone at the compacted revision, although a watcher may begin there.
    TombstonePurgedEarly,
    /// The end of a lease is decided by what the lessor knew, whatever renewals came before it in the log.
    UnguardedExpiry,
    /// A renewal is counted, but the lease's time does not start anew.
    RenewalWithoutTime,
    /// The lease clock of a leader counts the time since its base again and again.
    LeaseClockCountsTwice,
    /// A member takes up a reading of the leader's lease clock only if its own is behind it.
    LeaseClockOnlyUpwards,
    /// A lease is due after its TTL, by whatever clock the leader has.
    DueWithoutMargin,
    /// A promoted lessor leaves out the leases that are due, as if its predecessor had ended them.
    ForgottenLeases,
    /// A promoted lessor gives every lease its whole TTL again.
    ResetAtPromotion,
    /// A renewal is answered by what the member knows, before it is in the log.
    RenewalAckedEarly,
    /// A renewal counts for much longer than lessors let leases live.
    RenewalCountsForLong,
    /// A lessor that no longer leads does not pause, and hands what it wants to end to the leader, which believes it.
    StaleLessor,
    /// Of what is read from the history, a watcher is not told the first event.
    EventSkippedAtHandOver,
    /// A watcher that goes from the history back to the ring is told the last revision again.
    EventToldTwice,
    /// A request for progress is answered although watchers have events to come.
    ProgressAhead,
    /// The previous value of an event is looked up at the event's own revision.
    WrongPrevKv,
    /// A message ends where puts and deletes of a revision meet.
    SplitRevision,
    /// A watcher whose events are compacted goes on behind them and is told nothing.
    CompactionUntold,
    /// A lock that becomes free goes to the second in its queue.
    LockToTheSecond,
    /// A reader that waits is granted together with those that hold, although a writer waits before it.
    LockReaderOvertakes,
    /// Permits go to whoever they suffice for, although somebody waits before it who wants more.
    LockPermitsOvertake,
    /// A semaphore gives away one permit more than it has.
    LockOneMorePermit,
    /// Nobody is granted a lock whose holder's lease ended.
    LockForgottenHandOff,
    /// Waiters on a member are not woken.
    LockDeafWaiters,
    /// An Acquire of a request that is finished is carried out.
    LockFinishedAgain,
    /// A Cancel ends the request whatever try it names.
    LockCancelOfAnyTry,
    /// The key of a holder that expires is deleted, whatever delay it asked for.
    LockDelaySkipped,
    /// A delay ends after half of its time.
    LockDelayHalved,
    /// A guard is not looked at.
    LockGuardUnchecked,
    /// A waiter whose key has gone is told that it has the lock.
    LockGrantOfGoneKey,
    /// A waiter whose stream has ended stays in the queue.
    LockGhostOfStream,
    /// A retry is answered by what the member knows, before the log.
    LockAnsweredEarly,
}

/// What is known of a bug.
#[derive(Clone, Copy, Debug)]
pub struct Planted {
    /// Which one.
    pub bug: Bug,
    /// Its word.
    pub name: &'static str,
    /// What it breaks, in one sentence.
    pub text: &'static str,
    /// The oracles and checkers of which one must notice.
    pub seen_by: &'static [&'static str],
}

const fn planted(bug: Bug, name: &'static str, seen_by: &'static [&'static str], text: &'static str) -> Planted {
    Planted { bug, name, text, seen_by }
}

/// All of them.
pub const ALL: [Planted; 45] = [
    planted(
        Bug::UnconfirmedRead,
        "unconfirmed-read",
        &["reads", "linearizability"],
        "a leader answers linearizable reads without confirming with a quorum that it still leads",
    ),
    planted(
        Bug::ConfirmedByAll,
        "confirmed-by-all",
        &["reads", "linearizability"],
        "a voter confirms a leader for reads although it has given its vote to a later one",
    ),
    planted(
        Bug::ConfirmedBefore,
        "confirmed-before",
        &["reads", "linearizability"],
        "a read is confirmed by an answer to a question that was asked before the read came",
    ),
    planted(
        Bug::AnsweredBeforeVisible,
        "answered-before-visible",
        &["reads"],
        "a forwarded write is answered before the member that was asked shows it",
    ),
    planted(
        Bug::UnsyncedLog,
        "unsynced-log",
        &["committed never lost", "leader completeness", "linearizability", "members last"],
        "the log says that it has synced, and has not",
    ),
    planted(
        Bug::EarlyAppendAck,
        "early-append-ack",
        &["committed never lost", "leader completeness", "linearizability", "members last"],
        "entries are acknowledged before they are synced",
    ),
    planted(
        Bug::ForgottenVote,
        "forgotten-vote",
        &["election safety"],
        "votes are not written down, and a restarted member votes at once",
    ),
    planted(
        Bug::CarelessVoter,
        "careless-voter",
        &["leader completeness"],
        "members vote for candidates whose logs lack what is committed",
    ),
    planted(Bug::StaleTail, "stale-tail", &["log matching"], "a truncation does not reach the log's tail in memory"),
    planted(
        Bug::DeafReplication,
        "deaf-replication",
        &["progress"],
        "a leader goes on leading over streams that are broken, and commits nothing",
    ),
    planted(
        Bug::RunReadsPastItself,
        "run-reads-past-itself",
        &["applied equal"],
        "what a command does depends on which others are applied in the same run",
    ),
    planted(
        Bug::EarlyCompare,
        "early-compare",
        &["append", "queue"],
        "compares are evaluated before the log, against what the member that was asked has applied",
    ),
    planted(
        Bug::CompactedGoesBack,
        "compacted-goes-back",
        &["revision monotone"],
        "an old compaction moves the compacted revision back",
    ),
    planted(
        Bug::PurgedTooMuch,
        "purged-too-much",
        &["linearizability", "applied equal"],
        "versions are purged that can still be read at revisions above the compacted one",
    ),
    planted(
        Bug::TombstonePurgedEarly,
        "tombstone-purged-early",
        &["watch"],
        "a delete at the compacted revision is lost to those who watch from there",
    ),
    planted(
        Bug::UnguardedExpiry,
        "unguarded-expiry",
        &["leases never early", "leases"],
        "a lease ends although a renewal came before its end in the log",
    ),
    planted(
        Bug::RenewalWithoutTime,
        "renewal-without-time",
        &["locks"],
        "a renewal does not start a lease's time anew, so that locks change hands under their owners",
    ),
    planted(
        Bug::LeaseClockCountsTwice,
        "lease-clock-counts-twice",
        &["leases never early", "leases"],
        "a leader's lease clock runs ahead, and leases end early",
    ),
    planted(
        Bug::LeaseClockOnlyUpwards,
        "lease-clock-only-upwards",
        &["leases never early", "leases"],
        "a member with a fast clock keeps its lead, and ends leases early once it is the leader",
    ),
    planted(
        Bug::DueWithoutMargin,
        "due-without-margin",
        &["leases never early", "leases"],
        "a leader with a fast clock ends leases early",
    ),
    planted(
        Bug::ForgottenLeases,
        "forgotten-leases",
        &["leases"],
        "a promoted lessor forgets the leases that are due, which then never end",
    ),
    planted(
        Bug::ResetAtPromotion,
        "reset-at-promotion",
        &["leases"],
        "a change of leader gives every lease its whole TTL again, and leases end late",
    ),
    planted(
        Bug::RenewalAckedEarly,
        "renewal-acked-early",
        &["leases", "leases never early"],
        "renewals are acknowledged that never come into the log, and leases end early",
    ),
    planted(
        Bug::RenewalCountsForLong,
        "renewal-counts-for-long",
        &["leases", "leases never early"],
        "keepalives are answered without the log although the last renewal there is old, and leases end early",
    ),
    planted(
        Bug::StaleLessor,
        "stale-lessor",
        &["leases never early", "leases"],
        "a leader of the past ends leases that were renewed at its successor",
    ),
    planted(
        Bug::EventSkippedAtHandOver,
        "event-skipped",
        &["watch"],
        "a watcher that is served from the history misses the first event",
    ),
    planted(
        Bug::EventToldTwice,
        "event-told-twice",
        &["watch"],
        "a watcher is told a revision again after it has caught up",
    ),
    planted(
        Bug::ProgressAhead,
        "progress-ahead",
        &["watch"],
        "progress is told ahead of events that were not delivered",
    ),
    planted(Bug::WrongPrevKv, "wrong-prev-kv", &["watch"], "the previous value of an event is of the wrong version"),
    planted(
        Bug::SplitRevision,
        "split-revision",
        &["watch"],
        "the events of a revision come in two messages that are not marked as parts",
    ),
    planted(
        Bug::CompactionUntold,
        "compaction-untold",
        &["watch"],
        "a watcher that fell behind the compaction is not told, and goes on",
    ),
    planted(
        Bug::LockToTheSecond,
        "lock-to-the-second",
        &["lock-turns"],
        "a lock that becomes free goes to the second in its queue",
    ),
    planted(Bug::LockReaderOvertakes, "lock-reader-overtakes", &["lock-turns"], "readers overtake a writer that waits"),
    planted(
        Bug::LockPermitsOvertake,
        "lock-permits-overtake",
        &["lock-turns"],
        "who wants few permits overtakes one that waits for many",
    ),
    planted(
        Bug::LockOneMorePermit,
        "lock-one-more-permit",
        &["lock-turns"],
        "a semaphore gives away one permit more than it has",
    ),
    planted(
        Bug::LockForgottenHandOff,
        "lock-forgotten-hand-off",
        &["lock queues"],
        "a lock whose holder's lease ended is granted to nobody",
    ),
    planted(
        Bug::LockDeafWaiters,
        "lock-deaf-waiters",
        &["lock-wakeups"],
        "waiters are not told that they have the lock",
    ),
    planted(
        Bug::LockFinishedAgain,
        "lock-finished-again",
        &["lock queues", "lock-requests"],
        "a try that comes when its request is over takes the lock, and nobody knows",
    ),
    planted(
        Bug::LockCancelOfAnyTry,
        "lock-cancel-of-any-try",
        &["lock-requests"],
        "the end of a broken stream cancels the try that took its request over",
    ),
    planted(
        Bug::LockDelaySkipped,
        "lock-delay-skipped",
        &["lock-delays"],
        "the lock of a holder that expires is free at once, whatever delay it asked for",
    ),
    planted(Bug::LockDelayHalved, "lock-delay-halved", &["lock-delays"], "a lock-delay ends after half of its time"),
    planted(
        Bug::LockGuardUnchecked,
        "lock-guard-unchecked",
        &["lock-writes"],
        "guarded writes of those who lost their lock are carried out",
    ),
    planted(
        Bug::LockGrantOfGoneKey,
        "lock-grant-of-gone-key",
        &["lock-sessions"],
        "a waiter whose key has gone is told that it has the lock",
    ),
    planted(
        Bug::LockGhostOfStream,
        "lock-ghost-of-stream",
        &["lock-ghosts"],
        "a waiter whose stream has ended stays in the queue for as long as its lease lives",
    ),
    planted(
        Bug::LockAnsweredEarly,
        "lock-answered-early",
        &["lock-requests", "lock-sessions"],
        "a retry is answered by what a member that lags knows",
    ),
];

/// There is no such bug, or none is compiled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSuchBug {
    /// This program was built without them.
    NotCompiledIn,
    /// None has this name.
    Unknown,
}

impl fmt::Display for NoSuchBug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoSuchBug::NotCompiledIn => "this program was built without planted bugs (feature `planted`)",
            NoSuchBug::Unknown => "there is no planted bug of this name",
        })
    }
}

impl core::error::Error for NoSuchBug {}

#[cfg(feature = "planted")]
static SWITCHED_ON: AtomicU64 = AtomicU64::new(0);

/// Whether a bug does its harm.
#[inline(always)]
#[must_use]
pub fn is_on(bug: Bug) -> bool {
    #[cfg(feature = "planted")]
    return SWITCHED_ON.load(Ordering::Relaxed) & (1 << (bug as u8)) != 0;
    #[cfg(not(feature = "planted"))]
    {
        let _: Bug = bug;
        false
    }
}

/// Lets a bug loose, for good.
pub fn switch_on(name: &str) -> Result<Bug, NoSuchBug> {
    if !COMPILED_IN {
        return Err(NoSuchBug::NotCompiledIn);
    }
    let found = ALL.iter().find(|planted| planted.name == name).ok_or(NoSuchBug::Unknown)?;
    #[cfg(feature = "planted")]
    SWITCHED_ON.fetch_or(1 << (found.bug as u8), Ordering::Relaxed);
    Ok(found.bug)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_has_one_row_a_name_and_somebody_who_must_see_it() {
        for (place, planted) in ALL.iter().enumerate() {
            assert_eq!(planted.bug as usize, place, "{} stands at its number", planted.name);
            assert!(!planted.seen_by.is_empty() && !planted.text.is_empty());
            assert_eq!(ALL.iter().filter(|other| other.name == planted.name).count(), 1);
        }
        assert!(ALL.len() <= 64, "they are bits of one number");
    }

    #[test]
    fn an_unknown_name_switches_nothing_on() {
        let expected = if COMPILED_IN { NoSuchBug::Unknown } else { NoSuchBug::NotCompiledIn };
        assert_eq!(switch_on("no-such-bug"), Err(expected));
        assert!(ALL.iter().all(|planted| !is_on(planted.bug)));
    }
}
