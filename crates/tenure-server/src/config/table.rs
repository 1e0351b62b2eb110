//! Every flag that `tenured` knows: the whole surface of etcd 3.5 to 3.7, row by row, and what becomes of each here.
//!
//! One table feeds the parser, the environment, the help text and the warnings, so that none of them can forget a
//! flag. A flag of etcd's that means nothing to Tenure is accepted, with one warning, when ignoring it harms nobody.
//! When ignoring it would drop a protection or start another cluster than the one asked for, it is refused instead.

/// What becomes of a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It sets something.
    Used,
    /// Accepted; its subject does not exist here. `help` says why.
    NoEffect,
    /// Accepted; its subject comes with a later version. `help` names it.
    Later,
    /// An error unless neutral. `help` says what to do instead.
    Refused,
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flag {
    /// Without dashes.
    pub(super) name: &'static str,
    /// What its value is called in the help text; none for a boolean.
    pub(super) placeholder: Option<&'static str>,
    /// The default and, where they differ, further values that ask for nothing special.
    pub(super) neutral: &'static [&'static str],
    /// What becomes of it.
    pub(super) role: Role,
    /// See [`Role`].
    pub(super) help: &'static str,
}

impl Flag {
    /// Its value when nobody sets it.
    pub(super) fn default(&self) -> &'static str {
        self.neutral.first().copied().unwrap_or("")
    }

    /// Whether this value asks for nothing that Tenure does not do anyway.
    pub(super) fn is_neutral(&self, value: &str) -> bool {
        value.is_empty() || self.neutral.contains(&value)
    }
}

/// Flags under one heading of the help text.
pub(super) struct Section {
    pub(super) title: &'static str,
    pub(super) flags: &'static [Flag],
}

type Values = &'static [&'static str];

const fn used(name: &'static str, placeholder: &'static str, neutral: Values, help: &'static str) -> Flag {
    Flag { name, placeholder: Some(placeholder), neutral, role: Role::Used, help }
}

const fn used_switch(name: &'static str, neutral: Values, help: &'static str) -> Flag {
    Flag { name, placeholder: None, neutral, role: Role::Used, help }
}

const fn other(role: Role, name: &'static str, neutral: Values, help: &'static str) -> Flag {
    Flag { name, placeholder: Some("VALUE"), neutral, role, help }
}

const fn other_switch(role: Role, name: &'static str, neutral: Values, help: &'static str) -> Flag {
    Flag { name, placeholder: None, neutral, role, help }
}

/// All flags.
pub(super) const SECTIONS: &[Section] = &[
    Section { title: "Member", flags: MEMBER },
    Section { title: "Cluster", flags: CLUSTER },
    Section { title: "TLS", flags: TLS },
    Section { title: "Limits and timing", flags: LIMITS },
    Section { title: "Logging", flags: LOGGING },
    Section { title: "Other", flags: OTHER },
    Section { title: "Refused by this version", flags: REFUSED },
    Section { title: "Accepted for etcd's sake, to come with a later version", flags: LATER },
    Section { title: "Accepted for etcd's sake, without effect", flags: NO_EFFECT },
];

const MEMBER: &[Flag] = &[
    used("name", "NAME", &["default"], "This member's name; --initial-cluster lists it under this name."),
    used("data-dir", "DIR", &[""], "Where all data is kept (default ./NAME.tenure). No two members may share it."),
    used(
        "listen-client-urls",
        "URLS",
        &["http://127.0.0.1:2379"],
        "Addresses for clients: gRPC and HTTP on one port. When set, set --advertise-client-urls too.",
    ),
    used("listen-peer-urls", "URLS", &["http://127.0.0.1:2380"], "Addresses for the other members."),
    used(
        "listen-metrics-urls",
        "URLS",
        &[""],
        "Further addresses that serve /metrics and the health checks and nothing else.",
    ),
];

