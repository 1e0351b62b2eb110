//! Streams of keepalives when something stands still: the log, a member's own state, or the client.

use std::convert::Infallible;
use std::time::Duration;

use futures::future::{FutureExt, join, join_all};
use futures::stream::{BoxStream, StreamExt};
use tenure_core::LeaseId;
use tenure_core::outcome::{Refusal, Response};
use tenure_core::state::StateRead;
use tenure_server::node::{KeptAlive, Node, RequestError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::support::cluster::{Cluster, eventually};
use crate::support::leases::{Held, revoke};
use crate::support::member::Settings;
use crate::support::{run, within};
use tenure_raft::sim::Step;

type Answers = BoxStream<'static, Result<KeptAlive, Infallible>>;

/// A stream with its first requests, which stays open.
fn stream(node: &Node, ids: impl Iterator<Item = i64>) -> (mpsc::Sender<Result<LeaseId, Infallible>>, Answers) {
    let (ask, asked) = mpsc::channel(1024);
    ids.for_each(|id| ask.try_send(Ok(LeaseId(id))).expect("room"));
    (ask, node.keep_leases_alive(ReceiverStream::new(asked)))
}

/// The next answer: of which lease, and the TTL that it tells.
async fn next(answers: &mut Answers) -> (i64, u64) {
    let Ok((id, outcome)) = within("an answer", answers.next()).await.expect("the stream is open");
    match outcome.expect("an outcome").result {
        Ok(Response::LeaseRenew { ttl_ms }) => (id.0, ttl_ms),
        other => panic!("the keepalive of lease {id} ends as {other:?}"),
    }
}

#[test]
fn no_lease_of_a_stream_is_lost_when_all_their_answers_come_late() {
    run(async {
        let (cluster, nodes) = Cluster::running(3, &Settings::with_a_lasting_leader()).await;
        let leader = cluster.leader(&nodes).await;
        let followers = [(leader + 1) % 3, (leader + 2) % 3];
        let ttl = Duration::from_secs(3);
        // One after another, so many take a time through the log that is much longer than the TTL.
        let ids = 1..=300i64;
        join_all(ids.clone().map(|id| Held::granted(&nodes[leader], id, ttl))).await;
        followers.iter().for_each(|place| cluster.members[*place].machine.hold(Step::Sync));
        let (ask, mut answers) = stream(&nodes[followers[0]], ids.clone());
        let release = async {
            // So long that less than a second is left, and no lease is due.
            tokio::time::sleep(ttl - Duration::from_millis(800)).await;
            followers.iter().for_each(|place| cluster.members[*place].machine.release(Step::Sync));
        };
        let all = async {
            for id in ids {
                let (answered, told_ms) = next(&mut answers).await;
                assert_eq!(answered, id, "in the order of the requests");
                assert!((1000..=3000).contains(&told_ms), "{told_ms} ms");
            }
        };
        join(all, release).await;
        drop(ask);
        assert!(within("the end", answers.next()).await.is_none());
    });
}

#[test]
fn no_lease_of_a_batch_is_lost_when_its_answer_comes_late_or_is_read_late() {
    run(async {
        let (cluster, nodes) = Cluster::running(3, &Settings::with_a_lasting_leader()).await;
        let leader = cluster.leader(&nodes).await;
        let followers = [(leader + 1) % 3, (leader + 2) % 3];
        let ttl = Duration::from_secs(3);
        let ids: Vec<LeaseId> = (1..=300).map(LeaseId).collect();
        join_all(ids.iter().map(|id| Held::granted(&nodes[leader], id.0, ttl))).await;
        followers.iter().for_each(|place| cluster.members[*place].machine.hold(Step::Sync));
        let (ask, asked) = mpsc::channel(4);
        let mut answers = nodes[followers[0]].keep_batches_alive::<Infallible>(ReceiverStream::new(asked));
        // One that nobody granted stands among them, and one is named twice.
        let batch: Vec<LeaseId> = ids.iter().copied().chain([LeaseId(1000), LeaseId(1)]).collect();
        for _ in 0..2 {
            ask.try_send(Ok(batch.clone())).expect("room");
        }
        let release = async {
            // So long that less than a second is left, and no lease is due.
            tokio::time::sleep(ttl - Duration::from_millis(800)).await;
            followers.iter().for_each(|place| cluster.members[*place].machine.release(Step::Sync));
        };
        let all = async {
            for _ in 0..2 {
                let Ok(kept) = within("an answer", answers.next()).await.expect("the stream is open");
                assert!(kept.iter().map(|(id, _)| id).eq(&batch), "in the order of the request");
                for (id, outcome) in kept {
                    match outcome.expect("an outcome").result {
                        Ok(Response::LeaseRenew { ttl_ms }) => assert!((1000..=3000).contains(&ttl_ms), "{ttl_ms} ms"),
                        other => {
                            assert!(id == LeaseId(1000) && other == Err(Refusal::LeaseNotFound), "{id}: {other:?}");
                        }
                    }
                }
                // The second answer waits meanwhile, until it is too old to be told as it is.
                tokio::time::sleep(ttl * 2 / 5).await;
            }
        };
        join(all, release).await;
        drop(ask);
        assert!(within("the end", answers.next()).await.is_none());
    });
}

#[test]
fn a_lease_whose_client_reads_no_answer_ends() {
    run(async {
        let (cluster, nodes) = Cluster::running(1, &Settings::default()).await;
        let held = Held::granted(&nodes[0], 7, Duration::from_secs(1)).await;
        let machine = &cluster.members[0].machine;
        machine.hold(Step::Sync);
        let (_ask, mut answers) = stream(&nodes[0], [7; 40].into_iter());
        assert!(answers.next().now_or_never().is_none(), "asked for, and on its way");
        machine.release(Step::Sync);
        // Nobody looks at the stream any more.
        held.lived(held.end(&nodes[0]).await);
    });
}

#[test]
fn an_answer_that_was_read_late_promises_no_more_than_is_left() {
    run(async {
        let (_cluster, nodes) = Cluster::running(1, &Settings::default()).await;
        let ttl = Duration::from_secs(9);
        Held::granted(&nodes[0], 7, ttl).await;
        let (_ask, mut answers) = stream(&nodes[0], [7; 2].into_iter());
        assert_eq!(next(&mut answers).await, (7, 9000));
        // The second is there, too.
        let late = ttl * 2 / 5;
        tokio::time::sleep(late).await;
        let (_, told_ms) = next(&mut answers).await;
        assert!(told_ms >= 1000 && Duration::from_millis(told_ms) <= ttl - late, "{told_ms} ms");
    });
}

#[test]
fn a_member_whose_state_stands_still_renews_its_clients_leases() {
    run(async {
        let (cluster, nodes) = Cluster::running(3, &Settings::with_a_lasting_leader()).await;
        let leader = cluster.leader(&nodes).await;
        let place = (leader + 1) % 3;
        let minute = Duration::from_secs(60);
        let mut held = Held::granted(&nodes[leader], 7, minute).await;
        Held::granted(&nodes[leader], 8, minute).await;
        let renewals = || {
            let row = StateRead::lease(&*nodes[leader].shared().raft.view(), LeaseId(7)).expect("a readable state");
            row.expect("a lease").renewals
        };
        eventually("the member knows them", || {
            let view = nodes[place].shared().raft.view();
            StateRead::lease(&*view, LeaseId(8)).expect("a readable state").map(drop)
        })
        .await;
        cluster.members[place].machine.hold(Step::Commit);
        // Its state stands still for good. A revoke is waited for, as whoever asked for it reads here next.
        let revoked = revoke(&nodes[place], 8);
        let renewed = async {
            eventually("the lease is revoked", || {
                let view = nodes[leader].shared().raft.view();
                StateRead::lease(&*view, LeaseId(8)).expect("a readable state").is_none().then_some(())
            })
            .await;
            for round in 1..=3 {
                assert_eq!(within("a renewal", held.renew(&nodes[place])).await, Ok(true));
                assert_eq!(renewals(), round);
            }
            let view = nodes[place].shared().raft.view();
            assert!(StateRead::lease(&*view, LeaseId(8)).expect("a readable state").is_some(), "it stands still");
            cluster.members[place].machine.release(Step::Commit);
        };
        let (revoked, ()) = join(revoked, renewed).await;
        assert_eq!(revoked, Ok(Response::LeaseRevoke));
        let view = nodes[place].shared().raft.view();
        assert!(StateRead::lease(&*view, LeaseId(8)).expect("a readable state").is_none(), "and can be read here");
    });
}

#[test]
fn a_queue_that_is_full_ends_no_stream() {
    run(async {
        let (cluster, nodes) = Cluster::running(1, &Settings::default()).await;
        Held::granted(&nodes[0], 7, Duration::from_secs(60)).await;
        // For so long the grant counts as a renewal, and none would wait for the log.
        tokio::time::sleep(Duration::from_millis(600)).await;
        let machine = &cluster.members[0].machine;
        machine.hold(Step::Sync);
        let mut flood = Vec::new();
        loop {
            let mut renewal = Box::pin(nodes[0].renew_lease(LeaseId(7)));
            match (&mut renewal).now_or_never() {
                None => flood.push(renewal),
                Some(answer) => break assert_eq!(answer.err(), Some(RequestError::TooManyRequests)),
            }
        }
        let (_ask, mut answers) = stream(&nodes[0], [7].into_iter());
        assert!(answers.next().now_or_never().is_none(), "it waits");
        drop(flood);
        machine.release(Step::Sync);
        assert_eq!(next(&mut answers).await, (7, 60_000));
    });
}
