//! Times that a test measured itself, sorted and read off. What the load generator measures, it sums up by itself.

use std::time::Duration;

use anyhow::Result;
use tenure_bench::workload::Put;
use tenure_bench::{Amount, Keys, Order, Settings, Silent, Workload};

/// What so many percent are below, of times in ascending order; 100 is for the longest. Nothing took no time.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get((sorted.len() * percent / 100).min(last)).copied().unwrap_or_default()
}

/// Puts that a test needs to have behind it, not to measure.
#[derive(Clone, Debug)]
pub struct Puts {
    /// Of servers on this machine, to which the puts go in turn.
    pub ports: Vec<u16>,
    pub total: u64,
    pub clients: usize,
    pub value_bytes: usize,
    pub fresh_values: bool,
    /// Keys run from 0 to this and start over.
    pub keys: u64,
}

impl Puts {
    /// Puts, every one of which must succeed.
    pub async fn run(self) -> Result<()> {
        let keys = Keys::new("", 16, self.keys, Order::Sequential);
        let put = Put { keys, value_bytes: self.value_bytes, fresh_values: self.fresh_values };
        let settings = Settings {
            endpoints: self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect(),
            clients: self.clients,
            connections: self.clients.div_ceil(8),
            amount: Amount::Total(self.total),
            warm_up: Duration::ZERO,
            ..Settings::default()
        };
        let report = tenure_bench::run(&Workload::Put(put), &settings, std::rc::Rc::new(Silent)).await?;
        anyhow::ensure!(report.is_clean(), "{} puts failed: {:?}", report.failed, report.first_error);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_taken_from_sorted_times() {
        let times: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!([50, 99, 100].map(|percent| percentile(&times, percent).as_millis()), [51, 100, 100]);
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }
}
