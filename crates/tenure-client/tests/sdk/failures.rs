//! What a program is told when members, or what lies between, fail.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use tenure_client::{Applied, Client, ConnectOptions, Error, MemberId, Prefer};

use crate::support::members::{Cluster, free_addresses};
use crate::support::proxy::{Mode, Proxy};
use crate::support::{eventually, run, within};

fn quick() -> ConnectOptions {
    ConnectOptions::default()
        .try_timeout(Duration::from_millis(200))
        .dial_timeout(Duration::from_millis(500))
        .probe_interval(Duration::from_millis(500))
        .backoff(Duration::from_millis(10), Duration::from_millis(200))
}

/// Long enough that it is only a bug that meets it.
const LONG: Duration = Duration::from_secs(50);

async fn connect(proxies: &[Proxy], options: ConnectOptions) -> Client {
    let endpoints: Vec<String> = proxies.iter().map(Proxy::endpoint).collect();
    within("a client", Client::connect(endpoints, options)).await.expect("a client")
}

async fn all_connected(client: &Client) {
    eventually("all endpoints are connected", async || {
        client.endpoint_states().iter().all(|state| state.is_connected && state.setback.is_none()).then_some(())
    })
    .await;
}

#[test]
fn a_write_whose_answer_is_lost_is_unknown_and_is_sent_once() {
    run(async {
        let cluster = Cluster::one().await;
        let proxies = Proxy::before_each([cluster.members[0].clients; 2]).await;
        let client = connect(&proxies, quick()).await;
        all_connected(&client).await;
        proxies.iter().for_each(|proxy| proxy.set(Mode::StallReplies));
        let lost = client.put("k", "v").timeout(Duration::from_millis(300)).await.expect_err("no answer comes");
        assert!(matches!(lost, Error::Unknown(_)), "{lost:?}");
        assert!(lost.applied() == Applied::Unknown && !lost.is_retryable());

        let direct = cluster.client().await;
        let kept = direct.get("k").one().await.expect("a read").expect("it was done");
        assert_eq!(kept.version, 1, "once");

        // The same when the connection breaks while the answer is under way.
        proxies.iter().for_each(|proxy| proxy.set(Mode::Pass));
        all_connected(&client).await;
        client.get("k").await.expect("it works again");
        proxies.iter().for_each(|proxy| proxy.set(Mode::StallReplies));
        let cut = async {
            eventually("it is done", async || {
                let kv = direct.get("k").one().await.expect("a read").expect("it is there");
                (kv.version == 2).then_some(())
            })
            .await;
            proxies.iter().for_each(|proxy| proxy.set(Mode::Refuse));
        };
        let (lost, ()) = futures::join!(client.put("k", "v").timeout(LONG).into_future(), cut);
        assert!(matches!(lost, Err(Error::Unknown(_))), "{lost:?}");
        assert_eq!(direct.get("k").one().await.expect("a read").expect("it is there").version, 2, "once");
    });
}

#[test]
fn a_read_goes_elsewhere_when_no_answer_comes_and_the_endpoint_is_used_again_when_it_does() {
    run(async {
        let cluster = Cluster::one().await;
        let proxies = Proxy::before_each([cluster.members[0].clients; 2]).await;
        let client = connect(&proxies, quick().prefer(Prefer::Spread)).await;
        all_connected(&client).await;
        client.put("k", "v").await.expect("a put");
        proxies[0].set(Mode::Stall);
        for _ in 0..20 {
            let read = client.get("k").timeout(LONG).await.expect("the other one answers");
            assert_eq!(read.count, 1);
        }
        eventually("it is known to be silent", async || {
            let states = client.endpoint_states();
            states[0].setback.is_some().then_some(())
        })
        .await;
        // What is known to be silent gets no writes, which could not go elsewhere.
        for n in 0..20 {
            client.put("k", format!("{n}")).timeout(LONG).await.expect("the other one answers");
        }
        proxies[0].set(Mode::Pass);
        all_connected(&client).await;
        let version = client.get("k").one().await.expect("a read").expect("it is there").version;
        assert_eq!(version, 21, "each write once");
    });
}

