//! Where a contender stands: whom it waits for, or nobody.
//!
//! Its predecessor is the contender with the largest create revision below its own. Nothing finds that without looking at
//! all of them, but one look serves everybody who asks meanwhile, so a burst of ten thousand callers takes a few looks, not
//! ten thousand. A short queue is looked at where the question arises.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use tenure_core::Revision;
use tenure_core::lock::read;
use tenure_core::range::walk_range;
use tenure_core::state::StateRead;
use tenure_raft::RaftNode;
use tenure_raft::runtime;
use tenure_storage::StorageError;
use tenure_storage::state_view::StateView;
use tokio::sync::{mpsc, oneshot};

use super::names::Contest;
use crate::node::RequestError;

/// Contenders that are looked at on the thread that serves connections: a tenth of a millisecond or two.
const INLINE_MAX: usize = 256;

/// Questions that may wait; further ones wait to be asked. As many as writes: each comes after one.
const ASKED_MAX: usize = 16 * 1024;

/// One contender: its key, and the create revision that tells its lives apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contender {
    pub(super) key: Bytes,
    pub(super) create: Revision,
}

/// Where a contender stands, in a state at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) standing: Standing,
    pub(super) at: Revision,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is not there any more.
    Gone,
    /// It is the oldest of all.
    First,
    /// It waits for this one.
    Behind(Contender),
}

struct Ask {
    contest: Contest,
    who: Contender,
    answer: oneshot::Sender<Result<Place, RequestError>>,
}

/// See the module's header. One per runtime; cheap to clone.
#[derive(Clone)]
pub(in crate::node) struct Places {
    raft: RaftNode,
    asks: mpsc::Sender<Ask>,
}

impl Places {
    /// Starts to answer on the calling runtime. It ends when its last handle is dropped.
    pub(in crate::node) fn start(raft: RaftNode) -> Places {
        let (asks, asked) = mpsc::channel(ASKED_MAX);
        // The queue's end is the task's owner.
        drop(runtime::spawn(answer_loop(raft.clone(), asked)));
        Places { raft, asks }
    }

    /// Looks for a contender's place in `view`, or in a later state.
    pub(super) async fn find(
        &self,
        view: &Arc<StateView>,
        contest: &Contest,
        who: &Contender,
    ) -> Result<Place, RequestError> {
        match look(view, contest, &[who], INLINE_MAX) {
            Ok(Some(mut places)) => return places.pop().ok_or(RequestError::Storage),
            Ok(None) => {}
            Err(error) => return Err(failed(&self.raft, &error)),
        }
        let (answer, place) = oneshot::channel();
        let ask = Ask { contest: contest.clone(), who: who.clone(), answer };
        self.asks.send(ask).await.map_err(|_| RequestError::Stopped)?;
        place.await.map_err(|_| RequestError::Stopped)?
    }
}

async fn answer_loop(raft: RaftNode, mut asks: mpsc::Receiver<Ask>) {
    let mut asked = Vec::new();
    while asks.recv_many(&mut asked, ASKED_MAX).await > 0 {
        let batch = std::mem::take(&mut asked);
        // Published after everything that those who ask have seen.
        let view = raft.view();
        let node = raft.clone();
        // One at a time: the cores are for others, too, and the next one serves all who come meanwhile.
        let done = runtime::blocking(move || answer_all(&node, &view, batch)).await;
        if done.is_err() {
            return;
        }
    }
}

fn answer_all(raft: &RaftNode, view: &StateView, batch: Vec<Ask>) {
    let mut by_contest: BTreeMap<Bytes, Vec<Ask>> = BTreeMap::new();
    for ask in batch {
        by_contest.entry(ask.contest.name().clone()).or_default().push(ask);
    }
    for asks in by_contest.into_values() {
        let Some(contest) = asks.first().map(|ask| ask.contest.clone()) else { continue };
        let who: Vec<&Contender> = asks.iter().map(|ask| &ask.who).collect();
        let places = match look(view, &contest, &who, usize::MAX) {
            Ok(Some(places)) => places.into_iter().map(Ok).collect(),
            Ok(None) => vec![Err(RequestError::Storage); asks.len()],
            Err(error) => vec![Err(failed(raft, &error)); asks.len()],
        };
        for (ask, place) in asks.into_iter().zip(places) {
            // Who asked may have gone away.
            drop(ask.answer.send(place));
        }
    }
}