const CLUSTER: &[Flag] = &[
    used(
        "advertise-client-urls",
        "URLS",
        &[""],
        "This member's client URLs as clients should dial them (default: --listen-client-urls, if that is not set).",
    ),
    used(
        "initial-advertise-peer-urls",
        "URLS",
        &[""],
        "This member's peer URLs as the others should dial them (default: --listen-peer-urls).",
    ),
    used(
        "initial-cluster",
        "NAME=URL,...",
        &[""],
        "The founding members with their peer URLs, the same text on all of them (default: this member alone). \
         Read on a member's first start only.",
    ),
    used(
        "initial-cluster-state",
        "new|existing",
        &["new"],
        "`new` to found a cluster, `existing` to join one that runs. Read on a member's first start only.",
    ),
    used(
        "initial-cluster-token",
        "TEXT",
        &["etcd-cluster"],
        "Part of the cluster's id, to keep clusters with equal URLs apart.",
    ),
    used_switch("strict-reconfig-check", &["true"], "Refuse membership changes that would cost the quorum."),
];

const TLS: &[Flag] = &[
    used("cert-file", "FILE", &[""], "The certificate of the client port, in PEM form, for its https:// URLs."),
    used("key-file", "FILE", &[""], "The key to --cert-file."),
    used(
        "trusted-ca-file",
        "FILE",
        &[""],
        "The CA whose certificates clients must show. Without it they need not show any.",
    ),
    used_switch("client-cert-auth", &["false"], "Says what --trusted-ca-file means anyway, and insists on it."),
    used_switch("auto-tls", &["false"], "Serve https:// client URLs with a certificate that is made here."),
    used("peer-cert-file", "FILE", &[""], "The certificate of the peer port, also shown when peers are dialled."),
    used("peer-key-file", "FILE", &[""], "The key to --peer-cert-file."),
    used("peer-trusted-ca-file", "FILE", &[""], "The CA by which the members check each other's certificates."),
    used_switch("peer-client-cert-auth", &["false"], "Says what --peer-trusted-ca-file means anyway."),
    used("peer-client-cert-file", "FILE", &[""], "Another certificate to show when peers are dialled."),
    used("peer-client-key-file", "FILE", &[""], "The key to --peer-client-cert-file."),
    used_switch(
        "peer-auto-tls",
        &["false"],
        "Speak TLS with peers by certificates that are made here, and check none: secret, but open to anybody.",
    ),
    used("self-signed-cert-validity", "YEARS", &["1"], "How long certificates are good that are made here."),
    used("tls-min-version", "TLS1.2|TLS1.3", &["TLS1.2"], "The oldest version of TLS that is spoken."),
    used("tls-max-version", "TLS1.2|TLS1.3", &[""], "The newest version of TLS that is spoken (default the newest)."),
    used(
        "cipher-suites",
        "NAMES",
        &[""],
        "The suites of TLS 1.2 that may be used (default all that are offered, which are all good).",
    ),
];

const LIMITS: &[Flag] = &[
    used("heartbeat-interval", "MS", &["100"], "Milliseconds between the leader's heartbeats."),
    used(
        "election-timeout",
        "MS",
        &["1000"],
        "Milliseconds without a leader before an election; at least five heartbeats and at most 50000. \
         The same on all members.",
    ),
    used("snapshot-count", "ENTRIES", &["10000"], "Log entries between snapshots."),
    used(
        "snapshot-catchup-entries",
        "ENTRIES",
        &["0"],
        "Log entries kept for members that lag; 0 for as many as fit into 1 GiB, which is the bound in any case.",
    ),
    used(
        "snapshot-send-bytes-per-second",
        "BYTES",
        &["67108864"],
        "How fast snapshots are sent to members that lag behind the log, 64 MiB by default; 0 for no limit.",
    ),
    used(
        "quota-backend-bytes",
        "BYTES",
        &["0"],
        "Logical bytes of data above which writes are refused; 0 for 2 GiB, negative for no limit.",
    ),
    used("max-request-bytes", "BYTES", &["1572864"], "The largest request a client may send, 1.5 MiB by default."),
    used("max-txn-ops", "COUNT", &["128"], "The most compares, and the most operations, in one transaction."),
    used("max-concurrent-streams", "COUNT", &["4294967295"], "The most requests in flight on one client connection."),
    used("grpc-keepalive-interval", "DURATION", &["2h"], "Silence after which a client is pinged; 0 for never."),
    used("grpc-keepalive-timeout", "DURATION", &["20s"], "How long a ping may stay unanswered; 0 for ever."),
    used(
        "watch-progress-notify-interval",
        "DURATION",
        &["10m"],
        "How often a quiet watch that asked for progress hears of it.",
    ),
    used("auto-compaction-mode", "periodic|revision", &["periodic"], "How --auto-compaction-retention is meant."),
    used(
        "auto-compaction-retention",
        "DURATION|COUNT",
        &["0"],
        "History to keep: a time (hours, if without unit) or a number of revisions; 0 turns automatic compaction off.",
    ),
];

