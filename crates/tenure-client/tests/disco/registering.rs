//! Registrations: what stands in the store, and what becomes of it when leases, keys, connections and processes are lost.

use std::time::Duration;

use tenure_client::discovery::{
    DiscoveryError, Event, Instance, RegisterOptions, RegistrationFailure, RegistrationState, RemovedWhy,
};
use tenure_client::{KeyRange, LeaseId};
use tenure_proto::tenure::v1::LeaseListRequest;
use tenure_proto::tenure::v1::leases_client::LeasesClient;
use tokio::time::Instant;
use tonic::transport::Endpoint;

use crate::support::members::Cluster;
use crate::support::proxy::Mode;
use crate::support::{eventually, run, within};
use crate::world::{behind, hear, quick, register, register_with, removal, said, serves, stored, until};

fn lease_of(state: &RegistrationState) -> Option<LeaseId> {
    match state {
        RegistrationState::Registered { lease, .. } => Some(*lease),
        _ => None,
    }
}

async fn leases(cluster: &Cluster) -> usize {
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.members[0].clients)).expect("a URL");
    let mut leases = LeasesClient::new(endpoint.connect().await.expect("a connection"));
    leases.list(LeaseListRequest::default()).await.expect("a list").into_inner().leases.len()
}

#[test]
fn an_instance_is_a_key_on_a_lease_that_goes_when_the_process_does() {
    run(async {
        let cluster = Cluster::one().await;
        let outside = cluster.client().await;
        let (client, proxy) = behind(&cluster).await;
        let registration = register(&client, "eu/7", "a:1").await;
        assert_eq!(registration.key(), "discovery/prod/room/eu%2F7");
        let kv = stored(&outside, &registration).await.expect("a key");
        assert_eq!((said(&kv, "v"), said(&kv, "id"), said(&kv, "addr")), (1.into(), "eu/7".into(), "a:1".into()));
        assert_eq!(Some(kv.lease), lease_of(&registration.state().borrow()));
        // As if the process had died: nothing of it reaches the cluster any more.
        proxy.set(Mode::Stall);
        eventually("the key to go", async || stored(&outside, &registration).await.is_none().then_some(())).await;
        // It had not: it comes back by itself, on another lease.
        proxy.set(Mode::Pass);
        let again = eventually("the key to come back", async || stored(&outside, &registration).await).await;
        assert_ne!(again.lease, kv.lease);
        until(&registration, "registered", RegistrationState::is_registered).await;
    });
}

#[test]
fn deregistering_is_told_at_once_and_may_be_repeated() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let drain = Duration::from_millis(300);
        let registration = register_with(&client, "7", "a:1", RegisterOptions { drain, ..quick() }).await;
        let cache = client.registry("prod").cache().start().await.expect("a cache");
        let mut events = cache.subscribe();
        let began = Instant::now();
        let leaving = registration.deregister(Duration::from_secs(10));
        let heard = hear(&mut events, "the removal", |event| removal(event, "7").map(|why| (why, Instant::now())));
        let (left, (why, heard)) = tokio::join!(leaving, heard);
        left.expect("deregistered");
        assert_eq!(why, RemovedWhy::Deregistered);
        assert!(began.elapsed() >= drain && heard.duration_since(began) < began.elapsed());
        assert!(matches!(*registration.state().borrow(), RegistrationState::Deregistered));
        assert_eq!(stored(&client, &registration).await, None);
        within("the second call", registration.deregister(Duration::from_secs(5))).await.expect("deregistered");
        assert!(matches!(registration.update(Instance::new("7")).await, Err(DiscoveryError::Ended)));
        // The client is as it was.
        register(&client, "8", "a:1").await;
    });
}

#[test]
fn a_registration_that_is_dropped_goes_at_once() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let options = RegisterOptions { ttl: Duration::from_secs(600), ..quick() };
        let registration = register_with(&client, "7", "a:1", options).await;
        let key = registration.key().to_owned();
        drop(registration.clone());
        assert!(client.get(key.clone()).one().await.expect("a read").is_some(), "another handle is there");
        drop(registration);
        eventually("the key to go", async || {
            client.get(key.clone()).one().await.expect("a read").is_none().then_some(())
        })
        .await;
        eventually("its lease to go", async || (leases(&cluster).await == 0).then_some(())).await;
    });
}

