//! What is said of locks, to people and to programs.

use super::*;
use crate::output::testing::{human, json};

fn holder() -> pb::LockContender {
    pb::LockContender {
        key: "a/1f".into(),
        token: 7,
        lease: 31,
        lease_remaining_ms: 8123,
        holds_lock: true,
        held_ms: 12_340,
        native: true,
        owner: "web-1:4711".to_owned(),
        metadata: "rack 7\n".into(),
        mode: None,
        age_ms: 12_400,
        holds: 1,
        delayed: false,
    }
}

/// One of etcd's.
fn waiter() -> pb::LockContender {
    pb::LockContender { key: "a/2f".into(), token: 9, lease: 47, lease_remaining_ms: 60_000, ..Default::default() }
}

fn queue(contenders: &[pb::LockContender], all: u64) -> Queue {
    let style = Style::default();
    let queue = contenders.iter().map(|contender| Contender::new(style, contender)).collect();
    Queue { name: style.blob(&"a".into()), contenders: all, queue }
}

#[test]
fn a_queue_is_a_table_in_its_order() {
    assert_eq!(human(&queue(&[], 0)), "a is free\n");
    assert_eq!(
        human(&queue(&[holder(), waiter()], 5)),
        "a: 1 holds it, 4 others behind; 3 more are not shown\n\
         KEY   STATE  TOKEN  SINCE   LEASE ENDS IN  MODE       OWNER       METADATA\n\
         a/1f  holds      7  12.3 s  8.1 s          exclusive  web-1:4711  rack 7\\n\n\
         a/2f  waits      -  -       1 min 0 s      exclusive  -\n"
    );
    assert_eq!(
        json(&queue(&[holder(), waiter()], 2)),
        "{\"name\":\"a\",\"contenders\":2,\"queue\":[\
         {\"key\":\"a/1f\",\"state\":\"holds\",\"token\":7,\"create_revision\":7,\"held_ms\":12340,\"age_ms\":12400,\
         \"lease\":\"000000000000001f\",\"lease_remaining_ms\":8123,\"native\":true,\"mode\":\"exclusive\",\
         \"owner\":\"web-1:4711\",\"metadata\":\"rack 7\\n\",\"holds\":1},\
         {\"key\":\"a/2f\",\"state\":\"waits\",\"create_revision\":9,\"lease\":\"000000000000002f\",\
         \"lease_remaining_ms\":60000,\"native\":false,\"mode\":\"exclusive\",\"metadata\":\"\"}]}\n"
    );
}

#[test]
fn modes_and_delays_are_told() {
    let limited =
        |permits, limit| pb::LockMode { mode: Some(Mode::Semaphore(pb::lock_mode::Semaphore { permits, limit })) };
    assert_eq!(mode(Some(&limited(2, 5))), "2 of 5");
    assert_eq!(mode(Some(&pb::LockMode { mode: Some(Mode::Shared(true)) })), "shared");
    let delayed = pb::LockContender { lease: 0, holds_lock: true, delayed: true, ..holder() };
    let text = human(&queue(&[delayed], 1));
    assert!(text.starts_with("a: nobody holds it until a delay is over, 0 others behind\n"), "{text}");
    assert!(text.contains("\na/1f  delayed      -  12.4 s  -"), "{text}");
}

#[test]
fn locks_are_listed_with_their_oldest_contender() {
    let summary = pb::LockSummary { name: "a".into(), contenders: 5, holders: 1, holder: Some(holder()) };
    let locks = Locks { locks: vec![Summary::new(Style::default(), &summary)] };
    assert_eq!(
        human(&locks),
        "LOCK  HOLD  WAIT  TOKEN  SINCE   OLDEST\n\
         a        1     4      7  12.3 s  web-1:4711\n"
    );
    assert!(
        json(&locks)
            .starts_with("{\"locks\":[{\"name\":\"a\",\"holders\":1,\"waiting\":4,\"oldest\":{\"key\":\"a/1f\",")
    );
    assert_eq!(human(&Locks { locks: Vec::new() }), "no locks\n");
}

