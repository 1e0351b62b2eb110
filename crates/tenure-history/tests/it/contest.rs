//! Contenders for native locks: each promise, kept and broken.

use tenure_history::contest::{Came, Claim, Contests, End, Ended, Guarded, Heard, How, Passed, Touched, Try, check};
use tenure_history::lock::Share;
use tenure_history::model::Change;
use tenure_history::run::Status;
use tenure_history::truth::{Cause, Truth};
use tenure_history::{ClientId, History, Initial, LeaseId, Moment, Revision};

use crate::build::{self, *};

const ALL: [&str; 7] =
    ["lock-turns", "lock-sessions", "lock-requests", "lock-ghosts", "lock-wakeups", "lock-delays", "lock-writes"];

/// A store in which one key after the other changes, from revision 2 on.
struct Story {
    truth: Truth,
    history: History,
    contests: Contests,
}

fn ms(ms: u64) -> Moment {
    Moment(ms * 1_000_000)
}

fn key(lease: i64) -> String {
    format!("l/{lease:x}")
}

impl Story {
    fn new() -> Story {
        let truth = Truth::new(&Initial { revision: Revision(1), ..Initial::default() });
        Story { truth, history: History::default(), contests: Contests::default() }
    }

    /// A contender comes; its key's create revision.
    fn comes(&mut self, lease: i64, at: u64) -> i64 {
        let create = self.truth.revision().0 + 1;
        let kv = leased(kv(&key(lease), "", create, create, 1), lease);
        self.truth.push(vec![Change { key: key(lease).into(), kv: Some(kv) }], Cause::Operation(0));
        self.look(at);
        create
    }

    /// A contender goes.
    fn goes(&mut self, lease: i64, at: u64, cause: Cause) -> i64 {
        self.truth.push(vec![Change { key: key(lease).into(), kv: None }], cause);
        self.look(at);
        self.truth.revision().0
    }

    /// A contender's key loses its lease.
    fn is_delayed(&mut self, lease: i64, create: i64, at: u64) {
        let modified = self.truth.revision().0 + 1;
        let kv = kv(&key(lease), "", create, modified, 2);
        self.truth.push(vec![Change { key: key(lease).into(), kv: Some(kv) }], Cause::Other);
        self.look(at);
    }

    /// Somebody reads just after.
    fn look(&mut self, at: u64) {
        let revision = self.truth.revision().0;
        self.history.operations.push(op(99, at, at + 1, get("x"), got(revision, &[])));
    }

    fn claims(&mut self, lease: i64, share: Share, tries: Vec<Try>, ends: Vec<End>) -> &mut Claim {
        self.contests.claims.push(Claim {
            lock: "l".into(),
            client: ClientId(u32::try_from(lease).unwrap()),
            key: key(lease).into(),
            lease: LeaseId(lease),
            number: 1,
            share,
            holds_max: 0,
            delay_ms: 0,
            tries,
            ends,
        });
        self.contests.claims.last_mut().unwrap()
    }

    /// The promise that is broken, if one is, with its checker.
    fn broken(&self) -> Vec<String> {
        let findings = check(&self.contests, &self.history, &self.truth);
        assert_eq!(findings.iter().map(|finding| &finding.checker[..]).collect::<Vec<_>>(), ALL);
        let wrong = findings.iter().filter(|finding| finding.status == Status::Violation);
        wrong.map(|finding| format!("{}: {}", finding.checker, finding.summary.split(':').next().unwrap())).collect()
    }
}

fn tried(attach: u64, called: u64, returned: u64, came: Came) -> Try {
    Try { attach, called: ms(called), returned: ms(returned), waits: None, came }
}

fn waited(attach: u64, (at, revision): (u64, i64), returned: u64, came: Came) -> Try {
    let waits = Some(Heard { at: ms(at), revision: Revision(revision) });
    Try { waits, ..tried(attach, at - 1, returned, came) }
}

fn granted(token: i64, revision: i64) -> Came {
    Came::Granted { token: Revision(token), revision: Revision(revision), holds: 1 }
}

fn ended(called: u64, how: How, came: Ended) -> End {
    End { called: ms(called), returned: ms(called + 1), how, came }
}

/// Two come, the first goes, then the second; who was granted what, how they want it, and the promise that is broken.
fn two(shares: [Share; 2], second: Came) -> Vec<String> {
    let mut story = Story::new();
    let first = story.comes(1, 10);
    story.comes(2, 20);
    story.goes(1, 30, Cause::Operation(0));
    story.goes(2, 40, Cause::Operation(0));
    story.claims(1, shares[0], vec![tried(1, 5, 11, granted(first, first))], Vec::new());
    story.claims(2, shares[1], vec![tried(1, 15, 35, second)], Vec::new());
    story.broken()
}

