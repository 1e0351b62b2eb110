//! Claims and renewals against servers that answer what a test tells them to: what is asked again, where, and by which number.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use tenure_proto::etcdserverpb as etcd;
use tenure_proto::etcdserverpb::lease_server::{Lease, LeaseServer};
use tenure_proto::tenure::v1 as pb;
use tenure_proto::tenure::v1::lock_acquire_response::State;
use tenure_proto::tenure::v1::locks_server::{Locks, LocksServer};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::client::{Client, Endpoint, Timeouts};
use crate::ids::{LeaseId, Revision};
use crate::output::{Format, Output};
use crate::text::Style;

/// No test waits for so long.
const PATIENCE: Duration = Duration::from_secs(30);
const LEASE: LeaseId = LeaseId(31);

type Says = Vec<Result<State, Status>>;
type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A running server. It ends with its value.
struct Fake {
    endpoint: Endpoint,
    script: Script,
    server: JoinHandle<()>,
}

#[derive(Clone, Default)]
struct Script(Arc<Mutex<Told>>);

#[derive(Default)]
struct Told {
    /// What acquires are told before their streams end; without any left they stay silent.
    acquires: VecDeque<Says>,
    requests: Vec<pb::LockAcquireRequest>,
    cancels: Vec<pb::LockRequest>,
    /// The TTL that renewals are answered with; none for silence.
    renewed: Option<i64>,
    /// How long an answer to a renewal takes.
    late: Duration,
    renewals: usize,
}

impl Fake {
    fn start(told: Told) -> Fake {
        let script = Script(Arc::new(Mutex::new(told)));
        let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let endpoint = incoming.local_addr().expect("an address").to_string().parse().expect("an endpoint");
        let serving = Server::builder()
            .add_service(LocksServer::new(script.clone()))
            .add_service(LeaseServer::new(script.clone()))
            .serve_with_incoming(incoming);
        Fake { endpoint, script, server: tokio::spawn(async { serving.await.expect("it serves") }) }
    }

    fn acquiring(acquires: impl IntoIterator<Item = Says>) -> Fake {
        Fake::start(Told { acquires: acquires.into_iter().collect(), ..Told::default() })
    }

    fn renewing(renewed: Option<i64>) -> Fake {
        Fake::start(Told { renewed, ..Told::default() })
    }

    /// The numbers of the acquires that came: number, lowest open one, attach number.
    fn tries(&self) -> Vec<(u64, u64, u64)> {
        let told = self.script.0.lock().expect("the script");
        let requests = told.requests.iter().filter_map(|request| request.request);
        requests.map(|request| (request.number, request.lowest_open, request.attach)).collect()
    }

    fn renewals(&self) -> usize {
        self.script.0.lock().expect("the script").renewals
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented(""))
}

#[tonic::async_trait]
impl Locks for Script {
    type AcquireStream = Boxed<pb::LockAcquireResponse>;

    async fn acquire(&self, request: Request<pb::LockAcquireRequest>) -> Result<Response<Self::AcquireStream>, Status> {
        let mut told = self.0.lock().expect("the script");
        told.requests.push(request.into_inner());
        let answer = |state| pb::LockAcquireResponse { header: None, state: Some(state) };
        Ok(Response::new(match told.acquires.pop_front() {
            Some(says) => stream::iter(says.into_iter().map(move |said| said.map(answer))).boxed(),
            None => stream::pending().boxed(),
        }))
    }

    async fn cancel(
        &self,
        request: Request<pb::LockCancelRequest>,
    ) -> Result<Response<pb::LockCancelResponse>, Status> {
        self.0.lock().expect("the script").cancels.extend(request.into_inner().request);
        Ok(Response::new(pb::LockCancelResponse::default()))
    }

    async fn release(&self, _: Request<pb::LockReleaseRequest>) -> Result<Response<pb::LockReleaseResponse>, Status> {
        not_here()
    }

    async fn force_release(
        &self,
        _: Request<pb::LockForceReleaseRequest>,
    ) -> Result<Response<pb::LockForceReleaseResponse>, Status> {
        not_here()
    }

    async fn inspect(&self, _: Request<pb::LockInspectRequest>) -> Result<Response<pb::LockInspectResponse>, Status> {
        not_here()
    }

    async fn list(&self, _: Request<pb::LockListRequest>) -> Result<Response<pb::LockListResponse>, Status> {
        not_here()
    }

