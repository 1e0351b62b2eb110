//! All checkers over all that a run recorded, for those who record: the simulator and the harness on real processes.
//!
//! The order matters. The linearizability check goes first, because the order of writes that it finds is what watches and
//! leases are judged by; where it finds none, those two are not checked and say so. What the watchers saw guides its choice
//! among writes of unknown outcome, and is judged only afterwards: a watcher that lies is caught lying, it does not make
//! the writes look wrong.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::append::{self, Append, Look};
use crate::contest::{self, Contests};
use crate::history::History;
use crate::ids::Revision;
use crate::lease;
use crate::linearize::{self, Options};
use crate::lock::{self, Hold, Use};
use crate::queue::{self, Dequeue, Enqueue, Rest};
use crate::reads;
use crate::seen::Seen;
use crate::truth::Truth;
use crate::verdict::Verdict;
use crate::watch::{self, Spec, Step};

/// Everything that a run recorded. What a workload does not have stays empty.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// What clients asked and were answered.
    pub history: History,
    /// What watchers were told.
    pub watchers: Vec<Watcher>,
    /// When locks were held.
    pub holds: Vec<Hold>,
    /// How guarded resources were used.
    pub uses: Vec<Use>,
    /// Who contended for locks by the native service.
    pub contests: Contests,
    /// Appends to lists.
    pub appends: Vec<Append>,
    /// Reads of those lists.
    pub looks: Vec<Look>,
    /// Items put into queues.
    pub enqueues: Vec<Enqueue>,
    /// Items taken from queues.
    pub dequeues: Vec<Dequeue>,
    /// What the queues hold at the end.
    pub rests: Vec<Rest>,
    /// What leases are held against, with the intervals in which no leader worked.
    pub bounds: lease::Bounds,
    /// How hard to search.
    pub options: Options,
}

/// One watcher of a run, across all its resumptions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watcher {
    /// What it is called when it is wrong.
    pub name: String,
    /// What it asked for.
    pub spec: Spec,
    /// What happened to it, in order.
    pub steps: Vec<Step>,
    /// Up to where it must have been told everything; none if it was no longer there at the end.
    pub last: Option<Revision>,
}

/// How one check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Nothing is wrong.
    Ok,
    /// A promise is broken.
    Violation,
    /// The search gave up.
    Undecided,
    /// It was not possible to check, for a reason that is another finding.
    Unchecked,
}

/// One check of a run, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Which checker, and of what where there are several: `watch (node 2, all keys)`.
    pub checker: String,
    /// How it ended.
    pub status: Status,
    /// What was checked, which promise is broken and how, or why nothing can be said.
    pub summary: String,
    /// The shortest part of the history that shows a violation, one line each.
    #[serde(default)]
    pub evidence: Vec<String>,
}

/// How all checks of a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// One for each check, those that fail in their place among the others.
    pub all: Vec<Finding>,
}

impl Run {
    /// Checks everything that was recorded.
    pub fn check(&self) -> Findings {
        let seen: Vec<Seen> = self.watchers.iter().map(|watcher| Seen::of(&watcher.spec, &watcher.steps)).collect();
        let order = linearize::linearize_seen(&self.history, &self.options, &seen);
        let mut all = vec![Finding::of("linearizability", &order)];
        all.push(Finding::of("reads", &reads::check(&self.history)));
        if let Verdict::Ok(order) = &order {
            self.check_watchers(&order.truth, &mut all);
            all.push(Finding::of("leases", &lease::check(&self.history, &order.truth, &self.bounds)));
            if !self.contests.claims.is_empty() {
                all.extend(contest::check(&self.contests, &self.history, &order.truth));
            }
        } else {
            all.extend((!self.watchers.is_empty()).then(|| Finding::unchecked("watch")));
            all.push(Finding::unchecked("leases"));
            if !self.contests.claims.is_empty() {
                all.extend(contest::CHECKERS.iter().map(|checker| Finding::unchecked(checker)));
            }
        }
        if !self.holds.is_empty() || !self.uses.is_empty() {
            // Whose key was deleted by somebody else did not know it.
            let touched = |hold: &&Hold| self.contests.touched.iter().any(|touched| touched.lease == hold.lease);
            let holds: Vec<Hold> = self.holds.iter().filter(|hold| !touched(hold)).cloned().collect();
            all.push(Finding::of("locks", &lock::check(&holds, &self.uses)));
        }
        if !self.appends.is_empty() || !self.looks.is_empty() {
            all.push(Finding::of("append", &append::check(&self.appends, &self.looks)));
        }
        if !self.enqueues.is_empty() || !self.dequeues.is_empty() {
            all.push(Finding::of("queue", &queue::check(&self.enqueues, &self.dequeues, &self.rests)));
        }
        Findings { all }
    }

    /// Watchers that are right make one finding together, the others one each.
    fn check_watchers(&self, truth: &Truth, all: &mut Vec<Finding>) {
        let mut counts = watch::Counts::default();
        for watcher in &self.watchers {
            match watch::check(truth, &watcher.spec, &watcher.steps, watcher.last) {
                Verdict::Ok(more) => counts.add(more),
                wrong => all.push(Finding::of(&format!("watch ({})", watcher.name), &wrong)),
            }
        }
        if counts.watchers > 0 {
            all.push(Finding::of("watch", &Verdict::Ok(counts)));
        }
    }
}

impl Finding {
    /// A verdict in words.
    pub fn of<C: fmt::Display>(checker: &str, verdict: &Verdict<C>) -> Finding {
        let (status, summary, evidence) = match verdict {
            Verdict::Ok(counts) => (Status::Ok, counts.to_string(), Vec::new()),
            Verdict::Undecided(window) => (Status::Undecided, window.to_string(), Vec::new()),
            Verdict::Violation(violation) => {
                let summary = format!("{}: {}", violation.promise, violation.detail);
                (Status::Violation, summary, violation.evidence.clone())
            }
        };
        Finding { checker: checker.to_owned(), status, summary, evidence }
    }

    fn unchecked(checker: &str) -> Finding {
        let summary = "there is no order of the writes to judge by".to_owned();
        Finding { checker: checker.to_owned(), status: Status::Unchecked, summary, evidence: Vec::new() }
    }
}

impl Findings {
    /// Whether every check was made and found nothing.
    pub fn is_ok(&self) -> bool {
        self.all.iter().all(|finding| finding.status == Status::Ok)
    }

    /// The checks that found something.
    pub fn violations(&self) -> impl Iterator<Item = &Finding> {
        self.all.iter().filter(|finding| finding.status == Status::Violation)
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.all.iter().try_for_each(|finding| writeln!(f, "{finding}"))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = match self.status {
            Status::Ok => "ok",
            Status::Violation => "VIOLATION",
            Status::Undecided => "UNDECIDED",
            Status::Unchecked => "not checked",
        };
        write!(f, "{:<16} {status}: {}", self.checker, self.summary)?;
        self.evidence.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}
