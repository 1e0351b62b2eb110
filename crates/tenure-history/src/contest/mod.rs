//! Did those who contend for locks get what the native locks promise, each in its turn?
//!
//! A lock is its keys: the contenders for `name` are all keys under `name/`, in the order of their create revisions, and
//! those that hold are always as much of the front as may hold together. So whoever knows what each revision did to the
//! keys ([`Truth`]), and how each was wanted, knows who held the lock at every revision; that is worked out here by sorting
//! keys ([`queues`]), without any of what the store keeps of its queues. What clients were told is held against it.
//!
//! | file | question |
//! |---|---|
//! | [`turns`] | was everybody who was told of a grant in the front at that revision? |
//! | [`sessions`] | was anybody told so whose key or lease had gone, or by what had been before it asked? |
//! | [`requests`] | was a request that had ended ever granted, or one ended that somebody had taken over? |
//! | [`ghosts`] | is a key left of a request that is over? |
//! | [`wakeups`] | did anybody wait for a lock that was its own? |
//! | [`delays`] | did the lock of a holder that expired stay taken for its delay? |
//! | [`writes`] | did a guard let in anybody who did not hold the lock, or keep out a holder? |
//!
//! What clients *know*, by time alone, is judged in [`crate::lock`].

pub mod delays;
pub mod ghosts;
pub mod queues;
mod record;
pub mod requests;
pub mod sessions;
pub mod turns;
pub mod wakeups;
pub mod writes;

use crate::history::History;
use crate::lease::Told;
use crate::run::Finding;
use crate::truth::Truth;

use queues::Queues;
pub use record::{Came, Claim, End, Ended, Guarded, Heard, How, Passed, Touched, Try};

/// Everything that a run recorded of contenders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contests {
    /// Requests for locks.
    pub claims: Vec<Claim>,
    /// Writes that depended on locks.
    pub writes: Vec<Guarded>,
    /// What was done to keys of others.
    pub touched: Vec<Touched>,
    /// When nothing went wrong any more, and every member served.
    pub calm_from: Option<crate::Moment>,
}

/// What the checkers look at.
pub(crate) struct Case<'a> {
    pub(crate) contests: &'a Contests,
    pub(crate) history: &'a History,
    pub(crate) truth: &'a Truth,
    pub(crate) told: Told<'a>,
    pub(crate) queues: Queues,
}

/// The names of the findings.
pub const CHECKERS: [&str; 7] = [
    turns::CHECKER,
    sessions::CHECKER,
    requests::CHECKER,
    ghosts::CHECKER,
    wakeups::CHECKER,
    delays::CHECKER,
    writes::CHECKER,
];

/// Checks everything, by the known order of the writes.
pub fn check(contests: &Contests, history: &History, truth: &Truth) -> Vec<Finding> {
    let queues = Queues::of(contests, truth);
    let case = Case { contests, history, truth, told: Told::of(history), queues };
    vec![
        Finding::of(turns::CHECKER, &turns::check(&case)),
        Finding::of(sessions::CHECKER, &sessions::check(&case)),
        Finding::of(requests::CHECKER, &requests::check(&case)),
        Finding::of(ghosts::CHECKER, &ghosts::check(&case)),
        Finding::of(wakeups::CHECKER, &wakeups::check(&case)),
        Finding::of(delays::CHECKER, &delays::check(&case)),
        Finding::of(writes::CHECKER, &writes::check(&case)),
    ]
}