    async fn why(&self, _: Request<pb::LockWhyRequest>) -> Result<Response<pb::LockWhyResponse>, Status> {
        not_here()
    }
}

#[tonic::async_trait]
impl Lease for Script {
    type LeaseKeepAliveStream = Boxed<etcd::LeaseKeepAliveResponse>;

    async fn lease_keep_alive(
        &self,
        _: Request<Streaming<etcd::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let mut told = self.0.lock().expect("the script");
        told.renewals += 1;
        let answer = |ttl| Ok(etcd::LeaseKeepAliveResponse { header: None, id: LEASE.0, ttl });
        Ok(Response::new(match told.renewed {
            Some(ttl) => {
                let late = told.late;
                stream::once(async move {
                    tokio::time::sleep(late).await;
                    answer(ttl)
                })
                .boxed()
            }
            None => stream::pending().boxed(),
        }))
    }

    async fn lease_grant(
        &self,
        _: Request<etcd::LeaseGrantRequest>,
    ) -> Result<Response<etcd::LeaseGrantResponse>, Status> {
        not_here()
    }

    async fn lease_revoke(
        &self,
        _: Request<etcd::LeaseRevokeRequest>,
    ) -> Result<Response<etcd::LeaseRevokeResponse>, Status> {
        not_here()
    }

    async fn lease_time_to_live(
        &self,
        _: Request<etcd::LeaseTimeToLiveRequest>,
    ) -> Result<Response<etcd::LeaseTimeToLiveResponse>, Status> {
        not_here()
    }

    async fn lease_leases(
        &self,
        _: Request<etcd::LeaseLeasesRequest>,
    ) -> Result<Response<etcd::LeaseLeasesResponse>, Status> {
        not_here()
    }
}

fn client(fakes: &[&Fake]) -> Client {
    let endpoints = fakes.iter().map(|fake| fake.endpoint.clone()).collect();
    Client::new(endpoints, Timeouts { dial: PATIENCE, command: PATIENCE })
}

/// For programs: they tell nothing.
fn notes() -> Notes {
    Notes::new(Output { format: Format::Json, style: Style::default() })
}

async fn acquire(fakes: &[&Fake]) -> Result<Granted, Unclaimed> {
    let (client, wanted) = (client(fakes), Wanted { name: "a".into(), ..Wanted::default() });
    let mut claim = Claim::new(&client, &wanted, LEASE, Some(Instant::now() + PATIENCE));
    timeout(PATIENCE, claim.acquire(&notes())).await.expect("an end")
}

fn waiting() -> Result<State, Status> {
    Ok(State::Waiting(pb::LockWaiting { ahead: Some(1), holder: None }))
}

fn granted() -> Result<State, Status> {
    Ok(State::Granted(pb::LockGranted { token: 7, key: "a/1f".into(), holds: 1 }))
}

fn finished() -> Result<State, Status> {
    Err(Status::failed_precondition("tenure: the request is finished"))
}

#[tokio::test]
async fn a_request_keeps_its_number_when_its_stream_breaks() {
    for broken in [
        vec![waiting(), Err(Status::unavailable("etcdserver: server stopped"))],
        vec![Err(Status::unavailable("etcdserver: no leader"))],
        vec![Err(Status::unavailable("etcdserver: request timed out"))],
        // The stream ends without a word.
        vec![waiting()],
    ] {
        let (first, second) = (Fake::acquiring([broken]), Fake::acquiring([vec![waiting(), granted()]]));
        let held = acquire(&[&first, &second]).await.expect("granted");
        assert_eq!(held, Granted { key: "a/1f".into(), token: Revision(7) });
        assert_eq!((first.tries(), second.tries()), (vec![(1, 1, 1)], vec![(1, 1, 2)]));
    }
}

#[tokio::test]
async fn a_server_that_has_too_much_to_do_is_asked_again() {
    let busy = Err(Status::resource_exhausted("etcdserver: too many requests"));
    let fake = Fake::acquiring([vec![busy], vec![granted()]]);
    acquire(&[&fake]).await.expect("granted");
    assert_eq!(fake.tries(), [(1, 1, 1), (1, 1, 2)]);
}