const LOGGING: &[Flag] = &[
    used("log-level", "LEVEL", &["info"], "debug, info, warn, error, panic or fatal."),
    used("log-format", "text|json", &["text", "console"], "The format of the log on stderr; `console` means text."),
    used(
        "warning-unary-request-duration",
        "DURATION",
        &["300ms"],
        "A request that takes longer than this is logged; 0 for none.",
    ),
    used("warning-apply-duration", "DURATION", &["100ms"], "An apply that takes longer than this is logged."),
];

const OTHER: &[Flag] = &[
    used(
        "experimental-failpoints",
        "NAME=TERM;...",
        &[""],
        "For tests: faults that wait in this member from its start on. Only in a build made for it.",
    ),
    used(
        "experimental-fault-injection-url",
        "URL",
        &[""],
        "For tests: a loopback address at which faults are put into this member. Only in a build made for it.",
    ),
    used_switch("version", &["false"], "Print the version and exit."),
    used_switch("help", &["false"], "Print this text and exit; also -h."),
];

use Role::{Later, NoEffect, Refused};

const NO_DISCOVERY: &str = "list the members in --initial-cluster";
const NO_V2: &str = "only the v3 API is served";
const OWN_ENGINE: &str = "it tunes etcd's storage engine, and Tenure has its own";
const NO_CRL: &str = "lists of revoked certificates are not read, so use a CA of its own, or short-lived certificates";
const NO_NAMES: &str = "certificates are believed for their CA and not for their names, so use a CA of its own";
const NO_TRACING: &str = "there is no trace exporter";

const REFUSED: &[Flag] = &[
    other(Refused, "config-file", &[""], "give each setting as a flag or as an environment variable"),
    other_switch(
        Refused,
        "force-new-cluster",
        &["false"],
        "start the other members again; a member keeps its data however long it was down",
    ),
    other(
        Refused,
        "listen-client-http-urls",
        &[""],
        "HTTP shares the addresses of --listen-client-urls; /metrics can have its own by --listen-metrics-urls",
    ),
    other(
        Refused,
        "host-whitelist",
        &["*"],
        "the host of requests is not checked, so keep the client port to trusted networks and drop the flag",
    ),
    other(Refused, "discovery", &[""], NO_DISCOVERY),
    other(Refused, "discovery-endpoints", &[""], NO_DISCOVERY),
    other(Refused, "discovery-token", &[""], NO_DISCOVERY),
    other(Refused, "discovery-proxy", &[""], NO_DISCOVERY),
    other(Refused, "discovery-srv", &[""], NO_DISCOVERY),
    other(Refused, "discovery-srv-name", &[""], NO_DISCOVERY),
    other(Refused, "discovery-fallback", &["exit", "proxy"], NO_DISCOVERY),
    other(Refused, "proxy", &["off"], "the v2 proxy is gone from etcd too; run a member instead"),
    other(Refused, "client-crl-file", &[""], NO_CRL),
    other(Refused, "peer-crl-file", &[""], NO_CRL),
    other(Refused, "client-cert-allowed-hostname", &[""], NO_NAMES),
    other(Refused, "peer-cert-allowed-cn", &[""], NO_NAMES),
    other(Refused, "peer-cert-allowed-hostname", &[""], NO_NAMES),
    other_switch(Refused, "enable-v2", &["false"], NO_V2),
    other(Refused, "experimental-enable-v2v3", &[""], NO_V2),
];

const LATER: &[Flag] = &[
    other(Later, "auth-token", &["simple"], "authentication"),
    other(Later, "auth-token-ttl", &["300"], "authentication"),
    other(Later, "bcrypt-cost", &["10"], "authentication"),
    other(Later, "max-learners", &["1"], "learners"),
    other_switch(Later, "enable-grpc-gateway", &[], "the JSON gateway"),
    other(Later, "corrupt-check-time", &["0s", "0"], "periodic comparison of the members"),
    other(Later, "compact-hash-check-time", &["1m", "1m0s"], "periodic comparison of the members"),
    other_switch(Later, "experimental-compact-hash-check-enabled", &["false"], "periodic comparison of the members"),
    other_switch(Later, "experimental-initial-corrupt-check", &["false"], "comparison of the members at start"),
];

