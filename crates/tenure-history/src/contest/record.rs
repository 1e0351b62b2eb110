//! What is recorded of those who contend for locks.

use core::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{ClientId, LeaseId, Moment, Revision};
use crate::lock::Share;
use crate::text::{self, Shown};

/// One request for a lock by the native service, with all tries of it and all that was done to end it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Which lock.
    pub lock: String,
    /// Who.
    pub client: ClientId,
    /// The key by which its lease contends.
    #[serde(with = "text")]
    pub key: Bytes,
    /// By which lease.
    pub lease: LeaseId,
    /// The request's number.
    pub number: u64,
    /// How it wants the lock.
    pub share: Share,
    /// How often the lease may hold the lock; 0 for once.
    pub holds_max: u32,
    /// The lock-delay that it asked for, in milliseconds.
    pub delay_ms: u64,
    /// Each time that it was asked for, in order.
    pub tries: Vec<Try>,
    /// Each time that its end was asked for, in order.
    pub ends: Vec<End>,
}

/// One try of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Try {
    /// Its attach number.
    pub attach: u64,
    /// When it was sent.
    pub called: Moment,
    /// When it came to its end, or its client left.
    pub returned: Moment,
    /// That it waits, if it was told so.
    pub waits: Option<Heard>,
    /// Its end.
    pub came: Came,
}

/// Something that a client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// When.
    pub at: Moment,
    /// The header's revision.
    pub revision: Revision,
}

/// How a try ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Came {
    /// With the lock.
    Granted {
        /// The fencing token.
        token: Revision,
        /// The header's revision.
        revision: Revision,
        /// By how many requests it is held.
        holds: u32,
    },
    /// It did not want to wait.
    Busy,
    /// The request was finished before.
    Finished,
    /// The key was taken away while it waited.
    TakenAway,
    /// Its time was over.
    TimeOver,
    /// The lease was not there.
    NoLease,
    /// It was refused for another reason, and did nothing.
    Refused(String),
    /// Nobody knows.
    Lost,
    /// Its client broke the stream off.
    Left,
}

/// Something that was asked for to end a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// When it was sent.
    pub called: Moment,
    /// When it was answered, or given up.
    pub returned: Moment,
    /// What.
    pub how: How,
    /// What became of it.
    pub came: Ended,
}

/// What ends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// The holder let go.
    Release,
    /// It was cancelled.
    Cancel {
        /// Up to this try.
        attach: u64,
    },
    /// Its lease was revoked.
    Revoke,
}

/// What became of an end that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The request ended by it, and nothing of it is left.
    Done(Revision),
    /// One hold ended by it; the lease has others.
    OneLess(Revision),
    /// There was nothing to end.
    Nothing(Revision),
    /// A later try had taken the request over.
    Stale(Revision),
    /// It was not answered, or it does not say when it was done.
    Unknown,
}

/// A key that somebody else deleted, or tried to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touched {
    /// Which key.
    #[serde(with = "text")]
    pub key: Bytes,
    /// The lease that it was on.
    pub lease: LeaseId,
    /// When that was sent.
    pub called: Moment,
}

/// A write that was to be carried out only by the holder of a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guarded {
    /// Which lock.
    pub lock: String,
    /// Who.
    pub client: ClientId,
    /// The key by which it held the lock.
    #[serde(with = "text")]
    pub key: Bytes,
    /// The lease.
    pub lease: LeaseId,
    /// The token.
    pub token: Revision,
    /// When it was called.
    pub called: Moment,
    /// When it returned.
    pub returned: Moment,
    /// Whether the client could be sure the whole time that it held the lock.
    pub sure: bool,
    /// Whether it was carried out.
    pub passed: Passed,
}

/// Whether a guarded write was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Passed {
    /// It was, in this revision.
    Yes(Revision),
    /// The guard kept it out.
    No,
    /// Nobody knows.
    Unknown,
}

impl Claim {
    /// The tokens that it was granted, with the try and the revision of the answer.
    pub fn grants(&self) -> impl Iterator<Item = (&Try, Revision, Revision)> {
        self.tries.iter().filter_map(|tried| match tried.came {
            Came::Granted { token, revision, .. } => Some((tried, token, revision)),
            _ => None,
        })
    }

    /// Whether nobody but time can have ended it: no end was asked for, and no stream broken.
    pub(crate) fn was_left_alone(&self) -> bool {
        self.ends.is_empty() && self.tries.iter().all(|tried| matches!(tried.came, Came::Granted { .. }))
    }

    /// It and what happened to it, a line each.
    pub(crate) fn lines(&self) -> Vec<String> {
        let tries = self.tries.iter().map(|tried| (tried.called, tried.to_string()));
        let ends = self.ends.iter().map(|end| (end.called, end.to_string()));
        let mut lines: Vec<(Moment, String)> = tries.chain(ends).collect();
        lines.sort();
        let after = lines.into_iter().map(|(_, line)| format!("    {line}"));
        [self.to_string()].into_iter().chain(after).collect()
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Claim { lock, client, key, lease, number, share, delay_ms, .. } = self;
        let key = Shown(key);
        write!(f, "client {client} wants {lock} {share} by {key}, lease {lease}, request {number}, delay {delay_ms} ms")
    }
}

impl fmt::Display for Try {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Try { attach, called, returned, waits, came } = self;
        write!(f, "{called} – {returned} try {attach}")?;
        if let Some(Heard { at, revision }) = waits {
            write!(f, ", waits at {at} (revision {revision})")?;
        }
        write!(f, ": {came:?}")
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let End { called, returned, how, came } = self;
        write!(f, "{called} – {returned} {how:?}: {came:?}")
    }
}

impl fmt::Display for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Guarded { lock, client, key, lease, token, called, returned, sure, passed } = self;
        let sure = if *sure { "sure" } else { "not sure" };
        write!(
            f,
            "client {client} {called} – {returned} wrote by {lock}, key {}, lease {lease}, token {token}, {sure}: {passed:?}",
            Shown(key)
        )
    }
}
