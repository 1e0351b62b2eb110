//! `lock` and `try-lock`: holding a lock as long as this process runs, or as long as a command does.
//!
//! The command may not outlive the lock. It is asked to end when renewals of the lease are overdue, and killed before the
//! lease can be gone; whoever takes the lock away ends it at once. Only what it sent before that can arrive later: that
//! is what the token is for.

use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::pin::{Pin, pin};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustix::process::Signal;
use serde::Serialize;
use tenure_proto::tenure::v1 as pb;
use tenure_proto::tenure::v1::lock_mode::{Mode, Semaphore};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::{Session, locks};
use crate::arguments::{ClaimArgs, LockArgs, LockCommand, PatienceArgs, TryLockArgs};
use crate::client::{ClientError, Refusal};
use crate::failure::Failure;
use crate::ids::{LeaseId, Revision};
use crate::locking::{
    BootTime, Claim, CommandGroup, Granted, Notes, Signals, Standing, Tenancy, Unclaimed, Wanted, Watchdog, holds,
    key_gone, renew,
};
use crate::output::Report;
use crate::stop;
use crate::text::Blob;

const TTL_DEFAULT: Duration = Duration::from_secs(10);
/// Leases that are asked for when no answer comes. Those that were granted all the same end by themselves.
const GRANTS_MAX: u32 = 3;
/// The most that a lease can be told about whom it is for.
const LEASE_TEXT_CHARS_MAX: usize = 200;
/// For tidying up after the lock was lost: most likely nobody answers.
const LOST_PATIENCE: Duration = Duration::from_secs(1);

pub(super) async fn lock(session: &Session, args: &LockArgs) -> Result<(), Failure> {
    match &args.below {
        Some(_) if args.is_claim() => {
            let words =
                "`lock show` and `lock why` take a name and nothing else; --name takes a lock that is called so";
            Err(Failure::Usage(words.to_owned()))
        }
        Some(LockCommand::Show { name }) => locks::show(session, name).await,
        Some(LockCommand::Why { name, limit }) => locks::why(session, name, *limit).await,
        None => {
            let name = args.wanted().ok_or_else(|| Failure::Usage("which lock?".to_owned()))?;
            take(session, name, &args.patience, &args.claim, &args.run).await
        }
    }
}

pub(super) async fn try_lock(session: &Session, args: &TryLockArgs) -> Result<(), Failure> {
    let patience = PatienceArgs { at_once: true, ..PatienceArgs::default() };
    take(session, &args.name, &patience, &args.claim, &args.run).await
}

async fn take(
    session: &Session,
    name: &OsString,
    patience: &PatienceArgs,
    claim: &ClaimArgs,
    run: &[OsString],
) -> Result<(), Failure> {
    let style = session.output.style;
    let wanted = Wanted {
        name: style.read(name).map_err(Failure::Usage)?,
        mode: mode(claim),
        owner: claim.owner.clone().unwrap_or_else(this_process),
        metadata: claim.metadata.as_ref().map_or(Ok(Bytes::new()), |text| style.read(text)).map_err(Failure::Usage)?,
        delay: claim.delay.unwrap_or_default(),
        at_once: patience.at_once,
    };
    let ttl = claim.ttl.unwrap_or(TTL_DEFAULT);
    let wait = if patience.at_once { Some(session.client.timeouts().command) } else { patience.wait };
    let until = wait.map(|wait| Instant::now() + wait);
    let notes = Notes::new(session.output);
    let mut signals = Signals::new().map_err(cannot_look)?;
    Taking { session, wanted, ttl, until, wait: patience.wait, run, notes }.all(&mut signals).await
}

fn mode(claim: &ClaimArgs) -> Option<pb::LockMode> {
    let mode = match claim.limit {
        Some(limit) => Mode::Semaphore(Semaphore { permits: claim.permits.unwrap_or(1), limit }),
        None if claim.shared => Mode::Shared(true),
        None => return None,
    };
    Some(pb::LockMode { mode: Some(mode) })
}

fn this_process() -> String {
    format!("{}:{}", rustix::system::uname().nodename().to_string_lossy(), std::process::id())
}

fn cannot_look(error: impl Into<io::Error>) -> Failure {
    Failure::Local(format!("cannot look after a lock: {}", error.into()))
}

/// One run of `lock`.
struct Taking<'a> {
    session: &'a Session,
    wanted: Wanted,
    ttl: Duration,
    until: Option<Instant>,
    /// As the user said it.
    wait: Option<Duration>,
    /// The command; none to hold the lock until somebody stops this process.
    run: &'a [OsString],
    notes: Notes,
}