fn history(complete: bool, compacted: i64) -> History {
    let forced = pb::LockTransition {
        kind: Kind::Forced.into(),
        key: "a/1f".into(),
        revision: 12,
        token: 7,
        lease: 31,
        owner: "web-1:4711".to_owned(),
        held_since: 7,
        held_ms: 12_340,
        member: 0x8e9e,
        client: Some(Client::Address("10.0.0.7:4711".to_owned())),
        reason: "it\nhangs".to_owned(),
        ..pb::LockTransition::default()
    };
    let cancelled = pb::LockTransition {
        kind: Kind::Cancelled.into(),
        key: "a/2f".into(),
        revision: 11,
        token: 9,
        ..Default::default()
    };
    let acquired = pb::LockTransition {
        kind: Kind::Acquired.into(),
        key: "a/1f".into(),
        revision: 7,
        token: 7,
        mode: Some(pb::LockMode { mode: Some(Mode::Shared(true)) }),
        ..pb::LockTransition::default()
    };
    let style = Style::default();
    let transitions = [forced, cancelled, acquired].iter().map(|told| Transition::new(style, told)).collect();
    History { name: style.blob(&"a".into()), transitions, complete, compacted: Revision(compacted) }
}

#[test]
fn a_history_says_what_became_of_each() {
    assert_eq!(
        human(&history(false, 5)),
        "REVISION  KEY   TOKEN  WHAT                                              DETAILS                            OWNER\n      \
         12  a/1f      7  forced by the client at 10.0.0.7:4711: it\\nhangs  held since revision 7, for 12.3 s  web-1:4711\n      \
         11  a/2f      9  cancelled                                         waited\n       \
         7  a/1f      7  acquired                                          shared\n\
         there is more: --limit tells how much to show\n\
         what happened up to revision 5 may be forgotten\n"
    );
    assert!(
        json(&history(true, 0)).starts_with(
            "{\"name\":\"a\",\"transitions\":[{\"revision\":12,\"kind\":\"forced\",\"key\":\"a/1f\",\"token\":7,\
             \"lease\":\"000000000000001f\",\"owner\":\"web-1:4711\",\"held_since\":7,\"held_ms\":12340,\"member\":\"8e9e\",\
             \"address\":\"10.0.0.7:4711\",\"reason\":\"it\\nhangs\"},"
        )
    );
    let nothing = History { transitions: Vec::new(), ..history(true, 0) };
    assert_eq!(human(&nothing), "nothing is recorded of a\n");
}

#[test]
fn whoever_holds_alone_is_meant_and_of_several_one_has_to_be_named() {
    let second = pb::LockContender { key: "a/3f".into(), ..holder() };
    let sole = |queue: &[pb::LockContender]| {
        sole_holder(Style::default(), queue).map(|found| found.map(|holder| holder.key.clone()))
    };
    assert!(matches!(sole(&[holder(), waiter()]), Ok(Some(key)) if key == "a/1f"));
    assert!(matches!(sole(&[]), Ok(None)));
    let refused = sole(&[holder(), second]).expect_err("two hold it").to_string();
    assert_eq!(refused, "it is held by 2; --key says which one is meant: a/1f, a/3f");
}

#[test]
fn what_was_taken_away_is_told_with_from_whom() {
    let style = Style::default();
    let taken = |removed, from: &pb::LockContender| {
        human(&Taken { name: style.blob(&"a".into()), removed, from: Contender::new(style, from) })
    };
    assert_eq!(taken(true, &holder()), "a is taken away from web-1:4711: token 7\n");
    assert_eq!(taken(true, &waiter()), "key a/2f does not wait for a any more\n");
    assert_eq!(taken(false, &holder()), "web-1:4711 was gone already from a\n");
}
