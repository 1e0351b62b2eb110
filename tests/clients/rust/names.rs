//! Translates between a scenario's words and what one server made of them, so that two servers' answers can be compared.

use anyhow::{Context, Result};
use etcd_client::{KeyValue, ResponseHeader};
use serde_json::{Value, json};

use crate::fields::{LeaseName, Revision};

/// The longest value that an answer shows whole.
const LONGEST_SHOWN: usize = 64;
/// Shorter ids are chosen by scenarios and could be part of any text.
const ID_DIGITS_MIN: usize = 10;

pub(crate) struct Names {
    base: i64,
    leases: Vec<(String, i64)>,
}

impl Names {
    pub(crate) fn new(base: i64) -> Self {
        Self { base, leases: Vec::new() }
    }

    pub(crate) fn learn(&mut self, name: &str, id: i64) {
        self.leases.push((name.to_owned(), id));
    }

    /// The name of the lease that was learnt last.
    pub(crate) fn last(&self) -> String {
        self.leases.last().map(|(name, _)| name.clone()).unwrap_or_default()
    }

    pub(crate) fn lease_id(&self, lease: &LeaseName) -> Result<i64> {
        match lease {
            LeaseName::Id(id) => Ok(*id),
            LeaseName::Name(wanted) => {
                let found = self.leases.iter().find(|(name, _)| name == wanted);
                found.map(|(_, id)| *id).with_context(|| format!("no lease is named {wanted}"))
            }
        }
    }

    pub(crate) fn lease(&self, id: i64) -> Value {
        match self.leases.iter().find(|(_, known)| *known == id) {
            Some((name, _)) => json!(name),
            None if id == 0 => json!(0),
            None => json!("?"),
        }
    }

    pub(crate) fn at(&self, revision: Option<Revision>) -> i64 {
        match revision {
            None => 0,
            Some(Revision::Absolute(revision)) => revision,
            Some(Revision::Relative(revision)) => self.base + revision,
        }
    }

    /// Counted from the scenario's first revision, with a sign; zero and less stay as they are.
    pub(crate) fn revision(&self, revision: i64) -> Value {
        if revision <= 0 { json!(revision) } else { json!(format!("{:+}", revision - self.base)) }
    }

    pub(crate) fn header(&self, header: Option<&ResponseHeader>) -> Value {
        header.map_or(Value::Null, |header| self.revision(header.revision()))
    }

    /// Bytes as text if they are, with leases' ids replaced by their names; long ones by length and sum.
    pub(crate) fn text(&self, bytes: &[u8]) -> String {
        if bytes.len() > LONGEST_SHOWN {
            let sum: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
            return format!("<{} bytes, sum {sum}>", bytes.len());
        }
        if !bytes.iter().all(|byte| (b' '..=b'~').contains(byte)) {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            return format!("hex:{digits}");
        }
        let mut text = String::from_utf8_lossy(bytes).into_owned();
        for (name, id) in &self.leases {
            let digits = format!("{id:x}");
            if digits.len() >= ID_DIGITS_MIN {
                text = text.replace(&digits, &format!("<{name}>"));
            }
        }
        text
    }

    pub(crate) fn kv(&self, kv: Option<&KeyValue>) -> Value {
        let Some(kv) = kv else { return Value::Null };
        json!({
            "key": self.text(kv.key()),
            "value": self.text(kv.value()),
            "create": self.revision(kv.create_revision()),
            "mod": self.revision(kv.mod_revision()),
            "version": kv.version(),
            "lease": self.lease(kv.lease()),
        })
    }

    pub(crate) fn kvs(&self, kvs: &[KeyValue]) -> Value {
        kvs.iter().map(|kv| self.kv(Some(kv))).collect()
    }
}
