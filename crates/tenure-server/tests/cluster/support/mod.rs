//! What the tests stand on: machines that lose power, members on them, clusters, and a history to hold states against.

pub(crate) mod cluster;
pub(crate) mod history;
pub(crate) mod leases;
pub(crate) mod member;
pub(crate) mod requests;

use std::future::Future;
use std::time::Duration;

/// The longest that anything here may take. Hit only by a bug: a loaded machine may be slow, but not this slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for something that must happen.
pub(crate) async fn within<T>(what: &str, happens: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, happens).await {
        Ok(result) => result,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}

/// Runs a test on a runtime of its own.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(test)
}
