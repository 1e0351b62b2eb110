//! The pieces that several reports are made of: key-values as shown, and numbers in words.

use serde::Serialize;
use tenure_proto::etcdserverpb::ResponseHeader;
use tenure_proto::mvccpb;

use crate::ids::{LeaseId, Revision};
use crate::table::Table;
use crate::text::{Blob, Style};

/// A key with what is stored under it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct KeyValue {
    pub key: Blob,
    /// None when values were not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Blob>,
    pub create_revision: Revision,
    pub mod_revision: Revision,
    pub version: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseId>,
}

impl KeyValue {
    pub(super) fn new(style: Style, kv: &mvccpb::KeyValue) -> KeyValue {
        KeyValue {
            key: style.blob(&kv.key),
            value: Some(style.blob(&kv.value)),
            create_revision: Revision(kv.create_revision),
            mod_revision: Revision(kv.mod_revision),
            version: kv.version,
            lease: (kv.lease != 0).then_some(LeaseId(kv.lease)),
        }
    }

    pub(super) fn all(style: Style, kvs: &[mvccpb::KeyValue]) -> Vec<KeyValue> {
        kvs.iter().map(|kv| KeyValue::new(style, kv)).collect()
    }

    /// The value on one line.
    pub(super) fn value_line(&self) -> String {
        self.value.as_ref().map(Blob::line).unwrap_or_default()
    }
}

/// A table of key-values, with or without what is known about them.
pub(super) fn table(kvs: &[KeyValue], detail: bool) -> String {
    let mut table = if detail {
        Table::new(&["KEY", "CREATED", "MODIFIED", "VERSION", "LEASE", "VALUE"]).right(&[1, 2, 3])
    } else {
        Table::new(&["KEY", "VALUE"])
    };
    for kv in kvs {
        let mut row = vec![kv.key.line()];
        if detail {
            let lease = kv.lease.map_or_else(|| "-".to_owned(), |lease| lease.to_string());
            row.extend([kv.create_revision.to_string(), kv.mod_revision.to_string(), kv.version.to_string(), lease]);
        }
        row.push(kv.value_line());
        table.row(row);
    }
    table.render()
}

/// The revision in a response's header.
pub(super) fn revision(header: Option<&ResponseHeader>) -> Revision {
    Revision(header.map_or(0, |header| header.revision))
}

/// `1 key`, `2 keys`.
pub(super) fn count(number: impl TryInto<u64>, thing: &str) -> String {
    match number.try_into() {
        Ok(1) => format!("1 {thing}"),
        Ok(number) => format!("{number} {thing}s"),
        Err(_) => format!("no {thing}s"),
    }
}

/// `680 ms`, `12.3 s`, `1 min 0 s`, `2 h 5 min`, `3 d 4 h`.
pub(crate) fn span(ms: u64) -> String {
    let secs = ms / 1000;
    let (mins, hours) = (secs / 60, secs / 3600);
    match secs {
        0 => format!("{ms} ms"),
        1..60 => format!("{secs}.{} s", ms % 1000 / 100),
        60..3600 => format!("{mins} min {} s", secs % 60),
        3600..86_400 => format!("{hours} h {} min", mins % 60),
        _ => format!("{} d {} h", hours / 24, hours % 24),
    }
}

/// `20.5 KiB`.
pub(crate) fn size(bytes: i64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = i128::from(bytes) * 10;
    let mut unit = 0;
    tenths /= 1024;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_unit_that_fits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (20_992, "20.5 KiB"),
            (2 << 30, "2.0 GiB"),
            (i64::MAX, "8191.9 PiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn spans_have_the_units_that_fit() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1000, "1.0 s"),
            (59_999, "59.9 s"),
            (60_000, "1 min 0 s"),
            (3_600_000, "1 h 0 min"),
            (90_000_000, "1 d 1 h"),
            (u64::MAX, "213503982334 d 14 h"),
        ] {
            assert_eq!(span(ms), text);
        }
    }

    #[test]
    fn counts_have_the_right_number() {
        assert_eq!([count(0, "key"), count(1, "key"), count(2, "key")], ["0 keys", "1 key", "2 keys"]);
    }
}
