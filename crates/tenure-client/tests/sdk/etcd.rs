//! What the client does where the cluster is no Tenure.

use std::time::Duration;

use tenure_client::{Client, ConnectOptions, Error, Fence, LeaseId, Refusal, Revision, ServerKind};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::compare::TargetUnion;
use tenure_proto::etcdserverpb::response_op::Response;

use crate::fake::Fake;
use crate::support::run;

/// A server without any of Tenure's own services.
async fn fake() -> (Fake, Client) {
    let fake = Fake::start().await;
    let options = ConnectOptions::default().namespace("app/").timeout(Duration::from_secs(50));
    let client = Client::connect([fake.address.to_string()], options).await.expect("a client");
    (fake, client)
}

#[test]
fn a_write_under_a_fence_becomes_a_transaction() {
    run(async {
        let (fake, client) = fake().await;
        assert_eq!(client.kind().await.expect("it says so"), ServerKind::Etcd);
        let response = Some(Response::ResponsePut(pb::PutResponse::default()));
        let done = pb::TxnResponse { succeeded: true, responses: vec![pb::ResponseOp { response }], header: None };
        fake.script.txns.lock().extend([Ok(done), Ok(pb::TxnResponse::default())]);
        let fence = Fence { key: "l/1a".into(), token: Revision(5), lease: LeaseId(0x1a) };
        client.put("k", "v").under(&fence).await.expect("it is held");
        let refused = client.delete("k").under(&fence).await.expect_err("it is not held any more");
        assert_eq!(refused.refusal(), Some(Refusal::NotHeld));

        let committed = fake.script.committed.lock();
        assert_eq!(committed.len(), 2, "nothing was written without the condition");
        for txn in committed.iter() {
            let compares: Vec<_> =
                txn.compare.iter().map(|compare| (&compare.key[..], compare.target_union.clone())).collect();
            assert_eq!(
                compares,
                [
                    (&b"app/l/1a"[..], Some(TargetUnion::CreateRevision(5))),
                    (&b"app/l/1a"[..], Some(TargetUnion::Lease(0x1a)))
                ]
            );
            assert_eq!((txn.success.len(), txn.failure.len()), (1, 0));
        }
    });
}

#[test]
fn what_only_tenure_can_is_refused_as_such() {
    run(async {
        let (_fake, client) = fake().await;
        let refused = client.lease_end(LeaseId(1)).await.expect_err("an etcd does not know");
        assert!(matches!(refused, Error::NeedsTenure { .. }), "{refused:?}");
        assert_eq!(refused.to_string(), "asking how a lease ended needs a cluster of Tenure");
    });
}
