//! What the lessor counts, for `/metrics`.

/// The upper bounds of the classes of lateness, in milliseconds; one more class has none.
pub const LATENESS_BOUNDS_MS: [u64; 10] = [10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000];

/// How often what happened while this member led.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Leases granted.
    pub granted: u64,
    /// Renewals.
    pub renewed: u64,
    /// Leases that a client revoked.
    pub revoked: u64,
    /// How late leases were ended that nobody renewed.
    pub lateness: Lateness,
}

/// How much later than they were due leases were ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lateness {
    /// How many are in each class, and in no earlier one.
    pub classes: [u64; LATENESS_BOUNDS_MS.len() + 1],
    /// All of it.
    pub sum_ms: u64,
    /// The worst.
    pub max_ms: u64,
}

impl Tally {
    /// Counts a lease that was ended because it was due.
    pub(super) fn expired(&mut self, late_ms: u64) {
        let class = LATENESS_BOUNDS_MS.partition_point(|bound| *bound < late_ms);
        self.lateness.classes[class] += 1;
        self.lateness.sum_ms = self.lateness.sum_ms.saturating_add(late_ms);
        self.lateness.max_ms = self.lateness.max_ms.max(late_ms);
    }

    /// Adds what `other` counted.
    pub(super) fn add(&mut self, other: &Tally) {
        self.granted += other.granted;
        self.renewed += other.renewed;
        self.revoked += other.revoked;
        for (sum, count) in self.lateness.classes.iter_mut().zip(other.lateness.classes) {
            *sum += count;
        }
        self.lateness.sum_ms = self.lateness.sum_ms.saturating_add(other.lateness.sum_ms);
        self.lateness.max_ms = self.lateness.max_ms.max(other.lateness.max_ms);
    }
}

impl Lateness {
    /// How many leases were ended because they were due.
    pub fn count(&self) -> u64 {
        self.classes.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_falls_into_the_first_class_that_holds_it() {
        let mut tally = Tally::default();
        [0, 10, 11, 10_000, 10_001].into_iter().for_each(|late_ms| tally.expired(late_ms));
        let mut total = Tally { granted: 1, renewed: 2, revoked: 3, lateness: Lateness::default() };
        total.add(&tally);
        total.add(&tally);
        assert_eq!(total.lateness.classes, [4, 2, 0, 0, 0, 0, 0, 0, 0, 2, 2]);
        assert_eq!((total.lateness.count(), total.lateness.sum_ms, total.lateness.max_ms), (10, 40_044, 10_001));
        assert_eq!((total.granted, total.renewed, total.revoked), (1, 2, 3));
    }
}
