//! The lessor's decisions with hand-fed time: single stories first, then its law against a naive model.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use tenure_core::LogIndex;

use super::*;

const GRACE_MS: u64 = 1000;

/// With the margin, and what renewals count for, it makes 10,100.
const TTL_MS: u64 = 9_901;

/// A lease that ends 10,100 ms after its last renewal, granted at a reading by a log entry.
fn row(granted_at: u64, clock_ms: u64) -> LeaseRow {
    let incarnation = Incarnation { index: LogIndex(granted_at), place: 0 };
    LeaseRow { incarnation, ttl_ms: TTL_MS, renewals: 0, clock_ms, has_holder: false }
}

fn renewed(row: LeaseRow, clock_ms: u64) -> LeaseRow {
    LeaseRow { renewals: row.renewals + 1, clock_ms, ..row }
}

/// One that was promoted long ago and looked a moment ago.
fn lessor_at(now_ms: u64, rows: &[(i64, LeaseRow)]) -> Lessor {
    let rows = rows.iter().map(|(id, row)| (LeaseId(*id), *row)).collect();
    let mut lessor = Lessor::promote(rows, now_ms.saturating_sub(GRACE_MS), GRACE_MS);
    lessor.look(now_ms, true);
    lessor
}

fn revokes(lessor: &mut Lessor, now_ms: u64) -> Vec<Flight> {
    lessor.look(now_ms, true);
    lessor.revokes(now_ms, nobody)
}

fn nobody(leases: &[(u64, LeaseId)]) -> Vec<bool> {
    vec![false; leases.len()]
}

/// These are being renewed.
fn those(renewing: impl Fn(LeaseId) -> bool) -> impl Fn(&[(u64, LeaseId)]) -> Vec<bool> {
    move |leases| leases.iter().map(|(_, id)| renewing(*id)).collect()
}

fn ids(flights: &[Flight]) -> Vec<i64> {
    flights.iter().flat_map(|flight| &flight.revokes).map(|revoke| revoke.id.0).collect()
}

#[test]
fn a_lease_is_revoked_by_name_once_it_is_due_and_again_until_it_is_gone() {
    let granted = row(7, 0);
    let mut lessor = lessor_at(9500, &[(1, granted)]);
    assert_eq!(revokes(&mut lessor, 10_099), []);
    let due = 10_100 + SLOT_MS_SLACK;
    let flights = revokes(&mut lessor, due);
    let guard = ExpiryGuard { incarnation: granted.incarnation, renewals: 0 };
    let revoke = LeaseRevoke { id: LeaseId(1), expiry: Some(guard), by: None };
    assert_eq!(flights, [Flight { number: 0, revokes: vec![revoke.clone()] }]);
    assert_eq!(revokes(&mut lessor, due + 500), [], "once is enough while it is on its way");
    lessor.landed(0, due + 500);
    assert_eq!(revokes(&mut lessor, due + 500), [], "what failed is not tried at once");
    assert_eq!(lessor.next_look_ms(), Some(due + 500 + RETRY_MS));
    let again = revokes(&mut lessor, due + 500 + RETRY_MS);
    assert_eq!(again, [Flight { number: 1, revokes: vec![revoke] }]);
    lessor.changed(LeaseId(1), None, due + 700);
    lessor.landed(1, due + 700);
    assert_eq!(revokes(&mut lessor, due + 900), []);
    assert_eq!((lessor.live(), lessor.oldest_overdue_ms(due + 900), lessor.next_look_ms()), (0, 0, None));
    assert_eq!(lessor.tally.lateness.max_ms, due + 700 - 10_100);
}

/// A lease is looked at when its slot is over.
const SLOT_MS_SLACK: u64 = crate::node::lessor::timers::SLOT_MS;

