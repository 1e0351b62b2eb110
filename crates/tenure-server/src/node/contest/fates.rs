//! What becomes of commands whose answer may not arrive.
//!
//! A write that was sent to a leader and not answered may be done at any later time. Whoever must know follows it here: by
//! the command itself, as it comes back from the log. So that no two commands are alike, each carries a number of its own
//! in a compare that always holds ([`mark`]). What a snapshot skipped is not noticed.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rand::RngExt;
use tenure_core::Revision;
use tenure_core::codec::Group;
use tenure_core::command::{Compare, CompareResult, CompareTarget, KeyRange};
use tenure_core::outcome::Outcome;
use tenure_raft::{AppliedRun, Effects};
use tenure_storage::state_view::StateView;
use tokio::sync::oneshot;

/// Commands followed at once, by all runtimes: as many as a proposer's queue holds. A command whose answer was lost stays
/// for as long as its lease, and takes some hundred bytes. If there are more, the oldest is given up.
const FOLLOWED_MAX: usize = 16 * 1024;

/// See the module's header. One per process.
#[derive(Debug, Default)]
pub struct Fates {
    /// How many there are: the apply loop looks no further as long as there is none.
    count: AtomicUsize,
    followed: Mutex<Followed>,
}

#[derive(Debug, Default)]
struct Followed {
    by_command: HashMap<Bytes, (u64, oneshot::Sender<Outcome>)>,
    /// In the order in which they came.
    in_order: BTreeMap<u64, Bytes>,
    next: u64,
}

impl Followed {
    fn add(&mut self, command: Bytes, decided: oneshot::Sender<Outcome>) {
        if self.in_order.len() >= FOLLOWED_MAX
            && let Some((_, oldest)) = self.in_order.pop_first()
        {
            self.by_command.remove(&oldest);
        }
        self.in_order.insert(self.next, command.clone());
        self.by_command.insert(command, (self.next, decided));
        self.next += 1;
    }

    fn remove(&mut self, command: &Bytes) -> Option<oneshot::Sender<Outcome>> {
        let (number, decided) = self.by_command.remove(command)?;
        self.in_order.remove(&number);
        Some(decided)
    }

    fn len(&self) -> usize {
        self.in_order.len()
    }
}

/// A command that is followed, until this is dropped.
#[derive(Debug)]
pub(super) struct Fate {
    fates: Arc<Fates>,
    command: Bytes,
    outcome: oneshot::Receiver<Outcome>,
}

/// A compare that always holds and is unlike any other: no key was modified at a negative revision.
pub(super) fn mark(key: &Bytes) -> Compare {
    let number = rand::rng().random_range(1..=i64::MAX);
    Compare {
        range: KeyRange::One(key.clone()),
        result: CompareResult::NotEqual,
        target: CompareTarget::Mod(Revision(-number)),
    }
}

impl Fates {
    /// Follows an encoded command that carries a [`mark`], from before it is proposed.
    pub(super) fn follow(self: &Arc<Fates>, command: Bytes) -> Fate {
        let (decided, outcome) = oneshot::channel();
        let mut followed = self.followed();
        followed.add(command.clone(), decided);
        self.count.store(followed.len(), Ordering::Release);
        drop(followed);
        Fate { fates: self.clone(), command, outcome }
    }

    fn followed(&self) -> MutexGuard<'_, Followed> {
        // Entries are added and removed without a panic in between.
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Effects for Fates {
    fn replaced(&self, _view: &Arc<StateView>) {}

    fn applied(&self, _run: &AppliedRun) {}

    fn decided(&self, group: &Bytes, outcomes: &[Outcome]) {
        // A command is followed before it is proposed, so its entry is not applied before it is counted.
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        // What cannot be read was not applied either.
        let Ok(group) = Group::decode(group) else { return };
        let mut followed = self.followed();
        for (command, outcome) in group.commands.iter().zip(outcomes) {
            if let Some(decided) = followed.remove(command) {
                // Whoever followed it may have been dropped this moment.
                drop(decided.send(outcome.clone()));
            }
        }
        self.count.store(followed.len(), Ordering::Release);
    }
}

impl Fate {
    /// Returns once the command was carried out here. None if it is not followed any more.
    pub(super) async fn decided(&mut self) -> Option<Outcome> {
        (&mut self.outcome).await.ok()
    }

    /// The encoded command.
    pub(super) fn command(&self) -> &Bytes {
        &self.command
    }
}

impl Drop for Fate {
    fn drop(&mut self) {
        let mut followed = self.fates.followed();
        followed.remove(&self.command);
        self.fates.count.store(followed.len(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tenure_core::codec::GroupBuilder;
    use tenure_core::command::{Command, GroupHeader, Txn};
    use tenure_core::outcome::Refusal;

    use super::*;

    fn marked() -> Bytes {
        let compares = vec![mark(&Bytes::from_static(b"k"))];
        Command::Txn(Txn { compares, ..Txn::default() }).encode()
    }

    fn outcome(revision: i64) -> Outcome {
        Outcome { revision: Revision(revision), result: Err(Refusal::KeyNotFound) }
    }

    fn group(commands: &[Bytes]) -> Bytes {
        let mut group = GroupBuilder::new(GroupHeader::default());
        commands.iter().for_each(|command| group.push(command));
        group.finish()
    }

    #[test]
    fn each_command_finds_its_own_outcome_in_a_group() {
        let fates = Arc::new(Fates::default());
        let commands = [marked(), marked(), marked()];
        assert_ne!(commands[0], commands[1]);
        let mut first = fates.follow(commands[0].clone());
        let mut last = fates.follow(commands[2].clone());
        let mut other = fates.follow(marked());
        fates.decided(&group(&commands), &[outcome(2), outcome(3), outcome(4)]);
        assert_eq!(first.decided().now_or_never(), Some(Some(outcome(2))));
        assert_eq!(last.decided().now_or_never(), Some(Some(outcome(4))));
        assert_eq!(other.decided().now_or_never(), None);
        drop((first, last, other));
        assert_eq!((fates.followed().len(), fates.count.load(Ordering::Relaxed)), (0, 0));
        fates.decided(&Bytes::from_static(b"no group"), &[]);
    }

    #[test]
    fn the_oldest_is_given_up_when_there_are_too_many() {
        let fates = Arc::new(Fates::default());
        let mut followed: Vec<Fate> = (0..FOLLOWED_MAX).map(|_| fates.follow(marked())).collect();
        let newest = fates.follow(marked());
        assert_eq!(followed[0].decided().now_or_never(), Some(None));
        assert_eq!(followed[1].decided().now_or_never(), None);
        assert_eq!(fates.followed().len(), FOLLOWED_MAX);
        drop((followed, newest));
        let left = fates.followed();
        assert_eq!((left.len(), left.by_command.len()), (0, 0));
    }
}
