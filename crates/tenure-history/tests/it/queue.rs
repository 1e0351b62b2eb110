//! Queues, right and wrong.

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tenure_history::queue::{Dequeue, Done, Enqueue, Rest, check};
use tenure_history::{ClientId, Moment, Revision, Verdict};

use crate::build::broken;
use crate::generate::pick;

fn put(item: &str, called: u64, outcome: Done) -> Enqueue {
    let (called, returned) = (Moment(called), Moment(called + 5));
    Enqueue { queue: "q".into(), client: ClientId(1), item: item.into(), called, returned, outcome }
}

fn take(item: &str, called: u64, outcome: Done) -> Dequeue {
    let (called, returned) = (Moment(called), Moment(called + 5));
    let item = (!item.is_empty()).then(|| item.to_owned());
    Dequeue { queue: "q".into(), client: ClientId(2), item, called, returned, outcome }
}

fn acked(revision: i64) -> Done {
    Done::Acked(Revision(revision))
}

fn rest(revision: i64, items: &str) -> Vec<Rest> {
    let items = items.split_whitespace().map(str::to_owned).collect();
    vec![Rest { queue: "q".into(), revision: Revision(revision), items }]
}

/// a @2, b @3 and c @5 are acked, u is unknown, f failed.
fn puts() -> Vec<Enqueue> {
    vec![
        put("a", 10, acked(2)),
        put("b", 20, acked(3)),
        put("u", 25, Done::Unknown),
        put("c", 30, acked(5)),
        put("f", 35, Done::Failed),
    ]
}

fn judge(takes: &[Dequeue], revision: i64, items: &str) -> String {
    broken(&check(&puts(), takes, &rest(revision, items))).to_owned()
}

#[test]
fn every_item_comes_out_once_or_is_left() {
    let (a, b) = (take("a", 40, acked(6)), take("b", 50, acked(7)));
    assert_eq!(judge(&[a.clone(), b.clone()], 9, "c"), "");
    assert_eq!(judge(&[a.clone(), b.clone()], 9, "u c"), "");
    assert_eq!(judge(&[a.clone(), b.clone()], 9, "u"), "nothing is lost");
    assert_eq!(judge(&[a.clone(), b.clone()], 9, "b c"), "delivered once");
    assert_eq!(judge(&[a.clone(), b.clone(), take("b", 60, acked(8))], 9, "c"), "delivered once");
    assert_eq!(judge(&[a.clone(), take("c", 50, acked(7))], 9, "b"), "oldest first");
    assert_eq!(judge(&[a.clone(), take("x", 50, acked(7))], 9, "b c"), "only what was put in");
    assert_eq!(judge(core::slice::from_ref(&a), 9, "b c f"), "only what was put in");
    assert_eq!(judge(&[take("a", 1, acked(6))], 9, "b c"), "taken after it was put");
    assert_eq!(judge(&[take("a", 40, acked(1))], 9, "b c"), "taken after it was put");
    // A refused take says nothing, an unknown one may have taken its item.
    assert_eq!(judge(&[a.clone(), take("b", 50, Done::Failed)], 9, "b c"), "");
    assert_eq!(judge(&[a.clone(), take("b", 50, Done::Unknown)], 9, "b c"), "");
    assert_eq!(judge(&[a.clone(), take("b", 50, Done::Unknown)], 9, "c"), "");
    assert_eq!(judge(&[a.clone(), take("b", 50, Done::Unknown), take("c", 60, acked(8))], 9, ""), "");
}

#[test]
fn a_queue_is_found_empty_only_if_it_is() {
    let all = [take("a", 40, acked(6)), take("b", 50, acked(7)), take("c", 60, acked(8))];
    let empty = |revision| take("", 70, acked(revision));
    assert_eq!(judge(&[&all[..], &[empty(8)]].concat(), 9, ""), "");
    assert_eq!(judge(&[&all[..], &[empty(7)]].concat(), 9, ""), "empty only if it is");
    assert_eq!(judge(&[&all[..2], &[take("c", 60, Done::Unknown), empty(7)]].concat(), 9, ""), "");
    assert_eq!(judge(&[&all[..], &[empty(1)]].concat(), 9, ""), "");
}

#[test]
fn without_the_rest_the_counts_say_what_was_not_looked_for() {
    let verdict = check(&puts(), &[take("a", 40, acked(6))], &[]);
    let Verdict::Ok(counts) = verdict else { panic!("{verdict}") };
    assert_eq!((counts.enqueued, counts.dequeued, counts.unread), (3, 1, 2));
}

fn random(seed: u64) -> (Vec<Enqueue>, Vec<Dequeue>, Vec<Rest>) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut puts, mut takes, mut queue, mut revision) = (Vec::new(), Vec::new(), Vec::<String>::new(), 1);
    for at in 0..80_u64 {
        let (happens, knows) = (pick(&mut rng, 5) > 0, pick(&mut rng, 5) > 0);
        revision += i64::from(happens);
        let outcome = match (happens, knows) {
            (true, true) => acked(revision),
            (false, true) => Done::Failed,
            (_, false) => Done::Unknown,
        };
        if pick(&mut rng, 2) == 0 {
            let item = format!("i{at}");
            puts.push(put(&item, at * 10, outcome));
            queue.extend(happens.then_some(item));
        } else if queue.is_empty() {
            takes.push(take("", at * 10, acked(revision)));
        } else {
            takes.push(take(&queue[0], at * 10, outcome));
            if happens {
                queue.remove(0);
            }
        }
    }
    let rest = rest(revision, &queue.join(" "));
    (puts, takes, rest)
}

#[test]
fn random_queues_are_right_until_something_is_changed() {
    let mut caught = 0;
    for seed in 0..300 {
        let (puts, mut takes, mut rests) = random(seed);
        let verdict = check(&puts, &takes, &rests);
        assert!(verdict.is_ok(), "seed {seed}: {verdict}");
        let mut rng = SmallRng::seed_from_u64(seed);
        let acked: Vec<usize> = (0..takes.len())
            .filter(|at| takes[*at].item.is_some() && matches!(takes[*at].outcome, Done::Acked(_)))
            .collect();
        let at = acked[pick(&mut rng, acked.len())];
        match pick(&mut rng, 3) {
            // Lost: it never came out.
            0 => drop(takes.remove(at)),
            1 => takes.push(takes[at].clone()),
            _ => rests[0].items.extend(takes[at].item.clone()),
        }
        caught += usize::from(!check(&puts, &takes, &rests).is_ok());
    }
    // What is left was put in by an unknown enqueue, or may have been taken before.
    assert!(caught > 250, "{caught}");
}
