//! `lease`: grant, renew, revoke, list and show.

use std::collections::HashMap;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::tenure::v1;
use tokio::time::{Instant, sleep};

use super::Session;
use super::explain::Holder;
use super::view::{count, revision};
use crate::arguments::{LeaseGrantArgs, LeaseKeepAliveArgs, LeaseListArgs, LeaseShowArgs};
use crate::client::{ClientError, Refusal};
use crate::failure::Failure;
use crate::ids::{LeaseId, Revision};
use crate::output::Report;
use crate::table::Table;
use crate::text::Blob;

/// Questions about single leases in flight while they are listed: enough to hide the round trips, few enough not to
/// trouble a server.
const SHOWS_IN_FLIGHT_MAX: usize = 16;
/// A lease is renewed when a third of it has passed, so that two renewals may fail.
const RENEWALS_PER_TTL: u32 = 3;
/// The shortest time for a renewal: below it a busy server looks like a dead one.
const RENEWAL_PATIENCE_MIN: Duration = Duration::from_millis(500);
/// Between attempts when no endpoint answers at all.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

pub(super) async fn grant(session: &Session, args: &LeaseGrantArgs) -> Result<(), Failure> {
    if args.holder.is_some() || args.note.is_some() {
        return grant_held(session, args).await;
    }
    let request = pb::LeaseGrantRequest { ttl: args.ttl, id: args.id.map_or(0, |id| id.0) };
    let answer = session.client.lease_grant(request).await?;
    session.output.show(&Granted { id: LeaseId(answer.id), ttl_secs: answer.ttl, asked: args.ttl })
}

async fn grant_held(session: &Session, args: &LeaseGrantArgs) -> Result<(), Failure> {
    let text = |given: &Option<String>| given.clone().unwrap_or_default();
    let request = v1::LeaseGrantRequest {
        id: args.id.map_or(0, |id| id.0),
        ttl_ms: u64::try_from(args.ttl).unwrap_or_default().saturating_mul(1000),
        holder: Some(v1::LeaseHolder { name: text(&args.holder), text: text(&args.note) }),
    };
    let answer = session.client.lease_grant_held(request).await?;
    let ttl_secs = i64::try_from(answer.ttl_ms / 1000).unwrap_or(i64::MAX);
    session.output.show(&Granted { id: LeaseId(answer.id), ttl_secs, asked: args.ttl })
}

#[derive(Debug, Serialize)]
struct Granted {
    id: LeaseId,
    ttl_secs: i64,
    #[serde(skip)]
    asked: i64,
}

impl Report for Granted {
    fn human(&self) -> String {
        let raised = if self.ttl_secs == self.asked { "" } else { " (the server raised it)" };
        format!("lease {} granted for {} s{raised}\n", self.id, self.ttl_secs)
    }
}

pub(super) async fn keep_alive(session: &Session, args: &LeaseKeepAliveArgs) -> Result<(), Failure> {
    let mut patience = session.client.timeouts().command;
    let mut renewal = Renewal::new(session, args.id, patience).await?;
    if args.once {
        return Ok(());
    }
    loop {
        let third = Duration::from_secs(renewal.ttl_secs.cast_unsigned()) / RENEWALS_PER_TTL;
        patience = third.max(RENEWAL_PATIENCE_MIN);
        sleep(third).await;
        let renewed_at = Instant::now();
        renewal = loop {
            match Renewal::new(session, args.id, patience).await {
                Err(Failure::Client(
                    error @ (ClientError::Unreachable(_) | ClientError::NoLeader(_) | ClientError::NoAnswer(_)),
                )) => {
                    let age = (renewed_at.elapsed() + third).as_secs();
                    session.output.note(&format!("not renewed for {age} s of {} s: {error}", renewal.ttl_secs));
                    sleep(RETRY_PAUSE).await;
                }
                ended => break ended?,
            }
        };
    }
}

/// One renewal, shown when it is made.
#[derive(Debug, Serialize)]
struct Renewal {
    id: LeaseId,
    ttl_secs: i64,
}

impl Renewal {
    async fn new(session: &Session, id: LeaseId, patience: Duration) -> Result<Renewal, Failure> {
        let answer = session.client.lease_renew(id, patience).await?;
        if answer.ttl <= 0 {
            return Err(Failure::NoLease(id));
        }
        let renewal = Renewal { id, ttl_secs: answer.ttl };
        session.output.show(&renewal)?;
        Ok(renewal)
    }
}

