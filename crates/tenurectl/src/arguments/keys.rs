//! The arguments of `get`, `put`, `del` and `watch`, and the ranges of keys that they mean.

use std::ffi::OsString;
use std::path::PathBuf;

use bytes::Bytes;
use clap::{Args, ValueEnum};

use crate::ids::{LeaseId, Revision};
use crate::text::Style;

/// The key that a request starts at when all keys are meant, and the end that means "no end".
const ZERO: Bytes = Bytes::from_static(b"\0");

/// One key, or a range of keys.
#[derive(Clone, Debug, Args)]
pub(crate) struct RangeArgs {
    /// The key; with RANGE_END the first key
    pub key: OsString,
    /// The first key that is not meant any more
    pub range_end: Option<OsString>,
    /// All keys that begin with KEY; with an empty KEY all keys
    #[arg(long, conflicts_with_all = ["range_end", "from_key"])]
    pub prefix: bool,
    /// All keys from KEY on
    #[arg(long, conflicts_with = "range_end")]
    pub from_key: bool,
}

impl RangeArgs {
    /// Whether one key is meant.
    pub(crate) fn is_single(&self) -> bool {
        !self.prefix && !self.from_key && self.range_end.is_none()
    }

    /// `key` and `range_end` as requests have them.
    pub(crate) fn bounds(&self, style: Style) -> Result<(Bytes, Bytes), String> {
        let key = style.read(&self.key)?;
        let end = match &self.range_end {
            Some(end) => style.read(end)?,
            None if self.prefix => prefix_end(&key),
            None if self.from_key => ZERO,
            None => Bytes::new(),
        };
        let is_everything = key.is_empty() && (self.prefix || self.from_key);
        Ok((if is_everything { ZERO } else { key }, end))
    }
}

/// The first key after all those that begin with `prefix`.
fn prefix_end(prefix: &[u8]) -> Bytes {
    let kept = prefix.iter().rposition(|byte| *byte != u8::MAX);
    let Some(last) = kept else { return ZERO };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Bytes::from(end)
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    pub range: RangeArgs,
    /// At most so many keys
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    pub limit: u32,
    /// Which way to sort
    #[arg(long, value_enum, ignore_case = true)]
    pub order: Option<Order>,
    /// What to sort by
    #[arg(long, value_enum, ignore_case = true)]
    pub sort_by: Option<SortBy>,
    /// As it was at this revision
    #[arg(long, value_name = "REVISION")]
    pub rev: Option<Revision>,
    /// Print the keys without the values
    #[arg(long)]
    pub keys_only: bool,
    /// Print how many keys there are
    #[arg(long, conflicts_with = "keys_only")]
    pub count_only: bool,
    /// Print the values without the keys
    #[arg(long, alias = "print-value-only", conflicts_with_all = ["keys_only", "count_only"])]
    pub value_only: bool,
    /// Print the bytes of one key's value and nothing else, not even a newline
    #[arg(long, conflicts_with_all = ["keys_only", "count_only", "value_only", "prefix", "from_key", "range_end"])]
    pub raw: bool,
    /// Print revisions, version and lease too
    #[arg(long, short)]
    pub detail: bool,
    /// l, linearizable: sees every acknowledged write; s, serializable: what one member has, even when it is alone
    #[arg(long, value_enum, default_value = "l", ignore_case = true)]
    pub consistency: Consistency,
}

/// How fresh a read is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Consistency {
    #[value(name = "l", alias = "linearizable")]
    Linearizable,
    #[value(name = "s", alias = "serializable")]
    Serializable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Order {
    Ascend,
    Descend,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SortBy {
    Key,
    Version,
    Create,
    #[value(alias = "mod")]
    Modify,
    Value,
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// The key
    pub key: OsString,
    /// The value; - reads it from stdin
    #[arg(allow_negative_numbers = true)]
    #[arg(required_unless_present_any = ["file", "ignore_value"], conflicts_with_all = ["file", "ignore_value"])]
    pub value: Option<OsString>,
    /// Read the value from a file
    #[arg(long, value_name = "PATH", conflicts_with = "ignore_value")]
    pub file: Option<PathBuf>,
    /// Attach the key to this lease; it is deleted when the lease ends
    #[arg(long, value_name = "ID")]
    pub lease: Option<LeaseId>,
    /// Print what was there before
    #[arg(long)]
    pub prev_kv: bool,
    /// Keep the value that is there
    #[arg(long)]
    pub ignore_value: bool,
    /// Keep the lease that is there
    #[arg(long, conflicts_with = "lease")]
    pub ignore_lease: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DelArgs {
    #[command(flatten)]
    pub range: RangeArgs,
    /// Print what was deleted
    #[arg(long)]
    pub prev_kv: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    pub range: RangeArgs,
    /// From this revision on [default: from now on]
    #[arg(long, value_name = "REVISION")]
    pub rev: Option<Revision>,
    /// Print what was there before, too
    #[arg(long)]
    pub prev_kv: bool,
    /// Print how far the watch has come when the server tells it
    #[arg(long)]
    pub progress_notify: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(key: &str, range_end: Option<&str>, prefix: bool, from_key: bool) -> (Vec<u8>, Vec<u8>) {
        let args = RangeArgs { key: key.into(), range_end: range_end.map(Into::into), prefix, from_key };
        let (key, end) = args.bounds(Style { hex: false, unescape: true }).expect("bounds");
        (key.to_vec(), end.to_vec())
    }

    #[test]
    fn ranges_are_what_etcd_understands() {
        let pair = |key: &[u8], end: &[u8]| (key.to_vec(), end.to_vec());
        assert_eq!(range("a", None, false, false), pair(b"a", b""));
        assert_eq!(range("a", Some("c"), false, false), pair(b"a", b"c"));
        assert_eq!(range("ab", None, true, false), pair(b"ab", b"ac"));
        assert_eq!(range("a\\xff", None, true, false), pair(b"a\xff", b"b"));
        assert_eq!(range("\\xff\\xff", None, true, false), pair(b"\xff\xff", b"\0"));
        assert_eq!(range("a", None, false, true), pair(b"a", b"\0"));
        for (prefix, from_key) in [(true, false), (false, true)] {
            assert_eq!(range("", None, prefix, from_key), pair(b"\0", b"\0"));
        }
        assert_eq!(range("", None, false, false), pair(b"", b""), "the server refuses it");
    }
}
