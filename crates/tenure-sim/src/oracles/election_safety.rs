//! A term has one leader at most.

use std::collections::BTreeMap;

use super::{Breach, Look};

/// The leader of each term.
#[derive(Debug, Default)]
pub struct ElectionSafety(BTreeMap<u64, usize>);

impl ElectionSafety {
    pub(super) fn look(&mut self, look: &Look) -> Option<Breach> {
        if !look.leads {
            return None;
        }
        let known = *self.0.entry(look.term).or_insert(look.place);
        (known != look.place).then(|| Breach {
            oracle: "election safety",
            text: format!("n{} and n{} both lead in term {}", known + 1, look.place + 1, look.term),
        })
    }

    pub(super) fn terms(&self) -> u64 {
        self.0.len() as u64
    }
}
