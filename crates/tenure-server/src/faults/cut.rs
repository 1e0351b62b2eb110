//! A partition as JSON: `{"block_to": ["8e9e05c52164694d"], "block_from": ["*"]}`.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use tenure_core::MemberId;
use tenure_raft::{Cut, Peers};

/// Stands for all other members.
const ALL: &str = "*";

/// What is asked for. The error is for people.
pub(super) fn read(text: &str) -> Result<Cut, String> {
    let fields: Map<String, Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut cut = Cut::default();
    for (name, value) in &fields {
        match name.as_str() {
            "block_to" => cut.to = peers(value)?,
            "block_from" => cut.from = peers(value)?,
            _ => return Err(format!("{name} is neither block_to nor block_from")),
        }
    }
    Ok(cut)
}

fn peers(value: &Value) -> Result<Peers, String> {
    let wrong = || format!("{value} is no list of member ids in hexadecimal digits");
    let names: Option<Vec<&str>> = value.as_array().ok_or_else(wrong)?.iter().map(Value::as_str).collect();
    let names = names.ok_or_else(wrong)?;
    if names.contains(&ALL) {
        return Ok(Peers::All);
    }
    let ids: Result<BTreeSet<_>, _> =
        names.iter().map(|name| u64::from_str_radix(name, 16).map(MemberId).map_err(|_| wrong())).collect();
    Ok(ids?).map(|ids| if ids.is_empty() { Peers::None } else { Peers::Some(ids) })
}

/// What is withheld.
pub(super) fn write(cut: &Cut) -> String {
    let list = |peers: &Peers| match peers {
        Peers::None => json!([]),
        Peers::All => json!([ALL]),
        Peers::Some(ids) => ids.iter().map(|id| format!("{:x}", id.0)).collect(),
    };
    json!({ "block_to": list(&cut.to), "block_from": list(&cut.from) }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_read_back_as_it_was_written() {
        let some = Peers::Some(BTreeSet::from([MemberId(0x8e9e_05c5_2164_694d), MemberId(1)]));
        for (text, cut) in [
            ("{}", Cut::default()),
            (r#"{"block_to":["*","1"]}"#, Cut { to: Peers::All, from: Peers::None }),
            (r#"{"block_from":["1","8E9e05c52164694d"],"block_to":[]}"#, Cut { to: Peers::None, from: some }),
        ] {
            assert_eq!(read(text), Ok(cut.clone()), "{text}");
            assert_eq!(read(&write(&cut)), Ok(cut));
        }
    }

    #[test]
    fn what_is_no_partition_is_refused() {
        for text in [
            "",
            "[]",
            "{",
            r#"{"block":[]}"#,
            r#"{"block_to":"1"}"#,
            r#"{"block_to":[1]}"#,
            r#"{"block_to":["n1"]}"#,
            r#"{"block_to":[""]}"#,
            r#"{"block_to":["10000000000000000"]}"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
