//! How a check ends, and how that reads.

use core::fmt;

use crate::ids::{Moment, Revision};

/// The end of a check; `C` counts what was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<C> {
    /// Nothing is wrong. Whoever asked looks at the counts: a check of nothing finds nothing.
    Ok(C),
    /// A promise is broken.
    Violation(Box<Violation>),
    /// The search was given up: neither good nor bad.
    Undecided(Window),
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which checker says so.
    pub checker: &'static str,
    /// Which promise, in a few words that stay the same: `stale read`, `revision given twice` …
    pub promise: &'static str,
    /// What exactly is wrong.
    pub detail: String,
    /// The part of the history that already shows it, one line each, in order.
    pub evidence: Vec<String>,
}

/// Where a search was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// From this revision on there was more than one way on.
    pub from_revision: Revision,
    /// No way got further than this revision.
    pub to_revision: Revision,
    /// The instants between which all ways that were tried failed.
    pub from: Moment,
    /// See `from`.
    pub to: Moment,
    /// Operations of unknown outcome that were open there.
    pub unknown: usize,
    /// Steps taken.
    pub steps: u64,
}

impl<C> Verdict<C> {
    /// Whether nothing is wrong.
    pub fn is_ok(&self) -> bool {
        matches!(self, Verdict::Ok(_))
    }

    /// The violation, if there is one.
    pub fn violation(&self) -> Option<&Violation> {
        match self {
            Verdict::Violation(violation) => Some(violation),
            Verdict::Ok(_) | Verdict::Undecided(_) => None,
        }
    }
}

impl Violation {
    pub(crate) fn verdict<C>(
        checker: &'static str,
        promise: &'static str,
        detail: impl Into<String>,
        evidence: Vec<String>,
    ) -> Verdict<C> {
        Verdict::Violation(Box::new(Violation { checker, promise, detail: detail.into(), evidence }))
    }
}

impl<C: fmt::Display> fmt::Display for Verdict<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Ok(counts) => write!(f, "ok: {counts}"),
            Verdict::Violation(violation) => violation.fmt(f),
            Verdict::Undecided(window) => window.fmt(f),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VIOLATION ({}): {}: {}", self.checker, self.promise, self.detail)?;
        self.evidence.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "UNDECIDED after {} steps: revisions {} to {}, {} to {}, {} operations of unknown outcome open",
            self.steps, self.from_revision, self.to_revision, self.from, self.to, self.unknown
        )
    }
}
