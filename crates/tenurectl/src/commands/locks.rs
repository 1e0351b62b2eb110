//! `locks`, `lock show`, `lock why` and `unlock`: looking at locks, and taking them away.

use std::ffi::OsStr;

use bytes::Bytes;
use serde::Serialize;
use tenure_proto::tenure::v1 as pb;
use tenure_proto::tenure::v1::lock_mode::Mode;
use tenure_proto::tenure::v1::lock_transition::{Client, Kind};

use super::Session;
use super::view::{count, span};
use crate::arguments::{LocksArgs, UnlockArgs};
use crate::failure::Failure;
use crate::ids::{LeaseId, MemberId, Revision};
use crate::locking::{Granted, who};
use crate::output::Report;
use crate::table::Table;
use crate::text::{Blob, Style, one_line};

/// How far back to look for the end of a lock that was lost a moment ago.
const RECENT: u32 = 100;

pub(super) async fn list(session: &Session, args: &LocksArgs) -> Result<(), Failure> {
    let style = session.output.style;
    let prefix = args.prefix.as_ref().map_or(Ok(Bytes::new()), |prefix| style.read(prefix)).map_err(Failure::Usage)?;
    let (mut locks, mut after) = (Vec::new(), Bytes::new());
    loop {
        let page = session.client.locks(prefix.clone(), after).await?;
        locks.extend(page.locks.iter().map(|lock| Summary::new(style, lock)));
        match page.locks.last() {
            Some(last) if page.more => after = last.name.clone(),
            _ => break,
        }
    }
    session.output.show(&Locks { locks })
}

pub(super) async fn show(session: &Session, name: &OsStr) -> Result<(), Failure> {
    let style = session.output.style;
    let name = style.read(name).map_err(Failure::Usage)?;
    let answer = session.client.lock_inspect(name.clone()).await?;
    let queue = answer.queue.iter().map(|contender| Contender::new(style, contender)).collect();
    session.output.show(&Queue { name: style.blob(&name), contenders: answer.contenders, queue })
}

pub(super) async fn why(session: &Session, name: &OsStr, limit: u32) -> Result<(), Failure> {
    let style = session.output.style;
    let name = style.read(name).map_err(Failure::Usage)?;
    let answer = session.client.lock_why(name.clone(), limit).await?;
    let transitions = answer.transitions.iter().map(|transition| Transition::new(style, transition)).collect();
    let (complete, compacted) = (answer.complete, Revision(answer.compacted));
    session.output.show(&History { name: style.blob(&name), transitions, complete, compacted })
}

pub(super) async fn unlock(session: &Session, args: &UnlockArgs) -> Result<(), Failure> {
    let style = session.output.style;
    let name = style.read(&args.name).map_err(Failure::Usage)?;
    let key = args.key.as_ref().map(|key| style.read(key)).transpose().map_err(Failure::Usage)?;
    let queue = session.client.lock_inspect(name.clone()).await?.queue;
    let found = match &key {
        Some(key) => queue.iter().find(|contender| contender.key == *key),
        None => sole_holder(style, &queue)?,
    };
    let Some(contender) = found else {
        let whose = if key.is_some() { "that key does not contend for it" } else { "nobody holds it" };
        return Err(Failure::LockFree(format!("lock {}: {whose}", style.blob(&name).line())));
    };
    let request =
        pb::LockForceReleaseRequest { key: contender.key.clone(), token: contender.token, reason: args.reason.clone() };
    let removed = session.client.lock_force_release(request).await?.removed;
    session.output.show(&Taken { name: style.blob(&name), removed, from: Contender::new(style, contender) })
}

/// Who holds a lock, if there is one and no more.
fn sole_holder(style: Style, queue: &[pb::LockContender]) -> Result<Option<&pb::LockContender>, Failure> {
    let mut holders = queue.iter().filter(|contender| contender.holds_lock || contender.delayed);
    let first = holders.next();
    let Some(second) = holders.next() else { return Ok(first) };
    let keys: Vec<_> =
        first.into_iter().chain([second]).chain(holders).map(|holder| style.blob(&holder.key).line()).collect();
    Err(Failure::Usage(format!("it is held by {}; --key says which one is meant: {}", keys.len(), keys.join(", "))))
}

/// The oldest contender for a lock, if that can be found out.
pub(super) async fn oldest(session: &Session, name: &Bytes) -> Option<pb::LockContender> {
    session.client.lock_inspect(name.clone()).await.ok()?.queue.into_iter().next()
}

/// How a lock that was held came to its end, if that is recorded.
pub(super) async fn end_of(session: &Session, name: &Bytes, granted: &Granted) -> Option<String> {
    let answer = session.client.lock_why(name.clone(), RECENT).await.ok()?;
    let is_its_end = |transition: &&pb::LockTransition| {
        let began = matches!(transition.kind(), Kind::Acquired | Kind::Created);
        transition.token == granted.token.0 && transition.key == granted.key && !began
    };
    let end = answer.transitions.iter().find(is_its_end)?;
    Some(Transition::new(session.output.style, end).what())
}

