//! From the text of flags to a [`ServerConfig`]: the type, the bounds and the default of each, and the rules among them.
//!
//! The rules are those of etcd's server/embed/config.go, in its words where it has some. Defaults that follow from
//! other flags are made here; plain ones are in the table.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use tenure_faults::Registry;

use super::cluster::{Described, InitialCluster};
use super::error::ConfigError;
use super::flags::{Value, Values};
use super::tls;
use super::urls::{self, ListenAddress, ListenUrl, Url, UrlError};
use super::values::{parse_count, parse_duration, parse_number};
use super::{AutoCompaction, ClusterState, LogFormat, LogLevel, ServerConfig, cluster};

/// Longer than any host name, and short enough for a log line.
const NAME_BYTES_MAX: usize = 255;

/// etcd's bound: members so slow to notice a dead leader would look hung to every client.
const ELECTION_TIMEOUT_MS_MAX: i64 = 50_000;

/// etcd's rule: fewer heartbeats per election timeout, and one lost packet starts an election.
const HEARTBEATS_PER_ELECTION_MIN: u32 = 5;

/// 2 GiB, etcd's default quota.
const QUOTA_BYTES_DEFAULT: u64 = 2 << 30;

/// A request becomes part of one log entry, which is kept in memory several times over on its way.
const REQUEST_BYTES_MAX: u32 = 128 << 20;

/// Above this etcd warns, too.
const REQUEST_BYTES_RECOMMENDED_MAX: u32 = 10 << 20;

/// Operations of one transaction are applied in one go while everything else waits.
const TXN_OPS_MAX: u32 = 1_000_000;

/// etcd's bound: below it, progress would be most of what quiet watches hear.
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Builds the configuration.
pub(super) fn build(mut values: Values) -> Result<ServerConfig, ConfigError> {
    let mut warnings = std::mem::take(&mut values.warnings);
    let values = &values;
    let name = name(values)?;
    let listen_client_urls =
        required(list(&values.get("listen-client-urls"), ListenUrl::parse)?, "listen-client-urls")?;
    let listen_peer_urls = list(&values.get("listen-peer-urls"), urls::no_socket(ListenUrl::parse))?;
    let listen_peer_urls = required(listen_peer_urls, "listen-peer-urls")?;
    let advertise_client_urls = advertise_client_urls(values, &listen_client_urls)?;
    let initial_advertise_peer_urls = advertise_peer_urls(values, &listen_peer_urls)?;
    let mut initial_cluster = members(&values.get("initial-cluster"))?;
    if initial_cluster.is_empty() {
        initial_cluster.insert(name.clone(), initial_advertise_peer_urls.clone());
    }
    let (heartbeat_interval, election_timeout) = raft_times(values)?;
    let auto_compaction = auto_compaction(values)?;
    let listen_metrics_urls = list(&values.get("listen-metrics-urls"), ListenUrl::parse)?;
    let urls = tls::Urls {
        listen_client: &listen_client_urls,
        listen_metrics: &listen_metrics_urls,
        listen_peer: &listen_peer_urls,
        peers: initial_cluster.values().flatten().chain(&initial_advertise_peer_urls).collect(),
    };
    let tls = tls::tls(values, &urls, &mut warnings)?;
    let config = ServerConfig {
        data_dir: data_dir(values, &name),
        name,
        listen_client_urls,
        advertise_client_urls,
        listen_peer_urls,
        listen_metrics_urls,
        tls,
        initial_advertise_peer_urls,
        initial_cluster,
        initial_cluster_state: cluster_state(&values.get("initial-cluster-state"))?,
        initial_cluster_token: values.get("initial-cluster-token").text.to_owned(),
        strict_reconfig_check: values.get("strict-reconfig-check").text == "true",
        heartbeat_interval,
        election_timeout,
        snapshot_count: number(&values.get("snapshot-count"), 1, i64::MAX)?.unsigned_abs(),
        snapshot_catchup_entries: unless_zero(&values.get("snapshot-catchup-entries"))?,
        snapshot_send_bytes_per_second: unless_zero(&values.get("snapshot-send-bytes-per-second"))?,
        quota_backend_bytes: quota(&values.get("quota-backend-bytes"))?,
        max_request_bytes: count(&values.get("max-request-bytes"), 1, REQUEST_BYTES_MAX)?,
        max_txn_ops: count(&values.get("max-txn-ops"), 1, TXN_OPS_MAX)?,
        max_concurrent_streams: count(&values.get("max-concurrent-streams"), 1, u32::MAX)?,
        grpc_keepalive_interval: optional_duration(&values.get("grpc-keepalive-interval"))?,
        grpc_keepalive_timeout: optional_duration(&values.get("grpc-keepalive-timeout"))?,
        watch_progress_notify_interval: duration(&values.get("watch-progress-notify-interval"))?,
        auto_compaction,
        warning_unary_request_duration: optional_duration(&values.get("warning-unary-request-duration"))?,
        warning_apply_duration: optional_duration(&values.get("warning-apply-duration"))?,
        log_level: log_level(&values.get("log-level"))?,
        log_format: log_format(&values.get("log-format"))?,
        fault_injection: fault_injection(&values.get("experimental-fault-injection-url"))?,
        failpoints: failpoints(&values.get("experimental-failpoints"))?,
        warnings: Vec::new(),
    };
    warnings.extend(doubts(&config));
    let watch_progress_notify_interval = config.watch_progress_notify_interval.max(PROGRESS_INTERVAL_MIN);
    Ok(ServerConfig { watch_progress_notify_interval, warnings, ..config })
}

