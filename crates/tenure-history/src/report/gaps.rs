//! Which fault is to blame for which gap.
//!
//! A gap is put down to every fault that was there when it began: not to one that came while nothing worked anyway. Failing
//! that, to all that it overlaps; failing that, it comes after a fault, when the cluster finds together again, and is put
//! down to the one that ended last, if that was shortly before. What is left is nobody's, and the page says so: a cluster
//! that is left alone has no gaps.

use super::record::{Fault, Gap, KindSummary};
use crate::ids::Moment;

/// Some election timeouts and a client's timeout.
const AFTERMATH_NS: u64 = 5_000_000_000;
/// Between the last acked write, where a gap begins, and the fault that ends all writes: some operations of a slow run.
const ONSET_NS: u64 = 300_000_000;

/// The gaps with their faults.
pub(crate) fn attribute(mut gaps: Vec<Gap>, faults: &[Fault]) -> Vec<Gap> {
    for gap in &mut gaps {
        let lasts = |fault: &Fault| fault.end.max(after(fault.begin, 1)) > gap.begin;
        let until = |moment: Moment| places(faults, |fault| lasts(fault) && fault.begin < moment);
        let just_over = |fault: &Fault| fault.end <= gap.begin && gap.begin <= after(fault.end, AFTERMATH_NS);
        let last = || faults.iter().filter(|fault| just_over(fault)).map(|fault| fault.end).max();
        let first = |places: Vec<usize>| Some(places).filter(|places| !places.is_empty());
        gap.faults = first(until(gap.end.min(after(gap.begin, ONSET_NS))))
            .or_else(|| first(until(gap.end)))
            .or_else(|| last().map(|last| places(faults, |fault| fault.end == last)))
            .unwrap_or_default();
    }
    gaps
}

/// A summary per kind, in the order in which the kinds first come.
pub(crate) fn by_kind(gaps: &[Gap], faults: &[Fault]) -> Vec<KindSummary> {
    let mut longest: Vec<Option<Moment>> = vec![None; faults.len()];
    for gap in gaps {
        let lasted = Moment(gap.end.0.saturating_sub(gap.begin.0));
        for place in &gap.faults {
            if let Some(longest) = longest.get_mut(*place) {
                *longest = (*longest).max(Some(lasted));
            }
        }
    }
    let mut kinds: Vec<KindSummary> = Vec::new();
    for (fault, longest) in faults.iter().zip(longest) {
        let noticed = u64::from(longest.is_some());
        let longest_gap = longest.unwrap_or_default();
        match kinds.iter_mut().find(|kind| kind.kind == fault.kind) {
            Some(kind) => {
                kind.injected += 1;
                kind.noticed += noticed;
                kind.longest_gap = kind.longest_gap.max(longest_gap);
            }
            None => kinds.push(KindSummary { kind: fault.kind.clone(), injected: 1, noticed, longest_gap }),
        }
    }
    kinds
}

fn places(faults: &[Fault], wanted: impl Fn(&Fault) -> bool) -> Vec<usize> {
    faults.iter().enumerate().filter(|(_, fault)| wanted(fault)).map(|(place, _)| place).collect()
}

fn after(moment: Moment, ns: u64) -> Moment {
    Moment(moment.0.saturating_add(ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(kind: &str, begin: u64, end: u64) -> Fault {
        Fault::new(kind, "n1", Moment(begin * 1_000_000)..Moment(end * 1_000_000), "")
    }

    fn gap(begin: u64, end: u64) -> Gap {
        Gap { begin: Moment(begin * 1_000_000), end: Moment(end * 1_000_000), faults: Vec::new() }
    }

    #[test]
    fn a_gap_is_put_down_to_what_was_there_at_its_begin_else_to_what_came_or_was_just_over() {
        let faults = [
            fault("kill", 1_000, 1_000),
            fault("cut", 900, 3_000),
            fault("kill", 60_000, 61_000),
            fault("cut", 62_000, 64_000),
            fault("cut", 81_000, 82_000),
        ];
        let gaps = [999..1_900, 3_100..3_600, 20_000..21_000, 60_500..63_000, 80_000..83_000];
        let gaps = gaps.map(|gap_ms| gap(gap_ms.start, gap_ms.end));
        let gaps = attribute(gaps.to_vec(), &faults);
        let blamed: Vec<_> = gaps.iter().map(|gap| gap.faults.clone()).collect();
        assert_eq!(blamed, [vec![0, 1], vec![1], vec![], vec![2], vec![4]]);
        let kinds = by_kind(&gaps, &faults);
        let figures = |kind: &KindSummary| (kind.injected, kind.noticed, kind.longest_gap.0 / 1_000_000);
        assert_eq!(kinds.iter().map(figures).collect::<Vec<_>>(), [(2, 2, 2_500), (3, 2, 3_000)]);
    }
}
