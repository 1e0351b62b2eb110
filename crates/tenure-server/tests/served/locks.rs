//! Tenure's own lock service on the wire: grants that are pushed, on whatever member one waits.

use std::time::Duration;

use tenure_proto::etcdserverpb as etcd;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tenure_proto::tenure::v1 as pb;
use tenure_proto::tenure::v1::leases_client::LeasesClient;
use tenure_proto::tenure::v1::lock_acquire_response::State;
use tenure_proto::tenure::v1::lock_mode::{Mode, Semaphore};
use tenure_proto::tenure::v1::lock_transition::{Client, Kind};
use tenure_proto::tenure::v1::locks_client::LocksClient;
use tenure_proto::v3lockpb::LockRequest;
use tenure_proto::v3lockpb::lock_client::LockClient;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use crate::support::{Server, cluster, run, within};
use crate::watches::metric;

/// However busy the machine is, a leader stays the leader until it is stopped.
const FLAGS: [&str; 2] = ["--election-timeout=3000", "--heartbeat-interval=100"];

const MINUTE_MS: u64 = 60_000;

/// Longer than anything else that a hand-off waits for.
const DELAY_MS: u64 = 1500;

/// What a client of one member has.
struct Doors {
    locks: LocksClient<Channel>,
    leases: LeasesClient<Channel>,
    kv: KvClient<Channel>,
}

type Steps = Streaming<pb::LockAcquireResponse>;

/// A request by a lease, in its first try.
fn request(lease: i64, number: u64) -> Option<pb::LockRequest> {
    Some(pb::LockRequest { lease, number, lowest_open: 0, attach: 1 })
}

fn acquire(name: &str, lease: i64, number: u64) -> pb::LockAcquireRequest {
    let name = name.to_owned().into();
    pb::LockAcquireRequest { name, request: request(lease, number), ..Default::default() }
}

impl Doors {
    async fn of(server: &Server) -> Doors {
        let channel = server.channel().await;
        Doors {
            locks: LocksClient::new(channel.clone()),
            leases: LeasesClient::new(channel.clone()),
            kv: KvClient::new(channel),
        }
    }

    async fn lease(&mut self, id: i64, ttl_ms: u64) {
        let request = pb::LeaseGrantRequest { id, ttl_ms, holder: None };
        within("a grant", self.leases.grant(request)).await.expect("a lease");
    }

    async fn acquire(&mut self, request: pb::LockAcquireRequest) -> Steps {
        within("a stream", self.locks.acquire(request)).await.expect("a stream").into_inner()
    }

    /// Takes a lock that is free.
    async fn take(&mut self, request: pb::LockAcquireRequest) -> i64 {
        granted(&mut self.acquire(request).await).await.token
    }

    async fn release(&mut self, name: &str, lease: i64, token: i64) -> (bool, u32) {
        let request = pb::LockReleaseRequest { name: name.to_owned().into(), lease, token, number: 0 };
        let answer = within("a release", self.locks.release(request)).await.expect("an answer").into_inner();
        (answer.released, answer.holds)
    }

    async fn cancel(&mut self, name: &str, request: Option<pb::LockRequest>) -> (bool, bool) {
        let request = pb::LockCancelRequest { name: name.to_owned().into(), request };
        let answer = within("a cancel", self.locks.cancel(request)).await.expect("an answer").into_inner();
        (answer.ended, answer.stale)
    }

    async fn inspect(&mut self, name: &str) -> pb::LockInspectResponse {
        let request = pb::LockInspectRequest { name: name.to_owned().into(), limit: 0 };
        within("a look", self.locks.inspect(request)).await.expect("an answer").into_inner()
    }

