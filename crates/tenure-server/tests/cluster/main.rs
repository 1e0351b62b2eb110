//! Clusters within one process: the real log, consensus, apply and peer transport on disks that lose power.
//!
//! No RocksDB and no processes: what those add is tested elsewhere. Everything waits for conditions, none for time.

mod cluster_crashes;
mod contests;
mod crash_points;
mod hashes;
mod keepalives;
mod leadership;
mod lease_faults;
mod leases;
mod lock_acquires;
mod membership_begin;
mod peer_port;
mod range_stream;
mod requests;
mod snapshot_port;
mod snapshots;
mod support;
