//! The instances of a kind as endpoints of a gRPC channel, in the manner of a name resolver.
//!
//! It yields what tonic's balanced channel takes: an endpoint comes under the id of its instance, or goes. An instance without an address, or
//! with one that is none, is as one that is not there. An address that changes is told as one insertion: the channel goes on
//! with the old connection until the new one is made.

use std::collections::{BTreeMap, VecDeque};

use futures::Stream;
use tonic::transport::Endpoint;
use tonic::transport::channel::Change;

use super::super::error::DiscoveryError;
use super::super::instance::Instance;
use super::event::Event;
use super::subscription::Subscription;

/// A change of the endpoints of a kind; the key is the instance's id.
pub type EndpointChange = Change<String, Endpoint>;

/// Makes an endpoint of an address: `host:port`, which stands for `http://host:port`, or a URI.
///
/// # Errors
///
/// [`DiscoveryError::BadAddress`] if it is neither.
///
/// ```
/// let endpoint = tenure_client::discovery::endpoint_of("10.0.0.7:8080")?;
/// assert_eq!(endpoint.uri().to_string(), "http://10.0.0.7:8080/");
/// # Ok::<(), tenure_client::discovery::DiscoveryError>(())
/// ```
pub fn endpoint_of(addr: &str) -> Result<Endpoint, DiscoveryError> {
    let uri = if addr.contains("://") { addr.to_owned() } else { format!("http://{addr}") };
    let bad = |why: String| DiscoveryError::BadAddress { addr: addr.chars().take(256).collect(), why };
    let endpoint = Endpoint::from_shared(uri).map_err(|error| bad(error.to_string()))?;
    match endpoint.uri().host() {
        Some(host) if !host.is_empty() => Ok(endpoint),
        Some(_) | None => Err(bad("it has no host".to_owned())),
    }
}

/// The endpoints of a kind, as they come and go.
#[derive(Debug)]
pub struct Endpoints {
    subscription: Subscription,
    kind: String,
    /// The address of each endpoint that was told.
    told: BTreeMap<String, String>,
    queue: VecDeque<EndpointChange>,
}

impl Endpoints {
    pub(super) fn new(subscription: Subscription, kind: &str) -> Self {
        let mut new = Self { subscription, kind: kind.to_owned(), told: BTreeMap::new(), queue: VecDeque::new() };
        let snapshot = new.subscription.snapshot().clone();
        for instance in snapshot.by_kind(kind) {
            new.is_there(instance);
        }
        new
    }

    /// The next change: first an insertion for each endpoint that is there, then what changes. None when the cache is closed.
    ///
    /// Cancel-safe: what a dropped call did not give comes from the next one.
    pub async fn next(&mut self) -> Option<EndpointChange> {
        loop {
            if let Some(change) = self.queue.pop_front() {
                return Some(change);
            }
            match self.subscription.next().await? {
                Event::Added(instance) | Event::Updated { new: instance, .. } => self.is_there(&instance),
                Event::Removed { instance, .. } => self.is_gone(&instance),
                Event::Skipped { .. }
                | Event::Resynced { .. }
                | Event::Stale(_)
                | Event::Fresh
                | Event::Lagged { .. } => {}
            }
        }
    }

    /// The changes as a stream.
    pub fn into_stream(self) -> impl Stream<Item = EndpointChange> + Send {
        futures::stream::unfold(self, async |mut endpoints| Some((endpoints.next().await?, endpoints)))
    }

    fn is_there(&mut self, instance: &Instance) {
        if instance.kind() != self.kind {
            return;
        }
        let usable = instance.addr_text().and_then(|addr| Some((addr, endpoint_of(addr).ok()?)));
        let Some((addr, endpoint)) = usable else { return self.is_gone(instance) };
        let before = self.told.insert(instance.id().to_owned(), addr.to_owned());
        if before.as_deref() != Some(addr) {
            self.queue.push_back(Change::Insert(instance.id().to_owned(), endpoint));
        }
    }

    fn is_gone(&mut self, instance: &Instance) {
        if instance.kind() == self.kind && self.told.remove(instance.id()).is_some() {
            self.queue.push_back(Change::Remove(instance.id().to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt as _;

    use super::super::event::RemovedWhy;
    use super::super::published::{Contact, Published};
    use super::super::snapshot::{Entry, Snapshot};
    use super::*;
    use crate::clock::Instant;

    const CONTACT: Contact = Contact { verified: Instant::ORIGIN, is_connected: true };

    fn room(id: &str, addr: &str) -> Arc<Instance> {
        Arc::new(Instance { kind: "room".to_owned(), ..Instance::new(id).addr(addr) })
    }

    fn told(endpoints: &mut Endpoints) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(Some(change)) = endpoints.next().now_or_never() {
            told.push(match change {
                Change::Insert(id, endpoint) => format!("+{id} {}", endpoint.uri()),
                Change::Remove(id) => format!("-{id}"),
            });
        }
        told
    }

    #[test]
    fn endpoints_follow_the_instances_that_have_an_address() {
        let mut snapshot = Snapshot::default();
        for instance in [room("1", "a:1"), room("2", "no address")] {
            snapshot.set(Entry { instance, create_revision: 2, mod_revision: 2, lease: 0, held: None });
        }
        let published = Arc::new(Published::new(snapshot, CONTACT, 16));
        let mut endpoints = Endpoints::new(Subscription::new(published.clone()), "room");
        assert_eq!(told(&mut endpoints), ["+1 http://a:1/"]);
        let bot = Arc::new(Instance { kind: "bot".to_owned(), ..Instance::new("1").addr("b:1") });
        published.publish(
            None,
            CONTACT,
            vec![
                Event::Added(bot.clone()),
                Event::Updated { old: room("2", "no address"), new: room("2", "https://b:2") },
                Event::Updated { old: room("1", "a:1"), new: Arc::new((*room("1", "a:1")).clone().meta("seats", 3)) },
                Event::Removed { instance: bot, why: RemovedWhy::Expired },
            ],
        );
        assert_eq!(told(&mut endpoints), ["+2 https://b:2/"]);
        published.publish(
            None,
            CONTACT,
            vec![
                Event::Updated { old: room("1", "a:1"), new: room("1", "") },
                Event::Removed { instance: room("2", "https://b:2"), why: RemovedWhy::Expired },
            ],
        );
        assert_eq!(told(&mut endpoints), ["-1", "-2"]);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for addr in ["", "a b", "http://", "://", "host:port:1"] {
            assert!(endpoint_of(addr).is_err(), "{addr:?}");
        }
        assert!(endpoint_of("[::1]:80").is_ok());
    }
}
