//! Did the lock ever have two holders? Compares what the contenders were told, and when.
//!
//! A contender counts on the lock from the answer that gave it to it until it sends the release, or until its lease may
//! have ended. If no two such times overlap, nobody was ever told of a lock that another still counted on. The tokens
//! must rise with them, or they could not fence anything.

use crate::audit::Findings;
use crate::clock::Moment;
use crate::ledger::Hold;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct LockVerdict {
    pub(crate) taken: usize,
    pub(crate) wrong: Findings,
}

/// Compares all holds. One that did not end lasts until `end`.
pub(crate) fn lock(mut holds: Vec<Hold>, end: Moment) -> LockVerdict {
    holds.sort_by_key(|hold| hold.from);
    let mut verdict = LockVerdict { taken: holds.len(), ..LockVerdict::default() };
    for pair in holds.windows(2) {
        let [before, after] = pair else { continue };
        let until = before.until.unwrap_or(end);
        if until > after.from {
            let overlap = (until - after.from).as_secs_f64();
            let text =
                format!("{} and {} held the lock together for {overlap:.3} s", before.contender, after.contender);
            verdict.wrong.add(text);
        }
        if before.token >= after.token {
            let (first, second) = (before.token, after.token);
            let text = format!("{} got token {second} after {} had {first}", after.contender, before.contender);
            verdict.wrong.add(text);
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn hold(contender: &str, token: i64, from: u64, until: Option<u64>) -> Hold {
        let from = Duration::from_secs(from);
        Hold { contender: contender.to_owned(), token, from, until: until.map(Duration::from_secs) }
    }

    fn findings(holds: Vec<Hold>) -> Vec<String> {
        lock(holds, Duration::from_secs(100)).wrong.texts().map(str::to_owned).collect()
    }

    #[test]
    fn holders_one_after_the_other_are_fine() {
        let holds = vec![hold("c2", 7, 3, Some(5)), hold("c1", 5, 1, Some(3)), hold("c3", 9, 5, None)];
        assert_eq!(findings(holds), Vec::<String>::new());
    }

    #[test]
    fn two_holders_are_found() {
        let holds = vec![hold("c1", 5, 1, Some(4)), hold("c2", 7, 3, Some(5))];
        assert_eq!(findings(holds), ["c1 and c2 held the lock together for 1.000 s"]);
    }

    #[test]
    fn a_holder_that_never_let_go_is_found() {
        let holds = vec![hold("c1", 5, 1, None), hold("c2", 7, 3, Some(5))];
        assert_eq!(findings(holds), ["c1 and c2 held the lock together for 97.000 s"]);
    }

    #[test]
    fn tokens_that_do_not_rise_are_found() {
        let holds = vec![hold("c1", 5, 1, Some(2)), hold("c2", 5, 3, Some(4))];
        assert_eq!(findings(holds), ["c2 got token 5 after c1 had 5"]);
    }
}
