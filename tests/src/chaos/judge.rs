//! Judges one round: what clients, watchers and owners of locks saw, by the checkers of `tenure-history`, and what the
//! harness itself complains of.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tenure_history::contest::Contests;
use tenure_history::lease::Bounds;
use tenure_history::linearize::Options;
use tenure_history::report::LeaderSeen;
use tenure_history::request::Request;
use tenure_history::response::{Body, Outcome};
use tenure_history::run::{Finding, Findings, Run, Status, Watcher};
use tenure_history::{Initial, LeaseId, Moment, NodeId, Operation};

use tenure_workload::derive;
use tenure_workload::recorder::{Recorded, Seen};
use tenure_workload::settle::settle;

/// A longer time without an acked write counts as one without a working leader. Clients write a hundred times a second.
pub const OUTAGE_MIN: Duration = Duration::from_millis(250);
/// The server's election timeout, which is also the grace that leases get.
const GRACE: Duration = Duration::from_secs(1);
/// A server works on a request for 7 s, and a pause or a partition can hold one back before that for 6.
const UNKNOWN_SETTLES: Duration = Duration::from_secs(14);
/// Most histories need a few for each operation. A part of them goes into a hasty search that can lose its way where the
/// complete one finds it at once, so few are tried before many.
const STEPS_MAX: [u64; 2] = [400_000, 10_000_000];
/// When a clock jumped, the jump goes into the lease clock if its owner leads, or does so soon enough after.
const JUMP_MATTERS: Duration = Duration::from_secs(2);
/// A holder's lease and the delay after it are over by then.
const DELAY_MATTERS: Duration = Duration::from_secs(60);

/// Numbers of one member's processes lie this far apart; there are fewer members.
const LIVES_APART: u32 = 100;

/// What a round consists of.
#[derive(Debug)]
pub struct Round {
    pub initial: Initial,
    pub seen: Seen,
    /// The last revision, which every watcher was told of.
    pub last: tenure_history::Revision,
    /// When everything had healed and every member served.
    pub calm_from: Moment,
    /// When clocks jumped, and whose.
    pub jumps: Vec<(Moment, usize)>,
    /// Who led in the run so far.
    pub leaders: Vec<LeaderSeen>,
    /// When processes were started, and whose.
    pub starts: Vec<(Moment, NodeId)>,
}

/// Everything recorded, in the form that the checkers want.
pub fn prepare(round: Round) -> Run {
    let Round { initial, mut seen, last, calm_from, jumps, leaders, starts } = round;
    let outages = outages(&seen.operations);
    settle(&mut seen, &initial);
    let stood = stood(&outages, &starts);
    let matter = matter(&jumps, &leaders);
    let exempt = exempt(&seen.operations, &matter);
    let contests = contests(std::mem::take(&mut seen.contests), &exempt, &matter);
    let mut run = Run {
        holds: seen.holds.into_iter().filter(|hold| !exempt.contains(&hold.lease)).collect(),
        uses: seen.uses,
        contests: Contests { calm_from: Some(calm_from), ..contests },
        bounds: Bounds { grace: GRACE, outages, stood, unknown_settles: UNKNOWN_SETTLES, exempt, ..Bounds::default() },
        ..Run::default()
    };
    run.history.initial = initial;
    derive::add(&mut run, &seen.operations);
    let mut operations: Vec<Operation> = seen.operations.into_iter().map(|recorded| recorded.operation).collect();
    for operation in &mut operations {
        if told_by_jump(operation, &jumps) {
            operation.outcome = Outcome::Failed("its member's clock had just jumped".to_owned());
        }
        operation.node = life(operation, &starts);
    }
    run.history.operations = operations;
    let watcher = |(number, watched): (usize, tenure_workload::recorder::Watched)| Watcher {
        name: format!("{} {}, {}", if watched.observer { "observer" } else { "watcher" }, number, watched.spec.keys),
        spec: watched.spec,
        steps: watched.steps,
        last: Some(last),
    };
    run.watchers = seen.watched.into_iter().enumerate().map(watcher).collect();
    run
}