impl Report for Renewal {
    fn human(&self) -> String {
        format!("lease {} renewed: {} s left\n", self.id, self.ttl_secs)
    }
}

pub(super) async fn revoke(session: &Session, id: LeaseId) -> Result<(), Failure> {
    let answer = session.client.lease_revoke(id).await?;
    session.output.show(&Revoked { id, revision: revision(answer.header.as_ref()) })
}

#[derive(Debug, Serialize)]
struct Revoked {
    id: LeaseId,
    revision: Revision,
}

impl Report for Revoked {
    fn human(&self) -> String {
        format!("lease {} revoked (revision {})\n", self.id, self.revision)
    }
}

pub(super) async fn list(session: &Session, args: &LeaseListArgs) -> Result<(), Failure> {
    let ids = session.client.leases().await?.leases.into_iter().map(|lease| LeaseId(lease.id));
    if args.ids_only {
        return session.output.show(&LeaseIds { leases: ids.collect() });
    }
    let rows = stream::iter(ids)
        .map(|id| async move { Ok::<_, ClientError>((id, session.client.lease_show(id, true).await?)) })
        .buffered(SHOWS_IN_FLIGHT_MAX)
        .try_collect::<Vec<_>>()
        .await?;
    let mut holders = holders(session).await?;
    // Those that ended since they were listed are none any more.
    let rows = rows.into_iter().filter(|(_, answer)| answer.ttl >= 0).map(|(id, answer)| LeaseRow {
        id,
        ttl_secs: answer.granted_ttl,
        remaining_secs: answer.ttl,
        keys: answer.keys.len(),
        holder: holders.remove(&id.0),
    });
    session.output.show(&LeaseTable { leases: rows.collect() })
}

/// Whom leases are for, as far as that was said; of a server that does not know such a thing, nothing.
async fn holders(session: &Session) -> Result<HashMap<i64, Holder>, Failure> {
    let (mut holders, mut after) = (HashMap::new(), None);
    loop {
        let page = match session.client.lease_states(after).await {
            Ok(page) => page,
            Err(ClientError::Refused(refused)) if refused.refusal == Refusal::Unimplemented => return Ok(holders),
            Err(error) => return Err(error.into()),
        };
        after = page.leases.last().map(|lease| lease.id);
        holders.extend(page.leases.into_iter().filter_map(|lease| Some((lease.id, lease.holder?.into()))));
        if !page.more || after.is_none() {
            return Ok(holders);
        }
    }
}

