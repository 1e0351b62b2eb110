//! What watchers get from the model, and what is wrong with it once it is changed.

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tenure_history::linearize::{Options, linearize, linearize_seen};
use tenure_history::model::Change;
use tenure_history::request::KeyRange;
use tenure_history::response::Outcome;
use tenure_history::seen::Seen;
use tenure_history::truth::{Cause, Truth};
use tenure_history::watch::{Counts, Event, Spec, Step, check};
use tenure_history::{History, Initial, Moment, Revision, Verdict};

use crate::build::*;
use crate::generate::{Shape, history, pick};

/// a=1 @2, a=2 b=1 @3, delete a @4, c=1 @5, a=3 @6.
fn truth() -> Truth {
    let mut truth = Truth::new(&Initial::default());
    let set = |kv: tenure_history::response::KeyValue| Change { key: kv.key.clone(), kv: Some(kv) };
    let gone = |key: &'static str| Change { key: key.into(), kv: None };
    truth.push(vec![set(kv("a", "1", 2, 2, 1))], Cause::Other);
    truth.push(vec![set(kv("a", "2", 2, 3, 2)), set(kv("b", "1", 3, 3, 1))], Cause::Other);
    truth.push(vec![gone("a")], Cause::Other);
    truth.push(vec![set(kv("c", "1", 5, 5, 1))], Cause::Other);
    truth.push(vec![set(kv("a", "3", 6, 6, 1))], Cause::Other);
    truth
}

fn spec(keys: KeyRange) -> Spec {
    Spec { keys, puts: true, deletes: true, prev_kv: true }
}

/// The steps of a watcher that gets one message for each revision.
fn steps(truth: &Truth, spec: &Spec, from: i64) -> Vec<Step> {
    let mut steps = vec![Step::From(Revision(from))];
    for (revision, made) in truth.between(Revision(from), truth.revision()) {
        let events = made.changes.iter().filter(|change| spec.keys.contains(&change.key)).map(|change| {
            let deleted = tenure_history::response::KeyValue {
                key: change.key.clone(),
                modified: revision,
                ..Default::default()
            };
            let prev_kv = truth.key_at(&change.key, revision.previous()).cloned();
            Event { delete: change.kv.is_none(), kv: change.kv.clone().unwrap_or(deleted), prev_kv }
        });
        let events: Vec<Event> = events.collect();
        if !events.is_empty() {
            steps.push(Step::Message { at: Moment(revision.0 as u64), revision, fragment: false, events });
        }
    }
    steps
}

fn judge(spec: &Spec, steps: &[Step]) -> Verdict<Counts> {
    check(&truth(), spec, steps, Some(Revision(6)))
}

fn events(step: &mut Step) -> &mut Vec<Event> {
    match step {
        Step::Message { events, .. } => events,
        _ => panic!("not a message"),
    }
}

#[test]
fn a_watcher_that_gets_everything_is_fine() {
    let all = spec(KeyRange::all());
    let verdict = judge(&all, &steps(&truth(), &all, 2));
    assert!(matches!(&verdict, Verdict::Ok(counts) if counts.events == 6 && counts.previous == 2), "{verdict}");
    let b = spec(KeyRange::one("b"));
    assert!(judge(&b, &steps(&truth(), &b, 1)).is_ok());
}

#[test]
fn every_broken_promise_is_named() {
    let all = spec(KeyRange::all());
    let changed = |change: &dyn Fn(&mut Vec<Step>)| {
        let mut steps = steps(&truth(), &all, 2);
        change(&mut steps);
        broken(&judge(&all, &steps)).to_owned()
    };
    assert_eq!(changed(&|steps| drop(steps.remove(2))), "reliable");
    assert_eq!(changed(&|steps| drop(steps.pop())), "reliable");
    assert_eq!(changed(&|steps| steps.insert(2, steps[1].clone())), "unique");
    assert_eq!(changed(&|steps| steps.swap(1, 2)), "reliable");
    assert_eq!(changed(&|steps| drop(events(&mut steps[2]).pop())), "atomic");
    assert_eq!(changed(&|steps| events(&mut steps[2]).swap(0, 1)), "ordered");
    assert_eq!(changed(&|steps| events(&mut steps[1])[0].kv.value = "x".into()), "exact");
    assert_eq!(changed(&|steps| events(&mut steps[2])[0].prev_kv = None), "prev_kv");
    assert_eq!(changed(&|steps| events(&mut steps[1])[0].prev_kv = Some(kv("a", "0", 1, 1, 1))), "prev_kv");
    assert_eq!(changed(&|steps| steps.insert(2, Step::Progress(Revision(3)))), "bookmarkable");
    assert_eq!(changed(&|steps| steps.insert(3, Step::Progress(Revision(3)))), "");
    assert_eq!(changed(&|steps| steps.insert(3, Step::Progress(Revision(99)))), "bookmarkable");
    assert_eq!(changed(&|steps| steps.insert(2, Step::Compacted(Revision(4)))), "compacted");
}

