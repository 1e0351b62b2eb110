//! `tenurectl`, the command line of a Tenure cluster. It speaks the etcd v3 API, so it works with etcd too.
//!
//! This file reads the command line, runs one command and turns its failure into words and an exit code. docs/TENURECTL.md
//! describes the commands and the codes.

mod arguments;
mod client;
mod commands;
mod explain;
mod failure;
mod ids;
mod locking;
mod output;
mod stop;
mod table;
mod text;

use std::env;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;

use crate::arguments::{Arguments, ConnectionArgs, EndpointList};
use crate::client::Client;
use crate::commands::Session;
use crate::failure::Failure;
use crate::output::complain;

/// Where a cluster that was started by `make cluster` serves.
const LOCAL_ENDPOINTS: &str = "127.0.0.1:2379,127.0.0.1:22379,127.0.0.1:32379";
/// The variables that stand for `--endpoints`; the first that is set counts.
const ENDPOINTS_VARIABLES: [&str; 2] = ["TENURE_ENDPOINTS", "ETCDCTL_ENDPOINTS"];
/// One thing is done at a time. The runtime is of the kind with workers all the same, because only that kind hands on the
/// rest of its work while a write to stdout waits for a slow reader.
const WORKERS: usize = 1;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("tenurectl: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run(arguments));
    // A write to a pipe that nobody empties must not hold up the end.
    runtime.shutdown_background();
    ExitCode::from(code)
}

async fn run(arguments: Arguments) -> u8 {
    let Arguments { connection, display, command } = arguments;
    let output = display.output();
    let (endpoints, are_defaults) = match endpoints(&connection) {
        Ok(found) => found,
        Err(failure) => {
            explain::plain(&failure).print(output);
            return failure.exit_code();
        }
    };
    let session =
        Arc::new(Session { client: Client::new(endpoints, connection.timeouts()), output, are_defaults, command });
    let worked = if session.command.is_endless() {
        stop::unless_stopped(tokio::spawn(commands::run(session.clone()))).await
    } else {
        commands::run(session.clone()).await
    };
    match worked {
        Ok(()) => 0,
        Err(failure) => {
            if failure.is_told() {
                explain::explain(&session, &failure).await.print(output);
            }
            failure.exit_code()
        }
    }
}

/// The endpoints to use, and whether nobody named them.
fn endpoints(connection: &ConnectionArgs) -> Result<(Vec<client::Endpoint>, bool), Failure> {
    if let Some(EndpointList(given)) = &connection.endpoints {
        return Ok((given.clone(), false));
    }
    for variable in ENDPOINTS_VARIABLES {
        let Some(text) = env::var(variable).ok().filter(|text| !text.trim().is_empty()) else { continue };
        let list: EndpointList = text.parse().map_err(|error| Failure::Usage(format!("{variable}: {error}")))?;
        return Ok((list.0, false));
    }
    let list: EndpointList = LOCAL_ENDPOINTS.parse().map_err(Failure::Usage)?;
    Ok((list.0, true))
}
