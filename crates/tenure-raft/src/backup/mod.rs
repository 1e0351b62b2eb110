//! Backups: the state of one applied entry as one file, and a new cluster's member made of such a file.
//!
//! ```text
//! save:     checkpoint ─▶ tar archive, in blobs ─▶ SHA-256 of it all     beside the writer, at the pace of snapshots
//! restore:  checked ─▶ state/1 ─▶ new members, leases at full TTL ─▶ identity ─▶ log
//! ```
//!
//! The archive is a tar file of Tenure's own, not a bbolt file: its first entry says what it is (see [`About`]), the others
//! are the files of the engine. A tar file's length is a multiple of 512, and the hash behind it has 32 bytes: that is how
//! etcd's tools tell a snapshot with its hash from one without.
//!
//! A restored member is a founding member of a new cluster that begins at the log entry of the backup: its log is empty
//! behind that entry, and its vote keeps it from any term that the entry may be of.

mod about;
mod archive;
mod restore;
mod save;
#[cfg(test)]
mod tests;

pub use about::About;
pub use archive::ArchiveError;
pub use restore::{Restore, RestoreError, Restored, Verified, examine, refuse_occupied, restore, verify};
pub use save::{Backup, BackupError, Blob};
