//! Is any read older than it may be?
//!
//! A linearizable operation sees every revision that anybody was told of before it was called. A serializable one may be
//! old, but not older than what the same client was told by the same node before; that includes the client's own writes
//! through that node, which are answered only once the node has applied them. Only headers are looked at here: whether a
//! read shows what its revision held is for [`crate::linearize`], serializable reads included if it is asked to.

use core::fmt;
use std::collections::HashMap;

use crate::history::{History, Operation};
use crate::ids::{ClientId, Moment, NodeId, Revision};
use crate::request::Request;
use crate::verdict::{Verdict, Violation};

const CHECKER: &str = "stale reads";

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Linearizable operations with a revision.
    pub linearizable: usize,
    /// Serializable reads of a client that had been told something by that node.
    pub serializable: usize,
    /// Serializable reads that were older than what somebody had been told: allowed, and a sign that the run shows something.
    pub behind: usize,
}

/// Checks a history.
pub fn check(history: &History) -> Verdict<Counts> {
    check_told(history.operations.iter().filter_map(Told::of).collect())
}

/// A linearizable operation that was answered at an older revision than somebody had been told of before: needs no search.
pub(crate) fn stale_answer(history: &History) -> Option<Violation> {
    let linearizable = history.operations.iter().filter(|operation| !operation.request.is_serializable());
    match check_told(linearizable.filter_map(Told::of).collect()) {
        Verdict::Violation(violation) => Some(*violation),
        Verdict::Ok(_) | Verdict::Undecided(_) => None,
    }
}

fn check_told(mut told: Vec<Told<'_>>) -> Verdict<Counts> {
    told.sort_by_key(|told| told.called);
    let mut by_return: Vec<&Told<'_>> = told.iter().collect();
    by_return.sort_by_key(|told| told.returned);
    let mut returned = by_return.into_iter().peekable();
    let mut newest: Option<&Told<'_>> = None;
    let mut by_node: HashMap<(ClientId, NodeId), &Told<'_>> = HashMap::new();
    let mut counts = Counts::default();
    for read in &told {
        while let Some(earlier) = returned.next_if(|earlier| earlier.returned < read.called) {
            if !earlier.serializable {
                newest = newer(newest, earlier);
            }
            if let Some(node) = earlier.operation.node {
                let known = by_node.entry((earlier.operation.client, node)).or_insert(earlier);
                *known = newer(Some(*known), earlier).unwrap_or(earlier);
            }
        }
        let known = if read.serializable {
            counts.behind += usize::from(newest.is_some_and(|newest| newest.revision > read.revision));
            read.operation.node.and_then(|node| by_node.get(&(read.operation.client, node)).copied())
        } else {
            newest
        };
        match known {
            Some(known) if known.revision > read.revision => return violation(known, read),
            Some(_) if read.serializable => counts.serializable += 1,
            Some(_) | None => counts.linearizable += usize::from(!read.serializable),
        }
    }
    Verdict::Ok(counts)
}

struct Told<'a> {
    operation: &'a Operation,
    revision: Revision,
    called: Moment,
    returned: Moment,
    serializable: bool,
}

impl<'a> Told<'a> {
    fn of(operation: &'a Operation) -> Option<Told<'a>> {
        let revision = operation.response()?.revision;
        // The headers of these are no promise: etcd takes them before the operation, or on another node.
        if matches!(operation.request, Request::LeaseKeepAlive { .. } | Request::LeaseTimeToLive { .. }) {
            return None;
        }
        let (called, returned) = (operation.called, operation.returned?);
        Some(Told { operation, revision, called, returned, serializable: operation.request.is_serializable() })
    }
}

fn newer<'t, 'a>(known: Option<&'t Told<'a>>, other: &'t Told<'a>) -> Option<&'t Told<'a>> {
    known.filter(|known| known.revision >= other.revision).or(Some(other))
}

fn violation(known: &Told<'_>, read: &Told<'_>) -> Verdict<Counts> {
    let (promise, whom) = match (read.serializable, read.operation.request.clone()) {
        (true, _) => ("went back on one node", "its client had been told by the same node"),
        (false, Request::Range(_)) => ("stale read", "somebody had been told"),
        (false, _) => ("stale answer", "somebody had been told"),
    };
    let detail =
        format!("answered at revision {}, but {whom} of {} before it was called", read.revision, known.revision);
    Violation::verdict(CHECKER, promise, detail, vec![known.operation.to_string(), read.operation.to_string()])
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { linearizable, serializable, behind } = self;
        write!(f, "{linearizable} linearizable answers, {serializable} serializable ({behind} behind what others knew)")
    }
}
