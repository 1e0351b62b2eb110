//! The tables below the timeline: checkers with their evidence, faults, gaps, workloads, and what was left out.

use super::escape::{clock, count, html as esc, length, micros, percent, shortened};
use super::record::{Check, CheckOutcome, Counts, Gap, KindSummary, RunRecord};
use super::{Latency, Liveness};
use crate::ids::Moment;

/// A sub-history is short, by its nature; what is longer than this is none, and nobody reads it.
const EVIDENCE_LINES_MAX: usize = 1_000;
/// A line may show a whole page of keys.
const EVIDENCE_CHARS_MAX: usize = 4_000;
/// More are on the timeline.
const GAPS_SHOWN_MAX: usize = 10;

/// All sections.
pub(crate) fn all(record: &RunRecord) -> String {
    let beside = format!("<div class=\"beside\">\n{}{}</div>\n", faults(record), gaps(record));
    [checks(record), beside, workloads(record), skipped(record)].concat()
}

/// A button that leads to a place on the timeline.
pub(crate) fn show_button((from, to): (Moment, Moment)) -> String {
    let (from, to) = (from.0 / 1_000_000, to.0.div_ceil(1_000_000));
    format!(" <button type=\"button\" class=\"quiet show\" data-from=\"{from}\" data-to=\"{to}\">show</button>")
}

fn section(title: &str, id: &str, content: &str) -> String {
    format!("<section id=\"{id}\">\n<h2>{title}</h2>\n{content}</section>\n")
}

fn table(class: &str, heads: &[(&str, bool)], rows: &str) -> String {
    let cell = |(name, number): &(&str, bool)| {
        let class = if *number { " class=\"n\"" } else { "" };
        format!("<th scope=\"col\"{class}>{name}</th>")
    };
    let heads: String = heads.iter().map(cell).collect();
    format!(
        "<div class=\"scroll\"><table class=\"{class}\">\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n"
    )
}

fn number(text: &str) -> String {
    format!("<td class=\"n\">{text}</td>")
}

fn checks(record: &RunRecord) -> String {
    let rows: String = record.checks.iter().enumerate().map(|(place, check)| check_row(place, check)).collect();
    let mut content = match rows.is_empty() {
        true => "<p class=\"none\">No checker was asked.</p>\n".to_owned(),
        false => table("checks", &[("Checker", false), ("Verdict", false), ("What it looked at", false)], &rows),
    };
    if let Some(liveness) = &record.liveness {
        content.push_str(&liveness_text(liveness));
    }
    section("Checkers", "checks", &content)
}

fn check_row(place: usize, check: &Check) -> String {
    let (class, badge, text) = match &check.outcome {
        CheckOutcome::Ok { counts } => ("ok", "✓ held", counts_text(counts)),
        CheckOutcome::Violation { promise, detail, span, .. } => {
            let show = span.map_or_else(String::new, show_button);
            let detail = esc(&shortened(detail, EVIDENCE_CHARS_MAX));
            (
                "bad",
                "✗ violated",
                format!("<strong>{}</strong>{show}<div class=\"detail\">{detail}</div>", esc(promise)),
            )
        }
        CheckOutcome::Undecided { detail, span } => {
            ("open", "? undecided", esc(detail) + &span.map_or_else(String::new, show_button))
        }
        CheckOutcome::Void { reason } => ("void", "∅ void", esc(reason)),
        CheckOutcome::Skipped { reason } => ("void", "– skipped", esc(reason)),
    };
    let mut row = format!(
        "<tr id=\"check-{place}\" class=\"{class}\"><td><strong>{}</strong><div class=\"promise\">{}</div></td>\
         <td><span class=\"badge {class}\">{badge}</span></td><td>{text}</td></tr>\n",
        esc(&check.name),
        esc(&check.promise)
    );
    if let CheckOutcome::Violation { evidence, .. } = &check.outcome {
        row.push_str(&format!("<tr class=\"bad evidence\"><td colspan=\"3\">{}</td></tr>\n", evidence_text(evidence)));
    }
    row
}

/// A run of many rounds has a line for each: the first stands for them until they are asked for.
fn counts_text(counts: &str) -> String {
    match counts.split_once('\n') {
        Some((first, rest)) if rest.contains('\n') => format!(
            "<details><summary>{} <small>and {} lines more</small></summary><div class=\"detail\">{}</div></details>",
            esc(first),
            rest.lines().count(),
            esc(rest)
        ),
        Some(_) | None => format!("<div class=\"detail\">{}</div>", esc(counts)),
    }
}

fn evidence_text(evidence: &[String]) -> String {
    let lines = evidence.iter().take(EVIDENCE_LINES_MAX).map(|line| esc(&shortened(line, EVIDENCE_CHARS_MAX)));
    let mut text = lines.collect::<Vec<_>>().join("\n");
    if text.is_empty() {
        return String::new();
    }
    if evidence.len() > EVIDENCE_LINES_MAX {
        text.push_str(&format!("\n… and {} lines more", evidence.len() - EVIDENCE_LINES_MAX));
    }
    let lines = evidence.len();
    let what = if lines == 1 { "1 line".to_owned() } else { format!("{lines} lines") };
    format!(
        "<p class=\"caption\">The shortest failing part of the history that was found, {what}:</p>\n\
         <pre tabindex=\"0\">{text}</pre>"
    )
}

