//! How a cache is made.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::super::error::DiscoveryError;
use super::super::filter::Filter;
use super::super::key::{kind_prefix, registry_prefix};
use super::super::registration::Registration;
use super::super::store::Store;
use super::event::Protection;
use super::published::{Contact, Published};
use super::snapshot::Snapshot;
use super::table::{Settings, Table};
use super::task::{CacheTask, Pace};
use super::{Cache, Inner};
use crate::{Client, Instant};

/// A cache that is not started yet.
#[derive(Clone, Debug)]
#[must_use = "a cache does nothing until it is started"]
pub struct CacheBuilder {
    client: Client,
    registry: String,
    filter: Filter,
    hidden: Option<(String, String)>,
    protection: Option<Protection>,
    resync: Duration,
    probe: Duration,
    stale_after: Option<Duration>,
    steps_max: usize,
}

impl CacheBuilder {
    pub(in super::super) fn new(client: Client, registry: String) -> Self {
        Self {
            client,
            registry,
            filter: Filter::All,
            hidden: None,
            protection: Some(Protection::default()),
            resync: Duration::from_secs(60),
            probe: Duration::from_secs(5),
            stale_after: None,
            steps_max: 1024,
        }
    }

    /// Which kinds it keeps; all by default.
    pub fn kinds(mut self, filter: Filter) -> Self {
        self.filter = filter;
        self
    }

    /// Does not serve or tell the program's own instance.
    pub fn hide(mut self, own: &Registration) -> Self {
        self.hidden = Some((own.kind().to_owned(), own.id().to_owned()));
        self
    }

    /// When to hold what is gone; `None` for never.
    pub fn protection(mut self, protection: impl Into<Option<Protection>>) -> Self {
        self.protection = protection.into();
        self
    }

    /// How often it compares itself with a whole listing of the store: every 60 s by default, with jitter. The watch and the probes do without it;
    /// it is a second line of defence.
    pub fn resync(mut self, interval: Duration) -> Self {
        self.resync = interval;
        self
    }

    /// How often it asks whether it is up to date, by a request that reads one key: every 5 s by default. It bounds
    /// [`Cache::staleness`].
    pub fn probe(mut self, interval: Duration) -> Self {
        self.probe = interval;
        self
    }

    /// The staleness from which listeners are told that the cache is stale: three probe intervals by default.
    pub fn stale_after(mut self, staleness: Duration) -> Self {
        self.stale_after = Some(staleness);
        self
    }

    /// By how many steps a listener may be behind before it loses some: 1024 by default.
    pub fn steps_max(mut self, steps: usize) -> Self {
        self.steps_max = steps;
        self
    }

    /// Reads the registry, and follows it from then on. The cache is ready when this returns.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError::BadName`] for the registry or a single kind; [`DiscoveryError::BadOption`] for an interval of nothing; what the client said
    /// if the registry could not be read.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves nothing behind.
    pub async fn start(self) -> Result<Cache, DiscoveryError> {
        if self.resync.is_zero() || self.probe.is_zero() || self.steps_max == 0 {
            return Err(DiscoveryError::BadOption("the intervals of a cache and its steps are more than nothing"));
        }
        let (client, steps_max) = (self.client.clone(), self.steps_max);
        let pace = Pace { resync: self.resync, probe: self.probe };
        let (store, range, table) = self.read().await?;
        let verified = table.verified().unwrap_or(Instant::ORIGIN);
        let contact = Contact { verified, is_connected: true };
        let published = Arc::new(Published::new(table.snapshot(), contact, steps_max));
        let stop = CancellationToken::new();
        let task = CacheTask::new(store, range, table, published.clone(), pace);
        let task = client.tasks().spawn("discovery cache", task.run(stop.clone()));
        Ok(Cache(Arc::new(Inner { client, published, stop, task: Mutex::new(Some(task)) })))
    }

    /// Reads the registry once.
    pub(in super::super) async fn list(self) -> Result<Snapshot, DiscoveryError> {
        let (_, _, table) = self.read().await?;
        Ok(table.snapshot())
    }

    async fn read(self) -> Result<(Store, String, Table), DiscoveryError> {
        let prefix = registry_prefix(&self.registry)?;
        let range = match self.filter.only() {
            Some(kind) => kind_prefix(&self.registry, kind)?,
            None => prefix.clone(),
        };
        let mut table = Table::new(Settings {
            prefix,
            filter: self.filter,
            hidden: self.hidden,
            protection: self.protection,
            stale_after: self.stale_after.unwrap_or(self.probe * 3),
        });
        let store = Store(self.client);
        let clock = store.0.clock().clone();
        table.list_begins(clock.now());
        let listing = store.list(&range).await?;
        // Nobody listens yet.
        drop(table.listed(clock.now(), listing));
        Ok((store, range, table))
    }
}
