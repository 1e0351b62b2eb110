//! What a place is told to do, in the words of gofail: `3*sleep(100)->1*return("EIO")`.
//!
//! A chain of terms. Each may have a probability (`50%`) and a number of times (`3*`); the first one that applies is done,
//! and a chain that is used up does nothing. Where gofail returns any value, errors of the operating system are returned
//! here, for there is nothing else that the code could take.

use std::io;
use std::time::Duration;

/// A text longer than this tells no fault that anybody meant.
const TEXT_BYTES_MAX: usize = 4096;

/// Terms in a chain, each of which is asked at every hit.
const CHAIN_TERMS_MAX: usize = 64;

/// Longer than any fault that a test waits for; a typing error must not stop a member for a year.
const SLEEP_MAX: Duration = Duration::from_secs(600);

/// Why a text tells nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TermError(String);

fn wrong<T>(why: impl Into<String>) -> Result<T, TermError> {
    Err(TermError(why.into()))
}

/// What is done at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing; terms behind it are not asked.
    Off,
    Sleep(Duration),
    Fail(Errno),
    /// The process ends, saying this.
    Crash(String),
    /// A line in the log.
    Print,
}

/// An error of the operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Errno {
    /// The disk does not do what it is asked for.
    Io,
    /// The disk is full.
    NoSpace,
}

impl Errno {
    /// The numbers are those of Linux on every machine.
    pub(crate) fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Errno::Io => 5,
            Errno::NoSpace => 28,
        })
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Term {
    percent: Option<f64>,
    /// How often it is still done.
    left: Option<u64>,
    action: Action,
}

/// A chain of terms, and what is left of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Terms {
    text: String,
    chain: Vec<Term>,
}

impl Terms {
    pub(crate) fn parse(text: &str) -> Result<Terms, TermError> {
        let text = text.trim();
        if text.len() > TEXT_BYTES_MAX {
            return wrong(format!("it has more than {TEXT_BYTES_MAX} bytes"));
        }
        let mut chain = Vec::new();
        let mut rest = text;
        loop {
            let (term, after) = Term::parse(rest)?;
            chain.push(term);
            if after.is_empty() {
                break;
            }
            let Some(next) = after.strip_prefix("->") else {
                return wrong(format!("expected `->` and another term instead of `{after}`"));
            };
            rest = next;
        }
        if chain.len() > CHAIN_TERMS_MAX {
            return wrong(format!("it has more than {CHAIN_TERMS_MAX} terms"));
        }
        Ok(Terms { text: text.to_owned(), chain })
    }

    /// As it was given.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn can_fail(&self) -> bool {
        self.chain.iter().any(|term| matches!(term.action, Action::Fail(_)))
    }

    /// What is done this time. `roll` gives a number from 0 up to 100.
    pub(crate) fn next(&mut self, mut roll: impl FnMut() -> f64) -> Option<Action> {
        for term in &mut self.chain {
            if term.percent.is_some_and(|percent| roll() >= percent) || term.left == Some(0) {
                continue;
            }
            term.left = term.left.map(|left| left - 1);
            return Some(term.action.clone());
        }
        None
    }

    /// Whether it will never do anything again.
    pub(crate) fn is_used_up(&self) -> bool {
        self.chain.iter().all(|term| term.left == Some(0))
    }
}

impl Term {
    /// The term that the text begins with, and what follows it.
    fn parse(text: &str) -> Result<(Term, &str), TermError> {
        let (mut percent, mut left, mut rest) = (None, None, text);
        while let Some(end) = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|end| *end > 0) {
            let (number, after) = rest.split_at(end);
            if let Some(after) = after.strip_prefix('%') {
                percent = Some(percent_of(number)?);
                rest = after;
            } else if let Some(after) = after.strip_prefix('*') {
                let Ok(count) = number.parse() else { return wrong(format!("`{number}` is no number of times")) };
                left = Some(count);
                rest = after;
            } else {
                return wrong(format!("expected `%` or `*` behind {number}"));
            }
        }
        let (action, rest) = action(rest)?;
        Ok((Term { percent, left, action }, rest))
    }
}

fn percent_of(number: &str) -> Result<f64, TermError> {
    match number.parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => wrong(format!("`{number}` is no percentage")),
    }
}

/// The action that the text begins with, and what follows it.
fn action(text: &str) -> Result<(Action, &str), TermError> {
    let end = text.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let (argument, rest) = argument(rest)?;
    let action = match (word, argument) {
        ("off", None) => Action::Off,
        ("print", None) => Action::Print,
        ("sleep", Some(length)) => Action::Sleep(length_of(length)?),
        ("return", error) => Action::Fail(errno_of(error)?),
        ("panic", text) => Action::Crash(text.map_or_else(|| "panic".to_owned(), |text| unquoted(text).to_owned())),
        _ => {
            let known = "off, print, sleep(MS), sleep(\"1s\"), return(\"EIO\"), return(\"ENOSPC\") and panic";
            return wrong(format!("`{text}` is none of {known}"));
        }
    };
    Ok((action, rest))
}

