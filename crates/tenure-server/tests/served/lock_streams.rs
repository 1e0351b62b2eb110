//! Streams of Tenure's lock service that clients break off, and connections that end under them, wherever that may be:
//! nobody waits who is not there, and nobody holds a lock who does not know it.

use std::future::poll_fn;
use std::task::Poll;

use futures::FutureExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure_proto::tenure::v1 as pb;
use tenure_proto::tenure::v1::leases_client::LeasesClient;
use tenure_proto::tenure::v1::lock_acquire_response::State;
use tenure_proto::tenure::v1::locks_client::LocksClient;
use tonic::transport::Channel;

use crate::support::{Server, cluster, run, within};

/// However busy the machine is, a leader stays the leader.
const FLAGS: [&str; 2] = ["--election-timeout=3000", "--heartbeat-interval=100"];
const HOUR_MS: u64 = 3_600_000;
const LOCK: &str = "l";
const HOLDER: i64 = 1;
/// Leases of those that break off. Each has as many requests as may be open at a time, and more.
const FIRST: i64 = 100;
const LEASES: u64 = 20;
/// Unless `TENURE_TIMES` says otherwise.
const STREAMS: u64 = 100;
/// Pauses until a stream is told that it waits, and one more.
const PAUSES_MAX: u32 = 8;

fn request(lease: i64, number: u64, attach: u64) -> Option<pb::LockRequest> {
    Some(pb::LockRequest { lease, number, lowest_open: 1, attach })
}

fn acquire(lease: i64, number: u64) -> pb::LockAcquireRequest {
    pb::LockAcquireRequest { name: LOCK.into(), request: request(lease, number, 1), ..Default::default() }
}

/// Which lease and number a stream has.
fn of(stream: u64) -> (i64, u64) {
    (FIRST + i64::try_from(stream % LEASES).expect("small"), 1 + stream / LEASES)
}

fn streams() -> u64 {
    std::env::var("TENURE_TIMES").ok().and_then(|times| times.parse().ok()).unwrap_or(STREAMS)
}

async fn contenders(locks: &mut LocksClient<Channel>) -> u64 {
    let look = pb::LockInspectRequest { name: LOCK.into(), limit: 1 };
    within("a look", locks.inspect(look)).await.expect("an answer").into_inner().contenders
}

/// Begins to wait, and breaks off after so many pauses. Whether it was told that it waits.
async fn break_off(mut locks: LocksClient<Channel>, (lease, number): (i64, u64), pauses: u32) -> bool {
    let mut waited = false;
    {
        let waits = &mut waited;
        let mut call = Box::pin(async move {
            // The lease may still be in the queue by its last stream.
            if let Ok(steps) = locks.acquire(acquire(lease, number)).await {
                let mut steps = steps.into_inner();
                while let Ok(Some(step)) = steps.message().await {
                    assert!(matches!(step.state, Some(State::Waiting(_))), "nobody lets go: {step:?}");
                    *waits = true;
                }
            }
        });
        let mut paused = 0;
        let going = poll_fn(|cx| match call.poll_unpin(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => {
                paused += 1;
                if paused >= pauses { Poll::Ready(()) } else { Poll::Pending }
            }
        });
        // Whoever waits and is told nothing more pauses no more.
        drop(tokio::time::timeout(std::time::Duration::from_millis(30), going).await);
    }
    waited
}

#[test]
fn streams_and_connections_that_end_anywhere_leave_nobody_waiting() {
    run(async {
        let servers: Vec<Server> = cluster(3, &FLAGS).await;
        let channel = servers[0].channel().await;
        let (mut locks, mut leases) = (LocksClient::new(channel.clone()), LeasesClient::new(channel));
        for id in [HOLDER].into_iter().chain((0..LEASES).map(|lease| of(lease).0)) {
            let grant = pb::LeaseGrantRequest { id, ttl_ms: HOUR_MS, holder: None };
            within("a grant", leases.grant(grant)).await.expect("a lease");
        }
        let mut held = within("a stream", locks.acquire(acquire(HOLDER, 1))).await.expect("a stream").into_inner();
        let step = within("a grant", held.message()).await.expect("no error").expect("a step");
        let Some(State::Granted(granted)) = step.state else { panic!("{step:?}") };
        let mut rng = StdRng::seed_from_u64(7);
        let shared = [servers[1].channel().await, servers[2].channel().await];
        let mut waited = 0;
        for stream in 0..streams() {
            // Half of them end with their connection.
            let channel = match rng.random_range(0..4) {
                0 => shared[0].clone(),
                1 => shared[1].clone(),
                server => servers[server - 1].channel().await,
            };
            let pauses = rng.random_range(1..=PAUSES_MAX);
            waited += u32::from(break_off(LocksClient::new(channel), of(stream), pauses).await);
        }
        assert!(waited > 0, "none came as far as to wait");
        within("the end of all that waited", async { while contenders(&mut locks).await > 1 {} }).await;
        for stream in 0..streams() {
            let (lease, number) = of(stream);
            let cancel = pb::LockCancelRequest { name: LOCK.into(), request: request(lease, number, 2) };
            let ended = within("a cancel", locks.cancel(cancel)).await.expect("an answer").into_inner().ended;
            assert!(!ended, "request {number} of lease {lease} was an orphan");
        }
        let release = pb::LockReleaseRequest { name: LOCK.into(), lease: HOLDER, token: granted.token, number: 0 };
        assert!(within("a release", locks.release(release)).await.expect("an answer").into_inner().released);
        assert_eq!(contenders(&mut locks).await, 0, "nobody waited for it");
    });
}
