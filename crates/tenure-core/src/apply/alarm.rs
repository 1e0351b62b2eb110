//! Alarms: raised and cleared through the log, so that every node refuses the same commands.

use crate::command::{Command, GuardedWrite};
use crate::ids::MemberId;
use crate::outcome::Refusal;
use crate::row::{AlarmKind, AlarmRow, Meta};
use crate::state::StateWrite;
use crate::validate::txn_puts;

/// Why the alarms that are raised forbid a command, if they do. What frees space stays allowed when space is out. Once
/// members disagree, only the alarms themselves stay allowed, what members say of themselves, and renewals: whatever is
/// wrong with the data, its holders are still there.
pub(super) fn refusal(meta: &Meta, command: &Command) -> Option<Refusal> {
    if meta.alarms.is_empty() {
        return None;
    }
    let raised = |kind: AlarmKind| meta.alarms.iter().any(|alarm| alarm.kind == kind);
    let grows = match command {
        Command::AlarmRaise(..) | Command::AlarmClear(..) | Command::MemberPublish(_) | Command::LeaseRenew(_) => {
            return None;
        }
        Command::Put(_) | Command::LeaseGrant(_) | Command::LockAcquire(_) => true,
        Command::Txn(txn) => txn_puts(txn),
        Command::Guarded(guarded) => match guarded.write {
            GuardedWrite::Put(_) => true,
            GuardedWrite::DeleteRange(_) => false,
        },
        Command::DeleteRange(_)
        | Command::Compact(_)
        | Command::LeaseRevoke(_)
        | Command::LockCancel(_)
        | Command::LockRelease(_)
        | Command::LockForce(_)
        | Command::LockDelayEnd(_) => false,
    };
    if raised(AlarmKind::Corrupt) {
        Some(Refusal::Corrupt)
    } else if grows && raised(AlarmKind::NoSpace) {
        Some(Refusal::NoSpace)
    } else {
        None
    }
}

pub(super) fn raise<S: StateWrite>(state: &mut S, member: MemberId, kind: AlarmKind) {
    let alarm = AlarmRow { member, kind };
    if let Err(at) = state.meta().alarms.binary_search(&alarm) {
        state.meta_mut().alarms.insert(at, alarm);
    }
}

pub(super) fn clear<S: StateWrite>(state: &mut S, member: MemberId, kind: AlarmKind) {
    if let Ok(at) = state.meta().alarms.binary_search(&AlarmRow { member, kind }) {
        state.meta_mut().alarms.remove(at);
    }
}
