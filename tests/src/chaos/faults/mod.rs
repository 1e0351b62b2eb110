//! The kinds of faults, and one fault as it is done to the field and taken back.
//!
//! Each fault is a small type of its own with `begin` and `heal`. Healing must work whatever else happened to the node
//! meanwhile: it may have died of another fault.

mod clock;
mod disk;
mod network;
mod process;
mod wipe;

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::field::Field;
use clock::Jump;
use disk::Failpoint;
use network::Cut;
use process::{Kill, Pause};
use wipe::Wipe;

/// What can be done to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    KillOne,
    KillLeader,
    KillMajority,
    KillAll,
    /// For less than the election timeout.
    PauseShort,
    /// For more than the election timeout.
    PauseLong,
    /// Two sides that do not hear each other.
    Partition,
    /// One side hears the other, but not the other way round.
    PartitionOneWay,
    /// Two sides that only have one member in common.
    PartitionBridge,
    FsyncSlow,
    FsyncFails,
    DiskFull,
    /// The process ends at a point drawn from those that the server has.
    AbortAtFailpoint,
    ClockJump,
    /// A node starts with an empty directory; it must refuse.
    Wipe,
}

impl Kind {
    pub const ALL: [Kind; 15] = [
        Kind::KillOne,
        Kind::KillLeader,
        Kind::KillMajority,
        Kind::KillAll,
        Kind::PauseShort,
        Kind::PauseLong,
        Kind::Partition,
        Kind::PartitionOneWay,
        Kind::PartitionBridge,
        Kind::FsyncSlow,
        Kind::FsyncFails,
        Kind::DiskFull,
        Kind::AbortAtFailpoint,
        Kind::ClockJump,
        Kind::Wipe,
    ];

    /// Its word on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::KillOne => "kill-one",
            Kind::KillLeader => "kill-leader",
            Kind::KillMajority => "kill-majority",
            Kind::KillAll => "kill-all",
            Kind::PauseShort => "pause-short",
            Kind::PauseLong => "pause-long",
            Kind::Partition => "partition",
            Kind::PartitionOneWay => "partition-one-way",
            Kind::PartitionBridge => "partition-bridge",
            Kind::FsyncSlow => "fsync-slow",
            Kind::FsyncFails => "fsync-fails",
            Kind::DiskFull => "disk-full",
            Kind::AbortAtFailpoint => "abort",
            Kind::ClockJump => "clock",
            Kind::Wipe => "wipe",
        }
    }

    /// Whether it is done from inside the server, which must have been built for it.
    pub fn needs_faults_port(self) -> bool {
        match self {
            Kind::KillOne
            | Kind::KillLeader
            | Kind::KillMajority
            | Kind::KillAll
            | Kind::PauseShort
            | Kind::PauseLong
            | Kind::Wipe => false,
            Kind::Partition
            | Kind::PartitionOneWay
            | Kind::PartitionBridge
            | Kind::FsyncSlow
            | Kind::FsyncFails
            | Kind::DiskFull
            | Kind::AbortAtFailpoint
            | Kind::ClockJump => true,
        }
    }

    /// How long it lasts. The election timeout is a second.
    pub fn lasts_ms(self) -> std::ops::Range<u64> {
        match self {
            Kind::PauseShort => 200..800,
            Kind::PauseLong => 1_500..5_000,
            Kind::KillAll | Kind::KillMajority => 300..2_000,
            Kind::KillOne | Kind::KillLeader => 500..4_000,
            Kind::Partition | Kind::PartitionOneWay | Kind::PartitionBridge => 2_000..5_500,
            Kind::FsyncSlow => 2_000..5_000,
            Kind::FsyncFails | Kind::DiskFull | Kind::AbortAtFailpoint => 1_500..3_500,
            Kind::ClockJump => 100..500,
            Kind::Wipe => 1_000..2_000,
        }
    }

    /// What of a node it needs. Two faults go together if they need different things.
    fn family(self) -> u8 {
        match self {
            Kind::KillOne | Kind::KillLeader | Kind::KillMajority | Kind::KillAll => 0,
            Kind::PauseShort | Kind::PauseLong => 1,
            Kind::Partition | Kind::PartitionOneWay | Kind::PartitionBridge => 2,
            Kind::FsyncSlow | Kind::FsyncFails | Kind::DiskFull | Kind::AbortAtFailpoint => 3,
            Kind::ClockJump => 4,
            Kind::Wipe => 5,
        }
    }

    /// Whether both can be there at once. A wiped node finds out from all of its peers, so these must run and be heard;
    /// anything else goes together.
    pub fn goes_with(self, other: Kind) -> bool {
        let hinders_wiped = |kind: Kind| !matches!(kind, Kind::FsyncSlow | Kind::ClockJump | Kind::PauseShort);
        match (self, other) {
            (Kind::Wipe, Kind::Wipe) => false,
            (Kind::Wipe, kind) | (kind, Kind::Wipe) => !hinders_wiped(kind),
            _ => self.family() != other.family(),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Kind::ALL.into_iter().find(|kind| kind.name() == text);
        let Some(found) = found else {
            bail!("there is no fault {text:?}; there are: {}", Kind::ALL.map(Kind::name).join(", "));
        };
        Ok(found)
    }
}