#[test]
fn parts_of_a_message_count_as_one() {
    let all = spec(KeyRange::all());
    let mut steps = steps(&truth(), &all, 2);
    let second = events(&mut steps[2]).split_off(1);
    let part = Step::Message { at: Moment(3), revision: Revision(3), fragment: false, events: second };
    if let Step::Message { fragment, .. } = &mut steps[2] {
        *fragment = true;
    }
    steps.insert(3, part);
    assert!(judge(&all, &steps).is_ok());
    steps[3] = Step::Progress(Revision(2));
    assert_eq!(broken(&judge(&all, &steps)), "atomic");
}

#[test]
fn a_watcher_resumes_and_is_told_of_compaction_only_if_it_was() {
    let all = spec(KeyRange::all());
    let mut compacted = truth();
    compacted.set_compacted(Revision(4));
    let mut one = steps(&compacted, &all, 2);
    one.truncate(2);
    one.push(Step::Compacted(Revision(4)));
    one.extend(steps(&compacted, &all, 4));
    // From revision 4 on it is told all, and the value before revision 4 may be left out.
    events(&mut one[4])[0].prev_kv = None;
    let verdict = check(&compacted, &all, &one, Some(Revision(6)));
    assert!(
        matches!(&verdict, Verdict::Ok(counts) if counts.compacted == 1 && counts.previous_compacted == 1),
        "{verdict}"
    );
    one[2] = Step::Compacted(Revision(3));
    assert_eq!(broken(&check(&compacted, &all, &one, None)), "compacted");
}

#[test]
fn watchers_of_random_histories_are_right_until_something_is_changed() {
    let mut caught = 0;
    for seed in 0..200 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let (history, _) = history(seed, Shape { operations: 60, compactions: false, ..Shape::TINY });
        let options = Options { serializable: true, ..Options::default() };
        let Verdict::Ok(found) = linearize(&history, &options) else { panic!("seed {seed}") };
        let all = spec(KeyRange::all());
        let steps = steps(&found.truth, &all, 2);
        assert!(check(&found.truth, &all, &steps, Some(found.truth.revision())).is_ok(), "seed {seed}");
        let seen = [Seen::of(&all, &steps)];
        let Verdict::Ok(again) = linearize_seen(&history, &options, &seen) else { panic!("seed {seed}") };
        assert!(check(&again.truth, &all, &steps, None).is_ok(), "seed {seed}");
        let mut changed = steps.clone();
        let at = 1 + pick(&mut rng, steps.len() - 1);
        match pick(&mut rng, 3) {
            0 => drop(changed.remove(at)),
            1 => changed.insert(at, steps[at].clone()),
            _ => events(&mut changed[at])[0].kv.version += 1,
        }
        caught += usize::from(!check(&found.truth, &all, &changed, Some(found.truth.revision())).is_ok());
    }
    // A delete's version is nobody's business, so one in three of a few changes nothing.
    assert!(caught > 170, "{caught}");
}

/// Two writes of unknown outcome, and a revision that one of them made.
fn either() -> History {
    let unknown = |client, key| op(client, 0, 5, put(key, "1"), Outcome::Unknown);
    History::of(vec![unknown(1, "a"), unknown(2, "b"), op(3, 10, 11, get("x"), got(2, &[]))])
}

fn message(events: Vec<Event>) -> Step {
    Step::Message { at: Moment(9_000_000), revision: Revision(2), fragment: false, events }
}

fn truth_with(seen: &[Seen]) -> Truth {
    match linearize_seen(&either(), &Options::default(), seen) {
        Verdict::Ok(found) => found.truth,
        other => panic!("{other}"),
    }
}

#[test]
fn what_a_watcher_saw_decides_between_unknown_writes() {
    let saw = Event { delete: false, kv: kv("b", "1", 2, 2, 1), prev_kv: None };
    let steps = [Step::From(Revision(1)), message(vec![saw])];
    let found = truth_with(&[Seen::of(&spec(KeyRange::all()), &steps)]);
    assert!(found.key_at(b"b", Revision(2)).is_some());
}

#[test]
fn what_a_watcher_did_not_see_decides_too() {
    let steps = [Step::From(Revision(1)), Step::Progress(Revision(2))];
    for (quiet, written) in [("a", "b"), ("b", "a")] {
        let found = truth_with(&[Seen::of(&spec(KeyRange::one(quiet)), &steps)]);
        assert!(found.key_at(written.as_bytes(), Revision(2)).is_some(), "{written}");
    }
}

#[test]
fn what_only_watchers_saw_after_the_last_answer_is_part_of_the_order() {
    let put_a = Event { delete: false, kv: kv("a", "1", 2, 2, 1), prev_kv: None };
    let put_b = Event { delete: false, kv: kv("b", "1", 3, 3, 1), prev_kv: None };
    let steps = [Step::From(Revision(1)), message(vec![put_a]), message(vec![put_b])];
    let found = truth_with(&[Seen::of(&spec(KeyRange::all()), &steps)]);
    assert_eq!(found.revision(), Revision(3));
}

#[test]
fn a_watcher_that_lies_is_not_believed() {
    let saw = Event { delete: false, kv: kv("c", "1", 2, 2, 1), prev_kv: None };
    let all = spec(KeyRange::all());
    let steps = [Step::From(Revision(1)), message(vec![saw])];
    let found = truth_with(&[Seen::of(&all, &steps)]);
    assert_eq!(broken(&check(&found, &all, &steps, None)), "exact");
}
