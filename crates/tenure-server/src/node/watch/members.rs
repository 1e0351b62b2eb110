//! What belongs to one range, and which events have been here.

use std::cell::Cell;

use tenure_core::Revision;

/// See the module's header.
#[derive(Debug)]
pub(super) struct Members<M> {
    list: Vec<M>,
    /// The revisions of the last put and of the last delete that were here.
    seen: [Cell<Revision>; 2],
}

impl<M> Members<M> {
    pub(super) fn new() -> Members<M> {
        Members { list: Vec::new(), seen: [const { Cell::new(Revision(0)) }; 2] }
    }

    /// Adds a member and returns its place.
    pub(super) fn add(&mut self, member: M) -> usize {
        self.list.push(member);
        self.list.len() - 1
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn as_slice(&self) -> &[M] {
        &self.list
    }

    /// Whether an event is the first of its kind and revision that comes here.
    pub(super) fn sees_first(&self, revision: Revision, deletes: bool) -> bool {
        self.seen[usize::from(deletes)].replace(revision) != revision
    }
}

impl<M: Copy> Members<M> {
    /// Removes the member at a place. Returns the one that is at this place now, if another moved there.
    pub(super) fn remove(&mut self, place: usize) -> Option<M> {
        if place >= self.list.len() {
            return None;
        }
        self.list.swap_remove(place);
        self.list.get(place).copied()
    }
}
