//! What may happen next: all that an operation may be waiting for, the most promising first.
//!
//! Complete, but lazy: a move that nothing waits for yet is not offered. It commutes with whatever is placed before it, so
//! it can be made when something does wait for it. What waits is the operation that returns now, and every open one whose
//! answer may hang on more than one thing: a refused transaction may need a lease granted *before* the write that returns
//! now, so the moves that could help it are offered too, last. Otherwise an operation that fits is offered alone where
//! nothing placed before it could leave more ways open:
//!
//! - an acked write at its revision: no other write can stand there;
//! - a grant of a lease that does not live, and a revocation of one that lives without keys: whatever grants and ends of
//!   the same lease could stand before it can stand after it too, since a lease may end by itself.

use super::plan::{Claim, puts_of};
use super::{Kind, Move, Reason, Search};
use crate::evidence::Fit;
use crate::ids::{LeaseId, Revision};
use crate::model::Change;
use crate::request::Request;
use crate::response::{Outcome, Refusal};
use crate::seen::{Advice, Seen};

impl Search<'_> {
    /// Every move that may lead to this operation taking effect, or that must be made before it for the sake of another.
    pub(super) fn moves_for(&mut self, operation: usize) -> Vec<Move> {
        let mut moves = self.moves_towards(operation);
        if moves.is_empty() {
            return moves;
        }
        for waiting in self.open.iter().copied().filter(|waiting| *waiting != operation) {
            for way in self.helpful_moves(waiting) {
                if !moves.contains(&way) {
                    moves.push(way);
                }
            }
        }
        moves
    }

    fn moves_towards(&mut self, operation: usize) -> Vec<Move> {
        let now = self.store.revision();
        match self.plan.kinds[operation] {
            Kind::Write(revision) | Kind::Slot(revision) if revision <= now => {
                self.fail(operation, Reason::Overtaken);
                Vec::new()
            }
            Kind::Silent(revision) | Kind::Revoke(revision) if revision < now => {
                self.fail(operation, Reason::Overtaken);
                Vec::new()
            }
            Kind::Silent(revision) | Kind::Revoke(revision) if revision == now => self.silent_moves(operation),
            Kind::Write(_) | Kind::Slot(_) | Kind::Silent(_) | Kind::Revoke(_) => self.next_revision(operation),
            Kind::Floating => self.floating_moves(operation),
            Kind::Unknown => Vec::new(),
        }
    }

    /// The moves that make the next revision, or that must be made before it.
    fn next_revision(&mut self, operation: usize) -> Vec<Move> {
        let (plan, now) = (self.plan, self.store.revision());
        let slot = plan.slots.get(&now).into_iter().flatten().copied();
        if let Some(waiting) = slot.into_iter().find(|waiting| !self.done[*waiting]) {
            if !self.is_called(waiting) {
                self.fail(waiting, Reason::Passed(operation));
                return Vec::new();
            }
            if matches!(plan.kinds[waiting], Kind::Silent(_) | Kind::Revoke(_)) {
                return self.silent_moves(waiting);
            }
            return Vec::new();
        }
        match plan.claims.get(&now.next()) {
            Some(Claim::Other) => vec![Move::Other],
            Some(Claim::Operation(writer)) => self.moves_of_writer(operation, *writer),
            None => {
                let moves = self.gap_moves(now.next());
                if moves.is_empty() {
                    self.fail(operation, Reason::Unexplained(now.next()));
                }
                moves
            }
        }
    }

    fn moves_of_writer(&mut self, operation: usize, writer: usize) -> Vec<Move> {
        if !self.is_called(writer) {
            self.fail(operation, Reason::CalledLater(writer));
            return Vec::new();
        }
        let dead = self.dead_leases(&self.plan.operations[writer].request);
        if dead.is_empty() || self.answer(writer) != Err(Refusal::LeaseNotFound) {
            return vec![Move::Operation(writer)];
        }
        let mut moves = Vec::new();
        for lease in dead {
            moves.extend(self.lease_moves(lease));
            if moves.is_empty() {
                self.fail(writer, Reason::LeaseGone(lease));
            }
        }
        moves
    }

    fn dead_leases(&self, request: &Request) -> Vec<LeaseId> {
        if !self.plan.view.is_all() {
            return Vec::new();
        }
        let mut leases: Vec<LeaseId> = puts_of(request).into_iter().map(|(_, lease)| lease).collect();
        leases.retain(|lease| lease.is_some() && !self.store.has_lease(*lease));
        leases.sort_unstable();
        leases.dedup();
        leases
    }

    /// What watchers make of how well changes fit.
    fn advised(&self, fit: Fit, revision: Revision, changes: &[Change]) -> Fit {
        let advice = self.plan.seen.iter().map(|seen| seen.advise(revision, changes));
        advice.fold(fit, |fit, advice| match advice {
            Advice::No => Fit::Denied,
            Advice::Yes if fit != Fit::Denied => Fit::Shown,
            Advice::Yes | Advice::Silent => fit,
        })
    }

    /// Makes what only watchers saw: revisions after all that was answered. What they saw and nothing explains stays away.
    pub(super) fn follow_watchers(&mut self) {
        let last = self.plan.seen.iter().filter_map(Seen::last).max();
        while last.is_some_and(|last| self.store.revision() < last) {
            let ways = self.gaps(self.store.revision().next());
            let Some((Fit::Shown, way)) = ways.first().copied() else { return };
            if !self.apply(way) {
                return;
            }
        }
    }

    /// Who can have made a revision that nobody claims.
    fn gap_moves(&mut self, revision: Revision) -> Vec<Move> {
        let mut moves: Vec<Move> = self.gaps(revision).into_iter().map(|(_, way)| way).collect();
        moves.dedup();
        moves
    }

    fn gaps(&mut self, revision: Revision) -> Vec<(Fit, Move)> {
        let plan = self.plan;
        let mut moves: Vec<(Fit, Move)> = Vec::new();
        for operation in plan.revocations.get(&revision).into_iter().flatten().copied() {
            let Request::LeaseRevoke { id } = plan.operations[operation].request else { continue };
            if self.is_open(operation) && self.store.has_lease(id) && self.store.has_keys(id) {
                moves.push((Fit::Shown, Move::Operation(operation)));
            }
        }
        for operation in plan.unknowns.iter().rev().copied() {
            let elsewhere = plan.reserved.get(&operation).is_some_and(|reserved| *reserved != revision);
            if self.is_open(operation) && !elsewhere {
                self.offer_unknown(revision, operation, &mut moves);
            }
        }
        for lease in self.store.leases_with_keys() {
            let changes = self.store.ending(lease);
            let fit = if plan.view.is_all() {
                plan.evidence.fit_end(revision, lease, &changes)
            } else {
                plan.evidence.fit(revision, &changes)
            };
            moves.extend(fit.map(|fit| (self.advised(fit, revision, &changes), Move::Expire(lease))));
        }
        if !plan.view.is_all() && !plan.evidence.contradicts_pins(revision, &[]) {
            moves.push((Fit::Silent, Move::Other));
        }
        // Stable: among equals the one that was called last. What did not happen for long never will, mostly.
        self.leave_to_revocations(revision, &mut moves);
        moves.sort_by_key(|(fit, way)| (*fit, self.is_lasting(*way)));
        if self.hasty {
            self.note_fits(&moves);
        }
        moves
    }

    /// An acked revocation of a lease with keys that was answered at this revision made it, unless something else in this
    /// revision took the lease's keys away.
    fn leave_to_revocations(&self, revision: Revision, moves: &mut Vec<(Fit, Move)>) {
        let plan = self.plan;
        for operation in plan.revocations.get(&revision).into_iter().flatten().copied() {
            let Request::LeaseRevoke { id } = plan.operations[operation].request else { continue };
            if self.done[operation] || !self.store.has_lease(id) || !self.store.has_keys(id) {
                continue;
            }
            moves.retain(|(_, way)| match way {
                Move::Operation(other) if *other == operation => true,
                Move::Operation(other) => self.touches_all(*other, id),
                // It may end, be granted again and be revoked without keys, all at this revision.
                Move::Expire(lease) => *lease == id && self.may_be_granted_at(id, revision),
                Move::Other => false,
            });
        }
    }

    fn may_be_granted_at(&self, lease: LeaseId, revision: Revision) -> bool {
        let of_lease = self.plan.of_lease.get(&lease).into_iter().flatten();
        of_lease.copied().any(|operation| match self.plan.kinds[operation] {
            Kind::Silent(at) => at == revision,
            Kind::Unknown => true,
            Kind::Write(_) | Kind::Slot(_) | Kind::Revoke(_) | Kind::Floating => false,
        })
    }

    /// Whether an operation of unknown outcome would change every key of a lease.
    fn touches_all(&self, operation: usize, lease: LeaseId) -> bool {
        let request = &self.plan.operations[operation].request;
        let Ok(executed) = self.store.execute_guided(request, None, &self.plan.view) else { return true };
        self.store.keys_of(lease).all(|key| executed.changes.iter().any(|change| change.key == *key))
    }

    /// Whether it could as well make a later revision, whatever happens: what could not is better used while it can be.
    fn is_lasting(&self, way: Move) -> bool {
        match way {
            Move::Operation(operation) => matches!(self.plan.operations[operation].request, Request::Put(_)),
            Move::Expire(_) | Move::Other => true,
        }
    }

    fn offer_unknown(&mut self, revision: Revision, operation: usize, moves: &mut Vec<(Fit, Move)>) {
        self.steps += 1;
        let request = &self.plan.operations[operation].request;
        match self.store.execute_guided(request, None, &self.plan.view) {
            Ok(executed) if executed.changes.is_empty() => {}
            Ok(executed) => {
                if let Some(fit) = self.plan.evidence.fit(revision, &executed.changes) {
                    moves.push((self.advised(fit, revision, &executed.changes), Move::Operation(operation)));
                }
            }
            Err(Refusal::LeaseNotFound) => {
                for lease in self.dead_leases(request) {
                    moves.extend(self.lease_moves(lease).into_iter().map(|way| (Fit::Unlikely, way)));
                }
            }
            Err(_) => {}
        }
    }

    /// The moves for an operation that takes effect at the present revision without making one.
    fn silent_moves(&mut self, operation: usize) -> Vec<Move> {
        let request = &self.plan.operations[operation].request;
        match request {
            Request::Compact { .. } => {
                let mut moves = vec![Move::Operation(operation)];
                moves.extend(self.compactions().into_iter().filter(|way| *way != Move::Operation(operation)));
                moves
            }
            _ => {
                let granted = super::plan::granted(self.plan.operations[operation]);
                let Some(lease) = granted.or(request.lease()) else { return Vec::new() };
                let is_grant = matches!(request, Request::LeaseGrant { .. });
                let lives = self.store.has_lease(lease);
                let fits = if is_grant { !lives } else { lives && !self.store.has_keys(lease) };
                if fits {
                    return vec![Move::Operation(operation)];
                }
                let moves = self.lease_moves(lease);
                if moves.is_empty() {
                    self.fail(operation, Reason::LeaseGone(lease));
                }
                moves
            }
        }
    }

    /// The moves, other than the next revision, that let a lease begin or end.
    fn lease_moves(&self, lease: LeaseId) -> Vec<Move> {
        let now = self.store.revision();
        let lives = self.store.has_lease(lease);
        if lives && self.store.has_keys(lease) {
            return Vec::new();
        }
        let of_lease = self.plan.of_lease.get(&lease).into_iter().flatten().copied();
        let fitting = of_lease.filter(|operation| self.is_open(*operation)).filter(|operation| {
            match self.plan.kinds[*operation] {
                Kind::Silent(revision) => !lives && revision == now,
                Kind::Unknown => !lives,
                Kind::Revoke(revision) => lives && revision == now,
                Kind::Write(_) | Kind::Slot(_) | Kind::Floating => false,
            }
        });
        fitting.map(Move::Operation).chain(lives.then_some(Move::Expire(lease))).collect()
    }

    fn compactions(&self) -> Vec<Move> {
        let now = self.store.revision();
        let open = self.plan.compactions.iter().copied().filter(|operation| self.is_open(*operation));
        open.filter(|operation| {
            let here = matches!(self.plan.kinds[*operation], Kind::Unknown)
                || self.plan.kinds[*operation] == Kind::Silent(now);
            let Request::Compact { revision } = self.plan.operations[*operation].request else { return false };
            here && revision > self.store.compacted() && revision <= now
        })
        .map(Move::Operation)
        .collect()
    }

    /// The moves for an operation that is tied to no revision.
    fn floating_moves(&mut self, operation: usize) -> Vec<Move> {
        let answer = self.answer(operation);
        self.fail(operation, Reason::Answer(answer));
        let here = self.helpful_moves(operation);
        let next = self.next_revision(operation);
        let leases = leases_of(&self.plan.operations[operation].request);
        let (mut moves, rest) = if self.next_is_revocation(&leases) { (next, here) } else { (here, next) };
        moves.extend(rest.into_iter().filter(|way| !moves.contains(way)).collect::<Vec<_>>());
        moves
    }

    /// The moves at the present revision that change something which an operation tied to no revision looks at.
    fn helpful_moves(&self, operation: usize) -> Vec<Move> {
        let mut moves = Vec::new();
        if matches!(self.outcome(operation), Outcome::Refused(Refusal::Compacted)) {
            moves.extend(self.compactions());
        }
        for lease in leases_of(&self.plan.operations[operation].request) {
            moves.extend(self.lease_moves(lease));
        }
        moves
    }

    /// Whether one of these leases has an acked revocation that is still to be placed at a later revision.
    fn next_is_revocation(&self, leases: &[LeaseId]) -> bool {
        let now = self.store.revision();
        let of_lease = leases.iter().filter_map(|lease| self.plan.of_lease.get(lease)).flatten();
        of_lease.copied().any(|operation| {
            self.is_open(operation) && matches!(self.plan.kinds[operation], Kind::Revoke(revision) if revision > now)
        })
    }
}

/// The leases that a request is about or attaches.
fn leases_of(request: &Request) -> Vec<LeaseId> {
    let leases = puts_of(request).into_iter().map(|(_, lease)| lease).chain(request.lease());
    let mut leases: Vec<LeaseId> = leases.filter(|lease| lease.is_some()).collect();
    leases.sort_unstable();
    leases.dedup();
    leases
}