/// Checks everything, with more effort if that is needed to decide.
pub fn decide(mut run: Run) -> Findings {
    let mut found = Findings { all: Vec::new() };
    for steps_max in STEPS_MAX {
        run.options = Options { steps_max, ..Options::default() };
        found = run.check();
        if found.all.iter().all(|finding| finding.status != Status::Undecided) {
            break;
        }
    }
    found
}

/// A finding of the harness's own.
pub fn finding(checker: &str, fine: &str, complaints: &[String]) -> Finding {
    let (status, summary) = match complaints.first() {
        None => (Status::Ok, fine.to_owned()),
        Some(first) => (Status::Violation, first.lines().next().unwrap_or_default().to_owned()),
    };
    let evidence = complaints.iter().flat_map(|complaint| complaint.lines().map(str::to_owned)).collect();
    Finding { checker: checker.to_owned(), status, summary, evidence }
}

/// The times without a working leader: between answers to writes that came too far apart.
fn outages(operations: &[Recorded]) -> Vec<(Moment, Moment)> {
    let answered = operations.iter().map(|recorded| &recorded.operation).filter(|operation| is_write(operation));
    let mut answered: Vec<Moment> = answered
        .filter(|operation| operation.response().is_some())
        .filter_map(|operation| operation.returned)
        .collect();
    answered.sort_unstable();
    let far_apart = |pair: &&[Moment]| pair[1].since(pair[0]) > OUTAGE_MIN;
    answered.windows(2).filter(far_apart).map(|pair| (pair[0], pair[1])).collect()
}

/// Whether a member said how long a lease still lives just after its clock had jumped: it believes its own clock until the
/// next entry with the time.
fn told_by_jump(operation: &Operation, jumps: &[(Moment, usize)]) -> bool {
    let asks = matches!(operation.request, Request::LeaseTimeToLive { .. });
    let just = |(at, node): &(Moment, usize)| {
        let same = operation.node.is_some_and(|asked| usize::try_from(asked.0) == Ok(*node));
        same && operation.returned >= Some(*at) && operation.called <= at.after(JUMP_MATTERS)
    };
    asks && jumps.iter().any(just)
}

/// The process that an operation was asked of: a member is another one after each start. What a member has applied and not
/// yet flushed it applies again after a crash, so a serializable read may go back then, and then only.
fn life(operation: &Operation, starts: &[(Moment, NodeId)]) -> Option<NodeId> {
    let node = operation.node?;
    let lives = |at: Moment| starts.iter().filter(|(start, started)| *started == node && *start <= at).count();
    let (first, last) = (lives(operation.called), lives(operation.returned?));
    let number = u32::try_from(last).ok()?.checked_mul(LIVES_APART)?.checked_add(node.0)?;
    (first == last).then_some(NodeId(number))
}

/// The times without a leader in which a process was started: if it led next, the lease clock stood while it was down.
fn stood(outages: &[(Moment, Moment)], starts: &[(Moment, NodeId)]) -> Vec<(Moment, Moment)> {
    let started = |(from, to): &&(Moment, Moment)| starts.iter().any(|(start, _)| from <= start && start <= to);
    outages.iter().filter(started).copied().collect()
}

fn is_write(operation: &Operation) -> bool {
    match &operation.request {
        Request::Put(_) | Request::DeleteRange(_) | Request::LeaseGrant { .. } | Request::LeaseRevoke { .. } => true,
        Request::Txn(txn) => !txn.is_read_only(),
        Request::Range(_)
        | Request::Compact { .. }
        | Request::LeaseKeepAlive { .. }
        | Request::LeaseTimeToLive { .. } => false,
    }
}

