//! The places, and what they are called. Where etcd has the same place, it has etcd's name.

/// A place in the code where a fault may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// Before a group of the log (entries, votes, marks) is put together and written.
    RaftBeforeSave,
    /// When a group is on the disk, and nobody has heard of it.
    RaftAfterSave,
    /// Before bytes of the log go to the operating system.
    WalBeforeWrite,
    /// After that.
    WalAfterWrite,
    /// Before the log is synced.
    WalBeforeSync,
    /// After that.
    WalAfterSync,
    /// Before the log begins another file.
    WalBeforeCut,
    /// After that.
    WalAfterCut,
    /// Before a file of the log is removed.
    WalBeforeRemove,
    /// Before a run's applied index joins its batch.
    CommitBeforePreCommitHook,
    /// After that.
    CommitAfterPreCommitHook,
    /// Before the engine takes a run's batch.
    BeforeCommit,
    /// After that.
    AfterCommit,
    /// Before the engine is flushed.
    BeforeFlush,
    /// When the engine is flushed, and nobody counts on it yet.
    AfterFlush,
    /// Before a run of committed entries is applied.
    RaftBeforeApply,
    /// Before each of a run's entries is carried out.
    RaftBeforeApplyEntry,
    /// When a run is applied and visible, and nobody was answered.
    RaftAfterApply,
    /// Before a leader sends entries to a follower.
    RaftBeforeLeaderSend,
    /// Before a follower answers for entries.
    RaftBeforeFollowerSend,
    /// Before the batch that compacts the history logically.
    CompactBeforeCommitScheduledCompact,
    /// After that.
    CompactAfterCommitScheduledCompact,
    /// Before a batch that removes superseded rows.
    CompactBeforeCommitBatch,
    /// After that.
    CompactAfterCommitBatch,
    /// Before the batch that removes the last superseded rows and says so.
    CompactBeforeSetFinishedCompact,
    /// After that.
    CompactAfterSetFinishedCompact,
    /// Before the files of a snapshot are made.
    SnapshotBeforeCheckpoint,
    /// After that.
    SnapshotAfterCheckpoint,
    /// Before a piece of a snapshot is read to be sent.
    SnapshotBeforeSendPiece,
    /// Before a piece that came is written.
    SnapshotBeforeWritePiece,
    /// Before what came is made durable.
    RaftBeforeSaveSnap,
    /// After that.
    RaftAfterSaveSnap,
    /// Before the state that came is opened.
    ApplyBeforeOpenSnapshot,
    /// Before the state that came takes the place of the old one on the disk.
    RaftBeforeApplySnap,
    /// When it counts on the disk, and the process still serves the old one.
    SnapshotAfterName,
    /// When it is served.
    RaftAfterApplySnap,
}

/// One row of the table of places.
struct Row {
    point: Point,
    name: &'static str,
    fails: bool,
}

const fn row(point: Point, name: &'static str) -> Row {
    Row { point, name, fails: true }
}

/// A place in asynchronous code that has no error to return.
const fn row_without_errors(point: Point, name: &'static str) -> Row {
    Row { point, name, fails: false }
}

const TABLE: [Row; Point::COUNT] = [
    row(Point::RaftBeforeSave, "raftBeforeSave"),
    row(Point::RaftAfterSave, "raftAfterSave"),
    row(Point::WalBeforeWrite, "walBeforeWrite"),
    row(Point::WalAfterWrite, "walAfterWrite"),
    row(Point::WalBeforeSync, "walBeforeSync"),
    row(Point::WalAfterSync, "walAfterSync"),
    row(Point::WalBeforeCut, "walBeforeCut"),
    row(Point::WalAfterCut, "walAfterCut"),
    row(Point::WalBeforeRemove, "walBeforeRemove"),
    row(Point::CommitBeforePreCommitHook, "commitBeforePreCommitHook"),
    row(Point::CommitAfterPreCommitHook, "commitAfterPreCommitHook"),
    row(Point::BeforeCommit, "beforeCommit"),
    row(Point::AfterCommit, "afterCommit"),
    row(Point::BeforeFlush, "beforeFlush"),
    row(Point::AfterFlush, "afterFlush"),
    row(Point::RaftBeforeApply, "raftBeforeApply"),
    row(Point::RaftBeforeApplyEntry, "raftBeforeApplyEntry"),
    row(Point::RaftAfterApply, "raftAfterApply"),
    row_without_errors(Point::RaftBeforeLeaderSend, "raftBeforeLeaderSend"),
    row_without_errors(Point::RaftBeforeFollowerSend, "raftBeforeFollowerSend"),
    row(Point::CompactBeforeCommitScheduledCompact, "compactBeforeCommitScheduledCompact"),
    row(Point::CompactAfterCommitScheduledCompact, "compactAfterCommitScheduledCompact"),
    row(Point::CompactBeforeCommitBatch, "compactBeforeCommitBatch"),
    row(Point::CompactAfterCommitBatch, "compactAfterCommitBatch"),
    row(Point::CompactBeforeSetFinishedCompact, "compactBeforeSetFinishedCompact"),
    row(Point::CompactAfterSetFinishedCompact, "compactAfterSetFinishedCompact"),
    row(Point::SnapshotBeforeCheckpoint, "snapshotBeforeCheckpoint"),
    row(Point::SnapshotAfterCheckpoint, "snapshotAfterCheckpoint"),
    row(Point::SnapshotBeforeSendPiece, "snapshotBeforeSendPiece"),
    row(Point::SnapshotBeforeWritePiece, "snapshotBeforeWritePiece"),
    row(Point::RaftBeforeSaveSnap, "raftBeforeSaveSnap"),
    row(Point::RaftAfterSaveSnap, "raftAfterSaveSnap"),
    row(Point::ApplyBeforeOpenSnapshot, "applyBeforeOpenSnapshot"),
    row(Point::RaftBeforeApplySnap, "raftBeforeApplySnap"),
    row(Point::SnapshotAfterName, "snapshotAfterName"),
    row(Point::RaftAfterApplySnap, "raftAfterApplySnap"),
];

impl Point {
    /// How many there are.
    pub const COUNT: usize = 36;

    /// All of them.
    pub fn all() -> impl Iterator<Item = Point> {
        TABLE.iter().map(|row| row.point)
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        TABLE[self.index()].name
    }

    /// The place of this name.
    pub fn named(name: &str) -> Option<Point> {
        TABLE.iter().find(|row| row.name == name).map(|row| row.point)
    }

    /// Whether the code there has an error to return.
    pub fn fails(self) -> bool {
        TABLE[self.index()].fails
    }

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_stand_in_the_table_in_their_order_and_are_called_by_their_variant() {
        for (index, point) in Point::all().enumerate() {
            assert_eq!(point.index(), index, "{point:?}");
            let variant = format!("{point:?}");
            let (first, rest) = variant.split_at(1);
            assert_eq!(point.name(), first.to_ascii_lowercase() + rest);
            assert_eq!(Point::named(point.name()), Some(point));
        }
        assert_eq!(Point::named("raftbeforesave"), None);
    }
}