#[test]
fn a_grant_or_revoke_whose_answer_is_lost_is_repeated_and_finds_the_first() {
    run(async {
        let cluster = Cluster::one().await;
        let proxies = Proxy::before_each([cluster.members[0].clients; 2]).await;
        let client = connect(&proxies, quick().prefer(Prefer::Spread).probe_interval(LONG)).await;
        let direct = cluster.client().await;
        all_connected(&client).await;
        client.kind().await.expect("it is Tenure");
        let mut lost = 0;
        for _ in 0..6 {
            all_connected(&client).await;
            proxies[0].set(Mode::StallReplies);
            let granted = client.grant(Duration::from_secs(600)).timeout(LONG).await.expect("a lease");
            assert!(granted.remaining <= granted.ttl);
            lost += usize::from(granted.remaining < granted.ttl);
            proxies[0].set(Mode::Pass);
            all_connected(&client).await;
            proxies[0].set(Mode::StallReplies);
            assert!(client.revoke(granted.id).await.expect("it is revoked"), "by which try, does not matter");
            proxies[0].set(Mode::Pass);
        }
        assert!(lost > 0, "some answer was lost: of a grant that was found, some time had passed");
        assert_eq!(direct.leases().await.expect("a list").len(), 0, "each was granted once, and ended");
    });
}

#[test]
fn a_write_goes_elsewhere_when_nobody_listens() {
    run(async {
        let cluster = Cluster::one().await;
        let [nobody, _] = free_addresses();
        let endpoints = [nobody.to_string(), cluster.members[0].endpoint(), nobody.to_string()];
        let client = Client::connect(endpoints, quick().prefer(Prefer::Spread)).await.expect("one answers");
        assert_eq!(client.endpoints().len(), 2, "one that is named twice is one");
        for n in 0..10 {
            client.put("k", format!("{n}")).await.expect("a put");
        }
        let states = client.endpoint_states();
        assert!(!states[0].is_connected && states[1].is_connected && states[1].is_leader, "{states:?}");
    });
}

#[test]
fn nobody_there_is_told_as_unreachable_with_the_reason_for_each() {
    run(async {
        let [one, other] = free_addresses();
        let options = quick().timeout(Duration::from_millis(300));
        let failed = Client::connect([one.to_string(), other.to_string()], options.clone()).await.expect_err("nobody");
        let Error::Unreachable(setbacks) = &failed else { panic!("{failed:?}") };
        assert_eq!(setbacks.len(), 2);
        assert!(setbacks.iter().all(|setback| setback.reason == "connection refused"), "{failed}");
        assert!(failed.is_retryable() && failed.applied() == Applied::No);

        let lazy = Client::connect([one.to_string()], options.clone().lazy()).await.expect("it does not wait");
        let failed = lazy.put("k", "v").await.expect_err("nobody");
        assert!(matches!(failed, Error::Unreachable(_)), "{failed:?}");
        let hasty = Client::connect([one.to_string()], options.timeout(LONG).fail_fast()).await.expect_err("nobody");
        assert!(matches!(hasty, Error::Unreachable(_)), "{hasty:?}");
    });
}

#[test]
fn requests_wait_for_a_member_that_comes_back() {
    run(async {
        let cluster = Cluster::one().await;
        let proxy = Proxy::before(cluster.members[0].clients).await;
        let client = connect(std::slice::from_ref(&proxy), quick()).await;
        proxy.set(Mode::Refuse);
        eventually("it is gone", async || client.endpoint_states()[0].setback.clone()).await;
        let puts = join_all((0..100).map(|n| client.put(format!("k/{n}"), "v").timeout(LONG).into_future()));
        let back = async {
            tokio::task::yield_now().await;
            proxy.set(Mode::Pass);
        };
        let (puts, ()) = futures::join!(puts, back);
        assert!(puts.iter().all(Result::is_ok), "none was sent, so all can be: {puts:?}");
    });
}

#[test]
fn writes_go_on_over_the_loss_of_a_leader_and_none_is_done_twice() {
    run(async {
        let mut cluster = Cluster::start(3, &["--election-timeout=500", "--heartbeat-interval=50"]).await;
        let client = cluster.client_with(quick()).await;
        let leader = cluster.leader().await;
        let (mut done, mut unknown) = (0, 0);
        for n in 0..60 {
            if n == 20 {
                cluster.members[leader].stop();
            }
            match client.put("k", format!("{n}")).timeout(LONG).await {
                Ok(_) => done += 1,
                Err(Error::Unknown(_)) => unknown += 1,
                Err(error) => panic!("{error:?}"),
            }
        }
        let version = client.get("k").timeout(LONG).one().await.expect("a read").expect("it is there").version;
        assert!((done..=done + unknown).contains(&version), "{done} done, {unknown} unknown, {version} seen");
        assert!(done >= 50, "most need no second look: {done}");
        // It serves again when it is back.
        cluster.members[leader].start();
        all_connected(&client).await;
    });
}

