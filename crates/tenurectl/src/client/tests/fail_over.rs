//! What is tried elsewhere, and what is not.

use std::time::Duration;

use tenure_proto::etcdserverpb as pb;
use tonic::Status;

use super::fake::Fake;
use super::{client, client_with};
use crate::client::{ClientError, Refusal};

fn no_leader() -> Status {
    Status::unavailable("etcdserver: no leader")
}

/// What leaves open whether it was done.
fn vague() -> [Status; 3] {
    [
        Status::unavailable("etcdserver: request timed out, possibly due to previous leader failure"),
        Status::unavailable("etcdserver: server stopped"),
        Status::cancelled("Timeout expired"),
    ]
}

#[tokio::test]
async fn a_write_that_met_no_leader_goes_to_the_next_endpoint() {
    let (first, second) = (Fake::refusing([no_leader()]), Fake::refusing([]));
    let client = client(&[&first, &second]);
    client.put(pb::PutRequest::default()).await.expect("written");
    assert_eq!((first.puts(), second.puts()), (1, 1));
    // The one that worked is asked first from now on.
    client.put(pb::PutRequest::default()).await.expect("written");
    assert_eq!((first.puts(), second.puts()), (1, 2));
    assert_eq!((first.insisted(), second.insisted()), (1, 2), "writes insist on a leader");
}

#[tokio::test]
async fn a_write_that_was_sent_is_never_sent_again() {
    for status in vague() {
        let (first, second) = (Fake::refusing([status]), Fake::refusing([]));
        let outcome = client(&[&first, &second]).put(pb::PutRequest::default()).await;
        assert!(matches!(&outcome, Err(ClientError::Unknown(at)) if at.endpoint == first.endpoint), "{outcome:?}");
        assert_eq!((first.puts(), second.puts()), (1, 0));
    }
}

#[tokio::test]
async fn a_read_goes_on_elsewhere() {
    for status in vague() {
        let (first, second) = (Fake::refusing([status]), Fake::refusing([]));
        client(&[&first, &second]).range(pb::RangeRequest::default()).await.expect("read");
        assert_eq!((first.reads(), second.reads()), (1, 1));
    }
}

#[tokio::test]
async fn a_serializable_read_insists_on_no_leader() {
    let only = Fake::refusing([]);
    client(&[&only]).range(pb::RangeRequest { serializable: true, ..Default::default() }).await.expect("read");
    assert_eq!((only.reads(), only.insisted()), (1, 0));
}

#[tokio::test]
async fn a_refusal_is_final() {
    let compacted = Status::out_of_range("etcdserver: mvcc: required revision has been compacted");
    let (first, second) = (Fake::refusing([compacted]), Fake::refusing([]));
    let outcome = client(&[&first, &second]).range(pb::RangeRequest::default()).await;
    let Err(ClientError::Refused(refused)) = outcome else { panic!("{outcome:?}") };
    assert_eq!((refused.refusal, refused.endpoint), (Refusal::Compacted, first.endpoint.clone()));
    assert_eq!(second.reads(), 0);
}

#[tokio::test]
async fn it_waits_for_a_leader_as_long_as_the_command_may_take() {
    let patient = Fake::refusing([no_leader(), no_leader(), no_leader()]);
    client(&[&patient]).put(pb::PutRequest::default()).await.expect("written");
    assert_eq!(patient.puts(), 4);
    let hopeless = Fake::refusing(std::iter::repeat_n(no_leader(), 1000));
    let outcome = client_with(&[&hopeless], Duration::from_millis(250)).put(pb::PutRequest::default()).await;
    assert!(matches!(&outcome, Err(ClientError::NoLeader(at)) if at.len() == 1), "{outcome:?}");
    assert!((1..=3).contains(&hopeless.puts()), "{} tries in 250 ms", hopeless.puts());
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_passed_over() {
    let gone = Fake::refusing([]);
    let (address, there) = (gone.endpoint.clone(), Fake::refusing([]));
    drop(gone);
    let both = client(&[&there]).with_endpoints(vec![address.clone(), there.endpoint.clone()]);
    both.put(pb::PutRequest::default()).await.expect("written");
    assert_eq!(there.puts(), 1);
    let alone = client(&[&there]).with_endpoints(vec![address.clone()]);
    let outcome = alone.put(pb::PutRequest::default()).await;
    let Err(ClientError::Unreachable(tried)) = outcome else { panic!("{outcome:?}") };
    assert_eq!((tried.len(), &tried[0].endpoint), (1, &address));
}
