//! Random numbers from the run's seed: a stream of its own for each purpose, so that one more draw here changes nothing there.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sha2::{Digest, Sha256};

/// One stream of random numbers.
#[derive(Debug)]
pub struct Dice(StdRng);

impl Dice {
    /// The stream of a purpose.
    pub fn new(seed: u64, purpose: &str) -> Dice {
        let digest = Sha256::new().chain_update(seed.to_be_bytes()).chain_update(purpose).finalize();
        Dice(StdRng::from_seed(digest.into()))
    }

    /// One of `0..bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0.random_range(0..bound.max(1))
    }

    /// Whether something of this probability happens.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.0.random_bool(probability.clamp(0.0, 1.0))
    }

    /// A time between two others.
    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        if most <= least {
            return least;
        }
        Duration::from_micros(self.0.random_range(micros(least)..=micros(most)))
    }

    /// A time between two in milliseconds.
    pub fn millis(&mut self, least: u64, most: u64) -> Duration {
        self.between(Duration::from_millis(least), Duration::from_millis(most))
    }

    /// One of several.
    pub fn pick<'t, T>(&mut self, of: &'t [T]) -> &'t T {
        &of[self.below(of.len())]
    }

    /// One of several, each as often as its weight says.
    pub fn weighted<T: Copy>(&mut self, of: &[(u32, T)]) -> T {
        let total: u32 = of.iter().map(|(weight, _)| weight).sum();
        let mut at = self.0.random_range(0..total.max(1));
        for (weight, it) in of {
            if at < *weight {
                return *it;
            }
            at -= weight;
        }
        of[of.len() - 1].1
    }

    /// Some of `0..of`, at least one and not all, in order.
    pub fn some_of(&mut self, of: usize) -> Vec<usize> {
        let count = 1 + self.below(of.saturating_sub(1).max(1));
        let mut all: Vec<usize> = (0..of).collect();
        while all.len() > count {
            let at = self.below(all.len());
            all.remove(at);
        }
        all
    }

    /// A number of any size.
    pub fn number(&mut self) -> u64 {
        self.0.random()
    }

    /// A factor within so many parts per million of 1.
    pub fn rate(&mut self, parts_per_million: i32) -> f64 {
        1.0 + f64::from(self.0.random_range(-parts_per_million..=parts_per_million)) / 1e6
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
