//! What a run was and how it ended, as plain data, and the page that shows it to a person.
//!
//! A harness (of real processes or of the simulator) fills a [`RunRecord`] and asks for its page; it is also kept as JSON
//! beside the page, so that the page can be made again later. All moments count from the start of the run.
//!
//! ```
//! use tenure_history::report::{self, Check, End, Fault, Measured, RunRecord, Sampler};
//! use tenure_history::{Moment, verdict::Verdict};
//!
//! let second = |n: u64| Moment(n * 1_000_000_000);
//! let mut record = RunRecord::new("chaos", 7, "make chaos SEED=7");
//! record.length = second(60);
//! record.faults.push(Fault::new("kill leader", "n2", second(10)..second(15), "SIGKILL, started again after 5 s"));
//!
//! let mut sampler = Sampler::default();
//! let puts = sampler.workload("puts", "one put after the other, each to a key of its own");
//! let put = Measured { called: second(1), returned: Some(second(2)), end: End::Acked, write: true };
//! sampler.note(puts, put);
//! record.take(&sampler, second(1)..second(60), std::time::Duration::from_millis(300));
//!
//! let verdict: Verdict<u64> = Verdict::Ok(1);
//! record.checks.push(Check::of("linearize", "One order of all operations explains every answer.", &verdict));
//! assert!(report::html(&record).contains("All held"));
//! ```
//!
//! The page is one file that loads nothing: no script, font or picture from elsewhere. Verdicts and tables are plain HTML;
//! the timeline is drawn by a script from JSON in the page.

mod data;
mod escape;
mod gaps;
mod latency;
mod moments;
mod page;
mod record;
mod sampler;
mod tables;

pub use latency::Latency;
pub use page::html;
pub use record::{
    Check, CheckOutcome, Conclusion, Counts, Fault, Figure, Gap, KindSummary, LeaderSeen, Liveness, Node, NodeState,
    Note, RecordError, RunRecord, Sample, Skipped, StateSeen, Workload,
};
pub use sampler::{End, Measured, Sampler, WorkloadIndex};
