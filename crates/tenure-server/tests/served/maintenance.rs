//! The Maintenance service on the wire.

use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::alarm_request::AlarmAction;
use tenure_proto::etcdserverpb::downgrade_request::DowngradeAction;
use tenure_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tonic::Code;
use tonic::transport::Channel;

use crate::support::{cluster, leader, run, within};

const NONE: i32 = pb::AlarmType::None as i32;
const NOSPACE: i32 = pb::AlarmType::Nospace as i32;
const CORRUPT: i32 = pb::AlarmType::Corrupt as i32;

/// The alarms that an answer names.
async fn alarm(
    client: &mut MaintenanceClient<Channel>,
    action: AlarmAction,
    member_id: u64,
    alarm: i32,
) -> Vec<(u64, i32)> {
    let request = pb::AlarmRequest { action: action.into(), member_id, alarm };
    let answer = client.alarm(request).await.expect("an answer").into_inner();
    assert!(answer.header.is_some_and(|header| header.revision > 0));
    answer.alarms.iter().map(|alarm| (alarm.member_id, alarm.alarm)).collect()
}

#[test]
fn alarms_are_raised_listed_and_cleared_one_by_one() {
    use AlarmAction::{Activate, Deactivate, Get};
    run(async {
        let servers = cluster(3, &[]).await;
        let mut clients = Vec::new();
        for server in &servers {
            clients.push(server.maintenance().await);
        }
        let script = [
            (Get, 0, NONE, &[][..]),
            (Activate, 7, NONE, &[]),
            (Deactivate, 7, NONE, &[]),
            (Activate, 7, NOSPACE, &[(7, NOSPACE)]),
            (Activate, 7, NOSPACE, &[(7, NOSPACE)]),
            (Activate, 0, NOSPACE, &[(0, NOSPACE)]),
            (Activate, 9, CORRUPT, &[(9, CORRUPT)]),
            (Get, 0, NONE, &[(0, NOSPACE), (7, NOSPACE), (9, CORRUPT)]),
            (Get, 7, NONE, &[(0, NOSPACE), (7, NOSPACE), (9, CORRUPT)]),
            (Get, 0, NOSPACE, &[(0, NOSPACE), (7, NOSPACE)]),
            (Get, 0, CORRUPT, &[(9, CORRUPT)]),
            (Get, 0, 99, &[]),
            (Deactivate, 0, CORRUPT, &[]),
            (Deactivate, 9, CORRUPT, &[(9, CORRUPT)]),
            (Deactivate, 0, NOSPACE, &[(0, NOSPACE)]),
            (Deactivate, 0, 99, &[]),
            (Get, 0, NONE, &[(7, NOSPACE)]),
            (Deactivate, 7, NOSPACE, &[(7, NOSPACE)]),
            (Deactivate, 7, NOSPACE, &[]),
            (Get, 0, NONE, &[]),
        ];
        for (step, (action, member, kind, expected)) in script.into_iter().enumerate() {
            let answer = alarm(&mut clients[step % 3], action, member, kind).await;
            assert_eq!(answer, expected, "step {step}: {action:?} {member} {kind}");
        }
        for (action, alarm) in [(9, NOSPACE), (Activate.into(), 99), (-1, 0)] {
            let refused =
                clients[0].alarm(pb::AlarmRequest { action, member_id: 1, alarm }).await.expect_err("unknown");
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        }
    });
}

#[test]
fn an_alarm_is_told_by_status_and_stops_what_it_must() {
    run(async {
        let servers = cluster(1, &[]).await;
        let (mut maintenance, mut kv) = (servers[0].maintenance().await, servers[0].kv().await);
        let put = || pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
        alarm(&mut maintenance, AlarmAction::Activate, 5, NOSPACE).await;
        assert_eq!(servers[0].status().await.errors, ["memberID:5 alarm:NOSPACE "]);
        assert_eq!(kv.put(put()).await.expect_err("no space").code(), Code::ResourceExhausted);
        alarm(&mut maintenance, AlarmAction::Activate, 5, CORRUPT).await;
        let delete = pb::DeleteRangeRequest { key: "k".into(), ..Default::default() };
        assert_eq!(kv.delete_range(delete).await.expect_err("corrupt").message(), "etcdserver: corrupt cluster");
        for serializable in [true, false] {
            // As in etcd: what does not go through the log is still answered.
            let read = pb::RangeRequest { key: "k".into(), serializable, ..Default::default() };
            kv.range(read.clone()).await.expect("a read");
            kv.range_stream(read).await.expect("a read").into_inner().message().await.expect("a read");
        }
        alarm(&mut maintenance, AlarmAction::Deactivate, 5, CORRUPT).await;
        alarm(&mut maintenance, AlarmAction::Deactivate, 5, NOSPACE).await;
        kv.put(put()).await.expect("all is well again");
        assert_eq!(servers[0].status().await.errors, [""; 0]);
    });
}