#[test]
fn a_renewal_postpones_the_end_wherever_the_lease_is() {
    let granted = row(7, 0);
    let mut lessor = lessor_at(9500, &[(1, granted), (2, granted), (3, granted)]);
    // Filed, overdue, in flight.
    let once = renewed(granted, 9600);
    lessor.changed(LeaseId(1), Some(once), 9600);
    lessor.look(10_200, true);
    lessor.changed(LeaseId(2), Some(renewed(granted, 10_150)), 10_200);
    let flights = lessor.revokes(10_200, nobody);
    assert_eq!(ids(&flights), [3]);
    lessor.changed(LeaseId(3), Some(renewed(granted, 10_190)), 10_210);
    lessor.landed(0, 10_220);
    assert_eq!(lessor.tally.renewed, 3);
    assert_eq!(lessor.oldest_overdue_ms(10_230), 0);
    // Each lives for another TTL from its own renewal.
    let mut ended = Vec::new();
    for now_ms in (10_250..21_000).step_by(50) {
        for flight in revokes(&mut lessor, now_ms) {
            for revoke in flight.revokes {
                assert_eq!(revoke.expiry.expect("a guard").renewals, 1);
                ended.push((revoke.id.0, now_ms));
                lessor.changed(revoke.id, None, now_ms);
            }
            lessor.landed(flight.number, now_ms);
        }
    }
    assert_eq!(ended, [(1, 19_750), (2, 20_300), (3, 20_300)]);
}

#[test]
fn a_lease_with_a_renewal_under_way_is_left_alone() {
    let mut lessor = lessor_at(9500, &[(1, row(7, 0)), (2, row(7, 100))]);
    lessor.look(10_300, true);
    let flights = lessor.revokes(10_300, those(|id| id == LeaseId(1)));
    assert_eq!(ids(&flights), [2]);
    assert_eq!(lessor.oldest_overdue_ms(10_300), 200);
    assert_eq!(ids(&revokes(&mut lessor, 10_400)), [1], "the renewal came to nothing");
}

#[test]
fn renewals_never_wait_for_a_look_at_all_that_is_due() {
    const RENEWING: i64 = 40_000;
    let rows: Vec<(i64, LeaseRow)> = (1..=RENEWING + 1).map(|id| (id, row(7, 0))).collect();
    let mut lessor = lessor_at(10_100, &rows);
    lessor.look(10_200, true);
    let looks = std::cell::RefCell::new(Vec::new());
    let renewing = |leases: &[(u64, LeaseId)]| {
        looks.borrow_mut().push(leases.len());
        leases.iter().map(|(_, id)| id.0 <= RENEWING).collect()
    };
    let (mut flights, mut turns) = (Vec::new(), 0u64);
    while flights.is_empty() {
        flights = lessor.revokes(10_200 + turns, renewing);
        let looks = looks.take();
        assert!(looks.iter().all(|look| *look <= REVOKES_PER_FLIGHT_MAX), "as long as this, renewals wait");
        assert!(looks.iter().sum::<usize>() <= LOOKS_PER_TURN_MAX);
        turns += 1;
        assert!(turns < 12, "those that are renewed must not hide the one that is not");
    }
    assert_eq!(ids(&flights), [RENEWING + 1]);
    assert_eq!(lessor.oldest_overdue_ms(10_200), 100);
    // Those set aside are looked at again, and a renewal of them counts at once.
    lessor.changed(LeaseId(1), Some(renewed(row(7, 0), 10_210)), 10_210);
    assert_eq!(ids(&lessor.revokes(10_200 + ASIDE_MS, those(|id| id.0 > 3))), [2, 3]);
}

#[test]
fn it_sleeps_while_it_can_send_nothing() {
    let rows: Vec<(i64, LeaseRow)> = (1..=1000).map(|id| (id, row(7, 0))).collect();
    // All are being renewed: until it looks at them again.
    let mut lessor = lessor_at(10_100, &rows);
    lessor.look(10_200, true);
    assert_eq!(lessor.revokes(10_200, those(|_| true)), []);
    assert_eq!(lessor.next_look_ms(), Some(10_200 + ASIDE_MS));
    // All flights are on their way: until one lands.
    assert_eq!(revokes(&mut lessor, 10_200 + ASIDE_MS).len(), FLIGHTS_MAX);
    assert_eq!(lessor.next_look_ms(), None);
    lessor.landed(0, 10_350);
    assert_eq!(lessor.next_look_ms(), Some(10_350 + RETRY_MS));
    // No quorum is heard: until one is.
    lessor.look(10_400, false);
    assert_eq!(lessor.revokes(10_400, nobody), []);
    assert_eq!(lessor.next_look_ms(), None);
}

