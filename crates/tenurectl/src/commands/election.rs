//! `elect`, `observe` and `resign`: leading as long as the process lives, seeing who leads, and ending it from outside.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::v3electionpb::{CampaignRequest, CampaignResponse, LeaderKey};
use tokio::time::{Instant, sleep};

use super::Session;
use super::view::{KeyValue, revision};
use crate::arguments::{ElectArgs, ObserveArgs, ResignArgs};
use crate::client::{ClientError, Refusal};
use crate::failure::Failure;
use crate::ids::{LeaseId, Revision};
use crate::output::Report;
use crate::stop;
use crate::text::Blob;

/// A lease is renewed when a third of it has passed, so that two renewals may fail.
const RENEWALS_PER_TTL: u32 = 3;
/// How often a leader looks whether it was ended from outside, at least.
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// Between attempts when no endpoint answers at all.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

pub(super) async fn elect(session: &Session, args: &ElectArgs) -> Result<(), Failure> {
    let style = session.output.style;
    let name = style.read(&args.name).map_err(Failure::Usage)?;
    let value = style.read(&args.value).map_err(Failure::Usage)?;
    let granted = session.client.lease_grant(pb::LeaseGrantRequest { ttl: args.ttl, id: 0 }).await?;
    let (lease, ttl) = (LeaseId(granted.id), Duration::from_secs(granted.ttl.max(1).cast_unsigned()));
    let ended = tokio::select! {
        ended = lead(session, name, value, lease, ttl) => ended,
        ended = renew(session, lease, ttl) => ended,
        () = stop::asked() => Ok(()),
    };
    // Candidacy or leadership, it ends at once and not with the time of the lease.
    match session.client.lease_revoke(lease).await {
        Ok(_) => {}
        Err(ClientError::Refused(refused)) if refused.refusal == Refusal::LeaseNotFound => {}
        Err(error) => session.output.note(&format!("it ends within {} s: {error}", ttl.as_secs())),
    }
    ended
}