/// What stands in parentheses, if the text begins with one, and what follows. Within quotes a parenthesis is a letter.
fn argument(text: &str) -> Result<(Option<&str>, &str), TermError> {
    let Some(inside) = text.strip_prefix('(') else { return Ok((None, text)) };
    let mut quoted = false;
    for (at, c) in inside.char_indices() {
        match c {
            '"' => quoted = !quoted,
            ')' if !quoted => return Ok((Some(&inside[..at]), &inside[at + 1..])),
            _ => {}
        }
    }
    wrong("a parenthesis is not closed")
}

fn unquoted(text: &str) -> &str {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}

/// A number of milliseconds, or a time with its unit in quotes.
fn length_of(text: &str) -> Result<Duration, TermError> {
    let text = unquoted(text);
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let length = number.parse::<u64>().ok().and_then(|number| match unit {
        "" | "ms" => Some(Duration::from_millis(number)),
        "us" => Some(Duration::from_micros(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        _ => None,
    });
    match length {
        Some(length) if length <= SLEEP_MAX => Ok(length),
        Some(_) => wrong(format!("a place sleeps at most {SLEEP_MAX:?}")),
        None => wrong(format!("`{text}` is no time: expected milliseconds, or a number with us, ms, s or m")),
    }
}

fn errno_of(text: Option<&str>) -> Result<Errno, TermError> {
    match text.map(unquoted) {
        None | Some("" | "EIO") => Ok(Errno::Io),
        Some("ENOSPC") => Ok(Errno::NoSpace),
        Some(other) => wrong(format!("only \"EIO\" and \"ENOSPC\" can be returned, not `{other}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(text: &str) -> Terms {
        Terms::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// What is done at so many hits, when every probability applies.
    fn done(text: &str, hits: usize) -> Vec<Option<Action>> {
        let mut terms = terms(text);
        (0..hits).map(|_| terms.next(|| 0.0)).collect()
    }

    #[test]
    fn actions_are_read_as_gofail_writes_them() {
        let ms = Duration::from_millis;
        for (text, action) in [
            ("off", Action::Off),
            ("print", Action::Print),
            ("sleep(100)", Action::Sleep(ms(100))),
            ("sleep(\"2s\")", Action::Sleep(ms(2000))),
            ("sleep(\"1m\")", Action::Sleep(ms(60_000))),
            ("sleep(\"1500us\")", Action::Sleep(Duration::from_micros(1500))),
            ("return", Action::Fail(Errno::Io)),
            ("return()", Action::Fail(Errno::Io)),
            ("return(\"ENOSPC\")", Action::Fail(Errno::NoSpace)),
            ("panic", Action::Crash("panic".into())),
            ("panic(\"a -> (b)\")", Action::Crash("a -> (b)".into())),
            (" print\n", Action::Print),
        ] {
            assert_eq!(done(text, 2), [Some(action.clone()), Some(action)], "{text}");
        }
    }

    #[test]
    fn what_is_no_term_is_refused() {
        let long = "print->".repeat(CHAIN_TERMS_MAX) + "print";
        let texts = [
            "",
            "sleep",
            "sleep()",
            "sleep(x)",
            "sleep(-1)",
            "sleep(601000)",
            "sleep(99999999999999999999)",
            "sleep(1",
            "sleep(\"307445734561825861m\")",
            "return(5)",
            "return(\"ENOENT\")",
            "off(1)",
            "break",
            "1*",
            "x*print",
            "101%print",
            "1.5*print",
            "..%print",
            "3print",
            "print->",
            "print print",
            "->print",
            "é",
            "18446744073709551616*off",
            &long,
        ];
        for text in texts {
            assert!(Terms::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_term_is_done_so_often_and_then_the_next() {
        let sleep = Some(Action::Sleep(Duration::from_millis(5)));
        let fail = Some(Action::Fail(Errno::Io));
        assert_eq!(done("2*sleep(5)->1*return(\"EIO\")", 4), [sleep.clone(), sleep, fail, None]);
        assert_eq!(done("1*off->panic", 1), [Some(Action::Off)]);
        let mut once = terms("1*print");
        assert!(!once.is_used_up());
        once.next(|| 0.0);
        assert!(once.is_used_up());
        assert!(!terms("print").is_used_up());
    }

    #[test]
    fn a_probability_decides_before_a_time_is_counted() {
        let mut terms = terms("25%1*panic->print");
        assert_eq!(terms.next(|| 25.0), Some(Action::Print));
        assert_eq!(terms.next(|| 24.9), Some(Action::Crash("panic".into())));
        assert_eq!(terms.next(|| 24.9), Some(Action::Print));
    }

    #[test]
    fn errors_are_those_of_the_operating_system() {
        assert_eq!(Errno::NoSpace.error().kind(), io::ErrorKind::StorageFull);
        assert!(Errno::Io.error().to_string().starts_with("Input/output error"));
    }
}