#[test]
fn who_is_granted_a_lock_is_in_its_front() {
    let (alone, readers) = (Share::Alone, Share::Readers);
    let of = |taken| Share::Permits { taken, limit: 3 };
    assert_eq!(two([alone, alone], granted(3, 4)), [""; 0]);
    assert_eq!(two([readers, readers], granted(3, 3)), [""; 0]);
    assert_eq!(two([of(1), of(2)], granted(3, 3)), [""; 0]);
    assert_eq!(two([alone, alone], granted(3, 3)), ["lock-turns: one owner"]);
    assert_eq!(two([alone, readers], granted(3, 3)), ["lock-turns: one owner"]);
    assert_eq!(two([of(2), of(2)], granted(3, 3)), ["lock-turns: semaphore bound"]);
}

#[test]
fn nobody_overtakes() {
    for (share, promise) in [
        (Share::Readers, "lock-turns: no reader before a writer that came earlier"),
        (Share::Alone, "lock-turns: first come, first served"),
    ] {
        let mut story = Story::new();
        let first = story.comes(1, 10);
        story.comes(2, 20);
        let third = story.comes(3, 30);
        for (lease, at) in [(1, 40), (2, 50), (3, 60)] {
            story.goes(lease, at, Cause::Operation(0));
        }
        story.claims(1, Share::Readers, vec![tried(1, 5, 11, granted(first, first))], Vec::new());
        story.claims(2, Share::Alone, Vec::new(), Vec::new());
        story.claims(3, share, vec![tried(1, 25, 35, granted(third, third))], Vec::new());
        assert_eq!(story.broken(), [promise]);
    }
}

#[test]
fn no_grant_is_told_of_a_key_that_has_gone_or_of_a_dead_lease() {
    assert_eq!(two([Share::Alone; 2], granted(3, 5)), ["lock-sessions: no grant once the key is gone"]);
    assert_eq!(two([Share::Alone; 2], granted(2, 4)), ["lock-sessions: no grant once the key is gone"]);
    let mut story = Story::new();
    let gone = tenure_history::response::Body::LeaseKeepAlive { ttl_secs: 0 };
    story.history.operations.push(op(9, 1, 2, keep_alive(1), ok(1, gone)));
    let token = story.comes(1, 10);
    story.goes(1, 20, Cause::Operation(0));
    story.claims(1, Share::Alone, vec![tried(1, 5, 11, granted(token, token))], Vec::new());
    assert_eq!(story.broken(), ["lock-sessions: no grant to a dead session"]);
}

#[test]
fn a_grant_is_not_answered_from_before_it_was_asked_for() {
    let mut story = Story::new();
    let token = story.comes(1, 10);
    story.comes(2, 20);
    story.goes(1, 30, Cause::Operation(0));
    story.goes(2, 35, Cause::Operation(0));
    let tries = vec![tried(1, 5, 11, granted(token, token)), tried(2, 40, 41, granted(token, token))];
    story.claims(1, Share::Alone, tries, Vec::new());
    assert_eq!(story.broken(), ["lock-sessions: no grant from before"]);
}

#[test]
fn a_request_that_is_over_stays_so_and_a_later_try_keeps_the_place() {
    let story = |tries: Vec<Try>, ends: Vec<End>| {
        let mut story = Story::new();
        story.comes(1, 10);
        story.goes(1, 30, Cause::Operation(0));
        story.claims(1, Share::Alone, tries, ends);
        story
    };
    let cancel = |called, attach| ended(called, How::Cancel { attach }, Ended::Nothing(Revision(1)));
    let late = vec![tried(1, 1, 2, Came::Lost), waited(2, (20, 2), 25, Came::Left)];
    assert!(
        story(late, vec![cancel(5, 2)]).broken().contains(&"lock-requests: a request that is finished stays so".into())
    );
    let taken = |ends| story(vec![tried(1, 1, 12, Came::Left), waited(2, (11, 2), 31, Came::TakenAway)], ends).broken();
    assert_eq!(taken(Vec::new()), ["lock-requests: a later try keeps the place"]);
    assert_eq!(
        taken(vec![ended(20, How::Cancel { attach: 1 }, Ended::Unknown)]),
        ["lock-requests: a later try keeps the place"]
    );
    assert_eq!(taken(vec![ended(20, How::Cancel { attach: 2 }, Ended::Unknown)]), [""; 0]);
    let mut touched = story(vec![waited(1, (11, 2), 31, Came::TakenAway)], Vec::new());
    touched.contests.touched.push(Touched { key: key(1).into(), lease: LeaseId(1), called: ms(20) });
    assert_eq!(touched.broken(), [""; 0]);
}

#[test]
fn a_request_has_one_token() {
    let mut story = Story::new();
    let first = story.comes(1, 10);
    story.goes(1, 20, Cause::Operation(0));
    let second = story.comes(1, 30);
    story.goes(1, 40, Cause::Operation(0));
    let tries = vec![tried(1, 5, 11, granted(first, first)), tried(2, 25, 31, granted(second, second))];
    story.claims(1, Share::Alone, tries, Vec::new());
    assert_eq!(story.broken(), ["lock-requests: a request is granted once"]);
}

