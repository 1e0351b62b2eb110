//! What may differ between two clusters in etcdctl's output, replaced: ids, ports, terms, indexes, sizes, hashes,
//! versions and times.

use serde_json::Value;

/// Names in `-w json` and `-w fields` output whose values belong to one cluster alone. Ids are not among them: they must
/// be those of the member and the cluster.
const VOLATILE: [&str; 12] = [
    "raft_term",
    "raftterm",
    "raftindex",
    "raftappliedindex",
    "dbsize",
    "dbsizeinuse",
    "dbsizequota",
    "hash",
    "version",
    "took",
    "storageversion",
    "downgradeinfo",
];

/// Lease ids that a server picks are 63 random bits: a smaller number is something else.
const PICKED_LEASE_MIN: u64 = 1 << 44;
const PICKED_LEASE_HEX_DIGITS_MIN: usize = 12;

/// Seconds that a lease may have lost between its grant and a look at it without a difference being shown.
const REMAINING_SLACK_SECS: u64 = 8;

/// Replaces what belongs to one cluster.
#[derive(Debug, Default)]
pub struct Normal {
    /// Texts of this cluster, and what stands for them.
    pub replace: Vec<(String, String)>,
}

impl Normal {
    /// A line of output, made comparable. Rows about members lose their numbers too.
    pub fn line(&self, line: &str, about_members: bool) -> String {
        if let Ok(mut json) = serde_json::from_str::<Value>(line)
            && (json.is_object() || json.is_array())
        {
            self.strip_json(&mut json, about_members);
            return json.to_string();
        }
        if let Some((name, value)) = line.split_once("\" : ") {
            let name = name.trim_start_matches('"');
            // A key's version is a number, a server's is text.
            if is_volatile(name) && (name != "Version" || value.starts_with('"')) {
                return format!("{name} : <volatile>");
            }
        }
        let line = without_picked_leases(&self.replaced(line, about_members));
        let line = with_keys_in_order(&without_remaining(&line));
        if about_members { comparable_row(&line) } else { line }
    }

    fn replaced(&self, text: &str, about_members: bool) -> String {
        let mut text = text.to_owned();
        for (from, to) in &self.replace {
            text = text.replace(from, to);
        }
        if about_members {
            for name in ["n1", "n2", "n3"] {
                text = text.replace(name, "<name>");
            }
        }
        text
    }

    fn strip_json(&self, value: &mut Value, about_members: bool) {
        match value {
            Value::Object(fields) => {
                // The client's own log line on stderr: its time, its pointers and what a saved file takes say nothing of the answer.
                if fields.contains_key("level") {
                    fields.retain(|name, _| !["ts", "caller", "target", "size"].contains(&name.as_str()));
                }
                // The keys of a lease: etcd lists them in any order.
                if fields.contains_key("granted-ttl")
                    && let Some(Value::Array(keys)) = fields.get_mut("keys")
                {
                    keys.sort_by_key(Value::to_string);
                }
                for (name, value) in fields.iter_mut() {
                    // A key's version is a number, a server's is text.
                    if is_volatile(name) && !(name == "version" && value.is_number()) {
                        *value = Value::from("<volatile>");
                    }
                    self.strip_json(value, about_members);
                }
            }
            Value::Array(items) => {
                items.iter_mut().for_each(|item| self.strip_json(item, about_members));
                if about_members {
                    items.sort_by_key(Value::to_string);
                }
            }
            Value::String(text) => *text = without_picked_leases(&self.replaced(text, about_members)),
            Value::Number(number) => {
                let text = number.to_string();
                let replaced = self.replaced(&text, false);
                if replaced != text {
                    *value = Value::from(replaced);
                } else if number.as_u64().is_some_and(|number| number >= PICKED_LEASE_MIN) {
                    *value = Value::from("<lease>");
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }
}

/// Replaces long hexadecimal words, which are lease ids that the server picked.
fn without_picked_leases(text: &str) -> String {
    let mut result = String::new();
    let mut word = String::new();
    let flush = |word: &mut String, result: &mut String| {
        let is_id = word.len() >= PICKED_LEASE_HEX_DIGITS_MIN && word.chars().any(|char| char.is_ascii_digit());
        result.push_str(if is_id { "<lease>" } else { word });
        word.clear();
    };
    for char in text.chars() {
        if matches!(char, '0'..='9' | 'a'..='f') {
            word.push(char);
        } else {
            flush(&mut word, &mut result);
            result.push(char);
        }
    }
    flush(&mut word, &mut result);
    result
}

/// `granted with TTL(60s), remaining(58s)`: what remains is right if it is a little less than what was granted.
fn without_remaining(line: &str) -> String {
    let number_after = |mark: &str| -> Option<u64> {
        let (_, rest) = line.split_once(mark)?;
        rest.split_once("s)")?.0.parse().ok()
    };
    let (Some(granted), Some(remaining)) = (number_after("TTL("), number_after("remaining(")) else {
        return line.to_owned();
    };
    let is_right = remaining <= granted && remaining + REMAINING_SLACK_SECS >= granted;
    let shown = if is_right { "remaining(<a little less>)" } else { "remaining(<wrong>)" };
    line.replace(&format!("remaining({remaining}s)"), shown)
}

/// `attached keys([b a])`: etcd lists the keys of a lease in any order.
fn with_keys_in_order(line: &str) -> String {
    let Some((head, keys)) = line.split_once("attached keys([") else { return line.to_owned() };
    let Some(keys) = keys.strip_suffix("])") else { return line.to_owned() };
    let mut keys: Vec<&str> = keys.split(' ').collect();
    keys.sort_unstable();
    format!("{head}attached keys([{}])", keys.join(" "))
}

/// A row of `endpoint` and `member` output: the columns that hold sizes, hashes, terms, indexes, versions and times.
fn comparable_row(line: &str) -> String {
    if let Some((head, _)) = line.split_once("took = ") {
        return format!("{head}took = <time>");
    }
    if line.starts_with('+') {
        return "+---".to_owned();
    }
    let cells = line.split([',', '|']).map(|cell| {
        let cell = cell.trim();
        let number = cell.trim_end_matches(|char: char| "kMGBi ".contains(char));
        let is_volatile = !number.is_empty() && number.chars().all(|char| char.is_ascii_digit() || char == '.');
        if is_volatile { "<number>" } else { cell }
    });
    cells.collect::<Vec<_>>().join(", ")
}

fn is_volatile(name: &str) -> bool {
    VOLATILE.contains(&name.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picked_leases_and_remaining_times_are_replaced_and_nothing_else() {
        let normal = Normal::default();
        let line = |text| normal.line(text, false);
        assert_eq!(line("lease 694d7ea0f7f2d20a granted with TTL(60s)"), "lease <lease> granted with TTL(60s)");
        assert_eq!(line("l/694d7ea0f7f2d20a"), "l/<lease>");
        assert_eq!(line("lease 7b granted"), "lease 7b granted");
        assert_eq!(line("feedfacedeadbeef"), "feedfacedeadbeef", "a word without a digit");
        assert_eq!(line("x TTL(60s), remaining(59s)"), "x TTL(60s), remaining(<a little less>)");
        assert_eq!(line("x TTL(60s), remaining(61s)"), "x TTL(60s), remaining(<wrong>)");
        assert_eq!(line("x TTL(60s), remaining(40s)"), "x TTL(60s), remaining(<wrong>)");
        assert_eq!(line("attached keys([b a c])"), "attached keys([a b c])");
        assert_eq!(line(r#"{"id":7587862094,"lease":7587862094217028106}"#), r#"{"id":7587862094,"lease":"<lease>"}"#);
    }
}