const NO_EFFECT: &[Flag] = &[
    other(NoEffect, "wal-dir", &[""], "the log is kept in the data directory"),
    other(NoEffect, "client-cert-file", &[""], "the server is no client of itself"),
    other(NoEffect, "client-key-file", &[""], "the server is no client of itself"),
    other_switch(
        NoEffect,
        "peer-skip-client-san-verification",
        &["false"],
        "the address that a certificate comes from is not compared with it",
    ),
    other(NoEffect, "max-wals", &["5"], "the log is purged by its snapshots"),
    other(NoEffect, "max-snapshots", &["5"], "one snapshot is kept"),
    other_switch(NoEffect, "unsafe-no-fsync", &["false"], "every acknowledged write is synced"),
    other_switch(NoEffect, "pre-vote", &["true"], "pre-vote is always on"),
    other_switch(NoEffect, "initial-election-tick-advance", &["true"], "elections do not count ticks"),
    other(NoEffect, "backend-bbolt-freelist-type", &["map"], OWN_ENGINE),
    other(NoEffect, "backend-batch-interval", &["0s", "0"], OWN_ENGINE),
    other(NoEffect, "backend-batch-limit", &["0"], OWN_ENGINE),
    other_switch(NoEffect, "memory-mlock", &["false"], OWN_ENGINE),
    other(NoEffect, "bootstrap-defrag-threshold-megabytes", &["0"], "there is nothing to defragment"),
    other_switch(NoEffect, "experimental-stop-grpc-service-on-defrag", &["false"], "there is nothing to defragment"),
    other_switch(NoEffect, "experimental-txn-mode-write-with-shared-buffer", &["true"], OWN_ENGINE),
    other(NoEffect, "compaction-batch-limit", &["1000"], "compaction never blocks writes"),
    other(NoEffect, "compaction-sleep-interval", &["10ms"], "compaction never blocks writes"),
    other_switch(NoEffect, "experimental-enable-lease-checkpoint", &["true"], "remaining TTLs always survive"),
    other_switch(NoEffect, "experimental-enable-lease-checkpoint-persist", &["true"], "remaining TTLs always survive"),
    other(NoEffect, "feature-gates", &[""], "they name parts of etcd"),
    other(NoEffect, "raft-read-timeout", &["5s"], "peers have timeouts of their own"),
    other(NoEffect, "raft-write-timeout", &["5s"], "peers have timeouts of their own"),
    other(NoEffect, "grpc-keepalive-min-time", &["5s"], "clients may ping as often as they like"),
    other_switch(NoEffect, "socket-reuse-port", &["false"], "a port is never shared"),
    other_switch(NoEffect, "socket-reuse-address", &["false", "true"], "addresses are always reused"),
    other(NoEffect, "cors", &["*"], "no CORS headers are sent"),
    other_switch(NoEffect, "enable-pprof", &["false"], "that is Go's profiler"),
    other(NoEffect, "metrics", &["basic", "extensive"], "there is one set of metrics"),
    other(NoEffect, "logger", &["zap"], "there is one logger"),
    other(NoEffect, "log-outputs", &["default", "stderr"], "logs go to stderr"),
    other_switch(NoEffect, "enable-log-rotation", &["false"], "logs go to stderr"),
    other(NoEffect, "log-rotation-config-json", &[""], "logs go to stderr"),
    other(NoEffect, "downgrade-check-time", &["5s"], "Tenure has no etcd versions to downgrade to"),
    other(NoEffect, "v2-deprecation", &["not-yet", "write-only", "write-only-drop-data", "gone"], NO_V2),
    other_switch(NoEffect, "enable-distributed-tracing", &["false"], NO_TRACING),
    other(NoEffect, "distributed-tracing-address", &["localhost:4317"], NO_TRACING),
    other(NoEffect, "distributed-tracing-service-name", &["etcd"], NO_TRACING),
    other(NoEffect, "distributed-tracing-instance-id", &[""], NO_TRACING),
    other(NoEffect, "distributed-tracing-sampling-rate", &["0"], NO_TRACING),
    other(NoEffect, "discovery-dial-timeout", &["2s"], NO_DISCOVERY),
    other(NoEffect, "discovery-request-timeout", &["5s"], NO_DISCOVERY),
    other(NoEffect, "discovery-keepalive-time", &["2s"], NO_DISCOVERY),
    other(NoEffect, "discovery-keepalive-timeout", &["6s"], NO_DISCOVERY),
    other_switch(NoEffect, "discovery-insecure-transport", &["true"], NO_DISCOVERY),
    other_switch(NoEffect, "discovery-insecure-skip-tls-verify", &["false"], NO_DISCOVERY),
    other(NoEffect, "discovery-cert", &[""], NO_DISCOVERY),
    other(NoEffect, "discovery-key", &[""], NO_DISCOVERY),
    other(NoEffect, "discovery-cacert", &[""], NO_DISCOVERY),
    other(NoEffect, "discovery-user", &[""], NO_DISCOVERY),
    other(NoEffect, "discovery-password", &[""], NO_DISCOVERY),
    other(NoEffect, "proxy-dial-timeout", &["1000"], NO_V2),
    other(NoEffect, "proxy-failure-wait", &["5000"], NO_V2),
    other(NoEffect, "proxy-read-timeout", &["0"], NO_V2),
    other(NoEffect, "proxy-refresh-interval", &["30000"], NO_V2),
    other(NoEffect, "proxy-write-timeout", &["5000"], NO_V2),
];

