//! What all workloads have in common: whom they ask, how many clients they are, how long they last.

use std::time::Duration;

use crate::failure::Error;
use crate::pace::Amount;

/// See the module's header.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Host and port of each server; connections go to them in turn.
    pub endpoints: Vec<String>,
    /// Of the endpoints, use the one that leads the cluster.
    pub leader_only: bool,
    /// Operations under way at once.
    pub clients: usize,
    /// What the clients share.
    pub connections: usize,
    pub amount: Amount,
    /// What comes before the measurement and is not counted.
    pub warm_up: Duration,
    /// Operations per second that are due whatever the server does; none for a closed loop.
    pub rate: Option<f64>,
    /// A request that takes longer has failed.
    pub patience: Duration,
}

/// More of either is a slip of the finger.
const CLIENTS_MAX: usize = 1_000_000;
const RATES: std::ops::RangeInclusive<f64> = 0.001..=10_000_000.0;

impl Default for Settings {
    fn default() -> Self {
        Settings {
            endpoints: Vec::new(),
            leader_only: false,
            clients: 1,
            connections: 1,
            amount: Amount::Time(Duration::from_secs(10)),
            warm_up: Duration::from_secs(1),
            rate: None,
            patience: Duration::from_secs(30),
        }
    }
}

impl Settings {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |words: &str| Err(Error::Settings(words.to_owned()));
        if !(1..=CLIENTS_MAX).contains(&self.clients) || !(1..=CLIENTS_MAX).contains(&self.connections) {
            return wrong("clients and connections start at one and end at a million");
        }
        if self.rate.is_some_and(|rate| !RATES.contains(&rate)) {
            return wrong("a rate is at least one in a thousand seconds and at most ten million per second");
        }
        if self.amount == Amount::Total(0) || self.amount == Amount::Time(Duration::ZERO) {
            return wrong("a run without an operation measures nothing");
        }
        Ok(())
    }

    /// The total, for workloads that must know it beforehand.
    pub(crate) fn total(&self, workload: &str) -> Result<u64, Error> {
        match self.amount {
            Amount::Total(total) => Ok(total),
            Amount::Time(_) => Err(Error::Settings(format!(
                "{workload} prepares every operation beforehand, so it needs a total and cannot go by time"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused() {
        let refused = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.check().is_err()
        };
        assert!(!refused(|_| {}));
        assert!(refused(|settings| settings.clients = 0));
        assert!(refused(|settings| settings.connections = 0));
        assert!(refused(|settings| settings.rate = Some(0.0)));
        assert!(refused(|settings| settings.rate = Some(f64::NAN)));
        assert!(refused(|settings| settings.amount = Amount::Total(0)));
        assert!(Settings::default().total("lease-revoke").is_err());
    }
}
