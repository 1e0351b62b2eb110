//! `tenure-demo`: reads the command line and runs the demo; see the library for what that is.

use std::process::ExitCode;

use clap::Parser as _;
use tenure_demo::app;
use tenure_demo::options::Options;

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    // A thread that draws waits for its terminal; the load's own must not.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    Ok(runtime.block_on(app::run(options)))
}
