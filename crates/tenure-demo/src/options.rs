//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::limits::{CONTENDERS_MAX, NODES_MAX, SERVICES_MAX, WRITES_PER_SECOND_MAX};

const KEYS: &str = "\
Keys: 1 to 5 select a node; k kills it, p pauses it or lets it go on, r starts it again; K kills the leader;
w lets one service stop renewing its lease; q ends the load and checks; Ctrl-C a second time gives up.

Exit code: 0 if nothing that was acknowledged is lost, 1 if something is or the demo could not be run, 2 for a
command line that makes no sense or a screen that is none.";

/// A cluster at work, to be broken by hand: services on leases, a contended lock, a steady writer. At the end it checks
/// that nothing acknowledged was lost.
#[derive(Clone, Debug, Parser)]
#[command(name = "tenure-demo", after_help = KEYS)]
pub struct Options {
    /// Nodes to start
    #[arg(long, default_value_t = 3, value_parser = at_most(1, NODES_MAX))]
    pub nodes: usize,

    /// Services that each keep a lease alive
    #[arg(long, default_value_t = 200, value_parser = at_most(0, SERVICES_MAX))]
    pub services: usize,

    /// Time to live of the leases, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i64).range(5..=3_600))]
    pub ttl: i64,

    /// Contenders for the lock
    #[arg(long, default_value_t = 5, value_parser = at_most(0, CONTENDERS_MAX))]
    pub contenders: usize,

    /// Writes per second
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=i64::from(WRITES_PER_SECOND_MAX)))]
    pub rate: u32,

    /// End after this time, as in 90s or 5m; without it, q ends the demo
    #[arg(long, value_parser = duration)]
    pub duration: Option<Duration>,

    /// Kill the leader and start it again every so often
    #[arg(long, value_parser = duration)]
    pub kill_leader_every: Option<Duration>,

    /// Let a service stop renewing its lease every so often
    #[arg(long, value_parser = duration)]
    pub stop_renewing_every: Option<Duration>,

    /// Print events as lines and draw nothing; needs --duration
    #[arg(long, requires = "duration")]
    pub headless: bool,

    /// Use a running cluster (host:port, separated by commas), whose nodes are left alone
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["nodes", "kill_leader_every", "dir"])]
    pub endpoints: Vec<String>,

    /// Where the nodes' data and logs are, while the demo runs
    #[arg(long, default_value = ".demo")]
    pub dir: PathBuf,

    /// Where cluster-scripts/ is
    #[arg(long, default_value = "cluster-scripts", hide = true)]
    pub scripts: PathBuf,
}

fn at_most(min: usize, max: usize) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| match text.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        Ok(_) | Err(_) => Err(format!("a number from {min} to {max} is needed")),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = number.parse().map_err(|_| "a number and a unit are needed, as in 20s".to_owned())?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3_600).map(Duration::from_secs),
        _ => None,
    }
    .filter(|duration| !duration.is_zero() && *duration <= Duration::from_secs(24 * 3_600))
    .ok_or_else(|| "a time from 1ms to 24h is needed, with one of the units ms, s, m, h".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1_500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "20", "s", "-3s", "1d", "0s", "1.5s", "99999999999999999999s", "999999999999999999h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_run_without_a_screen_must_say_how_long() {
        let parse = |arguments: &[&str]| Options::try_parse_from([&["tenure-demo"], arguments].concat());
        assert!(parse(&["--headless"]).is_err());
        assert!(parse(&["--headless", "--duration", "20s", "--kill-leader-every", "5s"]).is_ok());
        assert!(parse(&["--endpoints", "a:1,b:2", "--kill-leader-every", "5s"]).is_err());
        assert_eq!(parse(&["--endpoints", "a:1,b:2"]).unwrap().endpoints, ["a:1", "b:2"]);
        assert!(parse(&["--nodes", "6"]).is_err());
    }
}