/// How a lock is wanted, for people and in JSON.
fn mode(mode: Option<&pb::LockMode>) -> String {
    match mode.and_then(|mode| mode.mode) {
        None | Some(Mode::Shared(false)) => "exclusive".to_owned(),
        Some(Mode::Shared(true)) => "shared".to_owned(),
        Some(Mode::Semaphore(semaphore)) => format!("{} of {}", semaphore.permits, semaphore.limit),
    }
}

/// A key that contends for a lock.
#[derive(Debug, Serialize)]
struct Contender {
    key: Blob,
    state: &'static str,
    /// Of those that hold it.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<Revision>,
    create_revision: Revision,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<LeaseId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_remaining_ms: Option<u64>,
    native: bool,
    mode: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    owner: String,
    metadata: Blob,
    #[serde(skip_serializing_if = "Option::is_none")]
    holds: Option<u32>,
    #[serde(skip)]
    who: String,
}

impl Contender {
    fn new(style: Style, told: &pb::LockContender) -> Contender {
        let state = match (told.delayed, told.holds_lock) {
            (true, _) => "delayed",
            (false, true) => "holds",
            (false, false) => "waits",
        };
        Contender {
            key: style.blob(&told.key),
            state,
            token: (state == "holds").then_some(Revision(told.token)),
            create_revision: Revision(told.token),
            held_ms: (state == "holds").then_some(told.held_ms),
            age_ms: told.native.then_some(told.age_ms),
            lease: (told.lease != 0).then_some(LeaseId(told.lease)),
            lease_remaining_ms: (told.lease != 0).then_some(told.lease_remaining_ms),
            native: told.native,
            mode: mode(told.mode.as_ref()),
            owner: told.owner.clone(),
            metadata: style.blob(&told.metadata),
            holds: told.native.then_some(told.holds).filter(|holds| *holds > 0),
            who: who(told),
        }
    }

    /// For how long it has been what it is.
    fn since(&self) -> String {
        self.held_ms.filter(|ms| *ms > 0).or(self.age_ms).map_or_else(dash, span)
    }
}

fn dash() -> String {
    "-".to_owned()
}

/// Who contends for a lock, in their order.
#[derive(Debug, Serialize)]
struct Queue {
    name: Blob,
    contenders: u64,
    queue: Vec<Contender>,
}

impl Report for Queue {
    fn human(&self) -> String {
        let name = self.name.line();
        if self.queue.is_empty() {
            return format!("{name} is free\n");
        }
        let titles = ["KEY", "STATE", "TOKEN", "SINCE", "LEASE ENDS IN", "MODE", "OWNER", "METADATA"];
        let mut table = Table::new(&titles).right(&[2]);
        for contender in &self.queue {
            table.row([
                contender.key.line(),
                contender.state.to_owned(),
                contender.token.map_or_else(dash, |token| token.to_string()),
                contender.since(),
                contender.lease_remaining_ms.map_or_else(dash, span),
                contender.mode.clone(),
                if contender.native { one_line(&contender.owner) } else { dash() },
                contender.metadata.line(),
            ]);
        }
        let front = |state| self.queue.iter().filter(|contender| contender.state == state).count();
        let (held, delayed) = (front("holds"), front("delayed"));
        let shown = u64::try_from(self.queue.len()).unwrap_or(u64::MAX);
        let more = match self.contenders.saturating_sub(shown) {
            0 => String::new(),
            more => format!("; {more} more are not shown"),
        };
        let behind = self.contenders.saturating_sub(u64::try_from(held + delayed).unwrap_or(0));
        let held = match (held, delayed) {
            (0, 0) => "nobody holds it".to_owned(),
            (0, _) => "nobody holds it until a delay is over".to_owned(),
            (1, _) => "1 holds it".to_owned(),
            (held, _) => format!("{held} hold it"),
        };
        format!("{name}: {held}, {} behind{more}\n{}", count(behind, "other"), table.render())
    }
}

/// A lock in the list.
#[derive(Debug, Serialize)]
struct Summary {
    name: Blob,
    holders: u64,
    waiting: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest: Option<Contender>,
}

impl Summary {
    fn new(style: Style, lock: &pb::LockSummary) -> Summary {
        Summary {
            name: style.blob(&lock.name),
            holders: lock.holders,
            waiting: lock.contenders.saturating_sub(lock.holders),
            oldest: lock.holder.as_ref().map(|holder| Contender::new(style, holder)),
        }
    }
}

#[derive(Debug, Serialize)]
struct Locks {
    locks: Vec<Summary>,
}

