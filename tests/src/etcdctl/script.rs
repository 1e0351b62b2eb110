//! The scripts: one etcdctl command a line, and a few lines that steer commands which do not end by themselves.
//!
//! ```text
//! put a 1                      a command, run to its end and compared
//! | text                       a line of standard input for the command above; `|* c N` is N times c
//! keep L 1                     keeps word 1 of the last command's output (from 0) as $L
//! until 2 lock/ :: get lock/   the command, again and again until its output holds the text that often, then compared
//! t1& lock l                   starts the command in a terminal of its own, called t1
//! t1? 1 l/                     waits until that terminal shows the text that often; `\n` in it ends a line
//! t1< text                     types a line into it
//! t1! INT                      sends the signal (INT, TERM; END for none), waits for its end, compares all it showed
//! # comment
//! ```
//!
//! Words are split at blanks; `'…'` holds a word together, `\xNN` is a byte, and `$NAME` is what was kept.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use anyhow::{Context, Result, bail, ensure};

/// What a step does.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Runs a command to its end.
    Run,
    /// Runs a command until its output holds a text that often.
    Until { count: usize, text: String },
    /// Keeps a word of the last output.
    Keep { name: String, word: usize },
    /// Starts a command in a terminal.
    Start { terminal: String },
    /// Waits until a terminal shows a text that often.
    Await { terminal: String, count: usize, text: String },
    /// Types a line.
    Type { terminal: String, line: String },
    /// Ends a terminal.
    End { terminal: String, signal: Option<Signal> },
}

/// How a terminal is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Interrupt,
    Terminate,
}

/// A line of a script.
#[derive(Debug)]
pub struct Step {
    pub line: usize,
    pub text: String,
    pub action: Action,
    /// The command's words, if there is one.
    pub words: Vec<OsString>,
    pub stdin: Vec<u8>,
}

impl Step {
    /// Whether the step is a command of etcdctl whose output is compared.
    pub fn is_compared(&self) -> bool {
        matches!(self.action, Action::Run | Action::Until { .. } | Action::End { .. })
    }
}

/// Reads a script.
pub fn parse(script: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    for (at, line) in script.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(input) = line.strip_prefix('|') {
            let step = steps.last_mut().with_context(|| format!("line {}: input without a command", at + 1))?;
            add_input(&mut step.stdin, input)?;
            continue;
        }
        let (action, words) = read_step(line).with_context(|| format!("line {}: {line}", at + 1))?;
        steps.push(Step { line: at + 1, text: line.to_owned(), action, words, stdin: Vec::new() });
    }
    Ok(steps)
}

fn add_input(stdin: &mut Vec<u8>, input: &str) -> Result<()> {
    match input.strip_prefix('*') {
        None => {
            stdin.extend(input.strip_prefix(' ').unwrap_or(input).bytes());
            stdin.push(b'\n');
        }
        Some(repeat) => {
            let (what, count) = repeat.trim().split_once(' ').context("`|* c N`")?;
            stdin.extend(what.repeat(count.parse()?).bytes());
        }
    }
    Ok(())
}

fn read_step(line: &str) -> Result<(Action, Vec<OsString>)> {
    let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
    let counted = |rest: &str| -> Result<(usize, String)> {
        let (count, text) = rest.split_once(' ').context("a count and a text")?;
        Ok((count.parse()?, text.to_owned()))
    };
    let none = Vec::new();
    if first == "keep" {
        let (name, word) = rest.split_once(' ').context("`keep NAME WORD`")?;
        return Ok((Action::Keep { name: name.to_owned(), word: word.parse()? }, none));
    }
    if first == "until" {
        let (condition, command) = rest.split_once(" :: ").context("`until N TEXT :: COMMAND`")?;
        let (count, text) = counted(condition)?;
        return Ok((Action::Until { count, text }, words(command)?));
    }
    if let Some(terminal) = first.strip_suffix('&') {
        return Ok((Action::Start { terminal: terminal.to_owned() }, words(rest)?));
    }
    if let Some(terminal) = first.strip_suffix('?') {
        let (count, text) = counted(rest)?;
        let text = text.replace("\\n", "\n");
        return Ok((Action::Await { terminal: terminal.to_owned(), count, text }, none));
    }
    if let Some(terminal) = first.strip_suffix('<') {
        return Ok((Action::Type { terminal: terminal.to_owned(), line: rest.to_owned() }, none));
    }
    if let Some(terminal) = first.strip_suffix('!') {
        let signal = match rest {
            "INT" => Some(Signal::Interrupt),
            "TERM" => Some(Signal::Terminate),
            "END" => None,
            other => bail!("no such signal: {other}"),
        };
        return Ok((Action::End { terminal: terminal.to_owned(), signal }, none));
    }
    Ok((Action::Run, words(line)?))
}

fn words(line: &str) -> Result<Vec<OsString>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quoted = false;
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        match char {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take().map(OsString::from_vec)),
            '\\' => {
                let digits: String = chars.by_ref().take(3).collect();
                let byte = digits.strip_prefix('x').and_then(|digits| u8::from_str_radix(digits, 16).ok());
                word.get_or_insert_default().push(byte.with_context(|| format!("`\\{digits}` in {line}"))?);
            }
            other => word.get_or_insert_default().extend(other.to_string().bytes()),
        }
    }
    ensure!(!quoted, "an open quote in {line}");
    words.extend(word.map(OsString::from_vec));
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line_is_read() {
        let steps = parse(
            "put 'a b' \\x00\n| in\n|* x 3\nkeep L 1\nuntil 2 l/ :: get l/\nt1& lock l\nt1? 1 l/\\n\nt1< x y\nt1! INT\nt1! END\n# no\n",
        )
        .expect("a good script");
        let actions: Vec<&Action> = steps.iter().map(|step| &step.action).collect();
        let t1 = || "t1".to_owned();
        assert_eq!(
            actions,
            [
                &Action::Run,
                &Action::Keep { name: "L".into(), word: 1 },
                &Action::Until { count: 2, text: "l/".into() },
                &Action::Start { terminal: t1() },
                &Action::Await { terminal: t1(), count: 1, text: "l/\n".into() },
                &Action::Type { terminal: t1(), line: "x y".into() },
                &Action::End { terminal: t1(), signal: Some(Signal::Interrupt) },
                &Action::End { terminal: t1(), signal: None },
            ]
        );
        assert_eq!(steps[0].words, ["put", "a b", "\0"].map(OsString::from));
        assert_eq!(steps[0].stdin, b"in\nxxx");
    }

    #[test]
    fn a_line_that_makes_no_sense_is_named() {
        for bad in ["keep L", "until x : get", "t1? lock", "t1! KILL", "put 'a", "put \\q12"] {
            let error = parse(bad).expect_err(bad);
            assert!(error.to_string().contains("line 1"), "{bad}: {error}");
        }
    }
}
