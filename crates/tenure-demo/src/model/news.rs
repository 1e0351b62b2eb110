//! What the outer world tells the model. Everything in it was seen or done by the demo itself, as a client.

use std::time::Duration;

use crate::clock::Moment;
use crate::model::{Kind, Phase, Place};

/// A node's answer to `Maintenance.Status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub member: u64,
    /// 0 while the node knows none.
    pub leader: u64,
    pub term: u64,
    pub revision: i64,
    /// The last log entry applied to the node's state.
    pub applied: u64,
}

/// What the operating system says of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    Running,
    Paused,
    Gone,
}

/// What a script of `cluster-scripts/` does to a node, by the script's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Kill,
    Pause,
    Resume,
    Restart,
}

impl Verb {
    /// The script's name.
    pub fn script(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Restart => "restart",
        }
    }
}

/// One piece of news.
#[derive(Clone, Debug)]
pub enum News {
    Phase(Phase),
    /// A line for the event list from somewhere that the model has no part for.
    Said {
        kind: Kind,
        text: String,
    },
    Answered {
        node: usize,
        answer: Answer,
    },
    ProcessIs {
        node: usize,
        process: Process,
    },
    CommandBegan {
        node: usize,
        verb: Verb,
        line: String,
    },
    CommandEnded {
        node: usize,
        verb: Verb,
        problem: Option<String>,
    },
    WriteAcked {
        at: Moment,
        latency: Duration,
    },
    /// A write that failed or was not answered in time: it may have taken effect or not.
    WriteUnanswered,
    LeaseGranted {
        service: usize,
        sent: Moment,
        ttl: Duration,
    },
    LeaseRenewed {
        service: usize,
        sent: Moment,
        ttl: Duration,
    },
    /// The service does not renew its lease any more.
    LeaseStopped {
        service: usize,
    },
    /// The service's lease is gone: a watch saw its key go, or a renewal was told.
    LeaseEnded {
        service: usize,
        seen: Moment,
        /// When it was due if a renewal that was not answered took effect.
        overdue_from: Moment,
    },
    /// All keys of the lock, oldest first, as a watch saw them.
    LockQueue {
        places: Vec<Place>,
    },
    LockTaken {
        contender: String,
        token: i64,
        at: Moment,
    },
    LockFreed {
        contender: String,
        at: Moment,
    },
    /// The holder's lease ended under it.
    LockLost {
        contender: String,
    },
}
