//! Snapshots that a member is offered on its peer port by somebody who makes mistakes, or worse: each is refused, nothing
//! leaves its directory, and the member goes on.

use bytes::Bytes;
use futures::FutureExt;
use tenure_proto::tenure::peer::v1::{
    InstallSnapshotRequest, OfferSnapshotRequest, OfferSnapshotResponse, Route, SendSnapshotResponse, SnapshotAnswer,
    SnapshotChunk, SnapshotFile, SnapshotManifest,
};
use tenure_server::node::Node;
use tonic::{Code, Response, Status};

use crate::peer_port::{Impostor, log_id_bytes, vote_bytes, with_impostors};
use crate::support::cluster::{Cluster, check};
use crate::support::history::{Fate, History};
use crate::support::requests::put;
use crate::support::{run, within};

/// Far ahead of all that these members have applied.
const INDEX: u64 = 1_000_000;

fn manifest(files: &[(&str, u64)]) -> SnapshotManifest {
    let files = files.iter().map(|(name, bytes)| SnapshotFile { name: (*name).to_owned(), bytes: *bytes }).collect();
    SnapshotManifest { id: 7, log_id: log_id_bytes(1, INDEX), chunk_bytes: 64, files }
}

/// Somebody who sends snapshots.
struct Sender(Impostor);

impl Sender {
    async fn offer(&self, manifest: Option<SnapshotManifest>) -> Result<OfferSnapshotResponse, Status> {
        self.offer_as(Some(self.0.route), self.0.vote.clone(), manifest).await
    }

    async fn offer_as(
        &self,
        route: Option<Route>,
        vote: Bytes,
        manifest: Option<SnapshotManifest>,
    ) -> Result<OfferSnapshotResponse, Status> {
        let request = OfferSnapshotRequest { route, vote, manifest };
        within("an answer", self.0.client.clone().offer_snapshot(request)).await.map(Response::into_inner)
    }

    async fn send(&self, opening: SnapshotChunk, pieces: &[SnapshotChunk]) -> Result<SendSnapshotResponse, Status> {
        let stream = futures::stream::iter([&[opening], pieces].concat());
        within("an answer", self.0.client.clone().send_snapshot(stream)).await.map(Response::into_inner)
    }

    fn opening(&self, session: u64) -> SnapshotChunk {
        SnapshotChunk { route: Some(self.0.route), session, ..SnapshotChunk::default() }
    }

    async fn install(&self, vote: Bytes, id: u64) -> Result<Bytes, Status> {
        let request = InstallSnapshotRequest { route: Some(self.0.route), vote, id };
        let answer = within("an answer", self.0.client.clone().install_snapshot(request)).await;
        answer.map(|answer| answer.into_inner().vote)
    }

    async fn session(&self, manifest: SnapshotManifest) -> OfferSnapshotResponse {
        let answer = self.offer(Some(manifest)).await.expect("an answer");
        assert_eq!(answer.answer(), SnapshotAnswer::Send, "{}", answer.refused);
        answer
    }
}

fn piece(session: u64, file: u32, offset: u64, bytes: &[u8]) -> SnapshotChunk {
    let crc = crc32fast::hash(bytes);
    SnapshotChunk { route: None, session, file, offset, bytes: Bytes::copy_from_slice(bytes), crc }
}

/// A cluster, its leader's name borrowed towards one follower, and that follower.
async fn with_sender(history: &History) -> (Cluster, Vec<Node>, Sender, usize) {
    let (cluster, nodes, mut impostors) = with_impostors(history).await;
    let to = (cluster.leader(&nodes).await + 1) % 3;
    let sender = Sender(impostors.swap_remove(to));
    (cluster, nodes, sender, to)
}

async fn all_well(nodes: &[Node], history: &History) {
    for node in nodes {
        let failed = node.shared().raft.failed().now_or_never();
        assert!(failed.is_none(), "{failed:?}");
    }
    let acked = async { while !matches!(history.write(&nodes[0], put("k", "after")).await, Fate::Acked(_)) {} };
    within("a write", acked).await;
    check(nodes, history).await.expect("all is there");
}

