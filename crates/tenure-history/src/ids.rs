//! The numbers of a history, one newtype each. On the wire of a recorded history they are plain numbers.

use core::fmt;
use core::time::Duration;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A store revision. A fresh store is at 1; every operation that changes keys makes the next one.
    Revision, i64
);
number!(
    /// A lease's id. 0 means "no lease", and in a grant "pick one".
    LeaseId, i64
);
number!(
    /// A client. It need not be sequential: every operation carries its own two instants.
    ClientId, u32
);
number!(
    /// The node that a client talked to.
    NodeId, u32
);

/// An instant in nanoseconds of the one monotonic clock that a run's clients share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(pub u64);

impl Moment {
    /// Later than anything that is recorded.
    pub const NEVER: Moment = Moment(u64::MAX);

    /// This instant and a while more; [`Moment::NEVER`] stays.
    #[must_use]
    pub fn after(self, while_: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(while_.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long after an earlier instant; zero if it is not after it.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Moment {
    /// Seconds with microseconds, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Moment::NEVER {
            return f.write_str("never");
        }
        write!(f, "{}.{:06}s", self.0 / 1_000_000_000, self.0 % 1_000_000_000 / 1_000)
    }
}

impl Revision {
    /// The revision of a store that nothing was ever written to.
    pub const FRESH: Revision = Revision(1);

    /// The next revision.
    #[must_use]
    pub fn next(self) -> Revision {
        Revision(self.0.saturating_add(1))
    }

    /// The revision before.
    #[must_use]
    pub fn previous(self) -> Revision {
        Revision(self.0.saturating_sub(1))
    }
}

impl LeaseId {
    /// The absence of a lease.
    pub const NONE: LeaseId = LeaseId(0);

    /// Whether this names a lease.
    pub fn is_some(self) -> bool {
        self != LeaseId::NONE
    }
}
