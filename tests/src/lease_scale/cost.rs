//! What a cluster has spent: CPU, syncs, bytes of the log, memory.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::binaries::Program;
use crate::cluster::Cluster;
use crate::http1;
use crate::lease_check::Moment;

/// What all members together spent since they began, and what each holds.
#[derive(Clone, Debug)]
pub struct Cost {
    at: Moment,
    cpu: Duration,
    fsyncs: f64,
    log_bytes: f64,
    /// Per member.
    resident: Vec<u64>,
}

/// The same between two moments.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    pub time: Duration,
    pub cpu: Duration,
    /// Of all members together.
    pub fsyncs: f64,
    /// Of all members together.
    pub log_bytes: f64,
}

impl Cost {
    /// What was spent so far.
    pub async fn read(cluster: &Cluster) -> Result<Cost> {
        let (fsyncs_of, bytes_of) = match cluster.program {
            Program::Etcd | Program::Etcd37 => {
                ("etcd_disk_wal_fsync_duration_seconds_count", "etcd_disk_wal_write_bytes_total")
            }
            Program::Tenured | Program::TenuredFaults => ("tenure_log_fsyncs_total", "tenure_log_written_bytes_total"),
        };
        let (mut fsyncs, mut log_bytes, mut resident) = (0.0, 0.0, Vec::new());
        for node in &cluster.nodes {
            let page = http1::get(node.client_port, "/metrics", Duration::from_secs(10)).await?.body;
            fsyncs += http1::number(&page, fsyncs_of).context(fsyncs_of)?;
            // The reference release does not count its bytes.
            log_bytes += http1::number(&page, bytes_of).unwrap_or(f64::NAN);
            resident.push(node.resident_bytes()?);
        }
        Ok(Cost { at: Moment::now(), cpu: cluster.cpu()?, fsyncs, log_bytes, resident })
    }

    /// What was spent since then.
    pub fn since(&self, earlier: &Cost) -> Spent {
        Spent {
            time: self.at.since(earlier.at),
            cpu: self.cpu.saturating_sub(earlier.cpu),
            fsyncs: self.fsyncs - earlier.fsyncs,
            log_bytes: self.log_bytes - earlier.log_bytes,
        }
    }

    /// How much more memory each member holds than it did, per lease.
    pub fn memory_per_lease(&self, earlier: &Cost, leases: u64) -> String {
        let grown = self.resident.iter().zip(&earlier.resident).map(|(now, then)| now.saturating_sub(*then) / leases);
        grown.map(|bytes| format!("{bytes} B")).collect::<Vec<_>>().join(" / ")
    }
}

impl Spent {
    /// For each second: CPU, syncs and bytes of the log, of all members together.
    pub fn per_second(&self) -> String {
        let secs = self.time.as_secs_f64();
        format!(
            "{:.0} ms CPU/s, {:.1} fsyncs/s, {}/s of log",
            self.cpu.as_secs_f64() * 1e3 / secs,
            self.fsyncs / secs,
            bytes(self.log_bytes / secs)
        )
    }

    /// For each of so many operations: CPU of all members together, and bytes in the log of one.
    pub fn per_operation(&self, operations: f64, members: f64) -> String {
        let cpu = self.cpu.as_secs_f64() * 1e6 / operations;
        format!("{cpu:.1} µs CPU and {} of log each", bytes(self.log_bytes / operations / members))
    }
}

fn bytes(count: f64) -> String {
    if count.is_nan() {
        "? B".to_owned()
    } else if count < 10_000.0 {
        format!("{count:.1} B")
    } else {
        format!("{:.0} kB", count / 1e3)
    }
}