fn failed(raft: &RaftNode, error: &StorageError) -> RequestError {
    raft.fail(format!("reading the state: {error}"));
    RequestError::Storage
}

/// The places of contenders, in the order of the question; none if there are more than `rows_max` contenders.
fn look(
    view: &StateView,
    contest: &Contest,
    who: &[&Contender],
    rows_max: usize,
) -> Result<Option<Vec<Place>>, StorageError> {
    let Some(before) = predecessors(view, contest, who, rows_max)? else { return Ok(None) };
    let at = view.meta().revision;
    let mut places = Vec::with_capacity(who.len());
    for contender in who {
        let meta = view.current_meta(&contender.key)?.filter(|meta| !meta.is_tombstone());
        let is_there =
            meta.is_some_and(|meta| meta.create == contender.create) && !is_delayed(view, contest, contender)?;
        let standing = match before.get(&contender.create) {
            _ if !is_there => Standing::Gone,
            Some(Some(before)) => Standing::Behind(before.clone()),
            Some(None) | None => Standing::First,
        };
        places.push(Place { standing, at });
    }
    Ok(Some(places))
}

/// Whether a key only stays for the delay of a native lock: its lease has expired.
fn is_delayed(view: &StateView, contest: &Contest, contender: &Contender) -> Result<bool, StorageError> {
    if view.meta().locks.delays == 0 {
        return Ok(false);
    }
    let found = read::contender(view, contest.name(), contender.create, &contender.key)?;
    Ok(found.and_then(|found| found.native).is_some_and(|native| native.delayed))
}

