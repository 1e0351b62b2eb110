//! Makes the page of a run from its record.
//!
//! ```text
//! cargo run -p tenure-history --example report -- run.json page.html          the page of a recorded run
//! cargo run -p tenure-history --example report -- made-up page.html [run.json] a made-up run of 20 minutes
//! cargo run -p tenure-history --example report -- void page.html               a run that never served
//! ```

use std::error::Error;
use std::fs;
use std::process::ExitCode;

use tenure_history::report::{self, RunRecord};

mod made_up;

#[expect(clippy::print_stderr, reason = "a program that explains itself")]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["made-up", page] => write(page, &made_up::record(7, 20)),
        ["made-up", page, json] => keep(json, &made_up::record(7, 20)).and_then(|record| write(page, &record)),
        ["void", page] => write(page, &made_up::void()),
        [json, page] => read(json).and_then(|record| write(page, &record)),
        _ => Err("usage: report RECORD.json PAGE.html | made-up PAGE.html [RECORD.json] | void PAGE.html".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("report: {error}");
            ExitCode::FAILURE
        }
    }
}

fn read(json: &str) -> Result<RunRecord, Box<dyn Error>> {
    let text = fs::read_to_string(json).map_err(|error| format!("{json}: {error}"))?;
    Ok(RunRecord::from_json(&text)?)
}

fn keep(json: &str, record: &RunRecord) -> Result<RunRecord, Box<dyn Error>> {
    fs::write(json, record.to_json()?)?;
    read(json)
}

fn write(page: &str, record: &RunRecord) -> Result<(), Box<dyn Error>> {
    Ok(fs::write(page, report::html(record))?)
}
