//! The text of a transaction, in etcdctl's syntax: conditions, then what to do if they hold, then what to do if not; blocks
//! end at an empty line.
//!
//! A condition is `TARGET("key") OPERATOR "value"`; an operation is a line of `get`, `put` or `del` with their options.
//! Strings in double quotes know Go's escapes, because etcdctl reads them with Go's scanner.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use bytes::Bytes;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};

use crate::arguments::TxnOperation;
use crate::ids::LeaseId;

/// A transaction as written.
#[derive(Debug)]
pub(super) struct Script {
    pub compares: Vec<pb::Compare>,
    pub success: Vec<TxnOperation>,
    pub failure: Vec<TxnOperation>,
}

impl Script {
    /// Reads the whole text; an error names the line.
    pub(super) fn read(text: &str) -> Result<Script, String> {
        let mut script = Script { compares: Vec::new(), success: Vec::new(), failure: Vec::new() };
        let mut block = 0;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            let wrong = |error: String| format!("line {number}: {error}");
            match (line, block) {
                ("", _) => block += 1,
                (_, 0) => script.compares.push(compare(line).map_err(wrong)?),
                (_, 1) => script.success.push(operation(line).map_err(wrong)?),
                (_, 2) => script.failure.push(operation(line).map_err(wrong)?),
                _ => return Err(wrong("a transaction has three blocks; an empty line ends each".to_owned())),
            }
        }
        Ok(script)
    }
}

fn operation(line: &str) -> Result<TxnOperation, String> {
    TxnOperation::read(words(line)?)
}

/// The words of a line: bare, in single quotes as they are, or in double quotes with escapes.
fn words(line: &str) -> Result<Vec<OsString>, String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let (word, after) = match rest.chars().next() {
            Some('\'') => {
                let (word, after) = rest[1..].split_once('\'').ok_or("a quote is not closed")?;
                (word.as_bytes().to_vec(), after)
            }
            Some('"') => quoted(rest)?,
            _ => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                (rest.as_bytes()[..end].to_vec(), &rest[end..])
            }
        };
        if !after.is_empty() && !after.starts_with(char::is_whitespace) {
            return Err(format!("a blank is missing before {after}"));
        }
        words.push(OsString::from_vec(word));
        rest = after.trim_start();
    }
    Ok(words)
}

fn compare(line: &str) -> Result<pb::Compare, String> {
    let malformed = || format!("{line} is no condition: TARGET(\"key\") OPERATOR \"value\" is meant");
    let (target, rest) = line.split_once('(').ok_or_else(malformed)?;
    let (key, rest) = quoted(rest.trim_start())?;
    let rest = rest.trim_start().strip_prefix(')').ok_or_else(malformed)?.trim_start();
    let end = rest.find(|c| !matches!(c, '=' | '!' | '<' | '>')).ok_or_else(malformed)?;
    let result = match &rest[..end] {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        "<" => CompareResult::Less,
        ">" => CompareResult::Greater,
        _ => return Err(malformed()),
    };
    let rest = rest[end..].trim();
    let (value, after) = if rest.starts_with('"') { quoted(rest)? } else { (rest.as_bytes().to_vec(), "") };
    if !after.trim().is_empty() || (value.is_empty() && rest.is_empty()) {
        return Err(malformed());
    }
    let (target, union) = target_union(target.trim(), value)?;
    Ok(pb::Compare {
        result: result.into(),
        target: target.into(),
        key: Bytes::from(key),
        range_end: Bytes::new(),
        target_union: Some(union),
    })
}

fn target_union(target: &str, value: Vec<u8>) -> Result<(CompareTarget, TargetUnion), String> {
    let text = String::from_utf8_lossy(&value).into_owned();
    let number = || text.parse::<i64>().map_err(|_| format!("{target} compares with a whole number, not {text:?}"));
    Ok(match target {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number()?)),
        "c" | "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number()?)),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number()?)),
        "val" | "value" => (CompareTarget::Value, TargetUnion::Value(Bytes::from(value))),
        "lease" => {
            let LeaseId(id) = text.parse().map_err(|error| format!("lease compares with a lease's id: {error}"))?;
            (CompareTarget::Lease, TargetUnion::Lease(id))
        }
        _ => return Err(format!("{target:?} cannot be compared: val, ver, create, mod and lease can")),
    })
}

/// Reads a string in double quotes from the beginning of the text, and returns what follows.
fn quoted(text: &str) -> Result<(Vec<u8>, &str), String> {
    let mut rest = text.strip_prefix('"').ok_or_else(|| format!("{text} is not in double quotes"))?.chars();
    let mut bytes = Vec::new();
    loop {
        match rest.next().ok_or("a double quote is not closed")? {
            '"' => return Ok((bytes, rest.as_str())),
            '\\' => escape(&mut rest, &mut bytes)?,
            c => push(&mut bytes, c),
        }
    }
}