fn liveness_text(liveness: &Liveness) -> String {
    let took = Moment(liveness.end.0.saturating_sub(liveness.begin.0));
    let sign = if took <= liveness.bound { "within" } else { "<strong>beyond</strong>" };
    format!(
        "<p class=\"liveness\"><strong>Liveness.</strong> All faults were over at {}; {}. It took {}, {sign} the bound of {}.{}</p>\n",
        clock(liveness.begin),
        esc(liveness.text.trim_end_matches('.')),
        length(took),
        length(liveness.bound),
        show_button((liveness.begin, liveness.end)),
    )
}

fn faults(record: &RunRecord) -> String {
    let rows: String = record.kinds.iter().map(|kind| kind_row(record, kind)).collect();
    if rows.is_empty() {
        return section("Faults", "faults", "<p class=\"none\">None was injected.</p>\n");
    }
    let heads = [("Kind", false), ("Times", true), ("With a gap", true), ("Longest gap", true), ("", false)];
    let hint = "<p class=\"hint\">A gap counts for the faults that were there when it began, else for those that it overlaps or that had just ended.</p>\n";
    section("Faults", "faults", &(table("faults", &heads, &rows) + hint))
}

fn kind_row(record: &RunRecord, kind: &KindSummary) -> String {
    let of_kind = |place: &usize| record.faults.get(*place).is_some_and(|fault| fault.kind == kind.kind);
    let lasted = |gap: &&Gap| gap.end.0.saturating_sub(gap.begin.0);
    let longest = record.gaps.iter().filter(|gap| gap.faults.iter().any(of_kind)).max_by_key(lasted);
    let cells = [
        number(&count(kind.injected)),
        number(&count(kind.noticed)),
        number(&if kind.noticed == 0 { "–".to_owned() } else { length(kind.longest_gap) }),
        format!("<td>{}</td>", longest.map_or_else(String::new, |gap| show_button((gap.begin, gap.end)))),
    ];
    format!("<tr><td>{}</td>{}</tr>\n", esc(&kind.kind), cells.concat())
}

fn gaps(record: &RunRecord) -> String {
    if record.gaps.is_empty() {
        return String::new();
    }
    let mut longest: Vec<&Gap> = record.gaps.iter().collect();
    longest.sort_by_key(|gap| core::cmp::Reverse(gap.end.0.saturating_sub(gap.begin.0)));
    let rows: String = longest.iter().take(GAPS_SHOWN_MAX).map(|gap| gap_row(record, gap)).collect();
    let title = match record.gaps.len() {
        all if all > GAPS_SHOWN_MAX => format!(
            "The longest {GAPS_SHOWN_MAX} of {} gaps without an acked write",
            count(u64::try_from(all).unwrap_or(u64::MAX))
        ),
        _ => "Gaps without an acked write".to_owned(),
    };
    let heads = [("From", true), ("Length", true), ("Under", false), ("", false)];
    section(&title, "gaps", &table("gaps", &heads, &rows))
}

fn gap_row(record: &RunRecord, gap: &Gap) -> String {
    let faults = gap.faults.iter().filter_map(|place| record.faults.get(*place));
    let names: Vec<String> =
        faults.map(|fault| format!("{} <small>{}</small>", esc(&fault.kind), esc(&fault.target))).collect();
    let under = if names.is_empty() { "no fault".to_owned() } else { names.join(", ") };
    let lasted = Moment(gap.end.0.saturating_sub(gap.begin.0));
    let show = show_button((gap.begin, gap.end));
    format!("<tr>{}{}<td>{under}</td><td>{show}</td></tr>\n", number(&clock(gap.begin)), number(&length(lasted)))
}

fn workloads(record: &RunRecord) -> String {
    let mut rows = String::new();
    let mut all = Latency::default();
    for workload in &record.workloads {
        let (totals, latency) = (workload.totals(), workload.latency());
        all.add(&latency);
        let name = format!("<td>{}<div class=\"promise\">{}</div></td>", esc(&workload.name), esc(&workload.about));
        rows.push_str(&format!("<tr>{name}{}</tr>\n", workload_cells(totals, &latency)));
    }
    if rows.is_empty() {
        return section("Workloads", "workloads", "<p class=\"none\">No client was at work.</p>\n");
    }
    if record.workloads.len() > 1 {
        rows.push_str(&format!("<tr class=\"sum\"><td>all</td>{}</tr>\n", workload_cells(record.totals(), &all)));
    }
    let heads =
        ["Tried", "Acked", "", "Refused", "Failed", "Unknown", "p50", "p99", "Longest"].map(|name| (name, true));
    let heads = [&[("Workload", false)], &heads[..]].concat();
    section("Workloads", "workloads", &table("workloads", &heads, &rows))
}

fn workload_cells(totals: Counts, latency: &Latency) -> String {
    let time = |us: u64| if latency.count() == 0 { "–".to_owned() } else { micros(us) };
    let cells = [
        count(totals.tried),
        count(totals.acked),
        percent(totals.acked, totals.tried),
        count(totals.refused),
        count(totals.failed),
        count(totals.unknown),
        time(latency.percentile_us(50)),
        time(latency.percentile_us(99)),
        time(latency.max_us()),
    ];
    cells.iter().map(|cell| number(cell)).collect()
}

fn skipped(record: &RunRecord) -> String {
    if record.skipped.is_empty() {
        return String::new();
    }
    let line = |skipped: &super::Skipped| {
        format!("<li><strong>{}</strong>: {}</li>\n", esc(&skipped.what), esc(&skipped.reason))
    };
    let lines: String = record.skipped.iter().map(line).collect();
    section("Left out", "skipped", &format!("<ul>\n{lines}</ul>\n"))
}