#[test]
fn hash_is_the_same_on_all_members_and_changes_with_what_is_replicated() {
    run(async {
        let servers = cluster(3, &[]).await;
        let mut seen = std::collections::BTreeSet::new();
        let mut kv = servers[0].kv().await;
        let mut maintenance = servers[1].maintenance().await;
        for step in 0..4 {
            let compaction = pb::CompactionRequest { revision: 2, physical: true };
            match step {
                0 => {}
                1 => drop(kv.put(pb::PutRequest { key: "k".into(), ..Default::default() }).await.expect("a put")),
                2 => drop(alarm(&mut maintenance, AlarmAction::Activate, 7, NOSPACE).await),
                _ => drop(kv.compact(compaction).await.expect("a compaction")),
            }
            let hash = within("one hash", async {
                loop {
                    let mut hashes = Vec::new();
                    for server in &servers {
                        let answer = server.maintenance().await.hash(pb::HashRequest::default()).await;
                        let answer = answer.expect("a hash").into_inner();
                        hashes.push((answer.header.expect("a header").revision, answer.hash));
                    }
                    if hashes.iter().all(|hash| *hash == hashes[0]) {
                        return hashes[0];
                    }
                }
            })
            .await;
            assert_eq!(hash.0, if step == 0 { 1 } else { 2 });
            assert!(seen.insert(hash.1), "step {step} changed nothing");
        }
    });
}

#[test]
fn leadership_moves_where_it_is_told_to() {
    run(async {
        let servers = cluster(3, &[]).await;
        let first = leader(&servers).await;
        let mut ids = Vec::new();
        for server in &servers {
            ids.push(server.status().await.header.expect("a header").member_id);
        }
        let target = (first + 1) % 3;
        let (mut leads, mut follows) = (servers[first].maintenance().await, servers[target].maintenance().await);
        let cases = [
            (&mut follows, ids[target], "etcdserver: not leader"),
            (&mut leads, 77, "etcdserver: bad leader transferee"),
        ];
        for (client, target_id, text) in cases {
            let refused = client.move_leader(pb::MoveLeaderRequest { target_id }).await.expect_err("refused");
            assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, text));
        }
        let answer = leads.move_leader(pb::MoveLeaderRequest { target_id: ids[target] }).await.expect("it moves");
        assert_eq!(answer.into_inner().header, None);
        assert_eq!(leader(&servers).await, target);
    });
}

#[test]
fn there_is_nothing_to_downgrade_to() {
    run(async {
        let servers = cluster(1, &[]).await;
        let mut client = servers[0].maintenance().await;
        let cases = [
            (DowngradeAction::Validate.into(), "3.6", Code::InvalidArgument, "invalid downgrade target version"),
            (DowngradeAction::Enable.into(), "3.6.0", Code::InvalidArgument, "invalid downgrade target version"),
            (DowngradeAction::Validate.into(), "six", Code::InvalidArgument, "wrong downgrade target version format"),
            (DowngradeAction::Enable.into(), "", Code::InvalidArgument, "wrong downgrade target version format"),
            (DowngradeAction::Cancel.into(), "", Code::FailedPrecondition, "no inflight downgrade job"),
            (9, "3.6", Code::Unknown, "unknown method"),
        ];
        for (action, version, code, text) in cases {
            let request = pb::DowngradeRequest { action, version: version.to_owned() };
            let refused = client.downgrade(request).await.expect_err("refused");
            assert_eq!((refused.code(), refused.message()), (code, format!("etcdserver: {text}").as_str()));
        }
    });
}

#[test]
fn defragment_answers_without_a_header() {
    run(async {
        let servers = cluster(1, &[]).await;
        let answer = servers[0].maintenance().await.defragment(pb::DefragmentRequest::default()).await;
        assert_eq!(answer.expect("an answer").into_inner(), pb::DefragmentResponse::default());
    });
}
