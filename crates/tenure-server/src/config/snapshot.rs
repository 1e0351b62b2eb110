//! `tenured snapshot restore` and `tenured snapshot status`: the flags of etcd's `etcdutl snapshot`, in the server's grammar.
//!
//! What describes the new cluster is read by the server's own rules, so that a member that is started with the same flags
//! is the one that was restored. The environment is not looked at: what a restore makes should stand on its command line.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::num::NonZeroU64;
use std::path::PathBuf;

use super::cluster::InitialCluster;
use super::error::ConfigError;
use super::values::{parse_bool, parse_number};
use super::{build, flags};

/// The word after `tenured` that leads here.
pub(super) const WORD: &str = "snapshot";

const HELP: &str = "\
Usage:
  tenured snapshot restore FILE [flags]   Make the data directory of a member of a new cluster from a snapshot
  tenured snapshot status FILE [flags]    Print hash, revision, number of keys and size of a snapshot

FILE is what `tenurectl snapshot save` or `etcdctl snapshot save` made of a Tenure cluster.

Flags of restore:
  --name NAME (default default)
      The member's name in --initial-cluster.
  --data-dir PATH (default NAME.tenure)
      Where the member's data go. It must be empty, or not exist.
  --initial-cluster LIST (default this member alone)
      The members of the new cluster, the same text on all.
  --initial-cluster-token TOKEN (default etcd-cluster)
      Part of the new cluster's id. Give it one that the old cluster did not have.
  --initial-advertise-peer-urls URLS (default http://127.0.0.1:2380)
      The URLs of this member in --initial-cluster.
  --bump-revision N (default 0)
      How much to add to the revision, so that it is above any that clients of the
      old cluster saw. Needs --mark-compacted.
  --mark-compacted
      Make all history before that compacted, so that watches of old revisions end.
  --skip-hash-check
      Do not ask for the hash at the end of FILE.

Flags of status:
  --write-out simple|json (default simple), also -w
      How to print.
  --skip-hash-check
      As above.
";

/// What a command line that begins with `snapshot` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotCommand {
    /// Make a data directory.
    Restore(Box<RestoreConfig>),
    /// Look into a file.
    Status(StatusConfig),
}

/// A restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreConfig {
    /// The snapshot.
    pub file: PathBuf,
    /// Where the member's data go.
    pub data_dir: PathBuf,
    /// The new cluster.
    pub cluster: InitialCluster,
    /// How much to add to the revision, and make all before it compacted.
    pub bump_revision: Option<NonZeroU64>,
    /// Do not ask for a hash.
    pub skip_hash_check: bool,
}

/// A look into a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusConfig {
    /// The snapshot.
    pub file: PathBuf,
    /// One JSON object instead of words.
    pub json: bool,
    /// Do not ask for a hash.
    pub skip_hash_check: bool,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Asked {
    Command(SnapshotCommand),
    Help(&'static str),
}

/// The server's flags that describe a member of a new cluster.
const FOUNDING_FLAGS: [&str; 5] =
    ["name", "data-dir", "initial-cluster", "initial-cluster-token", "initial-advertise-peer-urls"];
const RESTORE_FLAGS: [&str; 1] = ["bump-revision"];
const RESTORE_SWITCHES: [&str; 2] = ["mark-compacted", "skip-hash-check"];
const STATUS_FLAGS: [&str; 1] = ["write-out"];
const STATUS_SWITCHES: [&str; 1] = ["skip-hash-check"];

fn usage<T>(text: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::SnapshotUsage(text.into()))
}

