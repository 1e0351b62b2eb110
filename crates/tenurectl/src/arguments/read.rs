//! Readers of single arguments.

use std::str::FromStr;
use std::time::Duration;

use crate::client::Endpoint;

/// Addresses with commas between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndpointList(pub Vec<Endpoint>);

/// More are a mistake: clusters have at most nine members.
const ENDPOINTS_MAX: usize = 64;

impl FromStr for EndpointList {
    type Err = String;

    fn from_str(text: &str) -> Result<EndpointList, String> {
        let mut endpoints = Vec::new();
        for endpoint in text.split(',').filter(|endpoint| !endpoint.trim().is_empty()) {
            let endpoint = endpoint.parse()?;
            if !endpoints.contains(&endpoint) {
                endpoints.push(endpoint);
            }
        }
        if endpoints.is_empty() {
            return Err("an address is needed: HOST:PORT".to_owned());
        }
        if endpoints.len() > ENDPOINTS_MAX {
            return Err(format!("at most {ENDPOINTS_MAX} addresses"));
        }
        Ok(EndpointList(endpoints))
    }
}

/// `500ms`, `5s`, `2m`, `1h`, or a number of seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a time is a number with a unit: 500ms, 5s, 2m".to_owned();
    let split = text.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "s" | "" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(wrong()),
    };
    let duration = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
    if duration.is_zero() { Err("a timeout of zero leaves no time for an answer".to_owned()) } else { Ok(duration) }
}

/// Like [`duration`], but it may be nothing.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { duration(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, millis) in
            [("500ms", 500), ("5s", 5_000), ("1.5s", 1_500), ("3", 3_000), ("2m", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "5d", "-1s", "0", "1.2.3s", "5 s", "1e99h"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn endpoints_are_separated_by_commas_and_named_once() {
        let list = "127.0.0.1:1, http://127.0.0.1:1,n2,".parse::<EndpointList>().expect("addresses");
        let shown: Vec<_> = list.0.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["127.0.0.1:1", "n2:2379"]);
        for text in ["", " , ", "n1,n 2"] {
            assert!(text.parse::<EndpointList>().is_err(), "{text:?}");
        }
    }
}