/// What the flags say of a member of a cluster that is to begin: where its data go, and who is in it.
pub(super) fn founding(values: &Values) -> Result<(PathBuf, InitialCluster), ConfigError> {
    let name = name(values)?;
    let listen_peer_urls = list(&values.get("listen-peer-urls"), urls::no_socket(ListenUrl::parse))?;
    let advertised = advertise_peer_urls(values, &listen_peer_urls)?;
    let mut members = members(&values.get("initial-cluster"))?;
    if members.is_empty() {
        members.insert(name.clone(), advertised.clone());
    }
    let cluster = InitialCluster::described(&Described {
        name: &name,
        members: &members,
        advertised: Some(&advertised),
        token: values.get("initial-cluster-token").text,
    })?;
    Ok((data_dir(values, &name), cluster))
}

/// What is allowed and probably not meant.
fn doubts(config: &ServerConfig) -> Vec<String> {
    let mut doubts = Vec::new();
    let several = config.initial_cluster.len() > 1;
    let peer_wildcard = config.initial_advertise_peer_urls.iter().find(|url| several && url.is_wildcard());
    for (flag, url) in [
        ("advertise-client-urls", config.advertise_client_urls.iter().find(|url| url.is_wildcard())),
        ("initial-advertise-peer-urls", peer_wildcard),
    ] {
        if let Some(url) = url {
            doubts.push(format!("--{flag} has {url}, which works on this machine only; name an address to dial"));
        }
    }
    if config.max_request_bytes > REQUEST_BYTES_RECOMMENDED_MAX {
        doubts.push(format!(
            "--max-request-bytes is {}; above {REQUEST_BYTES_RECOMMENDED_MAX} one request can delay all others",
            config.max_request_bytes
        ));
    }
    if config.watch_progress_notify_interval < PROGRESS_INTERVAL_MIN {
        doubts.push(format!(
            "--watch-progress-notify-interval is {:?}; progress is told every {PROGRESS_INTERVAL_MIN:?} at most",
            config.watch_progress_notify_interval
        ));
    }
    if !config.strict_reconfig_check {
        doubts
            .push("--strict-reconfig-check has no effect yet: membership changes come with a later version".to_owned());
    }
    doubts
}

fn invalid(value: &Value<'_>, reason: impl Into<String>) -> ConfigError {
    ConfigError::Value { source_flag: value.source.clone(), value: value.text.to_owned(), reason: reason.into() }
}

fn url_error(value: &Value<'_>, error: UrlError) -> ConfigError {
    invalid(value, error.0)
}

fn name(values: &Values) -> Result<String, ConfigError> {
    let value = &values.get("name");
    if value.text.is_empty() {
        return Err(invalid(value, "a member needs a name"));
    }
    if value.text.len() > NAME_BYTES_MAX {
        return Err(invalid(value, format!("a name may have at most {NAME_BYTES_MAX} bytes")));
    }
    if value.text.contains([',', '=']) || value.text.chars().any(char::is_control) || value.text.trim() != value.text {
        return Err(invalid(
            value,
            "a name that --initial-cluster can list has no comma, no equals sign, no control characters and \
             no white space at its ends",
        ));
    }
    Ok(value.text.to_owned())
}

