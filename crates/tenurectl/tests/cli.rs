//! The program without a cluster: what it reads from its environment, what it says when nobody is there, how it ends.
//!
//! Port 1 on loopback stands for a server that is not there.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn tenurectl(environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenurectl"));
    command.env_remove("TENURE_ENDPOINTS").env_remove("ETCDCTL_ENDPOINTS");
    command.envs(environment.iter().copied()).args(arguments).stdin(Stdio::null()).output().expect("it runs")
}

/// The endpoints that it tried in vain.
fn tried(environment: &[(&str, &str)], arguments: &[&str]) -> Vec<String> {
    let output = tenurectl(environment, &[&["get", "key", "-ojson"], arguments].concat());
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let error: Value = serde_json::from_slice(&output.stderr).expect("an error in JSON");
    assert_eq!(error["error"]["kind"], "unreachable");
    let details = error["error"]["details"].as_array().expect("details").iter();
    details
        .map(|line| line.as_str().and_then(|line| line.split_whitespace().next()).expect("text").to_owned())
        .collect()
}

#[test]
fn endpoints_come_from_the_option_or_else_from_the_environment() {
    let both = [("TENURE_ENDPOINTS", "127.0.0.1:1,localhost:1"), ("ETCDCTL_ENDPOINTS", "127.0.0.2:1")];
    assert_eq!(tried(&both, &["--endpoints=127.0.0.3:1"]), ["127.0.0.3:1"]);
    assert_eq!(tried(&both, &[]), ["127.0.0.1:1", "localhost:1"]);
    assert_eq!(tried(&both[1..], &[]), ["127.0.0.2:1"]);
    assert_eq!(tried(&[("TENURE_ENDPOINTS", ""), both[1]], &[]), ["127.0.0.2:1"]);
}

#[test]
fn a_variable_that_makes_no_sense_is_named() {
    let output = tenurectl(&[("TENURE_ENDPOINTS", "https://n1:2379")], &["status"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "tenurectl: TENURE_ENDPOINTS: https://n1:2379: this version does not speak TLS; use http:// on a trusted network\n"
    );
}

#[test]
fn a_server_that_is_not_there_is_named_with_what_to_check() {
    let output = tenurectl(&[], &["put", "key", "value", "--endpoints", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stdout.is_empty());
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "tenurectl: no endpoint can be reached; nothing was sent\n  127.0.0.1:1  connection refused\n\
         Check that the servers run, that these are the addresses of their --listen-client-urls, and that nothing between \
         here and there keeps them apart.\n"
    );
}

#[test]
fn help_and_version_end_well_and_mistakes_with_two() {
    let help = tenurectl(&[], &["--help"]);
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    assert_eq!(help.status.code(), Some(0));
    for wanted in ["Exit codes:", "TENURE_ENDPOINTS", "move-leader", "--command-timeout"] {
        assert!(text.contains(wanted), "{wanted} is not in\n{text}");
    }
    let version = tenurectl(&[], &["--version"]);
    assert_eq!(String::from_utf8_lossy(&version.stdout), concat!("tenurectl ", env!("CARGO_PKG_VERSION"), "\n"));
    for arguments in [&["gett", "k"][..], &[], &["get"], &["lease", "revoke", "soon"], &["get", "k", "--raw", "-ojson"]]
    {
        assert_eq!(tenurectl(&[], arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn completions_are_scripts_that_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = tenurectl(&[], &["completions", shell]);
        let script = String::from_utf8(output.stdout).expect("text");
        assert_eq!(output.status.code(), Some(0), "{shell}");
        for word in ["tenurectl", "move-leader", "keep-alive", "hashkv", "dial-timeout"] {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
    }
    let script = tenurectl(&[], &["completions", "bash"]).stdout;
    // It is too long for an argument.
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("completions.bash");
    std::fs::write(&file, &script).expect("a file");
    let checked = Command::new("bash").arg("-n").arg(&file).status().expect("bash");
    assert!(checked.success(), "the script for bash is not valid");
}

#[test]
fn an_output_that_takes_nothing_is_an_error() {
    let full = std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenurectl"));
    let output = command.args(["completions", "bash"]).stdout(full).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.starts_with("tenurectl: cannot write the output: "), "{said}");
}
