//! The value of an instance's key: JSON with a version, and how it is read.
//!
//! Of a known version, names that are not known are ignored, and all but the version may be absent: so a person or a
//! program in another language can register by one put of `{"v":1,"addr":"10.0.0.7:8080"}`. A value of a version that is not
//! known is not guessed at. What cannot be read is an error with a reason, never an instance.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::instance::Instance;
use super::stamp::Stamp;

/// The version of values that this library writes, and the only one that it reads.
pub const RECORD_VERSION: u64 = 1;

/// What a value says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) instance: Instance,
    /// Which process registered it.
    pub(super) stamp: Stamp,
    /// It is about to go, by its own will: it counts as gone.
    pub(super) leaving: bool,
}

#[derive(Deserialize)]
struct Version {
    v: u64,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    v: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    addr: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    meta: BTreeMap<String, Value>,
    #[serde(default)]
    incarnation: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    nonce: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    leaving: bool,
}

impl Record {
    /// The bytes that are put.
    pub(super) fn encode(&self) -> Vec<u8> {
        let instance = &self.instance;
        let wire = Wire {
            v: RECORD_VERSION,
            kind: Some(instance.kind.clone()),
            id: Some(instance.id.clone()),
            addr: instance.addr.clone(),
            meta: instance.meta.clone(),
            incarnation: self.stamp.incarnation,
            nonce: self.stamp.nonce.clone(),
            leaving: self.leaving,
        };
        // Maps with string keys and values that are JSON already always have a JSON form.
        serde_json::to_vec(&wire).unwrap_or_default()
    }

    /// Reads the value of the key of the instance `id` of `kind`. The error says what is wrong with it.
    pub(super) fn decode(kind: &str, id: &str, value: &[u8]) -> Result<Self, String> {
        let Version { v } =
            serde_json::from_slice(value).map_err(|error| format!("no JSON with a version: {error}"))?;
        if v != RECORD_VERSION {
            return Err(format!("version {v} is not known; {RECORD_VERSION} is"));
        }
        let wire: Wire = serde_json::from_slice(value).map_err(|error| error.to_string())?;
        for (what, said, named) in [("kind", &wire.kind, kind), ("id", &wire.id, id)] {
            if said.as_ref().is_some_and(|said| said != named) {
                return Err(format!("the {what} is not that of its key"));
            }
        }
        let instance = Instance { id: id.to_owned(), kind: kind.to_owned(), addr: wire.addr, meta: wire.meta };
        let stamp = Stamp { incarnation: wire.incarnation, nonce: wire.nonce };
        Ok(Self { instance, stamp, leaving: wire.leaving })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".{0,4}", inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    prop_compose! {
        fn record()(
            id in ".{1,8}", kind in ".{1,8}", addr in prop::option::of(".{0,12}"),
            meta in prop::collection::btree_map(".{0,6}", json(), 0..4),
            incarnation in any::<i64>(), nonce in "[0-9a-f]{0,32}", leaving in any::<bool>(),
        ) -> Record {
            Record { instance: Instance { id, kind, addr, meta }, stamp: Stamp { incarnation, nonce }, leaving }
        }
    }

    proptest! {
        #[test]
        fn a_record_comes_back_from_its_bytes(record in record()) {
            let read = Record::decode(&record.instance.kind, &record.instance.id, &record.encode());
            prop_assert_eq!(read, Ok(record));
        }

        #[test]
        fn no_bytes_make_the_reader_of_values_panic(
            bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..60), r#"\{"v":1[,:"a-z\[\]{}0-9]{0,40}"#.prop_map(String::into_bytes)],
        ) {
            if let Ok(record) = Record::decode("kind", "id", &bytes) {
                prop_assert_eq!(record.instance.id(), "id");
            }
        }
    }

    fn read(value: &str) -> Result<Record, String> {
        Record::decode("room", "7", value.as_bytes())
    }

    #[test]
    fn a_version_alone_will_do_and_unknown_names_are_ignored() {
        let record = read(r#"{"v":1,"addr":"a:1","zone":"eu"}"#).unwrap();
        assert_eq!((record.instance.id(), record.instance.kind()), ("7", "room"));
        assert_eq!(record.instance.addr_text(), Some("a:1"));
        assert_eq!(record.stamp.incarnation, 0);
        assert!(read(r#"{"v":1}"#).is_ok());
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        assert!(read("").unwrap_err().contains("no JSON with a version"));
        assert!(read("{}").unwrap_err().contains("no JSON with a version"));
        assert!(read(r#"{"v":2,"addr":7}"#).unwrap_err().contains("version 2 is not known"));
        assert!(read(r#"{"v":1,"addr":7}"#).is_err());
        assert!(read(r#"{"v":1,"id":"8"}"#).unwrap_err().contains("the id is not that of its key"));
        assert!(read(r#"{"v":1,"kind":"bot"}"#).unwrap_err().contains("the kind"));
        assert!(read(&format!(r#"{{"v":1,"meta":{{"a":{}{}}}}}"#, "[".repeat(9999), "]".repeat(9999))).is_err());
    }
}
