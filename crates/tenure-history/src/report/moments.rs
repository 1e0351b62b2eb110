//! Finds the moments in lines of evidence, to lead a reader from them to their place on the timeline.
//!
//! Every checker writes moments in one way ([`Moment`]'s `Display`), so they are read back from there. A key that looks
//! like a moment may draw the stretch too wide: it only says where to look.

use crate::ids::Moment;

/// From the first moment that is named to the last.
pub(crate) fn span(lines: &[String]) -> Option<(Moment, Moment)> {
    let words = lines.iter().flat_map(|line| line.split(|c: char| c.is_whitespace() || ",;()".contains(c)));
    let mut moments = words.filter_map(moment);
    let first = moments.next()?;
    Some(moments.fold((first, first), |(from, to), moment| (from.min(moment), to.max(moment))))
}

/// Reads `12.000345s`.
fn moment(word: &str) -> Option<Moment> {
    let (seconds, micros) = word.strip_suffix('s')?.split_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(seconds) || !digits(micros) || micros.len() != 6 {
        return None;
    }
    let seconds = seconds.parse::<u64>().ok()?.checked_mul(1_000_000_000)?;
    Some(Moment(seconds.checked_add(micros.parse::<u64>().ok()? * 1_000)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stretch_reaches_from_the_first_moment_to_the_last() {
        let lines = [
            format!("client 3   {} – …  put a=1.5s → unknown", Moment(12_000_345_000)),
            format!("client 4   {} – {}  range a → @3", Moment(11_500_000_000), Moment(20_000_000_000)),
        ];
        assert_eq!(span(&lines), Some((Moment(11_500_000_000), Moment(20_000_000_000))));
        assert_eq!(span(&["never, 1.2s, .000001s, 99999999999999999999.000000s".to_owned()]), None);
    }
}