#[test]
fn after_a_promotion_clients_get_a_grace() {
    let rows = vec![(LeaseId(1), row(7, 0)), (LeaseId(2), row(7, 40_900)), (LeaseId(3), row(7, 60_000))];
    let mut lessor = Lessor::promote(rows, 50_000, GRACE_MS);
    assert_eq!(revokes(&mut lessor, 50_500), []);
    assert_eq!(lessor.oldest_overdue_ms(50_500), 50_500 - 10_100);
    assert_eq!(lessor.next_look_ms(), Some(51_000), "the grace is waited for");
    assert_eq!(revokes(&mut lessor, 50_999), []);
    assert_eq!(ids(&revokes(&mut lessor, 51_000)), [1]);
    assert_eq!(ids(&revokes(&mut lessor, 51_050)), [2], "what becomes due later waits no longer than that");
}

#[test]
fn nothing_ends_without_a_quorum_and_for_a_grace_after() {
    let mut lessor = lessor_at(9500, &[(1, row(7, 0))]);
    for now_ms in (9600..30_000).step_by(100) {
        lessor.look(now_ms, false);
        assert_eq!(lessor.revokes(now_ms, nobody), []);
    }
    lessor.look(30_000, true);
    assert_eq!(lessor.revokes(30_000, nobody), []);
    // A client renews as soon as it can.
    lessor.changed(LeaseId(1), Some(renewed(row(7, 0), 30_100)), 30_100);
    assert_eq!(revokes(&mut lessor, 30_600), []);
    assert_eq!(revokes(&mut lessor, 31_500), []);
    for now_ms in (31_600..40_250).step_by(100) {
        assert_eq!(revokes(&mut lessor, now_ms), []);
    }
    assert_eq!(ids(&revokes(&mut lessor, 40_250)), [1]);
}

#[test]
fn a_gap_in_its_own_looking_gives_a_grace() {
    let mut lessor = lessor_at(9500, &[(1, row(7, 0))]);
    assert_eq!(revokes(&mut lessor, 30_000), [], "it was stopped, and so were its clients' renewals");
    assert_eq!(revokes(&mut lessor, 30_900), []);
    assert_eq!(ids(&revokes(&mut lessor, 31_000)), [1]);
    let mut lessor = lessor_at(9500, &[(1, row(7, 0))]);
    assert_eq!(ids(&revokes(&mut lessor, 10_500)), [1], "a grace's length is no gap");
}

#[test]
fn many_go_in_full_flights_the_longest_due_first() {
    let rows: Vec<(i64, LeaseRow)> = (0..600i64).map(|id| (id + 1, row(7, 600 - id.unsigned_abs()))).collect();
    let mut lessor = lessor_at(10_400, &rows);
    let flights = revokes(&mut lessor, 10_800);
    assert_eq!(flights.iter().map(|flight| flight.revokes.len()).collect::<Vec<_>>(), [256, 256]);
    assert_eq!(ids(&flights), (89..=600).rev().collect::<Vec<_>>());
    assert_eq!(revokes(&mut lessor, 10_900), [], "two at a time");
    for revoke in &flights[0].revokes {
        lessor.changed(revoke.id, None, 10_950);
    }
    lessor.landed(0, 10_950);
    assert_eq!(ids(&revokes(&mut lessor, 10_950)), (1..=88).rev().collect::<Vec<_>>());
}

#[test]
fn a_storm_of_ends_leaves_room_for_others() {
    const LEASES: i64 = 20_000;
    let full = REVOKES_PER_FLIGHT_MAX as u64;
    let rows: Vec<(i64, LeaseRow)> = (1..=LEASES).map(|id| (id, row(7, 0))).collect();
    let mut lessor = lessor_at(10_100, &rows);
    let (mut ended, mut sleeps) = (Vec::new(), 0);
    let mut now_ms = 10_200;
    while lessor.live() > 0 {
        // Every flight is applied before the next turn: nothing but the pace holds them up.
        for flight in revokes(&mut lessor, now_ms) {
            for revoke in &flight.revokes {
                lessor.changed(revoke.id, None, now_ms);
                ended.push(now_ms);
            }
            lessor.landed(flight.number, now_ms);
        }
        // The shell wakes up in whole milliseconds, and late.
        let next = lessor.next_look_ms().map_or(now_ms, |next| next.max(now_ms + 1)) + 1;
        sleeps += u64::from(next > now_ms + 2);
        now_ms = next;
        assert!(now_ms < 13_000, "{} leases are left", lessor.live());
    }
    assert!(sleeps > 20, "it looks without end");
    for from in (10_200..now_ms).step_by(10) {
        let in_tenth = ended.iter().filter(|at| (from..from + 100).contains(*at)).count() as u64;
        assert!(
            in_tenth <= full * (100 + CATCH_UP_MS) / FLIGHT_MS + full,
            "{in_tenth} in the tenth of a second from {from}"
        );
    }
    let took = now_ms - 10_200;
    let at_pace = LEASES.unsigned_abs() * FLIGHT_MS / full;
    assert!(took <= at_pace + CATCH_UP_MS, "{took} ms instead of {at_pace} ms: late wake-ups are caught up with");
}

