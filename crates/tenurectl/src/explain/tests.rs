//! Golden texts of the errors that a person acts on.

use tenure_proto::etcdserverpb::ResponseHeader;

use super::*;

fn setback(endpoint: &str, reason: &str) -> Setback {
    Setback { endpoint: endpoint.parse().expect("an address"), reason: reason.to_owned() }
}

fn session(command_line: &[&str], are_defaults: bool) -> Session {
    use clap::Parser as _;
    let arguments = crate::arguments::Arguments::parse_from([&["tenurectl"], command_line].concat());
    let timeouts = arguments.connection.timeouts();
    Session {
        client: Client::new(Vec::new(), timeouts),
        output: arguments.display.output(),
        are_defaults,
        command: arguments.command,
    }
}

fn up(endpoint: &str, member_id: u64, leader: u64) -> State {
    let header = ResponseHeader { member_id, revision: 1234, ..ResponseHeader::default() };
    let status = StatusResponse {
        header: Some(header),
        leader,
        raft_term: 7,
        db_size: 2_200_000_000,
        db_size_in_use: 100_000_000,
        db_size_quota: 2 << 30,
        ..StatusResponse::default()
    };
    (endpoint.parse().expect("an address"), Ok(status))
}

fn down(endpoint: &str) -> State {
    let setback = setback(endpoint, "connection refused");
    (setback.endpoint.clone(), Err(ClientError::Unreachable(vec![setback])))
}

#[test]
fn unreachable_says_what_was_tried_and_what_to_check() {
    let tried = [setback("127.0.0.1:2379", "connection refused"), setback("n2.example:2379", "no answer within 2s")];
    let failure = Failure::Client(ClientError::Unreachable(Vec::new()));
    let told = unreachable(&session(&["status"], true), plain(&failure), &tried);
    assert_eq!(
        told.human(),
        "tenurectl: no endpoint can be reached; nothing was sent\n  \
         127.0.0.1:2379   connection refused\n  \
         n2.example:2379  no answer within 2s\n\
         These are the addresses of a local cluster: `make cluster` starts one. Name others with --endpoints or \
         TENURE_ENDPOINTS."
    );
    let told = unreachable(&session(&["status"], false), plain(&failure), &tried);
    assert!(told.human().contains("--listen-client-urls"), "{}", told.human());
    assert_eq!((told.kind, told.exit_code), ("unreachable", 3));
}

#[test]
fn no_leader_says_who_is_up_and_that_a_majority_is_needed() {
    let error = ClientError::NoLeader(Vec::new());
    let states = [up("127.0.0.1:2379", 1, 0), down("127.0.0.1:22379")];
    let told = without_answer(plain(&Failure::Client(ClientError::NoLeader(Vec::new()))), &error, &states);
    assert_eq!(
        told.human(),
        "tenurectl: the cluster has no leader; nothing was done\n  \
         127.0.0.1:2379   up, knows no leader (term 7)\n  \
         127.0.0.1:22379  connection refused\n\
         A majority of the members must run and reach each other. Start those that are down; a new leader is there about a \
         second later."
    );
    assert_eq!((told.kind, told.exit_code), ("no_leader", 3));
}

#[test]
fn an_unknown_outcome_is_called_that() {
    let lost = || ClientError::Unknown(setback("127.0.0.1:2379", "no answer in time"));
    let states = [up("127.0.0.1:2379", 1, 2), up("127.0.0.1:22379", 2, 2)];
    let told = without_answer(plain(&Failure::Client(lost())), &lost(), &states);
    assert_eq!(
        told.human(),
        "tenurectl: it may or may not have been done: 127.0.0.1:2379 got it, and then: no answer in time\n  \
         127.0.0.1:2379   up, follows 2 (term 7)\n  \
         127.0.0.1:22379  up, leads (term 7)\n\
         Look whether it happened before you do it again."
    );
    assert_eq!((told.kind, told.exit_code), ("unknown_outcome", 4));
}

#[test]
fn no_space_says_what_to_run() {
    let explanation = Explanation { message: "mvcc: database space exceeded".to_owned(), ..Explanation::default() };
    let told = no_space(explanation, &[down("n1:1"), up("n2:1", 2, 2)]);
    assert_eq!(
        told.human(),
        "tenurectl: mvcc: database space exceeded\n  \
         2.0 GiB of 2.0 GiB used, 95.3 MiB of it by current data\n\
         Nothing was written. Make room: `tenurectl compact 1234` drops history, `tenurectl del` drops keys. Then \
         `tenurectl alarm disarm` lets writes in again. The servers' --quota-backend-bytes is the limit."
    );
}

#[test]
fn a_compacted_watch_says_where_to_go_on() {
    let failure = Failure::Client(ClientError::WatchCompacted { oldest: Revision(40) });
    let told = watch_compacted(&session(&["watch", "k", "--rev", "3"], false), plain(&failure), Revision(40));
    assert_eq!(
        told.human(),
        "tenurectl: the watch from revision 3 cannot go on: history before 40 has been compacted\n\
         --rev 40 watches what is left; the changes before it are gone."
    );
    assert_eq!((told.kind, told.exit_code), ("compacted", 1));
}

#[test]
fn programs_get_the_kind_and_the_exit_code() {
    let told = plain(&Failure::NoLease(LeaseId(31)));
    let json = serde_json::to_string(&Wrapped { error: &told }).expect("json");
    let expected = concat!(
        r#"{"error":{"kind":"lease_not_found","message":"there is no lease 000000000000001f","hint":"It was revoked, or "#,
        r#"nobody renewed it in time. `tenurectl lease list` shows those that are left.","exit_code":1}}"#
    );
    assert_eq!(json, expected);
}
