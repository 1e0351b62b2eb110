//! A member that is started with an empty data directory. It must end with instructions, since it might deny what it once
//! acknowledged. Its data was only moved aside; healing puts it back and starts the member again.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::chaos::field::Field;

/// A member that must not run has this long to find out.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(20);
/// What it must speak of.
const WORDS: [&str; 2] = ["empty", "remove"];

/// See the module's header.
#[derive(Debug)]
pub(super) struct Wipe {
    pub(super) victim: usize,
    kept: PathBuf,
}

impl Wipe {
    pub(super) fn draw(field: &Field, rng: &mut StdRng) -> Wipe {
        let victim = rng.random_range(0..field.size());
        let kept = field.data_dir(victim).with_extension("kept");
        Wipe { victim, kept }
    }

    pub(super) async fn begin(&self, field: &mut Field) -> Result<()> {
        field.kill(self.victim)?;
        fs::rename(field.data_dir(self.victim), &self.kept)?;
        field.allow_end(self.victim);
        field.ensure_running(self.victim).await
    }

    pub(super) async fn heal(self, field: &mut Field) -> Result<()> {
        field.expect_refusal(self.victim, REFUSAL_PATIENCE, &WORDS).await?;
        let data = field.data_dir(self.victim);
        match fs::remove_dir_all(&data) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        fs::rename(&self.kept, &data)?;
        field.ensure_running(self.victim).await?;
        field.forbid_end(self.victim);
        Ok(())
    }
}
