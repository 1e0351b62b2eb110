//! The examples of a resource that checks fencing tokens do what their README says, against a real etcd and tenured.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tenure_tests::binaries::Program;
use tenure_tests::clients::Library;
use tenure_tests::cluster::Cluster;
use tenure_tests::scenario;
use tokio::time::timeout;

const RUST_EXAMPLE: &str = env!("CARGO_BIN_EXE_fencing-example");
/// An interpreter may take its time to start; the example itself waits for nothing.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_resource_refuses_the_tokens_of_a_holder_that_was_away() {
    scenario::run(
        "compat_examples",
        "a_resource_refuses_the_tokens_of_a_holder_that_was_away",
        |scenario| async move {
            for program in [Program::Etcd37, Program::Tenured] {
                let cluster = Cluster::start(program, 1, &scenario.home.join(program.label())).await?;
                let (mut last, mut examples) = (0, 0);
                for library in Library::ALL {
                    let example = library.fencing_example(Path::new(RUST_EXAMPLE))?;
                    let Some(mut command) = example else { continue };
                    command.arg(cluster.nodes[0].endpoint()).stdin(Stdio::null()).kill_on_drop(true);
                    let output = timeout(PATIENCE, command.output()).await.context("it does not end")??;
                    let said = String::from_utf8(output.stdout)?;
                    let failed = || format!("{}: {said}{}", library.label(), String::from_utf8_lossy(&output.stderr));
                    ensure!(output.status.success(), "{}", failed());
                    let (first, second) = tokens(&said).with_context(failed)?;
                    // They take the same lock, so their tokens rise from one to the next, too.
                    ensure!(last < first && first < second, "{}", failed());
                    let expected = format!(
                        "token {first}: written\ntoken {second}: written\ntoken {first}: refused, {second} was seen\n\
                     the resource was written by the second\n"
                    );
                    ensure!(said == expected, "{}", failed());
                    (last, examples) = (second, examples + 1);
                }
                ensure!(examples == 3, "{examples} examples");
            }
            Ok(())
        },
    );
}

/// The tokens of the first two lines.
fn tokens(said: &str) -> Result<(i64, i64)> {
    let mut tokens = said.lines().map(|line| {
        let token = line.strip_prefix("token ").and_then(|rest| rest.split_once(':'));
        token.context("no token")?.0.parse::<i64>().context("no number")
    });
    Ok((tokens.next().context("no line")??, tokens.next().context("no second line")??))
}