    /// Waits until so many contend for a lock.
    async fn until_contenders(&mut self, name: &str, count: u64) {
        within("that many contenders", async {
            while self.inspect(name).await.contenders != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    async fn why(&mut self, name: &str) -> Vec<pb::LockTransition> {
        let request = pb::LockWhyRequest { name: name.to_owned().into(), limit: 0 };
        let answer = within("an explanation", self.locks.why(request)).await.expect("an answer").into_inner();
        assert!(answer.complete);
        answer.transitions
    }

    async fn put(&mut self, key: &str, lease: i64) -> i64 {
        let put = etcd::PutRequest { key: key.to_owned().into(), lease, ..Default::default() };
        let answer = within("a put", self.kv.put(put)).await.expect("a put").into_inner();
        answer.header.expect("a header").revision
    }

    async fn delete(&mut self, key: &str) {
        let delete = etcd::DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() };
        within("a delete", self.kv.delete_range(delete)).await.expect("a delete");
    }
}

async fn state(steps: &mut Steps) -> Result<Option<State>, Status> {
    let answer = within("a step", steps.message()).await?;
    Ok(answer.map(|answer| {
        assert!(answer.header.is_some());
        answer.state.expect("a state")
    }))
}

async fn waiting(steps: &mut Steps) -> pb::LockWaiting {
    match state(steps).await {
        Ok(Some(State::Waiting(waiting))) => waiting,
        other => panic!("{other:?}"),
    }
}

async fn granted(steps: &mut Steps) -> pb::LockGranted {
    match state(steps).await {
        Ok(Some(State::Granted(granted))) => {
            assert_eq!(state(steps).await.expect("no error"), None, "nothing follows a grant");
            granted
        }
        other => panic!("{other:?}"),
    }
}

async fn refused(steps: &mut Steps) -> (Code, String) {
    let status = state(steps).await.expect_err("it is refused");
    (status.code(), status.message().to_owned())
}

fn kinds(transitions: &[pb::LockTransition]) -> Vec<(Kind, i64)> {
    transitions.iter().map(|told| (told.kind(), told.token)).collect()
}

#[test]
fn a_lock_goes_from_member_to_member_in_order() {
    run(async {
        let servers = cluster(3, &FLAGS).await;
        let mut doors = Vec::new();
        for server in &servers {
            doors.push(Doors::of(server).await);
        }
        for lease in 1..=6 {
            doors[0].lease(lease, MINUTE_MS).await;
        }
        let first = pb::LockAcquireRequest { owner: "web-1".into(), metadata: "v42".into(), ..acquire("jobs", 1, 1) };
        let mut token = doors[0].take(first).await;
        let mut waiters = Vec::new();
        for lease in 2..=6i64 {
            let place = usize::try_from(lease).expect("small") % 3;
            let mut steps = doors[place].acquire(acquire("jobs", lease, 1)).await;
            let told = waiting(&mut steps).await;
            assert_eq!(told.ahead, Some(lease.unsigned_abs() - 1));
            let holder = told.holder.expect("somebody holds it");
            assert_eq!((&holder.owner[..], &holder.metadata[..], holder.lease), ("web-1", &b"v42"[..], 1));
            assert_eq!(holder.token, 0, "it is told to nobody else");
            waiters.push((lease, steps));
        }
        let seen = doors[1].inspect("jobs").await;
        let leases: Vec<(i64, bool)> = seen.queue.iter().map(|one| (one.lease, one.holds_lock)).collect();
        let expected: Vec<(i64, bool)> = (1..=6).map(|lease| (lease, lease == 1)).collect();
        assert_eq!((seen.contenders, leases), (6, expected));
        let mut wait_here = 0;
        for server in &servers {
            wait_here += metric(server, "tenure_lock_waiters").await;
        }
        assert_eq!((wait_here, metric(&servers[1], "tenure_locks").await), (5, 1));
        assert!(seen.queue.iter().all(|one| one.native && (1..=MINUTE_MS).contains(&one.lease_remaining_ms)));
        for (lease, steps) in &mut waiters {
            assert_eq!(doors[2].release("jobs", *lease - 1, token).await, (true, 0));
            let next = granted(steps).await;
            assert_eq!((&next.key[..], next.holds), (format!("jobs/{lease:x}").as_bytes(), 1));
            assert!(next.token > token, "tokens rise");
            token = next.token;
        }
        assert_eq!(doors[0].release("jobs", 6, token - 1).await, (false, 0), "another token");
        assert_eq!(doors[0].release("jobs", 6, token).await, (true, 0));
        assert_eq!(doors[0].release("jobs", 6, token).await, (false, 0), "twice is once");
        assert_eq!(doors[0].inspect("jobs").await.contenders, 0);
        for name in ["tenure_locks", "tenure_lock_waiters", "tenure_lock_delays"] {
            assert_eq!(metric(&servers[0], name).await, 0, "{name}");
        }
        assert_eq!(metric(&servers[0], "tenure_lock_grants_total").await, 6);
    });
}

#[test]
fn keys_of_others_contend_and_their_end_grants() {
    run(async {
        let servers = cluster(1, &FLAGS).await;
        let mut doors = Doors::of(&servers[0]).await;
        for lease in 1..=3 {
            doors.lease(lease, MINUTE_MS).await;
        }
        let by_hand = doors.put("m/by-hand", 0).await;
        let recipe = doors.put("m/2", 2).await;
        let seen = doors.inspect("m").await;
        let told: Vec<_> = seen.queue.iter().map(|one| (one.token, one.holds_lock, one.native)).collect();
        assert_eq!(told, [(by_hand, true, false), (recipe, false, false)]);
        let mut steps = doors.acquire(acquire("m", 1, 1)).await;
        assert_eq!(waiting(&mut steps).await.ahead, Some(2));
        let mut again = doors.acquire(acquire("m", 2, 1)).await;
        let held = "tenure: the lease already holds the lock or waits for it";
        assert_eq!(refused(&mut again).await, (Code::FailedPrecondition, held.to_owned()));
        doors.delete("m/by-hand").await;
        let seen = doors.inspect("m").await;
        assert_eq!(seen.queue.iter().map(|one| one.holds_lock).collect::<Vec<_>>(), [true, false]);
        within("a revoke", doors.leases.revoke(pb::LeaseRevokeRequest { id: 2 })).await.expect("it was there");
        let token = granted(&mut steps).await.token;
        // Who holds it loses it by hand, and so does who waits.
        let mut second = doors.acquire(acquire("m", 3, 1)).await;
        waiting(&mut second).await;
        doors.delete("m/3").await;
        let taken = "tenure: the lock's key was taken away while the request waited";
        assert_eq!(refused(&mut second).await, (Code::Aborted, taken.to_owned()));
        doors.delete("m/1").await;
        assert_eq!(doors.release("m", 1, token).await, (false, 0));
    });
}

#[test]
fn a_stream_that_is_dropped_takes_its_waiter_along_and_no_other() {
    run(async {
        let servers = cluster(3, &FLAGS).await;
        let mut doors = Doors::of(&servers[0]).await;
        let mut elsewhere = Doors::of(&servers[1]).await;
        for lease in 1..=2 {
            doors.lease(lease, MINUTE_MS).await;
        }
        let token = doors.take(acquire("n", 1, 1)).await;
        let mut steps = doors.acquire(acquire("n", 2, 1)).await;
        waiting(&mut steps).await;
        drop(steps);
        doors.until_contenders("n", 1).await;
        let mut steps = doors.acquire(acquire("n", 2, 1)).await;
        let finished = (Code::FailedPrecondition, "tenure: the request is finished".to_owned());
        assert_eq!(refused(&mut steps).await, finished);

        // A try that took it over elsewhere stays.
        let mut steps = doors.acquire(acquire("n", 2, 2)).await;
        waiting(&mut steps).await;
        let later = Some(pb::LockRequest { lease: 2, number: 2, lowest_open: 0, attach: 2 });
        let mut taken_over = elsewhere.acquire(pb::LockAcquireRequest { request: later, ..acquire("n", 2, 2) }).await;
        assert_eq!(waiting(&mut taken_over).await.ahead, None);
        drop(steps);
        assert_eq!(doors.cancel("n", request(2, 2)).await, (false, true), "what the first try's end does");
        assert_eq!(doors.release("n", 1, token).await, (true, 0));
        granted(&mut taken_over).await;
        // What is granted stays, and is told to whoever asks again.
        assert_eq!(doors.take(acquire("n", 2, 2)).await, elsewhere.inspect("n").await.queue[0].token);
        assert_eq!(doors.cancel("n", later).await, (true, false), "an explicit one ends it");
        assert_eq!(doors.inspect("n").await.contenders, 0);
        // One that is not known is finished by it.
        assert_eq!(doors.cancel("n", request(2, 3)).await, (false, false));
        assert_eq!(refused(&mut doors.acquire(acquire("n", 2, 3)).await).await, finished);
    });
}

#[test]
fn who_does_not_want_to_wait_does_not() {
    run(async {
        let servers = cluster(1, &FLAGS).await;
        let mut doors = Doors::of(&servers[0]).await;
        for lease in 1..=2 {
            doors.lease(lease, MINUTE_MS).await;
        }
        let token = doors.take(pb::LockAcquireRequest { r#try: true, ..acquire("n", 1, 1) }).await;
        let mut steps = doors.acquire(pb::LockAcquireRequest { r#try: true, ..acquire("n", 2, 1) }).await;
        match state(&mut steps).await.expect("an answer") {
            Some(State::Busy(busy)) => assert_eq!(busy.holder.map(|holder| holder.lease), Some(1)),
            other => panic!("{other:?}"),
        }
        assert_eq!(state(&mut steps).await.expect("no error"), None);
        let mut steps = doors.acquire(pb::LockAcquireRequest { wait_ms: 20, ..acquire("n", 2, 2) }).await;
        waiting(&mut steps).await;
        let over = "tenure: the lock was not granted in time, and the request is finished";
        assert_eq!(refused(&mut steps).await, (Code::DeadlineExceeded, over.to_owned()));
        assert_eq!(doors.inspect("n").await.contenders, 1, "it does not wait any more");
        let mut steps = doors.acquire(acquire("n", 2, 3)).await;
        waiting(&mut steps).await;
        within("a revoke", doors.leases.revoke(pb::LeaseRevokeRequest { id: 2 })).await.expect("it was there");
        let gone = (Code::NotFound, "etcdserver: requested lease not found".to_owned());
        assert_eq!(refused(&mut steps).await, gone);
        assert_eq!(refused(&mut doors.acquire(acquire("n", 2, 4)).await).await, gone);
        assert_eq!(doors.release("n", 1, token).await, (true, 0));
    });
}

#[test]
fn locks_are_shared_and_counted() {
    run(async {
        let servers = cluster(1, &FLAGS).await;
        let mut doors = Doors::of(&servers[0]).await;
        for lease in 1..=4 {
            doors.lease(lease, MINUTE_MS).await;
        }
        let moded = |mode, name, lease| {
            let mode = Some(pb::LockMode { mode: Some(mode) });
            pb::LockAcquireRequest { mode, ..acquire(name, lease, 1) }
        };
        let reader = |lease| moded(Mode::Shared(true), "rw", lease);
        let first = doors.take(reader(1)).await;
        doors.take(reader(2)).await;
        let mut writer = doors.acquire(acquire("rw", 3, 1)).await;
        waiting(&mut writer).await;
        let mut late = doors.acquire(reader(4)).await;
        assert_eq!(waiting(&mut late).await.ahead, Some(3), "behind the writer");
        drop(writer);
        granted(&mut late).await;
        assert_eq!(doors.release("rw", 1, first).await, (true, 0));

        let permits = |permits, limit, lease| {
            let asked = moded(Mode::Semaphore(Semaphore { permits, limit }), "sem", lease);
            pb::LockAcquireRequest { request: request(lease, 2), ..asked }
        };
        let two = doors.take(permits(2, 3, 1)).await;
        let mut more = doors.acquire(permits(2, 3, 2)).await;
        waiting(&mut more).await;
        let mismatch = (Code::FailedPrecondition, "tenure: the lock is in use with another mode or limit".to_owned());
        assert_eq!(refused(&mut doors.acquire(permits(1, 4, 3)).await).await, mismatch);
        assert_eq!(doors.release("sem", 1, two).await, (true, 0));
        granted(&mut more).await;
        let none = permits(0, 3, 3);
        let status = doors.locks.acquire(none).await.expect_err("no permits");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with("tenure: a semaphore has 1 to 1000000 permits"), "{status:?}");

        let held = |number| pb::LockAcquireRequest { holds_max: 2, request: request(4, number), ..acquire("re", 4, 0) };
        let token = doors.take(held(3)).await;
        let twice = granted(&mut doors.acquire(held(4)).await).await;
        assert_eq!((twice.token, twice.holds), (token, 2));
        let often = (Code::FailedPrecondition, "tenure: the lock is held as often as allowed".to_owned());
        assert_eq!(refused(&mut doors.acquire(held(5)).await).await, often);
        let list = pb::LockListRequest { prefix: "".into(), limit: 2, after: "".into() };
        let page = within("a list", doors.locks.list(list)).await.expect("an answer").into_inner();
        let told: Vec<_> = page.locks.iter().map(|lock| (&lock.name[..], lock.contenders, lock.holders)).collect();
        assert_eq!((told, page.more), (vec![(&b"re"[..], 1, 1), (&b"rw"[..], 2, 2)], true));
        let rest = pb::LockListRequest { prefix: "".into(), limit: 0, after: "rw".into() };
        let page = within("a list", doors.locks.list(rest)).await.expect("an answer").into_inner();
        assert_eq!((page.locks.len(), &page.locks[0].name[..], page.more), (1, &b"sem"[..], false));
        let some = pb::LockListRequest { prefix: "r".into(), limit: 0, after: "".into() };
        assert_eq!(within("a list", doors.locks.list(some)).await.expect("an answer").into_inner().locks.len(), 2);
    });
}

#[test]
fn an_operator_takes_a_lock_away_and_everybody_can_tell_why() {
    run(async {
        let servers = cluster(3, &FLAGS).await;
        let mut doors = Doors::of(&servers[0]).await;
        let mut elsewhere = Doors::of(&servers[2]).await;
        for lease in 1..=3 {
            doors.lease(lease, MINUTE_MS).await;
        }
        let token = doors.take(pb::LockAcquireRequest { owner: "stuck".into(), ..acquire("n", 1, 1) }).await;
        let mut next = elsewhere.acquire(acquire("n", 2, 1)).await;
        waiting(&mut next).await;
        let mut force = pb::LockForceReleaseRequest { key: "n/1".into(), token: token + 1, reason: "it hangs".into() };
        let answer = within("a force", doors.locks.force_release(force.clone())).await.expect("an answer");
        assert!(!answer.into_inner().removed, "another token");
        force.token = token;
        let answer = within("a force", doors.locks.force_release(force.clone())).await.expect("an answer");
        assert!(answer.into_inner().removed);
        let second = granted(&mut next).await.token;
        assert_eq!(elsewhere.release("n", 2, second).await, (true, 0));
        let third = doors.take(acquire("n", 3, 1)).await;
        let by_hand = doors.put("n/by-hand", 0).await;
        within("a revoke", doors.leases.revoke(pb::LeaseRevokeRequest { id: 3 })).await.expect("it was there");
        let told = elsewhere.why("n").await;
        let expected = [
            (Kind::Revoked, third),
            (Kind::Created, by_hand),
            (Kind::Acquired, third),
            (Kind::Released, second),
            (Kind::Forced, token),
            (Kind::Acquired, second),
            (Kind::Acquired, token),
        ];
        assert_eq!(kinds(&told), expected);
        let forced = &told[4];
        assert_eq!((&forced.owner[..], &forced.reason[..], forced.held_since), ("stuck", "it hangs", token));
        assert!(forced.member > 0 && matches!(forced.client, Some(Client::Address(_))), "{forced:?}");
        assert_eq!(told[3].held_since, forced.revision, "the hand-off is in the revision that freed it");
        force.reason = "x".repeat(257);
        let status = doors.locks.force_release(force).await.expect_err("too long");
        assert_eq!(
            (status.code(), status.message()),
            (Code::InvalidArgument, "tenure: a reason has at most 256 bytes")
        );
        let compact = etcd::CompactionRequest { revision: forced.revision, physical: true };
        within("a compaction", doors.kv.compact(compact)).await.expect("it is carried out");
        let left = doors.why("n").await;
        assert_eq!(kinds(&left)[..4], expected[..4], "what is compacted is forgotten");
        assert!(left.len() < told.len());
    });
}

#[test]
fn a_guarded_write_is_refused_once_the_lock_is_lost() {
    run(async {
        let servers = cluster(1, &FLAGS).await;
        let mut doors = Doors::of(&servers[0]).await;
        for lease in 1..=2 {
            doors.lease(lease, MINUTE_MS).await;
        }
        let token = doors.take(acquire("n", 1, 1)).await;
        let guarded = |mut request: Request<etcd::PutRequest>, token: i64, lease: i64| {
            let metadata = request.metadata_mut();
            metadata.insert_bin("tenure-lock-key-bin", MetadataValue::from_bytes(format!("n/{lease:x}").as_bytes()));
            metadata.insert("tenure-lock-token", token.to_string().parse().expect("a number"));
            metadata.insert("tenure-lock-lease", lease.to_string().parse().expect("a number"));
            request
        };
        let put = || Request::new(etcd::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() });
        within("a put", doors.kv.put(guarded(put(), token, 1))).await.expect("the lock is held");
        let mut steps = doors.acquire(acquire("n", 2, 1)).await;
        waiting(&mut steps).await;
        doors.release("n", 1, token).await;
        let next = granted(&mut steps).await.token;
        let stale = within("a put", doors.kv.put(guarded(put(), token, 1))).await.expect_err("it is stale");
        let text = "tenure: the lock is not held by that token and lease";
        assert_eq!((stale.code(), stale.message()), (Code::FailedPrecondition, text));
        within("a put", doors.kv.put(guarded(put(), next, 2))).await.expect("the lock is held");
        let delete = etcd::DeleteRangeRequest { key: "k".into(), ..Default::default() };
        for (token, deleted) in [(token, None), (next, Some(1))] {
            let lease = if deleted.is_some() { 2 } else { 1 };
            let (metadata, extensions, _) = guarded(put(), token, lease).into_parts();
            let request = Request::from_parts(metadata, extensions, delete.clone());
            let answer = within("a delete", doors.kv.delete_range(request)).await;
            assert_eq!(answer.ok().map(|answer| answer.into_inner().deleted), deleted);
        }
        let (mut metadata, extensions, _) = guarded(put(), next, 2).into_parts();
        let txn = Request::from_parts(metadata.clone(), extensions, etcd::TxnRequest::default());
        assert_eq!(doors.kv.txn(txn).await.expect_err("no guard there").code(), Code::InvalidArgument);
        metadata.remove("tenure-lock-lease");
        let part = Request::from_parts(metadata, Default::default(), put().into_inner());
        assert_eq!(doors.kv.put(part).await.expect_err("a part of a guard").code(), Code::InvalidArgument);
    });
}

#[test]
fn a_lock_stays_taken_for_its_delay() {
    run(async {
        let servers = cluster(3, &FLAGS).await;
        let mut doors = Doors::of(&servers[0]).await;
        doors.lease(1, 1000).await;
        doors.lease(2, MINUTE_MS).await;
        let token = doors.take(pb::LockAcquireRequest { delay_ms: DELAY_MS, ..acquire("n", 1, 1) }).await;
        let mut steps = doors.acquire(acquire("n", 2, 1)).await;
        waiting(&mut steps).await;
        within("the end of the lease", async {
            while doors.inspect("n").await.queue.iter().any(|one| one.lease == 1) {}
        })
        .await;
        // Its key may be there, but it is not its lease's any more: etcd's service takes nobody for its owner.
        let mut etcds = LockClient::new(servers[1].channel().await);
        let dead = etcds.lock(LockRequest { name: "n".into(), lease: 1 });
        let dead = within("a lock", dead).await.expect_err("the lease has expired");
        assert_eq!((dead.code(), dead.message()), (Code::Unknown, "etcdserver: requested lease not found"));
        let second = granted(&mut steps).await.token;
        let told = doors.why("n").await;
        let expected =
            [(Kind::Lapsed, token), (Kind::Delayed, token), (Kind::Acquired, second), (Kind::Acquired, token)];
        assert_eq!(kinds(&told), expected);
        let (lapsed, delayed) = (told[0].held_ms, told[1].held_ms);
        assert!(delayed >= 1000 && lapsed >= delayed + DELAY_MS, "{told:?}");
        assert_eq!(told[1].key, told[0].key);
        doors.lease(1, 1000).await;
    });
}
