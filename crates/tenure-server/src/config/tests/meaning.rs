//! What the values of flags mean, what they may be, and which of them fit together.

use std::num::NonZeroU64;
use std::time::Duration;

use super::super::{AutoCompaction, ClusterState, LogFormat, LogLevel};
use super::{bootstrap_error_of, config, error_of, text};

#[test]
fn without_flags_it_is_a_durable_cluster_of_one_on_loopback() {
    let config = config(&[]);
    assert_eq!(config.name, "default");
    assert_eq!(config.data_dir.to_str(), Some("default.tenure"));
    assert_eq!(text(&config.listen_client_urls), "http://127.0.0.1:2379");
    assert_eq!(text(&config.advertise_client_urls), "http://127.0.0.1:2379");
    assert_eq!(text(&config.listen_peer_urls), "http://127.0.0.1:2380");
    assert_eq!(text(&config.initial_advertise_peer_urls), "http://127.0.0.1:2380");
    assert_eq!(config.listen_metrics_urls, []);
    assert_eq!(config.initial_cluster_state, ClusterState::New);
    assert_eq!(config.initial_cluster_token, "etcd-cluster");
    assert!(config.strict_reconfig_check);
    assert_eq!(config.heartbeat_interval, Duration::from_millis(100));
    assert_eq!(config.election_timeout, Duration::from_millis(1000));
    assert_eq!(config.snapshot_count, 10_000);
    assert_eq!(config.snapshot_catchup_entries, None);
    assert_eq!(config.snapshot_send_bytes_per_second, NonZeroU64::new(64 << 20));
    assert_eq!(config.quota_backend_bytes, Some(2 * 1024 * 1024 * 1024));
    assert_eq!(config.max_request_bytes, 1_572_864);
    assert_eq!(config.max_txn_ops, 128);
    assert_eq!(config.max_concurrent_streams, u32::MAX);
    assert_eq!(config.grpc_keepalive_interval, Some(Duration::from_secs(7200)));
    assert_eq!(config.grpc_keepalive_timeout, Some(Duration::from_secs(20)));
    assert_eq!(config.watch_progress_notify_interval, Duration::from_secs(600));
    assert_eq!(config.auto_compaction, None);
    assert_eq!(config.warning_unary_request_duration, Some(Duration::from_millis(300)));
    assert_eq!(config.warning_apply_duration, Some(Duration::from_millis(100)));
    assert_eq!((config.log_level, config.log_format), (LogLevel::Info, LogFormat::Text));
    assert_eq!(config.warnings, [""; 0]);

    let cluster = config.bootstrap().unwrap();
    assert_eq!(cluster.members.len(), 1);
    assert_eq!(cluster.members[0].id, cluster.member_id);
    assert_eq!(cluster.members[0].name, "default");
    assert_eq!(text(&cluster.members[0].peer_urls), "http://127.0.0.1:2380");
}

#[test]
fn the_data_directory_follows_the_name_unless_it_is_set() {
    let named = config(&["--name", "m1"]);
    assert_eq!(named.data_dir.to_str(), Some("m1.tenure"));
    assert_eq!(named.bootstrap().unwrap().members[0].name, "m1");
    let set = config(&["--name=m1", "--data-dir=/var/lib/etcd"]);
    assert_eq!(set.lock_path().to_str(), Some("/var/lib/etcd/LOCK"));
}

