//! Which process a registration belongs to, and which of two processes is the successor.
//!
//! A process that crashed is restarted under the same id while its old key is still there; a process that was stopped for an hour
//! comes back and finds its key gone, or another's. So each registration has a *nonce*, which tells whose a key is, and an
//! *incarnation*, which orders them: the store's revision as it was read just before the first write. A process that
//! registers after another has read a revision that is no lower than that of the other's write, which is greater than
//! the revision that the other had read. So a successor's incarnation is always the greater one, whatever becomes of the keys:
//!
//! 1. A reads revision 10, and writes its key with incarnation 10, at revision 11. It is stopped, and its lease ends.
//! 2. B reads revision 15, and writes its key with incarnation 15. B loses its lease in an outage.
//! 3. A wakes up, finds no key, and writes it again with incarnation 10.
//! 4. B finds A's key, with a lower incarnation than its own: that of a predecessor. It writes its own over it.
//! 5. A sees B's key, with a greater incarnation: it has a successor, and gives up for good.
//!
//! A nonce alone would leave B to think in step 4 that A is its successor. Two that read the same revision, of which one was written and
//! gone before the other was, are ordered by their nonces. This file decides; who reads and writes is `registration`.

use std::fmt;

/// Who registered an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp {
    /// Greater than that of every process that registered the instance before. 0 if it was written by hand.
    pub(super) incarnation: i64,
    /// Random, and different for each registration. Empty if it was written by hand.
    pub(super) nonce: String,
}

impl Stamp {
    /// A stamp with a nonce from two random numbers.
    pub(super) fn new(incarnation: i64, random: [u64; 2]) -> Self {
        Self { incarnation, nonce: format!("{:016x}{:016x}", random[0], random[1]) }
    }

    /// Whether both are of the same registration.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        !self.nonce.is_empty() && self.nonce == other.nonce
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            to,
            "incarnation {} ({})",
            self.incarnation,
            if self.nonce.is_empty() { "no nonce" } else { &self.nonce }
        )
    }
}

/// What stands at an instance's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// Something that is no instance's value.
    Unreadable {
        /// The key's mod revision.
        mod_revision: i64,
    },
    /// A registration.
    Registration {
        /// Whose.
        stamp: Stamp,
        /// The key's mod revision.
        mod_revision: i64,
        /// The key's lease.
        lease: i64,
        /// Whether it is about to go by its own will.
        leaving: bool,
    },
}

impl Found {
    /// The mod revision to compare with, so that a write depends on what was found; 0 for no key.
    pub(super) fn mod_revision(&self) -> i64 {
        match self {
            Self::Nothing => 0,
            Self::Unreadable { mod_revision } | Self::Registration { mod_revision, .. } => *mod_revision,
        }
    }
}

/// What a process that wants its instance registered has to do about what it found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Write, if the key's mod revision is still this one.
    Write {
        /// 0: if there is no key.
        if_mod_revision: i64,
    },
    /// Nothing: it is registered, on this lease.
    Stands,
    /// Give up: this one is the successor.
    Superseded {
        /// Whose the key is.
        by: Stamp,
    },
}