/// Go's escapes in a string.
fn escape(rest: &mut std::str::Chars<'_>, bytes: &mut Vec<u8>) -> Result<(), String> {
    let c = rest.next().ok_or("a double quote is not closed")?;
    let unknown = || format!("\\{c} is no escape, or is cut short");
    let mut code = |digits: usize, radix: u32, first: Option<char>| {
        let text: String = first.into_iter().chain(rest.by_ref().take(digits)).collect();
        let is_whole = text.chars().count() == digits + usize::from(first.is_some()) && !text.starts_with('+');
        u32::from_str_radix(&text, radix).ok().filter(|_| is_whole).ok_or_else(unknown)
    };
    match c {
        'a' => bytes.push(0x07),
        'b' => bytes.push(0x08),
        'f' => bytes.push(0x0c),
        'n' => bytes.push(b'\n'),
        'r' => bytes.push(b'\r'),
        't' => bytes.push(b'\t'),
        'v' => bytes.push(0x0b),
        '\\' | '"' | '\'' => push(bytes, c),
        'x' => bytes.push(u8::try_from(code(2, 16, None)?).map_err(|_| unknown())?),
        '0'..='7' => bytes.push(u8::try_from(code(2, 8, Some(c))?).map_err(|_| unknown())?),
        'u' => push(bytes, char::from_u32(code(4, 16, None)?).ok_or_else(unknown)?),
        'U' => push(bytes, char::from_u32(code(8, 16, None)?).ok_or_else(unknown)?),
        _ => return Err(unknown()),
    }
    Ok(())
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Result<Vec<String>, String> {
        words(text).map(|words| words.into_iter().map(|word| word.to_string_lossy().into_owned()).collect())
    }

    #[test]
    fn a_line_is_split_into_words_by_blanks_and_quotes() {
        let split = |text| line(text).expect("words");
        assert_eq!(split("put key value"), ["put", "key", "value"]);
        assert_eq!(split(r#"put "a \"b\"" 'c "d" \n'"#), ["put", r#"a "b""#, r#"c "d" \n"#]);
        assert_eq!(split(r#"  put   ""  "\n\x41\u00e9\101" "#), ["put", "", "\nAéA"]);
        for wrong in
            ["put 'a", "put \"a", r#"put "\q""#, r#"put "\x1""#, r#"put "\777""#, r#"put "a"b"#, r#"put "\ud800""#]
        {
            assert!(line(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn conditions_are_read_as_etcdctl_reads_them() {
        for (text, target, result, union) in [
            (r#"mod("k") > "0""#, CompareTarget::Mod, CompareResult::Greater, TargetUnion::ModRevision(0)),
            (r#"m("k") = "7""#, CompareTarget::Mod, CompareResult::Equal, TargetUnion::ModRevision(7)),
            (r#"create("k") != "7""#, CompareTarget::Create, CompareResult::NotEqual, TargetUnion::CreateRevision(7)),
            (r#"ver("k") < "2""#, CompareTarget::Version, CompareResult::Less, TargetUnion::Version(2)),
            (r#"version("k")="2""#, CompareTarget::Version, CompareResult::Equal, TargetUnion::Version(2)),
            (r#"value("k") = "a b""#, CompareTarget::Value, CompareResult::Equal, TargetUnion::Value("a b".into())),
            (r#"val("k") = """#, CompareTarget::Value, CompareResult::Equal, TargetUnion::Value(Bytes::new())),
            (r#"lease("k") = "1f""#, CompareTarget::Lease, CompareResult::Equal, TargetUnion::Lease(31)),
            (r#"create("k") = 0"#, CompareTarget::Create, CompareResult::Equal, TargetUnion::CreateRevision(0)),
        ] {
            let read = compare(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(read.key, "k");
            let expected = (i32::from(target), i32::from(result), Some(union));
            assert_eq!((read.target, read.result, read.target_union), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        for text in [
            "key = 1",
            r#"mod("k")"#,
            r#"mod("k") = "#,
            r#"mod("k") == "1""#,
            r#"mod("k") = "one""#,
            r#"size("k") = "1""#,
            r#"mod(k) = "1""#,
            r#"mod("k" = "1""#,
            r#"mod("k") = "1" 2"#,
        ] {
            assert!(compare(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_script_has_three_blocks() {
        let script =
            Script::read("mod(\"k\") > \"0\"\n\nput k new\nget k\n\n  del k --prefix\n\n\n").expect("a script");
        assert_eq!((script.compares.len(), script.success.len(), script.failure.len()), (1, 2, 1));
        assert!(matches!(&script.failure[0], TxnOperation::Del(args) if args.range.prefix));
        let script = Script::read("\nput k 'a value'").expect("a script");
        assert_eq!((script.compares.len(), script.success.len(), script.failure.len()), (0, 1, 0));
    }

    #[test]
    fn errors_name_the_line() {
        for (text, error) in [
            (
                "mod(\"k\") > \"0\"\nput k v\n",
                "line 2: put k v is no condition: TARGET(\"key\") OPERATOR \"value\" is meant",
            ),
            ("\nput k\n", "line 2: the following required arguments were not provided: <VALUE>"),
            ("\n\nwatch k\n", "line 3: unrecognized subcommand 'watch'"),
            ("\n\n\nput k v", "line 4: a transaction has three blocks; an empty line ends each"),
        ] {
            assert_eq!(Script::read(text).expect_err("an error"), error);
        }
    }
}
