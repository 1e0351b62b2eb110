//! Instances as endpoints of gRPC: a stream of changes, and a channel that follows it.

use std::time::Duration;

use futures::StreamExt as _;
use tenure_client::discovery::{EndpointChange, Instance};
use tenure_proto::etcdserverpb::StatusRequest;
use tenure_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tonic::transport::channel::Change;

use crate::support::members::Cluster;
use crate::support::{eventually, run, within};
use crate::world::{quick, register};

fn words(change: EndpointChange) -> String {
    match change {
        Change::Insert(id, endpoint) => format!("+{id} {}", endpoint.uri()),
        Change::Remove(id) => format!("-{id}"),
    }
}

#[test]
fn endpoints_come_change_and_go_with_their_instances() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let first = register(&client, "1", "10.0.0.1:80").await;
        let cache = client.registry("prod").cache().start().await.expect("a cache");
        let mut changes = Box::pin(cache.endpoints("room").into_stream());
        let mut next = async || words(within("a change", changes.next()).await.expect("a change"));
        assert_eq!(next().await, "+1 http://10.0.0.1:80/");
        let bot = client.registry("prod").kind("bot").register(Instance::new("b").addr("x:1"), quick()).await;
        let second = register(&client, "2", "https://10.0.0.2:443").await;
        assert_eq!(next().await, "+2 https://10.0.0.2:443/");
        first.update(Instance::new("1").addr("10.0.0.1:81").meta("weight", 3)).await.expect("an update");
        assert_eq!(next().await, "+1 http://10.0.0.1:81/");
        second.deregister(Duration::from_secs(5)).await.expect("deregistered");
        assert_eq!(next().await, "-2");
        drop((bot, cache));
        assert!(within("the end", changes.next()).await.is_none());
    });
}

#[test]
fn a_channel_follows_the_instances() {
    run(async {
        // What is found is members of two clusters of one.
        let (registry, other) = (Cluster::one().await, Cluster::one().await);
        let client = registry.client().await;
        let cache = client.registry("prod").cache().start().await.expect("a cache");
        let mut members = MaintenanceClient::new(cache.channel("room"));
        let mut ask = async || {
            let status = members.status(StatusRequest::default()).await.ok()?.into_inner();
            status.header.map(|header| header.cluster_id)
        };
        let first = register(&client, "1", &registry.members[0].endpoint()).await;
        let here = eventually("an answer", &mut ask).await;
        let second = register(&client, "2", &other.members[0].endpoint()).await;
        let there = eventually("an answer of the other", async || ask().await.filter(|id| *id != here)).await;
        first.deregister(Duration::from_secs(5)).await.expect("deregistered");
        eventually("the first to be asked no more", async || {
            for _ in 0..20 {
                if ask().await != Some(there) {
                    return None;
                }
            }
            Some(())
        })
        .await;
        drop(second);
    });
}
