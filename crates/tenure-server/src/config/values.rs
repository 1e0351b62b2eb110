//! The spellings of single values: booleans, whole numbers and durations as Go's flag package reads them, because
//! that is what etcd's users and their scripts write.
//!
//! Pure functions from text to value; an error is the reason alone, and the caller adds which flag it was.

use std::time::Duration;

/// A boolean: `1 t T TRUE true True 0 f F FALSE false False`.
pub(super) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

/// A whole number within bounds.
pub(super) fn parse_number(text: &str, min: i64, max: i64) -> Result<i64, String> {
    let wanted = || match (min, max) {
        (i64::MIN, i64::MAX) => "expected a whole number".to_owned(),
        (min, i64::MAX) => format!("expected a whole number of at least {min}"),
        (min, max) => format!("expected a whole number from {min} to {max}"),
    };
    let number: i64 = text.parse().map_err(|_| wanted())?;
    if number < min || number > max {
        return Err(wanted());
    }
    Ok(number)
}

/// A count or size within bounds.
pub(super) fn parse_count(text: &str, min: u32, max: u32) -> Result<u32, String> {
    let number = parse_number(text, i64::from(min), i64::from(max))?;
    u32::try_from(number).map_err(|_| format!("expected a whole number from {min} to {max}"))
}

/// A duration such as `10m`, `1h30m`, `1.5s` or `0`, which is never negative here.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a duration such as 300ms, 10s, 5m or 1h30m".to_owned();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.starts_with('-') {
        return Err("must not be negative".to_owned());
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (nanos, after) = leading_term(rest).ok_or_else(wrong)?;
        total = total.checked_add(nanos).ok_or_else(wrong)?;
        rest = after;
    }
    // Go keeps durations in an i64 of nanoseconds: 292 years. Longer ones are a typing error here too.
    let nanos = i64::try_from(total).map_err(|_| "is longer than 292 years".to_owned())?;
    Ok(Duration::from_nanos(nanos.unsigned_abs()))
}

/// One number with its unit from the front of `text`, in nanoseconds, and what follows it.
fn leading_term(text: &str) -> Option<(u128, &str)> {
    let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, rest) = text.split_at(number_end);
    let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_end);
    let unit_nanos: u128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60 * 1_000_000_000,
        "h" => 3_600 * 1_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let mut nanos = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()?.into() };
    nanos = unit_nanos.checked_mul(nanos)?;
    let mut scale = unit_nanos;
    for digit in fraction.bytes() {
        scale /= 10;
        nanos = nanos.checked_add(scale * u128::from(digit - b'0'))?;
    }
    Some((nanos, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let cases: &[(&str, u64)] = &[
            ("0", 0),
            ("0s", 0),
            ("5ns", 5),
            ("300ms", 300_000_000),
            ("10m", 600_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("+2us", 2_000),
            ("2µs", 2_000),
            ("1h1m1s1ms", 3_661_001_000_000),
        ];
        for (text, nanos) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(*nanos)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in
            ["", "+", "5", "s", ".s", "1..5s", "1x", "1 s", "-5s", "99999999999999999999h", "3000000h", "1s2", "é"]
        {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn numbers_outside_their_bounds_say_what_the_bounds_are() {
        assert_eq!(parse_number("-1", i64::MIN, i64::MAX), Ok(-1));
        assert_eq!(parse_number("x", i64::MIN, i64::MAX), Err("expected a whole number".to_owned()));
        assert_eq!(parse_number("0", 1, i64::MAX), Err("expected a whole number of at least 1".to_owned()));
        assert_eq!(parse_count("4294967296", 1, 10), Err("expected a whole number from 1 to 10".to_owned()));
        assert_eq!(parse_count("-3", 0, u32::MAX), Err("expected a whole number from 0 to 4294967295".to_owned()));
        assert_eq!(parse_count("10", 1, 10), Ok(10));
    }

    #[test]
    fn booleans_are_read_as_go_reads_them() {
        for text in ["1", "t", "T", "TRUE", "true", "True"] {
            assert_eq!(parse_bool(text), Ok(true));
        }
        for text in ["0", "f", "F", "FALSE", "false", "False"] {
            assert_eq!(parse_bool(text), Ok(false));
        }
        for text in ["", "yes", "tRUE", "2", " true"] {
            assert!(parse_bool(text).is_err(), "{text:?}");
        }
    }
}