/// A lease of one's own.
struct Seat {
    lease: LeaseId,
    tenancy: watch::Sender<Tenancy>,
}

/// How the asking for a lock ended.
enum Asked {
    Granted(Granted),
    Interrupted(Signal),
    /// Nobody would learn of it.
    ReaderGone,
    Not(Unclaimed),
    /// Without a clock and an alarm nothing can be held.
    Blind(io::Error),
}

impl Taking<'_> {
    async fn all(&self, signals: &mut Signals) -> Result<(), Failure> {
        loop {
            let seat = tokio::select! {
                seat = self.sit() => seat?,
                signal = signals.next() => return Err(interrupted(signal)),
            };
            let mut claim = Claim::new(&self.session.client, &self.wanted, seat.lease, self.until);
            let asked = self.ask(&mut claim, &seat, signals).await;
            match asked {
                Asked::Granted(granted) => {
                    let held = self.hold(&seat, &granted, signals).await;
                    let is_lost = matches!(held, Err(Failure::LockLost(_)));
                    self.tidy(self.let_go(&seat, &granted, is_lost), signals).await;
                    return held;
                }
                Asked::Not(Unclaimed::LeaseGone) => {
                    self.notes.tell("the lease ended while it waited; it waits anew, behind all others");
                }
                asked => {
                    self.tidy(self.give_up(&seat, &claim), signals).await;
                    return Err(self.ungranted(asked).await);
                }
            }
        }
    }

    /// Gets a lease.
    async fn sit(&self) -> Result<Seat, Failure> {
        let text: String = format!("lock {}", self.shown_name()).chars().take(LEASE_TEXT_CHARS_MAX).collect();
        let holder = pb::LeaseHolder { name: self.wanted.owner.clone(), text };
        let ttl_ms = u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX);
        let request = pb::LeaseGrantRequest { id: 0, ttl_ms, holder: Some(holder) };
        for tries_left in (0..GRANTS_MAX).rev() {
            let sent = BootTime::now();
            match self.session.client.lease_grant_held(request.clone()).await {
                Ok(answer) => {
                    let tenancy = Tenancy::new(Duration::from_millis(answer.ttl_ms), sent);
                    return Ok(Seat { lease: LeaseId(answer.id), tenancy: watch::Sender::new(tenancy) });
                }
                Err(error @ ClientError::Unknown(_)) if tries_left > 0 => {
                    self.notes.tell(&format!("asking for another lease: {error}"));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Failure::Client(ClientError::NoAnswer(Vec::new())))
    }

    async fn ask(&self, claim: &mut Claim<'_>, seat: &Seat, signals: &mut Signals) -> Asked {
        let client = &self.session.client;
        tokio::select! {
            asked = claim.acquire(&self.notes) => asked.map_or_else(Asked::Not, Asked::Granted),
            renewed = renew(client, seat.lease, &seat.tenancy, &self.notes) => match renewed {
                Ok(()) => Asked::Not(Unclaimed::LeaseGone),
                Err(error) => Asked::Blind(error),
            },
            signal = signals.next() => Asked::Interrupted(signal),
            () = stop::reader_gone(), if self.run.is_empty() => Asked::ReaderGone,
        }
    }

    async fn hold(&self, seat: &Seat, granted: &Granted, signals: &mut Signals) -> Result<(), Failure> {
        let client = &self.session.client;
        let keeping = async {
            tokio::select! {
                renewed = renew(client, seat.lease, &seat.tenancy, &self.notes) => match renewed {
                    Ok(()) => "its lease has ended".to_owned(),
                    Err(error) => cannot_look(error).to_string(),
                },
                what = key_gone(client, granted, seat.lease) => what.to_owned(),
            }
        };
        let dog = Watchdog::new(seat.tenancy.subscribe()).map_err(cannot_look)?;
        if self.run.is_empty() {
            self.stay(seat, granted, pin!(keeping), dog, signals).await
        } else {
            self.supervise(seat, granted, pin!(keeping), dog, signals).await
        }
    }

    /// Holds the lock until this process is to stop.
    async fn stay(
        &self,
        seat: &Seat,
        granted: &Granted,
        mut keeping: Pin<&mut impl Future<Output = String>>,
        mut dog: Watchdog,
        signals: &mut Signals,
    ) -> Result<(), Failure> {
        let style = self.session.output.style;
        let (name, key) = (style.blob(&self.wanted.name), style.blob(&granted.key));
        self.session.output.show(&Held { name, key, token: granted.token, lease: seat.lease })?;
        let mut reader_gone = pin!(stop::reader_gone());
        loop {
            tokio::select! {
                biased;
                why = &mut keeping => return Err(self.lost(granted, &why, "").await),
                standing = dog.change() => match standing.map_err(cannot_look)? {
                    Standing::Over => return Err(self.lost(granted, &overdue(&dog), "").await),
                    Standing::Jeopardy => self.notes.tell(&format!("in danger: {}", overdue(&dog))),
                    Standing::Safe => self.notes.tell("renewed again"),
                },
                _ = signals.next() => return Ok(()),
                () = &mut reader_gone => return Ok(()),
            }
        }
    }

    /// Runs the command, and ends it before the lock can be lost.
    async fn supervise(
        &self,
        seat: &Seat,
        granted: &Granted,
        mut keeping: Pin<&mut impl Future<Output = String>>,
        mut dog: Watchdog,
        signals: &mut Signals,
    ) -> Result<(), Failure> {
        tokio::select! {
            safe = safe(&mut dog) => match safe.map_err(cannot_look)? {
                true => {}
                false => return Err(self.lost(granted, &overdue(&dog), "; the command was not run").await),
            },
            why = &mut keeping => return Err(self.lost(granted, &why, "; the command was not run").await),
            signal = signals.next() => return Err(interrupted(signal)),
        }
        let mut group = CommandGroup::start(self.run, &variables(seat, granted, dog.now()))?;
        let (mut danger, mut loss) = (None, None);
        let code = loop {
            tokio::select! {
                biased;
                why = &mut keeping, if loss.is_none() => {
                    group.send(Signal::KILL);
                    loss = Some(why);
                }
                standing = dog.change(), if loss.is_none() => match standing {
                    Ok(Standing::Jeopardy) => {
                        group.send(Signal::TERM);
                        let words = overdue(&dog);
                        self.notes.tell(&format!("in danger: {words}; the command is asked to end"));
                        danger = Some(words);
                    }
                    Ok(Standing::Safe) => self.notes.tell("renewed again"),
                    Ok(Standing::Over) => {
                        group.send(Signal::KILL);
                        loss = Some(overdue(&dog));
                    }
                    Err(error) => {
                        group.send(Signal::KILL);
                        loss = Some(cannot_look(error).to_string());
                    }
                },
                code = group.ended() => break code,
                signal = signals.next() => group.send(signal),
            }
        };
        // Nothing of it may be there when somebody else gets the lock.
        let cleared = tokio::select! {
            () = group.clear() => true,
            why = &mut keeping, if loss.is_none() => {
                loss = Some(why);
                false
            }
        };
        if !cleared {
            group.clear().await;
        }
        match (loss, danger, code) {
            (Some(why), _, _) => Err(self.lost(granted, &why, "; the command was killed").await),
            (None, Some(why), _) => {
                let name = self.shown_name();
                Err(Failure::LockLost(format!(
                    "lock {name} was about to be lost: {why}; the command was ended in time"
                )))
            }
            (None, None, 0) => Ok(()),
            (None, None, code) => Err(Failure::Passed(code)),
        }
    }

    fn shown_name(&self) -> String {
        self.session.output.style.blob(&self.wanted.name).line()
    }

    async fn lost(&self, granted: &Granted, why: &str, then: &str) -> Failure {
        let told = timeout(LOST_PATIENCE, locks::end_of(self.session, &self.wanted.name, granted)).await;
        let told = told.ok().flatten().map_or_else(String::new, |told| format!(" ({told})"));
        Failure::LockLost(format!("lock {} is lost: {why}{told}{then}", self.shown_name()))
    }

    async fn ungranted(&self, asked: Asked) -> Failure {
        let name = self.shown_name();
        match asked {
            Asked::ReaderGone => Failure::ClosedPipe,
            Asked::Blind(error) => cannot_look(error),
            Asked::Interrupted(signal) => interrupted(signal),
            Asked::Not(Unclaimed::Busy(holder)) => {
                let wait = self.wait.map_or_else(String::new, |wait| format!(" after {wait:?}"));
                let holder = match holder {
                    Some(holder) => Some(*holder),
                    None => timeout(LOST_PATIENCE, locks::oldest(self.session, &self.wanted.name)).await.ok().flatten(),
                };
                let holder = holder.map_or_else(String::new, |holder| format!(": {}", holds(&holder)));
                Failure::LockBusy(format!("lock {name} is busy{wait}{holder}"))
            }
            Asked::Not(Unclaimed::TakenAway) => {
                Failure::Ended(format!("somebody ended this process's waiting for lock {name}"))
            }
            Asked::Not(Unclaimed::Failed(error)) => error.into(),
            Asked::Not(Unclaimed::LeaseGone) | Asked::Granted(_) => Failure::Ended(format!("no lock {name}")),
        }
    }

    /// Lets go of what is held.
    async fn let_go(&self, seat: &Seat, granted: &Granted, is_lost: bool) {
        if is_lost {
            // Most likely it is gone or cannot be reached, and it ends by itself.
            drop(timeout(LOST_PATIENCE, self.session.client.lease_revoke(seat.lease)).await);
            return;
        }
        let (lease, token) = (seat.lease.0, granted.token.0);
        let request = pb::LockReleaseRequest { name: self.wanted.name.clone(), lease, token, number: 0 };
        let released = self.session.client.lock_release(request).await;
        self.stand_up(seat, released).await;
    }

    /// Leaves nothing behind of a request that is not wanted any more.
    async fn give_up(&self, seat: &Seat, claim: &Claim<'_>) {
        let cancelled = claim.cancel().await;
        self.stand_up(seat, cancelled).await;
    }

    /// Ends the lease, and with it whatever may be left.
    async fn stand_up(&self, seat: &Seat, before: Result<(), ClientError>) {
        match self.session.client.lease_revoke(seat.lease).await {
            Ok(_) => {}
            Err(ClientError::Refused(refused)) if refused.refusal == Refusal::LeaseNotFound => {}
            Err(error) if before.is_err() => {
                self.notes.tell(&format!("it ends by itself within {} s: {error}", self.ttl.as_secs().max(1)));
            }
            // What the lease was for is gone already.
            Err(_) => {}
        }
    }

    /// Does it unless somebody is tired of waiting.
    async fn tidy(&self, work: impl Future<Output = ()>, signals: &mut Signals) {
        tokio::select! {
            () = work => {}
            _ = signals.next() => self.notes.tell(&format!("what is left ends within {} s", self.ttl.as_secs().max(1))),
        }
    }
}