/// Leads, from the victory until it is ended from outside.
async fn lead(session: &Session, name: Bytes, value: Bytes, lease: LeaseId, ttl: Duration) -> Result<(), Failure> {
    let request = CampaignRequest { name, lease: lease.0, value: value.clone() };
    let answer: CampaignResponse = loop {
        match session.client.campaign(request.clone()).await {
            // Asked again, it keeps its place.
            Err(error) if is_passing(&error) => pause(session, &error).await,
            answer => break answer?,
        }
    };
    let leader = answer.leader.unwrap_or_default();
    let style = session.output.style;
    let (key, value) = (style.blob(&leader.key), style.blob(&value));
    session.output.show(&Elected { key, value, create_revision: Revision(leader.rev), lease })?;
    let read = pb::RangeRequest { key: leader.key, keys_only: true, ..pb::RangeRequest::default() };
    loop {
        sleep((ttl / RENEWALS_PER_TTL).min(LOOK_INTERVAL_MAX)).await;
        match session.client.range(read.clone()).await {
            Ok(answer) if answer.kvs.iter().any(|kv| kv.create_revision == leader.rev) => {}
            Ok(_) => return Err(Failure::Ended("somebody ended this leadership".to_owned())),
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Renews the lease until it is gone.
async fn renew(session: &Session, lease: LeaseId, ttl: Duration) -> Result<(), Failure> {
    let third = ttl / RENEWALS_PER_TTL;
    let mut renewed = Instant::now();
    loop {
        sleep(third).await;
        match session.client.lease_renew(lease, third).await {
            Ok(answer) if answer.ttl > 0 => renewed = Instant::now(),
            Ok(_) => return Err(Failure::NoLease(lease)),
            Err(error) if is_passing(&error) => {
                let age = renewed.elapsed().as_secs();
                session.output.note(&format!("not renewed for {age} s of {} s: {error}", ttl.as_secs()));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether it may be otherwise in a moment.
fn is_passing(error: &ClientError) -> bool {
    matches!(error, ClientError::Unreachable(_) | ClientError::NoLeader(_) | ClientError::NoAnswer(_))
}

async fn pause(session: &Session, error: &ClientError) {
    session.output.note(&format!("trying again: {error}"));
    sleep(RETRY_PAUSE).await;
}

/// A victory.
#[derive(Debug, Serialize)]
struct Elected {
    key: Blob,
    value: Blob,
    create_revision: Revision,
    lease: LeaseId,
}

impl Report for Elected {
    fn human(&self) -> String {
        format!("{} leads: {} (revision {})\n", self.key.line(), self.value.line(), self.create_revision)
    }
}

pub(super) async fn observe(session: &Session, args: &ObserveArgs) -> Result<(), Failure> {
    let name = session.output.style.read(&args.name).map_err(Failure::Usage)?;
    let mut last: Option<KeyValue> = None;
    let mut has_begun = false;
    loop {
        let mut leaders = match session.client.observe(name.clone()).await {
            Ok(leaders) => leaders,
            Err(error) if has_begun && is_passing(&error) => {
                pause(session, &error).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        has_begun = true;
        let why = loop {
            let answer = match leaders.message().await {
                Ok(Some(answer)) => answer,
                Ok(None) => break "the server ended the stream".to_owned(),
                Err(status) => break status.message().to_owned(),
            };
            let Some(kv) = &answer.kv else { continue };
            let leader = KeyValue::new(session.output.style, kv);
            // After a break the server begins with what was told already.
            if last.as_ref() != Some(&leader) {
                session.output.show(&Observed { revision: revision(answer.header.as_ref()), leader: &leader })?;
                last = Some(leader);
            }
        };
        session.output.note(&format!("going on elsewhere: {why}"));
        sleep(RETRY_PAUSE).await;
    }
}

/// Who leads, from a revision on.
#[derive(Debug, Serialize)]
struct Observed<'l> {
    revision: Revision,
    leader: &'l KeyValue,
}

impl Report for Observed<'_> {
    fn human(&self) -> String {
        format!("{:>8}  {}  {}\n", self.leader.mod_revision, self.leader.key.line(), self.leader.value_line())
    }
}

pub(super) async fn resign(session: &Session, args: &ResignArgs) -> Result<(), Failure> {
    let name = session.output.style.read(&args.name).map_err(Failure::Usage)?;
    let found = session.client.leader(name.clone()).await?.kv.unwrap_or_default();
    let leader = LeaderKey { name, key: found.key.clone(), rev: found.create_revision, lease: found.lease };
    let answer = session.client.resign(leader).await?;
    let leader = KeyValue::new(session.output.style, &found);
    session.output.show(&Resigned { leader, revision: revision(answer.header.as_ref()) })
}

/// Who leads no more.
#[derive(Debug, Serialize)]
struct Resigned {
    leader: KeyValue,
    revision: Revision,
}

impl Report for Resigned {
    fn human(&self) -> String {
        let (key, value) = (self.leader.key.line(), self.leader.value_line());
        format!("{key} leads no more: {value} (revision {})\n", self.revision)
    }
}

#[cfg(test)]
mod tests {
    use tenure_proto::mvccpb;

    use super::*;
    use crate::output::testing::{human, json};
    use crate::text::Style;

    fn leader() -> KeyValue {
        let kv = mvccpb::KeyValue {
            key: "e/1f".into(),
            value: "host 1\n".into(),
            create_revision: 7,
            mod_revision: 9,
            version: 2,
            lease: 31,
        };
        KeyValue::new(Style::default(), &kv)
    }

    #[test]
    fn leaders_are_lines_for_people_and_objects_for_programs() {
        let observed = Observed { revision: Revision(10), leader: &leader() };
        assert_eq!(human(&observed), "       9  e/1f  host 1\\n\n");
        let kv = r#"{"key":"e/1f","value":"host 1\n","create_revision":7,"mod_revision":9,"version":2,"#;
        let lease = r#""lease":"000000000000001f"}"#;
        assert_eq!(json(&observed), format!("{{\"revision\":10,\"leader\":{kv}{lease}}}\n"));
        let resigned = Resigned { leader: leader(), revision: Revision(11) };
        assert_eq!(human(&resigned), "e/1f leads no more: host 1\\n (revision 11)\n");
        let style = Style::default();
        let (key, value) = (style.blob(&"e/1f".into()), style.blob(&"host 1".into()));
        let elected = Elected { key, value, create_revision: Revision(7), lease: LeaseId(31) };
        assert_eq!(human(&elected), "e/1f leads: host 1 (revision 7)\n");
        let expected = r#"{"key":"e/1f","value":"host 1","create_revision":7,"lease":"000000000000001f"}"#;
        assert_eq!(json(&elected), format!("{expected}\n"));
    }
}
