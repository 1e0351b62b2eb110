//! Whether there is a leader, by what was heard lately rather than by the last vote.
//!
//! Consensus remembers whom it followed until somebody else wins, and a leader that lost its quorum goes on calling
//! itself one: neither says that somebody leads now. So a follower counts from the last heartbeat that it took, and a
//! leader from the last time that a quorum acknowledged it. After an election timeout of silence there is no leader, as
//! in etcd, whose followers forget theirs then; after three more, whoever insisted on a leader is told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::node::RaftNode;
use crate::runtime::BootInstant;
use crate::types::Vote;

/// Election timeouts without a leader until it counts as lost: etcd's number.
const TIMEOUTS_UNTIL_LOST: u32 = 3;

/// How often an election timeout looks whether there is a leader: it is lost late by at most a quarter of one.
const LOOKS_PER_TIMEOUT: u32 = 4;

/// What a member knows of its leader's presence.
#[derive(Debug)]
pub(crate) struct LeaderWatch {
    started: BootInstant,
    /// When a heartbeat was last taken, in nanoseconds since the start; 0 for never.
    heard: AtomicU64,
    lost: watch::Sender<bool>,
    /// Whose stream of entries ended last.
    left: watch::Sender<Option<Vote>>,
}

impl LeaderWatch {
    pub(crate) fn new() -> LeaderWatch {
        let (heard, lost, left) = (AtomicU64::new(0), watch::Sender::new(false), watch::Sender::new(None));
        LeaderWatch { started: BootInstant::now(), heard, lost, left }
    }

    /// Notes that a leader was heard, now.
    pub(crate) fn note_heard(&self) {
        let nanos = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.heard.store(nanos.max(1), Ordering::Relaxed);
    }

    /// Notes that a leader's stream of entries has ended.
    pub(crate) fn note_left(&self, leader: Vote) {
        self.left.send_replace(Some(leader));
    }

    /// The leader whose stream ended last, each time that one does.
    pub(crate) fn left(&self) -> watch::Receiver<Option<Vote>> {
        self.left.subscribe()
    }

    /// How long ago a leader was heard; none for never.
    pub(crate) fn silence(&self) -> Option<Duration> {
        let heard = self.heard.load(Ordering::Relaxed);
        (heard > 0).then(|| self.started.elapsed().saturating_sub(Duration::from_nanos(heard)))
    }

    /// Notes that there is a leader, now.
    pub(crate) fn note_present(&self) {
        self.lost.send_if_modified(std::mem::take);
    }

    /// True while there was no leader for three election timeouts.
    pub(crate) fn lost(&self) -> watch::Receiver<bool> {
        self.lost.subscribe()
    }
}

/// Looks for a leader again and again.
pub(crate) async fn watch_loop(node: RaftNode) {
    let timeout = node.options().election_timeout;
    let mut absence = Absence::default();
    loop {
        tokio::time::sleep(timeout / LOOKS_PER_TIMEOUT).await;
        let (now, present) = (BootInstant::now(), node.present_leader().is_some());
        let lost = absence.look(now, present, node.leader_silence(), timeout);
        node.leader_watch().lost.send_if_modified(|known| std::mem::replace(known, lost) != lost);
    }
}

/// How long there has been no leader.
#[derive(Debug, Default)]
struct Absence {
    since: Option<BootInstant>,
}

impl Absence {
    /// Whether the leader is lost, after another look. A leader that came and went between two looks is seen by the
    /// silence since.
    fn look(&mut self, now: BootInstant, present: bool, silence: Option<Duration>, timeout: Duration) -> bool {
        if present {
            self.since = None;
            return false;
        }
        let since = self.since.unwrap_or(now).max(silence.map_or(BootInstant::default(), |silence| now - silence));
        self.since = Some(since);
        now - since >= timeout * TIMEOUTS_UNTIL_LOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1);

    #[test]
    fn a_leader_is_lost_after_three_election_timeouts_without_one() {
        let start = BootInstant::now();
        let mut absence = Absence::default();
        let mut look = |millis, present| absence.look(start + Duration::from_millis(millis), present, None, TIMEOUT);
        assert!(!look(0, false));
        assert!(!look(2999, false));
        assert!(look(3000, false));
        assert!(look(9000, false), "it stays lost");
        assert!(!look(9001, true), "a leader that is there is not lost");
        assert!(!look(9002, false), "the next absence counts from its own beginning");
        assert!(!look(12_001, false));
        assert!(look(12_002, false));
    }

    #[test]
    fn a_leader_between_two_looks_is_not_overlooked() {
        let start = BootInstant::now();
        let mut absence = Absence::default();
        let mut look = |millis: u64, silence: u64| {
            let now = start + Duration::from_millis(millis);
            absence.look(now, false, Some(Duration::from_millis(silence)), TIMEOUT)
        };
        assert!(!look(1000, 5000));
        assert!(!look(2000, 200), "heard at 1800");
        assert!(!look(4799, 2999));
        assert!(look(4800, 3000));
    }

    #[test]
    fn silence_counts_from_the_last_heartbeat() {
        let watch = LeaderWatch::new();
        assert_eq!(watch.silence(), None);
        watch.note_heard();
        let silence = watch.silence().expect("it was heard");
        assert!(silence <= watch.started.elapsed());
        assert!(watch.silence().expect("it was heard") >= silence);
    }
}
