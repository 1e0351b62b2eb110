//! Locks at a rate and in crowds, on real servers: Tenure's own beside etcd's service, in one run.
//!
//! Each scenario prints one line of figures for each program and size, and fails when a bound is broken. Bounds hold for
//! Tenure; where they are ratios, they need a real etcd, which `ETCD_BIN` names.

pub mod hand_off;
pub mod pairs;
pub mod seat;
pub mod succession;

use std::time::Duration;

use anyhow::{Context, Result};

use crate::cluster::Cluster;

/// The figure in the middle of those of several rounds; of two, the greater.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// How far the log of a member's group has come.
pub async fn log_index(cluster: &Cluster, at: usize) -> Result<u64> {
    Ok(cluster.status(at).await.context("a status")?.raft_index())
}

fn micros(time: Duration, count: usize) -> f64 {
    time.as_secs_f64() * 1e6 / f64::from(u32::try_from(count.max(1)).unwrap_or(u32::MAX))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!([vec![3.0], vec![1.0, 2.0], vec![9.0, 1.0, 5.0]].map(median), [3.0, 2.0, 5.0]);
    }
}
