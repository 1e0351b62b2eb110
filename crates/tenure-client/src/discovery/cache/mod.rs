//! A cache of a registry: all instances in memory, kept up to date by a watch, and honest about how old it may be.
//!
//! The pure part is the [`table`]; a task feeds it from the wire; what it serves is published as immutable snapshots with a stream
//! of events. Reading never waits for the cluster, nor for the task.

mod builder;
mod event;
mod hold;
mod listener;
mod published;
mod resolver;
mod snapshot;
mod subscription;
mod table;
mod task;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::transport::channel::Change as EndpointStep;

pub use builder::CacheBuilder;
pub use event::{Event, Protection, RemovedWhy, StaleWhy};
pub use listener::Listener;
pub use resolver::{EndpointChange, Endpoints, endpoint_of};
pub use snapshot::{Entry, Snapshot};
pub use subscription::Subscription;
pub(super) use table::{Change, Listing, Probe, Stored};

use super::instance::Instance;
use crate::{Client, Revision};
use published::Published;

/// Changes of endpoints that may wait for a channel. Its reader takes them as soon as it is used.
const CHANGES_MAX: usize = 1024;

/// A cache of a registry. Cloning gives another handle on the same one; when the last is dropped, it ends.
#[derive(Clone, Debug)]
pub struct Cache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Client,
    published: Arc<Published>,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<Option<()>>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Cache {
    /// What is served now: immutable, and cheap to take.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.0.published.snapshot()
    }

    /// The instance with this id, as [`Snapshot::get`].
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<Instance>> {
        self.snapshot().get(id).cloned()
    }

    /// The instances of a kind, by id.
    #[must_use]
    pub fn by_kind(&self, kind: &str) -> Vec<Arc<Instance>> {
        self.snapshot().by_kind(kind).cloned().collect()
    }

    /// All instances, by kind and id.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Instance>> {
        self.snapshot().all().cloned().collect()
    }

    /// The revision that is served.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.snapshot().revision()
    }

    /// How old what is served may be, at most: all that the store had acknowledged so long ago is in it, wherever the cache
    /// had its news from. It counts from when the last request was *sent* that proved it.
    ///
    /// While the cluster answers it is at most the probe interval ([`CacheBuilder::probe`]) and the time of one request. While it
    /// does not, it grows.
    #[must_use]
    pub fn staleness(&self) -> Duration {
        self.0.client.clock().now().saturating_duration_since(self.0.published.contact().verified)
    }

    /// Whether the watch is open and the cluster answered the last request.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.0.published.contact().is_connected
    }

    /// What changes from now on, and what is served right before that.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        Subscription::new(self.0.published.clone())
    }

    /// Has a listener called for what changes from now on, in a task of its own, until the cache ends.
    pub fn listen(&self, listener: impl Listener) {
        // The client owns the task, and the end of the cache ends it.
        drop(self.0.client.tasks().spawn("discovery listener", listener::serve(self.subscribe(), listener)));
    }

    /// The endpoints of a kind as they come and go, for tonic's balanced channels and the like.
    #[must_use]
    pub fn endpoints(&self, kind: &str) -> Endpoints {
        Endpoints::new(self.subscribe(), kind)
    }

    /// A channel that spreads requests over the instances of a kind, and follows them as they come and go. While there are
    /// none, requests on it wait. Once the cache ends it keeps the endpoints that it has.
    ///
    /// Endpoints are connected to as tonic does by default; for TLS or timeouts of their own, feed a
    /// [`Channel::balance_channel`] from [`Cache::endpoints`].
    #[must_use]
    pub fn channel(&self, kind: &str) -> Channel {
        let _runtime = self.0.client.tasks().runtime().enter();
        let (channel, changes) = Channel::balance_channel::<String>(CHANGES_MAX);
        let mut endpoints = self.endpoints(kind);
        let follow = async move {
            while let Some(change) = endpoints.next().await {
                let change: EndpointStep<_, _> = change;
                if changes.send(change).await.is_err() {
                    return;
                }
            }
            // A channel whose source ends would lose its endpoints.
            changes.closed().await;
        };
        drop(self.0.client.tasks().spawn("discovery channel", follow));
        channel
    }

    /// Ends the cache for all of its handles, and waits for its task. Subscriptions end; what was served last stays readable.
    /// Closing again does no harm.
    pub async fn close(&self) {
        self.0.stop.cancel();
        let task = self.0.task.lock().take();
        if let Some(task) = task {
            // It ends early with the client, which is as good.
            let _ended_with_client = task.await.is_err();
        }
        self.0.published.close();
    }
}