/// For each create revision asked for, the contender with the largest one below it.
fn predecessors(
    view: &StateView,
    contest: &Contest,
    who: &[&Contender],
    rows_max: usize,
) -> Result<Option<BTreeMap<Revision, Option<Contender>>>, StorageError> {
    let mut before: BTreeMap<Revision, Option<Contender>> = who.iter().map(|who| (who.create, None)).collect();
    let (mut rows, mut too_many) = (0, false);
    let walked = walk_range(view, &contest.contenders(), Revision(0), &mut |kv| {
        rows += 1;
        too_many = rows > rows_max;
        if too_many {
            return ControlFlow::Break(());
        }
        // Only the next one asked for; the others learn of it below.
        let next = before.range_mut(Revision(kv.create.0.saturating_add(1))..).next();
        if let Some((_, found)) = next
            && found.as_ref().is_none_or(|found| found.create < kv.create)
        {
            *found = Some(Contender { key: Bytes::copy_from_slice(&kv.key), create: kv.create });
        }
        ControlFlow::Continue(())
    })?;
    if too_many || walked.is_err() {
        return Ok(None);
    }
    let mut newest: Option<Contender> = None;
    for found in before.values_mut() {
        match found {
            Some(found) => newest = Some(found.clone()),
            None => found.clone_from(&newest),
        }
    }
    Ok(Some(before))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tenure_core::apply::apply_group;
    use tenure_core::codec::GroupBuilder;
    use tenure_core::command::{Command, DeleteRange, EntryPosition, GroupHeader, KeyRange, Put};
    use tenure_core::{LeaseId, LogIndex, Term};
    use tenure_storage::mem::MemEngine;
    use tenure_storage::store::{Applied, StateStore};

    use super::*;

    /// A store in which keys come and go.
    struct Keys(StateStore);

    impl Keys {
        fn new() -> Keys {
            Keys(StateStore::open(Arc::new(MemEngine::new())).unwrap())
        }

        fn apply(&mut self, command: &Command) -> Revision {
            let mut group = GroupBuilder::new(GroupHeader::default());
            group.push(&command.encode());
            let mut applied = Applied { term: Term(1), membership: "m".into(), ..self.0.applied().clone() };
            applied.index = LogIndex(applied.index.0 + 1);
            let position = EntryPosition { index: applied.index, term: Term(1) };
            let mut run = self.0.begin();
            let outcomes = apply_group(&mut run, position, &group.finish()).unwrap().outcomes;
            run.commit(applied).unwrap();
            assert!(outcomes[0].result.is_ok(), "{outcomes:?}");
            outcomes[0].revision
        }

        fn put(&mut self, key: &str) -> Revision {
            self.apply(&Command::Put(Put {
                key: Bytes::from(key.to_owned()),
                value: Bytes::new(),
                lease: LeaseId::NONE,
                prev_kv: false,
                ignore_value: false,
                ignore_lease: false,
            }))
        }

        fn delete(&mut self, key: &str) {
            let range = KeyRange::One(Bytes::from(key.to_owned()));
            self.apply(&Command::DeleteRange(DeleteRange { range, prev_kv: false }));
        }

        fn look(&self, who: &[&Contender], rows_max: usize) -> Option<Vec<Standing>> {
            let contest = Contest::new(Bytes::from_static(b"c"));
            let places = look(&self.0.view(), &contest, who, rows_max).unwrap()?;
            assert!(places.iter().all(|place| place.at == self.0.view().meta().revision));
            Some(places.into_iter().map(|place| place.standing).collect())
        }
    }

    fn contender(key: &str, create: Revision) -> Contender {
        Contender { key: Bytes::from(key.to_owned()), create }
    }

    #[test]
    fn a_contender_stands_behind_the_one_before_it_and_only_as_long_as_it_lives() {
        let mut keys = Keys::new();
        // The order of the keys is not that of their creation, and what is beside the contest does not count.
        keys.put("c");
        keys.put("c.");
        let third = contender("c/3", keys.put("c/3"));
        keys.put("c0");
        let first = contender("c/1", keys.put("c/1"));
        let second = contender("c/2", keys.put("c/2"));
        keys.put("c/3");
        let all = [&first, &second, &third];
        let behind = |who: &Contender| Standing::Behind(who.clone());
        assert_eq!(keys.look(&all, 3), Some(vec![behind(&third), behind(&first), Standing::First]));
        assert_eq!(keys.look(&all, 2), None, "three are more than two");
        keys.delete("c/1");
        assert_eq!(keys.look(&all, 9), Some(vec![Standing::Gone, behind(&third), Standing::First]));
        keys.delete("c/3");
        let again = contender("c/3", keys.put("c/3"));
        assert_eq!(keys.look(&all, 9), Some(vec![Standing::Gone, Standing::First, Standing::Gone]));
        assert_eq!(keys.look(&[&again, &again], 9), Some(vec![behind(&second), behind(&second)]));
    }

    proptest! {
        /// One look for many says of each what a look through all keys says.
        #[test]
        fn many_are_told_what_each_would_find(steps in proptest::collection::vec((0..12u8, any::<bool>()), 1..80)) {
            let mut keys = Keys::new();
            let mut alive: BTreeMap<String, Revision> = BTreeMap::new();
            let mut known: Vec<Contender> = Vec::new();
            for (number, deletes) in steps {
                let key = format!("c/{number}");
                if deletes {
                    keys.delete(&key);
                    alive.remove(&key);
                } else {
                    let put = keys.put(&key);
                    known.push(contender(&key, *alive.entry(key.clone()).or_insert(put)));
                }
            }
            let who: Vec<&Contender> = known.iter().collect();
            let found = keys.look(&who, usize::MAX).unwrap();
            for (who, standing) in known.iter().zip(found) {
                let key = std::str::from_utf8(&who.key).unwrap();
                let before = alive.iter().filter(|(_, create)| **create < who.create).max_by_key(|(_, create)| **create);
                let expected = match before {
                    _ if alive.get(key) != Some(&who.create) => Standing::Gone,
                    None => Standing::First,
                    Some((key, create)) => Standing::Behind(contender(key, *create)),
                };
                prop_assert_eq!(standing, expected);
            }
        }
    }
}
