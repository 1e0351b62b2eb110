//! How flags and variables are written, which of them wins, and what becomes of those that set nothing.

use std::ffi::OsString;
use std::time::Duration;

use super::super::{Invocation, table};
use super::{config, config_in, error_of, invoke};

#[test]
fn flags_are_spelt_as_in_etcd() {
    let spellings: &[&[&str]] = &[
        &["--max-txn-ops=7"],
        &["--max-txn-ops", "7"],
        &["-max-txn-ops=7"],
        &["-max-txn-ops", "7"],
        &["--max-txn-ops=9", "--max-txn-ops=7"],
        &["--max-txn-ops=7", "--"],
    ];
    for args in spellings {
        assert_eq!(config(args).max_txn_ops, 7, "{args:?}");
    }
    let switches: &[(&[&str], bool)] = &[
        (&["--strict-reconfig-check"], true),
        (&["-strict-reconfig-check"], true),
        (&["--strict-reconfig-check=true"], true),
        (&["--strict-reconfig-check=false"], false),
        (&["--strict-reconfig-check=0"], false),
        (&["--strict-reconfig-check", "--strict-reconfig-check=F"], false),
    ];
    for (args, value) in switches {
        assert_eq!(config(args).strict_reconfig_check, *value, "{args:?}");
    }
    // The argument after a flag is its value, whatever it looks like.
    assert_eq!(config(&["--quota-backend-bytes", "-1"]).quota_backend_bytes, None);
    assert_eq!(config(&["--initial-cluster-token", "--name"]).initial_cluster_token, "--name");
    assert_eq!(config(&["--initial-cluster-token=a=b"]).initial_cluster_token, "a=b");
}

#[test]
fn a_command_line_that_cannot_be_read_is_a_usage_error() {
    let cases: &[(&[&str], &str)] = &[
        (&["--electon-timeout=1"], "unknown flag --electon-timeout, did you mean --election-timeout?"),
        (&["-data_dir", "x"], "unknown flag --data_dir, did you mean --data-dir?"),
        (&["--frobnicate-everything"], "unknown flag --frobnicate-everything"),
        (&["--x"], "unknown flag --x"),
        (&["--bogus"], "unknown flag --bogus"),
        (&["gateway"], "\"gateway\" is not a valid flag"),
        (&["--strict-reconfig-check", "false"], "\"false\" is not a valid flag"),
        (&["--", "x"], "\"x\" is not a valid flag"),
        (&["-"], "\"-\" is not a valid flag"),
        (&[""], "\"\" is not a valid flag"),
        (&["---name=x"], "bad flag syntax: ---name=x"),
        (&["--=x"], "bad flag syntax: --=x"),
        (&["--name"], "flag needs an argument: --name"),
    ];
    for (args, reason) in cases {
        let error = invoke(args, &[]).expect_err("unreadable");
        assert!(error.is_usage(), "{args:?}");
        assert_eq!(error.to_string(), format!("{reason}; run tenured --help for the list of flags"), "{args:?}");
    }
}

#[cfg(unix)]
#[test]
fn an_argument_that_is_not_utf8_is_a_usage_error() {
    use std::os::unix::ffi::OsStringExt as _;

    let raw = OsString::from_vec(b"--name=\xff".to_vec());
    let error = Invocation::from_args([raw], []).expect_err("unreadable");
    assert!(error.is_usage() && error.to_string().contains("is not valid UTF-8"), "{error}");
}

#[test]
fn help_and_version_answer_at_once() {
    let Ok(Invocation::Print(version)) = invoke(&["--version"], &[("ETCD_CONFIG_FILE", "x")]) else {
        panic!("--version prints");
    };
    assert!(version.starts_with("Tenure Version: "), "{version}");
    assert!(version.lines().any(|line| line == "etcd Version: 3.7.1"), "{version}");
    for args in [&["--help"][..], &["-h"], &["-help"], &["--name", "x", "--help", "--nonsense"]] {
        let Ok(Invocation::Print(help)) = invoke(args, &[]) else { panic!("{args:?} prints") };
        assert!(help.contains("Usage:") && help.contains("--initial-cluster-token"), "{help}");
    }
    assert_eq!(config(&["--version=false", "--help=false"]).name, "default");
}

#[test]
fn a_flag_beats_our_variable_which_beats_the_variable_of_etcd() {
    let (flag, ours, theirs) = ("--name=flag", ("TENURE_NAME", "ours"), ("ETCD_NAME", "theirs"));
    assert_eq!(config_in(&[flag], &[ours, theirs]).name, "flag");
    assert_eq!(config_in(&[], &[theirs, ours]).name, "ours");
    assert_eq!(config_in(&[], &[theirs]).name, "theirs");
    assert_eq!(config_in(&[], &[("TENURE_NAME", ""), theirs]).name, "theirs");
    assert_eq!(config_in(&[], &[("ETCD_NAME", "")]).name, "default");
    assert_eq!(config_in(&[], &[("NAME", "x"), ("tenure_name", "x")]).name, "default");
    assert!(!config_in(&[], &[("ETCD_STRICT_RECONFIG_CHECK", "false")]).strict_reconfig_check);
}

#[test]
fn a_variable_counts_as_setting_its_flag() {
    let error = invoke(&[], &[("ETCD_LISTEN_CLIENT_URLS", "http://0.0.0.0:2379")]).expect_err("incomplete");
    assert!(error.to_string().contains("--advertise-client-urls is required"), "{error}");
    let error = invoke(&[], &[("ETCD_MAX_TXN_OPS", "many")]).expect_err("not a number");
    let wanted = "invalid value \"many\" for --max-txn-ops (from the environment variable ETCD_MAX_TXN_OPS): ";
    assert!(error.to_string().starts_with(wanted), "{error}");
    let error = invoke(&[], &[("ETCD_CONFIG_FILE", "/etc/etcd.yaml")]).expect_err("unsupported");
    assert!(error.to_string().contains("ETCD_CONFIG_FILE) is not supported by this version"), "{error}");
}