/// Reads what follows the word `snapshot`.
pub(super) fn parse(args: Vec<OsString>) -> Result<Asked, ConfigError> {
    let mut words = Vec::new();
    for arg in args {
        match arg.into_string() {
            Ok(word) => words.push(word),
            Err(raw) => return usage(format!("{} is not valid UTF-8", raw.to_string_lossy())),
        }
    }
    if words.iter().any(|word| matches!(word.as_str(), "--help" | "-help" | "-h")) {
        return Ok(Asked::Help(HELP));
    }
    let Some((verb, rest)) = words.split_first() else { return usage("expected restore or status") };
    let command = match verb.as_str() {
        "restore" => restore(Line::read(rest, &[&FOUNDING_FLAGS[..], &RESTORE_FLAGS].concat(), &RESTORE_SWITCHES)?)?,
        "status" => status(&Line::read(rest, &STATUS_FLAGS, &STATUS_SWITCHES)?)?,
        "save" => return usage("a snapshot is saved by a client: tenurectl snapshot save FILE"),
        other => return usage(format!("expected restore or status, and not {other:?}")),
    };
    Ok(Asked::Command(command))
}

/// A file and the flags that were set.
struct Line {
    file: PathBuf,
    flags: BTreeMap<String, String>,
}

impl Line {
    fn read(words: &[String], with_value: &[&str], switches: &[&str]) -> Result<Line, ConfigError> {
        let mut file = None;
        let mut flags = BTreeMap::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let Some(body) = word.strip_prefix('-').filter(|body| !body.is_empty()) else {
                if file.replace(PathBuf::from(word)).is_some() {
                    return usage(format!("one FILE is enough: {word:?} is another"));
                }
                continue;
            };
            let body = body.strip_prefix('-').unwrap_or(body);
            let (name, value) = body.split_once('=').map_or((body, None), |(name, value)| (name, Some(value)));
            let name = if name == "w" { "write-out" } else { name };
            let value = match value {
                Some(value) => value.to_owned(),
                None if switches.contains(&name) => "true".to_owned(),
                None if with_value.contains(&name) => match words.next() {
                    Some(value) => value.clone(),
                    None => return usage(format!("flag needs an argument: --{name}")),
                },
                None => return usage(format!("unknown flag --{name}")),
            };
            if !with_value.contains(&name) && !switches.contains(&name) {
                return usage(format!("unknown flag --{name}"));
            }
            flags.insert(name.to_owned(), value);
        }
        match file {
            Some(file) => Ok(Line { file, flags }),
            None => usage("expected the FILE of a snapshot"),
        }
    }

    fn is_on(&self, name: &str) -> Result<bool, ConfigError> {
        let Some(value) = self.flags.get(name) else { return Ok(false) };
        parse_bool(value).or_else(|reason| usage(format!("invalid value {value:?} for --{name}: {reason}")))
    }
}

fn restore(line: Line) -> Result<SnapshotCommand, ConfigError> {
    let founding = line.flags.iter().filter(|(name, _)| FOUNDING_FLAGS.contains(&name.as_str()));
    let arguments = founding.map(|(name, value)| OsString::from(format!("--{name}={value}")));
    let values = match flags::parse(arguments, [])? {
        flags::Parsed::Serve(values) => values,
        flags::Parsed::Help | flags::Parsed::Version => return usage("expected the flags of a member"),
    };
    let (data_dir, cluster) = build::founding(&values)?;
    let bump = line.flags.get("bump-revision").map_or("0", String::as_str);
    let bump = parse_number(bump, 0, i64::MAX)
        .or_else(|reason| usage(format!("invalid value {bump:?} for --bump-revision: {reason}")))?;
    let bump_revision = NonZeroU64::new(bump.unsigned_abs());
    // etcd's rule: revisions that were skipped must not look as if they could be read.
    match (bump_revision, line.is_on("mark-compacted")?) {
        (Some(_), false) => return usage("--mark-compacted is required if --bump-revision > 0"),
        (None, true) => return usage("--mark-compacted needs --bump-revision > 0"),
        (Some(_), true) | (None, false) => {}
    }
    let skip_hash_check = line.is_on("skip-hash-check")?;
    let restore = RestoreConfig { file: line.file, data_dir, cluster, bump_revision, skip_hash_check };
    Ok(SnapshotCommand::Restore(Box::new(restore)))
}