#[test]
fn an_update_reaches_every_cache() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let registration = register(&client, "7", "a:1").await;
        let caches = [client.registry("prod").cache().start().await.expect("a cache"), {
            let other = cluster.client().await;
            other.registry("prod").cache().start().await.expect("a cache")
        }];
        let mut events = caches.each_ref().map(|cache| cache.subscribe());
        let revision = registration.update(Instance::new("7").addr("b:2").meta("seats", 3)).await.expect("an update");
        for (cache, events) in caches.iter().zip(&mut events) {
            let (old, new) = hear(events, "the update", |event| match event {
                Event::Updated { old, new } => Some((old.clone(), new.clone())),
                _ => None,
            })
            .await;
            assert_eq!((old.addr_text(), new.addr_text()), (Some("a:1"), Some("b:2")));
            assert_eq!(new.get_meta("seats"), Some(&3.into()));
            assert_eq!(cache.snapshot().entry("room", "7").map(|entry| entry.mod_revision()), Some(revision));
        }
        let other_id = registration.update(Instance::new("8")).await;
        assert!(matches!(other_id, Err(DiscoveryError::BadName { what: "id", .. })));
    });
}

#[test]
fn an_instance_whose_lease_is_revoked_registers_again() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        // With the renewals of such a TTL alone it would be noticed much later.
        let options = RegisterOptions { ttl: Duration::from_secs(600), ..quick() };
        let registration = register_with(&client, "7", "a:1", options).await;
        let lease = lease_of(&registration.state().borrow()).expect("a lease");
        revoke(&cluster, lease).await;
        let state = until(&registration, "another lease", |state| lease_of(state).is_some_and(|other| other != lease));
        let lease = lease_of(&state.await);
        assert_eq!(stored(&client, &registration).await.map(|kv| kv.lease), lease);
    });
}

async fn revoke(cluster: &Cluster, lease: LeaseId) {
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.members[0].clients)).expect("a URL");
    let mut leases = LeasesClient::new(endpoint.connect().await.expect("a connection"));
    let request = tenure_proto::tenure::v1::LeaseRevokeRequest { id: lease.0 };
    leases.revoke(request).await.expect("revoked");
}

#[test]
fn a_key_that_is_deleted_by_hand_is_written_again() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let registration = register(&client, "7", "a:1").await;
        let before = stored(&client, &registration).await.expect("a key");
        client.delete(registration.key().to_owned()).await.expect("a delete");
        let again = eventually("the key", async || stored(&client, &registration).await).await;
        assert!(again.create_revision > before.create_revision);
        // And so is one that is overwritten with something else, or moved to another lease.
        client.put(registration.key().to_owned(), "nonsense").await.expect("a put");
        let lease = again.lease;
        eventually("the key", async || {
            let kv = stored(&client, &registration).await?;
            (kv.lease == lease && kv.value == again.value).then_some(())
        })
        .await;
    });
}

#[test]
fn an_old_process_cannot_clobber_its_successor() {
    run(async {
        let cluster = Cluster::one().await;
        let outside = cluster.client().await;
        let (client, proxy) = behind(&cluster).await;
        let old = register(&client, "7", "old:1").await;
        proxy.set(Mode::Stall);
        eventually("the old key to go", async || stored(&outside, &old).await.is_none().then_some(())).await;
        let new = register(&outside, "7", "new:1").await;
        // The old one wakes up while the key of the new one happens to be gone, too.
        let lease = lease_of(&new.state().borrow()).expect("a lease");
        revoke(&cluster, lease).await;
        proxy.set(Mode::Pass);
        let state = until(&old, "superseded", RegistrationState::is_final).await;
        assert!(matches!(state, RegistrationState::Failed { why: RegistrationFailure::Superseded }), "{state:?}");
        let kv = eventually("the new key", async || stored(&outside, &new).await).await;
        assert_eq!(said(&kv, "addr"), "new:1");
        assert!(matches!(old.update(Instance::new("7")).await, Err(DiscoveryError::Superseded { .. })));
        assert!(until(&new, "registered", RegistrationState::is_registered).await.is_registered());
    });
}