#[test]
fn leases_that_end_one_by_one_are_not_paced() {
    let rows: Vec<(i64, LeaseRow)> = (0..100i64).map(|id| (id + 1, row(7, id.unsigned_abs()))).collect();
    let mut lessor = lessor_at(10_000, &rows);
    let mut left = 100;
    for now_ms in 10_100..10_400 {
        let flights = revokes(&mut lessor, now_ms);
        for revoke in flights.iter().flat_map(|flight| &flight.revokes) {
            lessor.changed(revoke.id, None, now_ms);
            left -= 1;
        }
        flights.iter().for_each(|flight| lessor.landed(flight.number, now_ms));
        let overdue = lessor.oldest_overdue_ms(now_ms);
        assert!(overdue <= SLOT_MS_SLACK, "one is overdue for {overdue} ms");
    }
    assert_eq!(left, 0);
}

#[test]
fn an_id_used_again_is_another_lease() {
    let mut lessor = lessor_at(9500, &[(1, row(7, 0))]);
    lessor.changed(LeaseId(1), None, 9600);
    lessor.changed(LeaseId(1), Some(row(8, 9600)), 9600);
    assert_eq!(revokes(&mut lessor, 10_400), []);
    // In one run, so that only the new one is heard of.
    lessor.changed(LeaseId(1), Some(row(9, 10_300)), 10_400);
    let mut flights = Vec::new();
    for now_ms in (10_500..20_450).step_by(100) {
        flights.extend(revokes(&mut lessor, now_ms));
    }
    assert_eq!(flights, []);
    let guard = revokes(&mut lessor, 20_450)[0].revokes[0].expiry.expect("a guard");
    assert_eq!(guard.incarnation.index, LogIndex(9));
    assert_eq!((lessor.tally.granted, lessor.tally.revoked), (2, 2));
}

#[test]
fn leases_that_were_revoked_leave_no_growing_trace() {
    let century = LeaseRow { ttl_ms: 3_000_000_000_000, ..row(1, 0) };
    let mut lessor = lessor_at(0, &[(-1, century), (-2, row(1, 0))]);
    for id in 1..100_000 {
        lessor.changed(LeaseId(id), Some(century), 10);
        lessor.changed(LeaseId(id), None, 10);
        assert!(lessor.timers.filed() <= VOID_TIMERS_MIN + 6);
    }
    // In one run with the grant of the next, so that only that is heard of.
    for granted_at in 2..100_000 {
        let incarnation = Incarnation { index: LogIndex(granted_at), place: 0 };
        lessor.changed(LeaseId(-1), Some(LeaseRow { incarnation, ..century }), 10);
        assert!(lessor.timers.filed() <= VOID_TIMERS_MIN + 6);
    }
    let mut ended = Vec::new();
    for now_ms in (100..11_000).step_by(100) {
        ended.extend(ids(&revokes(&mut lessor, now_ms)));
    }
    assert_eq!((ended, lessor.live()), (vec![-2], 2), "those that live are timed as before");
}

#[test]
fn after_missed_changes_it_goes_by_the_table() {
    let mut lessor = lessor_at(9500, &[(1, row(7, 0)), (2, row(7, 0)), (3, row(7, 0))]);
    let flights = revokes(&mut lessor, 10_200);
    assert_eq!(ids(&flights), [1, 2, 3]);
    lessor.changed(LeaseId(9), Some(row(8, 0)), 10_200);
    assert_eq!(ids(&revokes(&mut lessor, 10_200)), [9]);
    lessor.reload(vec![(LeaseId(2), row(7, 0)), (LeaseId(4), row(9, 5000))]);
    assert_eq!(revokes(&mut lessor, 10_250), [], "the flights of before are still on their way");
    lessor.landed(flights[0].number, 10_250);
    let again = revokes(&mut lessor, 10_300);
    assert_eq!(ids(&again), [2]);
    assert_ne!(again[0].number, flights[0].number);
    assert_eq!(lessor.live(), 2);
}

