//! Service discovery: instances that register themselves, and caches that know which are there.
//!
//! A *registry* is a name under which instances of any number of *kinds* stand. An instance has a key of its own, on a lease that its
//! process renews, so it goes when the process does. `docs/DISCOVERY.md` has the format of keys and values, for other
//! languages; this library needs nothing of the server that etcd does not have.
//!
//! ```no_run
//! use std::time::Duration;
//! use tenure_client::discovery::{Instance, RegisterOptions};
//! use tenure_client::{Client, ConnectOptions};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(["127.0.0.1:2379"], ConnectOptions::default()).await?;
//! let registry = client.registry("prod");
//!
//! let room = Instance::new("room-7").addr("10.0.0.7:8080").meta("mode", "ranked");
//! let registration = registry.kind("room").register(room, RegisterOptions::default()).await?;
//!
//! let cache = registry.cache().start().await?;
//! for room in cache.by_kind("room") {
//!     println!("{} at {:?}, known {:?} ago at most", room.id(), room.addr_text(), cache.staleness());
//! }
//! registration.deregister(Duration::from_secs(5)).await?;
//! # Ok(())
//! # }
//! ```

mod cache;
mod error;
mod feed;
mod filter;
mod instance;
mod keep;
mod key;
mod record;
mod registration;
mod stamp;
mod store;

pub use cache::{
    Cache, CacheBuilder, EndpointChange, Endpoints, Entry, Event, Listener, Protection, RemovedWhy, Snapshot, StaleWhy,
    Subscription, endpoint_of,
};
pub use error::DiscoveryError;
pub use filter::Filter;
pub use instance::Instance;
pub use key::{NAME_BYTES_MAX, ROOT, instance_key, kind_prefix, registry_prefix};
pub use record::RECORD_VERSION;
pub use registration::{RegisterOptions, Registration, RegistrationFailure, RegistrationState};

use std::future::Future;

use crate::Client;
use store::InstanceKey;

impl Client {
    /// A registry of instances. Nothing is sent, and nothing needs to be there.
    pub fn registry(&self, name: impl Into<String>) -> Registry {
        Registry { client: self.clone(), name: name.into() }
    }
}

/// A registry: instances of all kinds under one name.
#[derive(Clone, Debug)]
pub struct Registry {
    client: Client,
    name: String,
}

impl Registry {
    /// The instances of one kind.
    pub fn kind(&self, kind: impl Into<String>) -> Kind {
        Kind { registry: self.clone(), kind: kind.into() }
    }

    /// The instances that are there now, read once, at one revision.
    ///
    /// # Errors
    ///
    /// Those of [`CacheBuilder::start`].
    pub async fn list(&self, kinds: Filter) -> Result<Snapshot, DiscoveryError> {
        self.cache().kinds(kinds).protection(None).list().await
    }

    /// A cache of the registry, to be set up and started.
    pub fn cache(&self) -> CacheBuilder {
        CacheBuilder::new(self.client.clone(), self.name.clone())
    }
}

/// The instances of one kind in a registry.
#[derive(Clone, Debug)]
pub struct Kind {
    registry: Registry,
    kind: String,
}

impl Kind {
    /// Registers an instance, and keeps it registered until the handle is dropped.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError::BadName`] or [`DiscoveryError::BadOption`] before anything is sent; [`DiscoveryError::Taken`] if the options say not to
    /// take another's place; what the client said if it could not be registered at once. From then on it is tried
    /// again by itself.
    ///
    /// # Cancellation
    ///
    /// A dropped call ends the lease in the background: what it may have written goes with it.
    pub fn register(
        &self,
        instance: Instance,
        options: RegisterOptions,
    ) -> impl Future<Output = Result<Registration, DiscoveryError>> + Send + use<> {
        let Kind { registry: Registry { client, name }, kind } = self.clone();
        async move {
            let key = instance_key(&name, &kind, instance.id())?;
            let key = InstanceKey { kind, id: instance.id().to_owned(), key };
            Registration::start(&client, key, instance, options).await
        }
    }
}
