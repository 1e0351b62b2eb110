//! A member's clock jumps ahead, as that of a machine does that was asleep.

use std::time::Duration;

use anyhow::Result;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::chaos::field::Field;

/// Beyond some election timeouts and the longest TTL of the workloads nothing new happens.
const JUMP_MS: std::ops::Range<u64> = 300..8_000;

/// A clock that is ahead from now on; never healed, as clocks only go forward.
#[derive(Debug)]
pub(super) struct Jump {
    pub(super) victim: usize,
    by: Duration,
}

impl Jump {
    pub(super) fn draw(field: &Field, rng: &mut StdRng) -> Jump {
        let victim = field.usable(rng.random_range(0..field.size()));
        Jump { victim, by: Duration::from_millis(rng.random_range(JUMP_MS)) }
    }

    pub(super) fn text(&self) -> String {
        format!("{} ms ahead", self.by.as_millis())
    }

    pub(super) async fn begin(&self, field: &mut Field) -> Result<()> {
        // It may be down by another fault.
        field.ensure_running(self.victim).await?;
        field.jump_clock(self.victim, self.by).await
    }
}
