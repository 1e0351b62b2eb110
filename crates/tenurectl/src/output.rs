//! Where results go: to stdout, for people or as JSON; and notes to people, to stderr.
//!
//! A result is one value that knows both forms. JSON is one object a line and never mixed with anything else on stdout. A
//! reader that closes the pipe ends the command quietly.

use std::io::{self, ErrorKind, Write as _};

use clap::ValueEnum;
use serde::Serialize;
use tokio::task::block_in_place;

use crate::failure::Failure;
use crate::text::Style;

/// For whom the output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    // No help of their own: it would stretch the help of every option over several lines.
    Human,
    Json,
}

/// A result: serialised for programs, written out for people.
pub(crate) trait Report: Serialize {
    /// The text for people, with its last newline.
    fn human(&self) -> String;
}

/// See the module's header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub format: Format,
    pub style: Style,
}

impl Output {
    /// Prints a result.
    pub(crate) fn show(self, report: &impl Report) -> Result<(), Failure> {
        self.raw(self.render(report)?.as_bytes())
    }

    /// Prints bytes as they are. A reader may keep it waiting: connections and signals need the thread meanwhile.
    pub(crate) fn raw(self, bytes: &[u8]) -> Result<(), Failure> {
        let written = block_in_place(|| {
            let mut stdout = io::stdout().lock();
            stdout.write_all(bytes).and_then(|()| stdout.flush())
        });
        written.map_err(|error| match error.kind() {
            ErrorKind::BrokenPipe => Failure::ClosedPipe,
            _ => Failure::Local(format!("cannot write the output: {error}")),
        })
    }

    /// Tells a person something that is not part of the result.
    pub(crate) fn note(self, text: &str) {
        if self.format == Format::Human {
            complain(text);
        }
    }

    fn render(self, report: &impl Report) -> Result<String, Failure> {
        match self.format {
            Format::Human => Ok(report.human()),
            Format::Json => match serde_json::to_string(report) {
                Ok(json) => Ok(json + "\n"),
                Err(error) => Err(Failure::Local(format!("cannot write JSON: {error}"))),
            },
        }
    }
}

/// Writes a line to stderr.
pub(crate) fn complain(line: &str) {
    // Without a stderr there is nobody to tell.
    drop(writeln!(io::stderr(), "{line}"));
}

#[cfg(test)]
pub(crate) mod testing {
    //! Both forms of a result, for golden texts.

    use super::{Format, Output, Report};
    use crate::text::Style;

    pub(crate) fn human(report: &impl Report) -> String {
        render(Format::Human, report)
    }

    pub(crate) fn json(report: &impl Report) -> String {
        render(Format::Json, report)
    }

    fn render(format: Format, report: &impl Report) -> String {
        Output { format, style: Style::default() }.render(report).expect("a rendered report")
    }
}