#[test]
fn values_reach_the_configuration() {
    let config = config(&[
        "--heartbeat-interval=50",
        "--election-timeout=250",
        "--snapshot-count=5",
        "--quota-backend-bytes=4096",
        "--max-request-bytes=100",
        "--max-concurrent-streams=9",
        "--grpc-keepalive-interval=0",
        "--grpc-keepalive-timeout=1m",
        "--auto-compaction-mode=revision",
        "--auto-compaction-retention=1000",
        "--warning-unary-request-duration=0s",
        "--experimental-warning-apply-duration=1s",
        "--log-level=debug",
        "--log-format=json",
        "--initial-cluster-state=existing",
        "--listen-metrics-urls=http://127.0.0.1:2381",
    ]);
    assert_eq!(config.heartbeat_interval, Duration::from_millis(50));
    assert_eq!(config.election_timeout, Duration::from_millis(250));
    assert_eq!(config.snapshot_count, 5);
    assert_eq!(config.quota_backend_bytes, Some(4096));
    assert_eq!(config.max_request_bytes, 100);
    assert_eq!(config.max_concurrent_streams, 9);
    assert_eq!(config.grpc_keepalive_interval, None);
    assert_eq!(config.grpc_keepalive_timeout, Some(Duration::from_secs(60)));
    assert_eq!(config.auto_compaction, Some(AutoCompaction::Revision(1000)));
    assert_eq!(config.warning_unary_request_duration, None);
    assert_eq!(config.warning_apply_duration, Some(Duration::from_secs(1)));
    assert_eq!((config.log_level, config.log_format), (LogLevel::Debug, LogFormat::Json));
    assert_eq!(config.initial_cluster_state, ClusterState::Existing);
    assert_eq!(text(&config.listen_metrics_urls), "http://127.0.0.1:2381");
}

#[test]
fn a_retention_without_a_unit_is_in_hours() {
    let periodic = |text: &str| config(&["--auto-compaction-retention", text]).auto_compaction;
    assert_eq!(periodic("8"), Some(AutoCompaction::Periodic(Duration::from_secs(8 * 3600))));
    assert_eq!(periodic("5m"), Some(AutoCompaction::Periodic(Duration::from_secs(300))));
    assert_eq!(periodic("0"), None);
    assert_eq!(periodic("0h"), None);
}

#[test]
fn a_value_out_of_bounds_says_what_the_bounds_are() {
    let cases: &[(&str, &str, &str)] = &[
        ("max-txn-ops", "0", "expected a whole number from 1 to 1000000"),
        ("max-txn-ops", "-1", "expected a whole number from 1 to 1000000"),
        ("max-request-bytes", "134217729", "expected a whole number from 1 to 134217728"),
        ("snapshot-count", "0", "expected a whole number of at least 1"),
        ("quota-backend-bytes", "2GiB", "expected a whole number"),
        ("heartbeat-interval", "100ms", "expected a whole number"),
        ("watch-progress-notify-interval", "10", "expected a duration such as 300ms, 10s, 5m or 1h30m"),
        ("warning-apply-duration", "-1s", "must not be negative"),
        ("initial-cluster-state", "old", "expected new or existing"),
        ("auto-compaction-mode", "always", "expected periodic or revision"),
        ("log-level", "loud", "expected debug, info, warn, error, panic or fatal"),
        ("log-format", "xml", "expected text or json"),
        ("strict-reconfig-check", "maybe", "expected true or false"),
        ("name", "", "a member needs a name"),
        ("listen-client-urls", "http://example.com:1", "expected IP in URL for binding (http://example.com:1)"),
        ("initial-cluster", "default", "expected name=url, separated by commas: default"),
        ("initial-cluster", "=http://a:1", "expected name=url, separated by commas: =http://a:1"),
        ("advertise-client-urls", "http://:1", "http://:1 must be \"host:port\" with a host and a port to dial"),
        (
            "initial-advertise-peer-urls",
            "http://a:0",
            "http://a:0 must be \"host:port\" with a host and a port to dial",
        ),
    ];
    for (flag, value, reason) in cases {
        let expected = format!("invalid value \"{value}\" for --{flag}: {reason}");
        assert_eq!(error_of(&[&format!("--{flag}={value}")]), expected);
    }
    for name in ["a,b", "a=b", " a", "a\n"] {
        assert!(error_of(&["--name", name]).contains("a name that --initial-cluster can list"), "{name:?}");
    }
    assert!(error_of(&["--name", &"n".repeat(256)]).contains("at most 255 bytes"));
}

