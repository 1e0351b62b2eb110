//! Whole servers within the test's process: flags in, sockets out, nothing in between taken apart.
//!
//! The engine is in memory; the log, the peers and the clients' ports are real. What the services themselves decide is
//! tested where they live; this is about what a client on the wire is told.

mod backups;
mod certificates;
mod compaction;
mod deadlines;
mod elections;
mod etcd_locks;
mod http;
mod leases;
mod lock_streams;
mod locks;
mod maintenance;
mod metadata;
mod own_leases;
mod ranges;
mod reflection;
mod sockets;
mod support;
mod tls;
mod watches;
