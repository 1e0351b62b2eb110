//! What a run measured, in the form in which it is serialised.
//!
//! The names of its fields are those of the JSON that programs read, so they change as rarely as a wire format does.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::histogram::Summary;

/// One run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The workload's name, as on the command line.
    pub workload: &'static str,
    /// Whom it asked.
    pub endpoints: Vec<String>,
    pub clients: usize,
    pub connections: usize,
    /// Operations per second that were to be sent; absent in a closed loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_wanted: Option<f64>,
    /// Without the warm-up.
    pub seconds: f64,
    /// What was done, failures not included.
    pub operations: u64,
    /// Operations per second.
    pub rate: f64,
    /// From the send of an operation, or in an open loop from when it was due, to its end.
    pub latency: Summary,
    /// Steps of an operation, or kinds of it, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<&'static str, Part>,
    /// Other figures of the workload, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<&'static str, f64>,
    /// Operations that were due when no client was free, and were never sent.
    pub missed: u64,
    pub failed: u64,
    /// How many failed by what.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, u64>,
    /// Requests that failed as they were expected to, while what the workload set off went on; they are no failures.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_error: Option<String>,
    /// Bytes of all messages, warm-up and preparation included.
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// CPU time of the generator for one operation.
    pub generator_cpu_us: f64,
    /// The second with the highest p99, of those with at least a tenth of the operations of a mean second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worst_second: Option<Second>,
    /// Second by second.
    pub by_second: Vec<Second>,
}

/// A step or a kind of operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Part {
    pub operations: u64,
    pub rate: f64,
    pub latency: Summary,
}

/// One second of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Second {
    /// From the begin of the measurement, counted from 0.
    pub second: u64,
    /// What ended in it.
    pub operations: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl Report {
    /// Whether every operation succeeded and was sent.
    pub fn is_clean(&self) -> bool {
        self.failed == 0 && self.missed == 0
    }

    /// See [`Report::worst_second`].
    pub(crate) fn worst(by_second: &[Second]) -> Option<Second> {
        let all: u64 = by_second.iter().map(|second| second.operations).sum();
        let enough = all / (10 * by_second.len() as u64).max(1);
        let counted = by_second.iter().filter(|second| second.operations > 0 && second.operations >= enough);
        counted.copied().max_by(|one, other| one.p99_ms.total_cmp(&other.p99_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(second: u64, operations: u64, p99_ms: f64) -> Second {
        Second { second, operations, p99_ms, ..Second::default() }
    }

    #[test]
    fn a_second_with_hardly_any_operations_is_not_the_worst() {
        let seconds = [second(0, 100, 3.0), second(1, 90, 7.0), second(2, 2, 50.0)];
        assert_eq!(Report::worst(&seconds).map(|second| second.second), Some(1));
        assert_eq!(Report::worst(&[]), None);
    }

    #[test]
    fn what_is_absent_is_left_out_of_the_json() {
        let json = serde_json::to_string(&Report { workload: "put", ..Report::default() }).unwrap();
        assert!(json.starts_with(r#"{"workload":"put","endpoints":[],"clients":0,"#), "{json}");
        assert!(!json.contains("rate_wanted") && !json.contains("errors"), "{json}");
    }
}