/// Names that etcd gave a flag before it left the experimental stage; they mean the flag without that word.
const ALIASES: &[(&str, &str)] = &[
    ("experimental-bootstrap-defrag-threshold-megabytes", "bootstrap-defrag-threshold-megabytes"),
    ("experimental-compact-hash-check-time", "compact-hash-check-time"),
    ("experimental-compaction-batch-limit", "compaction-batch-limit"),
    ("experimental-compaction-sleep-interval", "compaction-sleep-interval"),
    ("experimental-corrupt-check-time", "corrupt-check-time"),
    ("experimental-distributed-tracing-address", "distributed-tracing-address"),
    ("experimental-distributed-tracing-instance-id", "distributed-tracing-instance-id"),
    ("experimental-distributed-tracing-sampling-rate", "distributed-tracing-sampling-rate"),
    ("experimental-distributed-tracing-service-name", "distributed-tracing-service-name"),
    ("experimental-downgrade-check-time", "downgrade-check-time"),
    ("experimental-enable-distributed-tracing", "enable-distributed-tracing"),
    ("experimental-max-learners", "max-learners"),
    ("experimental-memory-mlock", "memory-mlock"),
    ("experimental-peer-skip-client-san-verification", "peer-skip-client-san-verification"),
    ("experimental-snapshot-catchup-entries", "snapshot-catchup-entries"),
    ("experimental-snapshot-catch-up-entries", "snapshot-catchup-entries"),
    ("experimental-warning-apply-duration", "warning-apply-duration"),
    ("experimental-warning-unary-request-duration", "warning-unary-request-duration"),
    ("experimental-watch-progress-notify-interval", "watch-progress-notify-interval"),
    ("h", "help"),
];

/// All flags in the order of the help text.
pub(super) fn flags() -> impl Iterator<Item = &'static Flag> {
    SECTIONS.iter().flat_map(|section| section.flags)
}

/// The flag of this name, by any of its names.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, real)| real);
    flags().find(|flag| flag.name == name)
}

/// All names of a flag, its own first.
pub(super) fn names(flag: &'static Flag) -> impl Iterator<Item = &'static str> {
    let aliases = ALIASES.iter().filter(|(_, real)| *real == flag.name).map(|(alias, _)| *alias);
    std::iter::once(flag.name).chain(aliases)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_name_is_listed_once_and_every_alias_leads_somewhere() {
        let mut seen = BTreeSet::new();
        for flag in flags() {
            for name in names(flag) {
                assert!(seen.insert(name), "--{name} is listed twice");
                assert_eq!(find(name).unwrap().name, flag.name);
            }
        }
        assert!(ALIASES.iter().all(|(alias, _)| seen.contains(alias)));
    }

    #[test]
    fn switches_have_normal_booleans_as_neutral_values() {
        for flag in flags().filter(|flag| flag.placeholder.is_none()) {
            assert!(flag.neutral.iter().all(|value| ["true", "false"].contains(value)), "--{}", flag.name);
        }
    }

    #[test]
    fn every_flag_explains_itself() {
        for flag in flags() {
            assert!(!flag.help.is_empty(), "--{}", flag.name);
        }
    }
}