/// Whom a lease is for, likewise. One that has ended meanwhile is for nobody.
async fn holder(session: &Session, id: LeaseId) -> Result<Option<Holder>, Failure> {
    match session.client.lease_state(id).await {
        Ok(lease) => Ok(lease.and_then(|lease| lease.holder).map(Holder::from)),
        Err(ClientError::Refused(refused))
            if matches!(refused.refusal, Refusal::Unimplemented | Refusal::LeaseNotFound) =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

#[derive(Debug, Serialize)]
struct LeaseIds {
    leases: Vec<LeaseId>,
}

impl Report for LeaseIds {
    fn human(&self) -> String {
        self.leases.iter().map(|id| format!("{id}\n")).collect()
    }
}

#[derive(Debug, Serialize)]
struct LeaseTable {
    leases: Vec<LeaseRow>,
}

#[derive(Debug, Serialize)]
struct LeaseRow {
    id: LeaseId,
    ttl_secs: i64,
    remaining_secs: i64,
    keys: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<Holder>,
}

impl Report for LeaseTable {
    fn human(&self) -> String {
        if self.leases.is_empty() {
            return "no leases\n".to_owned();
        }
        let held = self.leases.iter().any(|lease| lease.holder.is_some());
        let columns = ["LEASE", "TTL", "REMAINING", "KEYS", "HOLDER"];
        let mut table = Table::new(if held { &columns } else { &columns[..4] }).right(&[1, 2, 3]);
        for lease in &self.leases {
            let seconds = |seconds: i64| format!("{seconds} s");
            let row = [seconds(lease.ttl_secs), seconds(lease.remaining_secs), lease.keys.to_string()];
            let holder = held.then(|| lease.holder.as_ref().map_or_else(|| "-".to_owned(), Holder::line));
            table.row([lease.id.to_string()].into_iter().chain(row).chain(holder));
        }
        table.render()
    }
}

pub(super) async fn show(session: &Session, args: &LeaseShowArgs) -> Result<(), Failure> {
    let mut answer = session.client.lease_show(args.id, true).await?;
    if answer.ttl < 0 {
        return Err(Failure::NoLease(args.id));
    }
    // etcd gives them in a different order each time.
    answer.keys.sort();
    session.output.show(&Shown {
        id: args.id,
        ttl_secs: answer.granted_ttl,
        remaining_secs: answer.ttl,
        keys: answer.keys.iter().map(|key| session.output.style.blob(key)).collect(),
        holder: holder(session, args.id).await?,
    })
}

#[derive(Debug, Serialize)]
struct Shown {
    id: LeaseId,
    ttl_secs: i64,
    remaining_secs: i64,
    keys: Vec<Blob>,
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<Holder>,
}

impl Report for Shown {
    fn human(&self) -> String {
        let keys: String = self.keys.iter().map(|key| format!("  {}\n", key.line())).collect();
        let colon = if self.keys.is_empty() { "" } else { ":" };
        let holder = self.holder.as_ref().map_or_else(String::new, |holder| format!(", for {}", holder.line()));
        format!(
            "lease {}: {} s left of {} s{holder}, {}{colon}\n{keys}",
            self.id,
            self.remaining_secs,
            self.ttl_secs,
            count(self.keys.len(), "key")
        )
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::output::testing::{human, json};
    use crate::text::Style;

    #[test]
    fn a_grant_says_when_the_server_raised_it() {
        let granted = Granted { id: LeaseId(31), ttl_secs: 60, asked: 60 };
        assert_eq!(human(&granted), "lease 000000000000001f granted for 60 s\n");
        assert_eq!(json(&granted), "{\"id\":\"000000000000001f\",\"ttl_secs\":60}\n");
        let raised = Granted { id: LeaseId(31), ttl_secs: 2, asked: 1 };
        assert_eq!(human(&raised), "lease 000000000000001f granted for 2 s (the server raised it)\n");
    }

    #[test]
    fn leases_are_a_table() {
        let row =
            |id, remaining_secs, keys| LeaseRow { id: LeaseId(id), ttl_secs: 60, remaining_secs, keys, holder: None };
        let table = LeaseTable { leases: vec![row(31, 7, 0), row(-1, 60, 1200)] };
        assert_eq!(
            human(&table),
            "LEASE              TTL  REMAINING  KEYS\n\
             000000000000001f  60 s        7 s     0\n\
             ffffffffffffffff  60 s       60 s  1200\n"
        );
        assert_eq!(human(&LeaseTable { leases: Vec::new() }), "no leases\n");
        let mut held = row(31, 7, 0);
        held.holder = Some(v1::LeaseHolder { name: "web-1".into(), text: String::new() }.into());
        assert_eq!(
            human(&LeaseTable { leases: vec![held, row(32, 7, 0)] }),
            "LEASE              TTL  REMAINING  KEYS  HOLDER\n\
             000000000000001f  60 s        7 s     0  web-1\n\
             0000000000000020  60 s        7 s     0  -\n"
        );
        let one = LeaseTable { leases: vec![row(31, 7, 0)] };
        let expected = r#"{"leases":[{"id":"000000000000001f","ttl_secs":60,"remaining_secs":7,"keys":0}]}"#;
        assert_eq!(json(&one), format!("{expected}\n"));
    }

    #[test]
    fn a_lease_is_shown_with_its_keys() {
        let keys = [&b"a"[..], b"\xff"].map(|key| Style::default().blob(&Bytes::from_static(key)));
        let shown = Shown { id: LeaseId(31), ttl_secs: 60, remaining_secs: 7, keys: keys.into(), holder: None };
        assert_eq!(human(&shown), "lease 000000000000001f: 7 s left of 60 s, 2 keys:\n  a\n  \\xff\n");
        let expected = r#"{"id":"000000000000001f","ttl_secs":60,"remaining_secs":7,"keys":["a",{"hex":"ff"}]}"#;
        assert_eq!(json(&shown), format!("{expected}\n"));
        let bare = Shown { keys: Vec::new(), ..shown };
        assert_eq!(human(&bare), "lease 000000000000001f: 7 s left of 60 s, 0 keys\n");
        let holder = Some(v1::LeaseHolder { name: "web-1".into(), text: "rack 7".into() }.into());
        let held = Shown { holder, ..bare };
        assert_eq!(human(&held), "lease 000000000000001f: 7 s left of 60 s, for web-1: rack 7, 0 keys\n");
        assert!(json(&held).contains(r#""holder":{"name":"web-1","text":"rack 7"}"#));
    }
}
