//! The client for programs without async.
//!
//! There is no second set of requests: [`Blocking::wait`] waits for any of them, [`Blocking::each`] goes through what comes in
//! streams, [`Blocking::states`] through the states of what has such. Locks and leaderships have a guard of their own, [`Guarded`]. What the client does by itself, such as renewing sessions, goes on meanwhile on a thread of its own; so a lock is kept
//! while the program computes.
//!
//! ```no_run
//! use tenure_client::ConnectOptions;
//! use tenure_client::blocking::Blocking;
//!
//! # fn example() -> Result<(), tenure_client::Error> {
//! let tenure = Blocking::connect(["a:2379", "b:2379", "c:2379"], ConnectOptions::default())?;
//! tenure.wait(tenure.client().put("greeting", "hello"))?;
//! for page in tenure.each(tenure.client().get("").prefix().stream()) {
//!     println!("{} keys", page?.len());
//! }
//! tenure.close();
//! # Ok(())
//! # }
//! ```

mod guards;

pub use guards::Guarded;

use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch as state;

use crate::client::Client;
use crate::clock::Elapsed;
use crate::error::Error;
use crate::options::ConnectOptions;
use crate::watch::{Watch, WatchError, Watcher};

/// A client together with the runtime that it lives on. To clone it is cheap; the runtime ends with the last clone.
///
/// # Panics
///
/// What waits panics on a thread that drives a runtime already, as within an `async fn`: there one awaits.
#[derive(Clone, Debug)]
pub struct Blocking {
    client: Client,
    handle: Handle,
    /// Only kept: none if somebody else drives the client's runtime.
    _runtime: Option<Arc<Kept>>,
}

/// A runtime of one's own.
#[derive(Debug)]
struct Kept(Option<Runtime>);

impl Drop for Kept {
    fn drop(&mut self) {
        // An ordinary drop waits for the runtime's threads, and panics where one may not wait.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Blocking {
    /// Makes a client as [`Client::connect`] does, and a thread for it.
    ///
    /// # Errors
    ///
    /// As [`Client::connect`], and [`Error::Invalid`] if the machine gives no thread.
    pub fn connect(
        endpoints: impl IntoIterator<Item = impl Into<String>>,
        options: ConnectOptions,
    ) -> Result<Blocking, Error> {
        let built = Builder::new_multi_thread().worker_threads(1).thread_name("tenure-client").enable_all().build();
        let runtime = built.map_err(|error| Error::Invalid(format!("no thread for the client: {error}")))?;
        let client = runtime.block_on(Client::connect(endpoints, options))?;
        let handle = runtime.handle().clone();
        Ok(Blocking { client, handle, _runtime: Some(Arc::new(Kept(Some(runtime)))) })
    }

    /// For a client that lives on a runtime which is driven by other threads already.
    pub fn of(client: Client) -> Blocking {
        let handle = client.tasks().runtime().clone();
        Blocking { client, handle, _runtime: None }
    }

    /// The client, to make requests with.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Sends a request, or does anything else that is awaited, and waits for what comes of it.
    pub fn wait<F: IntoFuture>(&self, request: F) -> F::Output {
        self.handle.block_on(request.into_future())
    }

    /// As [`Blocking::wait`], for so long. What is not done by then is given up, as if its future had been dropped.
    ///
    /// # Errors
    ///
    /// [`Elapsed`] if it took longer.
    pub fn wait_for<F: IntoFuture>(&self, timeout: Duration, request: F) -> Result<F::Output, Elapsed> {
        let clock = self.client.clock().clone();
        let at = clock.now() + timeout;
        self.wait(async { clock.timeout(at, request.into_future()).await })
    }

    /// Goes through what comes in a stream, one by one. Each step waits until something comes.
    pub fn each<S: Stream>(&self, stream: S) -> Each<S> {
        Each { blocking: self.clone(), stream: Box::pin(stream) }
    }

    /// Opens a watch, and goes through what it tells; each step waits. After an error there is nothing more.
    ///
    /// # Errors
    ///
    /// As [`Watch::open`].
    pub fn watch(&self, watch: Watch) -> Result<Each<Watcher>, WatchError> {
        Ok(self.each(self.wait(watch.open())?))
    }

    /// Goes through the states of a session, a registration or whatever else tells its state: first the present one, then each that
    /// comes, except that of those that come faster than they are taken only the latest is told. Ends when there will be no other.
    pub fn states<T: Clone + Send + Sync>(&self, states: state::Receiver<T>) -> States<T> {
        States { blocking: self.clone(), states, is_first: true }
    }

    /// Closes the client, as [`Client::close`].
    pub fn close(&self) {
        self.wait(self.client.close());
    }
}

/// See [`Blocking::each`].
#[derive(Debug)]
pub struct Each<S> {
    blocking: Blocking,
    stream: Pin<Box<S>>,
}

impl<S: Stream> Each<S> {
    /// The next one, if one comes in that time; none if the stream has ended.
    ///
    /// # Errors
    ///
    /// [`Elapsed`] if none came.
    pub fn next_within(&mut self, timeout: Duration) -> Result<Option<S::Item>, Elapsed> {
        self.blocking.wait_for(timeout, self.stream.next())
    }
}

impl<S: Stream> Iterator for Each<S> {
    type Item = S::Item;

    fn next(&mut self) -> Option<S::Item> {
        self.blocking.wait(self.stream.next())
    }
}

/// See [`Blocking::states`].
#[derive(Debug)]
pub struct States<T> {
    blocking: Blocking,
    states: state::Receiver<T>,
    is_first: bool,
}

impl<T: Clone + Send + Sync> Iterator for States<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        if !std::mem::take(&mut self.is_first) {
            self.blocking.wait(self.states.changed()).ok()?;
        }
        Some(self.states.borrow_and_update().clone())
    }
}
