//! Everything that turns data into text of the page: escaping, and numbers as people read them.
//!
//! A run's texts hold keys, values and messages of any bytes. Two functions stand between them and the page: [`html`] for
//! text and attributes, [`script_json`] for the data of the timeline; nothing else of a record reaches the page.

use std::borrow::Cow;

use crate::ids::Moment;

/// Text that stands in HTML, also within a quoted attribute. What no person can see is shown as its number.
pub(crate) fn html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(c),
            c if is_unseen(c) => escaped.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Control characters, and those that turn the direction of what follows.
fn is_unseen(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// JSON that stands in a `script` element: no tag or comment can begin in it. These characters are only ever within the
/// strings of JSON.
pub(crate) fn script_json(json: &str) -> String {
    json.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e")
}

/// The begin of a long text.
pub(crate) fn shortened(text: &str, chars_max: usize) -> Cow<'_, str> {
    match text.char_indices().nth(chars_max) {
        Some((at, _)) => Cow::Owned(format!("{}…", &text[..at])),
        None => Cow::Borrowed(text),
    }
}

/// `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `3 faults`, `1 fault`.
pub(crate) fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// A part of a whole in per cent, with one digit; never rounded up to all of it.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    let per_mille = u128::from(part) * 1_000 / u128::from(whole.max(1));
    format!("{}.{} %", per_mille / 10, per_mille % 10)
}

/// A duration with three digits: `850 µs`, `1.24 s`, `20 min`, `3 h 05 min`.
pub(crate) fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => three_digits(us, 1_000, "ms"),
        1_000_000..120_000_000 => three_digits(us, 1_000_000, "s"),
        120_000_000..3_600_000_000 => match us / 1_000_000 % 60 {
            0 => format!("{} min", us / 60_000_000),
            seconds => format!("{} min {seconds:02} s", us / 60_000_000),
        },
        _ => format!("{} h {:02} min", us / 3_600_000_000, us / 60_000_000 % 60),
    }
}

/// See [`micros`].
pub(crate) fn length(length: Moment) -> String {
    micros(length.0 / 1_000)
}

fn three_digits(us: u64, unit: u64, name: &str) -> String {
    let (whole, rest) = (us / unit, us % unit);
    match whole {
        0..10 => format!("{whole}.{:02} {name}", rest * 100 / unit),
        10..100 => format!("{whole}.{} {name}", rest * 10 / unit),
        _ => format!("{whole} {name}"),
    }
}

/// A moment as the timeline writes it: `3:05.25`, or `1:03:05.25` after an hour.
pub(crate) fn clock(at: Moment) -> String {
    let hundredths = at.0 / 10_000_000;
    let (seconds, rest) = (hundredths / 100, hundredths % 100);
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}.{rest:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}.{rest:02}"),
    }
}

/// A date of the Gregorian calendar in UTC: `2026-01-31 12:00:05 UTC`.
pub(crate) fn date(unix_ms: u64) -> String {
    let seconds = unix_ms / 1_000;
    let mut days = seconds / 86_400;
    let mut year = 1970;
    // 400 years have the same number of days every time, so this is short for any input.
    year += days / 146_097 * 400;
    days %= 146_097;
    while days >= days_of_year(year) {
        days -= days_of_year(year);
        year += 1;
    }
    let february = days_of_year(year) - 337;
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year}-{month:02}-{:02} {hour:02}:{minute:02}:{second:02} UTC", days + 1)
}

fn days_of_year(year: u64) -> u64 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    365 + u64::from(leap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_leaves_its_place() {
        assert_eq!(
            html("</pre><b a=\"1\" b='2'>&amp;"),
            "&lt;/pre&gt;&lt;b a=&quot;1&quot; b=&#39;2&#39;&gt;&amp;amp;"
        );
        assert_eq!(html("a\0\u{202e}b\n"), "a\\u{0}\\u{202e}b\n");
        let json = serde_json::to_string("</script><!-- & ]]>").unwrap();
        assert!(!script_json(&json).contains(['<', '>', '&']));
        assert_eq!(serde_json::from_str::<String>(&script_json(&json)).unwrap(), "</script><!-- & ]]>");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!([count(0), count(999), count(1_000), count(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([percent(1, 3), percent(999_999, 1_000_000), percent(0, 0)], ["33.3 %", "99.9 %", "0.0 %"]);
        let lengths = [999, 1_240, 99_900, 1_240_000, 119_900_000, 1_200_000_000, 1_205_000_000, 11_100_000_000];
        let texts = ["999 µs", "1.24 ms", "99.9 ms", "1.24 s", "119 s", "20 min", "20 min 05 s", "3 h 05 min"];
        assert_eq!(lengths.map(micros), texts);
        assert_eq!(clock(Moment(185_257_000_000)), "3:05.25");
        assert_eq!(clock(Moment(3_785_000_000_000)), "1:03:05.00");
        assert_eq!(shortened("äöü", 2), "äö…");
        assert_eq!(shortened("äö", 2), "äö");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(date(951_782_399_999), "2000-02-28 23:59:59 UTC");
        assert_eq!(date(951_782_400_000), "2000-02-29 00:00:00 UTC");
        assert_eq!(date(1_798_761_599_000), "2026-12-31 23:59:59 UTC");
        assert_eq!(date(4_107_542_400_000), "2100-03-01 00:00:00 UTC");
        assert!(date(u64::MAX).ends_with(" UTC"));
    }
}
