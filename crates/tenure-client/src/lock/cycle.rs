//! A deadlock, as it is told to the one who ends it.

use std::fmt;

use bytes::Bytes;

use super::waits::Wait;
use crate::ids::LeaseId;
use crate::namespace::Namespace;

/// Sessions each of which waits for the next, and the last for the first: see
/// [`LockBuilder::find_deadlocks`](crate::lock::LockBuilder::find_deadlocks).
///
/// It begins with the session that is told of it, and is in the order of waiting. As text it is a clause: `this session waits for lock b, held by
/// billing on lease 1f, which waits for lock a, held by this session`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle(Vec<CycleWait>);

/// One wait of a [`Cycle`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CycleWait {
    /// The lock that is waited for, as this client names it.
    pub lock: Bytes,
    /// The session that waits for it.
    pub waiter: LeaseId,
    /// The session that has to let go of it: the waiter of the next wait.
    pub holder: LeaseId,
    /// Who that is, in its own words; empty if it came by etcd's recipe.
    pub owner: String,
    /// Whether it holds the lock. Else it waits for it as well, and is ahead.
    pub is_held: bool,
}

impl Cycle {
    pub(super) fn new(waits: Vec<Wait>, namespace: &Namespace) -> Cycle {
        let shown = waits.into_iter().map(|Wait { lock, waiter, ahead }| CycleWait {
            lock: namespace.unwrap(&lock).unwrap_or(lock),
            waiter: waiter.lease,
            holder: ahead.lease,
            owner: ahead.owner,
            is_held: ahead.holds,
        });
        Cycle(shown.collect())
    }

    /// The waits. There is one at least.
    #[must_use]
    pub fn waits(&self) -> &[CycleWait] {
        &self.0
    }
}

impl fmt::Display for Cycle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("this session")?;
        let own = self.0.first().map(|wait| wait.waiter);
        for (place, CycleWait { lock, holder, owner, is_held, .. }) in self.0.iter().enumerate() {
            let which = if place == 0 { "" } else { ", which" };
            let how = if *is_held { "held by" } else { "where next comes" };
            write!(formatter, "{which} waits for lock {}, {how} ", lock.escape_ascii())?;
            if Some(*holder) == own {
                formatter.write_str("this session")?;
            } else {
                let owner = if owner.is_empty() { "somebody" } else { owner };
                write!(formatter, "{owner} on lease {holder}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(lock: &'static str, [waiter, holder]: [i64; 2], owner: &str, is_held: bool) -> CycleWait {
        let (waiter, holder) = (LeaseId(waiter), LeaseId(holder));
        CycleWait { lock: lock.into(), waiter, holder, owner: owner.to_owned(), is_held }
    }

    #[test]
    fn a_cycle_reads_as_a_sentence() {
        let cycle = Cycle(vec![
            wait("b", [1, 31], "billing", false),
            wait("b", [31, 32], "", true),
            wait("a\n", [32, 1], "me", true),
        ]);
        assert_eq!(
            cycle.to_string(),
            "this session waits for lock b, where next comes billing on lease 1f, which waits for lock b, held by somebody on \
             lease 20, which waits for lock a\\n, held by this session"
        );
    }
}
