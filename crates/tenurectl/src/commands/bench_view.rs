//! A benchmark's report, for people and as JSON. The JSON is the generator's own: docs/TENURECTL.md has its fields.

use std::fmt::Write as _;

use serde::Serialize;
use tenure_bench::{Report as BenchReport, Summary};

use crate::output::Report;
use crate::table::Table;

/// Fields are those of the generator's report.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct Measured(pub BenchReport);

impl Report for Measured {
    fn human(&self) -> String {
        let report = &self.0;
        let mut text = format!(
            "{}: {} done in {:.2} s by {} clients on {} connections to {}\n",
            report.workload,
            report.operations,
            report.seconds,
            report.clients,
            report.connections,
            report.endpoints.join(",")
        );
        let titles = ["", "COUNT", "PER SECOND", "MEAN MS", "P50", "P90", "P99", "P99.9", "MAX"];
        let mut table = Table::new(&titles).right(&[1, 2, 3, 4, 5, 6, 7, 8]);
        table.row(row("all", report.operations, report.rate, report.latency));
        for (name, part) in &report.parts {
            table.row(row(name, part.operations, part.rate, part.latency));
        }
        text.push_str(&table.render());
        for (name, figure) in &report.figures {
            // A String takes whatever is written to it.
            let _written = writeln!(text, "{}: {}", name.replace('_', " "), number(*figure));
        }
        if let Some(worst) = &report.worst_second {
            let words = format!("worst second: {} done, p99 {} ms", worst.operations, number(worst.p99_ms));
            let _written = writeln!(text, "{words}, max {} ms", number(worst.max_ms));
        }
        if let Some(wanted) = report.rate_wanted {
            let _written = writeln!(text, "wanted: {} per second; {} never sent", number(wanted), report.missed);
        }
        for (kind, counts) in [("refused", &report.refused), ("failed", &report.errors)] {
            for (code, count) in counts {
                let _written = writeln!(text, "{kind}: {count} by {code}");
            }
        }
        let _written = writeln!(text, "the generator's own CPU: {} us each", number(report.generator_cpu_us));
        text
    }
}

fn row(name: &str, count: u64, rate: f64, latency: Summary) -> [String; 9] {
    let Summary { mean_ms, p50_ms, p90_ms, p99_ms, p999_ms, max_ms } = latency;
    let [mean, p50, p90, p99, p999, max] = [mean_ms, p50_ms, p90_ms, p99_ms, p999_ms, max_ms].map(number);
    [name.to_owned(), count.to_string(), number(rate), mean, p50, p90, p99, p999, max]
}

/// With as many digits as say something.
fn number(figure: f64) -> String {
    if figure >= 1000.0 {
        format!("{figure:.0}")
    } else if figure >= 10.0 {
        format!("{figure:.1}")
    } else {
        format!("{figure:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing::{human, json};

    fn measured() -> Measured {
        let latency =
            Summary { mean_ms: 1.5, p50_ms: 1.25, p90_ms: 2.0, p99_ms: 12.345, p999_ms: 99.0, max_ms: 1234.5 };
        Measured(BenchReport {
            workload: "put",
            endpoints: vec!["n1:2379".to_owned()],
            clients: 10,
            connections: 2,
            seconds: 2.0,
            operations: 2000,
            rate: 1000.0,
            latency,
            failed: 3,
            errors: [("UNAVAILABLE".to_owned(), 3)].into(),
            generator_cpu_us: 14.8,
            ..BenchReport::default()
        })
    }

    #[test]
    fn a_report_is_a_table_with_what_went_wrong() {
        assert_eq!(
            human(&measured()),
            "put: 2000 done in 2.00 s by 10 clients on 2 connections to n1:2379\n     \
             COUNT  PER SECOND  MEAN MS    P50    P90   P99  P99.9   MAX\n\
             all   2000        1000    1.500  1.250  2.000  12.3   99.0  1234\n\
             failed: 3 by UNAVAILABLE\n\
             the generator's own CPU: 14.8 us each\n"
        );
    }

    #[test]
    fn the_json_is_one_object() {
        let text = json(&measured());
        assert!(
            text.starts_with(r#"{"workload":"put","endpoints":["n1:2379"],"clients":10,"connections":2,"#),
            "{text}"
        );
        assert!(text.contains(r#""errors":{"UNAVAILABLE":3}"#) && text.ends_with("}\n"), "{text}");
    }
}
