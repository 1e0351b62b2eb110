//! The tables of the comparison, in Markdown: medians, in brackets the range, and ratios to the first program.

use std::fmt::Write as _;

use super::compare::Outcome;
use super::sample::{Cell, Metric, Spread};
use crate::binaries::Program;

/// The columns of works that have a rate.
const COLUMNS: [Metric; 8] = [
    Metric::Rate,
    Metric::P50Ms,
    Metric::P99Ms,
    Metric::P999Ms,
    Metric::ServerCpuUs,
    Metric::WrittenBytes,
    Metric::ResidentMib,
    Metric::GeneratorCpuUs,
];

/// All tables.
pub fn tables(outcome: &Outcome) -> String {
    let (main, other) = (main_table(outcome), other_table(outcome));
    [main, other, failures(outcome)].into_iter().flatten().collect::<Vec<_>>().join("\n")
}

fn main_table(outcome: &Outcome) -> Option<String> {
    let mut text = format!("| work | program | {} |\n", COLUMNS.map(Metric::title).join(" | "));
    let _written = writeln!(text, "|---|---|{}", "---:|".repeat(COLUMNS.len()));
    let head = text.len();
    for (at, work) in outcome.works.iter().enumerate() {
        let rows = rows(outcome, at, |cell| cell.spread(Metric::Rate).is_some());
        for (program, cell) in &rows {
            let cells: Vec<String> = COLUMNS.iter().map(|metric| told(cell.spread(*metric))).collect();
            let _written = writeln!(text, "| {} | {} | {} |", work.label, program.label(), cells.join(" | "));
        }
        for (program, cell) in rows.iter().skip(1) {
            let ratios: Vec<String> = COLUMNS.iter().map(|metric| ratio(cell, rows[0].1, *metric)).collect();
            let words = format!("**{} / {}**", program.label(), rows[0].0.label());
            let _written = writeln!(text, "| | {words} | {} |", ratios.join(" | "));
        }
    }
    (text.len() > head).then_some(text)
}

/// Figures that only some works have: one row for each.
fn other_table(outcome: &Outcome) -> Option<String> {
    let mut text = "| work | figure | ".to_owned();
    text.extend(outcome.programs.iter().map(|program| format!("{} | ", program.label())));
    text.push_str("ratio |\n|---|---|");
    text.push_str(&"---:|".repeat(outcome.programs.len() + 1));
    text.push('\n');
    let head = text.len();
    for (at, work) in outcome.works.iter().enumerate() {
        let rows = rows(outcome, at, |_| true);
        let mut metrics: Vec<Metric> =
            rows.iter().flat_map(|(_, cell)| &cell.samples).flat_map(|s| s.keys()).copied().collect();
        metrics.sort_unstable();
        metrics.dedup();
        let has_rate = metrics.contains(&Metric::Rate);
        for metric in metrics.into_iter().filter(|metric| !(has_rate && COLUMNS.contains(metric))) {
            let spreads: Vec<Option<Spread>> = (0..outcome.programs.len())
                .map(|program| outcome.cells.get(&(at, program)).and_then(|cell| cell.spread(metric)))
                .collect();
            let cells: Vec<String> = spreads.iter().map(|spread| told(*spread)).collect();
            let quotient = match spreads[..] {
                [Some(first), .., Some(last)] if first.median > 0.0 => {
                    format!("**{:.2} ×**", last.median / first.median)
                }
                _ => String::new(),
            };
            let _written =
                writeln!(text, "| {} | {} | {} | {quotient} |", work.label, metric.title(), cells.join(" | "));
        }
    }
    (text.len() > head).then_some(text)
}

/// What failed, for each work and program.
fn failures(outcome: &Outcome) -> Option<String> {
    let mut text = String::new();
    for ((work, program), cell) in &outcome.cells {
        if let Some(why) = cell.failures.first() {
            let (label, program) = (outcome.works[*work].label, outcome.programs[*program].label());
            let _written = writeln!(text, "- {label}: {program} failed {} times: {why}", cell.failures.len());
        }
    }
    (!text.is_empty()).then(|| format!("Failed:\n\n{text}"))
}

fn rows(outcome: &Outcome, work: usize, is_wanted: impl Fn(&Cell) -> bool) -> Vec<(Program, &Cell)> {
    let cells = outcome.programs.iter().enumerate();
    let cells = cells.filter_map(|(at, program)| Some((*program, outcome.cells.get(&(work, at))?)));
    cells.filter(|(_, cell)| is_wanted(cell)).collect()
}

fn told(spread: Option<Spread>) -> String {
    match spread {
        None => "–".to_owned(),
        Some(Spread { median, low, high }) if low == high => figure(median),
        Some(Spread { median, low, high }) => format!("{} ({}–{})", figure(median), figure(low), figure(high)),
    }
}

fn ratio(cell: &Cell, reference: &Cell, metric: Metric) -> String {
    match (cell.spread(metric), reference.spread(metric)) {
        (Some(this), Some(that)) if that.median > 0.0 => format!("**{:.2} ×**", this.median / that.median),
        _ => String::new(),
    }
}

/// A figure with as many digits as say something.
pub fn figure(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::compare::Cells;
    use crate::bench::sample::Sample;
    use crate::bench::works::works;

    fn cell(rates: &[f64], p99: f64) -> Cell {
        let sample = |rate: &f64| Sample::from([(Metric::Rate, *rate), (Metric::P99Ms, p99), (Metric::GapMs, p99)]);
        Cell { samples: rates.iter().map(sample).collect(), failures: vec![] }
    }

    fn outcome() -> Outcome {
        let cells = Cells::from([((0, 0), cell(&[100.0, 80.0, 120.0], 10.0)), ((0, 1), cell(&[250.0], 4.0))]);
        Outcome { works: works()[..1].to_vec(), programs: vec![Program::Etcd, Program::Tenured], cells }
    }

    #[test]
    fn ratios_are_those_of_the_medians() {
        let text = tables(&outcome());
        assert!(text.contains("| etcd | 100 (80.0–120) | – | 10.0 | – |"), "{text}");
        assert!(text.contains("| | **tenured / etcd** | **2.50 ×** |  | **0.40 ×** |"), "{text}");
        assert!(text.contains("| ms without an answer to any probe | 10.0 | 4.00 | **0.40 ×** |"), "{text}");
    }

    #[test]
    fn what_failed_is_told() {
        let mut outcome = outcome();
        outcome.cells.entry((0, 1)).or_default().failures.push("no leader".to_owned());
        assert!(tables(&outcome).contains("- put, 1000 clients at the leader: tenured failed 1 times: no leader"));
    }
}
