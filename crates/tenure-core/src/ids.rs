//! The counters of the system, one newtype each, so that no two of them can be confused in a signature.

use core::fmt;

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter!(
    /// A store revision. A fresh store is at 1; every operation that changes keys makes the next one.
    Revision, i64
);
counter!(
    /// A lease's id as clients know it. 0 means "no lease"; negative ids are legal.
    LeaseId, i64
);
counter!(
    /// The position of an entry in the Raft log. The first entry has index 1.
    LogIndex, u64
);
counter!(
    /// A Raft term. A term has at most one leader.
    Term, u64
);
counter!(
    /// A member's id within its cluster.
    MemberId, u64
);
counter!(
    /// A cluster's id, derived from its first configuration.
    ClusterId, u64
);

impl Revision {
    /// The revision of a store that nothing was ever written to.
    pub const FRESH: Revision = Revision(1);
}

impl LeaseId {
    /// The absence of a lease.
    pub const NONE: LeaseId = LeaseId(0);

    /// Whether this names a lease at all.
    pub fn is_some(self) -> bool {
        self != LeaseId::NONE
    }
}

/// The identity of one key event: the revision that made it and its place within that revision.
///
/// A revision changes a key at most once, so an `EventId` also identifies one version of one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    /// The revision.
    pub revision: Revision,
    /// 0, 1, 2… in operation order within the revision.
    pub sub: u32,
}
