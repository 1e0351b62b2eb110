//! Who contended for a lock and who held it, at every revision: worked out from the keys alone.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::Contests;
use crate::ids::{LeaseId, Revision};
use crate::lock::Share;
use crate::response::KeyValue;
use crate::text::Shown;
use crate::truth::Truth;

/// One time that a key was there, from its creation to its deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) create: Revision,
    pub(crate) key: Bytes,
    /// The revision that deleted it; none if it is still there.
    pub(crate) gone: Option<Revision>,
    /// The lease that it was created on.
    pub(crate) lease: LeaseId,
    /// How whoever wrote it wants the lock.
    pub(crate) share: Share,
}

/// The contenders for each lock, in the order of their creation.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    by_lock: BTreeMap<String, Vec<Life>>,
}

impl Queues {
    /// The queues of all locks that somebody asked for.
    pub(crate) fn of(contests: &Contests, truth: &Truth) -> Queues {
        let shares: BTreeMap<&[u8], Share> =
            contests.claims.iter().map(|claim| (&claim.key[..], claim.share)).collect();
        let locks: BTreeSet<&String> = contests.claims.iter().map(|claim| &claim.lock).collect();
        let by_lock = locks.into_iter().map(|lock| {
            let mut lives = Vec::new();
            for (key, versions) in truth.under(format!("{lock}/").as_bytes()) {
                let share = shares.get(&key[..]).copied().unwrap_or_default();
                lives.extend(lives_of(key, versions).into_iter().map(|life| Life { share, ..life }));
            }
            lives.sort_by(|one, other| (one.create, &one.key).cmp(&(other.create, &other.key)));
            (lock.clone(), lives)
        });
        Queues { by_lock: by_lock.collect() }
    }

    /// All that ever contended for a lock.
    pub(crate) fn lives(&self, lock: &str) -> &[Life] {
        self.by_lock.get(lock).map_or(&[], |lives| lives)
    }

    /// The locks.
    pub(crate) fn locks(&self) -> impl Iterator<Item = &String> {
        self.by_lock.keys()
    }

    /// The queue at a revision, and how many of its front hold the lock.
    pub(crate) fn at(&self, lock: &str, revision: Revision) -> (Vec<&Life>, usize) {
        let lives = self.lives(lock);
        let known = lives.partition_point(|life| life.create <= revision);
        let queue: Vec<&Life> = lives[..known].iter().filter(|life| life.is_there(revision)).collect();
        let mut holders = 0;
        while let Some(next) = queue.get(holders)
            && (holders == 0 || next.share.joins(queue[..holders].iter().map(|life| life.share)))
            && (holders == 0 || next.share != Share::Alone)
        {
            holders += 1;
        }
        (queue, holders)
    }

    /// The contender of a key with this create revision.
    pub(crate) fn find(&self, lock: &str, create: Revision, key: &[u8]) -> Option<&Life> {
        let lives = self.lives(lock);
        let first = lives.partition_point(|life| life.create < create);
        lives[first..].iter().take_while(|life| life.create == create).find(|life| life.key == key)
    }

    /// Whether a contender holds the lock at a revision.
    pub(crate) fn holds(&self, lock: &str, revision: Revision, create: Revision, key: &[u8]) -> bool {
        let (queue, holders) = self.at(lock, revision);
        queue[..holders].iter().any(|life| life.create == create && life.key == key)
    }
}

impl Life {
    /// Whether the key is there at a revision that is not before its creation.
    pub(crate) fn is_there(&self, revision: Revision) -> bool {
        self.create <= revision && self.gone.is_none_or(|gone| revision < gone)
    }

    /// One line for people.
    pub(crate) fn line(&self, holds: bool) -> String {
        let Life { create, key, lease, share, .. } = self;
        let what = if holds { "holds" } else { "waits" };
        format!("    created at {create}: {}, lease {lease}, {share}: {what}", Shown(key))
    }
}

fn lives_of(key: &Bytes, versions: &[(Revision, Option<KeyValue>)]) -> Vec<Life> {
    let mut lives: Vec<Life> = Vec::new();
    for (at, kv) in versions {
        match kv {
            Some(kv) if lives.last().is_none_or(|life| life.gone.is_some()) => lives.push(Life {
                create: kv.create,
                key: key.clone(),
                gone: None,
                lease: kv.lease,
                share: Share::Alone,
            }),
            Some(_) => {}
            None => {
                if let Some(life) = lives.last_mut().filter(|life| life.gone.is_none()) {
                    life.gone = Some(*at);
                }
            }
        }
    }
    lives
}
