//! Failpoints of one member: a disk that is slow, fails or is full, and an end at a random point.
//!
//! A member that cannot trust its disk ends by itself; healing takes the failpoint away where the process is still there,
//! and starts it where it is not.

use anyhow::Result;
use rand::RngExt;
use rand::rngs::StdRng;

use super::Kind;
use crate::chaos::field::Field;

/// Points at which a process may end at any time. Those of snapshots are left out: they are met too rarely.
const ABORTS: [&str; 17] = [
    "raftBeforeSave",
    "raftAfterSave",
    "walBeforeWrite",
    "walAfterWrite",
    "walBeforeSync",
    "walAfterSync",
    "commitBeforePreCommitHook",
    "commitAfterPreCommitHook",
    "beforeCommit",
    "afterCommit",
    "raftBeforeApply",
    "raftAfterApply",
    "raftBeforeFollowerSend",
    "compactBeforeCommitScheduledCompact",
    "compactAfterCommitScheduledCompact",
    "compactBeforeCommitBatch",
    "compactAfterCommitBatch",
];

/// A term of a failpoint, armed at one member.
#[derive(Debug)]
pub(super) struct Failpoint {
    pub(super) victim: usize,
    point: &'static str,
    term: String,
    /// Whether the process ends by it.
    deadly: bool,
}

impl Failpoint {
    pub(super) fn draw(kind: Kind, field: &Field, rng: &mut StdRng) -> Failpoint {
        let any = rng.random_range(0..field.size());
        let victim = field.usable(field.leader().filter(|_| rng.random_ratio(1, 2)).unwrap_or(any));
        let (point, term, deadly) = match kind {
            Kind::FsyncSlow => ("walBeforeSync", format!("sleep({})", rng.random_range(40..300)), false),
            Kind::FsyncFails => ("walBeforeSync", "return(\"EIO\")".to_owned(), true),
            Kind::DiskFull => ("walBeforeWrite", "return(\"ENOSPC\")".to_owned(), true),
            // Not at once: somewhere in the middle of the work.
            _ => (ABORTS[rng.random_range(0..ABORTS.len())], "10%panic(\"chaos\")".to_owned(), true),
        };
        Failpoint { victim, point, term, deadly }
    }

    pub(super) fn text(&self) -> String {
        format!("{}={}", self.point, self.term)
    }

    pub(super) async fn begin(&self, field: &mut Field) -> Result<()> {
        // It may be down by another fault.
        field.ensure_running(self.victim).await?;
        if self.deadly {
            field.arm_deadly(self.victim, self.point, &self.term).await
        } else {
            field.arm(self.victim, self.point, &self.term).await
        }
    }

    pub(super) async fn heal(&self, field: &mut Field) -> Result<()> {
        field.disarm(self.victim, self.point).await?;
        field.ensure_running(self.victim).await
    }
}