fn data_dir(values: &Values, name: &str) -> PathBuf {
    match values.get("data-dir").text {
        "" => PathBuf::from(format!("{name}.tenure")),
        text => PathBuf::from(text),
    }
}

fn list<T: Ord>(value: &Value<'_>, parse: impl Fn(&str) -> Result<T, UrlError>) -> Result<Vec<T>, ConfigError> {
    urls::parse_list(value.text, parse).map_err(|error| url_error(value, error))
}

fn required<T>(list: Vec<T>, flag: &str) -> Result<Vec<T>, ConfigError> {
    if list.is_empty() {
        return Err(ConfigError::Conflict(format!("--{flag} must name at least one URL")));
    }
    Ok(list)
}

fn members(value: &Value<'_>) -> Result<BTreeMap<String, Vec<Url>>, ConfigError> {
    cluster::parse(value.text).map_err(|error| url_error(value, error))
}

fn advertised(value: &Value<'_>, parse: impl Fn(&str) -> Result<Url, UrlError>) -> Result<Vec<Url>, ConfigError> {
    let urls = list(value, parse)?;
    let undialable = urls.iter().find(|url| !url.is_dialable());
    match undialable {
        None => Ok(urls),
        Some(url) => Err(invalid(value, format!("{url} must be \"host:port\" with a host and a port to dial"))),
    }
}

/// Set, or what is listened on when neither flag was set.
fn advertise_client_urls(values: &Values, listen: &[ListenUrl]) -> Result<Vec<Url>, ConfigError> {
    let urls = advertised(&values.get("advertise-client-urls"), Url::parse)?;
    if !urls.is_empty() {
        return Ok(urls);
    }
    if values.is_set("listen-client-urls") {
        return Err(ConfigError::Conflict(
            "--advertise-client-urls is required when --listen-client-urls is set explicitly; \
             set it to the URLs that clients should dial"
                .to_owned(),
        ));
    }
    Ok(listen.iter().map(|url| url.url.clone()).collect())
}

/// Set, or what is listened on, if that can be dialled.
fn advertise_peer_urls(values: &Values, listen: &[ListenUrl]) -> Result<Vec<Url>, ConfigError> {
    let urls = advertised(&values.get("initial-advertise-peer-urls"), urls::no_socket(Url::parse))?;
    if !urls.is_empty() {
        return Ok(urls);
    }
    if let Some(wildcard) = listen.iter().find(|url| url.url.is_wildcard()) {
        return Err(ConfigError::Conflict(format!(
            "--initial-advertise-peer-urls is required when --listen-peer-urls has {wildcard}; \
             set it to the URLs that the other members should dial"
        )));
    }
    Ok(listen.iter().map(|url| url.url.clone()).collect())
}

fn cluster_state(value: &Value<'_>) -> Result<ClusterState, ConfigError> {
    match value.text {
        "new" => Ok(ClusterState::New),
        "existing" => Ok(ClusterState::Existing),
        _ => Err(invalid(value, "expected new or existing")),
    }
}

fn raft_times(values: &Values) -> Result<(Duration, Duration), ConfigError> {
    let millis = |name: &str| -> Result<Duration, ConfigError> {
        let value = &values.get(name);
        let number = number(value, i64::MIN, i64::MAX)?;
        if number <= 0 {
            return Err(ConfigError::Conflict(format!("--{name} must be >0 (set to {number}ms)")));
        }
        Ok(Duration::from_millis(number.unsigned_abs()))
    };
    let (heartbeat, election) = (millis("heartbeat-interval")?, millis("election-timeout")?);
    let (heartbeat_ms, election_ms) = (heartbeat.as_millis(), election.as_millis());
    if heartbeat_ms * u128::from(HEARTBEATS_PER_ELECTION_MIN) > election_ms {
        return Err(ConfigError::Conflict(format!(
            "--election-timeout[{election_ms}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat_ms}ms]"
        )));
    }
    if election > Duration::from_millis(ELECTION_TIMEOUT_MS_MAX.unsigned_abs()) {
        return Err(ConfigError::Conflict(format!(
            "--election-timeout[{election_ms}ms] is too long, and should be set less than {ELECTION_TIMEOUT_MS_MAX}ms"
        )));
    }
    Ok((heartbeat, election))
}

