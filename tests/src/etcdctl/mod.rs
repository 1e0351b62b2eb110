//! Runs a script of etcdctl commands against a cluster and makes what they print comparable between two clusters.

pub mod script;
pub mod subject;
pub mod text;

pub use script::{Action, Step, parse};
pub use subject::Subject;