#[test]
fn a_variable_of_no_flag_is_worth_a_warning_but_those_of_the_scripts_are_not() {
    let variables = [
        ("ETCD_SERVICE_HOST", "10.0.0.1"),
        ("TENURE_ELECTION_TIMOUT", "1000"),
        ("TENURE_CLUSTER_DIR", ".cluster"),
        ("TENURE_NODES", "3"),
        ("TENURE_BASE_PORT", "2379"),
        ("ETCDCTL_API", "3"),
    ];
    let expected = ["TENURE_ELECTION_TIMOUT", "ETCD_SERVICE_HOST"]
        .map(|name| format!("the environment variable {name} sets no flag"));
    assert_eq!(config_in(&[], &variables).warnings, expected);
}

#[test]
fn a_flag_of_etcd_that_means_nothing_here_is_accepted_with_one_warning() {
    let cases: &[(&[&str], &[&str])] = &[
        (&["--max-wals=3"], &["--max-wals has no effect: the log is purged by its snapshots"]),
        (&["--max-wals=3", "--max-wals=4"], &["--max-wals has no effect: the log is purged by its snapshots"]),
        (&["--unsafe-no-fsync"], &["--unsafe-no-fsync has no effect: every acknowledged write is synced"]),
        (&["--pre-vote=false"], &["--pre-vote has no effect: pre-vote is always on"]),
        (
            &["--auth-token=jwt,sign-method=RS256"],
            &["--auth-token has no effect yet: authentication comes with a later version"],
        ),
        (
            &["--strict-reconfig-check=false"],
            &["--strict-reconfig-check has no effect yet: membership changes come with a later version"],
        ),
        // What asks for nothing special is not worth a word.
        (&["--max-wals=5", "--unsafe-no-fsync=false", "--pre-vote", "--logger=zap", "--auth-token=simple"], &[]),
        (&["--cert-file=", "--client-cert-auth=false", "--force-new-cluster=0", "--host-whitelist=*"], &[]),
    ];
    for (args, warnings) in cases {
        assert_eq!(config(args).warnings, *warnings, "{args:?}");
    }
    let warnings = config_in(&[], &[("ETCD_METRICS", "basic"), ("ETCD_CORS", "http://a")]).warnings;
    assert_eq!(warnings, ["--cors (from the environment variable ETCD_CORS) has no effect: no CORS headers are sent"]);
}

#[test]
fn the_experimental_names_of_flags_still_work() {
    let interval = |args: &[&str], env: &[(&str, &str)]| config_in(args, env).watch_progress_notify_interval;
    let five = Duration::from_secs(5);
    assert_eq!(interval(&["--experimental-watch-progress-notify-interval=5s"], &[]), five);
    assert_eq!(interval(&[], &[("ETCD_EXPERIMENTAL_WATCH_PROGRESS_NOTIFY_INTERVAL", "5s")]), five);
    let (alias, own) = ("ETCD_EXPERIMENTAL_WATCH_PROGRESS_NOTIFY_INTERVAL", "ETCD_WATCH_PROGRESS_NOTIFY_INTERVAL");
    assert_eq!(interval(&[], &[(alias, "9s"), (own, "5s")]), five);
    assert!(error_of(&["--experimental-name=x"]).starts_with("unknown flag --experimental-name"));
}

#[test]
fn what_would_start_another_server_than_the_one_asked_for_is_refused() {
    let cases: &[(&[&str], &str)] = &[
        (&["--config-file=/etc/etcd.yaml"], "give each setting as a flag or as an environment variable"),
        (&["--force-new-cluster"], "start the other members again"),
        (&["--discovery-srv=example.com"], "list the members in --initial-cluster"),
        (&["--discovery-endpoints=http://a:1"], "list the members in --initial-cluster"),
        (&["--listen-client-http-urls=http://127.0.0.1:1"], "HTTP shares the addresses of --listen-client-urls"),
        (&["--host-whitelist=example.com"], "the host of requests is not checked"),
        (&["--enable-v2"], "only the v3 API is served"),
        (&["--client-crl-file=crl"], "lists of revoked certificates are not read"),
        (&["--peer-cert-allowed-cn=etcd"], "certificates are believed for their CA"),
        (&["--proxy=on"], "run a member instead"),
    ];
    for (args, advice) in cases {
        let error = error_of(args);
        assert!(error.contains("is not supported by this version: ") && error.contains(advice), "{args:?}: {error}");
    }
}

#[test]
fn no_value_of_any_flag_makes_the_parser_panic() {
    let values =
        ["", "-", "--", "=", ",", ",,,", "a=", "=a", "http://", "http://[", "http://[]:", "é=http://é:1", "\u{0}"];
    let numbers = ["-1", "0", "9223372036854775807", "18446744073709551616", "1e9", "0x10", "NaN", "9999999999h", ".h"];
    for flag in table::flags() {
        for value in values.iter().chain(&numbers) {
            let variable = format!("ETCD_{}", flag.name.to_ascii_uppercase().replace('-', "_"));
            for result in [invoke(&[&format!("--{}={value}", flag.name)], &[]), invoke(&[], &[(&variable, value)])] {
                match result {
                    Ok(Invocation::Serve(config)) => drop(config.bootstrap()),
                    Ok(Invocation::Print(text)) => assert!(!text.is_empty()),
                    Ok(Invocation::Snapshot(command)) => panic!("{command:?}"),
                    Err(error) => assert!(!error.to_string().is_empty()),
                }
            }
        }
    }
}
