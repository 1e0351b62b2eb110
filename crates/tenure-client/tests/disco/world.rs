//! What the tests of discovery share: registrations that are made quickly, and questions to caches and to the store.

use std::time::Duration;

use serde_json::Value;
use tenure_client::discovery::{Cache, Instance, RegisterOptions, Registration, RegistrationState, Subscription};
use tenure_client::discovery::{Event, RemovedWhy};
use tenure_client::{Client, ConnectOptions, KeyRange, KeyValue};

use crate::support::members::Cluster;
use crate::support::proxy::Proxy;
use crate::support::{eventually, within};

/// A registration that notices things soon.
pub(crate) fn quick() -> RegisterOptions {
    RegisterOptions {
        ttl: Duration::from_secs(2),
        backoff: [Duration::from_millis(20), Duration::from_millis(200)],
        ..RegisterOptions::default()
    }
}

/// Options of a client that is not patient.
pub(crate) fn hasty() -> ConnectOptions {
    ConnectOptions::default()
        .timeout(Duration::from_millis(500))
        .try_timeout(Duration::from_millis(250))
        .backoff(Duration::from_millis(20), Duration::from_millis(100))
}

/// A client behind a proxy before the first member.
pub(crate) async fn behind(cluster: &Cluster) -> (Client, Proxy) {
    let proxy = Proxy::before(cluster.members[0].clients).await;
    let client = within("a client", Client::connect([proxy.endpoint()], hasty())).await.expect("a client");
    (client, proxy)
}

pub(crate) async fn register(client: &Client, id: &str, addr: &str) -> Registration {
    register_with(client, id, addr, quick()).await
}

pub(crate) async fn register_with(client: &Client, id: &str, addr: &str, options: RegisterOptions) -> Registration {
    let rooms = client.registry("prod").kind("room");
    let registering = Box::pin(rooms.register(Instance::new(id).addr(addr), options));
    within("a registration", registering).await.expect("a registration")
}

/// The key of a registration, if it is there.
pub(crate) async fn stored(client: &Client, registration: &Registration) -> Option<KeyValue> {
    client.get(registration.key().to_owned()).one().await.expect("a read")
}

/// What the value of a key says of a name.
pub(crate) fn said(kv: &KeyValue, name: &str) -> Value {
    let value: Value = serde_json::from_slice(&kv.value).expect("JSON");
    value[name].clone()
}

/// Waits until a registration stands as wanted.
pub(crate) async fn until(
    registration: &Registration,
    what: &str,
    is: impl Fn(&RegistrationState) -> bool,
) -> RegistrationState {
    let mut state = registration.state();
    within(what, state.wait_for(|state| is(state))).await.expect("a state").clone()
}

/// Waits for an event.
pub(crate) async fn hear<T>(events: &mut Subscription, what: &str, is: impl Fn(&Event) -> Option<T>) -> T {
    within(what, async {
        loop {
            let event = events.next().await.expect("an event");
            if let Some(heard) = is(&event) {
                return heard;
            }
        }
    })
    .await
}

/// How an instance was removed, by the event.
pub(crate) fn removal(event: &Event, id: &str) -> Option<RemovedWhy> {
    match event {
        Event::Removed { instance, why } if instance.id() == id => Some(*why),
        _ => None,
    }
}

/// Waits until a cache serves an instance at this address; none: until it does not serve it.
pub(crate) async fn serves(cache: &Cache, id: &str, addr: Option<&str>) {
    eventually(&format!("{id} at {addr:?}"), async || {
        let served = cache.get(id);
        (served.as_ref().map(|instance| instance.addr_text()) == addr.map(Some)).then_some(())
    })
    .await;
}

/// What the registry `prod` is in the store: kind and id encoded, and value; those that are leaving are left out.
pub(crate) async fn listed(client: &Client) -> Vec<(String, Value)> {
    let got = client.get(KeyRange::prefix("discovery/prod/")).await.expect("a read");
    let all = got.kvs.iter().map(|kv| {
        let value: Value = serde_json::from_slice(&kv.value).expect("JSON");
        (String::from_utf8_lossy(&kv.key).into_owned(), value)
    });
    all.filter(|(_, value)| value.get("leaving").is_none()).collect()
}

/// What a cache serves, in the form of `listed`.
pub(crate) fn served(cache: &Cache) -> Vec<(String, Value)> {
    let name = |instance: &Instance| {
        tenure_client::discovery::instance_key("prod", instance.kind(), instance.id()).expect("a key")
    };
    let describe = |instance: &Instance| {
        let meta: serde_json::Map<_, _> = instance.all_meta().clone().into_iter().collect();
        serde_json::json!({ "addr": instance.addr_text(), "meta": meta })
    };
    let mut served: Vec<_> = cache.all().iter().map(|instance| (name(instance), describe(instance))).collect();
    served.sort_by(|one, other| one.0.cmp(&other.0));
    served
}

/// What a value says of an instance, in the form of `served`.
pub(crate) fn described(value: &Value) -> Value {
    serde_json::json!({ "addr": value["addr"], "meta": value.get("meta").cloned().unwrap_or_else(|| serde_json::json!({})) })
}

/// Waits until a cache equals the store.
pub(crate) async fn agrees(cache: &Cache, client: &Client) {
    eventually("a cache that equals the store", async || {
        let store: Vec<_> = listed(client).await.into_iter().map(|(key, value)| (key, described(&value))).collect();
        (served(cache) == store).then_some(())
    })
    .await;
}
