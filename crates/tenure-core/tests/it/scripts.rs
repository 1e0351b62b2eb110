//! Runs the golden scripts of `tests/scripts`: stories told to the state machine, with its answers.
//!
//! Each command goes the way of the log: encoded, put into a group, decoded and applied. After each, the tables are
//! checked against each other, and a purged copy of the state must hash as the state does. Besides the words of
//! `language`, a script may say:
//!
//! ```text
//! group COMMAND , COMMAND …    several commands in one log entry (quoted)         clock MS   a reading of the lease clock
//! expire LEASE INDEX PLACE RENEWALS [by=MEMBER]    the lessor's revoke             alarm raise|clear MEMBER KIND
//! publish MEMBER NAME URL…     purge [MAX]     hash [REV]     prev REV SUB         read …     a transaction as a read
//! rows  events  leases  ends  locks  causes  meta   dump a table    damage REV SUB VALUE                [fenced]   proposed in a former term
//! [timeless]   without a reading of the lease clock (else the clock as it is)
//! ```
//!
//! To accept changed answers after reading them: `UPDATE_GOLDENFILES=1 cargo test -p tenure-core scripts`.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use bytes::Bytes;
use tenure_core::codec::GroupBuilder;
use tenure_core::command::{Command, EntryPosition, ExpiryGuard, GroupHeader, LeaseRevoke};
use tenure_core::hash::hash_kv;
use tenure_core::lock::{LockKey, LockValue};
use tenure_core::memory::MemoryState;
use tenure_core::outcome::{KeyValue, LockAnswer, OpResponse, Outcome, RangeResult, Response, TxnResponse};
use tenure_core::purge::plan_purge;
use tenure_core::range::{prev_kv, read_range};
use tenure_core::row::{AlarmKind, Incarnation, KeyMeta, MemberAttributes};
use tenure_core::txn::read_txn;
use tenure_core::{EventId, LeaseId, LogIndex, MemberId, Revision, Term, apply_group};

use crate::language::{Tokens, command};
use crate::tables;

const TERM: Term = Term(2);

#[test]
fn scripts() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut paths: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        println!("script {}; accept with: UPDATE_GOLDENFILES=1 cargo test -p tenure-core scripts", path.display());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# "), "the first line says why the script matters");
        goldenscript::run(&mut Runner::default(), &path).unwrap();
    }
}

#[derive(Default)]
struct Runner {
    state: MemoryState,
    /// The index of the last log entry.
    index: u64,
    purged: Revision,
}

impl goldenscript::Runner for Runner {
    type Command = goldenscript::Command;

    fn run(&mut self, line: &goldenscript::Command, context: &goldenscript::Context) -> Result<String, Box<dyn Error>> {
        let words: Vec<String> = line
            .args
            .iter()
            .flat_map(|argument| match argument {
                goldenscript::Argument::Positional(text) => split(text),
                goldenscript::Argument::KeyValue(name, value) => vec![format!("{name}={value}")],
                _ => unreachable!("there are two kinds of arguments"),
            })
            .collect();
        let mut tokens = Tokens::new(&words);
        if let Some(command) = command(&line.name, &mut tokens)? {
            return self.apply(&[command], self.reading(context), context.tags.contains("fenced"));
        }
        self.run_special(&line.name, &mut tokens, &words, self.reading(context))
    }
}

/// A quoted argument is several words, unless it holds no space at all: then it is one, even an empty one. Among
/// several, two quotes are the empty word.
fn split(text: &str) -> Vec<String> {
    if !text.contains(' ') {
        return vec![text.into()];
    }
    text.split_whitespace().map(|word| if word == "\"\"" { String::new() } else { word.into() }).collect()
}

impl Runner {
    fn apply(&mut self, commands: &[Command], clock: Option<u64>, fenced: bool) -> Result<String, Box<dyn Error>> {
        self.index += 1;
        let origin_term = fenced.then_some(Term(TERM.0 - 1));
        let mut builder = GroupBuilder::new(GroupHeader { lease_clock_ms: clock, origin_term });
        for command in commands {
            builder.push(&command.encode());
        }
        let position = EntryPosition { index: LogIndex(self.index), term: TERM };
        let outcomes = apply_group(&mut self.state, position, &builder.finish())?.outcomes;
        assert_eq!(outcomes.len(), commands.len());
        self.check_purged_copy()?;
        tables::check(&self.state);
        let mut out = String::new();
        for outcome in &outcomes {
            show_outcome(&mut out, outcome)?;
        }
        Ok(out)
    }