#[derive(Clone, Debug)]
enum Step {
    Grant {
        id: i64,
        ttl_ms: u64,
    },
    Renew {
        id: i64,
    },
    Revoke {
        id: i64,
    },
    /// Time passes, and the lessor looks.
    Look {
        ms: u64,
        able: bool,
        renewing: i64,
    },
    /// The oldest flight ends, carried out or not.
    Land {
        applied: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let id = || 1..6i64;
    prop_oneof![
        3 => (id(), 1000..4000u64).prop_map(|(id, ttl_ms)| Step::Grant { id, ttl_ms }),
        2 => id().prop_map(|id| Step::Renew { id }),
        1 => id().prop_map(|id| Step::Revoke { id }),
        10 => (prop_oneof![30 => 1..400u64, 1 => 400..4000u64], prop::bool::weighted(0.98), 0..6i64)
            .prop_map(|(ms, able, renewing)| Step::Look { ms, able, renewing }),
        4 => prop::bool::weighted(0.7).prop_map(|applied| Step::Land { applied }),
    ]
}

/// The lessor's world with nothing but the lease table: all else is looked for, one lease after another.
struct Model {
    now_ms: u64,
    index: u64,
    leases: BTreeMap<LeaseId, LeaseRow>,
    flights: Vec<Flight>,
    paused: bool,
    hold_until_ms: u64,
    retry_at_ms: u64,
    /// When each lease was last seen to be renewed.
    renewing_ms: BTreeMap<LeaseId, u64>,
    ended: usize,
}

impl Model {
    fn new() -> Model {
        Model {
            now_ms: 0,
            index: 0,
            leases: BTreeMap::new(),
            flights: Vec::new(),
            paused: false,
            hold_until_ms: GRACE_MS,
            retry_at_ms: 0,
            renewing_ms: BTreeMap::new(),
            ended: 0,
        }
    }

    fn holds(&self, revoke: &LeaseRevoke) -> bool {
        let guard = revoke.expiry.expect("a lessor's revoke has a guard");
        let row = self.leases.get(&revoke.id);
        row.is_some_and(|row| row.incarnation == guard.incarnation && row.renewals == guard.renewals)
    }

    fn in_flight(&self, id: LeaseId) -> bool {
        self.flights.iter().flat_map(|flight| &flight.revokes).any(|revoke| revoke.id == id && self.holds(revoke))
    }

    fn change(&mut self, lessor: &mut Lessor, id: i64, row: Option<LeaseRow>) {
        let id = LeaseId(id);
        match row {
            Some(row) => drop(self.leases.insert(id, row)),
            None => drop(self.leases.remove(&id)),
        }
        lessor.changed(id, row, self.now_ms);
    }

    fn step(&mut self, lessor: &mut Lessor, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Grant { id, ttl_ms } => {
                if !self.leases.contains_key(&LeaseId(id)) {
                    self.index += 1;
                    self.change(lessor, id, Some(LeaseRow { ttl_ms, ..row(self.index, self.now_ms) }));
                }
            }
            Step::Renew { id } => {
                if let Some(row) = self.leases.get(&LeaseId(id)) {
                    self.change(lessor, id, Some(renewed(*row, self.now_ms)));
                }
            }
            Step::Revoke { id } => self.change(lessor, id, None),
            Step::Look { ms, able, renewing } => return self.look(lessor, ms, able, LeaseId(renewing)),
            Step::Land { applied } => {
                if !self.flights.is_empty() {
                    self.land(lessor, applied);
                }
            }
        }
        Ok(())
    }

    fn land(&mut self, lessor: &mut Lessor, applied: bool) {
        let flight = self.flights.remove(0);
        for revoke in flight.revokes.iter().filter(|_| applied) {
            if self.holds(revoke) {
                self.ended += 1;
                self.change(lessor, revoke.id.0, None);
            }
        }
        if flight.revokes.iter().any(|revoke| self.holds(revoke)) {
            self.retry_at_ms = self.now_ms + RETRY_MS;
        }
        lessor.landed(flight.number, self.now_ms);
    }

