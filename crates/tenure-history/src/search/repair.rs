//! The hasty search: on a failure it goes back to one choice that has to do with it, makes that choice otherwise, and learns.
//!
//! Going back in order would try every combination of the choices in between, and nearly all of them have nothing to do
//! with the failure. So every move of every revision has a score: the move taken at the choice that is blamed loses, a move
//! beside it that could have helped wins. A choice takes the move with the best score, and among equals the one that fits
//! the evidence best; so what was learnt about other choices is kept when they come again. Which choice is blamed: the last
//! one that has to do with the failure, but the more often it was blamed already, the more others come before it.
//!
//! This finds orders, and never that there is none: it stops when its steps are used up, or nothing can be blamed.

use std::collections::HashMap;

use super::blame::Blame;
use super::{Choice, Kind, Move, Search};
use crate::evidence::Fit;
use crate::ids::Revision;

/// A choice that was blamed this often more than another gives way to it, however much older that is, up to so many
/// choices that could be blamed.
const BLAMED_WEIGHT: usize = 3;
/// Failures without coming further after which the search gives up: there is likely no order, or none that it would find.
const FAILURES_MAX: usize = 600;
/// Choices that are looked at: those further back are blamed only if nothing nearer can be.
const LOOKED_AT_MAX: usize = 512;

/// What the search has learnt.
#[derive(Debug, Default)]
pub(super) struct Learnt {
    /// What the evidence gives the moves of the present choice to begin with.
    fits: HashMap<Move, i32>,
    scores: HashMap<(Revision, Move), i32>,
    blamed: HashMap<(Revision, usize), usize>,
    /// The furthest event that was come to, and how many failures ago.
    furthest: (usize, usize),
}

impl Search<'_> {
    /// Takes the evidence about the moves of the present choice into account.
    pub(super) fn note_fits(&mut self, moves: &[(Fit, Move)]) {
        self.learnt.fits.clear();
        for (fit, way) in moves.iter().rev() {
            let score = match fit {
                Fit::Shown => 6,
                Fit::Wanted(_) => 3,
                Fit::Silent => 0,
                Fit::Unlikely => -6,
                Fit::Denied => -12,
            };
            self.learnt.fits.insert(*way, score);
        }
    }

    /// Puts the moves in the order of what was learnt about them.
    pub(super) fn sort_by_score(&mut self, moves: &mut [Move]) {
        let revision = self.store.revision();
        let Learnt { fits, scores, .. } = &self.learnt;
        let of = |way: &Move| {
            let fit = fits.get(way).copied().unwrap_or(0);
            scores.get(&(revision, *way)).copied().unwrap_or(0) + fit
        };
        moves.sort_by_key(|way| core::cmp::Reverse(of(way)));
        self.learnt.fits.clear();
    }

    /// Whether the search came further than ever before within its last failures.
    pub(super) fn makes_progress(&mut self) -> bool {
        let (furthest, failures) = self.learnt.furthest;
        self.learnt.furthest = if self.event > furthest { (self.event, 0) } else { (furthest, failures + 1) };
        failures < FAILURES_MAX
    }

    /// Whether a move is guessed, and not what an answer says.
    pub(super) fn is_guess(&self, way: Move) -> bool {
        match way {
            Move::Operation(operation) => self.plan.kinds[operation] == Kind::Unknown,
            Move::Expire(_) => true,
            Move::Other => false,
        }
    }

    /// Goes back to the choice that is to blame; false if there is none.
    pub(super) fn repair(&mut self) -> bool {
        let blame = self.blame.take();
        let guilty = blame.as_ref().and_then(|blame| {
            let concerns = |choice: &Choice| choice.moves.iter().any(|way| self.touches(*way, blame));
            // What could have helped was used up before.
            let used_up = |choice: &Choice| self.touches(choice.moves[0], blame);
            self.guilty(blame.since, &concerns).or_else(|| self.guilty(Revision(0), &used_up))
        });
        let is_choice = |choice: &Choice| choice.moves.len() > 1;
        let guilty = match guilty {
            // There was no other way here, because what would have been one was used up before.
            Some(forced) if !is_choice(&self.choices[forced]) => self.guilty_before(forced, Revision(0), &is_choice),
            found => found,
        };
        let guilty = guilty.or_else(|| self.guilty(Revision(0), &is_choice));
        let Some(guilty) = guilty else { return false };
        self.learn(guilty, blame.as_ref());
        let choice = &self.choices[guilty];
        let (mark, event) = (choice.mark, choice.event);
        self.undo_to(mark);
        self.event = event;
        self.choices.truncate(guilty);
        true
    }

    /// The choice to blame among those that concern the failure.
    fn guilty(&self, since: Revision, concerns: &dyn Fn(&Choice) -> bool) -> Option<usize> {
        self.guilty_before(self.choices.len(), since, concerns)
    }

    fn guilty_before(&self, end: usize, since: Revision, concerns: &dyn Fn(&Choice) -> bool) -> Option<usize> {
        let recent = (0..end).rev().take_while(|at| self.choices[*at].revision >= since);
        let guilty = recent.filter(|at| concerns(&self.choices[*at])).take(LOOKED_AT_MAX);
        let cost = |(rank, at): &(usize, usize)| {
            let choice = &self.choices[*at];
            let blamed = self.learnt.blamed.get(&(choice.revision, choice.event)).copied().unwrap_or(0);
            blamed * BLAMED_WEIGHT + rank
        };
        guilty.enumerate().min_by_key(cost).map(|(_, at)| at)
    }

    fn learn(&mut self, guilty: usize, blame: Option<&Blame>) {
        let choice = &self.choices[guilty];
        let (revision, taken) = (choice.revision, choice.moves[0]);
        let touches = |way: Move| blame.is_none_or(|blame| self.touches(way, blame));
        let helpful: Vec<Move> = choice.moves[1..].iter().copied().filter(|way| touches(*way)).collect();
        let punished = touches(taken);
        *self.learnt.blamed.entry((revision, choice.event)).or_default() += 1;
        *self.learnt.scores.entry((revision, taken)).or_default() -= 1;
        if !punished {
            for way in helpful {
                *self.learnt.scores.entry((revision, way)).or_default() += 1;
            }
        }
    }
}