#[test]
fn manifests_that_are_none_or_lead_elsewhere_are_refused() {
    run(async {
        let history = History::default();
        let (cluster, nodes, sender, to) = with_sender(&history).await;
        let whole = manifest(&[("a", 100), ("b", 0)]);
        let silly = [
            manifest(&[]),
            manifest(&[("../../../outside", 10)]),
            manifest(&[("/outside", 10)]),
            manifest(&[("a", 1), ("a", 1)]),
            manifest(&[("a", u64::MAX), ("b", 2)]),
            manifest(&[("a", 1 << 49)]),
            SnapshotManifest { id: 0, ..whole.clone() },
            SnapshotManifest { chunk_bytes: 0, ..whole.clone() },
            SnapshotManifest { chunk_bytes: u32::MAX, ..whole.clone() },
            SnapshotManifest { log_id: Bytes::from_static(b"?"), ..whole.clone() },
            SnapshotManifest { log_id: log_id_bytes(1, u64::MAX), ..whole.clone() },
            SnapshotManifest { log_id: log_id_bytes(u64::MAX, 5), ..whole.clone() },
        ];
        cluster.members[to].machine.set_bytes_free(Some(1 << 30));
        for manifest in silly {
            match sender.offer(Some(manifest.clone())).await {
                Ok(answer) => {
                    assert_eq!(answer.answer(), SnapshotAnswer::Refused, "{manifest:?}");
                    assert!(!answer.refused.is_empty());
                }
                Err(status) => assert_eq!(status.code(), Code::InvalidArgument, "{manifest:?}: {status}"),
            }
        }
        assert_eq!(sender.offer(None).await.unwrap_err().code(), Code::InvalidArgument);
        let state = cluster.members[to].data_dir().join("state");
        assert_eq!(cluster.members[to].machine.files().list_dirs(&state).unwrap(), ["1"], "nothing was begun");
        assert!(!cluster.members[to].machine.files().list(&state).unwrap().iter().any(|name| name.contains("outside")));
        sender.session(whole).await;
        all_well(&nodes, &history).await;
    });
}

#[test]
fn offers_are_taken_from_the_leader_alone() {
    run(async {
        let history = History::default();
        let (cluster, nodes, sender, to) = with_sender(&history).await;
        let term = nodes[to].term().0;
        let leader = sender.0.route.from;
        let whole = || Some(manifest(&[("a", 100)]));
        let route = Some(sender.0.route);
        for vote in
            [Bytes::new(), vote_bytes(term, leader, 0), vote_bytes(term, 99, 1), vote_bytes(u64::MAX, leader, 1)]
        {
            let refused = sender.offer_as(route, vote.clone(), whole()).await.expect_err("it is no leader's");
            assert_eq!(refused.code(), Code::InvalidArgument, "{vote:?}: {refused}");
            assert_eq!(sender.install(vote, 7).await.expect_err("it is no leader's").code(), Code::InvalidArgument);
        }
        let stranger = Some(Route { from_incarnation: sender.0.route.from_incarnation ^ 1, ..sender.0.route });
        for route in [None, Some(Route::default()), stranger] {
            let refused =
                sender.offer_as(route, sender.0.vote.clone(), whole()).await.expect_err("not from whom it says");
            assert!(matches!(refused.code(), Code::InvalidArgument | Code::FailedPrecondition), "{refused}");
        }
        let late = SnapshotManifest { log_id: log_id_bytes(term + 1, INDEX), ..manifest(&[("a", 100)]) };
        assert_eq!(sender.offer(Some(late)).await.unwrap_err().code(), Code::InvalidArgument, "of a later term");

        // A leader of the past is told who is not.
        let past = sender.offer_as(route, vote_bytes(term - 1, leader, 1), whole()).await;
        if term > 1 {
            assert_eq!(past.expect("an answer").vote, sender.0.vote);
        }
        // What a member has already, it need not get.
        let applied = nodes[to].shared().raft.view().applied().index.0;
        let held = SnapshotManifest { log_id: log_id_bytes(term, applied), ..manifest(&[("a", 100)]) };
        assert_eq!(sender.offer(Some(held)).await.expect("an answer").answer(), SnapshotAnswer::Held);
        assert_eq!(sender.install(sender.0.vote.clone(), 7).await.unwrap_err().code(), Code::FailedPrecondition);
        all_well(&nodes, &history).await;
        drop(cluster);
    });
}

