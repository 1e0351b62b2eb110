//! The tasks of a client.
//!
//! They run on the runtime that the client was made on, so what is dropped elsewhere, on a thread without a runtime, can
//! still hand its work over. A client owns its tasks: when it is closed, or its last clone goes, they end.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// See the module's header.
#[derive(Debug)]
pub(crate) struct Tasks {
    runtime: Handle,
    running: TaskTracker,
    /// The client is closing: what has something to finish finishes it.
    closing: CancellationToken,
    /// Patience is over.
    ended: CancellationToken,
}

impl Tasks {
    pub(crate) fn new(runtime: Handle) -> Tasks {
        let (closing, ended) = (CancellationToken::new(), CancellationToken::new());
        Tasks { runtime, running: TaskTracker::new(), closing, ended }
    }

    /// Runs something until it is done or the client is closed. Its output is lost if the client is closed before.
    pub(crate) fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.spawn_until(name, self.closing.clone(), future)
    }

    /// Runs something that watches [`Tasks::closing`] itself, and has some time to finish once that has come.
    pub(crate) fn spawn_finishing<F>(&self, name: &'static str, future: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.spawn_until(name, self.ended.clone(), future)
    }

    fn spawn_until<F>(&self, name: &'static str, end: CancellationToken, future: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.running.spawn_on(
            async move {
                let output = end.run_until_cancelled(future).await;
                tracing::trace!(task = name, is_done = output.is_some(), "a task of the client ended");
                output
            },
            &self.runtime,
        )
    }

    /// Fires when the client begins to close.
    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Whether the time to finish is over as well.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// The runtime that the tasks are on.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Tells all tasks to end, and waits for those that finish something, up to that long; the others are dropped then.
    pub(crate) async fn close(&self, patience: Duration) {
        self.closing.cancel();
        self.running.close();
        // If it takes longer than that, what is left is dropped.
        let _is_finished = tokio::time::timeout(patience, self.running.wait()).await.is_ok();
        self.ended.cancel();
        self.running.wait().await;
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.closing.cancel();
        self.ended.cancel();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn closing_ends_what_runs_and_waits_for_what_finishes() {
        let tasks = Tasks::new(Handle::current());
        let endless = tasks.spawn("endless", std::future::pending::<()>());
        let (closing, finished) = (tasks.closing().clone(), Arc::new(AtomicBool::new(false)));
        let mark = finished.clone();
        let finishing = tasks.spawn_finishing("finishing", async move {
            closing.cancelled().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            mark.store(true, Ordering::Relaxed);
        });
        let stuck = tasks.spawn_finishing("stuck", std::future::pending::<()>());
        tasks.close(Duration::from_secs(2)).await;
        assert!(finished.load(Ordering::Relaxed));
        assert_eq!(endless.await.expect("no panic"), None);
        assert_eq!(finishing.await.expect("no panic"), Some(()));
        assert_eq!(stuck.await.expect("no panic"), None);
    }

    #[tokio::test]
    async fn tasks_can_be_started_without_a_runtime_at_hand() {
        let tasks = Arc::new(Tasks::new(Handle::current()));
        let handed = tasks.clone();
        let running = tokio::task::spawn_blocking(move || {
            std::thread::spawn(move || handed.spawn("handed over", async { 7 })).join().expect("no panic")
        });
        assert_eq!(running.await.expect("no panic").await.expect("no panic"), Some(7));
    }

    #[tokio::test]
    async fn what_goes_with_the_client_ends() {
        let tasks = Tasks::new(Handle::current());
        let running = tasks.spawn_finishing("endless", std::future::pending::<()>());
        drop(tasks);
        assert_eq!(running.await.expect("no panic"), None);
    }
}