    /// What is purged makes no difference to the hash.
    fn check_purged_copy(&self) -> Result<(), Box<dyn Error>> {
        let mut purged = self.state.clone();
        purged.purge(&plan_purge(&purged, Revision(0), usize::MAX)?);
        tables::check(&purged);
        assert_eq!(hash_kv(&purged, Revision(0))?, hash_kv(&self.state, Revision(0))?);
        Ok(())
    }

    /// Groups carry the clock as it is, unless a script says that one carries no reading.
    fn reading(&self, context: &goldenscript::Context) -> Option<u64> {
        (!context.tags.contains("timeless")).then_some(self.state.meta.lease_clock_ms)
    }

    fn run_special(
        &mut self,
        name: &str,
        tokens: &mut Tokens<'_>,
        words: &[String],
        reading: Option<u64>,
    ) -> Result<String, Box<dyn Error>> {
        let mut out = String::new();
        match name {
            "group" => {
                let commands = words.split(|word| word == ",").map(|words| {
                    let mut tokens = Tokens::new(words);
                    let name = tokens.next()?;
                    command(name, &mut tokens)?.ok_or_else(|| format!("{name} is no command").into())
                });
                return self.apply(&commands.collect::<Result<Vec<_>, Box<dyn Error>>>()?, reading, false);
            }
            "clock" => return self.apply(&[], Some(tokens.next()?.parse()?), false),
            "expire" => return self.expire(tokens),
            "alarm" => return self.alarm(tokens),
            "publish" => {
                let member = MemberId(tokens.next()?.parse()?);
                let name = tokens.next()?.to_string();
                let client_urls = words[2..].to_vec();
                let attributes = MemberAttributes { member, name, client_urls };
                return self.apply(&[Command::MemberPublish(attributes)], None, false);
            }
            "get" => match read_range(&self.state, &tokens.range()?)? {
                Ok(result) => show_range(&mut out, &result, "")?,
                Err(refusal) => writeln!(out, "refused: {refusal}")?,
            },
            "read" => match read_txn(&self.state, &tokens.txn()?)? {
                Ok(response) => show_txn(&mut out, &response, "")?,
                Err(refusal) => writeln!(out, "refused: {refusal}")?,
            },
            "purge" => {
                let max = if words.is_empty() { usize::MAX } else { tokens.next()?.parse()? };
                self.purge(&mut out, max)?;
            }
            "hash" => {
                let revision = if words.is_empty() { 0 } else { tokens.number()? };
                match hash_kv(&self.state, Revision(revision))? {
                    Ok(hash) => writeln!(out, "{:08x} of ({}, {}]", hash.hash, hash.compacted, hash.revision)?,
                    Err(refusal) => writeln!(out, "refused: {refusal}")?,
                }
            }
            "prev" => {
                let event = self.state.history[&event_id(tokens)?].clone();
                match prev_kv(&self.state, &event)? {
                    Some(kv) => show_kv(&mut out, &kv, "")?,
                    None => writeln!(out, "none")?,
                }
            }
            "damage" => {
                let id = event_id(tokens)?;
                let event = self.state.history.get_mut(&id).ok_or("no such event")?;
                event.value = Bytes::copy_from_slice(tokens.next()?.as_bytes());
            }
            "lose" => {
                let id = event_id(tokens)?;
                self.state.history.remove(&id).ok_or("no such event")?;
            }
            _ => self.dump(&mut out, name)?,
        }
        tokens.end()?;
        Ok(out)
    }

    fn expire(&mut self, tokens: &mut Tokens<'_>) -> Result<String, Box<dyn Error>> {
        let id = LeaseId(tokens.number()?);
        let incarnation = Incarnation { index: LogIndex(tokens.next()?.parse()?), place: tokens.next()?.parse()? };
        let expiry = Some(ExpiryGuard { incarnation, renewals: tokens.next()?.parse()? });
        let by = tokens.revoked_by()?;
        self.apply(&[Command::LeaseRevoke(LeaseRevoke { id, expiry, by })], None, false)
    }

    fn alarm(&mut self, tokens: &mut Tokens<'_>) -> Result<String, Box<dyn Error>> {
        let action = tokens.next()?;
        let member = MemberId(tokens.next()?.parse()?);
        let kind = match tokens.next()? {
            "nospace" => AlarmKind::NoSpace,
            "corrupt" => AlarmKind::Corrupt,
            word => return Err(format!("{word} is no alarm").into()),
        };
        let command = match action {
            "raise" => Command::AlarmRaise(member, kind),
            "clear" => Command::AlarmClear(member, kind),
            word => return Err(format!("{word} is no action").into()),
        };
        self.apply(&[command], None, false)
    }