/// Whether `own` may write over what was found, on the lease `lease`. `again` is whether the content is to be written anew.
pub(super) fn judge(own: &Stamp, lease: i64, found: &Found, again: bool) -> Verdict {
    let write = Verdict::Write { if_mod_revision: found.mod_revision() };
    match found {
        Found::Nothing | Found::Unreadable { .. } => write,
        Found::Registration { stamp, lease: on, leaving, .. } => {
            if own.is_same(stamp) {
                return if *on == lease && !again && !*leaving { Verdict::Stands } else { write };
            }
            if stamp > own { Verdict::Superseded { by: stamp.clone() } } else { write }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(incarnation: i64) -> Stamp {
        let salt = u64::try_from(incarnation).unwrap_or(0);
        Stamp::new(incarnation, [salt, 7])
    }

    fn at(stamp: &Stamp, mod_revision: i64, lease: i64) -> Found {
        Found::Registration { stamp: stamp.clone(), mod_revision, lease, leaving: false }
    }

    #[test]
    fn a_predecessor_gives_way_to_its_successor_and_never_the_other_way_round() {
        assert_eq!(judge(&of(10), 1, &at(&of(15), 16, 2), false), Verdict::Superseded { by: of(15) });
        assert_eq!(judge(&of(15), 2, &at(&of(10), 40, 1), false), Verdict::Write { if_mod_revision: 40 });
    }

    #[test]
    fn what_was_written_by_hand_or_cannot_be_read_is_written_over() {
        assert_eq!(judge(&of(3), 1, &Found::Nothing, false), Verdict::Write { if_mod_revision: 0 });
        let by_hand = at(&Stamp::default(), 9, 0);
        assert_eq!(judge(&of(3), 1, &by_hand, false), Verdict::Write { if_mod_revision: 9 });
        assert_eq!(
            judge(&of(3), 1, &Found::Unreadable { mod_revision: 5 }, false),
            Verdict::Write { if_mod_revision: 5 }
        );
    }

    #[test]
    fn an_own_key_is_written_again_on_another_lease_only() {
        assert_eq!(judge(&of(3), 7, &at(&of(3), 4, 7), false), Verdict::Stands);
        assert_eq!(judge(&of(3), 7, &at(&of(3), 4, 7), true), Verdict::Write { if_mod_revision: 4 });
        assert_eq!(judge(&of(3), 8, &at(&of(3), 4, 7), false), Verdict::Write { if_mod_revision: 4 });
    }

    /// A step of a process of the model below.
    #[derive(Clone, Debug)]
    enum Step {
        /// The process with this index reads the key (and the revision, if it is its first time).
        Read(usize),
        /// It acts on what it read last, by a transaction that compares the mod revision.
        Act(usize),
        /// The key goes: its lease has ended.
        Expire,
        /// Something else is written to the store.
        Other,
    }

    fn step(processes: usize) -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..processes).prop_map(Step::Read),
            4 => (0..processes).prop_map(Step::Act),
            1 => Just(Step::Expire),
            1 => Just(Step::Other),
        ]
    }

    #[derive(Clone, Debug, Default)]
    struct Process {
        own: Option<Stamp>,
        read: Option<Found>,
        written: Option<i64>,
        superseded: bool,
    }

    #[derive(Debug)]
    struct Store {
        revision: i64,
        key: Found,
    }

    impl Store {
        fn step(&mut self, step: &Step, processes: &mut [Process]) {
            match step {
                Step::Other => self.revision += 1,
                Step::Expire => {
                    if self.key != Found::Nothing {
                        self.revision += 1;
                        self.key = Found::Nothing;
                    }
                }
                Step::Read(index) => {
                    let process = &mut processes[*index];
                    // Before its first write a process takes the latest revision for its incarnation at each reading.
                    if process.written.is_none() {
                        process.own = Some(Stamp::new(self.revision, [u64::try_from(*index).unwrap(), 1]));
                    }
                    process.read = Some(self.key.clone());
                }
                Step::Act(index) => self.act(*index, &mut processes[*index]),
            }
        }

        fn act(&mut self, index: usize, process: &mut Process) {
            let (Some(own), Some(read)) = (process.own.clone(), process.read.take()) else { return };
            if process.superseded {
                return;
            }
            let lease = i64::try_from(index).unwrap() + 1;
            match judge(&own, lease, &read, false) {
                Verdict::Stands => {}
                Verdict::Superseded { .. } => process.superseded = process.written.is_some(),
                Verdict::Write { if_mod_revision } => {
                    if self.key.mod_revision() == if_mod_revision {
                        self.revision += 1;
                        self.key = at(&own, self.revision, lease);
                        process.written.get_or_insert(self.revision);
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_happens_one_process_keeps_the_key_and_it_is_the_successor_of_the_others(steps in prop::collection::vec(step(4), 0..60)) {
            let mut store = Store { revision: 1, key: Found::Nothing };
            let mut processes = vec![Process::default(); 4];
            for step in &steps {
                store.step(step, &mut processes);
            }
            let written: Vec<_> = (0..4).filter(|index| processes[*index].written.is_some()).collect();
            let Some(last) = written.iter().copied().max_by_key(|index| processes[*index].own.clone()) else { return Ok(()) };
            // Who has read after another had written for the first time is the greater one.
            for (one, other) in written.iter().flat_map(|one| written.iter().map(move |other| (*one, *other))) {
                let (one, other) = (&processes[one], &processes[other]);
                if one.own.as_ref().map(|own| own.incarnation) >= other.written {
                    prop_assert!(one.own > other.own);
                }
            }
            prop_assert!(!processes[last].superseded);
            // All that registered go on trying for as long as anything changes: the last one ends up with the key.
            for _ in 0..4 {
                for index in &written {
                    store.step(&Step::Read(*index), &mut processes);
                    store.step(&Step::Act(*index), &mut processes);
                }
            }
            let Found::Registration { stamp, .. } = &store.key else { panic!("nobody is registered") };
            prop_assert!(stamp.is_same(processes[last].own.as_ref().unwrap()));
            for index in written {
                prop_assert_eq!(processes[index].superseded, index != last);
            }
        }
    }
}
