//! Which followers commits can do without, so that they may get entries a few at a time.
//!
//! A majority commits. In a cluster of three that is the leader and one follower; what the other one does for each write of
//! a lone client, a message, a sync and an answer, costs a quarter of the write and decides nothing. Such a follower is
//! *spare*: it is sent what has gathered in two milliseconds as one message, and has the same entries later by that much.
//!
//! A follower is spare while enough of those before it, by id, carry the commits: each has all that this one has, answers
//! about as fast, and owes no answer for longer than [`CARRIES`]. The order is that in which followers succeed a leader
//! that was killed (`succession.rs`), so that in a cluster of three the first one to campaign has all that was committed. If
//! a follower that carried stops answering, a write waits for the next message to the spare ones, and then nobody is
//! spare. Nothing here can lose or reorder anything: to consensus it is a network that takes two milliseconds longer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::network::Window;

/// How long a follower that carries commits may owe an answer.
const CARRIES: Duration = Duration::from_millis(2);

/// How much longer its answers may take than those of a follower that is spare for it.
const SLOWER_MAX: Duration = Duration::from_micros(500);

/// The streams that are open to followers.
#[derive(Debug, Default)]
pub(super) struct Streams(Mutex<BTreeMap<u64, Weak<Window>>>);

impl Streams {
    /// Notes a stream, in place of an earlier one.
    pub(super) fn opened(&self, member: u64, window: &Arc<Window>) {
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        streams.insert(member, Arc::downgrade(window));
    }

    /// Whether so many followers before this one carry the commits.
    pub(super) fn is_spare(&self, member: u64, needed: usize, has_as_much: impl Fn(u64) -> bool) -> bool {
        let streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let usual_time = |window: &Weak<Window>| window.upgrade()?.usual_time();
        let Some(own_time) = streams.get(&member).and_then(usual_time) else { return false };
        let carries = |member: u64, window: &Weak<Window>| {
            usual_time(window).is_some_and(|time| time <= own_time + SLOWER_MAX)
                && window.upgrade().is_some_and(|window| !window.owes_for(CARRIES))
                && has_as_much(member)
        };
        let carrying = streams.range(..member).filter(|(member, window)| carries(**member, window));
        carrying.take(needed).count() == needed
    }
}

#[cfg(test)]
mod tests {
    use openraft::alias::VoteOf;
    use openraft::raft::AppendEntriesRequest;

    use super::*;
    use crate::types::Config;

    /// A stream whose answers take so many microseconds.
    fn stream(streams: &Streams, member: u64, micros: u64) -> Arc<Window> {
        let window = Arc::new(Window::new());
        window.set_usual_time(Duration::from_micros(micros));
        streams.opened(member, &window);
        window
    }

    /// Lets an answer be owed for longer than one that carries may owe it.
    async fn owe_too_long(window: &Window) {
        let vote = VoteOf::<Config>::new_committed(1, 1);
        let request =
            AppendEntriesRequest::<Config> { vote, prev_log_id: None, entries: Vec::new(), leader_commit: None };
        assert!(window.admit(&request).await.is_some());
        std::thread::sleep(CARRIES + Duration::from_millis(1));
    }

    fn spare(streams: &Streams, needed: usize) -> Vec<u64> {
        (1..=5).filter(|member| streams.is_spare(*member, needed, |_| true)).collect()
    }

    #[tokio::test]
    async fn the_last_is_spare_while_the_one_before_it_carries() {
        let streams = Streams::default();
        let (second, third) = (stream(&streams, 2, 700), stream(&streams, 3, 300));
        assert_eq!(spare(&streams, 1), [3]);
        assert!(!streams.is_spare(3, 1, |member| member != 2), "the other one lacks entries");
        third.set_usual_time(Duration::from_micros(100));
        assert_eq!(spare(&streams, 1), [0u64; 0], "the other one is slower");
        third.set_usual_time(Duration::from_secs(1));
        owe_too_long(&second).await;
        assert_eq!(spare(&streams, 1), [0u64; 0], "the other one owes an answer for too long");
        second.acknowledge();
        assert_eq!(spare(&streams, 1), [3]);
        second.close();
        assert_eq!(spare(&streams, 1), [0u64; 0], "the other one's stream has ended");
    }

    #[tokio::test]
    async fn in_a_cluster_of_five_two_have_to_carry() {
        let streams = Streams::default();
        let followers: Vec<Arc<Window>> = (2..=5).map(|member| stream(&streams, member, 300)).collect();
        assert_eq!(spare(&streams, 2), [4, 5]);
        owe_too_long(&followers[0]).await;
        assert_eq!(spare(&streams, 2), [5]);
    }

    #[test]
    fn who_has_not_answered_yet_does_not_carry() {
        let streams = Streams::default();
        let second = Arc::new(Window::new());
        streams.opened(2, &second);
        let _third = stream(&streams, 3, 300);
        assert_eq!(spare(&streams, 1), [0u64; 0]);
    }

    #[test]
    fn a_stream_takes_the_place_of_an_earlier_one() {
        let streams = Streams::default();
        let (earlier, _third) = (stream(&streams, 2, 300), stream(&streams, 3, 300));
        let later = stream(&streams, 2, 300);
        drop(earlier);
        assert_eq!(spare(&streams, 1), [3]);
        drop(later);
        assert_eq!(spare(&streams, 1), [0u64; 0]);
    }
}
