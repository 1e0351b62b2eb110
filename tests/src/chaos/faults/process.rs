//! Processes that die and processes that stand still.

use anyhow::Result;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::Kind;
use crate::chaos::field::Field;

/// SIGKILL; healed by a new start on the same data.
#[derive(Debug)]
pub(super) struct Kill {
    pub(super) victims: Vec<usize>,
}

impl Kill {
    pub(super) fn draw(kind: Kind, field: &Field, rng: &mut StdRng) -> Kill {
        let mut all: Vec<usize> = (0..field.size()).collect();
        all.shuffle(rng);
        let count = match kind {
            Kind::KillAll => field.size(),
            Kind::KillMajority => field.size() / 2 + 1,
            _ => 1,
        };
        // The leader is among a majority, so that the others must find a new one when it comes back.
        if kind != Kind::KillOne
            && let Some(leader) = field.leader()
        {
            all.retain(|at| *at != leader);
            all.insert(0, leader);
        }
        all.truncate(count);
        Kill { victims: all }
    }

    pub(super) fn begin(&self, field: &mut Field) -> Result<()> {
        self.victims.iter().try_for_each(|at| field.kill(*at))
    }

    pub(super) async fn heal(self, field: &mut Field) -> Result<()> {
        for at in self.victims {
            field.ensure_running(at).await?;
        }
        Ok(())
    }
}

/// SIGSTOP; healed by SIGCONT.
#[derive(Debug)]
pub(super) struct Pause {
    pub(super) victim: usize,
}

impl Pause {
    /// Every second time the leader, who has more to lose by it.
    pub(super) fn draw(field: &Field, rng: &mut StdRng) -> Pause {
        let any = rng.random_range(0..field.size());
        let victim = field.leader().filter(|_| rng.random_ratio(1, 2)).unwrap_or(any);
        Pause { victim: field.usable(victim) }
    }

    pub(super) fn begin(&self, field: &mut Field) -> Result<()> {
        field.pause(self.victim)
    }

    pub(super) async fn heal(&self, field: &mut Field) -> Result<()> {
        field.resume(self.victim).await
    }
}