#[test]
fn pieces_that_are_wrong_end_their_stream_and_nothing_else() {
    run(async {
        let history = History::default();
        let (_cluster, nodes, sender, to) = with_sender(&history).await;
        let whole = manifest(&[("a", 100), ("b", 10)]);
        let received = || nodes[to].shared().raft.snapshots().bytes_received;
        let code = |answer: Result<SendSnapshotResponse, Status>| answer.expect_err("it is wrong").code();

        assert_eq!(code(sender.send(SnapshotChunk::default(), &[]).await), Code::InvalidArgument);
        assert_eq!(code(sender.send(sender.opening(0), &[piece(0, 0, 0, &[7; 64])]).await), Code::Aborted);
        let session = sender.session(whole.clone()).await.session;
        assert_eq!(code(sender.send(sender.opening(session), &[]).await), Code::InvalidArgument, "it ends too early");
        for wrong in [
            piece(session, 1, 0, &[7; 10]),
            piece(session, 9, 0, &[7; 10]),
            piece(session, 0, 64, &[7; 36]),
            piece(session, 0, 0, &[7; 63]),
            piece(session, 0, 0, &[7; 5000]),
            piece(session, u32::MAX, u64::MAX, &[]),
            piece(session + 1, 0, 0, &[7; 64]),
        ] {
            assert_eq!(code(sender.send(sender.opening(session), &[wrong]).await), Code::InvalidArgument);
        }
        let changed = SnapshotChunk { crc: 1, ..piece(session, 0, 0, &[7; 64]) };
        assert_eq!(code(sender.send(sender.opening(session), &[changed]).await), Code::DataLoss);
        assert_eq!(nodes[to].shared().raft.snapshots().corrupt_pieces, 1);
        assert_eq!(received(), 0);

        // The next offer asks for the same piece, and after it for the next.
        let answer = sender.session(whole.clone()).await;
        assert_eq!((answer.file, answer.offset), (0, 0));
        let first = piece(answer.session, 0, 0, &[7; 64]);
        let again = first.clone();
        assert_eq!(
            code(sender.send(sender.opening(answer.session), &[first, again]).await),
            Code::InvalidArgument,
            "a piece comes once"
        );
        assert_eq!(received(), 64);
        let answer = sender.session(whole.clone()).await;
        assert_eq!((answer.file, answer.offset), (0, 64));
        let rest = [piece(answer.session, 0, 64, &[7; 36]), piece(answer.session, 1, 0, &[8; 10])];
        let sent = sender.send(sender.opening(answer.session), &rest).await.expect("all came");
        assert!(sent.unusable.contains("offered as the state at"), "{}", sent.unusable);
        assert_eq!(received(), 110);
        assert_eq!(sender.install(sender.0.vote.clone(), whole.id).await.unwrap_err().code(), Code::FailedPrecondition);
        all_well(&nodes, &history).await;
    });
}

#[test]
fn a_member_without_room_says_so_and_goes_on() {
    run(async {
        let history = History::default();
        let (cluster, nodes, sender, to) = with_sender(&history).await;
        cluster.members[to].machine.set_bytes_free(Some(50 << 20));
        let answer = sender.offer(Some(manifest(&[("a", 100)]))).await.expect("an answer");
        assert_eq!(answer.answer(), SnapshotAnswer::Refused);
        // The member may write a little between the two.
        assert!(answer.refused.contains(" bytes left in"), "{}", answer.refused);
        cluster.members[to].machine.set_bytes_free(None);
        sender.session(manifest(&[("a", 100)])).await;
        all_well(&nodes, &history).await;
    });
}
