//! Plays the scenes of a script on the field, and keeps what was really done, when, and to whom.

use std::time::Duration;

use anyhow::Result;
use tenure_history::Moment;
use tenure_history::report;
use tokio::time::{Instant, sleep, sleep_until};

use super::faults::{Fault, Kind};
use super::field::Field;
use super::script::{Scene, Step};

#[derive(Clone, Copy)]
enum Turn {
    Begin,
    Heal,
}

/// Plays one scene and says what was done; at its end all its faults are healed.
pub async fn play(scene: &Scene, field: &mut Field, done: &mut Vec<report::Fault>) -> Result<()> {
    sleep(scene.quiet).await;
    let began = Instant::now();
    let mut turns: Vec<(Duration, usize, Turn)> = Vec::new();
    for (at, step) in scene.steps.iter().enumerate() {
        turns.push((step.begin, at, Turn::Begin));
        turns.push((step.begin + step.lasts, at, Turn::Heal));
    }
    turns.sort_by_key(|(when, ..)| *when);
    let mut there: Vec<Option<(Fault, Moment)>> = scene.steps.iter().map(|_| None).collect();
    for (when, at, turn) in turns {
        sleep_until(began + when).await;
        let Step { kind, choice, .. } = scene.steps[at];
        match turn {
            Turn::Begin => {
                let since = field.recorder.now();
                match Fault::begin(kind, choice, field).await {
                    Ok(fault) => there[at] = Some((fault, since)),
                    // Another fault was faster, say. If no fault of the kind can ever be done, the run is void.
                    Err(error) => field.note(None, format!("{kind} could not be done: {error:#}")),
                }
            }
            Turn::Heal => {
                let Some((fault, since)) = there[at].take() else { continue };
                done.push(heal(kind, fault, since, field).await?);
            }
        }
    }
    field.settle().await
}

async fn heal(kind: Kind, fault: Fault, since: Moment, field: &mut Field) -> Result<report::Fault> {
    let names: Vec<&str> = fault.targets.iter().map(|at| field.name(*at)).collect();
    let (target, text) = (names.join(" "), fault.text.clone());
    fault.heal(field).await?;
    Ok(report::Fault::new(kind.name(), target, since..field.recorder.now(), text))
}
