//! The numbers that a person passes around: ids of leases and members, and revisions. One type each, so that none is taken
//! for another.
//!
//! Ids are 64 bits and read and printed in hexadecimal, as etcdctl does; they go into JSON as strings, because most readers
//! of JSON keep only 53 bits of a number. Revisions stay far below that and are plain numbers.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// A lease. On the wire it is signed; the sign bit is the highest hexadecimal digit here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseId(pub i64);

/// A member of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MemberId(pub u64);

/// A revision of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Revision(pub i64);

impl Revision {
    /// The one after this.
    pub fn next(self) -> Revision {
        Revision(self.0.saturating_add(1))
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0.cast_unsigned())
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for LeaseId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for MemberId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for LeaseId {
    type Err = String;

    fn from_str(text: &str) -> Result<LeaseId, String> {
        hexadecimal(text).map(|id| LeaseId(id.cast_signed()))
    }
}

impl FromStr for MemberId {
    type Err = String;

    fn from_str(text: &str) -> Result<MemberId, String> {
        hexadecimal(text).map(MemberId)
    }
}

impl FromStr for Revision {
    type Err = String;

    fn from_str(text: &str) -> Result<Revision, String> {
        let number: i64 = text.parse().map_err(|_| "a revision is a whole number".to_owned())?;
        if number < 0 { Err("a revision is not negative".to_owned()) } else { Ok(Revision(number)) }
    }
}

fn hexadecimal(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let all_are_digits = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digits.is_empty() || digits.len() > 16 || !all_are_digits {
        return Err("an id has 1 to 16 hexadecimal digits".to_owned());
    }
    u64::from_str_radix(digits, 16).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_printed() {
        for id in [1, 0x0694_d8f1_22b3_4c05, i64::MAX, -1, i64::MIN] {
            assert_eq!(LeaseId(id).to_string().parse(), Ok(LeaseId(id)));
        }
        assert_eq!(LeaseId(-1).to_string(), "ffffffffffffffff");
        assert_eq!("0x1f".parse(), Ok(LeaseId(31)));
        for id in [0, 0x8e9e_05c5_2164_694d, u64::MAX] {
            assert_eq!(MemberId(id).to_string().parse(), Ok(MemberId(id)));
        }
    }

    #[test]
    fn what_is_no_id_or_revision_is_refused() {
        for text in ["", "0x", "+1", "-1", "g", "12345678123456781", "1 "] {
            assert!(text.parse::<LeaseId>().is_err(), "{text:?}");
            assert!(text.parse::<MemberId>().is_err(), "{text:?}");
        }
        for text in ["", "-1", "1.5", "x", "99999999999999999999"] {
            assert!(text.parse::<Revision>().is_err(), "{text:?}");
        }
        assert_eq!("7".parse(), Ok(Revision(7)));
    }

    #[test]
    fn ids_are_strings_in_json_and_revisions_numbers() {
        let json = serde_json::to_string(&(LeaseId(10), MemberId(10), Revision(10))).expect("json");
        assert_eq!(json, r#"["000000000000000a","a",10]"#);
    }
}
