//! The page around the tables: head, verdict, key figures, the timeline's frame, style and script.

use super::data::Timeline;
use super::escape::{count, counted, date, html as esc, length, micros, percent, script_json};
use super::record::{CheckOutcome, Conclusion, RunRecord};
use super::{Latency, tables};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Nothing is loaded from anywhere, even if some text broke out of its place.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// The page of a run: one file that loads nothing. The same record gives the same page.
pub fn html(record: &RunRecord) -> String {
    let timeline = Timeline::of(record);
    let parts = [
        head(record),
        "<main>\n".to_owned(),
        banner(record),
        figures(record),
        frame(&timeline),
        tables::all(record),
        "</main>\n".to_owned(),
        data(&timeline),
        format!("<script>\n{SCRIPT}</script>\n</body>\n</html>\n"),
    ];
    parts.concat()
}

fn head(record: &RunRecord) -> String {
    let title = format!("{}: {} (seed {})", record.title, conclusion_word(record.conclusion()), record.seed);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n",
        esc(&title)
    )
}

fn conclusion_word(conclusion: Conclusion) -> &'static str {
    match conclusion {
        Conclusion::Held => "All held",
        Conclusion::Violated => "Violated",
        Conclusion::Undecided => "Undecided",
        Conclusion::Void => "Void",
    }
}

fn banner(record: &RunRecord) -> String {
    let conclusion = record.conclusion();
    let (class, sign) = match conclusion {
        Conclusion::Held => ("held", "✓"),
        Conclusion::Violated => ("violated", "✗"),
        Conclusion::Undecided => ("undecided", "?"),
        Conclusion::Void => ("void", "∅"),
    };
    let mut page = format!(
        "<header class=\"banner {class}\">\n<span class=\"sign\" aria-hidden=\"true\">{sign}</span>\n\
         <div class=\"verdict\">\n<h1>{}</h1>\n<p>{}</p>\n{}</div>\n",
        conclusion_word(conclusion),
        esc(&reason(record)),
        violations(record)
    );
    page.push_str(&run(record));
    page.push_str("</header>\n");
    page
}

/// The conclusion in a sentence.
fn reason(record: &RunRecord) -> String {
    let tally = |wanted: fn(&CheckOutcome) -> bool| {
        let found = record.checks.iter().filter(|check| wanted(&check.outcome)).count();
        u64::try_from(found).unwrap_or(u64::MAX)
    };
    let ok = tally(|outcome| matches!(outcome, CheckOutcome::Ok { .. }));
    let all = tally(|_| true);
    let operations = counted(record.totals().tried, "operation", "operations");
    let faults = counted(u64::try_from(record.faults.len()).unwrap_or(u64::MAX), "fault", "faults");
    match record.conclusion() {
        Conclusion::Held if ok == all => {
            format!("{} found nothing wrong in {operations} under {faults}.", counted(ok, "checker", "checkers"))
        }
        Conclusion::Held => {
            format!(
                "{ok} of {all} checkers found nothing wrong in {operations} under {faults}; the others did not run."
            )
        }
        Conclusion::Violated => {
            let broken = tally(|outcome| matches!(outcome, CheckOutcome::Violation { .. }));
            let void = if record.void.is_some() { " The run is void besides." } else { "" };
            let open = match tally(|outcome| matches!(outcome, CheckOutcome::Undecided { .. })) {
                0 => String::new(),
                open => format!(" {open}\u{a0}could not decide."),
            };
            format!("{broken} of {all} checkers found a broken promise, in {operations} under {faults}.{open}{void}")
        }
        Conclusion::Undecided => {
            let open = tally(|outcome| matches!(outcome, CheckOutcome::Undecided { .. }));
            format!("{open} of {all} checkers could not decide; {ok} found nothing wrong in {operations}.")
        }
        Conclusion::Void => match &record.void {
            Some(reason) => format!("This run proves nothing: {reason}"),
            None if all == 0 => "This run proves nothing: no checker was asked.".to_owned(),
            None => "This run proves nothing: a checker had too little to check.".to_owned(),
        },
    }
}

/// Each broken promise in a line that leads to its evidence.
fn violations(record: &RunRecord) -> String {
    let mut lines = String::new();
    for (place, check) in record.checks.iter().enumerate() {
        let CheckOutcome::Violation { promise, span, .. } = &check.outcome else { continue };
        let show = span.map_or_else(String::new, tables::show_button);
        let link = format!("<a href=\"#check-{place}\">{}: {}</a>", esc(&check.name), esc(promise));
        lines.push_str(&format!("<li>{link}{show}</li>\n"));
    }
    if lines.is_empty() { lines } else { format!("<ul class=\"broken\">\n{lines}</ul>\n") }
}

/// What ran, and how to run it again.
fn run(record: &RunRecord) -> String {
    let (profile, program) = (esc(&record.profile), esc(&record.program));
    let took = if record.length.0 > 0 { length(record.length) } else { String::new() };
    let began = record.began_unix_ms.map_or_else(|| "virtual time".to_owned(), date);
    let mut page =
        format!("<div class=\"run\">\n{}", facts(&[&format!("<b>{}</b>", esc(&record.title)), &profile, &took]));
    page.push_str(&facts(&[&began, &program]));
    page.push_str(&format!("<p class=\"repeat\"><span class=\"label\">seed</span> <code>{}</code></p>\n", record.seed));
    if !record.command.is_empty() {
        page.push_str(&format!(
            "<p class=\"repeat\"><span class=\"label\">repeat</span> <code id=\"command\">{}</code>\
             <button type=\"button\" class=\"quiet\" id=\"copy\">copy</button></p>\n",
            esc(&record.command)
        ));
    }
    page.push_str("</div>\n");
    page
}