impl Report for Locks {
    fn human(&self) -> String {
        if self.locks.is_empty() {
            return "no locks\n".to_owned();
        }
        let mut table = Table::new(&["LOCK", "HOLD", "WAIT", "TOKEN", "SINCE", "OLDEST"]).right(&[1, 2, 3]);
        for lock in &self.locks {
            let of_oldest = |tell: fn(&Contender) -> String| lock.oldest.as_ref().map_or_else(dash, tell);
            table.row([
                lock.name.line(),
                lock.holders.to_string(),
                lock.waiting.to_string(),
                of_oldest(|oldest| oldest.token.map_or_else(dash, |token| token.to_string())),
                of_oldest(Contender::since),
                of_oldest(|oldest| oldest.who.clone()),
            ]);
        }
        table.render()
    }
}

/// What became of one contender at one moment.
#[derive(Debug, Serialize)]
struct Transition {
    revision: Revision,
    kind: &'static str,
    key: Blob,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<Revision>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<LeaseId>,
    #[serde(skip_serializing_if = "String::is_empty")]
    owner: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_since: Option<Revision>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<MemberId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
}

impl Transition {
    fn new(style: Style, told: &pb::LockTransition) -> Transition {
        let (mut certificate_name, mut address) = (None, None);
        match told.client.clone() {
            Some(Client::Certificate(name)) => certificate_name = Some(name),
            Some(Client::Address(from)) => address = Some(from),
            None => {}
        }
        Transition {
            revision: Revision(told.revision),
            kind: kind(told.kind()),
            key: style.blob(&told.key),
            token: (told.token != 0).then_some(Revision(told.token)),
            lease: (told.lease != 0).then_some(LeaseId(told.lease)),
            owner: told.owner.clone(),
            mode: (told.kind() == Kind::Acquired).then(|| mode(told.mode.as_ref())),
            held_since: (told.held_since != 0).then_some(Revision(told.held_since)),
            held_ms: (told.held_since != 0).then_some(told.held_ms),
            member: (told.member != 0).then_some(MemberId(told.member)),
            certificate_name,
            address,
            reason: told.reason.clone(),
        }
    }

    /// What happened, by whom and why, in a few words.
    fn what(&self) -> String {
        let by = match (&self.certificate_name, &self.address) {
            (Some(name), _) => format!(" by the client whose certificate is for {}", one_line(name)),
            (None, Some(address)) => format!(" by the client at {}", one_line(address)),
            (None, None) => String::new(),
        };
        let reason = if self.reason.is_empty() { String::new() } else { format!(": {}", one_line(&self.reason)) };
        format!("{}{by}{reason}", self.kind)
    }

    fn details(&self) -> String {
        let mut parts = Vec::new();
        if let Some(mode) = self.mode.as_ref().filter(|mode| *mode != "exclusive") {
            parts.push(mode.clone());
        }
        match (self.held_since, self.held_ms) {
            (Some(since), Some(ms)) => parts.push(format!("held since revision {since}, for {}", span(ms))),
            _ if self.kind == "acquired" || self.kind == "created" => {}
            _ => parts.push("waited".to_owned()),
        }
        parts.join(", ")
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Unspecified => "unknown",
        Kind::Created => "created",
        Kind::Acquired => "acquired",
        Kind::Released => "released",
        Kind::Cancelled => "cancelled",
        Kind::Expired => "expired",
        Kind::Revoked => "revoked",
        Kind::Forced => "forced",
        Kind::Deleted => "deleted",
        Kind::Delayed => "delayed",
        Kind::Lapsed => "lapsed",
    }
}

/// What became of a lock's contenders, the latest first.
#[derive(Debug, Serialize)]
struct History {
    name: Blob,
    transitions: Vec<Transition>,
    complete: bool,
    compacted: Revision,
}

impl Report for History {
    fn human(&self) -> String {
        let mut text = String::new();
        if self.transitions.is_empty() {
            text = format!("nothing is recorded of {}\n", self.name.line());
        } else {
            let mut table = Table::new(&["REVISION", "KEY", "TOKEN", "WHAT", "DETAILS", "OWNER"]).right(&[0, 2]);
            for transition in &self.transitions {
                table.row([
                    transition.revision.to_string(),
                    transition.key.line(),
                    transition.token.map_or_else(dash, |token| token.to_string()),
                    transition.what(),
                    transition.details(),
                    one_line(&transition.owner),
                ]);
            }
            text += &table.render();
        }
        if !self.complete {
            text += "there is more: --limit tells how much to show\n";
        }
        if self.compacted.0 > 0 {
            text += &format!("what happened up to revision {} may be forgotten\n", self.compacted);
        }
        text
    }
}

/// A contender whose key was deleted.
#[derive(Debug, Serialize)]
struct Taken {
    name: Blob,
    /// Otherwise it was gone before.
    removed: bool,
    from: Contender,
}

impl Report for Taken {
    fn human(&self) -> String {
        let (name, who) = (self.name.line(), &self.from.who);
        match (self.removed, self.from.state) {
            (false, _) => format!("{who} was gone already from {name}\n"),
            (true, "waits") => format!("{who} does not wait for {name} any more\n"),
            (true, _) => format!("{name} is taken away from {who}: token {}\n", self.from.create_revision),
        }
    }
}

#[cfg(test)]
mod tests;
