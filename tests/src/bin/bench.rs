//! `bench`: etcd and Tenure, three members each, under the same loads, in one table. `make bench` runs all of it.

#![expect(clippy::print_stdout, reason = "the table is the product")]

use std::fs;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use tenure_tests::bench::compare::compare;
use tenure_tests::bench::document;
use tenure_tests::bench::options::Options;
use tenure_tests::bench::table::tables;
use tenure_tests::bench::works::works;

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    if options.list {
        works().iter().for_each(|work| println!("{:28} {}", work.name, work.label));
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(compare(&options))?;
    println!("\n{}", tables(&outcome));
    if let Some(path) = &options.json {
        fs::write(path, document::json(&outcome)?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if options.write {
        document::write(&outcome, &options)?;
    }
    let has_failed = outcome.cells.values().any(|cell| !cell.failures.is_empty());
    Ok(if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