fn number(value: &Value<'_>, min: i64, max: i64) -> Result<i64, ConfigError> {
    parse_number(value.text, min, max).map_err(|reason| invalid(value, reason))
}

fn count(value: &Value<'_>, min: u32, max: u32) -> Result<u32, ConfigError> {
    parse_count(value.text, min, max).map_err(|reason| invalid(value, reason))
}

fn unless_zero(value: &Value<'_>) -> Result<Option<NonZeroU64>, ConfigError> {
    Ok(NonZeroU64::new(number(value, 0, i64::MAX)?.unsigned_abs()))
}

fn quota(value: &Value<'_>) -> Result<Option<u64>, ConfigError> {
    let number = number(value, i64::MIN, i64::MAX)?;
    Ok(match number {
        0 => Some(QUOTA_BYTES_DEFAULT),
        number => u64::try_from(number).ok(),
    })
}

fn duration(value: &Value<'_>) -> Result<Duration, ConfigError> {
    parse_duration(value.text).map_err(|reason| invalid(value, reason))
}

fn optional_duration(value: &Value<'_>) -> Result<Option<Duration>, ConfigError> {
    duration(value).map(|duration| Some(duration).filter(|duration| !duration.is_zero()))
}

fn auto_compaction(values: &Values) -> Result<Option<AutoCompaction>, ConfigError> {
    const HOUR: Duration = Duration::from_secs(3600);
    const HOURS_MAX: u32 = 24 * 365 * 100;
    let mode = values.get("auto-compaction-mode");
    let retention = &values.get("auto-compaction-retention");
    match mode.text {
        "periodic" if retention.text.bytes().all(|b| b.is_ascii_digit()) => {
            let hours = count(retention, 0, HOURS_MAX)?;
            Ok(Some(AutoCompaction::Periodic(HOUR * hours)).filter(|_| hours > 0))
        }
        "periodic" => Ok(optional_duration(retention)?.map(AutoCompaction::Periodic)),
        "revision" => {
            let revisions = number(retention, 0, i64::MAX)?.unsigned_abs();
            Ok(Some(AutoCompaction::Revision(revisions)).filter(|_| revisions > 0))
        }
        _ => Err(invalid(&mode, "expected periodic or revision")),
    }
}

/// Whoever reaches the port can end the member, so it is on this machine alone.
fn fault_injection(value: &Value<'_>) -> Result<Option<SocketAddr>, ConfigError> {
    if value.text.is_empty() {
        return Ok(None);
    }
    if !tenure_faults::INJECTS {
        return Err(without_faults(value));
    }
    let url = ListenUrl::parse(value.text).map_err(|error| url_error(value, error))?;
    match url.address {
        ListenAddress::Tcp(address) if address.ip().is_loopback() && !url.url.is_secure() => Ok(Some(address)),
        _ => Err(invalid(value, "expected a loopback address, as in http://127.0.0.1:22381")),
    }
}

fn failpoints(value: &Value<'_>) -> Result<String, ConfigError> {
    if value.text.is_empty() {
        return Ok(String::new());
    }
    if !tenure_faults::INJECTS {
        return Err(without_faults(value));
    }
    Registry::new().set_all(value.text).map_err(|error| invalid(value, error.to_string()))?;
    Ok(value.text.to_owned())
}

fn without_faults(value: &Value<'_>) -> ConfigError {
    let advice = "this program was built without fault injection; docs/FAULTS.md says how to build one with it";
    ConfigError::Unsupported { what: value.source.to_string(), advice: advice.to_owned() }
}

fn log_level(value: &Value<'_>) -> Result<LogLevel, ConfigError> {
    match value.text {
        "debug" => Ok(LogLevel::Debug),
        "info" => Ok(LogLevel::Info),
        "warn" => Ok(LogLevel::Warn),
        "error" | "dpanic" | "panic" | "fatal" => Ok(LogLevel::Error),
        _ => Err(invalid(value, "expected debug, info, warn, error, panic or fatal")),
    }
}

fn log_format(value: &Value<'_>) -> Result<LogFormat, ConfigError> {
    match value.text {
        "text" | "console" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(invalid(value, "expected text or json")),
    }
}