/// The jumps of clocks by which leases were measured: of a member that led, or began to soon after. The others' are
/// forgotten with the next entry that carries the time.
fn matter(jumps: &[(Moment, usize)], leaders: &[LeaderSeen]) -> Vec<Moment> {
    let led = |at: Moment, node: usize| {
        let node = u32::try_from(node).ok().map(NodeId);
        let before = leaders.iter().rev().find(|seen| seen.at <= at);
        let soon = leaders.iter().filter(|seen| seen.at > at && seen.at <= at.after(JUMP_MATTERS));
        before.into_iter().chain(soon).any(|seen| seen.node == node)
    };
    jumps.iter().filter(|(at, node)| led(*at, *node)).map(|(at, _)| *at).collect()
}

/// What was recorded of contenders, without what a jump of a clock excuses: that a holder's lease ended early, and its delay.
fn contests(mut contests: Contests, exempt: &BTreeSet<LeaseId>, jumps: &[Moment]) -> Contests {
    contests.writes.iter_mut().for_each(|write| write.sure &= !exempt.contains(&write.lease));
    for claim in &mut contests.claims {
        let Some((first, last)) = claim.tries.first().zip(claim.tries.last()) else { continue };
        let (from, to) = (first.called, last.returned.after(DELAY_MATTERS));
        if jumps.iter().any(|at| from <= at.after(JUMP_MATTERS) && *at <= to) {
            claim.delay_ms = 0;
        }
    }
    contests
}

/// Leases that may have been there when a clock jumped by which they were measured: they may end early.
fn exempt(operations: &[Recorded], jumps: &[Moment]) -> BTreeSet<LeaseId> {
    if jumps.is_empty() {
        return BTreeSet::new();
    }
    let mut lives: BTreeMap<LeaseId, (Moment, Moment)> = BTreeMap::new();
    for Recorded { operation, .. } in operations {
        let Some(id) = operation.request.lease() else { continue };
        let told_gone = match &operation.outcome {
            Outcome::Ok(response) => matches!(
                response.body,
                Body::LeaseRevoke | Body::LeaseKeepAlive { ttl_secs: 0 } | Body::LeaseTimeToLive { ttl_secs: -1, .. }
            ),
            Outcome::Refused(_) => true,
            Outcome::Failed(_) | Outcome::Unknown => false,
        };
        let life = lives.entry(id).or_insert((operation.called, Moment::NEVER));
        life.0 = life.0.min(operation.called);
        if told_gone {
            life.1 = life.1.min(operation.returned.unwrap_or(Moment::NEVER));
        }
    }
    let hit = |(from, to): &(Moment, Moment)| jumps.iter().any(|at| *from <= at.after(JUMP_MATTERS) && *at <= *to);
    lives.into_iter().filter(|(_, life)| hit(life)).map(|(id, _)| id).collect()
}

#[cfg(test)]
mod tests {
    use tenure_history::request::Put;
    use tenure_history::response::Response;
    use tenure_history::{ClientId, Revision};

    use super::*;
    use tenure_workload::workloads::Workload;

    const MS: u64 = 1_000_000;

    fn put(returned_ms: u64, outcome: Outcome) -> Recorded {
        let operation = Operation::invoke(ClientId(1), None, Moment(0), Request::Put(Put::default()));
        Recorded { workload: Workload::Mix, operation: operation.complete(Moment(returned_ms * MS), outcome) }
    }

    fn acked() -> Outcome {
        Outcome::Ok(Response { revision: Revision(2), body: Body::Put { prev_kv: None } })
    }

    #[test]
    fn outages_are_gaps_between_acked_writes() {
        let mut operations: Vec<Recorded> =
            [0, 100, 2_000, 2_100, 3_000, 5_000, 5_100, 5_200, 7_000].map(|at| put(at, acked())).to_vec();
        operations.push(put(1_000, Outcome::Unknown));
        let ms = |at: Moment| at.0 / MS;
        let found: Vec<_> = outages(&operations).into_iter().map(|(from, to)| (ms(from), ms(to))).collect();
        assert_eq!(found, [(100, 2_000), (2_100, 3_000), (3_000, 5_000), (5_200, 7_000)]);
        let calm: Vec<Recorded> = (0..50).map(|at| put(at * 100, acked())).chain([put(9_000, acked())]).collect();
        let found: Vec<_> = outages(&calm).into_iter().map(|(from, to)| (ms(from), ms(to))).collect();
        assert_eq!(found, [(4_900, 9_000)]);
    }