    fn purge(&mut self, out: &mut String, max: usize) -> Result<(), Box<dyn Error>> {
        let plan = plan_purge(&self.state, self.purged, max)?;
        self.state.purge(&plan);
        tables::check(&self.state);
        self.purged = plan.next;
        let events: Vec<String> = plan.events.iter().map(|id| show_id(*id)).collect();
        writeln!(out, "events {}", events.join(" "))?;
        for (key, id) in &plan.tombstones {
            writeln!(out, "tombstone {} {}", text(key), show_id(*id))?;
        }
        writeln!(out, "next {}{}", plan.next, if plan.done { ", done" } else { "" })?;
        Ok(())
    }

    fn dump(&self, out: &mut String, table: &str) -> Result<(), Box<dyn Error>> {
        match table {
            "rows" => {
                for (key, row) in &self.state.current {
                    writeln!(out, "{}={} {}", text(key), text(&row.value), show_meta(&row.meta))?;
                }
            }
            "events" => {
                for event in self.state.history.values() {
                    let previous = event.previous.map_or("none".into(), show_id);
                    let (key, value) = (text(&event.key), text(&event.value));
                    writeln!(out, "{key}={value} {}, previous {previous}", show_meta(&event.meta))?;
                }
            }
            "leases" => {
                for (id, lease) in &self.state.leases {
                    let keys = self.state.lease_keys.iter().filter(|(of, _)| of == id);
                    let keys: Vec<String> = keys.map(|(_, key)| text(key)).collect();
                    let Incarnation { index, place } = lease.incarnation;
                    let (ttl, clock) = (lease.ttl_ms, lease.clock_ms);
                    let renewed =
                        if lease.renewals > 0 { format!(", renewed {}", lease.renewals) } else { String::new() };
                    write!(out, "{id}: {ttl} ms since {clock} ms{renewed}, ")?;
                    write!(out, "granted at {index}/{place}, keys {keys:?}")?;
                    let holder = self.state.lease_holders.get(id);
                    writeln!(
                        out,
                        "{}",
                        holder.map_or(String::new(), |of| format!(", for {:?}: {:?}", of.name, of.text))
                    )?;
                }
            }
            "locks" => {
                for (key, row) in &self.state.locks {
                    show_lock_row(out, key, row)?;
                }
            }
            "causes" => {
                for event in self.state.history.values() {
                    if let Some(cause) = &event.cause {
                        writeln!(out, "{} {}: {cause:?}", show_id(event.meta.modified), text(&event.key))?;
                    }
                }
            }
            "ends" => {
                for (number, end) in &self.state.lease_ends {
                    writeln!(out, "{number}: {end:?}")?;
                }
            }
            "meta" => {
                let meta = &self.state.meta;
                writeln!(out, "revision {}, compacted {}", meta.revision, meta.compacted)?;
                writeln!(out, "lease clock {} ms", meta.lease_clock_ms)?;
                for alarm in &meta.alarms {
                    writeln!(out, "alarm {:?} of {}", alarm.kind, alarm.member)?;
                }
                for member in &meta.members {
                    writeln!(out, "member {} {} {:?}", member.member, member.name, member.client_urls)?;
                }
            }
            name => return Err(format!("{name} is no command").into()),
        }
        Ok(())
    }
}