/// A fault that is there, and what is needed to take it back.
#[derive(Debug)]
pub struct Fault {
    /// The members that it is done to.
    pub targets: Vec<usize>,
    /// What exactly is done, for people.
    pub text: String,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Kill(Kill),
    Pause(Pause),
    Cut(Cut),
    Failpoint(Failpoint),
    Jump,
    Wipe(Wipe),
}

impl Fault {
    /// Draws whom it hits and how, and does it.
    pub async fn begin(kind: Kind, choice: u64, field: &mut Field) -> Result<Fault> {
        let mut rng = StdRng::seed_from_u64(choice);
        let (targets, text, form) = match kind {
            Kind::KillOne | Kind::KillLeader | Kind::KillMajority | Kind::KillAll => {
                let kill = Kill::draw(kind, field, &mut rng);
                kill.begin(field)?;
                (kill.victims.clone(), "SIGKILL".to_owned(), Form::Kill(kill))
            }
            Kind::PauseShort | Kind::PauseLong => {
                let pause = Pause::draw(field, &mut rng);
                pause.begin(field)?;
                (vec![pause.victim], "SIGSTOP".to_owned(), Form::Pause(pause))
            }
            Kind::Partition | Kind::PartitionOneWay | Kind::PartitionBridge => {
                let cut = Cut::draw(kind, field, &mut rng);
                cut.begin(field).await?;
                (cut.side.clone(), cut.text(field), Form::Cut(cut))
            }
            Kind::FsyncSlow | Kind::FsyncFails | Kind::DiskFull | Kind::AbortAtFailpoint => {
                let failpoint = Failpoint::draw(kind, field, &mut rng);
                failpoint.begin(field).await?;
                (vec![failpoint.victim], failpoint.text(), Form::Failpoint(failpoint))
            }
            Kind::ClockJump => {
                let jump = Jump::draw(field, &mut rng);
                jump.begin(field).await?;
                (vec![jump.victim], jump.text(), Form::Jump)
            }
            Kind::Wipe => {
                let wipe = Wipe::draw(field, &mut rng);
                wipe.begin(field).await?;
                (vec![wipe.victim], "data moved aside".to_owned(), Form::Wipe(wipe))
            }
        };
        Ok(Fault { targets, text, form })
    }

    /// Takes it back.
    pub async fn heal(self, field: &mut Field) -> Result<()> {
        match self.form {
            Form::Kill(kill) => kill.heal(field).await,
            Form::Pause(pause) => pause.heal(field).await,
            Form::Cut(cut) => cut.heal(field).await,
            Form::Failpoint(failpoint) => failpoint.heal(field).await,
            // A clock is never put back.
            Form::Jump => Ok(()),
            Form::Wipe(wipe) => wipe.heal(field).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_name_and_goes_with_others_both_ways() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse::<Kind>().unwrap(), kind);
            assert!(!kind.goes_with(kind));
            for other in Kind::ALL {
                assert_eq!(kind.goes_with(other), other.goes_with(kind));
            }
            assert!(Kind::ALL.iter().any(|other| kind.goes_with(*other)));
        }
    }
}