#[test]
fn the_times_of_raft_are_bound_as_in_etcd() {
    let cases: &[(&[&str], &str)] = &[
        (&["--heartbeat-interval=0"], "--heartbeat-interval must be >0 (set to 0ms)"),
        (&["--election-timeout=0"], "--election-timeout must be >0 (set to 0ms)"),
        (&["--election-timeout=-5"], "--election-timeout must be >0 (set to -5ms)"),
        (
            &["--heartbeat-interval=100", "--election-timeout=499"],
            "--election-timeout[499ms] should be at least as 5 times as --heartbeat-interval[100ms]",
        ),
        (&["--election-timeout=50001"], "--election-timeout[50001ms] is too long, and should be set less than 50000ms"),
    ];
    for (args, text) in cases {
        assert_eq!(error_of(args), *text, "{args:?}");
    }
    let limit = config(&["--heartbeat-interval=100", "--election-timeout=500"]);
    assert_eq!(limit.election_timeout, limit.heartbeat_interval * 5);
    assert_eq!(config(&["--election-timeout=50000"]).election_timeout, Duration::from_secs(50));
}

#[test]
fn what_others_should_dial_must_be_said_when_it_cannot_be_guessed() {
    let error = error_of(&["--listen-client-urls=http://127.0.0.1:1"]);
    assert!(error.starts_with("--advertise-client-urls is required when --listen-client-urls is set explicitly"));
    let error = error_of(&["--listen-peer-urls=http://[::]:1"]);
    assert!(error.starts_with("--initial-advertise-peer-urls is required when --listen-peer-urls has http://[::]:1"));
    let config = config(&["--listen-peer-urls=http://10.0.0.1:1,http://10.0.0.2:1"]);
    assert_eq!(text(&config.initial_advertise_peer_urls), "http://10.0.0.1:1,http://10.0.0.2:1");
    assert_eq!(error_of(&["--listen-client-urls="]), "--listen-client-urls must name at least one URL");
    assert_eq!(error_of(&["--listen-peer-urls="]), "--listen-peer-urls must name at least one URL");
}

#[test]
fn an_address_that_nobody_else_can_dial_is_worth_a_warning() {
    let wildcard = "http://0.0.0.0:2379";
    let config = config(&["--listen-client-urls", wildcard, "--advertise-client-urls", wildcard]);
    let text =
        format!("--advertise-client-urls has {wildcard}, which works on this machine only; name an address to dial");
    assert_eq!(config.warnings, [text]);
}

const THREE: &str = "a=http://127.0.0.1:2380,b=http://127.0.0.1:22380,c=http://127.0.0.1:32380";

#[test]
fn three_members_agree_on_all_ids_from_their_flags_alone() {
    let member = |name: &str, port: u16, cluster: &str| {
        let peer = format!("http://127.0.0.1:{port}");
        let urls = format!("--initial-advertise-peer-urls={peer}");
        config(&["--name", name, &urls, "--initial-cluster", cluster]).bootstrap().unwrap()
    };
    let shuffled = " c=http://127.0.0.1:32380, a=http://127.0.0.1:2380 ,,b=http://127.0.0.1:22380,";
    let (a, b, c) = (member("a", 2380, THREE), member("b", 22380, shuffled), member("c", 32380, THREE));
    assert_eq!((a.cluster_id, &a.members), (b.cluster_id, &b.members));
    assert_eq!((a.cluster_id, &a.members), (c.cluster_id, &c.members));
    let mut ids = [a.member_id, b.member_id, c.member_id];
    ids.sort_unstable();
    assert_eq!(a.members.iter().map(|member| member.id).collect::<Vec<_>>(), ids);
    for own in [&a, &b, &c] {
        assert!(own.members.iter().any(|member| member.id == own.member_id));
    }
    let other = config(&["--name=a", "--initial-cluster", THREE, "--initial-cluster-token=other"]).bootstrap().unwrap();
    assert_ne!(other.cluster_id, a.cluster_id);
    assert_ne!(other.member_id, a.member_id);
}

