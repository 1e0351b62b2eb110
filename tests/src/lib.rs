//! The harness shared by Tenure's process, chaos and compatibility tests and by its benchmark.
//!
//! It starts real server binaries and speaks to them over sockets: nothing here links the server, so a test sees exactly
//! what a user sees. The same harness starts a real etcd, which is how answers and speed are compared side by side.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the figures that a test or a benchmark prints are its product"
)]

pub mod bench;
pub mod binaries;
pub mod chaos;
pub mod check;
pub mod clients;
pub mod cluster;
pub mod etcdctl;
pub mod fault_port;
pub mod faults;
pub mod http1;
pub mod lease_check;
pub mod lease_faults;
pub mod lease_load;
pub mod lease_scale;
pub mod lease_stall;
pub mod lease_survival;
pub mod lock_scale;
pub mod node;
pub mod overlap;
pub mod ports;
pub mod requests;
pub mod samples;
pub mod scenario;
pub mod sdk_scale;
pub mod snapshots;
pub mod stale_reads;
pub mod steps;
pub mod ties;
pub mod watch_chaos;
pub mod watch_check;
pub mod watch_clients;
pub mod watch_writers;
pub mod watched_install;
pub mod watching;
pub mod wire;
pub mod workload;