#[tokio::test]
async fn a_request_that_was_cancelled_meanwhile_begins_anew_by_another_number() {
    let broken = vec![waiting(), Err(Status::unavailable("etcdserver: server stopped"))];
    let fake = Fake::acquiring([broken, vec![finished()], vec![waiting(), granted()]]);
    acquire(&[&fake]).await.expect("granted");
    assert_eq!(fake.tries(), [(1, 1, 1), (1, 1, 2), (2, 2, 3)]);
}

#[tokio::test]
async fn what_is_decided_is_not_asked_again() {
    let busy = Ok(State::Busy(pb::LockBusy { holder: None }));
    let error = |code, text| Err(Status::new(code, text));
    use tonic::Code::{Aborted, DeadlineExceeded, FailedPrecondition, NotFound};
    for (said, expected) in [
        (busy, "Busy(None)"),
        (
            error(DeadlineExceeded, "tenure: the lock was not granted in time, and the request is finished"),
            "Busy(None)",
        ),
        (error(Aborted, "tenure: the lock's key was taken away while the request waited"), "TakenAway"),
        (error(NotFound, "etcdserver: requested lease not found"), "LeaseGone"),
        (error(FailedPrecondition, "tenure: the lock is in use with another mode or limit"), "Failed(Refused("),
    ] {
        let (first, second) = (Fake::acquiring([vec![said]]), Fake::acquiring([]));
        let unclaimed = format!("{:?}", acquire(&[&first, &second]).await.expect_err("no lock"));
        assert!(unclaimed.starts_with(expected), "{unclaimed}");
        assert_eq!((first.tries().len(), second.tries().len()), (1, 0), "{unclaimed}");
    }
}

#[tokio::test]
async fn a_cancel_names_the_latest_try() {
    let broken = vec![waiting(), Err(Status::unavailable("etcdserver: server stopped"))];
    let fake = Fake::acquiring([broken, vec![finished()]]);
    let (client, wanted) = (client(&[&fake]), Wanted { name: "a".into(), ..Wanted::default() });
    let mut claim = Claim::new(&client, &wanted, LEASE, None);
    // The third try is told nothing; whoever asked has waited enough.
    let third = async {
        while fake.tries().len() < 3 {
            tokio::task::yield_now().await;
        }
    };
    let notes = notes();
    tokio::select! {
        _ = claim.acquire(&notes) => panic!("nobody answers the third try"),
        ended = timeout(PATIENCE, third) => ended.expect("a third try"),
    }
    claim.cancel().await.expect("cancelled");
    let cancels = fake.script.0.lock().expect("the script").cancels.clone();
    assert_eq!(cancels, [pb::LockRequest { lease: LEASE.0, number: 2, lowest_open: 2, attach: 3 }]);
}

/// A lease that is to be renewed at once.
fn due() -> Tenancy {
    Tenancy::new(Duration::from_secs(5), BootTime::ago(Duration::from_secs(2)))
}

/// Waits for a renewal.
async fn renewed(fakes: &[&Fake]) {
    let (client, notes) = (client(fakes), notes());
    let begun = BootTime::now();
    let (tenancy, mut changes) = watch::channel(due());
    tokio::select! {
        ended = renew(&client, LEASE, &tenancy, &notes) => panic!("the lease is there: {ended:?}"),
        renewed = timeout(PATIENCE, changes.changed()) => renewed.expect("in time").expect("a renewal"),
    }
    assert!(changes.borrow().age(begun).is_zero(), "what counts is when it was sent");
}

#[tokio::test]
async fn a_renewal_without_an_answer_is_joined_by_another_elsewhere() {
    let (silent, second) = (Fake::renewing(None), Fake::renewing(Some(5)));
    renewed(&[&silent, &second]).await;
    assert_eq!((silent.renewals(), second.renewals()), (1, 1));
}

#[tokio::test]
async fn a_cluster_that_is_slow_is_not_taken_for_one_that_is_gone() {
    // Longer than a try is waited for before the next one.
    let slow = Fake::start(Told { renewed: Some(5), late: Duration::from_millis(1200), ..Told::default() });
    renewed(&[&slow]).await;
    assert!(slow.renewals() > 1, "the test shows nothing");
}

#[tokio::test]
async fn renewals_end_with_the_lease() {
    let fake = Fake::renewing(Some(0));
    let (client, notes) = (client(&[&fake]), notes());
    let tenancy = watch::Sender::new(due());
    timeout(PATIENCE, renew(&client, LEASE, &tenancy, &notes)).await.expect("an end").expect("no error");
    assert_eq!(fake.renewals(), 1);
}
