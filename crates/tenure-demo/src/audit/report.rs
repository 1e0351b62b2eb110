//! What the demo says at the end.

use std::fmt::{self, Write as _};

/// Findings that are printed one by one; more are counted.
const FINDINGS_SHOWN_MAX: usize = 5;

/// Things that are wrong, bounded: a store that lost everything would fill the screen.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    shown: Vec<String>,
    count: u64,
}

impl Findings {
    /// Adds one.
    pub fn add(&mut self, text: impl Into<String>) {
        self.count += 1;
        if self.shown.len() < FINDINGS_SHOWN_MAX {
            self.shown.push(text.into());
        }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The first of them.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.shown.iter().map(String::as_str)
    }
}

/// One check and how it came out.
#[derive(Clone, Debug, Default)]
pub struct Check {
    /// What is claimed, in one short line.
    pub text: String,
    /// What else there is to know.
    pub notes: Vec<String>,
    pub wrong: Findings,
}

/// All checks, and figures that were measured on the way.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub checks: Vec<Check>,
    pub figures: Vec<String>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.checks.iter().all(|check| check.wrong.count() == 0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            let word = if check.wrong.count() == 0 { "ok    " } else { "WRONG " };
            writeln!(out, "  {word}{}", check.text)?;
            for finding in check.wrong.texts() {
                writeln!(out, "          {finding}")?;
            }
            let more = check.wrong.count().saturating_sub(check.wrong.texts().count() as u64);
            if more > 0 {
                writeln!(out, "          and {more} more")?;
            }
            for note in &check.notes {
                writeln!(out, "          {note}")?;
            }
        }
        for figure in &self.figures {
            writeln!(out, "        {figure}")?;
        }
        let verdict = if self.is_good() { "Nothing that was acknowledged is lost." } else { "Something is WRONG." };
        out.write_str(verdict)?;
        out.write_char('\n')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_shown_and_bounded() {
        let mut wrong = Findings::default();
        (0..7).for_each(|number| wrong.add(format!("write {number} is lost")));
        let good = Check { text: "the lock".to_owned(), ..Check::default() };
        let report = Report {
            checks: vec![
                good.clone(),
                Check { text: "the writes".to_owned(), notes: vec!["2 of unknown fate".to_owned()], wrong },
            ],
            figures: vec!["99 writes a second".to_owned()],
        };
        assert!(!report.is_good());
        assert_eq!(
            report.to_string(),
            "  ok    the lock\n  WRONG the writes\n          write 0 is lost\n          write 1 is lost\n          \
             write 2 is lost\n          write 3 is lost\n          write 4 is lost\n          and 2 more\n          \
             2 of unknown fate\n        99 writes a second\nSomething is WRONG.\n"
        );
        let report = Report { checks: vec![good], figures: vec![] };
        assert_eq!(report.to_string(), "  ok    the lock\nNothing that was acknowledged is lost.\n");
    }
}