fn event_id(tokens: &mut Tokens<'_>) -> Result<EventId, Box<dyn Error>> {
    Ok(EventId { revision: Revision(tokens.number()?), sub: tokens.next()?.parse()? })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn show_id(id: EventId) -> String {
    format!("({},{})", id.revision, id.sub)
}

fn show_meta(meta: &KeyMeta) -> String {
    let id = show_id(meta.modified);
    if meta.is_tombstone() {
        return format!("{id} deleted");
    }
    let lease = if meta.lease.is_some() { format!(" lease {}", meta.lease) } else { String::new() };
    format!("{id} create {} version {}{lease}", meta.create, meta.version)
}

fn show_kv(out: &mut String, kv: &KeyValue, indent: &str) -> std::fmt::Result {
    let lease = if kv.lease.is_some() { format!(" lease {}", kv.lease) } else { String::new() };
    let (key, value) = (text(&kv.key), text(&kv.value));
    writeln!(out, "{indent}{key}={value} create {} mod {} version {}{lease}", kv.create, kv.modified, kv.version)
}

fn show_range(out: &mut String, result: &RangeResult, indent: &str) -> std::fmt::Result {
    for kv in &result.kvs {
        show_kv(out, kv, indent)?;
    }
    writeln!(out, "{indent}count {}{}", result.count, if result.more { ", more" } else { "" })
}

fn show_previous(out: &mut String, previous: Option<&KeyValue>, indent: &str) -> std::fmt::Result {
    previous.map_or(Ok(()), |kv| {
        write!(out, "{indent}was ")?;
        show_kv(out, kv, "")
    })
}

fn show_txn(out: &mut String, response: &TxnResponse, indent: &str) -> std::fmt::Result {
    writeln!(out, "{indent}{}", if response.succeeded { "succeeded" } else { "failed" })?;
    let inner = format!("{indent}  ");
    for response in &response.responses {
        match response {
            OpResponse::Range(result) => show_range(out, result, &inner)?,
            OpResponse::Put(previous) => {
                writeln!(out, "{inner}put")?;
                show_previous(out, previous.as_ref(), &inner)?;
            }
            OpResponse::DeleteRange(deleted) => {
                writeln!(out, "{inner}deleted {}", deleted.deleted)?;
                for kv in &deleted.prev_kvs {
                    show_previous(out, Some(kv), &inner)?;
                }
            }
            OpResponse::Txn(nested) => show_txn(out, nested, &inner)?,
        }
    }
    Ok(())
}

fn show_lock_row(out: &mut String, key: &LockKey, row: &LockValue) -> std::fmt::Result {
    match (key, row) {
        (LockKey::Place(name, create, key), LockValue::Place(row)) => {
            let since = row.granted.map_or("waits".into(), |since| format!("holds since {}", since.revision));
            write!(out, "  {} {create} {}: {since}", text(name), text(key))?;
            match &row.native {
                Some(native) => {
                    let requests: Vec<String> = native
                        .requests
                        .iter()
                        .map(|request| format!("{}@{}", request.number, request.attach))
                        .collect();
                    let (mode, owner, delayed) = (native.mode, &native.owner, native.delayed);
                    let delayed = if delayed { ", delayed" } else { "" };
                    writeln!(out, ", {mode:?} for {owner:?} by {}{delayed}", requests.join(" "))
                }
                None => writeln!(out, ", not native"),
            }
        }
        (key, row) => writeln!(out, "{key:?}: {row:?}"),
    }
}

fn show_outcome(out: &mut String, outcome: &Outcome) -> std::fmt::Result {
    write!(out, "revision {}: ", outcome.revision)?;
    match &outcome.result {
        Err(refusal) => writeln!(out, "refused: {refusal}"),
        Ok(Response::Put(previous)) => {
            writeln!(out, "put")?;
            show_previous(out, previous.as_ref(), "")
        }
        Ok(Response::DeleteRange(deleted)) => {
            writeln!(out, "deleted {}", deleted.deleted)?;
            deleted.prev_kvs.iter().try_for_each(|kv| show_previous(out, Some(kv), ""))
        }
        Ok(Response::Txn(response)) => show_txn(out, response, ""),
        Ok(Response::Compact) => writeln!(out, "compacted"),
        Ok(Response::LeaseGrant { id, ttl_ms }) => writeln!(out, "granted {id} for {ttl_ms} ms"),
        Ok(Response::LeaseRevoke) => writeln!(out, "revoked"),
        Ok(Response::Alarm) => writeln!(out, "done"),
        Ok(Response::MemberPublish) => writeln!(out, "published"),
        Ok(Response::ExpiryStale) => writeln!(out, "stale, ignored"),
        Ok(Response::LeaseRenew { ttl_ms }) => writeln!(out, "renewed for {ttl_ms} ms"),
        Ok(Response::LockAcquire(LockAnswer::Granted { token, holds })) => {
            writeln!(out, "holds the lock by token {token}, {holds} times")
        }
        Ok(Response::LockAcquire(LockAnswer::Queued { ahead: None })) => writeln!(out, "waits"),
        Ok(Response::LockAcquire(LockAnswer::Queued { ahead: Some(ahead) })) => writeln!(out, "waits behind {ahead}"),
        Ok(Response::LockAcquire(LockAnswer::Busy)) => writeln!(out, "busy"),
        Ok(Response::LockCancel { ended }) => writeln!(out, "{}", if *ended { "cancelled" } else { "finished" }),
        Ok(Response::LockCancelStale) => writeln!(out, "stale, ignored"),
        Ok(Response::LockRelease { released: false, .. }) => writeln!(out, "not held"),
        Ok(Response::LockRelease { released: true, holds }) => writeln!(out, "released, {holds} left"),
        Ok(Response::LockForce { removed }) => writeln!(out, "{}", if *removed { "removed" } else { "not there" }),
        Ok(Response::LockDelayEnd) => writeln!(out, "the delay is over"),
        Ok(Response::LockDelayStale) => writeln!(out, "stale, ignored"),
    }
}
