//! Which faults happen when: a list drawn from the seed before the run begins.
//!
//! A round's faults come in *scenes*, one after the other, each of one fault or of two of different kinds that overlap. All
//! of a scene is healed before the next begins, so that there are never more than two faults at once and the cluster gets
//! a moment to itself in between. Kinds are dealt like cards: each kind that was asked for comes once before any comes
//! again, across rounds too, so that even a short run has all of them.
//!
//! Who is hit is drawn when a fault begins, by a number from the script: the leader is not known before.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::faults::Kind;

/// One in two scenes has a second fault, where there is one that goes with the first.
const OVERLAP_PERCENT: u32 = 50;
/// The quiet time after a scene.
const QUIET_MS: std::ops::Range<u64> = 700..1_800;
/// A round's first fault comes after a while of ordinary work.
const WARM_UP: Duration = Duration::from_secs(2);

/// One fault of the script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub kind: Kind,
    /// After the scene's begin.
    pub begin: Duration,
    /// How long it lasts.
    pub lasts: Duration,
    /// What decides who is hit, and how.
    pub choice: u64,
}

/// Faults that overlap, or a single one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scene {
    /// The pause before it.
    pub quiet: Duration,
    /// One or two.
    pub steps: Vec<Step>,
}

impl Scene {
    /// How long it lasts.
    pub fn length(&self) -> Duration {
        self.steps.iter().map(|step| step.begin + step.lasts).max().unwrap_or_default()
    }
}

/// Deals out scenes.
#[derive(Debug)]
pub struct Script {
    rng: StdRng,
    kinds: Vec<Kind>,
    /// The next kinds to come, the last one first.
    dealt: Vec<Kind>,
}

impl Script {
    /// The script of a seed, of these kinds of faults.
    pub fn new(seed: u64, kinds: &[Kind]) -> Script {
        Script { rng: StdRng::seed_from_u64(seed ^ 0xfa_17), kinds: kinds.to_vec(), dealt: Vec::new() }
    }

    /// The scenes of a round that is to last this long. Always at least one, if there are any kinds.
    pub fn round(&mut self, length: Duration) -> Vec<Scene> {
        let mut scenes = Vec::new();
        let mut until = WARM_UP;
        while !self.kinds.is_empty() && (scenes.is_empty() || until < length) {
            let scene = self.scene();
            until += scene.quiet + scene.length();
            scenes.push(scene);
        }
        if let Some(first) = scenes.first_mut() {
            first.quiet = first.quiet.max(WARM_UP);
        }
        scenes
    }

    fn scene(&mut self) -> Scene {
        let quiet = Duration::from_millis(self.rng.random_range(QUIET_MS));
        let first = self.deal(None);
        let mut steps = Vec::new();
        if let Some(kind) = first {
            steps.push(self.step(kind, Duration::ZERO));
        }
        if let Some(one) = first.filter(|_| self.rng.random_ratio(OVERLAP_PERCENT, 100))
            && let Some(other) = self.deal(Some(one))
        {
            let begin = steps[0].lasts.mul_f64(self.rng.random_range(0.1..0.9));
            steps.push(self.step(other, begin));
        }
        Scene { quiet, steps }
    }

    fn step(&mut self, kind: Kind, begin: Duration) -> Step {
        let lasts = Duration::from_millis(self.rng.random_range(kind.lasts_ms()));
        Step { kind, begin, lasts, choice: self.rng.random() }
    }

    /// The next kind; one that goes with another if there is one among those dealt.
    fn deal(&mut self, with: Option<Kind>) -> Option<Kind> {
        if self.dealt.is_empty() {
            self.dealt.clone_from(&self.kinds);
            self.dealt.shuffle(&mut self.rng);
        }
        match with {
            None => self.dealt.pop(),
            Some(with) => {
                let at = self.dealt.iter().rposition(|kind| kind.goes_with(with))?;
                Some(self.dealt.remove(at))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const ROUND: Duration = Duration::from_secs(90);

    #[test]
    fn a_seed_always_makes_the_same_script_and_another_another() {
        let script = |seed| {
            let mut script = Script::new(seed, &Kind::ALL);
            (0..3).flat_map(|_| script.round(ROUND)).collect::<Vec<_>>()
        };
        assert_eq!(script(7), script(7));
        assert_ne!(script(7), script(8));
    }

    #[test]
    fn at_most_two_faults_overlap_of_kinds_that_go_together_and_a_scene_ends() {
        let mut overlaps = 0;
        for seed in 0..200 {
            for scene in Script::new(seed, &Kind::ALL).round(ROUND) {
                assert!((1..=2).contains(&scene.steps.len()));
                assert!(scene.length() <= Duration::from_secs(16), "{scene:?}");
                if let [one, other] = &scene.steps[..] {
                    overlaps += 1;
                    assert_ne!(one.kind, other.kind);
                    assert!(one.kind.goes_with(other.kind) && other.kind.goes_with(one.kind), "{scene:?}");
                    assert!(other.begin > Duration::ZERO && other.begin < one.lasts, "{scene:?}");
                }
            }
        }
        assert!(overlaps > 200);
    }

    #[test]
    fn a_round_of_smoke_has_every_kind_whatever_the_seed() {
        for seed in 0..300 {
            let scenes = Script::new(seed, &Kind::ALL).round(ROUND);
            let kinds: BTreeSet<Kind> = scenes.iter().flat_map(|scene| &scene.steps).map(|step| step.kind).collect();
            assert_eq!(kinds.len(), Kind::ALL.len(), "seed {seed}");
            let length: Duration = scenes.iter().map(|scene| scene.quiet + scene.length()).sum();
            assert!(length < ROUND + Duration::from_secs(20), "seed {seed}: {length:?}");
        }
    }

    #[test]
    fn a_round_with_few_kinds_or_little_time_still_has_a_fault() {
        assert_eq!(Script::new(1, &[Kind::KillAll]).round(Duration::ZERO).len(), 1);
        assert!(Script::new(1, &[]).round(ROUND).is_empty());
        let scenes = Script::new(1, &[Kind::KillOne]).round(ROUND);
        assert!(scenes.iter().all(|scene| scene.steps.len() == 1));
    }
}
