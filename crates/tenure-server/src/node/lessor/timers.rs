//! When to look at which lease again: slots of time, each with the leases that were due in it when they were filed.
//!
//! A renewal touches nothing here. A lease stays where it was filed, and when that slot's time has come it is filed again
//! by its new due time: once for every TTL that it lives on, however often it was renewed. Filing is a step in a tree of
//! slots, whose number depends on how long the TTLs are and not on how many leases there are.
//!
//! What became void stays until its slot is opened; who files counts it, and files everything anew when there is too much.

use std::collections::BTreeMap;

use tenure_core::LeaseId;

/// The width of a slot. A lease is looked at when its slot is over, so this is also how late that is at most.
pub(super) const SLOT_MS: u64 = 50;

/// A slot, by its place in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(u64);

impl Slot {
    /// The slot of a due time.
    pub(super) fn of(due_ms: u64) -> Slot {
        Slot(due_ms / SLOT_MS)
    }

    /// When all that is due in it is due.
    fn over_ms(self) -> u64 {
        self.0.saturating_add(1).saturating_mul(SLOT_MS)
    }
}

/// See the module's header.
#[derive(Debug, Default)]
pub(super) struct Timers {
    slots: BTreeMap<Slot, Vec<LeaseId>>,
    filed: usize,
}

impl Timers {
    /// Files a lease in a slot.
    pub(super) fn file(&mut self, slot: Slot, id: LeaseId) {
        self.slots.entry(slot).or_default().push(id);
        self.filed += 1;
    }

    /// Takes the earliest slot out, if it is over by `now_ms`.
    pub(super) fn open(&mut self, now_ms: u64) -> Option<(Slot, Vec<LeaseId>)> {
        let first = self.slots.first_entry()?;
        if first.key().over_ms() > now_ms {
            return None;
        }
        let (slot, ids) = first.remove_entry();
        self.filed -= ids.len();
        Some((slot, ids))
    }

    /// When the next slot is over.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.slots.first_key_value().map(|(slot, _)| slot.over_ms())
    }

    /// How many are filed, void ones too.
    pub(super) fn filed(&self) -> usize {
        self.filed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_open_in_order_and_only_when_they_are_over() {
        let mut timers = Timers::default();
        assert_eq!(timers.next_ms(), None);
        for (due_ms, id) in [(149, 1), (20, 2), (100, 3), (0, 4)] {
            timers.file(Slot::of(due_ms), LeaseId(id));
        }
        assert_eq!((timers.filed(), timers.next_ms()), (4, Some(50)));
        assert_eq!(timers.open(49), None);
        assert_eq!(timers.open(50), Some((Slot::of(0), vec![LeaseId(2), LeaseId(4)])));
        assert_eq!((timers.filed(), timers.next_ms()), (2, Some(150)));
        assert_eq!(timers.open(149), None);
        assert_eq!(timers.open(150), Some((Slot::of(100), vec![LeaseId(1), LeaseId(3)])));
        assert_eq!(timers.open(u64::MAX), None);
        assert_eq!(timers.filed(), 0);
    }

    #[test]
    fn the_last_slot_of_time_never_ends_early() {
        let mut timers = Timers::default();
        timers.file(Slot::of(u64::MAX), LeaseId(1));
        assert_eq!(timers.open(u64::MAX - 1), None);
    }
}
