//! Lists that clients append to, right and wrong.

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tenure_history::append::{Append, Appended, Look, check};
use tenure_history::{ClientId, Moment, Revision, Verdict};

use crate::build::broken;
use crate::generate::pick;

fn append(token: &str, called: u64, outcome: Appended) -> Append {
    let (called, returned) = (Moment(called), Moment(called + 5));
    Append { list: "l".into(), client: ClientId(1), token: token.into(), called, returned, outcome }
}

fn acked(revision: i64) -> Appended {
    Appended::Acked(Revision(revision))
}

fn look(called: u64, revision: i64, tokens: &str) -> Look {
    let tokens = tokens.split_whitespace().map(str::to_owned).collect();
    let (called, returned) = (Moment(called), Moment(called + 5));
    Look { list: "l".into(), client: ClientId(2), called, returned, revision: Revision(revision), tokens }
}

/// a @2 and b @4 are acked, u is unknown, f failed.
fn appends() -> Vec<Append> {
    vec![
        append("a", 10, acked(2)),
        append("u", 20, Appended::Unknown),
        append("b", 30, acked(4)),
        append("f", 40, Appended::Failed),
    ]
}

fn judge(looks: &[Look]) -> String {
    broken(&check(&appends(), looks)).to_owned()
}

#[test]
fn what_was_acked_is_there_once_and_in_order() {
    assert_eq!(judge(&[look(16, 2, "a"), look(36, 4, "a b")]), "");
    assert_eq!(judge(&[look(16, 2, "a"), look(36, 4, "a u b"), look(46, 4, "a u b")]), "");
    assert_eq!(judge(&[look(36, 4, "b")]), "nothing acked is lost");
    assert_eq!(judge(&[look(36, 4, "b a")]), "in the order of the revisions");
    assert_eq!(judge(&[look(36, 4, "a b a")]), "appended once");
    assert_eq!(judge(&[look(16, 2, "u a"), look(36, 4, "a u b")]), "one past");
    assert_eq!(judge(&[look(36, 4, "a u b"), look(46, 5, "a b")]), "one past");
    assert_eq!(judge(&[look(36, 4, "a b f")]), "only what was appended");
    assert_eq!(judge(&[look(36, 4, "a b x")]), "only what was appended");
    assert_eq!(judge(&[look(1, 3, "a u")]), "only what was appended");
    assert_eq!(judge(&[look(12, 1, "a"), look(36, 4, "a b")]), "nothing before its revision");
    assert_eq!(judge(&[look(26, 1, ""), look(36, 4, "a b")]), "stale read");
    let mut same = appends();
    same[2].outcome = acked(2);
    assert_eq!(broken(&check(&same, &[])), "in the order of the revisions");
}

#[test]
fn counts_say_what_no_read_covers() {
    let verdict = check(&appends(), &[look(26, 3, "a u")]);
    let Verdict::Ok(counts) = verdict else { panic!("{verdict}") };
    assert_eq!((counts.acked, counts.unread, counts.unknown, counts.unknown_seen), (2, 1, 1, 1));
}

/// A list of `n` appends, of which some are unknown and happened or not, with reads among them.
fn random(seed: u64) -> (Vec<Append>, Vec<Look>) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut appends, mut looks, mut list, mut revision) = (Vec::new(), Vec::new(), Vec::<String>::new(), 1);
    for at in 0..60_u64 {
        let token = format!("t{at}");
        let (happens, knows) = (pick(&mut rng, 4) > 0, pick(&mut rng, 4) > 0);
        if happens {
            revision += 1 + pick(&mut rng, 3) as i64;
            list.push(token.clone());
        }
        let outcome = match (happens, knows) {
            (true, true) => acked(revision),
            (false, true) => Appended::Failed,
            (_, false) => Appended::Unknown,
        };
        appends.push(append(&token, at * 10, outcome));
        if pick(&mut rng, 2) == 0 {
            looks.push(look(at * 10 + 6, revision, &list.join(" ")));
        }
    }
    looks.push(look(1_000, revision, &list.join(" ")));
    (appends, looks)
}

#[test]
fn random_lists_are_right_until_something_is_changed() {
    let mut caught = 0;
    for seed in 0..300 {
        let (appends, looks) = random(seed);
        let verdict = check(&appends, &looks);
        assert!(verdict.is_ok(), "seed {seed}: {verdict}");
        let mut rng = SmallRng::seed_from_u64(seed);
        let (mut appends, mut looks) = (appends, looks);
        let at = looks.len() - 1;
        let tokens = &mut looks[at].tokens;
        let place = pick(&mut rng, tokens.len() - 1);
        match pick(&mut rng, 4) {
            0 => drop(tokens.remove(place)),
            1 => tokens.insert(place, tokens[place].clone()),
            2 => tokens.swap(place, place + 1),
            _ => {
                let acked = appends.iter_mut().filter(|append| matches!(append.outcome, Appended::Acked(_)));
                acked.take(1).for_each(|append| append.outcome = Appended::Failed);
            }
        }
        caught += usize::from(!check(&appends, &looks).is_ok());
    }
    // What is left is unknown and was read only once.
    assert!(caught > 280, "{caught}");
}