/// Waits until a command could be run: whether there is time for it.
async fn safe(dog: &mut Watchdog) -> io::Result<bool> {
    loop {
        match dog.now().standing(BootTime::now()) {
            Standing::Safe => return Ok(true),
            Standing::Over => return Ok(false),
            Standing::Jeopardy => drop(dog.change().await?),
        }
    }
}

fn overdue(dog: &Watchdog) -> String {
    let (age, ttl) = (dog.now().age(BootTime::now()), dog.now().ttl());
    format!("its lease of {:.1} s was not renewed for {:.1} s", ttl.as_secs_f64(), age.as_secs_f64())
}

fn interrupted(signal: Signal) -> Failure {
    Failure::Passed(u8::try_from(128 + signal.as_raw()).unwrap_or(u8::MAX))
}

/// What a command can know of its lock.
fn variables(seat: &Seat, granted: &Granted, tenancy: Tenancy) -> [(&'static str, OsString); 4] {
    let left = tenancy.deadline().since(BootTime::now());
    let deadline = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() + left;
    [
        ("TENURE_TOKEN", granted.token.to_string().into()),
        ("TENURE_DEADLINE", deadline.as_millis().to_string().into()),
        ("TENURE_LOCK_KEY", OsString::from_vec(granted.key.to_vec())),
        ("TENURE_LEASE", seat.lease.to_string().into()),
    ]
}

/// A lock that this process holds.
#[derive(Debug, Serialize)]
struct Held {
    name: Blob,
    key: Blob,
    token: Revision,
    lease: LeaseId,
}

impl Report for Held {
    fn human(&self) -> String {
        format!("{} is held: token {}, key {}\n", self.name.line(), self.token, self.key.line())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing::{human, json};
    use crate::text::Style;

    #[test]
    fn a_lock_that_is_held_is_a_line() {
        let style = Style::default();
        let (name, key) = (style.blob(&"a\n".into()), style.blob(&"a\n/1f".into()));
        let held = Held { name, key, token: Revision(61), lease: LeaseId(31) };
        assert_eq!(human(&held), "a\\n is held: token 61, key a\\n/1f\n");
        let expected = r#"{"name":"a\n","key":"a\n/1f","token":61,"lease":"000000000000001f"}"#;
        assert_eq!(json(&held), format!("{expected}\n"));
    }
}
