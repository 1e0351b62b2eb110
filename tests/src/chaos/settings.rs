//! What a run is to be: its profile, or what was chosen instead.

use std::path::PathBuf;
use std::time::Duration;

use super::faults::Kind;
use tenure_workload::workloads::Workload;

/// Rounds are no longer than this, which keeps a round's history below a hundred thousand operations.
const ROUND_MAX: Duration = Duration::from_secs(240);
/// What a round needs besides its faults: start, end, judgement. A run is rather a little longer than asked for.
const ROUND_OVERHEAD: Duration = Duration::from_secs(18);
/// Shorter rounds would not have all kinds of faults.
const ROUND_MIN: Duration = Duration::from_secs(5);

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    Smoke,
    Standard,
    Soak,
}

/// Everything that a run is told.
#[derive(Clone, Debug)]
pub struct Settings {
    pub profile: Profile,
    pub length: Duration,
    pub seed: u64,
    pub nodes: usize,
    /// Where everything is written; what is there from before is deleted.
    pub out: PathBuf,
    pub kinds: Vec<Kind>,
    pub workloads: Vec<Workload>,
    /// How many clients hold a lease and do nothing else.
    pub leases: usize,
    /// How many more contend for locks.
    pub contenders: usize,
    /// Whether something that had to be left out makes the run void.
    pub strict: bool,
    /// What to type to repeat the run.
    pub command: String,
}

impl Profile {
    /// Its word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Smoke => "smoke",
            Profile::Standard => "standard",
            Profile::Soak => "soak",
        }
    }

    /// How long it lasts, if nobody says otherwise.
    pub fn minutes(self) -> u64 {
        match self {
            Profile::Smoke => 2,
            Profile::Standard => 20,
            Profile::Soak => 60,
        }
    }
}

impl Settings {
    /// How long faults happen in each round.
    pub fn rounds(&self) -> Vec<Duration> {
        let count = self.length.as_millis().div_ceil(ROUND_MAX.as_millis()).max(1);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let each = (self.length / count).saturating_sub(ROUND_OVERHEAD).max(ROUND_MIN);
        vec![each; count as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(minutes: u64) -> Vec<Duration> {
        let settings = Settings {
            profile: Profile::Soak,
            length: Duration::from_secs(60 * minutes),
            seed: 1,
            nodes: 3,
            out: PathBuf::new(),
            kinds: Vec::new(),
            workloads: Vec::new(),
            leases: 0,
            contenders: 0,
            strict: false,
            command: String::new(),
        };
        settings.rounds()
    }

    #[test]
    fn a_run_is_cut_into_rounds_that_are_not_too_long() {
        assert_eq!(rounds(2), [Duration::from_secs(102)]);
        assert_eq!(rounds(20), vec![Duration::from_secs(222); 5]);
        assert_eq!(rounds(0).len(), 1);
        assert_eq!(rounds(60).len(), 15);
    }
}
