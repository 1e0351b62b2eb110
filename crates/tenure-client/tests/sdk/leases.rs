//! Leases as requests: granting, ending, asking.

use std::time::Duration;

use tenure_client::{Error, Holder, LeaseId, Refusal};

use crate::support::members::Cluster;
use crate::support::run;

#[test]
fn a_lease_is_granted_to_the_millisecond_and_known_with_its_keys() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let before = client.lease_state(LeaseId(4711), true).await.expect("an answer");
        assert_eq!(before, None);
        let holder = Holder { name: "billing".to_owned(), text: "on n7".to_owned() };
        let granted = client.grant(Duration::from_millis(60_250)).id(LeaseId(4711)).holder(holder.clone()).await;
        let granted = granted.expect("a lease");
        assert_eq!((granted.id, granted.ttl, granted.remaining), (LeaseId(4711), granted.ttl, granted.ttl));
        assert_eq!(granted.ttl, Duration::from_millis(60_250));
        client.put("a", "1").lease(granted.id).await.expect("a put");
        client.put("b", "1").lease(granted.id).await.expect("a put");
        let state = client.lease_state(granted.id, true).await.expect("an answer").expect("it is there");
        assert_eq!((state.keys.len(), state.holder, state.renewals), (2, Some(holder), Some(0)));
        assert!(state.remaining.expect("it is told") <= granted.ttl);

        let other = client.grant(Duration::from_secs(60)).await.expect("a lease");
        let listed: Vec<_> = client.leases().await.expect("a list").iter().map(|lease| lease.id).collect();
        assert!(listed.len() == 2 && listed.contains(&other.id) && listed.contains(&granted.id));

        assert!(client.revoke(granted.id).await.expect("it is revoked"));
        assert!(!client.revoke(granted.id).await.expect("it is gone"), "that is no error");
        assert_eq!(client.get("a").one().await.expect("a read"), None);
        let end = client.lease_end(granted.id).await.expect("an answer").expect("it is recorded");
        assert!(end.is_revoked && end.keys == 2);
    });
}

#[test]
fn a_lease_that_cannot_be_is_refused() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let short = client.grant(Duration::from_millis(999)).await.expect_err("it is too short");
        assert!(matches!(short, Error::Invalid(_)), "not sent, and not rounded: {short:?}");
        let long = client.grant(Duration::from_secs(9_000_000_001)).await.expect_err("it is too long");
        assert_eq!(long.refusal(), Some(Refusal::TtlTooLarge));
        client.grant(Duration::from_secs(60)).id(LeaseId(5)).await.expect("a lease");
        let twice = client.grant(Duration::from_secs(60)).id(LeaseId(5)).await.expect_err("there is one");
        assert_eq!(twice.refusal(), Some(Refusal::LeaseExists));
        let orphan = client.put("k", "v").lease(LeaseId(6)).await.expect_err("there is no such lease");
        assert_eq!(orphan.refusal(), Some(Refusal::LeaseNotFound));
    });
}