#[test]
fn a_minority_is_known_to_do_nothing_and_still_reads_what_it_has() {
    run(async {
        let mut cluster = Cluster::start(3, &["--election-timeout=500", "--heartbeat-interval=50"]).await;
        let client = cluster.client_with(quick()).await;
        client.put("k", "v").await.expect("a put");
        let last = &cluster.members[2];
        let here = Client::connect([last.endpoint()], quick()).await.expect("a client");
        eventually("it has it", async || here.get("k").serializable().one().await.ok().flatten()).await;
        cluster.members[0].stop();
        cluster.members[1].stop();
        let refused = eventually("it knows that there is no leader", async || {
            match here.put("k", "w").timeout(Duration::from_millis(500)).await {
                Err(Error::Unknown(_)) => None,
                Err(error) => Some(error),
                Ok(_) => panic!("a minority has written"),
            }
        })
        .await;
        assert!(matches!(refused, Error::NoLeader(_)), "{refused:?}");
        assert!(refused.is_retryable() && refused.applied() == Applied::No);
        let stale = here.get("k").serializable().one().await.expect("it has it").expect("it is there");
        assert!(stale.value == "v" || stale.value == "w");
    });
}

#[test]
fn requests_go_to_the_leader_or_to_all_as_the_client_prefers() {
    run(async {
        let mut cluster = Cluster::three().await;
        let client = cluster.client_with(quick().prefer(Prefer::Leader)).await;
        let spread = cluster.client_with(quick().prefer(Prefer::Spread)).await;
        all_connected(&client).await;
        all_connected(&spread).await;
        let leader = cluster.leader().await;
        let mut members = Vec::new();
        for member in &cluster.members {
            members.push(MemberId(member.status().await.header.expect("a header").member_id));
        }
        let mut answered = BTreeSet::new();
        for n in 0..9 {
            let put = client.put("k", format!("{n}")).await.expect("a put");
            assert_eq!(put.header.member, members[leader]);
            answered.insert(spread.get("k").await.expect("a read").header.member);
        }
        assert_eq!(answered.len(), 3, "each has its turn");
        let state = &client.endpoint_states()[leader];
        assert!(state.is_leader && state.member == members[leader], "{state:?}");

        // It hands over when it stops, and the client follows.
        cluster.members[leader].stop();
        let next = cluster.leader().await;
        eventually("the client follows", async || {
            let put = client.put("k", "v").timeout(LONG).await;
            put.ok().filter(|put| put.header.member == members[next])
        })
        .await;
    });
}

#[test]
fn endpoints_change_while_the_client_is_used() {
    run(async {
        let cluster = Cluster::one().await;
        let proxies = Proxy::before_each([cluster.members[0].clients; 2]).await;
        let client = connect(&proxies[..1], quick()).await;
        let clone = client.clone();
        clone.put("k", "1").await.expect("a put");
        client.set_endpoints([proxies[1].endpoint()]).expect("an address");
        proxies[0].set(Mode::Refuse);
        clone.put("k", "2").timeout(LONG).await.expect("by the other");
        assert_eq!(clone.endpoints(), [proxies[1].endpoint()]);
        let refused = client.set_endpoints(["not an address"]).expect_err("it is none");
        assert!(matches!(refused, Error::Invalid(_)));
        assert_eq!(client.endpoints(), [proxies[1].endpoint()], "nothing was changed");
        assert!(client.set_endpoints(Vec::<String>::new()).is_err());
    });
}

#[test]
fn a_thousand_requests_at_once_share_one_connection_and_all_are_answered() {
    run(async {
        let cluster = Cluster::one().await;
        let proxy = Proxy::before(cluster.members[0].clients).await;
        let client = connect(std::slice::from_ref(&proxy), ConnectOptions::default().timeout(LONG)).await;
        let puts = (0..1000).map(|n| client.put(format!("k/{n}"), "v").into_future());
        let failed: Vec<_> = join_all(puts).await.into_iter().filter_map(Result::err).collect();
        assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), failed[0]);
        assert_eq!(client.get("k/").prefix().count_only().await.expect("a read").count, 1000);
        assert_eq!(proxy.accepted(), 1);
    });
}

#[test]
fn a_closed_client_refuses_and_lets_go_of_its_connections() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let clone = client.clone();
        within("it closes", client.close()).await;
        within("it closes again", clone.close()).await;
        assert!(clone.is_closed());
        let refused = clone.put("k", "v").await.expect_err("it is closed");
        assert!(matches!(refused, Error::Closed) && refused.applied() == Applied::No);
    });
}