#[test]
fn a_cluster_that_makes_no_sense_is_refused_with_what_to_do() {
    assert_eq!(
        bootstrap_error_of(&["--name=d", "--initial-cluster", THREE]),
        "couldn't find local name \"d\" in the initial cluster configuration; \
         set --name to one of the names in --initial-cluster (a, b, c), or add it there"
    );
    assert_eq!(
        bootstrap_error_of(&["--name=b", "--initial-cluster", THREE]),
        "--initial-cluster has b=http://127.0.0.1:22380 but missing from \
         --initial-advertise-peer-urls=http://127.0.0.1:2380; the two must name the same URLs for this member"
    );
    assert_eq!(
        bootstrap_error_of(&[
            "--name=a",
            "--initial-cluster",
            THREE,
            "--initial-advertise-peer-urls=http://127.0.0.1:2380,http://10.0.0.1:2380"
        ]),
        "--initial-advertise-peer-urls has http://10.0.0.1:2380 but missing from \
         --initial-cluster=a=http://127.0.0.1:2380; the two must name the same URLs for this member"
    );
    assert_eq!(
        bootstrap_error_of(&["--name=a", "--initial-cluster=a=http://127.0.0.1:2380,b=http://localhost:2380"]),
        "initial cluster has duplicate url http://localhost:2380; \
         give every member in --initial-cluster its own URLs"
    );
    let crowd: Vec<String> = (0..65).map(|i| format!("m{i}=http://10.0.0.{i}:1")).collect();
    assert!(error_of(&["--initial-cluster", &crowd.join(",")]).ends_with("more than 64 members"));
}

#[test]
fn localhost_and_its_address_are_the_same_place_when_urls_are_compared() {
    let cluster = "a=http://localhost:2380,b=http://127.0.0.1:22380";
    assert!(config(&["--name=a", "--initial-cluster", cluster]).bootstrap().is_ok());
}

#[test]
fn a_member_that_joins_need_not_advertise_what_the_cluster_lists() {
    let joining = ["--name=b", "--initial-cluster", THREE, "--initial-cluster-state=existing"];
    assert!(config(&joining).bootstrap().is_ok());
}

#[test]
fn one_member_may_have_several_urls() {
    let cluster = "--initial-cluster=a=http://10.0.0.2:1,a=http://10.0.0.1:1,b=http://10.0.0.3:1";
    let urls = "--initial-advertise-peer-urls=http://10.0.0.1:1,http://10.0.0.2:1";
    let cluster = config(&["--name=a", cluster, urls]).bootstrap().unwrap();
    let own = cluster.members.iter().find(|member| member.id == cluster.member_id).unwrap();
    assert_eq!(text(&own.peer_urls), "http://10.0.0.1:1,http://10.0.0.2:1");
    assert_eq!(cluster.members.len(), 2);
}

#[test]
fn progress_is_told_ten_times_a_second_at_most() {
    for (given, millis) in [("100ms", 100), ("99ms", 100), ("0", 100), ("1m", 60_000)] {
        let config = config(&["--watch-progress-notify-interval", given]);
        assert_eq!(config.watch_progress_notify_interval, Duration::from_millis(millis), "{given}");
        assert_eq!(config.warnings.len(), usize::from(["99ms", "0"].contains(&given)), "{given}");
    }
}

#[test]
fn faults_are_injected_by_programs_made_for_it_alone() {
    let flags =
        ["--experimental-fault-injection-url=http://127.0.0.1:22381", "--experimental-failpoints=afterCommit=panic"];
    if tenure_faults::INJECTS {
        let config = config(&flags);
        assert_eq!(config.fault_injection, "127.0.0.1:22381".parse().ok());
        assert_eq!(config.failpoints, "afterCommit=panic");
        for elsewhere in ["http://0.0.0.0:22381", "https://127.0.0.1:22381", "unix:///tmp/faults"] {
            let error = error_of(&[&format!("--experimental-fault-injection-url={elsewhere}")]);
            assert!(error.contains("expected a loopback address"), "{error}");
        }
        assert!(error_of(&["--experimental-failpoints=nowhere=panic"]).contains("there is no failpoint nowhere"));
    } else {
        for flag in flags {
            let (error, name) = (error_of(&[flag]), flag.split_once('=').unwrap().0);
            assert!(error.contains(&format!("{name} is not supported by this version")), "{error}");
            assert!(error.contains("built without fault injection"), "{error}");
        }
    }
    let config = config(&["--experimental-fault-injection-url=", "--experimental-failpoints="]);
    assert_eq!((config.fault_injection, config.failpoints.as_str()), (None, ""));
}