/// A line of facts in HTML; those that are not known are left out.
fn facts(facts: &[&str]) -> String {
    let known: String =
        facts.iter().filter(|fact| !fact.is_empty()).map(|fact| format!("<span>{fact}</span>")).collect();
    format!("<p class=\"facts\">{known}</p>\n")
}

fn figures(record: &RunRecord) -> String {
    let totals = record.totals();
    let mut latency = Latency::default();
    record.workloads.iter().for_each(|workload| latency.add(&workload.latency()));
    let longest = record.gaps.iter().map(|gap| gap.end.0.saturating_sub(gap.begin.0)).max();
    let terms: std::collections::BTreeSet<u64> =
        record.leaders.iter().filter(|seen| seen.node.is_some()).map(|seen| seen.term).collect();
    let part = |part: u64| percent(part, totals.tried);
    let gaps = u64::try_from(record.gaps.len()).unwrap_or(u64::MAX);
    let faults = u64::try_from(record.faults.len()).unwrap_or(u64::MAX);
    let kinds = u64::try_from(record.kinds.len()).unwrap_or(u64::MAX);
    let mut all = vec![
        ("operations tried".to_owned(), count(totals.tried), counted_workloads(record)),
        ("acked".to_owned(), count(totals.acked), part(totals.acked)),
        ("failed".to_owned(), count(totals.failed), part(totals.failed)),
        ("unknown outcome".to_owned(), count(totals.unknown), part(totals.unknown)),
        ("faults".to_owned(), count(faults), counted(kinds, "kind", "kinds")),
        ("leaders".to_owned(), count(u64::try_from(terms.len()).unwrap_or(u64::MAX)), terms_text(&terms)),
        (
            "longest gap".to_owned(),
            longest.map_or_else(|| "–".to_owned(), |ns| micros(ns / 1_000)),
            format!("of {}", counted(gaps, "gap", "gaps")),
        ),
    ];
    if latency.count() > 0 {
        let median = format!("p50 {}", micros(latency.percentile_us(50)));
        all.push(("p99 latency".to_owned(), micros(latency.percentile_us(99)), median));
    }
    all.extend(record.figures.iter().map(|figure| (figure.name.clone(), figure.value.clone(), String::new())));
    let boxes = all.iter().map(|(name, value, more)| {
        let more = if more.is_empty() { String::new() } else { format!("<span class=\"more\">{}</span>", esc(more)) };
        format!("<div><dt title=\"{0}\">{0}</dt><dd>{1}{more}</dd></div>\n", esc(name), esc(value))
    });
    format!("<dl class=\"figures\">\n{}</dl>\n", boxes.collect::<String>())
}

fn counted_workloads(record: &RunRecord) -> String {
    counted(u64::try_from(record.workloads.len()).unwrap_or(u64::MAX), "workload", "workloads")
}

fn terms_text(terms: &std::collections::BTreeSet<u64>) -> String {
    match (terms.first(), terms.last()) {
        (Some(first), Some(last)) if first != last => format!("terms {first} to {last}"),
        (Some(first), _) => format!("term {first}"),
        (None, _) => String::new(),
    }
}

fn frame(timeline: &Timeline) -> String {
    let cut = if timeline.cut { "<p class=\"hint\">Only the begin of very long lists is drawn.</p>\n" } else { "" };
    format!(
        "<section id=\"timeline\">\n<div class=\"bar\">\n<h2>Timeline</h2>\n\
         <p class=\"hint\">Drag to zoom; click a fault, a gap or a violation to see it closely; Esc shows the whole run.</p>\n\
         <div class=\"tools\">\n<select id=\"series\" aria-label=\"workload\"></select>\n\
         <span id=\"range\"></span>\n\
         <button type=\"button\" id=\"back\" aria-label=\"earlier\">←</button>\n\
         <button type=\"button\" id=\"out\" aria-label=\"zoom out\">−</button>\n\
         <button type=\"button\" id=\"in\" aria-label=\"zoom in\">+</button>\n\
         <button type=\"button\" id=\"on\" aria-label=\"later\">→</button>\n\
         <button type=\"button\" id=\"whole\">whole run</button>\n</div>\n</div>\n{cut}\
         <noscript><p>The timeline is drawn by a script; everything else on this page is not.</p></noscript>\n\
         <div id=\"plot\" tabindex=\"0\"></div>\n<div id=\"legend\"></div>\n<div id=\"tip\" hidden></div>\n</section>\n"
    )
}

fn data(timeline: &Timeline) -> String {
    // Numbers, texts, and maps with text keys can always be written.
    let json = serde_json::to_string(timeline).unwrap_or_else(|_| "null".to_owned());
    format!("<script type=\"application/json\" id=\"data\">{}</script>\n", script_json(&json))
}