fn status(line: &Line) -> Result<SnapshotCommand, ConfigError> {
    let json = match line.flags.get("write-out").map_or("simple", String::as_str) {
        "simple" => false,
        "json" => true,
        other => return usage(format!("expected simple or json for --write-out, and not {other:?}")),
    };
    let skip_hash_check = line.is_on("skip-hash-check")?;
    Ok(SnapshotCommand::Status(StatusConfig { file: line.file.clone(), json, skip_hash_check }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &str) -> Result<SnapshotCommand, String> {
        match parse(words.split(' ').map(OsString::from).collect()) {
            Ok(Asked::Command(command)) => Ok(command),
            Ok(Asked::Help(text)) => Err(text.to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn restored(words: &str) -> RestoreConfig {
        match read(words) {
            Ok(SnapshotCommand::Restore(config)) => *config,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_restore_is_described_as_to_etcdutl() {
        let config = restored("restore f.db");
        assert_eq!(config.file, PathBuf::from("f.db"));
        assert_eq!(config.data_dir, PathBuf::from("default.tenure"));
        assert_eq!((config.bump_revision, config.skip_hash_check), (None, false));
        assert_eq!(config.cluster.members.len(), 1);
        let words = "restore --name a -initial-cluster=a=http://h:1,b=http://h:2 --initial-cluster-token t f.db --data-dir d \
                     --initial-advertise-peer-urls http://h:1 --bump-revision 7 --mark-compacted --skip-hash-check=true";
        let config = restored(words);
        assert_eq!(config.data_dir, PathBuf::from("d"));
        assert_eq!((config.bump_revision.map(NonZeroU64::get), config.skip_hash_check), (Some(7), true));
        let own = config.cluster.members.iter().find(|member| member.id == config.cluster.member_id).unwrap();
        assert_eq!((own.name.as_str(), config.cluster.members.len()), ("a", 2));
        // No certificate is needed to restore a member that will be dialled over TLS.
        let words = "restore f.db --initial-cluster default=https://h:1 --initial-advertise-peer-urls https://h:1";
        assert_eq!(restored(words).cluster.members.len(), 1);
    }

    #[test]
    fn a_status_is_words_or_json() {
        let status = |words| match read(words) {
            Ok(SnapshotCommand::Status(config)) => (config.json, config.skip_hash_check),
            other => panic!("{other:?}"),
        };
        assert_eq!(status("status f.db"), (false, false));
        assert_eq!(status("status -w json f.db"), (true, false));
        assert_eq!(status("status --write-out=simple --skip-hash-check f.db"), (false, true));
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (words, text) in [
            ("", "expected restore or status"),
            ("frobnicate", "expected restore or status, and not \"frobnicate\""),
            ("save f.db", "a snapshot is saved by a client: tenurectl snapshot save FILE"),
            ("restore", "expected the FILE of a snapshot"),
            ("restore f.db g.db", "one FILE is enough"),
            ("restore f.db --wal-dir=x", "unknown flag --wal-dir"),
            ("restore f.db --listen-client-urls=http://h:1", "unknown flag --listen-client-urls"),
            ("restore f.db --data-dir", "flag needs an argument: --data-dir"),
            ("restore f.db --bump-revision 7", "--mark-compacted is required if --bump-revision > 0"),
            ("restore f.db --mark-compacted", "--mark-compacted needs --bump-revision > 0"),
            ("restore f.db --bump-revision -7 --mark-compacted", "invalid value \"-7\" for --bump-revision"),
            ("restore f.db --skip-hash-check=perhaps", "invalid value \"perhaps\" for --skip-hash-check"),
            ("restore f.db --name b --initial-cluster a=http://h:1", "couldn't find local name \"b\""),
            ("restore f.db --initial-cluster default=http://h:1", "missing from"),
            ("status f.db -w table", "expected simple or json for --write-out"),
            ("status f.db --name x", "unknown flag --name"),
        ] {
            let refused = read(words).expect_err(words);
            assert!(refused.contains(text), "{words}: {refused}");
        }
        assert!(read("restore --help").expect_err("help").starts_with("Usage:"));
    }
}