    #[test]
    fn a_member_is_another_after_each_start_and_nobody_in_between() {
        let starts = [(Moment(0), NodeId(1)), (Moment(10), NodeId(1)), (Moment(5), NodeId(2))];
        let of = |called, returned| {
            let request = Request::Put(Put::default());
            let operation = Operation::invoke(ClientId(1), Some(NodeId(1)), Moment(called), request);
            life(&operation.complete(Moment(returned), acked()), &starts)
        };
        assert_eq!(of(1, 6), of(2, 9));
        assert_eq!(of(9, 11), None);
        assert!(of(11, 12).is_some() && of(11, 12) != of(1, 2));
    }

    #[test]
    fn only_leases_that_lived_when_a_leaders_clock_jumped_are_exempt() {
        let lease = |id, called_s: u64, body| {
            let request = Request::LeaseTimeToLive { id: LeaseId(id), keys: false };
            let outcome = Outcome::Ok(Response { revision: Revision(2), body });
            let operation = Operation::invoke(ClientId(1), None, Moment(called_s * 1_000 * MS), request);
            Recorded {
                workload: Workload::Leases,
                operation: operation.complete(Moment(called_s * 1_000 * MS), outcome),
            }
        };
        let gone = || Body::LeaseTimeToLive { ttl_secs: -1, granted_secs: 0, keys: Vec::new() };
        let lives = || Body::LeaseTimeToLive { ttl_secs: 3, granted_secs: 4, keys: Vec::new() };
        let operations = [
            lease(1, 1, lives()),
            lease(1, 5, gone()),
            lease(2, 6, lives()),
            lease(2, 20, gone()),
            lease(3, 30, lives()),
        ];
        let exempt = exempt(&operations, &[Moment(10_000 * MS)]);
        assert_eq!(exempt.into_iter().collect::<Vec<_>>(), [LeaseId(2)]);
    }

    #[test]
    fn what_a_member_says_of_a_lease_just_after_its_jump_counts_for_nothing() {
        let asked = |node, called| {
            let request = Request::LeaseTimeToLive { id: LeaseId(1), keys: false };
            let operation = Operation::invoke(ClientId(1), Some(NodeId(node)), Moment(called), request);
            told_by_jump(&operation.complete(Moment(called + 1), acked()), &[(Moment(100), 2)])
        };
        assert!(asked(2, 100) && asked(2, 99) && asked(2, 1_000 * MS));
        assert!(!asked(1, 100) && !asked(2, 50) && !asked(2, 3_000 * MS));
    }

    #[test]
    fn a_jump_matters_if_its_member_led_or_soon_did() {
        let seen =
            |at_s: u64, node: u32| LeaderSeen { at: Moment(at_s * 1_000 * MS), node: Some(NodeId(node)), term: at_s };
        let leaders = [seen(1, 0), seen(11, 1), seen(30, 2)];
        let at = Moment(10_000 * MS);
        assert_eq!(matter(&[(at, 0)], &leaders), [at]);
        assert_eq!(matter(&[(at, 1)], &leaders), [at]);
        assert!(matter(&[(at, 2)], &leaders).is_empty());
    }

    #[test]
    fn a_complaint_is_a_violation_and_none_is_not() {
        assert_eq!(finding("processes", "fine", &[]).status, Status::Ok);
        let bad = finding("processes", "fine", &["n1 ended\nlog".to_owned()]);
        assert_eq!((bad.status, bad.summary.as_str(), bad.evidence.len()), (Status::Violation, "n1 ended", 2));
    }
}