    fn look(&mut self, lessor: &mut Lessor, ms: u64, able: bool, renewing: LeaseId) -> Result<(), TestCaseError> {
        self.now_ms += ms;
        if ms > GRACE_MS || (self.paused && able) {
            self.hold_until_ms = self.now_ms + GRACE_MS;
        }
        self.paused = !able;
        self.renewing_ms.insert(renewing, self.now_ms);
        lessor.look(self.now_ms, able);
        let flights = lessor.revokes(self.now_ms, those(|id| id == renewing));
        let may = !self.paused && self.now_ms >= self.hold_until_ms.max(self.retry_at_ms);
        prop_assert!(may || flights.is_empty(), "it revokes when it must not");
        let mut last_due = 0;
        for flight in flights {
            for revoke in &flight.revokes {
                prop_assert!(self.holds(revoke), "{revoke:?} is not about a lease as it is");
                let due = ends_ms(&self.leases[&revoke.id]);
                prop_assert!(due <= self.now_ms, "{revoke:?} is early");
                prop_assert!(due >= last_due, "{revoke:?} is out of order");
                prop_assert!(!self.in_flight(revoke.id), "{revoke:?} is on its way already");
                prop_assert!(revoke.id != renewing, "{revoke:?} is being renewed");
                last_due = due;
            }
            self.flights.push(flight);
        }
        prop_assert!(self.flights.len() <= FLIGHTS_MAX);
        if may && self.flights.len() < FLIGHTS_MAX {
            let left = self.leases.iter().find(|(id, row)| {
                ends_ms(row) + SLOT_MS_SLACK <= self.now_ms && !self.is_aside(**id) && !self.in_flight(**id)
            });
            prop_assert!(left.is_none(), "{left:?} is left over");
        }
        self.check(lessor)
    }

    fn check(&self, lessor: &Lessor) -> Result<(), TestCaseError> {
        prop_assert_eq!(lessor.live(), self.leases.len());
        let oldest = self.leases.values().map(|row| self.now_ms.saturating_sub(ends_ms(row))).max().unwrap_or(0);
        let told = lessor.oldest_overdue_ms(self.now_ms);
        prop_assert!(told <= oldest && oldest < told + SLOT_MS_SLACK + 1, "{told} ms, not {oldest} ms overdue");
        let may_send = !self.paused && self.flights.len() < FLIGHTS_MAX;
        let next = lessor.next_look_ms();
        prop_assert!(next.is_none_or(|next| next > self.now_ms), "nothing is to be done at {next:?}");
        for (id, row) in self.leases.iter().filter(|(id, _)| !self.in_flight(**id)) {
            let over = ends_ms(row) + SLOT_MS_SLACK;
            // One that was renewed is looked at when an earlier slot is over, and may be overdue before its own is.
            let filed = ends_ms(row) > self.now_ms;
            if may_send || filed {
                let aside = self.renewing_ms.get(id).map_or(0, |seen| seen + ASIDE_MS);
                let needed = over.max(aside).max(self.hold_until_ms).max(self.retry_at_ms);
                prop_assert!(next.is_some_and(|next| next <= needed), "{next:?} is too late for {needed}");
            }
        }
        Ok(())
    }

    /// Whether a lease may still be set aside.
    fn is_aside(&self, id: LeaseId) -> bool {
        self.renewing_ms.get(&id).is_some_and(|seen| seen + ASIDE_MS > self.now_ms)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn the_lessor_revokes_what_is_due_and_nothing_else(steps in vec(step(), 1..120)) {
        let mut model = Model::new();
        let mut lessor = Lessor::promote(Vec::new(), 0, GRACE_MS);
        for step in &steps {
            model.step(&mut lessor, step)?;
        }
        let ended = lessor.tally.lateness.count();
        // A client may revoke what is overdue.
        prop_assert!(ended >= model.ended as u64, "{ended} of {}", model.ended);
    }
}

#[test]
fn stories_end_leases() {
    use proptest::test_runner::{TestRng, TestRunner};
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) };
    let rng = TestRng::deterministic_rng(config.rng_algorithm);
    let ended = std::cell::Cell::new(0);
    let told = TestRunner::new_with_rng(config, rng).run(&vec(step(), 1..120), |steps| {
        let mut model = Model::new();
        let mut lessor = Lessor::promote(Vec::new(), 0, GRACE_MS);
        for step in &steps {
            model.step(&mut lessor, step)?;
        }
        ended.set(ended.get() + model.ended);
        Ok(())
    });
    told.expect("the law holds");
    assert!(ended.get() > 200, "{} leases ended", ended.get());
}
