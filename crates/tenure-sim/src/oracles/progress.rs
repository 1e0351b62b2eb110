//! While a leader works that reaches a majority both ways, what clients write is applied: not much later than the last pause,
//! cut or slow disk explains.

use std::time::Duration;

use super::Breach;
use tenure_history::Moment;

/// Longer than this no cluster with a working leader may stand still while clients write. A leader that was just paused or cut
/// off may first have to be replaced; disks may take an eighth of a second for each thing.
const STALL_MAX: Duration = Duration::from_secs(3);

/// How far the cluster was at each look.
#[derive(Debug, Default)]
pub struct Progress {
    applied: u64,
    moved: Moment,
    /// The longest time that a working cluster stood still.
    pub longest: Duration,
}

impl Progress {
    /// The cluster works or does not, and the furthest member has applied so much.
    pub fn look(&mut self, now: Moment, works: bool, applied: u64) -> Option<Breach> {
        if !works || applied > self.applied {
            self.moved = now;
        }
        self.applied = self.applied.max(applied);
        let stall = now.since(self.moved);
        self.longest = self.longest.max(stall);
        (stall > STALL_MAX).then(|| Breach {
            oracle: "progress",
            text: format!("a leader works, and nothing is applied after entry {} for {STALL_MAX:?}", self.applied),
        })
    }
}