#[test]
fn no_ghost_is_left() {
    let mut story = Story::new();
    let token = story.comes(1, 10);
    story.claims(1, Share::Alone, vec![tried(1, 5, 11, granted(token, token))], Vec::new());
    assert_eq!(story.broken(), ["lock-ghosts: no ghosts at the end"]);
    let end = ended(20, How::Cancel { attach: 1 }, Ended::Nothing(Revision(1)));
    story.contests.claims[0].ends.push(end);
    story.contests.claims[0].tries[0].came = Came::Lost;
    story.goes(1, 30, Cause::Operation(0));
    assert_eq!(story.broken(), ["lock-ghosts: no ghost after an end"]);
}

#[test]
fn a_broken_stream_leaves_nothing_behind_when_all_is_well() {
    for (gone, wrong) in [(3_000, vec![]), (9_000, vec!["lock-ghosts: no ghost after a broken stream".to_owned()])] {
        let mut story = Story::new();
        story.contests.calm_from = Some(ms(0));
        story.comes(1, 10);
        story.comes(2, 11);
        story.look(gone);
        story.goes(2, gone + 10, Cause::Operation(0));
        story.goes(1, gone + 20, Cause::Operation(0));
        // Its lease is given back only then.
        let end = ended(gone + 9, How::Revoke, Ended::Done(Revision(4)));
        story.claims(2, Share::Alone, vec![waited(1, (13, 3), 100, Came::Left)], vec![end]);
        assert_eq!(story.broken(), wrong);
    }
}

#[test]
fn who_is_next_is_told_when_all_is_well() {
    for (told, calm, wrong) in [
        (4_000, Some(0), vec![]),
        (9_000, None, vec![]),
        (9_000, Some(8_000), vec![]),
        (9_000, Some(0), vec!["lock-wakeups: no lost wake-up".to_owned()]),
    ] {
        let mut story = Story::new();
        story.contests.calm_from = calm.map(ms);
        story.comes(1, 10);
        let token = story.comes(2, 20);
        story.goes(1, 30, Cause::Operation(0));
        story.goes(2, 10_000, Cause::Operation(0));
        story.claims(2, Share::Alone, vec![waited(1, (21, 3), told, granted(token, 4))], Vec::new());
        assert_eq!(story.broken(), wrong, "{told} {calm:?}");
    }
}

#[test]
fn a_delay_is_kept() {
    // A lease of a second, granted to who asked at 2 ms, which a delay of 500 ms follows.
    let story = |renewed: Option<u64>, delayed: Option<(u64, u64)>| {
        let mut story = Story::new();
        story.history.operations.push(op(1, 2, 3, grant(1, 1), build::granted(1, 1, 1)));
        let token = story.comes(1, 10);
        let claim = story.claims(1, Share::Alone, vec![tried(1, 5, 11, granted(token, token))], Vec::new());
        claim.delay_ms = 500;
        if let Some(at) = renewed {
            story.history.operations.push(op(1, at, at + 5, keep_alive(1), kept(token, 1)));
        }
        if let Some((began, ended)) = delayed {
            story.is_delayed(1, token, began);
            story.goes(1, ended, Cause::Other);
        } else {
            story.goes(1, 1_100, Cause::Expired(LeaseId(1)));
        }
        story.broken()
    };
    let short = ["lock-delays: the delay is kept"];
    assert_eq!(story(None, Some((1_020, 1_530))), [""; 0]);
    assert_eq!(story(None, Some((1_020, 1_300))), short);
    // The entry that ended the lease was proposed when that was due, and waited; nobody could see it.
    assert_eq!(story(None, Some((1_300, 1_530))), [""; 0]);
    assert_eq!(story(Some(400), Some((1_430, 1_920))), [""; 0]);
    assert_eq!(story(Some(400), Some((1_430, 1_890))), short);
    assert_eq!(story(None, None), ["lock-delays: a holder's lock stays for the delay"]);
}

#[test]
fn a_guard_lets_in_holders_and_nobody_else() {
    let write = |at: i64, sure: bool, passed: Passed| {
        let mut story = Story::new();
        let token = story.comes(1, 10);
        story.comes(2, 20);
        story.goes(1, 30, Cause::Operation(0));
        story.goes(2, 40, Cause::Operation(0));
        story.claims(1, Share::Alone, Vec::new(), Vec::new());
        let (lease, token) = if at == 3 { (2, 3) } else { (1, token) };
        story.contests.writes.push(Guarded {
            lock: "l".into(),
            client: ClientId(1),
            key: key(lease).into(),
            lease: LeaseId(lease),
            token: Revision(token),
            called: ms(25),
            returned: ms(26),
            sure,
            passed,
        });
        story.broken()
    };
    let passed = |at| Passed::Yes(Revision(at));
    assert_eq!(write(2, true, passed(2)), [""; 0]);
    assert_eq!(write(4, false, Passed::No), [""; 0]);
    assert_eq!(write(4, false, passed(4)), ["lock-writes: stale writes are refused"]);
    assert_eq!(write(3, false, passed(3)), ["lock-writes: stale writes are refused"], "it waits");
    assert_eq!(write(2, true, Passed::No), ["lock-writes: a holder may write"]);
}