#[test]
fn an_instance_that_is_there_is_replaced_unless_that_is_not_wanted() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let first = register(&client, "7", "a:1").await;
        let polite = RegisterOptions { replace: false, ..quick() };
        let registry = client.registry("prod");
        let refused = registry.kind("room").register(Instance::new("7").addr("b:1"), polite.clone()).await;
        assert!(matches!(refused, Err(DiscoveryError::Taken { .. })), "{refused:?}");
        assert!(first.state().borrow().is_registered());
        let second = register(&client, "7", "c:1").await;
        until(&first, "superseded", RegistrationState::is_final).await;
        assert_eq!(stored(&client, &second).await.map(|kv| said(&kv, "addr")), Some("c:1".into()));
        // What was written by hand is in nobody's way.
        client.put("discovery/prod/room/8", r#"{"v":1,"addr":"hand:1"}"#).await.expect("a put");
        let cache = registry.cache().start().await.expect("a cache");
        serves(&cache, "8", Some("hand:1")).await;
        register(&client, "8", "d:1").await;
        let refused = registry.kind("").register(Instance::new("7"), polite).await;
        assert!(matches!(refused, Err(DiscoveryError::BadName { what: "kind", .. })));
    });
}

#[test]
fn a_registration_gives_up_after_its_retries_and_says_so() {
    run(async {
        let cluster = Cluster::one().await;
        let (client, proxy) = behind(&cluster).await;
        let options = RegisterOptions { retries: Some(2), ..quick() };
        let registration = register_with(&client, "7", "a:1", options).await;
        let mut states = registration.state();
        proxy.set(Mode::Refuse);
        proxy.cut();
        let again = states.wait_for(|state| matches!(state, RegistrationState::Reregistering { .. }));
        within("it is lost", again).await.expect("a state");
        let state = until(&registration, "given up", RegistrationState::is_final).await;
        assert!(matches!(state, RegistrationState::Failed { why: RegistrationFailure::GaveUp { .. } }), "{state:?}");
        assert!(matches!(registration.update(Instance::new("7")).await, Err(DiscoveryError::Ended)));
        registration.deregister(Duration::from_secs(1)).await.expect("nothing to do");
    });
}

#[test]
fn deregistering_with_the_cluster_away_ends_in_time() {
    run(async {
        let cluster = Cluster::one().await;
        let (client, proxy) = behind(&cluster).await;
        let registration = register(&client, "7", "a:1").await;
        proxy.set(Mode::Stall);
        let began = Instant::now();
        let left = within("the end", registration.deregister(Duration::from_millis(600))).await;
        assert!(left.is_err(), "the cluster cannot have been told");
        assert!(began.elapsed() < Duration::from_secs(5));
        assert!(matches!(*registration.state().borrow(), RegistrationState::Deregistered));
        registration.deregister(Duration::from_millis(600)).await.expect("it has ended already");
        // The key goes with its lease.
        let outside = cluster.client().await;
        eventually("the key to go", async || stored(&outside, &registration).await.is_none().then_some(())).await;
    });
}

#[test]
fn an_attempt_that_is_given_up_leaves_nothing_behind() {
    run(async {
        let cluster = Cluster::one().await;
        let outside = cluster.client().await;
        let (client, proxy) = behind(&cluster).await;
        // A wait before the first try, in which the network goes.
        let backoff = [Duration::from_millis(600), Duration::from_secs(1)];
        let registration = register_with(&client, "7", "a:1", RegisterOptions { backoff, ..quick() }).await;
        let lease = lease_of(&registration.state().borrow()).expect("a lease");
        revoke(&cluster, lease).await;
        until(&registration, "lost", |state| matches!(state, RegistrationState::Reregistering { .. })).await;
        // From now on what it asks for is done, and it never hears of it.
        proxy.set(Mode::StallReplies);
        eventually("a second lease", async || (leases(&cluster).await > 0).then_some(())).await;
        let left = within("the end", registration.deregister(Duration::from_secs(1))).await;
        assert!(matches!(*registration.state().borrow(), RegistrationState::Deregistered), "{left:?}");
        proxy.set(Mode::Pass);
        // Each write is on a lease: once none is there, nothing can come any more.
        eventually("all leases to end", async || (leases(&cluster).await == 0).then_some(())).await;
        let left = outside.get(KeyRange::prefix("discovery/")).count_only().await.expect("a read");
        assert_eq!(left.count, 0);
    });
}
